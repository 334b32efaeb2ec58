/** Conversions between the 80-bit format and float32, float64, integers and packed decimal (SDM volume 1 chapter 8). */
import {
  CLASS_DENORMAL,
  CLASS_INFINITY,
  CLASS_SIGNALING,
  CLASS_UNSUPPORTED,
  CLASS_ZERO,
  classOf,
  EXP_BIAS,
  EXP_MAX,
  FSW_C1,
  FSW_DE,
  FSW_IE,
  FSW_OE,
  FSW_PE,
  FSW_UE,
  isSpecial,
  isUnmasked,
  normalExp,
  normalize,
  noteWidenedDenormal,
  propagate,
  ROUND_DOWN,
  ROUND_NEAREST,
  ROUND_ZERO,
  resultSig,
  roundingMode,
  roundsUp,
  SE_ONE,
  setResult,
  signal,
} from "./float80";
import { jamLow, shiftRightJam } from "./float80-wide";

/**
 * Widens a float32 or float64 operand exactly (an SNaN stays signaling, for the operation to judge).
 * @param fraction the fraction field, its highest bit in bit 62
 */
function widen(sign: u32, exp: u32, expMax: u32, fraction: u64): void {
  const bias = expMax >> 1;
  if (exp == expMax) setResult((sign << 15) | EXP_MAX, ((1 as u64) << 63) | fraction);
  else if (exp != 0) setResult((sign << 15) | (exp + SE_ONE - bias), ((1 as u64) << 63) | fraction);
  else if (fraction == 0) setResult(sign << 15, 0);
  else {
    noteWidenedDenormal();
    const shift = clz<u64>(fraction);
    setResult((sign << 15) | (SE_ONE - bias + 1 - (shift as u32)), fraction << shift);
  }
}

/** float32 bits to the result, exactly. */
export function widen32(bits: u32): void {
  widen(bits >> 31, (bits >> 23) & 0xff, 0xff, ((bits & 0x7fffff) as u64) << 40);
}

/** float64 bits to the result, exactly. */
export function widen64(bits: u64): void {
  widen((bits >> 63) as u32, ((bits >> 52) as u32) & 0x7ff, 0x7ff, (bits << 12) >> 1);
}

/** Signed 64-bit integer to the result, exactly. */
export function fromInteger(value: i64): void {
  if (value == 0) {
    setResult(0, 0);
    return;
  }
  const magnitude: u64 = value < 0 ? -(value as u64) : (value as u64);
  const shift = clz<u64>(magnitude);
  const sign: u32 = value < 0 ? 0x8000 : 0;
  setResult(sign | (SE_ONE + 63 - (shift as u32)), magnitude << shift);
}

/** Set by narrow(): an unmasked overflow or underflow, after which nothing is stored. */
export let narrowAborted: bool = false;

/**
 * Converts to float32 (bits = 24) or float64 (bits = 53), in the low bits of the value returned. Signals IE for an
 * SNaN, OE, UE, PE and C1; an unmasked OE or UE suppresses the store (narrowAborted).
 */
export function narrow(se: u32, sig: u64, bits: u32): u64 {
  narrowAborted = false;
  const fractionBits = bits - 1;
  const expMax: i32 = bits == 24 ? 0xff : 0x7ff;
  const sign = ((se >> 15) as u64) << (bits == 24 ? 31 : 63);
  const infinity = sign | ((expMax as u64) << fractionBits);
  const kind = classOf(se, sig);
  if (kind == CLASS_ZERO) return sign;
  if (kind == CLASS_INFINITY) return infinity;
  if (isSpecial(kind)) {
    propagate(se, sig, kind);
    const nanSign: u64 = kind == CLASS_UNSUPPORTED ? (1 as u64) << (bits == 24 ? 31 : 63) : sign;
    return nanSign | ((expMax as u64) << fractionBits) | ((resultSig << 1) >> (65 - bits));
  }
  sig = normalize(se, sig);
  const exp = normalExp - EXP_BIAS + (expMax >> 1);
  if (exp < 1) return narrowTiny(se >> 15, sign, exp, sig, bits);
  return narrowNormal(se >> 15, sign, exp, sig, bits, expMax);
}

let keptBits: u64 = 0;
let narrowedUp: bool = false;

/** Rounds (high:low) to its upper `bits` bits, right-aligned in keptBits; true if inexact. */
function keep(sign: u32, high: u64, low: u64, bits: u32): bool {
  keptBits = high >> (64 - bits);
  const guard = (high << bits) | ((low != 0) as u64);
  narrowedUp = roundsUp(sign, (keptBits & 1) != 0, guard);
  keptBits += narrowedUp as u64;
  return guard != 0;
}

function signalKept(inexact: bool): void {
  if (!inexact) return;
  signal(FSW_PE);
  if (narrowedUp) signal(FSW_C1);
}

function narrowNormal(negative: u32, sign: u64, exp: i32, sig: u64, bits: u32, expMax: i32): u64 {
  const inexact = keep(negative, sig, 0, bits);
  // A carry out of the significand makes the fraction zero and adds one to the exponent field by itself.
  const packed = (((exp - 1) as u64) << (bits - 1)) + keptBits;
  const infinity = (expMax as u64) << (bits - 1);
  if (exp < expMax && packed < infinity) {
    signalKept(inexact);
    return sign | packed;
  }
  signal(FSW_OE);
  if (isUnmasked(FSW_OE)) {
    narrowAborted = true;
    return 0;
  }
  signal(FSW_PE);
  const mode = roundingMode();
  if (mode == ROUND_NEAREST || (mode != ROUND_ZERO && (mode == ROUND_DOWN) == (negative != 0))) {
    signal(FSW_C1);
    return sign | infinity;
  }
  return sign | (infinity - 1);
}

function narrowTiny(negative: u32, sign: u64, exp: i32, sig: u64, bits: u32): u64 {
  keep(negative, sig, 0, bits);
  const tiny = exp < 0 || keptBits >> bits == 0;
  if (tiny && isUnmasked(FSW_UE)) {
    signal(FSW_UE);
    narrowAborted = true;
    return 0;
  }
  const high = shiftRightJam(sig, 0, (1 - exp) as u32);
  const inexact = keep(negative, high, jamLow, bits);
  if (tiny && inexact) signal(FSW_UE);
  signalKept(inexact);
  return sign | keptBits;
}

let integerUp: bool = false;
let integerInexact: bool = false;
let integerTooLarge: bool = false;

/** Magnitude of a finite value rounded to an integer by the rounding control, without signalling. */
function roundMagnitude(se: u32, sig: u64): u64 {
  integerUp = false;
  integerInexact = false;
  const exp = ((se & EXP_MAX) as i32) - EXP_BIAS;
  integerTooLarge = exp > 63;
  if (sig == 0 || integerTooLarge) return 0;
  const high = shiftRightJam(sig, 0, (63 - exp) as u32);
  integerInexact = jamLow != 0;
  integerUp = roundsUp(se >> 15, (high & 1) != 0, jamLow);
  integerTooLarge = integerUp && high == ~(0 as u64);
  return high + (integerUp as u64);
}

function signalInteger(): void {
  if (!integerInexact) return;
  signal(FSW_PE);
  if (integerUp) signal(FSW_C1);
}

/**
 * Converts to a signed integer of `bits` (16, 32 or 64) bits by the rounding control. NaN, infinity and what does not
 * fit signal IE and give the integer indefinite.
 */
export function toInteger(se: u32, sig: u64, bits: u32): u64 {
  const indefinite: u64 = (1 as u64) << (bits - 1);
  const kind = classOf(se, sig);
  if (kind < CLASS_INFINITY) {
    const magnitude = roundMagnitude(se, sig);
    const negative = se >> 15 != 0;
    if (!integerTooLarge && (magnitude < indefinite || (negative && magnitude == indefinite))) {
      signalInteger();
      return negative ? -magnitude : magnitude;
    }
  }
  signal(FSW_IE);
  return indefinite;
}

/** FRNDINT: rounds to an integral value in the same format. */
export function roundToIntegral(se: u32, sig: u64): void {
  const kind = classOf(se, sig);
  if (isSpecial(kind)) {
    propagate(se, sig, kind);
    return;
  }
  if (kind == CLASS_DENORMAL) signal(FSW_DE);
  if (kind == CLASS_ZERO || kind == CLASS_INFINITY || (se & EXP_MAX) >= SE_ONE + 63) {
    setResult(se, sig);
    return;
  }
  const magnitude = roundMagnitude(se, sig);
  signalInteger();
  if (magnitude == 0) {
    setResult(se & 0x8000, 0);
    return;
  }
  const shift = clz<u64>(magnitude);
  setResult((se & 0x8000) | (SE_ONE + 63 - (shift as u32)), magnitude << shift);
}

const DECIMAL_LIMIT: u64 = 1000000000000000000;

/** Set by toDecimal: the upper two bytes of the packed decimal. */
export let decimalHigh: u32 = 0;

/** FBSTP: 18 packed decimal digits; the low 16 digits are returned, sign and the other two are in decimalHigh. */
export function toDecimal(se: u32, sig: u64): u64 {
  if (classOf(se, sig) < CLASS_INFINITY) {
    let magnitude = roundMagnitude(se, sig);
    if (!integerTooLarge && magnitude < DECIMAL_LIMIT) {
      signalInteger();
      let digits: u64 = 0;
      for (let shift = 0; shift < 64; shift += 4) {
        digits |= (magnitude % 10) << shift;
        magnitude /= 10;
      }
      decimalHigh = (se & 0x8000) | (((magnitude / 10) as u32) << 4) | ((magnitude % 10) as u32);
      return digits;
    }
  }
  signal(FSW_IE);
  decimalHigh = 0xffff;
  return (0xc0 as u64) << 56;
}

/** FBLD: packed decimal to the result, exactly. Digits above 9 just count with their weight. */
export function fromDecimal(low: u64, high: u32): void {
  let magnitude: u64 = (((high >> 4) & 15) * 10 + (high & 15)) as u64;
  for (let shift = 60; shift >= 0; shift -= 4) magnitude = magnitude * 10 + ((low >> shift) & 15);
  if (magnitude == 0) {
    setResult(high & 0x8000, 0);
    return;
  }
  const shift = clz<u64>(magnitude);
  setResult((high & 0x8000) | (SE_ONE + 63 - (shift as u32)), magnitude << shift);
}

/** FLD of a float32 or float64 operand already widened into the result: quiets an SNaN, reports a denormal. */
export function loadWidened(se: u32, sig: u64, denormal: bool): void {
  const kind = classOf(se, sig);
  if (kind == CLASS_SIGNALING) propagate(se, sig, kind);
  else if (denormal) signal(FSW_DE);
}
