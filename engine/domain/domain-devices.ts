/** Disks and network interfaces of the host's domains: which backend gets which, and what ends with them. */
import { openStore } from "../disk/open.ts";
import type { NbdSpec } from "../disk/spec.ts";
import type { ToolstackStore } from "../xenstore/toolstack-store.ts";
import type { DomainTable } from "./domain-table.ts";
import { readStatistics, sumStatistics, type VbdStatistics } from "./driver/statistics.ts";
import type { GuestProcess } from "./guest.ts";
import { LabNetworkError, type VifConfig, type VifWish, vifSchema } from "./network-config.ts";
import { NetworkControl } from "./network-control.ts";
import type { TypescriptHandle } from "./typescript/handle.ts";
import { type VbdConfig, VbdError, VbdToolstack } from "./vbd-toolstack.ts";
import { type AttachedVif, VifToolstack } from "./vif-toolstack.ts";

/** Domain 0: its backends for a guest are in that guest's process. */
const DOM0 = 0;
/** How long an NBD server may take to answer when a disk is attached. */
const NBD_PROBE_S = 5;

const ENDED = ["the domain has ended meanwhile", "start it again"] as const;

/** What a domain has from the start. */
export interface DeviceWishes {
  readonly disks?: readonly VbdConfig[];
  readonly vifs?: readonly VifWish[];
}

export interface DomainDevicesOptions {
  readonly toolstack: ToolstackStore;
  readonly table: DomainTable;
  readonly guests: ReadonlyMap<number, GuestProcess>;
  /** The driver domains, started when they are first wanted. */
  readonly storageDomain: () => Promise<TypescriptHandle>;
  readonly networkDomain: () => Promise<TypescriptHandle>;
}

/** @throws VbdError for a number that no guest has */
export function wantGuest(guests: ReadonlyMap<number, GuestProcess>, id: number): GuestProcess {
  const guest = guests.get(id);
  if (guest === undefined) throw new VbdError(`there is no guest ${id}`, "domlab list shows those that run");
  return guest;
}

/** Whether the server answers and has the export, so that a user hears of it before the guest does. @throws DiskError */
async function probeNbd(spec: NbdSpec): Promise<void> {
  await (
    await openStore({ ...spec, deadlineSeconds: Math.min(spec.deadlineSeconds ?? NBD_PROBE_S, NBD_PROBE_S) })
  ).close();
}

export class DomainDevices {
  readonly vbds: VbdToolstack;
  readonly vifs: VifToolstack;
  /** Switches, and what is set for them and for interfaces. */
  readonly network: NetworkControl;
  private readonly options: DomainDevicesOptions;
  /** Domains that have ended, while their devices are taken away. */
  private readonly endings = new Set<number>();

  constructor(options: DomainDevicesOptions) {
    this.options = options;
    const { toolstack, guests, storageDomain, networkDomain } = options;
    this.vbds = new VbdToolstack(toolstack, {
      caller: {
        driverDomain: async (method, argument) => (await storageDomain()).call(method, argument),
        guest: (id, method, argument) => wantGuest(guests, id).storage(method, argument),
      },
    });
    this.vifs = new VifToolstack(toolstack, async (method, argument) => (await networkDomain()).call(method, argument));
    this.network = new NetworkControl({
      store: toolstack,
      domain: networkDomain,
      interfacesOf: (bridge) => this.servedVifs(bridge),
      switchOf: (name) => {
        const vif = this.vifs.get(name);
        return vif?.backend === undefined ? vif?.bridge : undefined;
      },
    });
  }

  /** Gives a domain what it shall have from the start. @throws as attachDisk() and attachVif() */
  async attachAll(id: number, { disks = [], vifs = [] }: DeviceWishes): Promise<void> {
    for (const disk of disks) await this.attachDisk(id, disk);
    for (const vif of vifs) await this.attachVif(id, vifSchema.parse(vif));
  }

  /**
   * For a device whose domain may end while others are waited for: what came to it afterwards would stay for ever.
   * @returns whether the domain still lives, to be asked right before the device is attached
   */
  private watched(id: number): () => boolean {
    const { table } = this.options;
    const life = table.generation(id);
    return () => table.isTaken(id) && table.generation(id) === life && !this.endings.has(id);
  }

  /** @throws DiskError, VbdError: one line with cause and remedy */
  async attachDisk(id: number, disk: VbdConfig): Promise<void> {
    const lives = this.watched(id);
    if (disk.backend === undefined && disk.store.kind === "nbd") await probeNbd(disk.store);
    const storage =
      disk.backend === undefined && disk.placement === "driver-domain" ? await this.options.storageDomain() : undefined;
    if (!lives()) throw new VbdError(...ENDED);
    if (disk.backend !== undefined) {
      this.vbds.attach(id, this.backendGuest(disk.backend), disk);
      return;
    }
    if (storage !== undefined) {
      this.vbds.attach(id, storage.id, disk);
      return;
    }
    if (!this.options.guests.has(id)) {
      throw new VbdError("the disk of a TypeScript domain needs a driver domain", "leave placement=hypervisor out");
    }
    if (disk.store.kind === "nbd") {
      throw new VbdError("an NBD disk needs a driver domain", "leave placement=hypervisor out");
    }
    this.vbds.attach(id, DOM0, disk);
  }

  /** Number of the guest of that name. */
  private backendGuest(name: string): number {
    const { guests, toolstack } = this.options;
    const nameOf = (id: number) => toolstack.read(`/local/domain/${id}/name`);
    const id = [...guests.keys()].find((each) => nameOf(each) === name || String(each) === name);
    if (id === undefined)
      throw new VbdError(`there is no backend domain ${name}`, "start it first, or leave backend= out");
    return id;
  }

  /** @throws LabNetworkError, CallError: one line with cause and remedy */
  async attachVif(id: number, vif: VifConfig): Promise<AttachedVif> {
    // A guest that serves interfaces has bridges of its own.
    if (vif.backend !== undefined) return this.vifs.attach(id, this.backendGuest(vif.backend), vif, vif.mtu);
    const lives = this.watched(id);
    const { mtu, vlans } = await this.network.want(vif.bridge);
    if (vif.mtu !== undefined && vif.mtu > mtu) {
      throw new LabNetworkError(
        `the switch ${vif.bridge} takes an mtu of ${mtu} at most`,
        "leave mtu out, or lower it",
      );
    }
    if (vif.vlan !== undefined && !vlans) {
      throw new LabNetworkError(
        `the switch ${vif.bridge} knows no VLANs`,
        "leave vlan out, or make a switch with domlab network create --vlans",
      );
    }
    const network = await this.options.networkDomain();
    if (!lives()) throw new LabNetworkError(...ENDED);
    return this.vifs.attach(id, network.id, vif, mtu);
  }

  /** Takes an interface away from a running guest, with what was set for it. @throws LabNetworkError */
  async detachVif(name: string, force: boolean): Promise<void> {
    const on = this.vifs.get(name)?.bridge ?? "";
    await this.vifs.detach(name, force);
    await this.network.interfaceEnded(name, on);
  }

  /** Interfaces that the network domain serves; those of one switch. */
  private servedVifs(bridge: string): AttachedVif[] {
    return this.vifs.list().filter((vif) => vif.bridge === bridge && vif.backend === undefined);
  }

  /** A domain has ended, and its devices with it. */
  async ended(id: number): Promise<void> {
    this.endings.add(id);
    try {
      const [, vifs] = await Promise.all([this.vbds.domainEnded(id), this.vifs.domainEnded(id)]);
      await Promise.all(vifs.map((vif) => this.network.interfaceEnded(vif.name, vif.bridge)));
    } finally {
      this.endings.delete(id);
    }
  }

  /** What the disks of a guest, or of all, have counted. */
  statistics(guest?: number): VbdStatistics[] {
    const devices = this.vbds.list(guest);
    const names = devices.map(({ frontendId, vdev }) => ({ frontendId, vdev }));
    const domains = new Set(
      devices.map((device) => (device.backendId === DOM0 ? device.frontendId : device.backendId)),
    );
    const found = [...domains].flatMap((id) => {
      const mapping = this.options.table.attach(id);
      const statistics = mapping === undefined ? [] : readStatistics(id, mapping);
      mapping?.release();
      return statistics;
    });
    return names.map((device) => sumStatistics(device, found));
  }
}
