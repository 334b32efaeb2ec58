/**
 * The control plane: domains and their memory, the XenStore daemon, and the toolstack's part of devices. One per program;
 * nothing that moves data runs here.
 */

import { pathToFileURL } from "node:url";
import { CONSOLE_PORT, XENSTORE_PORT } from "../hypervisor/domain.ts";
import { CONSOLE_GFN, XENSTORE_GFN } from "../memory/frame-plan.ts";
import { Xenstored } from "../xenstore/daemon.ts";
import { type DomainFacts, domainNodes } from "../xenstore/domain-nodes.ts";
import { DaemonRelay } from "../xenstore/relay.ts";
import type { DomainConfig } from "./config.ts";
import { type DeviceWishes, DomainDevices, wantGuest } from "./domain-devices.ts";
import { DomainTable } from "./domain-table.ts";
import { DRIVER_RAM_MIB } from "./driver/ring-registry.ts";
import type { VbdStatistics } from "./driver/statistics.ts";
import { compiledPath } from "./entry.ts";
import { type DomainHandle, GuestProcess } from "./guest.ts";
import { GuestLoad } from "./guest-load.ts";
import { GuestLoads } from "./guest-loads.ts";
import { openGuest, reconnectDevices, restoredDevices, suspendSoon, timeAfterRestore } from "./guest-restore.ts";
import { type SnapshotOptions, type SnapshotRequest, type SnapshotResult, takeSnapshots } from "./guest-snapshots.ts";
import { LabNetworkError, type VifWish, vifSchema } from "./network-config.ts";
import type { ProcessStarter } from "./process-starter.ts";
import { SpareProcess } from "./spare-process.ts";
import { type TypescriptDomainConfig, TypescriptHandle } from "./typescript/handle.ts";
import { type VbdConfig, VbdError } from "./vbd-toolstack.ts";
import type { AttachedVif } from "./vif-toolstack.ts";

const DOM0 = 0;
/** Name of the driver domain that serves disks. */
export const STORAGE_DOMAIN = "storage";
/** Name of the driver domain that serves network interfaces. */
export const NETWORK_DOMAIN = "network";

/** Their numbers, the same in every life of the lab (domain-table.ts). */
const STORAGE_ID = 1;
const NETWORK_ID = 2;

/** Pages that it exchanges with frontends, MiB. */
const EXCHANGE_MIB = 8;

/** What a TypeScript domain may use up in XenStore: about 30 nodes and a few watches a device. */
const DRIVER_QUOTAS = { nodes: 50_000, watches: 10_000, transactions: 100, memory: 64 << 20 };

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

/** What restores a guest: it has booted what it is made of. */
export type RestoreConfig = Omit<GuestConfig, "image">;

/** A TypeScript domain to start. */
export type TypescriptConfig = TypescriptDomainConfig & DeviceWishes;

export class Host {
  readonly xenstore = new Xenstored();
  readonly table = new DomainTable();
  private readonly log: (line: string) => void;
  private readonly guests = new Map<number, GuestProcess>();
  private readonly typescript = new Map<number, TypescriptHandle>();
  private readonly devices = new DomainDevices({
    toolstack: this.xenstore.toolstack,
    table: this.table,
    guests: this.guests,
    storageDomain: () => this.storageDomain(),
    networkDomain: () => this.networkDomain(),
  });
  readonly vbds = this.devices.vbds;
  readonly vifs = this.devices.vifs;
  readonly network = this.devices.network;
  private readonly ending = new Set<Promise<void>>();
  private readonly loads = new GuestLoads();
  private readonly spare: SpareProcess;
  private readonly startProcess: ProcessStarter | undefined;
  private storage: Promise<TypescriptHandle> | undefined;
  private networking: Promise<TypescriptHandle> | undefined;
  private closed: Promise<void> | undefined;

  constructor(options: HostOptions = {}) {
    this.log = options.log ?? (() => {});
    this.spare = new SpareProcess(options.spareProcess ?? false, options.startProcess);
    this.startProcess = options.startProcess;
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
      await this.devices.attachAll(id, { disks, vifs });
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
    await this.devices.ended(id);
    this.table.destroy(id);
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
    const { id, guest, shared, made, failed } = this.admit(given, given.id);
    try {
      await this.devices.attachAll(id, { disks, vifs });
      await guest.start({ config: { ...given, id }, ...(shared && { shared }) });
      made();
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
  async restoreGuest(given: RestoreConfig, path: string, beforeRun?: () => Promise<void>): Promise<DomainHandle> {
    const { disks = [], vifs = [], ...config } = given;
    const saved = await openGuest(path);
    const wanted = given.id ?? (this.table.isTaken(saved.domid) ? undefined : saved.domid);
    const memoryMiB = saved.memoryMiB;
    const { id, guest, shared, made, failed, ring } = this.admit({ ...config, memoryMiB }, wanted);
    let load: GuestLoad | undefined;
    try {
      if (shared === undefined) throw new VbdError("this host cannot restore running machines", "start it anew");
      load = new GuestLoad(saved, shared.memory);
      const state = { saved: saved.state, ring: saved.ring, pages: load.pages };
      await Promise.all([load.ready, guest.start({ config: { ...config, id, memoryMiB }, shared, ...state })]);
      await load.during(guest.restored());
      this.cleaning(this.loads.follow(guest, load));
      this.xenstore.restoreDomain(id, saved.store);
      await this.devices.attachAll(id, { disks, vifs });
      const devices = restoredDevices(this.vbds.list(id), this.vifs.list(id));
      await load.during(guest.inLife(reconnectDevices(this.xenstore, id, saved.store, devices)));
      ring.restore();
      await beforeRun?.();
      const after = timeAfterRestore(this.xenstore, id);
      await guest.unpause(after);
      load.resumed();
      // The guest looks at the clock again when it comes back from a suspend, which here ends at once.
      if (after === "restore-suspend") suspendSoon(this.xenstore, guest);
      made();
      return guest;
    } catch (error) {
      await Promise.all([failed(), load === undefined ? saved.file.close() : load.close()]);
      throw error;
    }
  }

  /** Stops a guest's vCPU; its time goes on. */
  async pause(id: number): Promise<void> {
    await wantGuest(this.guests, id).pause();
  }

  /** Lets a paused guest go on. */
  async unpause(id: number): Promise<void> {
    await wantGuest(this.guests, id).unpause();
  }

  /** Takes a snapshot of several guests at one consistent moment (takeSnapshots()). */
  async snapshot(requests: readonly SnapshotRequest[], options?: SnapshotOptions): Promise<SnapshotResult[]> {
    await this.loads.hurry(requests.map(({ id }) => id));
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
    let made = () => {};
    // A guest that ends before it is complete is cleaned up once nothing is added to it any more.
    const complete = new Promise<void>((resolve) => {
      made = resolve;
    });
    const cleaned = Promise.all([guest.exited, complete]).then(async () => {
      ring.close();
      backends.close();
      await this.guestEnded(id);
    });
    this.cleaning(cleaned);
    /** It was not to be. */
    const failed = async () => {
      made();
      await guest.kill();
      await cleaned;
    };
    return { id, guest, shared, ring, made, failed };
  }

  private async guestEnded(id: number): Promise<void> {
    this.guests.delete(id);
    this.table.settle(id);
    // The backends see the domain's nodes vanish and let go of its pages.
    this.xenstore.releaseDomain(id);
    await this.devices.ended(id);
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
    await this.devices.attachDisk(guest, disk);
  }

  /**
   * Gives a running guest or TypeScript domain a network interface.
   * @throws LabNetworkError, CallError: one line with cause and remedy
   */
  async attachVif(guest: number, vif: VifWish): Promise<AttachedVif> {
    if (!this.guests.has(guest) && !this.typescript.has(guest)) {
      throw new LabNetworkError(`there is no guest ${guest}`, "domlab list shows those that run");
    }
    return await this.devices.attachVif(guest, vifSchema.parse(vif));
  }

  /** Takes an interface away from a running guest, with what was set for it. @throws LabNetworkError */
  async detachVif(name: string, force = false): Promise<void> {
    await this.devices.detachVif(name, force);
  }

  /** What the devices of a guest, or of all, have counted. */
  vbdStatistics(guest?: number): VbdStatistics[] {
    return this.devices.statistics(guest);
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
