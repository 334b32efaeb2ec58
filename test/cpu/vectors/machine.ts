/**
 * A user-mode address space on the CPU core like the one the native harness has on Linux: the same code, data and stack
 * pages, selectors and control register bits. Exceptions lead to handlers (HLT) in a supervisor page.
 */
import { readFileSync } from "node:fs";
import * as layout from "../../../engine/cpu/assembly/layout.ts";
import { BlockCompiler, type CompilerCore } from "../../../engine/cpu/jit/compiler.ts";
import { Blocks } from "../jit/blocks.ts";
import {
  type CaseState,
  CODE_BASE,
  CODE_SIZE,
  DATA_BASE,
  DATA_SIZE,
  FX_LEGACY,
  FX_MXCSR,
  FX_ST,
  FX_XMM,
  SELECTOR_32,
  SELECTOR_64,
  SELECTOR_DATA,
  STACK_BASE,
  STACK_SIZE,
} from "./state.ts";

interface Core extends CompilerCore {
  start(): void;
  run(budget: number): number;
  resume(): number;
  materialize(): void;
  afterStateWrite(): void;
  codeWritten(at: number): void;
}

/** Guest-physical pages. */
const PML4 = 0x1000;
const PDPT = 0x2000;
const DIRECTORY = 0x3000;
const TABLES = 0x4000; // for 0x200000, 0x400000
const IDT = 0x6000;
const TSS = 0x7000;
const HANDLERS = 0x8000;
const KERNEL_STACK = 0x9000;
const GDT = 0xa000;
const CODE = 0x10000;
/** Data and, behind it, the stack: one stretch, so that one comparison covers both. */
const DATA = 0x20000;
const RAM = 0x30000;

/** Supervisor pages are mapped here, at the same distance from each other as in physical memory. */
const KERNEL_BASE = 0x400000;
const HANDLER_STEP = 16;
const PRESENT = 0x61; // P A D
const WRITABLE = 2;
const USER = 4;

const ATTRIBUTES_CODE_64 = 0xa0fb;
const ATTRIBUTES_CODE_32 = 0xc0fb;
const ATTRIBUTES_DATA = 0xc0f3;
const ATTRIBUTES_TSS = 0x8b;

class Fault extends Error {}

/** The memory areas cases see, one behind the other: data, then stack. */
export const AREA_SIZE = DATA_SIZE + STACK_SIZE;

/** Offset of an address in the memory areas, or -1. */
export function areaOffset(address: number): number {
  if (address >= DATA_BASE && address < DATA_BASE + DATA_SIZE) return address - DATA_BASE;
  if (address >= STACK_BASE && address < STACK_BASE + STACK_SIZE) return address - STACK_BASE + DATA_SIZE;
  return -1;
}

/** How a case ended on the CPU core; registers as user mode had them. */
export interface Ending {
  /** Exception vector, or -1. */
  vector: number;
  rip: bigint;
  rsp: bigint;
  eflags: number;
  error: number;
  cr2: bigint;
}

export class Machine {
  private readonly memory = new WebAssembly.Memory({ initial: 1024 + RAM / 65536 + 1, maximum: 65536, shared: true });
  private readonly view = new DataView(this.memory.buffer);
  private readonly bytes = new Uint8Array(this.memory.buffer);
  private readonly core: Core;
  /** General registers. */
  readonly registers = new BigUint64Array(this.memory.buffer, layout.GPR, 16);
  /** Data and stack pages. */
  readonly areas = Buffer.from(this.memory.buffer, layout.FRAMES + DATA, AREA_SIZE);
  readonly code = new Uint8Array(this.memory.buffer, layout.FRAMES + CODE, CODE_SIZE);
  private readonly xmm = new Uint8Array(this.memory.buffer, layout.XMM, 256);
  private readonly fpr = new Uint8Array(this.memory.buffer, layout.FPR, 128);
  private readonly segments = new Uint8Array(this.memory.buffer, layout.SEG, 64);
  private readonly segments64: Uint8Array;
  private readonly segments32: Uint8Array;
  private compat = false;
  private readonly compiler: BlockCompiler | undefined;
  private readonly blocks = new Blocks(this.memory);
  readonly ending: Ending = { vector: -1, rip: 0n, rsp: 0n, eflags: 0, error: 0, cr2: 0n };

  /**
   * @param wasm path of the compiled core
   * @param compiles whether compile() is to work: every block counts as hot at once then
   */
  constructor(wasm: string, compiles = false) {
    const module = new WebAssembly.Module(readFileSync(wasm));
    const host = {
      hostThrow: () => {
        throw new Fault();
      },
      hostNanoseconds: () => 0,
      hostDevice: () => 0,
      hostArrive: () => {},
      abort: () => {
        throw new Error("the core aborted");
      },
    };
    const imports: Record<string, Record<string, unknown>> = {};
    for (const { module: name, name: field, kind } of WebAssembly.Module.imports(module)) {
      imports[name] ??= {};
      const group = imports[name];
      if (kind === "memory") group[field] = this.memory;
      else group[field] = Object.entries(host).find(([key]) => field === key || field.endsWith(`.${key}`))?.[1];
    }
    const instance = new WebAssembly.Instance(module, imports as WebAssembly.Imports);
    this.core = instance.exports as unknown as Core;
    this.buildMemory();
    this.buildControl();
    this.segments64 = this.buildSegments(SELECTOR_64, ATTRIBUTES_CODE_64);
    this.segments32 = this.buildSegments(SELECTOR_32, ATTRIBUTES_CODE_32);
    this.core.start();
    this.compiler = compiles ? new BlockCompiler(this.memory, this.core, { threshold: 1, batch: 1 }) : undefined;
    this.segments.set(this.segments64);
    this.core.afterStateWrite();
  }

  private physical64(at: number, value: number): void {
    this.view.setBigUint64(layout.FRAMES + at, BigInt(value), true);
  }

  private buildMemory(): void {
    for (let frame = 0; frame < RAM / 4096; frame++) {
      this.view.setUint32(layout.PHYSMAP + frame * 4, layout.FRAMES + frame * 4096, true);
    }
    this.physical64(PML4, PDPT | PRESENT | WRITABLE | USER);
    this.physical64(PDPT, DIRECTORY | PRESENT | WRITABLE | USER);
    this.physical64(DIRECTORY + 8, TABLES | PRESENT | WRITABLE | USER);
    this.physical64(DIRECTORY + 16, (TABLES + 0x1000) | PRESENT | WRITABLE | USER);
    const map = (address: number, physical: number, size: number, user: number): void => {
      for (let offset = 0; offset < size; offset += 4096) {
        const page = (address + offset - CODE_BASE) / 4096;
        this.physical64(TABLES + page * 8, (physical + offset) | PRESENT | WRITABLE | user);
      }
    };
    map(CODE_BASE, CODE, CODE_SIZE, USER);
    map(DATA_BASE, DATA, DATA_SIZE, USER);
    map(STACK_BASE, DATA + DATA_SIZE, STACK_SIZE, USER);
    map(KERNEL_BASE, 0, 0x10000, 0);
    // Selectors as on Linux: 0x08 … 0x18 are the kernel's, 0x23 … 0x33 the user's.
    const descriptors = [0n, 0x00cf9b000000ffffn, 0x00af9b000000ffffn, 0x00cf93000000ffffn];
    descriptors.push(0x00cffb000000ffffn, 0x00cff3000000ffffn, 0x00affb000000ffffn);
    for (const [i, value] of descriptors.entries()) this.view.setBigUint64(layout.FRAMES + GDT + i * 8, value, true);
    this.code.fill(0xcc);
    for (let vector = 0; vector < 32; vector++) this.buildGate(vector);
    this.bytes.fill(0xf4, layout.FRAMES + HANDLERS, layout.FRAMES + HANDLERS + 0x1000);
    this.view.setBigUint64(layout.FRAMES + TSS + 4, BigInt(KERNEL_BASE + KERNEL_STACK + 0x1000), true);
    this.view.setUint16(layout.FRAMES + TSS + 102, 0x68, true);
  }

  private buildGate(vector: number): void {
    const handler = KERNEL_BASE + HANDLERS + vector * HANDLER_STEP;
    const dpl = vector === 3 || vector === 4 ? 0x60 : 0;
    const at = layout.FRAMES + IDT + vector * 16;
    this.view.setUint16(at, handler & 0xffff, true);
    this.view.setUint16(at + 2, 0x10, true);
    this.view.setUint16(at + 4, (0x8e | dpl) << 8, true);
    this.view.setUint16(at + 6, handler >>> 16, true);
  }

  private buildControl(): void {
    const set = (at: number, value: number): void => this.view.setBigUint64(at, BigInt(value), true);
    const { view } = this;
    set(
      layout.CR0,
      layout.CR0_PE + layout.CR0_MP + layout.CR0_ET + layout.CR0_NE + layout.CR0_WP + layout.CR0_AM + layout.CR0_PG,
    );
    set(layout.CR3, PML4);
    set(layout.CR4, layout.CR4_PAE | layout.CR4_PGE | layout.CR4_OSFXSR | layout.CR4_OSXMMEXCPT);
    set(layout.EFER, layout.EFER_SCE | layout.EFER_LME | layout.EFER_LMA | layout.EFER_NXE);
    set(layout.GDTR_BASE, KERNEL_BASE + GDT);
    view.setUint32(layout.GDTR_LIMIT, 0x7f, true);
    set(layout.IDTR_BASE, KERNEL_BASE + IDT);
    view.setUint32(layout.IDTR_LIMIT, 0x1ff, true);
    set(layout.SEG_BASE_TR, KERNEL_BASE + TSS);
    const task = layout.SEG + 7 * 16;
    view.setUint16(task, 0x40, true);
    view.setUint32(task + 4, ATTRIBUTES_TSS, true);
    view.setUint32(task + 8, 0x67, true);
  }

  /** ES, CS, SS and DS; FS and GS stay null. */
  private buildSegments(selector: number, attributes: number): Uint8Array {
    const bytes = new Uint8Array(64);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < 4; i++) {
      view.setUint16(i * 16, i === 1 ? selector : SELECTOR_DATA, true);
      view.setUint32(i * 16 + 4, i === 1 ? attributes : ATTRIBUTES_DATA, true);
      view.setUint32(i * 16 + 8, 0xffffffff, true);
    }
    return bytes;
  }

  /** Writes x87 and SSE state from an FXSAVE64 image. */
  loadFx(fx: Uint8Array, fxView: DataView): void {
    const status = fxView.getUint16(2, true);
    this.view.setUint16(layout.FPU_CONTROL, fxView.getUint16(0, true), true);
    this.view.setUint16(layout.FPU_STATUS, status, true);
    this.view.setUint8(layout.FPU_TAG, fx[4] ?? 0);
    this.view.setUint32(layout.MXCSR, fxView.getUint32(FX_MXCSR, true), true);
    const top = (status >> 11) & 7;
    for (let i = 0; i < 8; i++) {
      const from = FX_ST + i * 16;
      const to = ((top + i) & 7) * 16;
      for (let byte = 0; byte < 10; byte++) this.fpr[to + byte] = fx[from + byte] ?? 0;
    }
    this.xmm.set(fx.subarray(FX_XMM, FX_LEGACY));
  }

  /** Reads x87 and SSE state into an FXSAVE64 image, without instruction pointers. */
  storeFx(fx: Uint8Array, fxView: DataView): void {
    const status = this.view.getUint16(layout.FPU_STATUS, true);
    fxView.setUint16(0, this.view.getUint16(layout.FPU_CONTROL, true), true);
    fxView.setUint16(2, status, true);
    fx[4] = this.view.getUint8(layout.FPU_TAG);
    fxView.setUint32(FX_MXCSR, this.view.getUint32(layout.MXCSR, true), true);
    const top = (status >> 11) & 7;
    for (let i = 0; i < 8; i++) {
      const from = ((top + i) & 7) * 16;
      const to = FX_ST + i * 16;
      for (let byte = 0; byte < 10; byte++) fx[to + byte] = this.fpr[from + byte] ?? 0;
    }
    fx.set(this.xmm, FX_XMM);
  }

  /** Tells the core that code was changed behind its back. */
  codeChanged(): void {
    // Nothing is running: the core must not look for a block under way.
    this.view.setUint32(layout.CUR, 0, true);
    this.core.codeWritten(layout.FRAMES + CODE);
    this.core.codeWritten(layout.FRAMES + CODE + 0x1000);
  }

  /** Compiles the blocks that have run since the last time: run them again to see them compiled. */
  compile(): void {
    this.compiler?.poll();
  }

  /** Whether the block that starts at a code address is compiled. */
  isCompiled(address: number): boolean {
    return this.blocks.isCompiled(CODE + address - CODE_BASE);
  }

  /** Forgets all code, so that functions it was compiled to can go. */
  forgetCode(): void {
    this.core.resetCode();
    this.core.flushTlb(0);
  }

  /** Runs from a case's registers and flags for at most `budget` instructions, or to an exception. */
  execute(state: CaseState, compat: boolean, budget: number): Ending {
    const { view } = this;
    this.registers.set(state.registers);
    view.setUint32(layout.EFLAGS, state.eflags, true);
    view.setUint32(layout.LAZY_KIND, 0, true);
    view.setBigUint64(layout.RIP, BigInt(state.codeAddress), true);
    view.setUint32(layout.CUR, 0, true);
    view.setUint32(layout.SHADOW, 0, true);
    this.segments.set(compat ? this.segments32 : this.segments64);
    // A case may end at another privilege or, by a far transfer, in the other mode.
    const mode = compat ? layout.MODE_32 : layout.MODE_64;
    const kept = view.getUint32(layout.CPL, true) === 3 && view.getUint32(layout.MODE, true) === mode;
    if (this.compat !== compat || !kept) this.core.afterStateWrite();
    this.compat = compat;
    let exit = this.runOnce(() => this.core.run(budget));
    while (exit === undefined) exit = this.runOnce(() => this.core.resume());
    this.core.materialize();
    return this.readEnding();
  }

  private runOnce(action: () => number): number | undefined {
    try {
      return action();
    } catch (error) {
      if (error instanceof Fault) return undefined;
      throw error;
    }
  }

  private readEnding(): Ending {
    const { view, ending } = this;
    ending.rip = view.getBigUint64(layout.RIP, true);
    ending.rsp = this.registers[4] ?? 0n;
    ending.eflags = view.getUint32(layout.EFLAGS, true);
    ending.vector = -1;
    ending.error = 0;
    const offset = Number(ending.rip) - (KERNEL_BASE + HANDLERS);
    if (view.getUint32(layout.CPL, true) === 3 || offset < 0 || offset >= 32 * HANDLER_STEP) return ending;
    ending.vector = Math.floor(offset / HANDLER_STEP);
    let frame = layout.FRAMES + Number(ending.rsp) - KERNEL_BASE;
    if (KERNEL_STACK + 0x1000 + layout.FRAMES - frame === 48) {
      ending.error = view.getUint32(frame, true);
      frame += 8;
    }
    ending.rip = view.getBigUint64(frame, true);
    ending.eflags = view.getUint32(frame + 16, true);
    ending.rsp = view.getBigUint64(frame + 24, true);
    ending.cr2 = view.getBigUint64(layout.CR2, true);
    return ending;
  }
}
