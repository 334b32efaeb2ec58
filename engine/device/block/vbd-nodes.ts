/**
 * The nodes that the toolstack writes for a virtual block device, as libxl does (libxl_disk.c, blkif.h), so that
 * `xenstore ls` shows what a Xen user knows. All functions are pure; the caller writes the list in one transaction, in its
 * order, and removes the directories of vbdDirectories() to take the device away.
 */
import {
  type DeviceDirectories,
  type DevicePlace,
  deviceDetachNodes,
  deviceDirectories,
  deviceNodes,
  optionalKey,
  type StoreNode,
} from "../xenbus/device-nodes.ts";
import { vdevName } from "./vdev.ts";

/** What makes a device: who serves what to whom. */
export interface VbdDescription {
  readonly frontendId: number;
  readonly backendId: number;
  /** The virtual-device number (see vdev.ts). */
  readonly vdev: number;
  readonly readOnly: boolean;
  readonly deviceType: "disk" | "cdrom";
  /** libxl's name for the kind of target: "phy" for a block device, "file" for an image, "nbd". */
  readonly type: string;
  /** The target as the user wrote it; both domains can read it. */
  readonly params: string;
  /** Absolute path of the image or device, if it has one. */
  readonly path?: string;
  /** Whether discard may be offered; left out: when the storage can. */
  readonly discard?: boolean;
  /** Whether the backend offers to keep grants mapped. Left out: no. */
  readonly persistent?: boolean;
  /** What the backend's owner needs to open the target: any JSON value. Only the backend can read it. */
  readonly store: unknown;
}

/** The backend's private JSON for opening the target. */
export const STORE_KEY = "domlab-store";
/** "1": the backend offers feature-persistent. */
export const PERSISTENT_KEY = "domlab-persistent";

type VbdName = Pick<VbdDescription, "frontendId" | "backendId" | "vdev">;

function placeOf({ frontendId, backendId, vdev }: VbdName): DevicePlace {
  return { type: "vbd", frontendId, backendId, number: vdev };
}

/** Both directories of a device, absolute. */
export function vbdDirectories(device: VbdName): DeviceDirectories {
  return deviceDirectories(placeOf(device));
}

/** The nodes of a new device, parents first. */
export function vbdNodes(device: VbdDescription): StoreNode[] {
  const { discard } = device;
  return deviceNodes(
    placeOf(device),
    [
      ["removable", device.deviceType === "cdrom" ? "1" : "0"],
      ["bootable", "1"],
      ["dev", vdevName(device.vdev) ?? String(device.vdev)],
      ["type", device.type],
      ["mode", device.readOnly ? "r" : "w"],
      ["device-type", device.deviceType],
      ["params", device.params],
      ...optionalKey("physical-device-path", device.path),
      ...optionalKey("discard-enable", discard === undefined ? undefined : discard ? "1" : "0"),
      ...optionalKey(PERSISTENT_KEY, device.persistent ? "1" : undefined, "backend"),
      [STORE_KEY, JSON.stringify(device.store ?? null), "backend"],
    ],
    [
      ["virtual-device", String(device.vdev)],
      ["device-type", device.deviceType],
    ],
  );
}

/** What says what a device is served from, when that has changed. @param path of the image, if it has one */
export function vbdStoreNodes(
  device: VbdName,
  store: unknown,
  path: string | undefined,
): { path: string; value: string }[] {
  const { backend } = vbdDirectories(device);
  return [
    ...(path === undefined ? [] : [{ path: `${backend}/physical-device-path`, value: path }]),
    { path: `${backend}/${STORE_KEY}`, value: JSON.stringify(store ?? null) },
  ];
}

/** What asks for a device's removal; see deviceDetachNodes(). */
export function vbdDetachNodes(device: VbdName): ReturnType<typeof deviceDetachNodes> {
  return deviceDetachNodes(placeOf(device));
}
