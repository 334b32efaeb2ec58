/**
 * The state a case starts with, in the layout of the native harness (struct Case of native/harness.c), and the address
 * space both the harness and the replay build.
 */
export const CODE_BASE = 0x200000;
export const CODE_SIZE = 0x2000;
export const DATA_BASE = 0x300000;
export const DATA_SIZE = 0x2000;
export const STACK_BASE = 0x310000;
export const STACK_SIZE = 0x1000;

export const SELECTOR_64 = 0x33;
export const SELECTOR_32 = 0x23;
export const SELECTOR_DATA = 0x2b;

/** Bytes of a case in front of its code, and the fields in them. */
export const CASE_SIZE = 720;
const CASE_CODE_ADDRESS = 0; // u32
const CASE_CODE_LENGTH = 4; // u16
const CASE_FLAGS = 6; // u16
const CASE_EFLAGS = 8; // u32
const CASE_PATCH_ADDRESS = 12; // u32, 0: none
const CASE_REGISTERS = 16; // 16 u64
const CASE_PATCH = 144; // 64 bytes
const CASE_FX = 208; // 512 bytes, FXSAVE64 image

export const CASE_FLAG_COMPAT = 1;
export const PATCH_SIZE = 64;
/** Bytes of the FXSAVE image in front of its reserved part. */
export const FX_LEGACY = 416;
export const FX_MXCSR = 24;
export const FX_ST = 32;
export const FX_XMM = 160;

/** A harness case with typed views on its parts. One object is reused for all cases. */
export class CaseState {
  readonly buffer = new ArrayBuffer(CASE_SIZE);
  readonly bytes = new Uint8Array(this.buffer);
  private readonly view = new DataView(this.buffer);
  /** General registers as 64-bit values. */
  readonly registers = new BigUint64Array(this.buffer, CASE_REGISTERS, 16);
  /** The same as pairs of 32-bit halves, low half first. */
  readonly halves = new Uint32Array(this.buffer, CASE_REGISTERS, 32);
  readonly patch = new Uint8Array(this.buffer, CASE_PATCH, PATCH_SIZE);
  readonly patchView = new DataView(this.buffer, CASE_PATCH, PATCH_SIZE);
  readonly fx = new Uint8Array(this.buffer, CASE_FX, 512);
  readonly fxView = new DataView(this.buffer, CASE_FX, 512);
  /** Address of the memory operand the case was aimed at, for relative addresses in the result. */
  target = 0;

  copyFrom(other: CaseState): void {
    this.bytes.set(other.bytes);
    this.target = other.target;
  }

  get codeAddress(): number {
    return this.view.getUint32(CASE_CODE_ADDRESS, true);
  }
  set codeAddress(value: number) {
    this.view.setUint32(CASE_CODE_ADDRESS, value, true);
  }
  get eflags(): number {
    return this.view.getUint32(CASE_EFLAGS, true);
  }
  set eflags(value: number) {
    this.view.setUint32(CASE_EFLAGS, value, true);
  }
  get patchAddress(): number {
    return this.view.getUint32(CASE_PATCH_ADDRESS, true);
  }
  set patchAddress(value: number) {
    this.view.setUint32(CASE_PATCH_ADDRESS, value, true);
  }
  set codeLength(value: number) {
    this.view.setUint16(CASE_CODE_LENGTH, value, true);
  }
  set flags(value: number) {
    this.view.setUint16(CASE_FLAGS, value, true);
  }
}

/** Cases that share a set of code pages: their code lies side by side, so that a replay writes the pages once. */
export const SLOTS = 256;

/**
 * Where the code of a case lies. Two slots are special: one straddles the two code pages, one ends exactly where the
 * code area ends.
 */
export function slotAddress(slot: number, length: number): number {
  const middle = CODE_BASE + CODE_SIZE / 2;
  if (slot === SLOTS / 2 - 1) return middle - ((length + 1) >> 1);
  if (slot === SLOTS / 2) return middle + 16;
  if (slot === SLOTS - 1) return CODE_BASE + CODE_SIZE - length;
  return CODE_BASE + slot * 32;
}
