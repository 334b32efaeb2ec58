/**
 * The toolstack's part of network interfaces: which exist, their XenStore nodes, their addresses, and their removal. As libxl
 * does it, devices are made and taken away by writing nodes; drivers do the rest.
 */
import { vifDetachNodes, vifDirectories, vifNodes } from "../device/net/vif-nodes.ts";
import { formatMac, randomMac } from "../network/address.ts";
import { formatRateNode } from "../network/policy/rate.ts";
import type { ToolstackStore } from "../xenstore/toolstack-store.ts";
import { askToClose, backendClosed, removeDevice } from "./device-removal.ts";
import { networkCalls } from "./network-calls.ts";
import { LabNetworkError, MOST_VIFS, type VifConfig, vifName } from "./network-config.ts";
import { ProcessGone } from "./typescript/start.ts";
import { HoldLostError } from "./vbd-error.ts";

/** An interface as the toolstack has made it. */
export interface AttachedVif extends VifConfig {
  readonly frontendId: number;
  readonly backendId: number;
  readonly handle: number;
  readonly mac: string;
  /** "vif1.0" */
  readonly name: string;
}

/** Has a call of network-calls.ts performed by the network domain: TypescriptHandle.call. */
export type NetworkCaller = (method: "hold" | "release" | "abandon", argument: unknown) => Promise<unknown>;

export class VifToolstack {
  private readonly store: ToolstackStore;
  private readonly devices = new Map<string, AttachedVif>();
  private readonly call: NetworkCaller | undefined;
  /** Guests whose interfaces are held. */
  private readonly held = new Set<number>();

  /** @param call left out: interfaces cannot be held */
  constructor(store: ToolstackStore, call?: NetworkCaller) {
    this.store = store;
    this.call = call;
  }

  /** Interfaces of a guest or of all, in the order of their numbers. */
  list(frontendId?: number): AttachedVif[] {
    const all = [...this.devices.values()].filter((device) => device.frontendId === (frontendId ?? device.frontendId));
    return all.sort((a, b) => a.frontendId - b.frontendId || a.handle - b.handle);
  }

  /** The interface of that name. */
  get(name: string): AttachedVif | undefined {
    return this.devices.get(name);
  }

  private freeMac(): string {
    const taken = new Set(this.list().map((device) => device.mac));
    for (;;) {
      const mac = formatMac(randomMac());
      if (!taken.has(mac)) return mac;
    }
  }

  /** Number, address and name that a new interface gets. @throws LabNetworkError when one of them is taken */
  private identify(frontendId: number, { handle: wanted, mac, bridge }: VifConfig) {
    const own = new Set(this.list(frontendId).map((device) => device.handle));
    let handle = wanted ?? 0;
    if (wanted === undefined) while (own.has(handle)) handle++;
    else if (own.has(wanted)) {
      throw new LabNetworkError(
        `the guest has an interface ${wanted} already`,
        "choose another devid, or detach that one",
      );
    }
    if (handle >= MOST_VIFS) {
      throw new LabNetworkError(`the guest has ${MOST_VIFS} interfaces, the most there can be`, "detach one first");
    }
    // On another switch it may be there twice: the clone of a memory image keeps the addresses that its guest knows.
    const sharers = mac === undefined ? [] : this.list().filter((device) => device.mac === mac.toLowerCase());
    const other = sharers.find((device) => device.bridge === bridge);
    if (other !== undefined) {
      throw new LabNetworkError(`the MAC address ${mac} is that of ${other.name}`, "choose another, or leave mac out");
    }
    return { handle, mac: mac?.toLowerCase() ?? this.freeMac(), name: vifName(frontendId, handle) };
  }

  /**
   * Writes the nodes of an interface: its two drivers find each other from there.
   * @param mtu of its switch, if it is on one of ours
   * @throws LabNetworkError for a number or an address in use
   */
  attach(frontendId: number, backendId: number, config: VifConfig, mtu?: number): AttachedVif {
    const device: AttachedVif = { ...config, ...this.identify(frontendId, config), frontendId, backendId };
    const { handle, mac, bridge, ips, rate } = device;
    const ownMtu = config.mtu ?? mtu;
    this.devices.set(device.name, device);
    this.store.writeNodes(
      vifNodes({
        frontendId,
        backendId,
        handle,
        mac,
        bridge,
        ips,
        ...(ownMtu !== undefined && { mtu: ownMtu }),
        ...(rate && { rate: formatRateNode(rate) }),
        settings: device,
      }),
    );
    return device;
  }

  /**
   * Asks both drivers to let go of an interface and takes it away.
   * @throws LabNetworkError for one that is not there, or that the guest does not give up (unless `force`)
   */
  async detach(name: string, force = false): Promise<void> {
    const device = this.devices.get(name);
    if (device === undefined) {
      throw new LabNetworkError(`there is no interface ${name}`, "domlab network-list shows those there are");
    }
    const { backend } = vifDirectories(device);
    askToClose(this.store, backend, vifDetachNodes(device));
    if (!(await backendClosed(this.store, backend)) && !force) {
      throw new LabNetworkError(`the guest does not give up ${name}`, "see to the guest, or add --force");
    }
    this.remove(device);
  }

  /**
   * Has the backend leave a guest's rings and pages alone until release(). Frames for the guest wait for a moment, then they
   * are dropped. A guest without interfaces is held at once.
   * @throws LabNetworkError for an interface that another guest serves; HoldLostError when the network domain dies meanwhile
   */
  async hold(frontendId: number): Promise<void> {
    const devices = this.list(frontendId);
    const foreign = devices.find((device) => device.backend !== undefined);
    if (foreign !== undefined) {
      const what = `the interface ${foreign.name} is served by the guest ${foreign.backend} and cannot be held`;
      throw new LabNetworkError(what, "detach it first");
    }
    if (devices.length === 0) return;
    this.held.add(frontendId);
    try {
      await this.call?.("hold", { frontendId });
    } catch (error) {
      this.held.delete(frontendId);
      throw error instanceof ProcessGone ? new HoldLostError("network", false) : error;
    }
  }

  /**
   * Ends hold().
   * @throws HoldLostError when the network domain was started anew meanwhile: the guest's rings were served
   */
  async release(frontendId: number): Promise<void> {
    if (!this.held.delete(frontendId)) return;
    try {
      const { held } = networkCalls.release.result.parse(await this.call?.("release", { frontendId }));
      if (held) return;
    } catch (error) {
      if (!(error instanceof ProcessGone)) throw error;
    }
    throw new HoldLostError("network", false);
  }

  /** Takes a domain's interfaces away after its end, once the backends have let go of its pages. */
  async domainEnded(frontendId: number): Promise<AttachedVif[]> {
    // The network domain may have ended, too.
    if (this.held.delete(frontendId)) await this.call?.("abandon", { frontendId }).catch(() => undefined);
    const devices = this.list(frontendId);
    await Promise.all(
      devices.map(async (device) => {
        const { backend } = vifDirectories(device);
        askToClose(this.store, backend, vifDetachNodes(device));
        await backendClosed(this.store, backend);
        this.remove(device);
      }),
    );
    return devices;
  }

  private remove(device: AttachedVif): void {
    removeDevice(this.store, vifDirectories(device));
    this.devices.delete(device.name);
  }
}
