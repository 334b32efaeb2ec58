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
import type { Shutdown } from "../hypervisor/domain.ts";
import { hypercall } from "../hypervisor/hypercall.ts";
import { readMsr, readPort, writeMsr } from "../hypervisor/msr.ts";
import type { VcpuContext } from "../hypervisor/vcpu.ts";
import { COMMAND_STOP, CONTROL_COMMAND, VCPU_BUSY_NS, VCPU_INSTRUCTIONS, vcpuControl } from "../memory/frame-plan.ts";

/**
 * Instructions per slice: a third of a millisecond at 150 MIPS. It bounds how late a timer is; events need no slice end, as the
 * CPU watches its interrupt line itself.
 */
const SLICE = 50_000;
/** Longest sleep in one go: the bound on how long a lost wake-up could go unnoticed. */
const LONGEST_SLEEP_NS = 1e9;

/** The part of a CPU that the loop drives. */
export interface LoopCpu {
  run(budget: number): Exit;
  raise(vector: number, errorCode?: number): void;
  completePort(value: number): void;
  completeMsrRead(value: bigint): void;
  completeMsrWrite(): void;
  readonly interruptsEnabled: boolean;
}

export interface LoopOptions {
  readonly context: VcpuContext;
  readonly cpu: LoopCpu;
  /** Instructions retired so far, for the statistics. */
  readonly instructions: () => number;
}

/** Why the loop returned: the guest's own doing, or the host's command. */
export type LoopEnd = Shutdown | { readonly reason: "stopped" };

export class VcpuLoop {
  private readonly context: VcpuContext;
  private readonly cpu: LoopCpu;
  private readonly instructions: () => number;
  private readonly command: number;
  private readonly control: number;
  private busyNs = 0;

  constructor(options: LoopOptions) {
    const { mapping, plan } = options.context.domain;
    this.context = options.context;
    this.cpu = options.cpu;
    this.instructions = options.instructions;
    this.command = (mapping.base + plan.control + CONTROL_COMMAND) >>> 2;
    this.control = mapping.base + vcpuControl(plan, options.context.id);
  }

  /** Runs until the guest ends or the host says stop. */
  run(): LoopEnd {
    for (;;) {
      if (this.stopped) return { reason: "stopped" };
      this.context.runTimers();
      if (this.context.domain.shutdown !== undefined) return this.context.domain.shutdown;
      this.context.checkTime();
      const end = this.dispatch(this.slice());
      if (end !== undefined) return end;
    }
  }

  private get stopped(): boolean {
    return Atomics.load(this.context.domain.mapping.words, this.command) === COMMAND_STOP;
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
    if (wait?.kind === "block") this.sleep(() => this.upcall, Number.POSITIVE_INFINITY);
    if (wait?.kind === "poll") {
      const { delivery } = context.domain;
      const awake = () =>
        wait.ports.some((port) => delivery.isPending(port)) || (this.cpu.interruptsEnabled && this.upcall);
      this.sleep(awake, wait.deadline);
    }
    return context.domain.shutdown;
  }

  /** HLT. With interrupts off nothing can wake it: that is how a kernel without ACPI powers off. */
  private halt(): LoopEnd | undefined {
    if (!this.cpu.interruptsEnabled) return { reason: "poweroff" };
    this.sleep(
      () => this.context.apic.busy || (this.upcall && this.context.interruptLineConnected),
      Number.POSITIVE_INFINITY,
    );
    return undefined;
  }

  private get upcall(): boolean {
    return this.context.domain.delivery.upcallPending(this.context.id);
  }

  /** Sleeps until `awake()`, the deadline (domain time in ns) or the host's stop; timers go on. */
  private sleep(awake: () => boolean, deadline: number): void {
    const { context } = this;
    const { clock, delivery } = context.domain;
    const ready = () => awake() || this.stopped || context.domain.shutdown !== undefined;
    if (ready()) return;
    context.enter("blocked");
    for (;;) {
      context.runTimers();
      const now = clock();
      if (ready() || now >= deadline) break;
      const until = Math.min(deadline, context.nextDeadline, now + LONGEST_SLEEP_NS);
      delivery.sleep(context.id, until - now, ready);
    }
    context.enter("running");
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
