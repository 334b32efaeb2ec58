/**
 * The lab of persistent machines: one process that owns the lab's folder, the host and all machines, and serves its control
 * socket. Tools come and go; machines stay until the lab is told to end, or is killed, after which the next start finds
 * everything as after a power cut.
 */
import { realpath, rm } from "node:fs/promises";
import { join } from "node:path";
import { Host } from "../../../engine/domain/host.ts";
import { PACKET_LOG } from "../../../engine/domain/network-calls.ts";
import type { ProcessStarter } from "../../../engine/domain/process-starter.ts";
import { explain } from "../../failure.ts";
import type { ControlFunctions } from "../control-api.ts";
import { type ControlHost, hostControl, type KnownGuest } from "../host-control.ts";
import { type ServedLab, serveLab } from "../lab.ts";
import { type BootImages, CatalogueImages } from "../machines/boot-image.ts";
import type { MachineContext } from "../machines/context.ts";
import { removeParts } from "../machines/export-archive.ts";
import type { ImageTools } from "../machines/image-tools.ts";
import { labImages } from "../machines/lab-images.ts";
import {
  autostart,
  type EndOfMachines,
  endMachines,
  purgeExpired,
  recoverMachines,
  tidyLab,
} from "../machines/lab-life.ts";
import { LayerKeeper } from "../machines/layer-keeper.ts";
import { ImageLibrary } from "../machines/library.ts";
import type { MachineHost } from "../machines/machine-host.ts";
import { summaryOf } from "../machines/machine-rows.ts";
import { Machines } from "../machines/machines.ts";
import { Operations } from "../machines/operations.ts";
import { runtimeRoot } from "../runtime-folder.ts";
import { LabStore } from "../store/store.ts";
import { appControl } from "./app-control.ts";
import { archiveControl } from "./archive-control.ts";
import { consoleControl } from "./console-control.ts";
import { EventHub } from "./events.ts";
import { type GuestCatalogue, guestCatalogue } from "./image-control.ts";
import { type LabFacts, labControl } from "./lab-control.ts";
import { LabLog } from "./lab-log.ts";
import { LabNetworks } from "./lab-networks.ts";
import { machineControl } from "./machine-control.ts";
import { Metrics } from "./metrics.ts";
import { labName, serverFilePath, writeServerFile } from "./server-file.ts";

/** How long a lab that a tool started stays without clients and machines that run. */
const IDLE_MS = 30_000;
const PURGE_MS = 3_600_000;
/** The answer to the call that ends the lab is on its way for that long at most. */
const LAST_ANSWER_MS = 100;

/** The host of a lab; a test has a smaller one. */
export type LabHost = MachineHost & ControlHost & { readonly xenstore: Host["xenstore"] };

export interface LabServerOptions {
  readonly home: string;
  readonly version: string;
  /** Folder for sockets. */
  readonly root?: string;
  /** Ends by itself when nobody needs it. */
  readonly endsWhenIdle?: boolean;
  readonly idleMs?: number;
  /** Between two looks for what was deleted long ago; an hour unless said. */
  readonly purgeMs?: number;
  /** How the processes of domains are made; without it, forked. */
  readonly startProcess?: ProcessStarter;
  /** In place of the real ones, for tests. */
  readonly host?: (log: (line: string) => void) => LabHost;
  readonly images?: ImageTools;
  readonly boot?: BootImages;
  readonly catalogue?: GuestCatalogue;
}

const logPath = (home: string): string => join(home, "lab.log");

export class LabServer {
  readonly context: MachineContext;
  readonly machines: Machines;
  readonly served: ServedLab;
  /** Fulfilled when the lab has ended and nothing of it runs. */
  readonly ended: Promise<void>;
  private readonly options: LabServerOptions;
  private readonly store: LabStore;
  private readonly host: LabHost;
  private readonly log: LabLog;
  private readonly metrics: Metrics;
  private readonly state: { quitting: boolean; clients: number };
  private readonly lines: readonly string[];
  private idleTimer: NodeJS.Timeout | undefined;
  private purgeTimer: NodeJS.Timeout | undefined;
  private quitDone: Promise<string[]> | undefined;
  private closed: Promise<void> | undefined;
  private endedNow: () => void = () => {};

  private constructor(parts: {
    options: LabServerOptions;
    context: MachineContext;
    machines: Machines;
    served: ServedLab;
    host: LabHost;
    log: LabLog;
    metrics: Metrics;
    state: { quitting: boolean; clients: number };
    lines: readonly string[];
  }) {
    this.options = parts.options;
    this.context = parts.context;
    this.machines = parts.machines;
    this.served = parts.served;
    this.store = parts.context.store;
    this.host = parts.host;
    this.log = parts.log;
    this.metrics = parts.metrics;
    this.state = parts.state;
    this.lines = parts.lines;
    this.ended = new Promise((resolve) => {
      this.endedNow = resolve;
    });
  }

  /**
   * Opens the lab in a folder, puts in order what a killed one left, and serves it. Machines that start by themselves do so
   * afterwards.
   * @throws StoreError ("lab-in-use" and others), BadInput: one line with cause and remedy
   */
  static async open(options: LabServerOptions): Promise<LabServer> {
    const early: string[] = [];
    const store = await LabStore.open(options.home, { log: (line) => early.push(line) });
    const home = await realpath(store.paths.folder);
    let log: LabLog | undefined;
    let host: LabHost | undefined;
    try {
      const lab = new LabLog(logPath(home));
      log = lab;
      for (const line of early) lab.write(line);
      const say = (line: string) => lab.write(line);
      const { startProcess } = options;
      const make = (write: (line: string) => void): LabHost =>
        new Host({ log: write, spareProcess: true, ...(startProcess && { startProcess }) });
      host = (options.host ?? make)((line) => lab.write(line, line.startsWith(PACKET_LOG)));
      return await LabServer.serve(options, store, host, lab, say, [...early]);
    } catch (error) {
      await host?.close();
      log?.close();
      await store.close();
      throw error;
    }
  }

  private static async serve(
    options: LabServerOptions,
    store: LabStore,
    host: LabHost,
    log: LabLog,
    say: (line: string) => void,
    early: readonly string[],
  ): Promise<LabServer> {
    const state = { quitting: false, clients: 0 };
    const images = options.images ?? labImages;
    const hub: EventHub = new EventHub((id) => {
      const known = store.data.machines.some((record) => record.id === id);
      return known ? summaryOf(machines.byId(id), store.data.settings) : undefined;
    }, say);
    const networks = new LabNetworks(host, store, say);
    const context: MachineContext = {
      store,
      host,
      images,
      boot: options.boot ?? new CatalogueImages(() => store.data.images, store.paths.images),
      layers: new LayerKeeper(store, images, say),
      library: new ImageLibrary(store.paths),
      operations: new Operations((operation, ended) =>
        hub.emit({ kind: "operation", operation, ...(ended && { ended }) }),
      ),
      log: say,
      changed: (id) => hub.machineChanged(id),
      started: (machine, domid) => networks.started(machine, domid),
      isQuitting: () => state.quitting,
    };
    const machines = new Machines(context);
    log.onLine((date, line) => hub.emit({ kind: "log", date, line }));
    await removeParts(store.paths);
    const recovered = await recoverMachines(context, machines);
    for (const line of recovered) say(line);
    if (store.data.networks.length > 0) await networks.restore();
    const guests = (): KnownGuest[] =>
      machines
        .all()
        .flatMap(({ guest, name, record }) =>
          guest === undefined
            ? []
            : [{ id: guest.handle.id, name, pid: guest.handle.pid, memoryMiB: record.config.memoryMiB }],
        );
    const metrics = new Metrics({
      host,
      machines,
      folder: store.paths.folder,
      log: say,
      emit: (event) => hub.emit(event),
      watched: () => hub.wants("metrics"),
    });
    hub.onSubscriptions(() => metrics.hurry());
    hub.onMachines(() => metrics.reconsider());
    const { catalogue = guestCatalogue } = options;
    const app = appControl({ context, machines, host, metrics, catalogue, logPath: logPath(store.paths.folder) });
    let server: LabServer | undefined;
    const started = new Date().toISOString();
    const functions = (name: string): ControlFunctions => {
      const facts: LabFacts = {
        name,
        version: options.version,
        started,
        clients: () => state.clients,
        warnings: async () => [...(server?.lines ?? []), ...(await unknownLines(store))],
        quit: async (how) => (await server?.quit(how)) ?? [],
      };
      const ofHost = hostControl(name, host, guests);
      return {
        ...ofHost,
        ...networks.keeping(ofHost, machines),
        ...machineControl(context, machines),
        ...archiveControl(context, machines, options.version),
        ...consoleControl(machines),
        ...labControl(context, machines, hub, facts),
        ...app,
      };
    };
    const onClients = (clients: number) => {
      state.clients = clients;
      server?.watchIdleness();
    };
    const name = labName(store.paths.folder);
    const served = await serveLab(options.root ?? runtimeRoot(), name, host.xenstore, functions, onClients);
    const lines = [...early, ...recovered];
    server = new LabServer({ options, context, machines, served, host, log, metrics, state, lines });
    const { sockets } = served;
    await writeServerFile(store.paths.folder, { lab: served.name, pid: process.pid, ...sockets });
    say(`the lab ${served.name} in ${store.paths.folder} is open`);
    hub.onMachines(() => server?.watchIdleness());
    void server.goOn();
    return server;
  }

  /** What need not be waited for at the start. */
  private async goOn(): Promise<void> {
    try {
      await autostart(this.context, this.machines);
      await tidyLab(this.context, this.machines);
    } catch (error) {
      // The lab may have been closed meanwhile.
      if (!this.state.quitting) this.log.write(explain(error).line);
    }
    this.watchIdleness();
    this.watchDeleted();
  }

  /** A lab may run for weeks: it purges while it runs, too. */
  private watchDeleted(): void {
    if (this.state.quitting) return;
    this.purgeTimer = setTimeout(async () => {
      await purgeExpired(this.context, this.machines).catch((error: unknown) => {
        if (!this.state.quitting) this.log.write(explain(error).line);
      });
      this.watchDeleted();
    }, this.options.purgeMs ?? PURGE_MS).unref();
  }

  private get idle(): boolean {
    const inUse = this.machines
      .all()
      .some(({ guest, restarting, queue }) => guest !== undefined || restarting || queue.busy);
    return this.state.clients === 0 && !inUse && this.context.operations.list().length === 0;
  }

  private watchIdleness(): void {
    clearTimeout(this.idleTimer);
    if (this.options.endsWhenIdle !== true || this.state.quitting || !this.idle) return;
    this.idleTimer = setTimeout(() => {
      if (this.idle) void this.quit(undefined);
    }, this.options.idleMs ?? IDLE_MS);
  }

  /**
   * Ends the machines as they are set to, or all in one way, and then the lab.
   * @returns notes for the user, when the machines have ended; `ended` tells when the lab has
   */
  quit(how: EndOfMachines | undefined): Promise<string[]> {
    this.quitDone ??= this.quitNow(how);
    return this.quitDone;
  }

  private async quitNow(how: EndOfMachines | undefined): Promise<string[]> {
    this.state.quitting = true;
    clearTimeout(this.idleTimer);
    clearTimeout(this.purgeTimer);
    this.context.operations.cancelAll();
    const notes = await endMachines(this.context, this.machines, how).catch((error: unknown) => [explain(error).line]);
    for (const note of notes) this.log.write(note);
    setTimeout(() => void this.close(), LAST_ANSWER_MS);
    return notes;
  }

  private close(): Promise<void> {
    this.closed ??= this.closeNow();
    return this.closed;
  }

  private async closeNow(): Promise<void> {
    clearTimeout(this.purgeTimer);
    try {
      for (const machine of this.machines.all()) machine.dispose();
      await this.metrics.close();
      await this.context.layers.close();
      await this.served.close();
      await this.host.close();
      // What follows the end of the last guests.
      await Promise.all(this.machines.all().map(({ queue }) => queue.run(() => undefined)));
      await rm(serverFilePath(this.store.paths.folder), { force: true });
      this.log.write("the lab is closed");
    } catch (error) {
      this.log.write(explain(error).line);
    } finally {
      await this.store.close();
      this.log.close();
      this.endedNow();
    }
  }

  /** For the process's own log. */
  say(line: string): void {
    this.log.write(line);
  }
}

/** Machines on disk that the lab does not know. */
async function unknownLines(store: LabStore): Promise<string[]> {
  const { machines, damaged } = await store.unknownMachines();
  const recovered = store.recovered ? ["the lab's records were put together from copies: nothing is removed"] : [];
  return [
    ...recovered,
    ...machines.map(({ record, id }) => `a machine ${record.config.name} (${id}) was found that the lab does not know`),
    ...damaged.map(({ folder, reason }) => `${folder} is damaged: ${reason}`),
  ];
}
