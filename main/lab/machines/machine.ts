/**
 * A machine of the lab: what it is doing, its guest while there is one, and the ways from one state to the next. What outlives
 * the lab is in its record; each way commits first what a crash of the lab must find.
 */
import { mkdir } from "node:fs/promises";
import type { DomainExit } from "../../../engine/domain/config.ts";
import type { DomainHandle } from "../../../engine/domain/guest.ts";
import type { GuestConfig, RestoreConfig } from "../../../engine/domain/host.ts";
import { writeCrashReport } from "../../crash-report.ts";
import { explain } from "../../failure.ts";
import { CONSOLE_SIZE_NODE, formatConsoleSize } from "../../images/console-size.ts";
import type { MachineState } from "../machine-api.ts";
import type { DeepReadonly, MachineRecord } from "../store/schema.ts";
import type { MachineContext } from "./context.ts";
import { askGuest, type GuestRequest } from "./control-node.ts";
import { MachineError, wrongState } from "./errors.ts";
import { closeForwards, type OpenForward, openForwards } from "./forwards.ts";
import { imageOf, isImage, logsOf, restoreConfig } from "./guest-config.ts";
import { MachineConsole } from "./machine-console.ts";
import { OperationQueue } from "./operation-queue.ts";
import type { OperationControl } from "./operations.ts";
import { type Aftermath, aftermathOf, RestartBrake, type Wish } from "./policy.ts";
import { Changes } from "./waiting.ts";

/** A guest of the machine, from its start to the end of what follows its end. */
export interface GuestRun {
  readonly handle: DomainHandle;
  readonly started: number;
  /** What the user asked of it last. */
  wish: Wish;
  /** What its image prints when it waits for a user. */
  readonly prompt: string | undefined;
  readonly forwards: readonly OpenForward[];
  /** Fulfilled when its end has been dealt with. */
  readonly settled: Promise<void>;
}

export class Machine {
  readonly id: string;
  readonly console: MachineConsole;
  readonly queue = new OperationQueue();
  /** How its last run ended, or what failed, in one line. */
  message: string | undefined;
  private readonly context: MachineContext;
  private readonly brake = new RestartBrake();
  private phase: MachineState | undefined;
  private run: GuestRun | undefined;
  private restartTimer: NodeJS.Timeout | undefined;
  private readonly changes = new Changes();

  constructor(context: MachineContext, id: string) {
    this.context = context;
    this.id = id;
    this.console = new MachineConsole(this.logs.consoleLog);
  }

  get folder(): string {
    return this.context.store.paths.machineFolder(this.id);
  }

  get logs(): ReturnType<typeof logsOf> {
    return logsOf(this.folder);
  }

  /** @throws MachineError when it was purged meanwhile */
  get record(): DeepReadonly<MachineRecord> {
    const found = this.context.store.data.machines.find(({ id }) => id === this.id);
    if (found === undefined) throw new MachineError("unknown-machine", "the machine is gone", "see domlab list");
    return found;
  }

  get name(): string {
    return this.record.config.name;
  }

  get state(): MachineState {
    return this.phase ?? this.record.state;
  }

  /** The guest, while there is one. */
  get guest(): GuestRun | undefined {
    return this.run;
  }

  /** Whether a restart is due. */
  get restarting(): boolean {
    return this.restartTimer !== undefined;
  }

  /** Sets what it is doing; undefined: what its record says. */
  setPhase(phase: MachineState | undefined): void {
    this.phase = phase;
    this.tell();
  }

  private tell(): void {
    this.context.changed(this.id);
    const known = this.context.store.data.machines.some(({ id }) => id === this.id);
    if (known) this.console.announce(this.state);
    this.changes.tell();
  }

  /** Changes the record; durable when fulfilled. @throws StoreError: nothing has changed then */
  async commit(change: (draft: MachineRecord) => void): Promise<void> {
    await this.context.store.update((draft) => {
      const record = draft.machines.find(({ id }) => id === this.id);
      if (record === undefined) throw new MachineError("unknown-machine", "the machine is gone", "see domlab list");
      change(record);
    });
    this.tell();
  }

  /** As commit(); a failure is only told, where something else has to go on. */
  private async tryCommit(change: (draft: MachineRecord) => void): Promise<void> {
    await this.commit(change).catch((error: unknown) => this.context.log(explain(error).line));
  }

  /** @throws MachineError unless it is in one of the states; `doing` completes "it cannot be …" */
  want(states: readonly MachineState[], doing: string): void {
    const { state } = this;
    if (states.includes(state)) return;
    throw wrongState(this.name, state, doing);
  }

  /** The running guest. @throws MachineError when there is none that is running or paused */
  wantGuest(doing: string, states: readonly MachineState[] = ["running", "paused"]): GuestRun {
    this.want(states, doing);
    if (this.run === undefined) throw new MachineError("wrong-state", `${this.name} has ended`, "start it again");
    return this.run;
  }

  // ---- start -------------------------------------------------------------------------------------------------------

  /** Boots it, or has it go on where it was suspended. @throws what the user can mend, in one line */
  start(control: OperationControl): Promise<{ readonly domid: number; readonly resumed: boolean }> {
    return this.queue.run(async () => {
      this.want(["stopped", "suspended", "crashed"], "started");
      if (this.context.isQuitting()) throw new MachineError("wrong-state", "the lab is ending", "start it again later");
      this.cancelRestart();
      this.brake.reset();
      const resumed = this.record.state === "suspended";
      const domid = resumed ? await this.resumeNow(control) : await this.bootNow(control);
      return { domid, resumed };
    });
  }

  /** As start(), of a suspended machine only. */
  resume(control: OperationControl): Promise<number> {
    return this.queue.run(() => {
      this.want(["suspended"], "resumed");
      return this.resumeNow(control);
    });
  }

  private async bootNow(control: OperationControl): Promise<number> {
    this.message = undefined;
    this.setPhase("starting");
    try {
      const { config, prompt } = await this.prepareBoot(control);
      control.commit();
      await this.commit((record) => {
        record.wasRunning = true;
      });
      return await this.launch(() => this.context.host.startGuest(config), prompt);
    } catch (error) {
      await this.startFailed(error);
      throw error;
    }
  }

  private async startFailed(error: unknown): Promise<void> {
    this.context.layers.release(this.id);
    this.message = explain(error).line;
    if (this.record.wasRunning) {
      await this.tryCommit((record) => {
        record.wasRunning = false;
      });
    }
    this.setPhase(undefined);
  }

  /** Everything about the disks that can be found missing before the guest is made. */
  private async prepare(): Promise<RestoreConfig> {
    const { layers, images } = this.context;
    const { config } = this.record;
    await mkdir(this.folder, { recursive: true, mode: 0o700 });
    await layers.claim(this.id, config.disks.filter(isImage).map(imageOf));
    return await restoreConfig(config, this.folder, images);
  }

  /** The same, and what the guest boots. */
  private async prepareBoot(control: OperationControl): Promise<{ config: GuestConfig; prompt: string | undefined }> {
    const { layers, boot } = this.context;
    const { config } = this.record;
    const prepared = await this.prepare();
    const root = config.disks.find(isImage);
    const chain = root === undefined ? [] : await layers.chainOf(imageOf(root));
    control.step("getting the kernel");
    const { image, prompt } = await boot.boot(config, {
      signal: control.signal,
      progress: (text) => control.step(text),
      terminal: this.console.size,
      chain,
    });
    control.step("starting");
    return { config: { ...prepared, image }, prompt };
  }

  /**
   * The guest goes on from the memory file. That it is not suspended any more is committed when all is in place and before it
   * runs: a crash after that finds a stopped machine, as after a power cut, and never old memory with newer disks.
   */
  private async resumeNow(control: OperationControl): Promise<number> {
    const { store, host, layers, boot } = this.context;
    const { memory } = this.record;
    if (memory === undefined) throw new Error("a suspended machine without a memory file");
    const file = store.paths.memoryFile(memory);
    this.message = undefined;
    this.setPhase("restoring");
    let committed = false;
    const beforeRun = async () => {
      await this.commit((record) => {
        record.state = "stopped";
        delete record.memory;
        record.wasRunning = true;
      });
      committed = true;
    };
    // Once no record names it, a snapshot that is deleted would take it along; it is needed until the guest runs.
    const owner = `memory of ${this.id}`;
    layers.keep(owner, file);
    try {
      const config = await this.prepare();
      const prompt = boot.promptOf(this.record.config);
      control.commit();
      const domid = await this.launch(() => host.restoreGuest(config, file, beforeRun), prompt);
      layers.release(owner);
      await layers.discard({ memory: [file] });
      return domid;
    } catch (error) {
      // It has not run, so that its memory still goes with its disks.
      if (committed) {
        await this.tryCommit((record) => {
          Object.assign(record, { state: "suspended", memory, wasRunning: false });
        });
      }
      await this.startFailed(error);
      throw error;
    } finally {
      layers.release(owner);
    }
  }

  /** Opens the machine's ports and has its guest made; they are closed again when that fails. */
  private async launch(make: () => Promise<DomainHandle>, prompt: string | undefined): Promise<number> {
    const { host } = this.context;
    const forwards = await openForwards(host, this.record.config);
    try {
      return await this.take(await make(), prompt, forwards);
    } catch (error) {
      await closeForwards(host, forwards);
      throw error;
    }
  }

  private async take(
    handle: DomainHandle,
    prompt: string | undefined,
    forwards: GuestRun["forwards"],
  ): Promise<number> {
    this.console.begin((bytes) => handle.console.write(bytes));
    handle.console.onOutput((bytes) => this.console.push(bytes));
    const settled = handle.exited.then((exit) => this.queue.run(() => this.settle(run, exit)));
    const run: GuestRun = { handle, started: Date.now(), wish: undefined, prompt, forwards, settled };
    this.run = run;
    this.tellConsoleSize();
    this.setPhase("running");
    await this.context.started(this, handle.id);
    return handle.id;
  }

  // ---- end ---------------------------------------------------------------------------------------------------------

  /** What follows the end of a guest. */
  private async settle(run: GuestRun, exit: DomainExit): Promise<void> {
    if (this.run !== run) return;
    this.run = undefined;
    this.console.finish();
    this.context.layers.release(this.id);
    await closeForwards(this.context.host, run.forwards);
    if (exit.reason === "crash") this.writeCrash(exit);
    const after = this.braked(aftermathOf(exit, run.wish, this.record.config, this.logs.crashReport), run);
    this.message = after.message;
    if (after.message !== undefined) this.context.log(`${this.name} ${after.message}`);
    // Who suspends it writes down what is to become of it.
    if (after.next !== "restart" && run.wish !== "suspend") {
      await this.tryCommit((record) => {
        record.wasRunning = false;
      });
    }
    this.setPhase(after.next === "keep" ? "crashed" : undefined);
    if (after.next === "stop" && !this.context.isQuitting()) void this.context.layers.tidy();
  }

  private writeCrash(exit: DomainExit & { reason: "crash" }): void {
    try {
      writeCrashReport(this.logs.crashReport, exit);
    } catch (error) {
      // A full disk must not keep the machine from being dealt with.
      this.context.log(`${this.name}: the crash report cannot be written (${explain(error).line})`);
    }
  }

  /** Puts a restart off or refuses it when its guest ends again and again. */
  private braked(after: Aftermath, run: GuestRun): Aftermath {
    if (after.next !== "restart") return after;
    if (this.context.isQuitting()) return { ...after, next: "stop" };
    const wait = run.wish === "reboot" ? 0 : this.brake.next(Date.now() - run.started);
    if (wait === undefined) {
      const why = after.message ?? "ended each time soon after its start";
      return { next: "keep", message: `${why}; it is not started again` };
    }
    this.restartTimer = setTimeout(() => void this.restart(), wait);
    return wait === 0
      ? after
      : { ...after, message: `${after.message ?? "ended"}; it starts again in ${wait / 1000} s` };
  }

  private restart(): Promise<void> {
    return this.queue.run(async () => {
      if (this.restartTimer === undefined) return;
      this.restartTimer = undefined;
      if (this.context.isQuitting() || this.record.state !== "stopped") return;
      const what = `start of ${this.name}`;
      try {
        await this.context.operations.run({ what, machine: this.id }, (control) => this.bootNow(control));
      } catch (error) {
        this.context.log(`${this.name}: ${explain(error).line}`);
      }
    });
  }

  private cancelRestart(): void {
    clearTimeout(this.restartTimer);
    this.restartTimer = undefined;
  }

  // ---- while it runs -----------------------------------------------------------------------------------------------

  /** The terminal that shows the console has another size. Guests that watch the node learn it at once, others when they start. */
  resizeConsole(size: { readonly columns: number; readonly rows: number }): void {
    this.console.size = size;
    this.tellConsoleSize();
  }

  private tellConsoleSize(): void {
    const { size } = this.console;
    if (this.run === undefined || size === undefined) return;
    const home = `/local/domain/${this.run.handle.id}`;
    const { toolstack } = this.context.host.xenstore;
    // A guest that is just ending has no home any more, and must not get one.
    if (toolstack.read(home) !== undefined) toolstack.write(`${home}/${CONSOLE_SIZE_NODE}`, formatConsoleSize(size));
  }

  pause(): Promise<void> {
    return this.queue.run(async () => {
      const run = this.wantGuest("paused", ["running"]);
      await this.context.host.pause(run.handle.id);
      if (this.run === run) this.setPhase("paused");
    });
  }

  unpause(): Promise<void> {
    return this.queue.run(async () => {
      const run = this.wantGuest("unpaused", ["paused"]);
      await this.context.host.unpause(run.handle.id);
      if (this.run === run) this.setPhase("running");
    });
  }

  /**
   * Ends the guest at once, whatever it does; with `discard` a suspended machine forgets its memory. What the guest has not
   * written to its disks is lost.
   */
  async destroy(discard = false): Promise<void> {
    const run = this.run;
    if (run !== undefined) {
      // Not in the queue: it ends what is waited for there.
      run.wish = "destroy";
      this.setPhase("stopping");
      await run.handle.kill();
      await run.settled;
      return;
    }
    await this.queue.run(() => this.destroyEnded(discard));
  }

  private async destroyEnded(discard: boolean): Promise<void> {
    if (this.restartTimer !== undefined) {
      this.cancelRestart();
      this.message = undefined;
      await this.commit((record) => {
        record.wasRunning = false;
      });
      return;
    }
    if (this.run !== undefined) throw new MachineError("wrong-state", `${this.name} has just started`, "try again");
    if (this.phase === "crashed") return this.setPhase(undefined);
    if (this.record.state === "suspended" && discard) {
      const file = this.context.store.paths.memoryFile(this.record.memory ?? "");
      await this.commit((record) => {
        record.state = "stopped";
        delete record.memory;
      });
      await this.context.layers.discard({ memory: [file] });
      return;
    }
    this.want([], "destroyed");
  }

  /**
   * Asks the guest to power off or reboot.
   * @returns the run that was asked
   * @throws MachineError for a guest that takes no requests
   */
  ask(request: GuestRequest): Promise<GuestRun> {
    return this.queue.run(() => {
      const run = this.wantGuest(request === "poweroff" ? "shut down" : "rebooted", ["running", "stopping"]);
      askGuest(this.context.host.xenstore.toolstack, run.handle.id, this.name, request);
      run.wish = request === "poweroff" ? "stop" : "reboot";
      this.setPhase("stopping");
      return run;
    });
  }

  /** What a guest was asked for is off: it goes on, if it is still there. */
  goOn(run: GuestRun): void {
    if (this.run !== run) return;
    run.wish = undefined;
    this.setPhase("running");
  }

  // ---- waiting -----------------------------------------------------------------------------------------------------

  /** Fulfilled when the condition holds after a change of state, with true; with false when `signal` was raised first. */
  until(condition: () => boolean, signal?: AbortSignal): Promise<boolean> {
    return this.changes.until(condition, signal);
  }

  /** Ends timers; the guest is somebody else's business. */
  dispose(): void {
    this.cancelRestart();
  }
}
