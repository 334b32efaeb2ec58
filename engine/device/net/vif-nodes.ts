/**
 * The nodes that the toolstack writes for a virtual network interface, as libxl does (libxl_nic.c, netif.h), so that
 * `xenstore ls` shows what a Xen user knows. All functions are pure; the caller writes the list in one transaction, in its
 * order, and removes the directories of vifDirectories() to take the interface away.
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

/** What makes an interface: who serves what to whom. */
export interface VifDescription {
  readonly frontendId: number;
  readonly backendId: number;
  /** The interface's number in the guest (devid): vif<frontendId>.<handle>. */
  readonly handle: number;
  /** "00:16:3e:xx:xx:xx" */
  readonly mac: string;
  /** Name of the switch. */
  readonly bridge: string;
  /** Addresses that the guest may use; none: any. */
  readonly ips?: readonly string[];
  /** Bytes of a frame behind the Ethernet header. Left out: 1500. */
  readonly mtu?: number;
  /** xl's rate in XenStore's form: "<bytes>,<microseconds>". */
  readonly rate?: string;
  /** Path of a hotplug script: shown only; nobody runs it. */
  readonly script?: string;
  /** What the backend's owner needs beyond that: any JSON value. Only the backend can read it. */
  readonly settings: unknown;
}

/** The backend's private JSON. */
export const SETTINGS_KEY = "domlab-vif";

type VifName = Pick<VifDescription, "frontendId" | "backendId" | "handle">;

function placeOf({ frontendId, backendId, handle }: VifName): DevicePlace {
  return { type: "vif", frontendId, backendId, number: handle };
}

/** Both directories of an interface, absolute. */
export function vifDirectories(vif: VifName): DeviceDirectories {
  return deviceDirectories(placeOf(vif));
}

/** The nodes of a new interface, parents first. */
export function vifNodes(vif: VifDescription): StoreNode[] {
  const { ips = [], rate, script } = vif;
  const mtu = optionalKey("mtu", vif.mtu === undefined ? undefined : String(vif.mtu));
  return deviceNodes(
    placeOf(vif),
    [
      ["handle", String(vif.handle)],
      ["mac", vif.mac],
      ["bridge", vif.bridge],
      ...optionalKey("script", script),
      ...optionalKey("ip", ips.length === 0 ? undefined : ips.join(" ")),
      ...mtu,
      ...optionalKey("rate", rate),
      ["type", "vif"],
      [SETTINGS_KEY, JSON.stringify(vif.settings ?? null), "backend"],
    ],
    [["handle", String(vif.handle)], ["mac", vif.mac], ...mtu],
  );
}

/** What asks for an interface's removal; see deviceDetachNodes(). */
export function vifDetachNodes(vif: VifName): ReturnType<typeof deviceDetachNodes> {
  return deviceDetachNodes(placeOf(vif));
}
