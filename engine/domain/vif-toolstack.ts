/**
 * The toolstack's part of network interfaces: which exist, their XenStore nodes, their addresses, and their removal. As libxl
 * does it, devices are made and taken away by writing nodes; drivers do the rest.
 */
import { vifDetachNodes, vifDirectories, vifNodes } from "../device/net/vif-nodes.ts";
import { formatMac, randomMac } from "../network/address.ts";
import { formatRateNode } from "../network/policy/rate.ts";
import type { ToolstackStore } from "../xenstore/toolstack-store.ts";
import { askToClose, backendClosed, removeDevice } from "./device-removal.ts";
import { LabNetworkError, MOST_VIFS, type VifConfig, vifName } from "./network-config.ts";

/** An interface as the toolstack has made it. */
export interface AttachedVif extends VifConfig {
  readonly frontendId: number;
  readonly backendId: number;
  readonly handle: number;
  readonly mac: string;
  /** "vif1.0" */
  readonly name: string;
}

export class VifToolstack {
  private readonly store: ToolstackStore;
  private readonly devices = new Map<string, AttachedVif>();

  constructor(store: ToolstackStore) {
    this.store = store;
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
  private identify(frontendId: number, { handle: wanted, mac }: VifConfig) {
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
    const other = mac === undefined ? undefined : this.list().find((device) => device.mac === mac.toLowerCase());
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

  /** Takes a domain's interfaces away after its end, once the backends have let go of its pages. */
  async domainEnded(frontendId: number): Promise<AttachedVif[]> {
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
