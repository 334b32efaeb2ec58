/** FPREM, FPREM1, FSCALE and FXTRACT in the 80-bit format (SDM volume 2 under each name). */
import {
  CLASS_DENORMAL,
  CLASS_INFINITY,
  CLASS_ZERO,
  classOf,
  EXP_BIAS,
  EXP_MAX,
  FSW_C0,
  FSW_C1,
  FSW_C2,
  FSW_C3,
  FSW_DE,
  FSW_ZE,
  invalid,
  isSpecial,
  normalExp,
  normalize,
  noteDenormals,
  propagate,
  propagatePair,
  roundPack,
  SE_ONE,
  setInfinity,
  setResult,
  setZero,
  signal,
} from "./float80";
import { fromInteger } from "./float80-convert";

/** Whether the last remainder80 went as far as a quotient. */
export let hasQuotient: bool = false;
/** C0, C1, C2, C3 of the last remainder80. */
export let remainderBits: u32 = 0;

/** The three low quotient bits where FPREM reports them: C0 = bit 2, C3 = bit 1, C1 = bit 0. */
function quotientBits(quotient: u64): u32 {
  const q = quotient as u32;
  return ((q & 4) != 0 ? FSW_C0 : 0) | ((q & 2) != 0 ? FSW_C3 : 0) | ((q & 1) != 0 ? FSW_C1 : 0);
}

/**
 * Partial remainder of a / b; `nearest` chooses FPREM1 (quotient rounded to nearest even) over FPREM (truncated).
 * The result is exact. With an exponent difference of 64 or more one step reduces it and C2 says "not yet".
 */
export function remainder80(aSe: u32, aSig: u64, bSe: u32, bSig: u64, nearest: bool): void {
  remainderBits = 0;
  hasQuotient = false;
  if (propagatePair(aSe, aSig, bSe, bSig)) return;
  const aKind = classOf(aSe, aSig);
  const bKind = classOf(bSe, bSig);
  if (aKind == CLASS_INFINITY || bKind == CLASS_ZERO) {
    invalid();
    return;
  }
  hasQuotient = true;
  noteDenormals(aSe, aSig, bSe, bSig);
  if (aKind == CLASS_ZERO) {
    setResult(aSe, aSig);
    return;
  }
  const sign = aSe >> 15;
  let rest = normalize(aSe, aSig);
  const aExp = normalExp;
  if (bKind == CLASS_INFINITY) {
    roundPack(sign, aExp, rest, 0, 64);
    return;
  }
  const divisor = normalize(bSe, bSig);
  const bExp = normalExp;
  const difference = aExp - bExp;
  const least: i32 = nearest ? -1 : 0;
  if (difference < least) {
    roundPack(sign, aExp, rest, 0, 64);
    return;
  }
  if (difference >= 64) {
    partialStep(sign, rest, divisor, bExp, difference);
    return;
  }
  finalStep(sign, rest, divisor, bExp, difference, nearest);
}

let stepQuotient: u64 = 0;

/** Restoring division: returns rest * 2^count mod divisor, quotient (low 64 bits) in stepQuotient. */
function reduce(rest: u64, divisor: u64, count: i32): u64 {
  let quotient: u64 = 0;
  if (rest >= divisor) {
    rest -= divisor;
    quotient = 1;
  }
  for (let i = 0; i < count; i++) {
    const carry = rest >> 63 != 0;
    rest <<= 1;
    quotient <<= 1;
    if (carry || rest >= divisor) {
      rest -= divisor;
      quotient |= 1;
    }
  }
  stepQuotient = quotient;
  return rest;
}

function packRest(sign: u32, exp: i32, rest: u64): void {
  if (rest == 0) {
    setZero(sign);
    return;
  }
  const shift = clz<u64>(rest);
  roundPack(sign, exp - (shift as i32), rest << shift, 0, 64);
}

function partialStep(sign: u32, rest: u64, divisor: u64, bExp: i32, difference: i32): void {
  // The processors reduce the difference to a multiple of 32 below it, by 32 to 63 at a time.
  const count = 32 + (difference & 31);
  rest = reduce(rest, divisor, count);
  packRest(sign, bExp + difference - count, rest);
  remainderBits = FSW_C2;
}

function finalStep(sign: u32, rest: u64, divisor: u64, bExp: i32, difference: i32, nearest: bool): void {
  if (difference < 0) {
    // FPREM1 with a in [b/4, b): more than half of b goes up to one b. a = rest/2 in units of the divisor.
    if (rest <= divisor) {
      roundPack(sign, bExp - 1, rest, 0, 64);
      return;
    }
    // b - a = (2 * divisor - rest) / 2
    const gap = divisor - (rest - divisor);
    remainderBits = quotientBits(1);
    packRest(sign ^ 1, bExp - 1, gap);
    return;
  }
  rest = reduce(rest, divisor, difference);
  if (nearest) {
    const gap = divisor - rest;
    if (rest > gap || (rest == gap && (stepQuotient & 1) != 0)) {
      rest = gap;
      sign ^= 1;
      stepQuotient++;
    }
  }
  remainderBits = quotientBits(stepQuotient);
  if (rest == 0) setZero(sign);
  else packRest(sign, bExp, rest);
}

/** a * 2^trunc(b). */
export function scale80(aSe: u32, aSig: u64, bSe: u32, bSig: u64): void {
  if (propagatePair(aSe, aSig, bSe, bSig)) return;
  const aKind = classOf(aSe, aSig);
  const bKind = classOf(bSe, bSig);
  const sign = aSe >> 15;
  const down = bSe >> 15 != 0;
  if (bKind == CLASS_INFINITY) {
    if (down ? aKind == CLASS_INFINITY : aKind == CLASS_ZERO) {
      invalid();
      return;
    }
    noteDenormals(aSe, aSig, bSe, bSig);
    if (down) setZero(sign);
    else setInfinity(sign);
    return;
  }
  noteDenormals(aSe, aSig, bSe, bSig);
  if (aKind == CLASS_INFINITY || aKind == CLASS_ZERO) {
    setResult(aSe, aSig);
    return;
  }
  const power = ((bSe & EXP_MAX) as i32) - EXP_BIAS;
  let shift: i32 = 0;
  // Beyond 2^16 every finite operand leaves the range; the clamp keeps the exponent sum in 32 bits.
  if (power >= 0) shift = power > 16 ? 0x20000 : ((bSig >> ((63 - power) as u64)) as i32);
  const sig = normalize(aSe, aSig);
  roundPack(sign, normalExp + (down ? -shift : shift), sig, 0, 64);
}

/** One of FXTRACT's two results: the unbiased exponent as a number, or the significand with an exponent of 0. */
export function extract80(se: u32, sig: u64, exponent: bool): void {
  const kind = classOf(se, sig);
  if (isSpecial(kind)) {
    propagate(se, sig, kind);
    return;
  }
  if (kind == CLASS_ZERO) {
    signal(FSW_ZE);
    if (exponent) setInfinity(1);
    else setResult(se, sig);
    return;
  }
  if (kind == CLASS_INFINITY) {
    setResult(exponent ? EXP_MAX : se, sig);
    return;
  }
  if (kind == CLASS_DENORMAL) signal(FSW_DE);
  const significand = normalize(se, sig);
  if (exponent) fromInteger((normalExp - EXP_BIAS) as i64);
  else setResult((se & 0x8000) | SE_ONE, significand);
}
