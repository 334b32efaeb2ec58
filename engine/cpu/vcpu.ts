import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import * as layout from "./assembly/layout.ts";
import { BlockCompiler, type CompilerCore, type CompilerOptions } from "./jit/compiler.ts";
import { loadOperations } from "./jit/operations.ts";
import { type CpuState, readState, writeState } from "./state.ts";

/** Why {@link Vcpu.run} returned. */
export type Exit =
  | { readonly reason: typeof layout.EXIT_BUDGET }
  /** VMCALL or VMMCALL; RIP is past it. */
  | { readonly reason: typeof layout.EXIT_HYPERCALL }
  /** HLT; RIP is past it. */
  | { readonly reason: typeof layout.EXIT_HALT }
  /** IN, OUT, INS or OUTS: answer with completePort. `size` in bytes; `value` is what OUT writes. */
  | {
      readonly reason: typeof layout.EXIT_PORT;
      readonly port: number;
      readonly size: number;
      readonly out: boolean;
      readonly value: number;
    }
  /** An MSR the CPU does not know: answer with completeMsrRead, completeMsrWrite or raise(13, 0). */
  | { readonly reason: typeof layout.EXIT_MSR_READ; readonly msr: number }
  | { readonly reason: typeof layout.EXIT_MSR_WRITE; readonly msr: number; readonly value: bigint }
  /** Triple fault. */
  | { readonly reason: typeof layout.EXIT_SHUTDOWN };

/** One answer of CPUID; without `subleaf` it answers every ECX. */
export interface CpuidEntry {
  readonly leaf: number;
  readonly subleaf?: number;
  readonly eax: number;
  readonly ebx: number;
  readonly ecx: number;
  readonly edx: number;
}

/** A virtual x86-64 processor. It knows nothing of what stands around it: it runs until an exit. */
export interface Vcpu {
  /** Its linear memory: the private area below FRAMES, the guest's frames from there on. */
  readonly memory: WebAssembly.Memory;
  /** Runs about `budget` instructions, exactly one for 1, or until an exit. */
  run(budget: number): Exit;
  /**
   * The level-triggered interrupt line: while the byte at that address of `memory` is non-zero and the guest takes
   * interrupts, `vector` is delivered. Address 0 disconnects it.
   */
  setInterruptLine(byteAddress: number, vector: number): void;
  /** A single external interrupt, delivered as soon as the guest takes interrupts. */
  inject(vector: number): void;
  /** An exception at the current instruction (instead of completing an exit). */
  raise(vector: number, errorCode?: number): void;
  completePort(value: number): void;
  completeMsrRead(value: bigint): void;
  completeMsrWrite(): void;
  setCpuid(entries: readonly CpuidEntry[]): void;
  /** Address in `memory` of a linear address at the current privilege, or 0 where an access would fault. */
  translate(linear: bigint, write: boolean): number;
  /** Forgets translations; needed after a change of the physmap. */
  flushTlb(): void;
  /** Forgets all decoded code; needed after code was written past the CPU. */
  flushCode(): void;
  /** Forgets code decoded from the page at an address of `memory`, to which somebody else than this CPU has written. */
  dropCode(address: number): void;
  /** Asks a run under way (in this or another thread) to return soon. */
  kick(): void;
  /** 0 RAX, 1 RCX, 2 RDX, 3 RBX, 4 RSP, 5 RBP, 6 RSI, 7 RDI, 8 R8 … 15 R15. */
  getRegister(n: number): bigint;
  setRegister(n: number, value: bigint): void;
  readonly cpl: number;
  readonly interruptsEnabled: boolean;
  /** Whether the running code segment is a 64-bit one. */
  readonly longMode: boolean;
  /** Offset the guest added to its time stamp counter. */
  readonly tscOffset: bigint;
  /** Instructions retired since creation. */
  readonly instructions: number;
  /** Writes all lazily kept state to its place in `memory`, for readers that look there directly. */
  materialize(): void;
  /** The whole architectural state, as a copy. */
  state: CpuState;
}

export interface VcpuOptions {
  /** Shared memory with the guest's frames from FRAMES on and its physmap filled in (see assembly/layout.ts). */
  readonly memory: WebAssembly.Memory;
  /** The compiled core: {@link loadCore}. */
  readonly core: WebAssembly.Module;
  /** Monotonic clock in nanoseconds: the time stamp counter runs at 1 GHz. */
  readonly nanoseconds: () => number;
  /** What stands behind the frame that the physmap marks PHYSMAP_DEVICE; without it reads give ones. */
  readonly device?: DevicePage;
  /**
   * Brings in the contents of a guest frame whose physmap entry is marked PHYSMAP_LATER and takes the mark away. What it throws,
   * run() throws.
   */
  readonly arrive?: (frame: number) => void;
  /** Compiles blocks that run often; without it all is interpreted. */
  readonly compiler?: Partial<CompilerOptions>;
}

/** A page of registers in guest-physical memory: accesses of up to 4 bytes within it. */
export interface DevicePage {
  read(offset: number, size: number): number;
  write(offset: number, size: number, value: number): void;
}

interface Core extends CompilerCore {
  start(): void;
  run(budget: number): number;
  resume(): number;
  materialize(): void;
  flushTlb(keepGlobal: number): void;
  resetCode(): void;
  dropCode(address: number): void;
  translate(linear: bigint, write: number): number;
  afterStateWrite(): void;
  completeMsrRead(value: bigint): void;
  completeMsrWrite(): void;
  completePort(value: number): void;
}

/** Compiles the core that the build wrote beside this module. @throws Error when the build has not run. */
export function loadCore(): WebAssembly.Module {
  const file = new URL("./core.wasm", import.meta.url);
  const built = file.pathname.includes("/dist/") ? file : new URL("../../dist/engine/cpu/core.wasm", import.meta.url);
  return new WebAssembly.Module(readFileSync(fileURLToPath(built)));
}

/** Reads what the compiler of blocks needs, so that createVcpu() takes less time later. @throws Error as loadCore() */
export function prepareCompiler(): void {
  loadOperations();
}

/** What the core throws to leave the frames of a faulting instruction. */
const FAULT = Object.freeze({ cpuFault: true });

const OUT_PORT = 16;

class WasmVcpu implements Vcpu {
  readonly memory: WebAssembly.Memory;
  private readonly core: Core;
  private readonly words: Uint32Array;
  private readonly wide: BigUint64Array;
  private readonly compiler: BlockCompiler | undefined;

  constructor({ memory, core, nanoseconds, device, arrive, compiler }: VcpuOptions) {
    this.memory = memory;
    this.words = new Uint32Array(memory.buffer, 0, layout.CPUID_TABLE / 4 + layout.CPUID_MAX * 8);
    this.wide = new BigUint64Array(memory.buffer, 0, layout.SCRATCH / 8);
    const hostThrow = (): never => {
      throw FAULT;
    };
    const hostDevice = (offset: number, size: number, write: number, value: number): number => {
      if (write === 0) return device?.read(offset, size) ?? 0xffffffff;
      device?.write(offset, size, value >>> 0);
      return 0;
    };
    const hostArrive = (frame: number): void => {
      if (arrive === undefined) throw new Error(`guest frame ${frame} is on its way, and nobody brings it`);
      arrive(frame);
    };
    const host = { hostThrow, hostNanoseconds: nanoseconds, hostDevice, hostArrive };
    const instance = new WebAssembly.Instance(core, { env: { memory }, host });
    this.core = instance.exports as unknown as Core;
    this.core.start();
    if (compiler !== undefined) this.compiler = new BlockCompiler(memory, this.core, compiler);
  }

  run(budget: number): Exit {
    this.compiler?.poll();
    let reason: number | undefined;
    try {
      reason = this.core.run(budget);
    } catch (error) {
      if (error !== FAULT) throw error;
    }
    while (reason === undefined) reason = this.resume();
    return this.exit(reason);
  }

  private resume(): number | undefined {
    try {
      return this.core.resume();
    } catch (error) {
      if (error !== FAULT) throw error;
      return undefined;
    }
  }

  private word(address: number): number {
    return this.words[address >> 2] ?? 0;
  }

  private setWord(address: number, value: number): void {
    this.words[address >> 2] = value;
  }

  private quad(address: number): bigint {
    return this.wide[address >> 3] ?? 0n;
  }

  private exit(reason: number): Exit {
    const a = this.word(layout.EXIT_A);
    switch (reason) {
      case layout.EXIT_PORT: {
        const b = this.word(layout.EXIT_B);
        const out = (b & OUT_PORT) !== 0;
        const value = out ? Number(this.quad(layout.EXIT_C) & 0xffffffffn) : 0;
        return { reason, port: a & 0xffff, size: b & 15, out, value };
      }
      case layout.EXIT_MSR_READ:
        return { reason, msr: a };
      case layout.EXIT_MSR_WRITE:
        return { reason, msr: a, value: this.quad(layout.EXIT_C) };
      case layout.EXIT_BUDGET:
      case layout.EXIT_HYPERCALL:
      case layout.EXIT_HALT:
      case layout.EXIT_SHUTDOWN:
        return { reason };
      default:
        throw new Error(`CPU core: unknown exit reason ${reason}`);
    }
  }

  setInterruptLine(byteAddress: number, vector: number): void {
    this.setWord(layout.IRQ_VECTOR, vector);
    this.setWord(layout.IRQ_BYTE, byteAddress);
  }

  inject(vector: number): void {
    this.setWord(layout.IRQ_INJECT, vector + 1);
  }

  raise(vector: number, errorCode?: number): void {
    this.setWord(layout.EXC_VECTOR, vector);
    this.setWord(layout.EXC_HAS_ERROR, errorCode === undefined ? 0 : 1);
    this.setWord(layout.EXC_ERROR, errorCode ?? 0);
    this.setWord(layout.EXC_PENDING, 1);
  }

  completePort(value: number): void {
    this.complete(() => this.core.completePort(value));
  }

  completeMsrRead(value: bigint): void {
    this.core.completeMsrRead(value);
  }

  completeMsrWrite(): void {
    this.core.completeMsrWrite();
  }

  /** A completion may fault (INS storing to memory): the fault is delivered by the next run. */
  private complete(action: () => void): void {
    try {
      action();
    } catch (error) {
      if (error !== FAULT) throw error;
      this.setWord(layout.EXC_PENDING, 1);
    }
  }

  setCpuid(entries: readonly CpuidEntry[]): void {
    if (entries.length > layout.CPUID_MAX) throw new Error(`CPUID: at most ${layout.CPUID_MAX} leaves`);
    entries.forEach(({ leaf, subleaf, eax, ebx, ecx, edx }, n) => {
      this.words.set([leaf, subleaf ?? 0xffffffff, eax, ebx, ecx, edx, 0, 0], (layout.CPUID_TABLE >> 2) + n * 8);
    });
    this.setWord(layout.CPUID_COUNT, entries.length);
  }

  translate(linear: bigint, write: boolean): number {
    return this.core.translate(linear, write ? 1 : 0) >>> 0;
  }

  flushTlb(): void {
    this.core.flushTlb(0);
  }

  flushCode(): void {
    this.core.resetCode();
    this.core.flushTlb(0);
  }

  dropCode(address: number): void {
    this.core.dropCode(address);
  }

  kick(): void {
    Atomics.store(this.words, layout.KICK >> 2, 1);
  }

  getRegister(n: number): bigint {
    return this.quad(layout.GPR + n * 8);
  }

  setRegister(n: number, value: bigint): void {
    this.wide[(layout.GPR >> 3) + n] = value;
  }

  get cpl(): number {
    return this.word(layout.CPL);
  }

  get interruptsEnabled(): boolean {
    return (this.word(layout.EFLAGS) & layout.FLAG_IF) !== 0;
  }

  get longMode(): boolean {
    return this.word(layout.MODE) === layout.MODE_64;
  }

  get tscOffset(): bigint {
    return this.quad(layout.MSR_TSC_OFFSET);
  }

  get instructions(): number {
    return Number(this.quad(layout.ICOUNT));
  }

  materialize(): void {
    this.core.materialize();
  }

  get state(): CpuState {
    this.core.materialize();
    return readState(this.memory);
  }

  set state(value: CpuState) {
    writeState(this.memory, value);
    this.core.afterStateWrite();
  }
}

/** Creates a CPU over its memory. Its state is all zeros: write one before running. */
export function createVcpu(options: VcpuOptions): Vcpu {
  return new WasmVcpu(options);
}
