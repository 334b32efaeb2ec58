/** A running domain inside its process: what starts it, and how memory, vCPU worker, console and XenStore act together. */
import { MessageChannel, type Worker } from "node:worker_threads";
import { PAGE_SIZE } from "../abi/xen.ts";
import { ACPI_ADDRESS, acpiTables } from "../builder/acpi.ts";
import { loadImage, prepareImage } from "../builder/build.ts";
import { FRAMES } from "../cpu/assembly/layout.ts";
import { LogFile } from "../device/console/log-file.ts";
import { CONSOLE_PORT, XENSTORE_PORT } from "../hypervisor/domain.ts";
import { EventDelivery } from "../hypervisor/event-delivery.ts";
import {
  COMMAND_STOP,
  CONTROL_COMMAND,
  CONTROL_REQUESTS,
  planFrames,
  SPECIAL_GFN,
  SPECIAL_GFNS,
  VCPU_BUSY_NS,
  VCPU_INSTRUCTIONS,
  vcpuControl,
} from "../memory/frame-plan.ts";
import { createGuestFrames } from "../memory/guest-frames.ts";
import { createGuestMemory, type GuestMemory, type Mapping } from "../memory/guest-memory.ts";
import { openMappedPath } from "../memory/mapped.ts";
import type { GuestState } from "../snapshot/guest-state.ts";
import { type RelayMessage, RingRelay, type SavedRing } from "../xenstore/relay.ts";
import { XenstoreRing } from "../xenstore/ring.ts";
import type { DomainExit, DomainStart, DomainStatistics } from "./config.ts";
import { HypervisorDevices } from "./driver/hypervisor-devices.ts";
import type { PvhEntry } from "./entry-state.ts";
import { GuestCapture } from "./guest-capture.ts";
import { GuestConsole } from "./guest-console.ts";
import type { Json } from "./json-state.ts";
import { ServedCalls } from "./typescript/served-calls.ts";
import type { LoopEnd } from "./vcpu-loop.ts";
import { VcpuRequests } from "./vcpu-requests.ts";
import { compiledCore } from "./vcpu-thread.ts";
import type { Pause, WorkerInput, WorkerMessage } from "./worker-protocol.ts";

const MIB = 1 << 20;
/** A domain has one virtual CPU. */
const VCPUS = 1;

export interface MachineEvents {
  readonly consoleOutput: (bytes: Uint8Array) => void;
  readonly exited: (exit: DomainExit) => void;
  /** For the XenStore daemon: from the guest, and from the backends in this process as domain 0. */
  readonly xenstore: (message: RelayMessage) => void;
  readonly backendStore: (message: RelayMessage) => void;
}

async function loadKernel({ image: wanted }: DomainStart["config"], memory: GuestMemory): Promise<PvhEntry> {
  if (wanted === undefined) throw new TypeError("a guest that is to boot has no image");
  const image = await prepareImage(wanted);
  const frames = createGuestFrames(memory.attach());
  const { eip, ebx } = loadImage(image, frames, {
    reserved: [{ start: SPECIAL_GFN * PAGE_SIZE, length: SPECIAL_GFNS * PAGE_SIZE }],
    rsdp: ACPI_ADDRESS,
  });
  frames.write(ACPI_ADDRESS, acpiTables(VCPUS));
  return { eip, ebx };
}

export class Machine {
  private readonly events: MachineEvents;
  private readonly mapping: Mapping;
  private readonly delivery: EventDelivery;
  private readonly worker: Worker;
  private readonly hypervisorLog: LogFile | undefined;
  private readonly console: GuestConsole;
  private readonly xenstore: RingRelay;
  /** Backends in this process. */
  readonly devices: HypervisorDevices;
  /** Calls of the host that take the guest into a snapshot (guest-capture.ts). */
  readonly captures = new ServedCalls();
  private readonly requests: VcpuRequests;
  private ended = false;
  /** What it crashed of. */
  private cause: string | undefined;
  private isOver: () => void = () => {};
  /** Fulfilled when the guest has ended. */
  private readonly over = new Promise<void>((resolve) => {
    this.isOver = resolve;
  });

  private constructor(
    config: DomainStart["config"],
    events: MachineEvents,
    worker: Worker,
    memory: GuestMemory,
    input: Omit<WorkerInput, "backends" | "control">,
    ring: SavedRing | undefined,
  ) {
    this.events = events;
    this.mapping = memory.attach();
    this.delivery = new EventDelivery(this.mapping);
    this.hypervisorLog = config.hypervisorLog === undefined ? undefined : new LogFile(config.hypervisorLog);
    this.console = new GuestConsole({
      mapping: this.mapping,
      log: config.consoleLog,
      notify: () => this.delivery.setPending(CONSOLE_PORT),
      onOutput: events.consoleOutput,
      rested: () => this.dispatchEvents(),
    });
    const notify = () => void this.delivery.setPending(XENSTORE_PORT);
    this.xenstore = ring
      ? RingRelay.restore(this.mapping, ring, events.xenstore, notify)
      : new RingRelay(new XenstoreRing(this.mapping), events.xenstore, notify);
    const backends = new MessageChannel();
    const control = new MessageChannel();
    this.requests = new VcpuRequests(control.port1, () => this.ringRequests());
    this.devices = new HypervisorDevices({
      guest: config.id,
      requests: backends.port1,
      ring: () => this.ringRequests(),
      post: events.backendStore,
      log: (line) => this.log(line),
    });
    const capture = { memory, mapping: this.mapping, requests: this.requests };
    this.captures.serve(
      new GuestCapture({ ...capture, console: this.console.backend, xenstore: this.xenstore }).calls(),
    );
    this.worker = worker;
    this.worker.on("message", (message: WorkerMessage) => this.receive(message));
    this.worker.on("error", (error) => this.end({ reason: "crash", cause: `internal error: ${error.message}` }, {}));
    this.worker.on("exit", (code) => this.end({ reason: "crash", cause: `vCPU worker ended (${code})` }, {}));
    const message: WorkerInput = { ...input, backends: backends.port2, control: control.port2 };
    this.worker.postMessage(message, [backends.port2, control.port2]);
  }

  /**
   * Loads the image into the domain's memory and starts its vCPU; or, with `saved`, makes ready what a guest was, whose memory
   * may still be on its way: restored() follows.
   * @throws BuildError for an image that cannot be booted
   */
  static async start(
    { config, shared, saved, pages, ring }: DomainStart,
    events: MachineEvents,
    worker: Worker,
  ): Promise<Machine> {
    const core = compiledCore();
    const plan = planFrames(config.memoryMiB * MIB);
    const memory = shared === undefined ? createGuestMemory(plan, FRAMES) : openMappedPath(shared.memory, plan);
    const start =
      saved === undefined ? { entry: await loadKernel(config, memory) } : { saved: saved as GuestState, pages };
    const input = { memory: memory.token, directory: shared?.directory, core, domain: config.id, start };
    return new Machine(config, events, worker, memory, input, ring);
  }

  /**
   * What others see of a restored guest's memory is in place. Fulfilled when they can connect to it.
   * @throws Error what it crashed of, where it did
   */
  async restored(): Promise<void> {
    this.console.adopt();
    await Promise.race([this.requests.call({ op: "restore" }), this.over]);
    if (this.cause !== undefined) throw new Error(this.cause);
  }

  /** All memory of a restored guest is there. */
  async loaded(): Promise<void> {
    await Promise.race([this.requests.call({ op: "loaded" }), this.over]);
  }

  /** Stops the vCPU; fulfilled when it stands still. */
  async pause(): Promise<void> {
    await this.requests.call({ op: "pause", offline: true });
  }

  async unpause(after: Pause): Promise<void> {
    if (after !== "pause") this.wakeGuest();
    await this.requests.call({ op: "unpause", after });
  }

  /** Types bytes into the console. */
  async writeConsole(bytes: Uint8Array): Promise<void> {
    await this.console.backend.write(bytes);
  }

  acknowledgeConsole(bytes: number): void {
    this.console.acknowledge(bytes);
  }

  /** Asks the vCPU to stop; the exit follows. */
  stop(): void {
    const { words, base, plan } = this.mapping;
    Atomics.store(words, (base + plan.control + CONTROL_COMMAND) >>> 2, COMMAND_STOP);
    this.delivery.ring(0);
  }

  statistics(): DomainStatistics {
    const control = this.mapping.base + vcpuControl(this.mapping.plan, 0);
    return {
      instructions: this.mapping.view.getFloat64(control + VCPU_INSTRUCTIONS, true),
      busySeconds: this.mapping.view.getFloat64(control + VCPU_BUSY_NS, true) / 1e9,
      residentBytes: process.memoryUsage.rss(),
    };
  }

  /** A restored guest may wait for what it was told and had not heard yet: it looks at console and XenStore again. */
  private wakeGuest(): void {
    this.xenstore.resume();
    this.console.backend.handleEvent();
    for (const port of [XENSTORE_PORT, CONSOLE_PORT]) this.delivery.setPending(port);
  }

  private receive(message: WorkerMessage): void {
    switch (message.kind) {
      case "ready":
        // Events that the guest sent while nobody listened are still marked.
        this.dispatchEvents();
        void this.devices.start();
        break;
      case "event":
        this.dispatchEvents();
        break;
      case "emergency-console":
        this.console.emergency(message.bytes);
        break;
      case "log":
        this.log(message.line);
        break;
      case "end":
        this.end(message.end, message.registers);
        break;
    }
  }

  /** From the XenStore daemon: for the guest, and for the backends in this process. */
  receiveXenstore(message: RelayMessage): void {
    this.xenstore.receive(message);
  }

  receiveBackendStore(message: RelayMessage): void {
    this.devices.receive(message);
  }

  /** Tells the vCPU's thread that a request waits for it. */
  private ringRequests(): void {
    const { words, base, plan } = this.mapping;
    Atomics.add(words, (base + plan.control + CONTROL_REQUESTS) >>> 2, 1);
    this.delivery.ring(0);
  }

  private log(line: string): void {
    this.hypervisorLog?.write(Buffer.from(`${line}\n`));
  }

  private dispatchEvents(): void {
    for (const port of this.delivery.takeHostPending(this.console.isResting ? CONSOLE_PORT : undefined)) {
      if (port === CONSOLE_PORT) this.console.handleEvent();
      if (port === XENSTORE_PORT) this.xenstore.handleEvent();
    }
  }

  private end(end: LoopEnd, registers: { [key: string]: Json }): void {
    if (this.ended) return;
    this.console.end();
    this.ended = true;
    if (end.reason === "crash") this.cause = end.cause;
    this.isOver();
    this.hypervisorLog?.close();
    this.events.exited(this.exitOf(end, registers));
  }

  private exitOf(end: LoopEnd, registers: { [key: string]: Json }): DomainExit {
    switch (end.reason) {
      case "poweroff":
      case "reboot":
        return { reason: end.reason };
      case "stopped":
        return { reason: "killed", requested: true, cause: "stopped by the host" };
      case "crash":
        return {
          reason: "crash",
          cause: end.cause,
          registers,
          consoleTail: this.console.lastLines(),
        };
    }
  }
}
