/** Arithmetic helpers of the generated instruction bodies: values are zero-extended to 64 bits, `bits` 8…64. */

import { getFlags, parity, setArith, setCarryOverflow } from "./flags";
import { EFLAGS, FLAG_AF, FLAG_CF, FLAG_OF, FLAG_SF, FLAG_ZF, FLAGS_ARITH, KIND_EXPLICIT, LAZY_KIND } from "./layout";

/** Flags of ADC and SBB: x ± y ± carry = r, all cut to the operand size; `shift` = 64 − operand bits. */
export function setCarried(x: u64, y: u64, r: u64, subtract: bool, shift: u64, carry: bool): void {
  const a = x << shift;
  const b = y << shift;
  const result = r << shift;
  let flags = parity(<u32>r);
  if (subtract ? a < b || (carry && a == b) : result < a || (carry && result == a)) flags |= FLAG_CF;
  const overflow = subtract ? (a ^ b) & (a ^ result) : (a ^ result) & (b ^ result);
  if (overflow >> 63) flags |= FLAG_OF;
  flags |= <u32>(x ^ y ^ r) & FLAG_AF;
  if (result == 0) flags |= FLAG_ZF;
  if (result >> 63) flags |= FLAG_SF;
  store<u32>(EFLAGS, (load<u32>(EFLAGS) & ~FLAGS_ARITH) | flags);
  store<u32>(LAZY_KIND, KIND_EXPLICIT);
}

/** High 64 bits of the unsigned product. */
export function unsignedHigh(x: u64, y: u64): u64 {
  const xl = x & 0xffffffff;
  const xh = x >> 32;
  const yl = y & 0xffffffff;
  const yh = y >> 32;
  const middle = xh * yl + ((xl * yl) >> 32);
  const cross = xl * yh + (middle & 0xffffffff);
  return xh * yh + (middle >> 32) + (cross >> 32);
}

/** High 64 bits of the signed product. */
export function signedHigh(x: u64, y: u64): i64 {
  return <i64>(unsignedHigh(x, y) - (<i64>x < 0 ? y : 0) - (<i64>y < 0 ? x : 0));
}

function maskOf(bits: u32): u64 {
  return bits == 64 ? 0xffffffffffffffff : ((<u64>1) << bits) - 1;
}

export function rolValue(x: u64, n: u32, bits: u32): u64 {
  const k = n & (bits - 1);
  return k == 0 ? x : ((x << k) | (x >> (bits - k))) & maskOf(bits);
}

export function rolFlags(x: u64, r: u64, n: u32, bits: u32): void {
  const carry = <u32>r & 1;
  setCarryOverflow(carry, (<u32>(r >> (bits - 1)) ^ carry) & 1);
}

export function rorValue(x: u64, n: u32, bits: u32): u64 {
  const k = n & (bits - 1);
  return k == 0 ? x : ((x >> k) | (x << (bits - k))) & maskOf(bits);
}

export function rorFlags(x: u64, r: u64, n: u32, bits: u32): void {
  setCarryOverflow(<u32>(r >> (bits - 1)) & 1, <u32>((r >> (bits - 1)) ^ (r >> (bits - 2))) & 1);
}

// Rotates through carry leave the new carry here for the flags step.
let rotatedCarry: u32 = 0;

export function rclValue(x: u64, n: u32, bits: u32): u64 {
  let carry: u64 = getFlags() & 1;
  let k = bits < 32 ? n % (bits + 1) : n;
  let value = x;
  for (; k != 0; k--) {
    const out = (value >> (bits - 1)) & 1;
    value = ((value << 1) | carry) & maskOf(bits);
    carry = out;
  }
  rotatedCarry = <u32>carry;
  return value;
}

export function rclFlags(x: u64, r: u64, n: u32, bits: u32): void {
  setCarryOverflow(rotatedCarry, (<u32>(r >> (bits - 1)) ^ rotatedCarry) & 1);
}

export function rcrValue(x: u64, n: u32, bits: u32): u64 {
  let carry: u64 = getFlags() & 1;
  let k = bits < 32 ? n % (bits + 1) : n;
  let value = x;
  for (; k != 0; k--) {
    const out = value & 1;
    value = (value >> 1) | (carry << (bits - 1));
    carry = out;
  }
  rotatedCarry = <u32>carry;
  return value;
}

export function rcrFlags(x: u64, r: u64, n: u32, bits: u32): void {
  setCarryOverflow(rotatedCarry, <u32>((r >> (bits - 1)) ^ (r >> (bits - 2))) & 1);
}

/** SHLD for 16, 32 and 64 bits; counts above 16 for 16-bit operands continue into the destination again. */
export function shldValue(x: u64, y: u64, n: u32, bits: u32): u64 {
  if (bits == 16) {
    const wide = (x << 32) | (y << 16) | x;
    return (wide >> (32 - n)) & 0xffff;
  }
  return ((x << n) | (y >> (bits - n))) & maskOf(bits);
}

export function shldFlags(x: u64, y: u64, r: u64, n: u32, bits: u32): void {
  const carry = bits == 16 ? <u32>(((x << 32) | (y << 16) | x) >> (48 - n)) & 1 : <u32>(x >> (bits - n)) & 1;
  shiftFlags(r, carry, <u32>((r ^ x) >> (bits - 1)) & 1, bits);
}

export function shrdValue(x: u64, y: u64, n: u32, bits: u32): u64 {
  if (bits == 16) {
    const wide = (x << 32) | (y << 16) | x;
    return (wide >> n) & 0xffff;
  }
  return ((x >> n) | (y << (bits - n))) & maskOf(bits);
}

export function shrdFlags(x: u64, y: u64, r: u64, n: u32, bits: u32): void {
  const carry = bits == 16 ? <u32>(((x << 32) | (y << 16) | x) >> (n - 1)) & 1 : <u32>(x >> (n - 1)) & 1;
  shiftFlags(r, carry, <u32>((r ^ x) >> (bits - 1)) & 1, bits);
}

function shiftFlags(r: u64, carry: u32, overflow: u32, bits: u32): void {
  let flags = carry | (overflow << 11) | parity(<u32>r);
  if (r == 0) flags |= FLAG_ZF;
  if ((r >> (bits - 1)) & 1) flags |= FLAG_SF;
  setArith(flags);
}

/** BSF and BSR define ZF only (from the source); the other flags are left as they were. */
export function setScanFlags(source: u64): void {
  setArith((getFlags() & ~FLAG_ZF) | (source == 0 ? FLAG_ZF : 0));
}
