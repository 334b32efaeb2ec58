/**
 * Binary32 and binary64 arithmetic in integers: every rounding mode and every exception flag of MXCSR, exactly.
 *
 * WebAssembly rounds to nearest only and has no flags, so this is the path for all that is not plain. Both formats
 * share one inner form: a sign, the exponent of the leading one, and a 64-bit significand whose leading one is bit 62;
 * bit 0 is sticky (it stands for everything below). Values travel as bit patterns, a binary32 in the low 32 bits.
 * Sources: IEEE 754-2008; SDM volume 1, 4.8.4 (NaN), 10.2.3 (MXCSR), 11.5 (SIMD floating-point exceptions).
 */

import { raise } from "./fault";
import { CR4, CR4_OSXMMEXCPT, EXC_UD, EXC_XM, MXCSR } from "./layout";

/** Exception flags, as in bits 0…5 of MXCSR. */
export const FLOAT_IE: u32 = 1;
export const FLOAT_DE: u32 = 2;
export const FLOAT_ZE: u32 = 4;
export const FLOAT_OE: u32 = 8;
export const FLOAT_UE: u32 = 16;
export const FLOAT_PE: u32 = 32;
const DAZ: u32 = 64;
const OVERFLOW_MASK: u32 = 0x400;
const UNDERFLOW_MASK: u32 = 0x800;
const FTZ: u32 = 0x8000;

/** Rounding modes, as in bits 13…14 of MXCSR. */
export const ROUND_NEAREST: u32 = 0;
export const ROUND_DOWN: u32 = 1;
export const ROUND_UP: u32 = 2;
export const ROUND_ZERO: u32 = 3;

/** Binary operations of arithmetic(). */
export const OP_ADD: u32 = 0;
export const OP_SUB: u32 = 1;
export const OP_MUL: u32 = 2;
export const OP_DIV: u32 = 3;
export const OP_MIN: u32 = 4;
export const OP_MAX: u32 = 5;
export const OP_SQRT: u32 = 6;

/** Results of compareF(). */
export const LESS: u32 = 0;
export const EQUAL: u32 = 1;
export const GREATER: u32 = 2;
export const UNORDERED: u32 = 3;

/** Formats: the number of fraction bits tells them apart. */
export const F32: u32 = 23;
export const F64: u32 = 52;

let control: u32 = 0; // MXCSR at begin()
let rounding: u32 = 0;
let flags: u32 = 0; // exceptions of the running instruction

// the last operand taken apart by unpack()
let partSign: u32 = 0;
let partExponent: i32 = 0;
let partSignificand: u64 = 0;

/** Starts an instruction: takes the modes from MXCSR and forgets the exceptions of the last one. */
export function begin(): void {
  control = load<u32>(MXCSR);
  rounding = (control >> 13) & 3;
  flags = 0;
}

/** Overrides the rounding mode until the next begin() (truncating conversions, ROUNDPS). */
export function setRounding(mode: u32): void {
  rounding = mode;
}

/** Forgets an inexact result (ROUNDPS with bit 3 of the immediate). */
export function dropInexact(): void {
  flags &= ~FLOAT_PE;
}

/**
 * Ends an instruction, before its result is written: merges the flags into MXCSR and raises #XM (#UD if the system does
 * not take #XM) when one of them is unmasked. An unmasked flag of the operands hides those of the results.
 * Instructions of several stages (DPPS) settle after each.
 */
export function settle(): void {
  const unmasked = ~(control >> 7) & 0x3f;
  const operandFlags = FLOAT_IE | FLOAT_DE | FLOAT_ZE;
  if ((flags & operandFlags & unmasked) != 0) flags &= operandFlags;
  control |= flags;
  store<u32>(MXCSR, control);
  if ((flags & unmasked) != 0) raise((load<u32>(CR4) & CR4_OSXMMEXCPT) != 0 ? EXC_XM : EXC_UD);
}

// --- formats --------------------------------------------------------------------------------------------------

function signBit(format: u32): u64 {
  return format == F64 ? 0x8000000000000000 : 0x80000000;
}

function infinity(format: u32): u64 {
  return format == F64 ? 0x7ff0000000000000 : 0x7f800000;
}

function quietBit(format: u32): u64 {
  return (<u64>1) << (format - 1);
}

/** The NaN of an invalid operation: quiet, negative, no payload. */
function defaultNan(format: u32): u64 {
  return signBit(format) | infinity(format) | quietBit(format);
}

function magnitude(bits: u64, format: u32): u64 {
  return bits & (signBit(format) - 1);
}

function isNan(bits: u64, format: u32): bool {
  return magnitude(bits, format) > infinity(format);
}

function isSignaling(bits: u64, format: u32): bool {
  return isNan(bits, format) && (bits & quietBit(format)) == 0;
}

function isDenormal(bits: u64, format: u32): bool {
  return magnitude(bits, format) - 1 < ((<u64>1) << format) - 1;
}

function lowestExponent(format: u32): i32 {
  return format == F64 ? -1022 : -126;
}

/** A denormal operand as the operation sees it: zero of the same sign under DAZ, else itself. */
function flushed(bits: u64, format: u32): u64 {
  return (control & DAZ) != 0 && isDenormal(bits, format) ? bits & signBit(format) : bits;
}

function noteDenormal(bits: u64, format: u32): void {
  if (isDenormal(bits, format)) flags |= FLOAT_DE;
}

/** Takes a finite number apart; zero gets significand 0 and an exponent below every other. */
function unpack(bits: u64, format: u32): void {
  const value = magnitude(bits, format);
  partSign = bits & signBit(format) ? 1 : 0;
  const biased = <i32>(value >> format);
  if (biased != 0) {
    partExponent = biased - 1 + lowestExponent(format);
    partSignificand = ((value & (((<u64>1) << format) - 1)) | ((<u64>1) << format)) << (62 - format);
  } else if (value == 0) {
    partExponent = -20000;
    partSignificand = 0;
  } else {
    const shift = clz(value) - 1;
    partExponent = lowestExponent(format) - format + 62 - <i32>shift;
    partSignificand = value << shift;
  }
}

/** Shift right; what falls out stays as the sticky bit. */
function shiftRightSticky(value: u64, count: u32): u64 {
  if (count == 0) return value;
  if (count > 63) return value != 0 ? 1 : 0;
  return (value >> count) | (value << (64 - count) != 0 ? 1 : 0);
}

/** Drops the low `count` (1…63) bits of a significand, rounding as the mode and sign say. No flags. */
function roundOff(value: u64, count: u32, sign: u32): u64 {
  const rest = value & (((<u64>1) << count) - 1);
  const kept = value >> count;
  if (rest == 0) return kept;
  if (rounding == ROUND_NEAREST) {
    const half = (<u64>1) << (count - 1);
    return rest > half || (rest == half && (kept & 1) != 0) ? kept + 1 : kept;
  }
  return rounding == (sign != 0 ? ROUND_DOWN : ROUND_UP) ? kept + 1 : kept;
}

/**
 * The result of an overflow: infinity, or the largest finite number where the mode rounds towards zero. That is always
 * inexact; but where OE is unmasked only the loss of bits counts, which pack() has noted.
 */
function overflow(sign: u32, format: u32): u64 {
  flags |= (control & OVERFLOW_MASK) != 0 ? FLOAT_OE | FLOAT_PE : FLOAT_OE;
  const signed = sign != 0 ? signBit(format) : 0;
  const away = rounding == ROUND_NEAREST || rounding == (sign != 0 ? ROUND_DOWN : ROUND_UP);
  return signed | (away ? infinity(format) : infinity(format) - 1);
}

/**
 * Rounds a non-zero significand (leading one at bit 62) with the exponent of its leading one to a format, setting OE,
 * UE and PE. Tininess is judged after rounding, as if the exponent had no bound.
 */
function pack(sign: u32, exponent: i32, significand: u64, format: u32): u64 {
  const lowest = lowestExponent(format);
  const drop = 62 - format;
  const signed = sign != 0 ? signBit(format) : 0;
  let value = significand;
  let biased: i32 = exponent - lowest;
  let tiny = false;
  let lost = value;
  if (biased < 0) {
    tiny = biased < -1 || roundOff(value, drop, sign) >> (format + 1) == 0;
    if (tiny && (control & (FTZ | UNDERFLOW_MASK)) == (FTZ | UNDERFLOW_MASK)) {
      flags |= FLOAT_UE | FLOAT_PE;
      return signed;
    }
    value = shiftRightSticky(value, -biased);
    biased = 0;
    // Where UE is unmasked, inexactness is that of the result before its exponent was bounded.
    if (!tiny || (control & UNDERFLOW_MASK) != 0) lost = value;
    else flags |= FLOAT_UE;
  }
  if ((lost & (((<u64>1) << drop) - 1)) != 0) flags |= tiny ? FLOAT_PE | FLOAT_UE : FLOAT_PE;
  // The leading one of a normal number, or a carry out of the fraction, counts up the exponent field.
  const bits = ((<u64>biased) << format) + roundOff(value, drop, sign);
  return bits >= infinity(format) ? overflow(sign, format) : signed | bits;
}

function invalid(format: u32): u64 {
  flags |= FLOAT_IE;
  return defaultNan(format);
}

/** Result of an operation with a NaN operand: the first NaN, made quiet. */
function propagate(a: u64, b: u64, format: u32): u64 {
  if (isSignaling(a, format) || isSignaling(b, format)) flags |= FLOAT_IE;
  return (isNan(a, format) ? a : b) | quietBit(format);
}

// --- operations -----------------------------------------------------------------------------------------------

/** a + b, or a - b when `negate` holds the sign bit. */
function add(a: u64, second: u64, negate: u64, format: u32): u64 {
  if (isNan(a, format) || isNan(second, format)) return propagate(a, second, format);
  const b = second ^ negate;
  const infinite = infinity(format);
  if (magnitude(a, format) == infinite) {
    if (magnitude(b, format) == infinite && a != b) return invalid(format);
    noteDenormal(b, format);
    return a;
  }
  noteDenormal(a, format);
  if (magnitude(b, format) == infinite) return b;
  noteDenormal(b, format);
  unpack(a, format);
  let sign = partSign;
  let exponent = partExponent;
  let large = partSignificand;
  unpack(b, format);
  const different = sign != partSign;
  let small = partSignificand;
  if (partExponent > exponent || (partExponent == exponent && small > large)) {
    sign = partSign;
    const e = partExponent;
    partExponent = exponent;
    exponent = e;
    small = large;
    large = partSignificand;
  }
  small = shiftRightSticky(small, exponent - partExponent);
  const total = different ? large - small : large + small;
  if (total == 0) {
    if (different) sign = rounding == ROUND_DOWN ? 1 : 0;
    return sign != 0 ? signBit(format) : 0;
  }
  if (<i64>total < 0) return pack(sign, exponent + 1, shiftRightSticky(total, 1), format);
  const shift = <i32>clz(total) - 1;
  return pack(sign, exponent - shift, total << shift, format);
}

/** High 64 bits of a product, bit 0 sticky for the low half. */
function multiplyHigh(a: u64, b: u64): u64 {
  const a0 = a & 0xffffffff;
  const a1 = a >> 32;
  const b0 = b & 0xffffffff;
  const b1 = b >> 32;
  const low = a0 * b0;
  const middle = a1 * b0 + (low >> 32);
  const middle2 = a0 * b1 + (middle & 0xffffffff);
  const rest = ((middle2 << 32) | (low & 0xffffffff)) != 0 ? 1 : 0;
  return (a1 * b1 + (middle >> 32) + (middle2 >> 32)) | rest;
}

function multiply(a: u64, b: u64, format: u32): u64 {
  if (isNan(a, format) || isNan(b, format)) return propagate(a, b, format);
  const signed = (a ^ b) & signBit(format);
  const infinite = infinity(format);
  const x = magnitude(a, format);
  const y = magnitude(b, format);
  if (x == infinite || y == infinite) {
    if (x == 0 || y == 0) return invalid(format);
    noteDenormal(a, format);
    noteDenormal(b, format);
    return signed | infinite;
  }
  noteDenormal(a, format);
  noteDenormal(b, format);
  if (x == 0 || y == 0) return signed;
  unpack(a, format);
  const exponent = partExponent;
  const significand = partSignificand;
  unpack(b, format);
  const sign: u32 = signed != 0 ? 1 : 0;
  const product = multiplyHigh(significand << 1, partSignificand << 1);
  if (<i64>product < 0) return pack(sign, exponent + partExponent + 1, shiftRightSticky(product, 1), format);
  return pack(sign, exponent + partExponent, product, format);
}

/** Quotient of two significands, a in [b, 2b): 63 bits, the last one sticky. */
function divideSignificands(a: u64, b: u64): u64 {
  let rest = a;
  let quotient: u64 = 0;
  for (let i = 0; i < 63; i++) {
    quotient <<= 1;
    if (rest >= b) {
      rest -= b;
      quotient |= 1;
    }
    rest <<= 1;
  }
  return quotient | (rest != 0 ? 1 : 0);
}

function divide(a: u64, b: u64, format: u32): u64 {
  if (isNan(a, format) || isNan(b, format)) return propagate(a, b, format);
  const signed = (a ^ b) & signBit(format);
  const infinite = infinity(format);
  const x = magnitude(a, format);
  const y = magnitude(b, format);
  if (x == infinite) {
    if (y == infinite) return invalid(format);
    noteDenormal(b, format);
    return signed | infinite;
  }
  if (y == 0) {
    if (x == 0) return invalid(format);
    flags |= FLOAT_ZE;
    return signed | infinite;
  }
  noteDenormal(a, format);
  noteDenormal(b, format);
  if (y == infinite || x == 0) return signed;
  unpack(a, format);
  let exponent = partExponent;
  let dividend = partSignificand;
  unpack(b, format);
  exponent -= partExponent;
  if (dividend < partSignificand) {
    dividend <<= 1;
    exponent--;
  }
  return pack(signed != 0 ? 1 : 0, exponent, divideSignificands(dividend, partSignificand), format);
}

/** Square root digit by digit: 56 bits are enough for 53 and rounding, and keep the remainder within 64 bits. */
function squareRoot(a: u64, format: u32): u64 {
  if (isNan(a, format)) return propagate(a, a, format);
  if (magnitude(a, format) == 0) return a;
  if ((a & signBit(format)) != 0) return invalid(format);
  if (a == infinity(format)) return a;
  noteDenormal(a, format);
  unpack(a, format);
  let digits = partSignificand << (partExponent & 1);
  let root: u64 = 0;
  let rest: u64 = 0;
  for (let i = 0; i < 56; i++) {
    rest = (rest << 2) | (digits >> 62);
    digits <<= 2;
    const trial = (root << 2) | 1;
    root <<= 1;
    if (rest >= trial) {
      rest -= trial;
      root |= 1;
    }
  }
  return pack(0, partExponent >> 1, (root << 7) | (rest != 0 ? 1 : 0), format);
}

/** Order of two numbers under DAZ; sets DE, and IE for a signaling NaN (any NaN if `quietSignals`). */
export function compareF(first: u64, second: u64, quietSignals: bool, format: u32): u32 {
  const a = flushed(first, format);
  const b = flushed(second, format);
  if (isNan(a, format) || isNan(b, format)) {
    if (quietSignals || isSignaling(a, format) || isSignaling(b, format)) flags |= FLOAT_IE;
    return UNORDERED;
  }
  noteDenormal(a, format);
  noteDenormal(b, format);
  const x = ordered(a, format);
  const y = ordered(b, format);
  return x < y ? LESS : x == y ? EQUAL : GREATER;
}

/** A number that is not NaN as an integer of the same order; both zeros are 0. */
function ordered(bits: u64, format: u32): i64 {
  const value = <i64>magnitude(bits, format);
  return (bits & signBit(format)) != 0 ? -value : value;
}

/** MINSS and MAXSS: the second operand wins ties and NaN. */
function select(first: u64, second: u64, wanted: u32, format: u32): u64 {
  const order = compareF(first, second, true, format);
  return order == wanted ? flushed(first, format) : flushed(second, format);
}

/** One lane of an arithmetic instruction (OP_*; OP_SQRT takes b). Bit patterns in and out; flags accumulate. */
export function arithmetic(operation: u32, first: u64, second: u64, format: u32): u64 {
  const a = flushed(first, format);
  const b = flushed(second, format);
  switch (operation) {
    case OP_ADD:
      return add(a, b, 0, format);
    case OP_SUB:
      return add(a, b, signBit(format), format);
    case OP_MUL:
      return multiply(a, b, format);
    case OP_DIV:
      return divide(a, b, format);
    case OP_MIN:
      return select(a, b, LESS, format);
    case OP_MAX:
      return select(a, b, GREATER, format);
    default:
      return squareRoot(b, format);
  }
}

// --- conversions ----------------------------------------------------------------------------------------------

/** Converts between the two formats. */
export function convertFormat(bits: u64, from: u32, to: u32): u64 {
  const a = flushed(bits, from);
  const sign: u32 = (a & signBit(from)) != 0 ? 1 : 0;
  const signed = sign != 0 ? signBit(to) : 0;
  const value = magnitude(a, from);
  if (isNan(a, from)) {
    if (isSignaling(a, from)) flags |= FLOAT_IE;
    const payload = a & (((<u64>1) << from) - 1);
    return signed | infinity(to) | quietBit(to) | (from < to ? payload << (to - from) : payload >> (from - to));
  }
  if (value == infinity(from)) return signed | infinity(to);
  if (value == 0) return signed;
  noteDenormal(a, from);
  unpack(a, from);
  return pack(sign, partExponent, partSignificand, to);
}

/** Converts a signed integer to a format. */
export function fromInteger(value: i64, format: u32): u64 {
  if (value == 0) return 0;
  const sign: u32 = value < 0 ? 1 : 0;
  const absolute: u64 = value < 0 ? -value : value;
  if (<i64>absolute < 0) return pack(sign, 63, shiftRightSticky(absolute, 1), format);
  const shift = <i32>clz(absolute) - 1;
  return pack(sign, 62 - shift, absolute << shift, format);
}

/**
 * Converts to a signed integer of `bits` (32 or 64) by the mode in force. NaN and what does not fit give the integer
 * indefinite (only the top bit set) and IE. Denormals are not reported here.
 */
export function toInteger(number: u64, format: u32, bits: u32): i64 {
  const a = flushed(number, format);
  const indefinite: u64 = (<u64>1) << (bits - 1);
  unpack(a, format);
  let value: u64 = 0;
  let inexact = false;
  let fits = magnitude(a, format) < infinity(format);
  if (partExponent >= 63) {
    fits = fits && partSign != 0 && partExponent == 63 && partSignificand == (<u64>1) << 62;
    value = (<u64>1) << 63;
  } else if (partExponent == 62) {
    value = partSignificand;
  } else {
    // Below one half only the fact that something is there matters.
    const drop: u32 = partExponent < -1 ? 63 : 62 - partExponent;
    const rest = partExponent < -1 ? (partSignificand != 0 ? 1 : 0) : partSignificand;
    inexact = (rest & (((<u64>1) << drop) - 1)) != 0;
    value = roundOff(rest, drop, partSign);
  }
  if (!fits || value > indefinite - (partSign != 0 ? 0 : 1)) {
    flags |= FLOAT_IE;
    return bits == 32 ? <i64>i32.MIN_VALUE : i64.MIN_VALUE;
  }
  if (inexact) flags |= FLOAT_PE;
  return partSign != 0 ? -(<i64>value) : <i64>value;
}

/** Rounds to an integral value of the same format by the mode in force; PE when that changes the value. */
export function roundIntegral(number: u64, format: u32): u64 {
  const a = flushed(number, format);
  if (isNan(a, format)) return propagate(a, a, format);
  const value = magnitude(a, format);
  if (value == 0) return a;
  unpack(a, format);
  if (partExponent >= <i32>format) return a;
  const drop: u32 = partExponent < -1 ? 63 : 62 - partExponent;
  const rest: u64 = partExponent < -1 ? 1 : partSignificand;
  if ((rest & (((<u64>1) << drop) - 1)) == 0) return a;
  flags |= FLOAT_PE;
  const whole = roundOff(rest, drop, partSign);
  const signed = a & signBit(format);
  if (whole == 0) return signed;
  const shift = <i32>clz(whole) - 1;
  return pack(<u32>(signed != 0), 62 - shift, whole << shift, format);
}
