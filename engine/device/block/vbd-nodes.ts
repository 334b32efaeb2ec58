/**
 * The nodes that the toolstack writes for a virtual block device, as libxl does (libxl_disk.c, blkif.h), so that
 * `xenstore ls` shows what a Xen user knows. All functions are pure; the caller writes the list in one transaction, in its
 * order, and removes the directories of vbdDirectories() to take the device away.
 */
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

/** A node to write, and its permissions in perm-as-string form (docs/misc/xenstore.txt). */
export interface StoreNode {
  readonly path: string;
  readonly value: string;
  readonly permissions: readonly string[];
}

/** The backend's private JSON for opening the target. */
export const STORE_KEY = "domlab-store";
/** "1": the backend offers feature-persistent. */
export const PERSISTENT_KEY = "domlab-persistent";

/** Both directories of a device, absolute. */
export function vbdDirectories(device: Pick<VbdDescription, "frontendId" | "backendId" | "vdev">): {
  readonly frontend: string;
  readonly backend: string;
} {
  const { frontendId, backendId, vdev } = device;
  return {
    frontend: `/local/domain/${frontendId}/device/vbd/${vdev}`,
    backend: `/local/domain/${backendId}/backend/vbd/${frontendId}/${vdev}`,
  };
}

/** The nodes of a new device, parents first. */
export function vbdNodes(device: VbdDescription): StoreNode[] {
  const { frontend, backend } = vbdDirectories(device);
  const frontendPermissions = [`n${device.frontendId}`, `r${device.backendId}`];
  const backendPermissions = [`n${device.backendId}`, `r${device.frontendId}`];
  const onlyBackend = [`n${device.backendId}`];
  const back: [key: string, value: string, permissions?: readonly string[]][] = [
    ["frontend", frontend],
    ["frontend-id", String(device.frontendId)],
    ["online", "1"],
    ["removable", device.deviceType === "cdrom" ? "1" : "0"],
    ["bootable", "1"],
    ["dev", vdevName(device.vdev) ?? String(device.vdev)],
    ["type", device.type],
    ["mode", device.readOnly ? "r" : "w"],
    ["device-type", device.deviceType],
    ["params", device.params],
    ...(device.path === undefined ? [] : ([["physical-device-path", device.path]] as [string, string][])),
    ...(device.discard === undefined ? [] : ([["discard-enable", device.discard ? "1" : "0"]] as [string, string][])),
    ...(device.persistent ? ([[PERSISTENT_KEY, "1", onlyBackend]] as [string, string, readonly string[]][]) : []),
    [STORE_KEY, JSON.stringify(device.store ?? null), onlyBackend],
    // The last: a backend that scans while the nodes are being written starts with what is complete.
    ["state", "1"],
  ];
  const front: [key: string, value: string][] = [
    ["backend", backend],
    ["backend-id", String(device.backendId)],
    ["virtual-device", String(device.vdev)],
    ["device-type", device.deviceType],
    ["state", "1"],
  ];
  return [
    { path: frontend, value: "", permissions: frontendPermissions },
    ...front.map(([key, value]) => ({ path: `${frontend}/${key}`, value, permissions: frontendPermissions })),
    { path: backend, value: "", permissions: backendPermissions },
    ...back.map(([key, value, permissions = backendPermissions]) => ({
      path: `${backend}/${key}`,
      value,
      permissions,
    })),
  ];
}

/**
 * What the toolstack writes to ask for a device's removal (libxl__initiate_device_generic_remove): the backend then closes,
 * and its state reaches 6 when the directories may be removed.
 */
export function vbdDetachNodes(device: Pick<VbdDescription, "frontendId" | "backendId" | "vdev">): {
  readonly path: string;
  readonly value: string;
}[] {
  const { backend } = vbdDirectories(device);
  return [
    { path: `${backend}/online`, value: "0" },
    { path: `${backend}/state`, value: "5" },
  ];
}
