/**
 * Runs one vCPU: slices of guest code, and between them whatever made the CPU stop.
 *
 * The thread that calls it belongs to the vCPU: it returns only when the guest has ended or the host wants it to stop.
 */
import {
  EXC_GP,
  EXIT_BUDGET,
  EXIT_HALT,
  EXIT_HYPERCALL,
  EXIT_MSR_READ,
  EXIT_MSR_WRITE,
  EXIT_PORT,
  EXIT_SHUTDOWN,
} from "../cpu/assembly/layout.ts";
import type { Exit } from "../cpu/vcpu.ts";
import { CodeShootdown } from "../hypervisor/code-shootdown.ts";
import type { Shutdown } from "../hypervisor/domain.ts";
import { hypercall } from "../hypervisor/hypercall.ts";
import { readMsr, readPort, writeMsr } from "../hypervisor/msr.ts";
import type { VcpuContext } from "../hypervisor/vcpu.ts";
import {
  COMMAND_STOP,
  CONTROL_COMMAND,
  CONTROL_REQUESTS,
  VCPU_BUSY_NS,
  VCPU_INSTRUCTIONS,
  vcpuControl,
} from "../memory/frame-plan.ts";
import { HaltPoll, type Surroundings } from "./halt-poll.ts";

/**
 * Instructions per slice: a third of a millisecond at 150 MIPS. It bounds how late a timer is; events need no slice end, as the
 * CPU watches its interrupt line itself.
 */
const SLICE = 50_000;
/** Longest sleep in one go: the bound on how long a lost wake-up could go unnoticed. */
const LONGEST_SLEEP_NS = 1e9;

/** What a vCPU sleeps for: HLT, SCHEDOP_block, or SCHEDOP_poll with a deadline in domain time, ns (none: for ever). */
export type LoopWait =
  | { readonly kind: "halt" | "block" }
  | { readonly kind: "poll"; readonly ports: readonly number[]; readonly deadline?: number | undefined };

/** The part of a CPU that the loop drives. */
export interface LoopCpu {
  run(budget: number): Exit;
  raise(vector: number, errorCode?: number): void;
  completePort(value: number): void;
  completeMsrRead(value: bigint): void;
  completeMsrWrite(): void;
  dropCode(address: number): void;
  readonly interruptsEnabled: boolean;
}

export interface LoopOptions {
  readonly context: VcpuContext;
  readonly cpu: LoopCpu;
  /** Instructions retired so far, for the statistics. */
  readonly instructions: () => number;
  /** A restored guest stands still at first, waiting for what it waited for. */
  readonly restored?: { readonly wait: LoopWait | undefined };
}

/** Why the loop returned: the guest's own doing, or the host's command. */
export type LoopEnd = Shutdown | { readonly reason: "stopped" };
/** Not an end: the thread has requests to answer (CONTROL_REQUESTS); then run() goes on where it was. */
export type LoopRequest = { readonly reason: "request" };

export class VcpuLoop {
  private readonly context: VcpuContext;
  private readonly cpu: LoopCpu;
  private readonly instructions: () => number;
  private readonly command: number;
  private readonly control: number;
  private readonly shootdown: CodeShootdown;
  private readonly requests: number;
  private answered = 0;
  /** What the vCPU sleeps for. */
  private wait: LoopWait | undefined;
  private paused: boolean;
  /** Whether the CPU's state is complete: no exception waits for the next instruction. */
  private settled = true;
  /** How the guest ended while it was brought to rest. */
  private ended: LoopEnd | undefined;
  private readonly poll = new HaltPoll();
  private readonly surroundings: Surroundings;
  private busyNs = 0;

  constructor(options: LoopOptions) {
    const { mapping, plan, clock } = options.context.domain;
    this.context = options.context;
    this.cpu = options.cpu;
    this.instructions = options.instructions;
    this.paused = options.restored !== undefined;
    this.wait = options.restored?.wait;
    this.command = (mapping.base + plan.control + CONTROL_COMMAND) >>> 2;
    this.control = mapping.base + vcpuControl(plan, options.context.id);
    this.requests = (mapping.base + plan.control + CONTROL_REQUESTS) >>> 2;
    this.surroundings = { clock, giveWay: () => mapping.giveWay() };
    this.shootdown = new CodeShootdown(mapping, options.context.id, (address) => this.cpu.dropCode(address));
    this.shootdown.decodes = true;
  }

  /** Nobody needs to wait for this vCPU any more. */
  close(): void {
    this.shootdown.decodes = false;
  }

  /** Runs until the guest ends, the host says stop, or there are requests for this thread. */
  run(): LoopEnd | LoopRequest {
    for (;;) {
      if (this.stopped) return { reason: "stopped" };
      if (this.asked) {
        // Taken note of before the messages are looked at: one that comes meanwhile asks again.
        this.answered = Atomics.load(this.context.domain.mapping.words, this.requests);
        return { reason: "request" };
      }
      this.shootdown.service();
      if (this.ended !== undefined) return this.ended;
      if (this.paused) {
        this.context.domain.delivery.sleep(this.context.id, LONGEST_SLEEP_NS, () => this.disturbed);
        continue;
      }
      if (this.wait && !this.sleep(this.wait)) continue;
      this.wait = undefined;
      this.context.runTimers();
      if (this.context.domain.shutdown !== undefined) return this.context.domain.shutdown;
      this.context.checkTime();
      const end = this.dispatch(this.slice());
      if (end !== undefined) return end;
    }
  }

  /**
   * Stops running guest code, at an instruction after which the CPU's state is complete. The thread goes on answering
   * requests. Called while run() has returned with one.
   */
  pause(): void {
    while (!this.settled && this.ended === undefined) this.ended = this.dispatch(this.cpu.run(1));
    this.paused = true;
  }

  /** Goes on where pause() stopped. */
  unpause(): void {
    this.paused = false;
  }

  /** What the paused vCPU sleeps for, if it does. */
  get sleepsFor(): LoopWait | undefined {
    return this.wait;
  }

  private get disturbed(): boolean {
    return this.stopped || this.asked || this.shootdown.wanted;
  }

  private get stopped(): boolean {
    return Atomics.load(this.context.domain.mapping.words, this.command) === COMMAND_STOP;
  }

  private get asked(): boolean {
    return Atomics.load(this.context.domain.mapping.words, this.requests) !== this.answered;
  }

  private slice(): Exit {
    const { clock, mapping } = this.context.domain;
    const start = clock();
    const exit = this.cpu.run(SLICE);
    this.busyNs += clock() - start;
    mapping.view.setFloat64(this.control + VCPU_BUSY_NS, this.busyNs, true);
    mapping.view.setFloat64(this.control + VCPU_INSTRUCTIONS, this.instructions(), true);
    return exit;
  }

  private dispatch(exit: Exit): LoopEnd | undefined {
    const { reason } = exit;
    this.settled = reason === EXIT_BUDGET || reason === EXIT_HYPERCALL || reason === EXIT_HALT;
    switch (exit.reason) {
      case EXIT_BUDGET:
        return undefined;
      case EXIT_HYPERCALL:
        return this.hypercall();
      case EXIT_HALT:
        return this.halt();
      case EXIT_PORT:
        this.cpu.completePort(exit.out ? 0 : readPort(exit.size));
        return undefined;
      case EXIT_MSR_READ:
        this.readMsr(exit.msr);
        return undefined;
      case EXIT_MSR_WRITE:
        this.writeMsr(exit.msr, exit.value);
        return undefined;
      case EXIT_SHUTDOWN:
        return { reason: "crash", cause: "triple fault" };
    }
  }

  private hypercall(): LoopEnd | undefined {
    const { context } = this;
    hypercall(context);
    const wait = context.wait;
    context.wait = undefined;
    if (wait !== undefined) this.wait = wait;
    return context.domain.shutdown;
  }

  /** HLT. With interrupts off nothing can wake it: that is how a kernel without ACPI powers off. */
  private halt(): LoopEnd | undefined {
    if (!this.cpu.interruptsEnabled) return { reason: "poweroff" };
    this.wait = { kind: "halt" };
    return undefined;
  }

  private awake(wait: LoopWait): boolean {
    switch (wait.kind) {
      case "halt":
        return this.context.apic.busy || (this.upcall && this.context.interruptLineConnected);
      case "block":
        return this.upcall;
      case "poll": {
        const { delivery } = this.context.domain;
        const { ports } = wait;
        return ports.some((port) => delivery.isPending(port)) || (this.cpu.interruptsEnabled && this.upcall);
      }
    }
  }

  private get upcall(): boolean {
    return this.context.domain.delivery.upcallPending(this.context.id);
  }

  /**
   * Sleeps until what it waits for, the deadline or the guest's end; timers go on. False when something else has to be done first:
   * the host's stop, its requests, code to forget.
   */
  private sleep(wait: LoopWait): boolean {
    const { context } = this;
    const deadline = (wait.kind === "poll" ? wait.deadline : undefined) ?? Number.POSITIVE_INFINITY;
    const { clock } = context.domain;
    const over = () => this.awake(wait) || context.domain.shutdown !== undefined;
    if (over()) return true;
    context.enter("blocked");
    let done = false;
    while (!done && !this.disturbed) {
      context.runTimers();
      const now = clock();
      done = over() || now >= deadline;
      if (done) break;
      const until = Math.min(deadline, context.nextDeadline, now + LONGEST_SLEEP_NS);
      this.doze(until - now, () => over() || this.disturbed);
    }
    context.enter("running");
    return done;
  }

  /** Looks for a moment before it sleeps: a backend's answer often comes sooner than a wake-up would take. */
  private doze(timeoutNs: number, awake: () => boolean): void {
    const { clock, delivery } = this.context.domain;
    const start = clock();
    if (this.poll.look(this.surroundings, timeoutNs, awake)) return;
    delivery.sleep(this.context.id, timeoutNs - (clock() - start), awake);
    this.poll.waited(awake() ? clock() - start : Number.POSITIVE_INFINITY);
  }

  private readMsr(index: number): void {
    const value = readMsr(this.context, index);
    if (value === undefined) this.cpu.raise(EXC_GP, 0);
    else this.cpu.completeMsrRead(value);
  }

  private writeMsr(index: number, value: bigint): void {
    if (writeMsr(this.context, index, value)) this.cpu.completeMsrWrite();
    else this.cpu.raise(EXC_GP, 0);
  }
}
