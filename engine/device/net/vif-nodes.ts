/**
 * The nodes that the toolstack writes for a virtual network interface, as libxl does (libxl_nic.c, netif.h), so that
 * `xenstore ls` shows what a Xen user knows. All functions are pure; the caller writes the list in one transaction, in its
 * order, and removes the directories of vifDirectories() to take the interface away.
 */
import type { StoreNode } from "../block/vbd-nodes.ts";

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

/** Both directories of an interface, absolute. */
export function vifDirectories({ frontendId, backendId, handle }: VifName): {
  readonly frontend: string;
  readonly backend: string;
} {
  return {
    frontend: `/local/domain/${frontendId}/device/vif/${handle}`,
    backend: `/local/domain/${backendId}/backend/vif/${frontendId}/${handle}`,
  };
}

/** The nodes of a new interface, parents first. */
export function vifNodes(vif: VifDescription): StoreNode[] {
  const { frontend, backend } = vifDirectories(vif);
  const frontendPermissions = [`n${vif.frontendId}`, `r${vif.backendId}`];
  const backendPermissions = [`n${vif.backendId}`, `r${vif.frontendId}`];
  const { ips = [], mtu, rate, script } = vif;
  const back: [key: string, value: string, permissions?: readonly string[]][] = [
    ["frontend", frontend],
    ["frontend-id", String(vif.frontendId)],
    ["online", "1"],
    ["handle", String(vif.handle)],
    ["mac", vif.mac],
    ["bridge", vif.bridge],
    ...(script === undefined ? [] : ([["script", script]] as [string, string][])),
    ...(ips.length === 0 ? [] : ([["ip", ips.join(" ")]] as [string, string][])),
    ...(mtu === undefined ? [] : ([["mtu", String(mtu)]] as [string, string][])),
    ...(rate === undefined ? [] : ([["rate", rate]] as [string, string][])),
    ["type", "vif"],
    [SETTINGS_KEY, JSON.stringify(vif.settings ?? null), [`n${vif.backendId}`]],
    // The last: a backend that scans while the nodes are being written starts with what is complete.
    ["state", "1"],
  ];
  const front: [key: string, value: string][] = [
    ["backend", backend],
    ["backend-id", String(vif.backendId)],
    ["handle", String(vif.handle)],
    ["mac", vif.mac],
    ...(mtu === undefined ? [] : ([["mtu", String(mtu)]] as [string, string][])),
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
 * What the toolstack writes to ask for an interface's removal: the backend then closes, and its state reaches 6 when the
 * directories may be removed.
 */
export function vifDetachNodes(vif: VifName): { readonly path: string; readonly value: string }[] {
  const { backend } = vifDirectories(vif);
  return [
    { path: `${backend}/online`, value: "0" },
    { path: `${backend}/state`, value: "5" },
  ];
}
