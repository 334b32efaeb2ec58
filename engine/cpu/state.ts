/**
 * The architectural state of one virtual CPU as a typed object, read from and written to its linear memory.
 *
 * Lazy and derived fields are not part of it: call the core's `materialize()` before readState, so that RFLAGS is
 * complete, and `afterStateWrite()` after writeState, which recomputes privilege level, mode and TLB.
 */
import * as layout from "./assembly/layout.ts";

/** A segment register with its hidden part. */
export interface SegmentState {
  selector: number;
  /** Linear base. */
  base: bigint;
  /** Limit in bytes, granularity applied. */
  limit: number;
  /** Descriptor bits 8…23 of the high word: type 0-3, S 4, DPL 5-6, P 7, AVL 12, L 13, D 14, G 15. */
  attributes: number;
}

/** GDTR or IDTR. */
export interface TableState {
  base: bigint;
  limit: number;
}

/** One x87 register: the 80-bit value as 64-bit significand, and sign (bit 15) with the biased exponent. */
export interface FloatRegister {
  significand: bigint;
  signExponent: number;
}

export interface X87State {
  /** Physical registers 0…7 (not relative to TOP). */
  registers: FloatRegister[];
  control: number;
  /** Status word with TOP in bits 11-13. */
  status: number;
  /** One bit a physical register, 1 = not empty (FXSAVE form). */
  tag: number;
  opcode: number;
  instructionPointer: bigint;
  dataPointer: bigint;
  codeSelector: number;
  dataSelector: number;
}

const SEGMENT_NAMES = ["es", "cs", "ss", "ds", "fs", "gs", "ldtr", "tr"] as const;
const CONTROL_WORDS = {
  cr0: layout.CR0,
  cr2: layout.CR2,
  cr3: layout.CR3,
  cr4: layout.CR4,
  cr8: layout.CR8,
  efer: layout.EFER,
} as const;
const MSR_WORDS = {
  star: layout.MSR_STAR,
  lstar: layout.MSR_LSTAR,
  cstar: layout.MSR_CSTAR,
  sfmask: layout.MSR_SFMASK,
  kernelGsBase: layout.MSR_KERNEL_GS_BASE,
  sysenterCs: layout.MSR_SYSENTER_CS,
  sysenterEsp: layout.MSR_SYSENTER_ESP,
  sysenterEip: layout.MSR_SYSENTER_EIP,
  tscAux: layout.MSR_TSC_AUX,
  pat: layout.MSR_PAT,
  /** Added to the host's time stamp counter. */
  tscOffset: layout.MSR_TSC_OFFSET,
  apicBase: layout.MSR_APIC_BASE,
  miscEnable: layout.MSR_MISC_ENABLE,
  mtrrDefType: layout.MSR_MTRR_DEF_TYPE,
} as const;

type SegmentName = (typeof SEGMENT_NAMES)[number];
type ControlName = keyof typeof CONTROL_WORDS;
type MsrName = keyof typeof MSR_WORDS;

export interface CpuState {
  /** RAX RCX RDX RBX RSP RBP RSI RDI R8 … R15. */
  registers: bigint[];
  /** Offset within CS. */
  rip: bigint;
  rflags: number;
  segments: Record<SegmentName, SegmentState>;
  gdtr: TableState;
  idtr: TableState;
  control: Record<ControlName, bigint>;
  /** DR0…DR7 (4 and 5 unused). */
  debug: bigint[];
  msrs: Record<MsrName, bigint>;
  x87: X87State;
  /** XMM0…XMM15, 16 bytes each, low byte first. */
  xmm: Uint8Array[];
  mxcsr: number;
  /** Interrupts wait for one more instruction (after STI or a load of SS). */
  interruptShadow: boolean;
  /** Vector of an injected interrupt that was not delivered yet. */
  pendingVector: number | undefined;
  /** Retired instructions. */
  instructionCount: bigint;
}

const HIDDEN_BASE = 12;
const FS = 4;
const LDTR = 6;

/** Names of an object's keys with their type kept. */
function keysOf<K extends string>(object: Readonly<Record<K, unknown>>): K[] {
  return Object.keys(object) as K[];
}

/** An object made of one value per name. */
function record<K extends string, V>(names: readonly K[], value: (name: K, index: number) => V): Record<K, V> {
  return Object.fromEntries(names.map((name, index) => [name, value(name, index)])) as Record<K, V>;
}

function baseAddress(n: number): number {
  if (n >= LDTR) return n === LDTR ? layout.SEG_BASE_LDTR : layout.SEG_BASE_TR;
  return layout.GPR + layout.SLOT_ES + n * 8;
}

function readSegment(view: DataView, n: number): SegmentState {
  const at = layout.SEG + n * 16;
  return {
    selector: view.getUint16(at, true),
    attributes: view.getUint32(at + 4, true),
    limit: view.getUint32(at + 8, true),
    // the slots of ES…DS are zero while 64-bit code runs; their descriptor's base is kept apart
    base: n < FS ? BigInt(view.getUint32(at + HIDDEN_BASE, true)) : view.getBigUint64(baseAddress(n), true),
  };
}

function writeSegment(view: DataView, n: number, state: SegmentState): void {
  const at = layout.SEG + n * 16;
  view.setUint16(at, state.selector, true);
  view.setUint32(at + 4, state.attributes, true);
  view.setUint32(at + 8, state.limit, true);
  if (n < FS) view.setUint32(at + HIDDEN_BASE, Number(BigInt.asUintN(32, state.base)), true);
  view.setBigUint64(baseAddress(n), state.base, true);
}

function readX87(view: DataView): X87State {
  return {
    registers: Array.from({ length: 8 }, (_, n) => ({
      significand: view.getBigUint64(layout.FPR + n * 16, true),
      signExponent: view.getUint16(layout.FPR + n * 16 + 8, true),
    })),
    control: view.getUint16(layout.FPU_CONTROL, true),
    status: view.getUint16(layout.FPU_STATUS, true),
    tag: view.getUint8(layout.FPU_TAG),
    opcode: view.getUint16(layout.FPU_OPCODE, true),
    instructionPointer: view.getBigUint64(layout.FPU_IP, true),
    dataPointer: view.getBigUint64(layout.FPU_DP, true),
    codeSelector: view.getUint16(layout.FPU_CS, true),
    dataSelector: view.getUint16(layout.FPU_DS, true),
  };
}

function writeX87(view: DataView, state: X87State): void {
  state.registers.forEach((register, n) => {
    view.setBigUint64(layout.FPR + n * 16, register.significand, true);
    view.setUint16(layout.FPR + n * 16 + 8, register.signExponent, true);
  });
  view.setUint16(layout.FPU_CONTROL, state.control, true);
  view.setUint16(layout.FPU_STATUS, state.status, true);
  view.setUint8(layout.FPU_TAG, state.tag);
  view.setUint16(layout.FPU_OPCODE, state.opcode, true);
  view.setBigUint64(layout.FPU_IP, state.instructionPointer, true);
  view.setBigUint64(layout.FPU_DP, state.dataPointer, true);
  view.setUint16(layout.FPU_CS, state.codeSelector, true);
  view.setUint16(layout.FPU_DS, state.dataSelector, true);
}

function readTable(view: DataView, at: number): TableState {
  return { base: view.getBigUint64(at, true), limit: view.getUint32(at + 8, true) };
}

function writeTable(view: DataView, at: number, state: TableState): void {
  view.setBigUint64(at, state.base, true);
  view.setUint32(at + 8, state.limit, true);
}

function readWords(view: DataView, at: number, count: number): bigint[] {
  return Array.from({ length: count }, (_, n) => view.getBigUint64(at + n * 8, true));
}

/** Reads the state of a CPU that is not running; the lazy flags must be materialized. */
export function readState(memory: WebAssembly.Memory): CpuState {
  const view = new DataView(memory.buffer);
  const injected = view.getUint32(layout.IRQ_INJECT, true);
  return {
    registers: readWords(view, layout.GPR, 16),
    rip: view.getBigUint64(layout.RIP, true),
    rflags: view.getUint32(layout.EFLAGS, true),
    segments: record(SEGMENT_NAMES, (_, n) => readSegment(view, n)),
    gdtr: readTable(view, layout.GDTR_BASE),
    idtr: readTable(view, layout.IDTR_BASE),
    control: record(keysOf(CONTROL_WORDS), (name) => view.getBigUint64(CONTROL_WORDS[name], true)),
    debug: readWords(view, layout.DR, 8),
    msrs: record(keysOf(MSR_WORDS), (name) => view.getBigUint64(MSR_WORDS[name], true)),
    x87: readX87(view),
    xmm: Array.from({ length: 16 }, (_, n) => new Uint8Array(memory.buffer, layout.XMM + n * 16, 16).slice()),
    mxcsr: view.getUint32(layout.MXCSR, true),
    interruptShadow: view.getUint32(layout.SHADOW, true) !== 0,
    pendingVector: injected === 0 ? undefined : injected - 1,
    instructionCount: view.getBigUint64(layout.ICOUNT, true),
  };
}

/** Resets what the state does not name: no record running, no fault under way, no lazy flags, no exit. */
function clearTransient(view: DataView): void {
  for (const at of [layout.CUR, layout.LAZY_KIND, layout.EXIT, layout.EXC_DEPTH]) {
    view.setUint32(at, 0, true);
  }
  view.setBigUint64(layout.GPR + layout.SLOT_ZERO, 0n, true);
}

/** Writes a state; `afterStateWrite()` of the core must follow before the CPU runs. */
export function writeState(memory: WebAssembly.Memory, state: CpuState): void {
  const view = new DataView(memory.buffer);
  clearTransient(view);
  state.registers.forEach((value, n) => {
    view.setBigUint64(layout.GPR + n * 8, value, true);
  });
  view.setBigUint64(layout.RIP, state.rip, true);
  view.setUint32(layout.EFLAGS, state.rflags | 2, true);
  SEGMENT_NAMES.forEach((name, n) => {
    writeSegment(view, n, state.segments[name]);
  });
  writeTable(view, layout.GDTR_BASE, state.gdtr);
  writeTable(view, layout.IDTR_BASE, state.idtr);
  for (const name of keysOf(CONTROL_WORDS)) view.setBigUint64(CONTROL_WORDS[name], state.control[name], true);
  state.debug.forEach((value, n) => {
    view.setBigUint64(layout.DR + n * 8, value, true);
  });
  for (const name of keysOf(MSR_WORDS)) view.setBigUint64(MSR_WORDS[name], state.msrs[name], true);
  writeX87(view, state.x87);
  state.xmm.forEach((bytes, n) => {
    new Uint8Array(memory.buffer, layout.XMM + n * 16, 16).set(bytes);
  });
  view.setUint32(layout.MXCSR, state.mxcsr, true);
  view.setUint32(layout.SHADOW, state.interruptShadow ? 1 : 0, true);
  view.setUint32(layout.IRQ_INJECT, state.pendingVector === undefined ? 0 : state.pendingVector + 1, true);
  view.setBigUint64(layout.ICOUNT, state.instructionCount, true);
}

function flat(selector: number, attributes: number): SegmentState {
  return { selector, base: 0n, limit: 0xffffffff, attributes };
}

/**
 * A CPU at `eip` in flat 32-bit protected mode without paging, interrupts off: what boot protocols that start in 32-bit
 * code ask for (CS and the data segments flat, TR a busy 32-bit TSS of 0x67 bytes, PE and ET alone in CR0).
 */
export function flatProtectedState(eip: number): CpuState {
  const data = (): SegmentState => flat(0, 0xc093);
  return {
    registers: Array.from({ length: 16 }, () => 0n),
    rip: BigInt(eip >>> 0),
    rflags: 2,
    segments: {
      es: data(),
      cs: flat(0, 0xc09b),
      ss: data(),
      ds: data(),
      fs: data(),
      gs: data(),
      ldtr: { selector: 0, base: 0n, limit: 0, attributes: 0 },
      tr: { selector: 0, base: 0n, limit: 0x67, attributes: 0x8b },
    },
    gdtr: { base: 0n, limit: 0 },
    idtr: { base: 0n, limit: 0 },
    control: {
      ...record(keysOf(CONTROL_WORDS), () => 0n),
      cr0: BigInt(layout.CR0_PE | layout.CR0_ET),
    },
    debug: [0n, 0n, 0n, 0n, 0n, 0n, 0xffff0ff0n, 0x400n],
    msrs: {
      ...record(keysOf(MSR_WORDS), () => 0n),
      pat: 0x0007040600070406n,
      // bootstrap processor, APIC enabled at its usual address
      apicBase: 0xfee00900n,
      miscEnable: 1n,
    },
    x87: {
      registers: Array.from({ length: 8 }, () => ({ significand: 0n, signExponent: 0 })),
      control: 0x37f,
      status: 0,
      tag: 0,
      opcode: 0,
      instructionPointer: 0n,
      dataPointer: 0n,
      codeSelector: 0,
      dataSelector: 0,
    },
    xmm: Array.from({ length: 16 }, () => new Uint8Array(16)),
    mxcsr: 0x1f80,
    interruptShadow: false,
    pendingVector: undefined,
    instructionCount: 0n,
  };
}
