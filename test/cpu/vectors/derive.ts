/**
 * The initial state of a case, computed from its seed, its form and its code bytes alone: the vector files store only
 * code and results. Generator and replay share this file, so any change here requires regenerating the vectors.
 */
import { Prng } from "./prng.ts";
import {
  type CaseState,
  CODE_BASE,
  CODE_SIZE,
  DATA_BASE,
  DATA_SIZE,
  FX_MXCSR,
  FX_ST,
  FX_XMM,
  PATCH_SIZE,
  SELECTOR_32,
  SELECTOR_64,
  SELECTOR_DATA,
  STACK_BASE,
  STACK_SIZE,
} from "./state.ts";
import {
  fillBcd,
  fillFloat32,
  fillFloat64,
  fillFloat80,
  fillInteger,
  KIND_BCD,
  KIND_FLOAT32,
  KIND_FLOAT64,
  KIND_FLOAT80,
  KIND_IMAGE,
  KIND_POINTER,
} from "./values.ts";

/** Which part of the state a form works on besides general registers. */
export const PROFILE_INTEGER = 0;
export const PROFILE_SSE = 1;
export const PROFILE_X87 = 2;
export const PROFILE_MMX = 3;

/** How registers are prepared so that the case does something. Bits of Form.aim. */
export const AIM_STRING = 1; // RSI, RDI at data, RCX a small count
export const AIM_BIT_OFFSET = 2; // ModRM.reg is a bit offset: keep it near
export const AIM_TABLE = 4; // RBX points to data (XLAT)
export const AIM_FRAME = 8; // RBP points to the stack
export const AIM_SHIFT = 16; // CL is a shift count
export const AIM_COMPARE = 32; // the accumulator often equals the destination
export const AIM_DIVIDE = 64; // RDX is often small
export const AIM_BRANCH = 128; // the operand is a code pointer
export const AIM_STACK = 256; // the operand is what RSP points to
export const AIM_ALIGN = 512; // operands are mostly 16-byte aligned
export const AIM_FAR = 1024; // the code pointer has a selector behind it
export const AIM_SELECTOR = 2048; // the operand is a data segment selector
export const AIM_PAIR = 4096; // like AIM_COMPARE with RDX:RAX
export const AIM_IRET = 8192; // RSP points to an interrupt frame

/** Transcendental x87 results differ between processor makers in the last places: a few units are allowed. */
export const TOLERANCE_X87 = 1;
/** RCPPS, RSQRTPS: only a relative error of 1.5 * 2^-12 is architectural. */
export const TOLERANCE_RECIPROCAL = 2;

/** Instructions that share an encoding pattern and their rules of comparison. */
export interface Form {
  readonly name: string;
  /** EFLAGS bits the manual leaves undefined. */
  readonly undef: number;
  /** x87 status bits that are not compared. */
  readonly undefStatus: number;
  readonly profile: number;
  readonly aim: number;
  readonly kind: number;
  /** 0: results are exact; TOLERANCE_X87 or TOLERANCE_RECIPROCAL: see there. */
  readonly tolerance: number;
  /** Memory that is not compared: [start, end) offsets from the operand. */
  readonly holes: readonly (readonly [number, number])[];
  /** Reads and writes memory: makers differ in whether a fault on an absent page is reported as a write. */
  readonly readsDestination: boolean;
  /** How CR2 is compared after a page fault: operands of several parts fault at any of them. */
  readonly faultAddress: "exact" | "page" | "any";
  readonly count: number;
}

const FLAG_BITS = [1, 4, 16, 64, 128, 2048];
const RSP = 4;
const RBP = 5;
const RSI = 6;
const RDI = 7;

function prepareFlags(random: Prng, state: CaseState, form: Form): void {
  let flags = 0x202;
  const bits = random.next();
  for (let i = 0; i < FLAG_BITS.length; i++) if ((bits >>> i) & 1) flags |= FLAG_BITS[i] ?? 0;
  const backwards = form.aim & AIM_STRING ? 33 : 5;
  if (random.below(100) < backwards) flags |= 1024;
  state.eflags = flags;
}

function prepareX87(random: Prng, state: CaseState, integers: boolean): void {
  const { fx, fxView } = state;
  const masks = random.chance(88) ? 0x3f : random.next() & 0x3f;
  const precision = random.chance(60) ? 3 : random.pick([0, 2, 3]);
  fxView.setUint16(0, 0x40 | masks | (precision << 8) | (random.below(4) << 10), true);
  let status = (random.below(8) << 11) | (random.next() & 0x4700);
  if (random.chance(25)) {
    status |= random.next() & 0x7f;
    // A pending unmasked exception makes nearly every instruction raise #MF: keep those cases rare.
    if (status & ~masks & 0x3f && random.chance(70)) status &= ~0x3f | masks;
  }
  if (status & ~masks & 0x3f) status |= 0x8080;
  fxView.setUint16(2, status, true);
  fx[4] = random.chance(60) ? 0xff : random.chance(70) ? random.next() & 0xff : 0;
  for (let i = 0; i < 8; i++) {
    const at = FX_ST + i * 16;
    if (integers) {
      fillInteger(random, fxView, at);
      fxView.setUint16(at + 8, 0xffff, true);
    } else fillFloat80(random, fxView, at);
  }
}

function fillLanes(random: Prng, view: DataView, at: number, kind: number, bytes: number): void {
  const lanes = random.chance(85) ? kind : random.below(3);
  for (let offset = 0; offset < bytes; offset += 8) {
    if (lanes === KIND_FLOAT32) {
      fillFloat32(random, view, at + offset);
      fillFloat32(random, view, at + offset + 4);
    } else if (lanes === KIND_FLOAT64) fillFloat64(random, view, at + offset);
    else fillInteger(random, view, at + offset);
  }
}

function prepareMxcsr(random: Prng): number {
  let mxcsr = random.chance(88) ? 0x1f80 : random.next() & 0x1f80;
  mxcsr |= random.below(4) << 13;
  if (random.chance(12)) mxcsr |= 0x8000;
  if (random.chance(12)) mxcsr |= 0x40;
  if (random.chance(30)) mxcsr |= random.next() & 0x3f;
  return mxcsr;
}

function prepareFx(random: Prng, state: CaseState, form: Form): void {
  state.fx.fill(0);
  state.fxView.setUint16(0, 0x37f, true);
  state.fxView.setUint32(FX_MXCSR, 0x1f80, true);
  if (form.profile === PROFILE_INTEGER) return;
  if (form.profile !== PROFILE_SSE) prepareX87(random, state, form.profile === PROFILE_MMX);
  if (form.profile === PROFILE_X87 && form.kind !== KIND_IMAGE) return;
  state.fxView.setUint32(FX_MXCSR, prepareMxcsr(random), true);
  for (let i = 0; i < 16; i++) fillLanes(random, state.fxView, FX_XMM + i * 16, form.kind, 16);
}

/** A data address: usually inside, sometimes across the two pages, at the end, or outside. */
function pickData(random: Prng, aim: number): number {
  const choice = random.below(100);
  let address = DATA_BASE + 128 + random.below(DATA_SIZE - 768);
  if (choice < 9) address = DATA_BASE + DATA_SIZE / 2 - random.below(20);
  else if (choice < 13) address = DATA_BASE + DATA_SIZE - random.below(24);
  else if (choice < 15) address = DATA_BASE - random.below(16);
  if (aim & AIM_ALIGN ? random.chance(92) : random.chance(50)) address &= ~15;
  return address;
}

function pickCode(random: Prng): number {
  return CODE_BASE + 2 + random.below(CODE_SIZE - 16);
}

function pickSelector(random: Prng): number {
  return random.chance(60) ? SELECTOR_DATA : random.chance(50) ? random.below(4) : random.next() & 0xffff;
}

/** Reads a little-endian signed value of 1, 2 or 4 bytes. */
function signedAt(code: Uint8Array, at: number, size: number): number {
  let value = 0;
  for (let i = 0; i < size; i++) value |= (code[at + i] ?? 0) << (8 * i);
  const shift = 32 - 8 * size;
  return (value << shift) >> shift;
}

interface Prefixes {
  rex: number;
  address: boolean;
  repeat: boolean;
  narrowOperand: boolean;
}

function scanPrefixes(code: Uint8Array, compat: boolean): Prefixes {
  const result: Prefixes = { rex: 0, address: false, repeat: false, narrowOperand: false };
  for (const byte of code) {
    if (byte === 0x67) result.address = true;
    else if (byte === 0xf2 || byte === 0xf3) result.repeat = true;
    else if (!compat && (byte & 0xf0) === 0x40) result.rex = byte;
    else if (byte === 0x66) result.narrowOperand = true;
    else if (![0xf0, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65].includes(byte)) break;
  }
  return result;
}

/** A memory operand's address computation: numbers of registers (-1: none), scale as a shift, displacement. */
interface Address {
  base: number;
  index: number;
  scale: number;
  displacement: number;
  /** The address is relative to the end of the instruction. */
  relative: boolean;
}

function parseAddress(code: Uint8Array, modrmAt: number, rex: number, compat: boolean): Address {
  const modrm = code[modrmAt] ?? 0;
  const mode = modrm >> 6;
  const address: Address = {
    base: (modrm & 7) | ((rex & 1) << 3),
    index: -1,
    scale: 0,
    displacement: 0,
    relative: false,
  };
  let at = modrmAt + 1;
  let noBase = mode === 0 && (modrm & 7) === 5;
  address.relative = noBase && !compat;
  if ((modrm & 7) === 4) {
    const sib = code[at++] ?? 0;
    address.base = (sib & 7) | ((rex & 1) << 3);
    address.index = ((sib >> 3) & 7) | ((rex & 2) << 2);
    if (address.index === 4) address.index = -1;
    address.scale = sib >> 6;
    noBase = mode === 0 && (sib & 7) === 5;
  }
  if (noBase) address.base = -1;
  address.displacement = noBase || mode === 2 ? signedAt(code, at, 4) : mode === 1 ? signedAt(code, at, 1) : 0;
  return address;
}

/** Sets base and index registers so that the operand lies at `wanted` (or close by); returns its address. */
function aimOperand(
  random: Prng,
  state: CaseState,
  address: Address,
  wanted: number,
  narrow: boolean,
  end: number,
): number {
  const { registers } = state;
  const mask = (value: bigint): bigint => BigInt.asUintN(narrow ? 32 : 64, value);
  const garbage = narrow && random.chance(40) ? BigInt(random.next()) << 32n : 0n;
  const goal = BigInt(wanted) - BigInt(address.displacement);
  const { base, index, scale } = address;
  const factor = 1n << BigInt(scale);
  if (base >= 0 && index >= 0 && base !== index) {
    registers[index] = mask(BigInt(random.below(512) - 128)) | garbage;
    registers[base] = mask(goal - mask(registers[index] ?? 0n) * factor) | garbage;
  } else if (base >= 0) registers[base] = mask(index >= 0 ? goal / (factor + 1n) : goal) | garbage;
  else if (index >= 0) registers[index] = mask(goal >> BigInt(scale)) | garbage;
  let sum = BigInt(address.displacement);
  if (base >= 0) sum += registers[base] ?? 0n;
  if (index >= 0) sum += (registers[index] ?? 0n) * factor;
  if (address.relative) sum += BigInt(end);
  return Number(mask(sum));
}

function prepareString(random: Prng, state: CaseState, prefixes: Prefixes): void {
  const { registers } = state;
  for (const register of [RSI, RDI]) {
    const garbage = prefixes.address && random.chance(30) ? BigInt(random.next()) << 32n : 0n;
    registers[register] = BigInt(pickData(random, 0)) | garbage;
  }
  // Overlapping moves a few bytes apart are the interesting ones for a bulk implementation.
  if (random.chance(25)) registers[RDI] = (registers[RSI] ?? 0n) + BigInt(random.below(33) - 16);
  if (prefixes.repeat && random.chance(96)) registers[1] = BigInt(random.below(random.chance(15) ? 600 : 24));
}

function preparePatch(random: Prng, state: CaseState, form: Form): void {
  const view = state.patchView;
  for (let at = 0; at < PATCH_SIZE; at += 8) {
    if (form.kind === KIND_FLOAT32 || form.kind === KIND_FLOAT64) fillLanes(random, view, at, form.kind, 8);
    else fillInteger(random, view, at);
  }
  if (form.kind === KIND_FLOAT80) fillFloat80(random, view, 0);
  else if (form.kind === KIND_BCD) fillBcd(random, view, 0);
  else if (form.kind === KIND_IMAGE) {
    view.setUint16(0, 0x40 | (random.chance(80) ? 0x3f : random.next() & 0x3f) | ((random.next() & 0xd) << 8), true);
    view.setUint16(2, random.next() & 0x7f00, true);
    view.setUint32(FX_MXCSR, random.chance(90) ? random.next() & 0xffff : random.next(), true);
  } else if (form.kind === KIND_POINTER && random.chance(92)) {
    view.setUint32(0, pickCode(random), true);
    view.setUint32(4, 0, true);
  } else if (form.aim & AIM_SELECTOR) {
    const selector = pickSelector(random);
    for (const at of form.aim & AIM_FAR ? [2, 4] : [0]) view.setUint16(at, selector, true);
  } else if (form.aim & AIM_COMPARE && random.chance(50)) {
    view.setUint32(0, state.halves[0] ?? 0, true);
    view.setUint32(4, state.halves[1] ?? 0, true);
  }
}

function comparePair(state: CaseState, rex: number): void {
  const { halves, patchView } = state;
  const wide = (rex & 8) !== 0;
  patchView.setUint32(0, halves[0] ?? 0, true);
  if (wide) patchView.setUint32(4, halves[1] ?? 0, true);
  patchView.setUint32(wide ? 8 : 4, halves[4] ?? 0, true);
  if (wide) patchView.setUint32(12, halves[5] ?? 0, true);
}

/** Instruction pointer, CS, flags, stack pointer and SS in slots of the operand's size. */
function interruptFrame(random: Prng, state: CaseState, prefixes: Prefixes, compat: boolean): void {
  const size = prefixes.rex & 8 ? 8 : prefixes.narrowOperand ? 2 : 4;
  const flags = 0x202 | (random.next() & 0x24_0cd5);
  const selector = random.chance(85) ? (compat ? SELECTOR_32 : SELECTOR_64) : (random.next() & 0xffff) | 3;
  const slots = [pickCode(random), selector, flags, STACK_BASE + random.below(0x1000), SELECTOR_DATA];
  slots.forEach((value, slot) => {
    for (let i = 0; i < size; i++) state.patch[slot * size + i] = i < 4 ? value >>> (8 * i) : 0;
  });
}

/** The selector of a far pointer. Its RPL is 3: makers differ in the order of checks for a change of privilege. */
function farPointer(random: Prng, state: CaseState, narrow: boolean, compat: boolean): void {
  const selector = random.chance(80) ? (compat ? SELECTOR_32 : SELECTOR_64) : (random.next() & 0xffff) | 3;
  for (const at of narrow ? [2] : [4, 8]) state.patchView.setUint16(at, selector, true);
}

function placePatch(state: CaseState, address: number): void {
  const inData = address >= DATA_BASE && address < DATA_BASE + DATA_SIZE;
  const inStack = address >= STACK_BASE && address < STACK_BASE + STACK_SIZE;
  const end = inData ? DATA_BASE + DATA_SIZE : STACK_BASE + STACK_SIZE;
  state.patchAddress = inData || inStack ? Math.min(address, end - PATCH_SIZE) : 0;
}

const random = new Prng();

/**
 * Computes the whole initial state of one case.
 * @param modrmAt offset of the ModRM byte of a memory operand in the code, or 0 when there is none
 */
export function deriveCase(
  state: CaseState,
  form: Form,
  code: Uint8Array,
  modrmAt: number,
  compat: boolean,
  stream: number,
  index: number,
): void {
  random.seed(stream, index);
  const { registers, halves } = state;
  const prefixes = scanPrefixes(code, compat);
  const registerView = new DataView(registers.buffer, registers.byteOffset, 128);
  for (let i = 0; i < 16; i++) fillInteger(random, registerView, i * 8);
  if (random.chance(92)) registers[RSP] = BigInt(STACK_BASE + 0x400 + random.below(0x100) * 8);
  if (random.chance(50)) registers[RSI] = BigInt(pickData(random, form.aim));
  if (random.chance(50)) registers[RDI] = BigInt(pickData(random, form.aim));
  prepareFlags(random, state, form);
  if (form.aim & AIM_STRING) prepareString(random, state, prefixes);
  if (form.aim & AIM_TABLE) registers[3] = BigInt(pickData(random, 0));
  if (form.aim & AIM_FRAME && random.chance(92)) registers[RBP] = BigInt(STACK_BASE + 0x400 + random.below(0x100) * 8);
  if (form.aim & AIM_SHIFT && random.chance(70)) halves[2] = ((halves[2] ?? 0) & ~255) | random.below(70);
  if (form.aim & AIM_DIVIDE && random.chance(60)) registers[2] = BigInt.asUintN(64, BigInt(random.below(5) - 1));
  const modrm = code[modrmAt] ?? 0;
  if (form.aim & AIM_BIT_OFFSET && modrmAt > 0) {
    const register = ((modrm >> 3) & 7) | ((prefixes.rex & 4) << 1);
    registers[register] = BigInt.asUintN(64, BigInt(random.below(2048) - 1024));
  }
  if (form.aim & AIM_BRANCH && modrmAt === 0 && random.chance(95)) {
    const register = ((code.at(-1) ?? 0) & 7) | ((prefixes.rex & 1) << 3);
    registers[register] = BigInt(pickCode(random));
  }
  if (compat) for (let i = 0; i < 16; i++) halves[i * 2 + 1] = 0;
  let target = Number(BigInt.asUintN(53, registers[form.aim & AIM_FRAME ? RBP : RSP] ?? 0n));
  if (modrmAt > 0) {
    const wanted = pickData(random, form.aim);
    if (compat && prefixes.address) target = 0;
    else {
      const address = parseAddress(code, modrmAt, prefixes.rex, compat);
      const narrow = compat || prefixes.address;
      target = aimOperand(random, state, address, wanted, narrow, state.codeAddress + code.length);
      if (compat) for (let i = 0; i < 16; i++) halves[i * 2 + 1] = 0;
    }
  } else if (form.aim & (AIM_STRING | AIM_TABLE)) target = halves[form.aim & AIM_TABLE ? 6 : RSI * 2] ?? 0;
  if (form.aim & AIM_SELECTOR && modrmAt === 0) {
    registers[(modrmOfRegisterForm(code) & 7) | ((prefixes.rex & 1) << 3)] = BigInt(pickSelector(random));
  }
  if (form.aim & AIM_COMPARE && modrmAt === 0 && random.chance(50)) {
    registers[(modrmOfRegisterForm(code) & 7) | ((prefixes.rex & 1) << 3)] = registers[0] ?? 0n;
  }
  prepareFx(random, state, form);
  preparePatch(random, state, form);
  if (form.aim & AIM_FAR && !(form.aim & AIM_SELECTOR)) farPointer(random, state, prefixes.narrowOperand, compat);
  if (form.aim & AIM_PAIR && random.chance(60)) comparePair(state, prefixes.rex);
  if (form.aim & AIM_IRET) interruptFrame(random, state, prefixes, compat);
  placePatch(state, target);
  state.target = state.patchAddress === 0 ? DATA_BASE : target;
}

/** The ModRM byte of a register form without an immediate: its last byte. */
function modrmOfRegisterForm(code: Uint8Array): number {
  return code.at(-1) ?? 0;
}

/** What the data and stack areas hold before every case (the patch goes on top). */
export function baseMemory(): { data: Uint8Array; stack: Uint8Array } {
  const generator = new Prng();
  generator.seed(0x6d656d, 0);
  const bytes = new Uint8Array(DATA_SIZE + STACK_SIZE);
  const view = new DataView(bytes.buffer);
  for (let at = 0; at < bytes.length; at += 8) fillInteger(generator, view, at);
  return { data: bytes.subarray(0, DATA_SIZE), stack: bytes.subarray(DATA_SIZE) };
}

/** The form random programs are derived and compared as. */
export const PROGRAM_FORM: Form = {
  name: "program",
  undef: 16,
  undefStatus: 0,
  profile: PROFILE_SSE,
  aim: AIM_ALIGN,
  kind: KIND_FLOAT64,
  tolerance: 0,
  holes: [],
  readsDestination: true,
  faultAddress: "page",
  count: 0,
};

/** RBX of a random program: its memory operands lie around it. */
export const PROGRAM_DATA = DATA_BASE + DATA_SIZE / 2;

/** Computes the initial state of a random program: RBX and RSP usable, exceptions masked, DF clear. */
export function deriveProgram(state: CaseState, code: Uint8Array, stream: number, index: number): void {
  state.codeAddress = CODE_BASE + ((index * 0x91) % (CODE_SIZE - 0x400 - 16));
  deriveCase(state, PROGRAM_FORM, code, 0, false, stream, index);
  state.registers[3] = BigInt(PROGRAM_DATA);
  state.registers[RSP] = BigInt(STACK_BASE + STACK_SIZE / 2);
  state.eflags &= ~1024;
  state.fxView.setUint32(FX_MXCSR, 0x1f80 | (state.fxView.getUint32(FX_MXCSR, true) & 0xe040), true);
  placePatch(state, PROGRAM_DATA);
  state.target = PROGRAM_DATA;
}
