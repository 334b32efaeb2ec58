/**
 * A CPU with 4 MiB of RAM and a small supervisor around it, built by the host: 4-level page tables, GDT, IDT and TSS.
 * Every exception and interrupt ends in a handler that is one HLT, so a test runs code and looks at the frame.
 */
import { afterAll, beforeAll, describe, expect } from "vitest";
import { EXIT_HALT, FRAMES, PHYSMAP } from "../../../engine/cpu/assembly/layout.ts";
import { type CpuState, flatProtectedState } from "../../../engine/cpu/state.ts";
import { createVcpu, type Exit, loadCore, type Vcpu } from "../../../engine/cpu/vcpu.ts";
import { Blocks } from "../jit/blocks.ts";
import { Rehearsal } from "./rehearsal.ts";

// Page table entry bits.
export const P = 1n;
export const RW = 2n;
export const US = 4n;
export const A = 0x20n;
export const D = 0x40n;
export const PS = 0x80n;
export const G = 0x100n;
export const NX = 1n << 63n;

// Selectors of the GDT below.
export const KERNEL_CODE = 0x08;
export const KERNEL_DATA = 0x10;
export const USER_CODE_32 = 0x1b;
export const USER_DATA = 0x23;
export const USER_CODE = 0x2b;
export const TASK = 0x30;
export const KERNEL_CODE_32 = 0x40;
export const CALL_GATE = 0x48;

/** Guest-physical, and identity-mapped for the supervisor up to USER_CODE_AT. */
export const GDT = 0x1000;
export const IDT = 0x2000;
export const TSS = 0x3000;
export const HANDLERS = 0x4000;
export const RSP0 = 0x8000;
export const IST1 = 0xa000;
export const IST2 = 0xc000;
export const CODE = 0x10000;
export const DATA = 0x20000;
export const STACK = 0x30000;
/** Identity-mapped for user and supervisor: code, and data with the user's stack above. */
export const USER_AT = 0x40000;
export const USER_STACK = 0x60000;
const USER_END = 0x60000;
const TABLES = 0x100000;
const RAM = 0x400000;
/** Instructions of a run at most. */
const BUDGET = 10_000;

export const INTERRUPT_GATE = 0xe;
export const TRAP_GATE = 0xf;
/** Vectors whose exceptions push an error code. */
const WITH_ERROR = new Set([8, 10, 11, 12, 13, 14, 17]);

const core = loadCore();

/**
 * How a machine executes code: by the interpreter, or by the compiler of blocks wherever they run a second time. In the
 * second mode run() and trap() rehearse what they do, go back and do it again: so code that a test runs once is compiled too.
 */
export type Mode = "interpreted" | "compiled";

let mode: Mode = "interpreted";
/** Blocks that machines of the second mode have compiled. */
let compiledBlocks = 0;

/** A group of tests that is there once for each mode: machines made in it take that mode. */
export function describeModes(name: string, define: () => void): void {
  describe.each<Mode>(["interpreted", "compiled"])(`${name}, %s`, (which) => {
    const before = compiledBlocks;
    mode = which;
    beforeAll(() => {
      mode = which;
    });
    afterAll(() => {
      if (which === "compiled") expect(compiledBlocks).toBeGreaterThan(before);
      mode = "interpreted";
    });
    define();
    mode = "interpreted";
  });
}

/** A frame that delivery left on the handler's stack, with where the handler stands. */
export interface Frame {
  readonly vector: number;
  readonly error: number | undefined;
  readonly rip: bigint;
  readonly cs: number;
  readonly rflags: number;
  readonly rsp: bigint;
  readonly ss: number;
}

export interface GateOptions {
  readonly type?: number;
  readonly dpl?: number;
  readonly ist?: number;
  readonly selector?: number;
  readonly target?: bigint;
}

export class Machine {
  readonly cpu: Vcpu;
  /** Guest-physical memory. */
  readonly ram: DataView;
  readonly blocks: Blocks;
  private nextTable = TABLES + 0x1000;
  private readonly rehearsal: Rehearsal | undefined;

  /** @param how taken from the group of tests unless given */
  constructor(how: Mode = mode) {
    const pages = (FRAMES + RAM) / 65536;
    const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
    new Uint32Array(memory.buffer, PHYSMAP, RAM / 4096).forEach((_, n, map) => {
      map[n] = FRAMES + n * 4096;
    });
    this.ram = new DataView(memory.buffer, FRAMES, RAM);
    const compiles = how === "compiled";
    const compiler = { threshold: 1, batch: 1 };
    this.cpu = createVcpu({ memory, core, nanoseconds: () => 0, ...(compiles && { compiler }) });
    this.blocks = new Blocks(memory);
    this.rehearsal = compiles ? new Rehearsal(this.cpu) : undefined;
    this.descriptors();
    for (let vector = 0; vector < 256; vector++) {
      this.gate(vector);
      this.put(HANDLERS + vector * 16, [0xf4]);
    }
    for (let at = 0; at < USER_AT; at += 0x1000) this.map(BigInt(at), BigInt(at), P | RW);
    for (let at = USER_AT; at < USER_END; at += 0x1000) this.map(BigInt(at), BigInt(at), P | RW | US);
    this.change((state) => longMode(state));
  }

  private descriptors(): void {
    const words = [
      0n,
      0x00af9b000000ffffn,
      0x00cf93000000ffffn,
      0x00cffb000000ffffn,
      0x00cff3000000ffffn,
      0x00affb000000ffffn,
      0x0000890000000067n | (BigInt(TSS) << 16n),
      0n,
      0x00cf9b000000ffffn,
    ];
    for (const [n, word] of words.entries()) this.write64(GDT + n * 8, word);
    this.write64(TSS + 4, BigInt(RSP0));
    this.write64(TSS + 36, BigInt(IST1));
    this.write64(TSS + 44, BigInt(IST2));
    this.ram.setUint16(TSS + 102, 0x68, true);
  }

  /** Points a vector of the IDT at its HLT, or where the options say. */
  gate(
    vector: number,
    { type = INTERRUPT_GATE, dpl = 0, ist = 0, selector = KERNEL_CODE, target }: GateOptions = {},
  ): void {
    const offset = target ?? BigInt(HANDLERS + vector * 16);
    const access = BigInt(0x80 | (dpl << 5) | type);
    const low = (offset & 0xffffn) | (BigInt(selector) << 16n) | (BigInt(ist) << 32n) | (access << 40n);
    this.write64(IDT + vector * 16, low | (((offset >> 16n) & 0xffffn) << 48n));
    this.write64(IDT + vector * 16 + 8, offset >> 32n);
  }

  put(at: number, bytes: readonly number[]): void {
    bytes.forEach((byte, n) => {
      this.ram.setUint8(at + n, byte);
    });
  }

  read64(at: number): bigint {
    return this.ram.getBigUint64(at, true);
  }

  write64(at: number, value: bigint): void {
    this.ram.setBigUint64(at, BigInt.asUintN(64, value), true);
  }

  /**
   * Maps a page of 4 KiB, 2 MiB (bits 21) or 1 GiB (bits 30) in the 4-level tables; upper levels permit everything.
   * @returns guest-physical address of the leaf entry.
   */
  map(linear: bigint, physical: bigint, flags: bigint, bits: 12 | 21 | 30 = 12): number {
    let table = TABLES;
    for (let shift = 39n; shift > BigInt(bits); shift -= 9n) {
      const at = table + Number((linear >> shift) & 511n) * 8;
      if (this.read64(at) === 0n) {
        this.write64(at, BigInt(this.nextTable) | P | RW | US);
        this.nextTable += 0x1000;
      }
      table = Number(this.read64(at) & 0xffffff000n);
    }
    const leaf = table + Number((linear >> BigInt(bits)) & 511n) * 8;
    this.write64(leaf, physical | flags | (bits === 12 ? 0n : PS));
    return leaf;
  }

  /** Guest-physical address of the entry of one level (bits 39, 30, 21 or 12) that a linear address goes through. */
  entry(linear: bigint, bits: 39 | 30 | 21 | 12): number {
    let table = TABLES;
    for (let shift = 39n; shift > BigInt(bits); shift -= 9n) {
      table = Number(this.read64(table + Number((linear >> shift) & 511n) * 8) & 0xffffff000n);
    }
    return table + Number((linear >> BigInt(bits)) & 511n) * 8;
  }

  /** Changes some of the CPU's state, in place or by giving a new one. */
  change(edit: (state: CpuState) => unknown): void {
    const state = this.cpu.state;
    const edited = edit(state);
    this.cpu.state = isState(edited) ? edited : state;
  }

  /** Places code at a supervisor address and points RIP at it. */
  kernel(bytes: readonly number[], at = CODE): void {
    this.put(at, bytes);
    this.cpu.flushCode();
    this.change((state) => {
      state.rip = BigInt(at);
    });
  }

  /** Places code at a user address and continues there at level 3, in 64-bit mode, with interrupts as given. */
  user(bytes: readonly number[], at = USER_AT, rflags = 0x202): void {
    this.kernel(bytes, at);
    this.change((state) => {
      state.rflags = rflags;
      state.registers[4] = BigInt(USER_STACK);
      state.segments.cs = { selector: USER_CODE, base: 0n, limit: 0xffffffff, attributes: 0xa0fb };
      state.segments.ss = { selector: USER_DATA, base: 0n, limit: 0xffffffff, attributes: 0xc0f3 };
    });
  }

  set(registers: Readonly<Record<number, bigint>>): void {
    for (const [n, value] of Object.entries(registers)) this.cpu.setRegister(Number(n), BigInt.asUintN(64, value));
  }

  steps(count: number): void {
    for (let n = 0; n < count; n++) this.cpu.run(1);
  }

  /** Runs until an exit, which is seldom the end of the budget. */
  run(budget = BUDGET): Exit {
    const { rehearsal, cpu } = this;
    if (rehearsal === undefined) return cpu.run(budget);
    rehearsal.begin();
    cpu.run(budget);
    rehearsal.end();
    const exit = cpu.run(budget);
    compiledBlocks += this.blocks.compiled().length;
    return exit;
  }

  /** Runs into a handler's HLT and gives the frame it finds. @throws Error if something else stops the CPU. */
  trap(): Frame {
    const exit = this.run();
    const { rip } = this.cpu.state;
    const vector = Math.floor((Number(rip) - 1 - HANDLERS) / 16);
    if (exit.reason !== EXIT_HALT || vector < 0 || vector > 255) {
      throw new Error(`no handler reached: exit ${exit.reason} at ${rip.toString(16)}`);
    }
    return this.frame(vector);
  }

  /** The frame on top of the current (identity-mapped) stack. */
  frame(vector: number): Frame {
    const error = WITH_ERROR.has(vector);
    const top = Number(this.cpu.getRegister(4));
    const at = (n: number): bigint => this.read64(top + 8 * (error ? n + 1 : n));
    return {
      vector,
      error: error ? Number(this.read64(top)) : undefined,
      rip: at(0),
      cs: Number(at(1)),
      rflags: Number(at(2)),
      rsp: at(3),
      ss: Number(at(4)),
    };
  }
}

function isState(value: unknown): value is CpuState {
  return typeof value === "object" && value !== null && "instructionCount" in value;
}

function longMode(state: CpuState): CpuState {
  const flat = flatProtectedState(CODE);
  flat.registers[4] = BigInt(STACK);
  flat.segments.cs = { selector: KERNEL_CODE, base: 0n, limit: 0xffffffff, attributes: 0xa09b };
  for (const name of ["es", "ss", "ds"] as const) {
    flat.segments[name] = { selector: KERNEL_DATA, base: 0n, limit: 0xffffffff, attributes: 0xc093 };
  }
  flat.segments.tr = { selector: TASK, base: BigInt(TSS), limit: 0x67, attributes: 0x8b };
  flat.gdtr = { base: BigInt(GDT), limit: 0xfff };
  flat.idtr = { base: BigInt(IDT), limit: 0xfff };
  // PE, MP, ET, NE, WP, PG; PAE, PGE, OSFXSR; SCE, LME, LMA, NXE
  Object.assign(flat.control, { cr0: 0x80010033n, cr3: BigInt(TABLES), cr4: 0x2a0n, efer: 0xd01n });
  flat.instructionCount = state.instructionCount;
  return flat;
}

/** MOV r64, imm64. */
export function mov(register: number, value: bigint | number): number[] {
  const bytes = [0x48 | (register >> 3), 0xb8 | (register & 7)];
  const wide = BigInt.asUintN(64, BigInt(value));
  for (let n = 0n; n < 8n; n++) bytes.push(Number((wide >> (8n * n)) & 0xffn));
  return bytes;
}

export const HLT = 0xf4;
export const NOP = 0x90;
/** MOV [RDI], RAX and MOV RAX, [RSI]. */
export const STORE = [0x48, 0x89, 0x07];
export const LOAD = [0x48, 0x8b, 0x06];
/** MOV RAX, CR3; MOV CR3, RAX. */
export const RELOAD_CR3 = [0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8];
