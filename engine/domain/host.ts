/**
 * The control plane: domains and their memory, the XenStore daemon, and the toolstack's part of devices. One per program;
 * nothing that moves data runs here.
 */

import { pathToFileURL } from "node:url";
import { openStore } from "../disk/open.ts";
import type { NbdSpec } from "../disk/spec.ts";
import { CONSOLE_PORT, XENSTORE_PORT } from "../hypervisor/domain.ts";
import { CONSOLE_GFN, XENSTORE_GFN } from "../memory/frame-plan.ts";
import { Xenstored } from "../xenstore/daemon.ts";
import { type DomainFacts, domainNodes } from "../xenstore/domain-nodes.ts";
import { DaemonRelay } from "../xenstore/relay.ts";
import type { DomainConfig } from "./config.ts";
import { DomainTable } from "./domain-table.ts";
import { DRIVER_RAM_MIB } from "./driver/ring-registry.ts";
import { readStatistics, sumStatistics, type VbdStatistics } from "./driver/statistics.ts";
import { compiledPath } from "./entry.ts";
import { type DomainHandle, GuestProcess } from "./guest.ts";
import { GuestLoad } from "./guest-load.ts";
import { openGuest, reconnectDevices, restoredDevices, timeAfterRestore } from "./guest-restore.ts";
import { type SnapshotOptions, type SnapshotRequest, type SnapshotResult, takeSnapshots } from "./guest-snapshots.ts";
import { LabNetworkError, type VifConfig, type VifWish, vifSchema } from "./network-config.ts";
import { NetworkControl } from "./network-control.ts";
import type { ProcessStarter } from "./process-starter.ts";
import { SpareProcess } from "./spare-process.ts";
import { type TypescriptDomainConfig, TypescriptHandle } from "./typescript/handle.ts";
import { type VbdConfig, VbdError, VbdToolstack } from "./vbd-toolstack.ts";
import { type AttachedVif, VifToolstack } from "./vif-toolstack.ts";

const DOM0 = 0;
/** Name of the driver domain that serves disks. */
export const STORAGE_DOMAIN = "storage";
/** Name of the driver domain that serves network interfaces. */
export const NETWORK_DOMAIN = "network";

/** Their numbers, the same in every life of the lab (domain-table.ts). */
const STORAGE_ID = 1;
const NETWORK_ID = 2;

/** How long after its restore a guest looks at the clock. */
const SUSPEND_DELAY_MS = 500;

/** Pages that it exchanges with frontends, MiB. */
const EXCHANGE_MIB = 8;

/** What a TypeScript domain may use up in XenStore: about 30 nodes and a few watches a device. */
const DRIVER_QUOTAS = { nodes: 50_000, watches: 10_000, transactions: 100, memory: 64 << 20 };

/** How long an NBD server may take to answer when a disk is attached. */
const NBD_PROBE_S = 5;

export interface HostOptions {
  /** One-line messages about devices and driver domains. */
  readonly log?: (line: string) => void;
  /** Keeps a process ready for the next guest: it starts sooner, for some 100 MB of memory. */
  readonly spareProcess?: boolean;
  /** How the processes of domains are made; without it, forked. */
  readonly startProcess?: ProcessStarter;
}

/** A guest to start; the host chooses its number unless one is given. */
export type GuestConfig = Omit<DomainConfig, "id"> & { readonly id?: number } & DeviceWishes;

/** A TypeScript domain to start. */
export type TypescriptConfig = TypescriptDomainConfig & DeviceWishes;

/** What a domain has from the start. */
interface DeviceWishes {
  readonly disks?: readonly VbdConfig[];
  readonly vifs?: readonly VifWish[];
}

/** Whether the server answers and has the export, so that a user hears of it before the guest does. @throws DiskError */
async function probeNbd(spec: NbdSpec): Promise<void> {
  await (
    await openStore({ ...spec, deadlineSeconds: Math.min(spec.deadlineSeconds ?? NBD_PROBE_S, NBD_PROBE_S) })
  ).close();
}

export class Host {
  readonly xenstore = new Xenstored();
  readonly vbds: VbdToolstack;
  readonly vifs: VifToolstack;
  /** Switches, and what is set for them and for interfaces. */
  readonly network: NetworkControl;
  readonly table = new DomainTable();
  private readonly log: (line: string) => void;
  private readonly guests = new Map<number, GuestProcess>();
  private readonly typescript = new Map<number, TypescriptHandle>();
  private readonly ending = new Set<Promise<void>>();
  /** Restored guests whose memory is on its way still; fulfilled when it is there or the guest has ended. */
  private readonly loading = new Map<number, { readonly load: GuestLoad; readonly done: Promise<void> }>();
  private readonly spare: SpareProcess;
  private readonly startProcess: ProcessStarter | undefined;
  private storage: Promise<TypescriptHandle> | undefined;
  private networking: Promise<TypescriptHandle> | undefined;
  private closed: Promise<void> | undefined;

  constructor(options: HostOptions = {}) {
    this.log = options.log ?? (() => {});
    this.spare = new SpareProcess(options.spareProcess ?? false, options.startProcess);
    this.startProcess = options.startProcess;
    this.vbds = new VbdToolstack(this.xenstore.toolstack, {
      caller: {
        driverDomain: async (method, argument) => (await this.storageDomain()).call(method, argument),
        guest: (id, method, argument) => this.guest(id).storage(method, argument),
      },
    });
    this.vifs = new VifToolstack(this.xenstore.toolstack, async (method, argument) =>
      (await this.networkDomain()).call(method, argument),
    );
    this.network = new NetworkControl({
      store: this.xenstore.toolstack,
      domain: () => this.networkDomain(),
      interfacesOf: (bridge) => this.servedVifs(bridge),
      switchOf: (name) => {
        const vif = this.vifs.get(name);
        return vif?.backend === undefined ? vif?.bridge : undefined;
      },
    });
    this.xenstore.toolstack.mkdir("/tool");
    this.xenstore.toolstack.write("/local/domain/0/name", "Domain-0");
    this.xenstore.toolstack.write("/local/domain/0/domid", "0");
  }

  /** The driver domain that serves disks, started when the first one is wanted. */
  storageDomain(): Promise<TypescriptHandle> {
    this.storage ??= this.startTypescriptAs(STORAGE_ID, {
      name: STORAGE_DOMAIN,
      memoryMiB: DRIVER_RAM_MIB,
      module: pathToFileURL(compiledPath(import.meta.url, "driver/storage.js")).href,
      restart: true,
    });
    return this.storage;
  }

  /** The driver domain that serves network interfaces and has the switches, started when it is first wanted. */
  networkDomain(): Promise<TypescriptHandle> {
    this.networking ??= this.startTypescriptAs(NETWORK_ID, {
      name: NETWORK_DOMAIN,
      memoryMiB: DRIVER_RAM_MIB + EXCHANGE_MIB,
      module: pathToFileURL(compiledPath(import.meta.url, "driver/network.js")).href,
      restart: true,
    });
    return this.networking;
  }

  /** Writes what a domain finds in XenStore at its start. */
  private introduce(facts: DomainFacts): void {
    this.xenstore.introduceDomain(facts.id);
    this.xenstore.toolstack.writeNodes(domainNodes(facts));
  }

  /**
   * Starts a domain whose kernel is a TypeScript module; it finds its disks in XenStore from the start.
   * @throws Error when the kernel cannot be loaded, or this host cannot share memory between processes; DiskError or
   *   VbdError for a disk
   */
  startTypescript(config: TypescriptConfig): Promise<TypescriptHandle> {
    return this.startTypescriptAs(undefined, config);
  }

  private async startTypescriptAs(
    fixed: number | undefined,
    { disks = [], vifs = [], ...config }: TypescriptConfig,
  ): Promise<TypescriptHandle> {
    const { table, xenstore, log } = this;
    const id = table.take(fixed);
    const paths = table.create(id, config.memoryMiB);
    if (paths === undefined) {
      throw new VbdError("this host cannot share memory between processes", "say placement=hypervisor for each disk");
    }
    this.introduce({ id, name: config.name, ramKib: config.memoryMiB * 1024, vcpus: 1, driverDomain: true });
    // Xen's defaults are made for guests; a driver domain owns the nodes of every device it serves.
    Object.assign(xenstore.domain(id).quotas, DRIVER_QUOTAS);
    try {
      for (const disk of disks) await this.attachTo(id, disk);
      for (const vif of vifs) await this.attachVifTo(id, vifSchema.parse(vif));
      const { startProcess } = this;
      const handle = await TypescriptHandle.start({ id, config, paths, table, xenstore, log, startProcess });
      this.typescript.set(id, handle);
      void handle.exited.then(() => this.cleaning(this.forget(id)));
      return handle;
    } catch (error) {
      await this.forget(id);
      throw error;
    }
  }

  private async forget(id: number): Promise<void> {
    this.typescript.delete(id);
    this.table.settle(id);
    // The backends see the domain's nodes vanish and let go of its pages.
    this.xenstore.releaseDomain(id);
    await this.devicesEnded(id);
    this.table.destroy(id);
  }

  private async devicesEnded(id: number): Promise<void> {
    const [, vifs] = await Promise.all([this.vbds.domainEnded(id), this.vifs.domainEnded(id)]);
    await Promise.all(vifs.map((vif) => this.network.interfaceEnded(vif.name, vif.bridge)));
  }

  /** close() waits for it. */
  private cleaning(work: Promise<void>): void {
    this.ending.add(work);
    void work.then(() => this.ending.delete(work));
  }

  /**
   * Starts a guest with its disks, in a process of its own. Whatever happens in it, this process only hears of it.
   * @throws BuildError for a kernel, initrd, command line or memory size that cannot become a domain; DiskError or VbdError for
   *   a disk; DomainStartError when the process cannot run
   */
  async startGuest({ disks = [], vifs = [], ...given }: GuestConfig): Promise<DomainHandle> {
    const { id, guest, shared, failed } = this.admit(given, given.id);
    try {
      for (const disk of disks) await this.attachTo(id, disk);
      for (const vif of vifs) await this.attachVifTo(id, vifSchema.parse(vif));
      await guest.start({ config: { ...given, id }, ...(shared && { shared }) });
      return guest;
    } catch (error) {
      await failed();
      throw error;
    }
  }

  /**
   * Makes a domain from a snapshot file (snapshot()): the guest goes on where it was, with the disks and interfaces that it
   * had, whose images and switches may be others. Its memory size is the file's.
   * @param beforeRun awaited when all is in place and the guest has not run yet; if it rejects, the domain is ended
   * @throws SnapshotError, StoreStateError for a file that cannot be restored; as startGuest() for the rest
   */
  async restoreGuest(given: GuestConfig, path: string, beforeRun?: () => Promise<void>): Promise<DomainHandle> {
    const { disks = [], vifs = [], ...config } = given;
    const saved = await openGuest(path);
    const wanted = given.id ?? (this.table.isTaken(saved.domid) ? undefined : saved.domid);
    const memoryMiB = saved.memoryMiB;
    const { id, guest, shared, failed, ring } = this.admit({ ...config, memoryMiB }, wanted);
    let load: GuestLoad | undefined;
    try {
      if (shared === undefined) throw new VbdError("this host cannot restore running machines", "start it anew");
      load = new GuestLoad(saved, shared.memory);
      const state = { saved: saved.state, ring: saved.ring, pages: load.pages };
      await Promise.all([load.ready, guest.start({ config: { ...config, id, memoryMiB }, shared, ...state })]);
      await load.during(guest.restored());
      this.follow(guest, load);
      this.xenstore.restoreDomain(id, saved.store);
      for (const disk of disks) await this.attachTo(id, disk);
      for (const vif of vifs) await this.attachVifTo(id, vifSchema.parse(vif));
      const devices = restoredDevices(this.vbds.list(id), this.vifs.list(id));
      await reconnectDevices(this.xenstore, id, saved.store, devices);
      ring.restore();
      await beforeRun?.();
      const after = timeAfterRestore(this.xenstore, id);
      await guest.unpause(after);
      load.resumed();
      // The guest looks at the clock again when it comes back from a suspend, which here ends at once.
      if (after === "restore-suspend") this.suspendSoon(guest);
      return guest;
    } catch (error) {
      await Promise.all([failed(), load === undefined ? saved.file.close() : load.close()]);
      throw error;
    }
  }

  /** Sees to it that a restored guest has all its memory in the end, or ends. */
  private follow(guest: GuestProcess, load: GuestLoad): void {
    const { id } = guest;
    const done = Promise.race([load.finished, guest.exited])
      .then(() => guest.loaded())
      .catch((error: unknown) => guest.fail(error instanceof Error ? error.message : String(error)))
      .then(() => load.close())
      .then(() => void this.loading.delete(id));
    this.loading.set(id, { load, done });
    this.cleaning(done);
  }

  /** Has a restored guest suspend itself when its user has got his answer: it takes the guest a moment. */
  private suspendSoon(guest: GuestProcess): void {
    const timer = setTimeout(() => {
      // What somebody else has asked for since comes first.
      const wish = this.xenstore.toolstack.read(`/local/domain/${guest.id}/control/shutdown`);
      if (!wish) this.control(guest.id, "suspend");
    }, SUSPEND_DELAY_MS);
    void guest.exited.then(() => clearTimeout(timer));
  }

  /** Asks a guest through its control node, as a toolstack of Xen does: "poweroff", "reboot", "suspend". */
  private control(id: number, wish: string): void {
    this.xenstore.toolstack.write(`/local/domain/${id}/control/shutdown`, wish);
  }

  /** @throws VbdError for a number that no guest has */
  private guest(id: number): GuestProcess {
    const guest = this.guests.get(id);
    if (guest === undefined) throw new VbdError(`there is no guest ${id}`, "domlab list shows those that run");
    return guest;
  }

  /** Stops a guest's vCPU; its time goes on. */
  async pause(id: number): Promise<void> {
    await this.guest(id).pause();
  }

  /** Lets a paused guest go on. */
  async unpause(id: number): Promise<void> {
    await this.guest(id).unpause();
  }

  /** Takes a snapshot of several guests at one consistent moment (takeSnapshots()). */
  async snapshot(requests: readonly SnapshotRequest[], options?: SnapshotOptions): Promise<SnapshotResult[]> {
    const loading = requests.flatMap(({ id }) => this.loading.get(id) ?? []);
    for (const { load } of loading) load.hurry();
    await Promise.all(loading.map(({ done }) => done));
    const drivers = () => [STORAGE_ID, NETWORK_ID];
    const { vbds, vifs, xenstore } = this;
    return await takeSnapshots(
      { guest: (id) => this.guests.get(id), vbds, vifs, xenstore, drivers },
      requests,
      options,
    );
  }

  /** Gives a running guest's disk another size, in bytes. @returns the size that it has now. @throws VbdError, CallError */
  resizeDisk(id: number, vdev: number, bytes: number): Promise<number> {
    return this.vbds.resize(id, vdev, bytes);
  }

  /** Makes a domain with its memory, its process and its ways to XenStore; nothing runs in it yet. */
  private admit({ name, memoryMiB }: Pick<GuestConfig, "name" | "memoryMiB">, wanted: number | undefined) {
    const id = this.table.take(wanted);
    const shared = this.table.create(id, memoryMiB);
    this.introduce({
      id,
      name,
      ramKib: memoryMiB * 1024,
      vcpus: 1,
      consolePort: CONSOLE_PORT,
      consoleGfn: CONSOLE_GFN,
      storePort: XENSTORE_PORT,
      storeGfn: XENSTORE_GFN,
      // A guest may serve devices to others with backend drivers of its own.
      driverDomain: true,
    });
    const ring = new DaemonRelay(this.xenstore, id, (message) => guest.toGuestStore(message));
    const backends = new DaemonRelay(this.xenstore, DOM0, (message) => guest.toBackendStore(message));
    const guest: GuestProcess = new GuestProcess(
      id,
      {
        fromGuest: (message) => ring.receive(message),
        fromBackends: (message) => backends.receive(message),
      },
      this.spare.take(),
    );
    this.guests.set(id, guest);
    const cleaned = guest.exited.then(async () => {
      ring.close();
      backends.close();
      await this.guestEnded(id);
    });
    this.cleaning(cleaned);
    /** It was not to be. */
    const failed = async () => {
      await guest.kill();
      await cleaned;
    };
    return { id, guest, shared, ring, failed };
  }

  private async guestEnded(id: number): Promise<void> {
    this.guests.delete(id);
    this.table.settle(id);
    // The backends see the domain's nodes vanish and let go of its pages.
    this.xenstore.releaseDomain(id);
    await this.devicesEnded(id);
    this.table.destroy(id);
  }

  /**
   * Gives a running guest or TypeScript domain a disk.
   * @throws DiskError, VbdError: one line with cause and remedy
   */
  async attachDisk(guest: number, disk: VbdConfig): Promise<void> {
    if (!this.guests.has(guest) && !this.typescript.has(guest)) {
      throw new VbdError(`there is no guest ${guest}`, "domlab list shows those that run");
    }
    await this.attachTo(guest, disk);
  }

  private async attachTo(guest: number, disk: VbdConfig): Promise<void> {
    if (disk.backend === undefined && disk.store.kind === "nbd") await probeNbd(disk.store);
    if (disk.backend !== undefined) {
      this.vbds.attach(guest, this.backendGuest(disk.backend), disk);
      return;
    }
    if (disk.placement === "driver-domain") {
      this.vbds.attach(guest, (await this.storageDomain()).id, disk);
      return;
    }
    if (!this.guests.has(guest)) {
      throw new VbdError("the disk of a TypeScript domain needs a driver domain", "leave placement=hypervisor out");
    }
    if (disk.store.kind === "nbd") {
      throw new VbdError("an NBD disk needs a driver domain", "leave placement=hypervisor out");
    }
    this.vbds.attach(guest, DOM0, disk);
  }

  /** Number of the guest of that name. */
  private backendGuest(name: string): number {
    const id = [...this.guests.keys()].find((each) => this.name(each) === name || String(each) === name);
    if (id === undefined)
      throw new VbdError(`there is no backend domain ${name}`, "start it first, or leave backend= out");
    return id;
  }

  /** Interfaces that the network domain serves; those of one switch. */
  private servedVifs(bridge: string): AttachedVif[] {
    return this.vifs.list().filter((vif) => vif.bridge === bridge && vif.backend === undefined);
  }

  /**
   * Gives a running guest or TypeScript domain a network interface.
   * @throws LabNetworkError, CallError: one line with cause and remedy
   */
  async attachVif(guest: number, vif: VifWish): Promise<AttachedVif> {
    if (!this.guests.has(guest) && !this.typescript.has(guest)) {
      throw new LabNetworkError(`there is no guest ${guest}`, "domlab list shows those that run");
    }
    return await this.attachVifTo(guest, vifSchema.parse(vif));
  }

  private async attachVifTo(guest: number, vif: VifConfig): Promise<AttachedVif> {
    // A guest that serves interfaces has bridges of its own.
    if (vif.backend !== undefined) return this.vifs.attach(guest, this.backendGuest(vif.backend), vif, vif.mtu);
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
    return this.vifs.attach(guest, (await this.networkDomain()).id, vif, mtu);
  }

  /** Takes an interface away from a running guest, with what was set for it. @throws LabNetworkError */
  async detachVif(name: string, force = false): Promise<void> {
    const on = this.vifs.get(name)?.bridge ?? "";
    await this.vifs.detach(name, force);
    await this.network.interfaceEnded(name, on);
  }

  private name(id: number): string | undefined {
    return this.xenstore.toolstack.read(`/local/domain/${id}/name`);
  }

  /** What the devices of a guest, or of all, have counted. */
  vbdStatistics(guest?: number): VbdStatistics[] {
    const devices = this.vbds.list(guest);
    const names = devices.map(({ frontendId, vdev }) => ({ frontendId, vdev }));
    const domains = new Set(
      devices.map((device) => (device.backendId === DOM0 ? device.frontendId : device.backendId)),
    );
    const found = [...domains].flatMap((id) => {
      const mapping = this.table.attach(id);
      const statistics = mapping === undefined ? [] : readStatistics(id, mapping);
      mapping?.release();
      return statistics;
    });
    return names.map((device) => sumStatistics(device, found));
  }

  /** Takes a disk away from a running guest. @throws VbdError */
  async detachDisk(guest: number, vdev: number, force = false): Promise<void> {
    await this.vbds.detach(guest, vdev, force);
  }

  /** Ends every domain, once. Fulfilled when no process is left. */
  close(): Promise<void> {
    this.closed ??= this.endAll();
    return this.closed;
  }

  private async endAll(): Promise<void> {
    await this.spare.close();
    await Promise.all([...this.guests.values()].map((guest) => guest.kill()));
    const drivers = await Promise.all([this.storage, this.networking].map((each) => each?.catch(() => undefined)));
    const frontends = [...this.typescript.values()].filter((each) => !drivers.includes(each));
    await Promise.all(frontends.map((domain) => domain.kill()));
    await Promise.all(this.ending);
    await Promise.all(drivers.map((domain) => domain?.kill()));
    await Promise.all(this.ending);
    this.table.close();
  }
}

/** Starts a lone guest: a host that ends with it. @throws as Host.startGuest */
export async function startDomain(config: GuestConfig): Promise<DomainHandle> {
  const host = new Host();
  try {
    const guest = await host.startGuest(config);
    void guest.exited.then(() => host.close());
    return guest;
  } catch (error) {
    await host.close();
    throw error;
  }
}
