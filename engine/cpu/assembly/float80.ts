/**
 * The 80-bit extended format: classes, NaN propagation and rounding, after Intel SDM volume 1 chapters 4.8, 8.4 and
 * 8.5. A value travels as two arguments: `se` (sign in bit 15, biased exponent below it) and the significand with its
 * explicit integer bit. Operations leave their result in resultSe/resultSig and their exceptions in `raised`.
 */

import { jamLow, shiftRightJam } from "./float80-wide";
import { FPU_CONTROL } from "./layout";

// Status word bits. The low six are also the mask bits of the control word.
export const FSW_IE: u32 = 1;
export const FSW_DE: u32 = 2;
export const FSW_ZE: u32 = 4;
export const FSW_OE: u32 = 8;
export const FSW_UE: u32 = 16;
export const FSW_PE: u32 = 32;
export const FSW_SF: u32 = 64;
export const FSW_ES: u32 = 128;
export const FSW_C0: u32 = 0x100;
export const FSW_C1: u32 = 0x200;
export const FSW_C2: u32 = 0x400;
export const FSW_C3: u32 = 0x4000;
export const FSW_B: u32 = 0x8000;

export const ROUND_NEAREST: u32 = 0;
export const ROUND_DOWN: u32 = 1;
export const ROUND_UP: u32 = 2;
export const ROUND_ZERO: u32 = 3;

// Classes of an operand.
export const CLASS_ZERO: u32 = 0;
export const CLASS_DENORMAL: u32 = 1; // pseudo-denormals too
export const CLASS_NORMAL: u32 = 2;
export const CLASS_INFINITY: u32 = 3;
export const CLASS_QUIET: u32 = 4;
export const CLASS_SIGNALING: u32 = 5;
export const CLASS_UNSUPPORTED: u32 = 6; // integer bit clear although the exponent is not 0

export const EXP_BIAS: i32 = 16383;
/** Sign and exponent of 1.0. */
export const SE_ONE: u32 = 0x3fff;
export const EXP_MAX: u32 = 0x7fff;
/** Exponent correction of an unmasked overflow or underflow result. */
const EXP_WRAP = 24576;
const INTEGER_BIT: u64 = 1 << 63;
const QUIET_BIT: u64 = 1 << 62;

export let resultSe: u32 = 0;
export let resultSig: u64 = 0;
/** Status bits this instruction has earned so far: the six exceptions, SF, and C1 for rounded up or overflow. */
export let raised: u32 = 0;
/** An operand was a denormal in memory before it was widened: counts as denormal although it no longer looks it. */
export let widenedDenormal: bool = false;
/** Exponent of the last `normalize`. */
export let normalExp: i32 = 0;

/** Starts a new instruction: nothing raised, no operand widened. */
export function clearRaised(): void {
  raised = 0;
  widenedDenormal = false;
}

/** Adds status bits to `raised`. */
export function signal(bits: u32): void {
  raised |= bits;
}

/** Takes status bits back from `raised`. */
export function unsignal(bits: u32): void {
  raised &= ~bits;
}

/** Notes that a float32 or float64 operand was denormal. */
export function noteWidenedDenormal(): void {
  widenedDenormal = true;
}

/** Sets the result of an operation. */
export function setResult(se: u32, sig: u64): void {
  resultSe = se;
  resultSig = sig;
}

/** The "real indefinite" QNaN. */
export function setDefaultNan(): void {
  setResult(0xffff, INTEGER_BIT | QUIET_BIT);
}

/** Invalid operation: the masked response is the default NaN. */
export function invalid(): void {
  signal(FSW_IE);
  setDefaultNan();
}

/** Sets the result to an infinity. */
export function setInfinity(sign: u32): void {
  setResult((sign << 15) | EXP_MAX, INTEGER_BIT);
}

/** Sets the result to a zero. */
export function setZero(sign: u32): void {
  setResult(sign << 15, 0);
}

/** The ROUND_* of the control word. */
export function roundingMode(): u32 {
  return ((load<u16>(FPU_CONTROL) as u32) >> 10) & 3;
}

/** Significand bits of the precision control field; the reserved value 1 counts as 64. */
export function precisionBits(): u32 {
  const field = ((load<u16>(FPU_CONTROL) as u32) >> 8) & 3;
  return field == 0 ? 24 : field == 2 ? 53 : 64;
}

/** True if the given exception is unmasked in the control word. */
export function isUnmasked(bit: u32): bool {
  return ((load<u16>(FPU_CONTROL) as u32) & bit) == 0;
}

/** The CLASS_* of a value. */
export function classOf(se: u32, sig: u64): u32 {
  const exp = se & EXP_MAX;
  if (exp == 0) return sig == 0 ? CLASS_ZERO : CLASS_DENORMAL;
  if (sig >> 63 == 0) return CLASS_UNSUPPORTED;
  if (exp != EXP_MAX) return CLASS_NORMAL;
  if (sig << 1 == 0) return CLASS_INFINITY;
  return (sig & QUIET_BIT) != 0 ? CLASS_QUIET : CLASS_SIGNALING;
}

/** True for QNaN, SNaN and unsupported formats: no arithmetic takes place on those. */
export function isSpecial(kind: u32): bool {
  return kind >= CLASS_QUIET;
}

/** Normalized significand of a finite non-zero value; its (perhaps negative) biased exponent is in `normalExp`. */
export function normalize(se: u32, sig: u64): u64 {
  const exp = (se & EXP_MAX) as i32;
  if (exp != 0) {
    normalExp = exp;
    return sig;
  }
  const shift = clz<u64>(sig) as i32;
  normalExp = 1 - shift;
  return sig << (shift as u64);
}

/** Result of a one-operand operation on a NaN or unsupported value. */
export function propagate(se: u32, sig: u64, kind: u32): void {
  if (kind == CLASS_UNSUPPORTED) {
    invalid();
    return;
  }
  if (kind == CLASS_SIGNALING) signal(FSW_IE);
  setResult(se, sig | QUIET_BIT);
}

/**
 * If either operand is a NaN or unsupported, sets the result and returns true (SDM volume 1 table 4-7, x87 column: a
 * QNaN wins over an SNaN, otherwise the larger significand, on a tie the positive one).
 */
export function propagatePair(aSe: u32, aSig: u64, bSe: u32, bSig: u64): bool {
  const aKind = classOf(aSe, aSig);
  const bKind = classOf(bSe, bSig);
  if (!isSpecial(aKind) && !isSpecial(bKind)) return false;
  if (aKind == CLASS_UNSUPPORTED || bKind == CLASS_UNSUPPORTED) {
    invalid();
    return true;
  }
  if (aKind == CLASS_SIGNALING || bKind == CLASS_SIGNALING) signal(FSW_IE);
  let takeA: bool;
  if (!isSpecial(bKind)) takeA = true;
  else if (!isSpecial(aKind)) takeA = false;
  else if (aKind != bKind) takeA = aKind == CLASS_QUIET;
  else if (aSig != bSig) takeA = aSig > bSig;
  else takeA = aSe < bSe;
  if (takeA) setResult(aSe, aSig | QUIET_BIT);
  else setResult(bSe, bSig | QUIET_BIT);
  return true;
}

/** Signals DE if either finite operand is denormal, or was one in memory. */
export function noteDenormals(aSe: u32, aSig: u64, bSe: u32, bSig: u64): void {
  if (widenedDenormal || classOf(aSe, aSig) == CLASS_DENORMAL || classOf(bSe, bSig) == CLASS_DENORMAL) {
    signal(FSW_DE);
  }
}

let roundedSig: u64 = 0;
let roundInexact: bool = false;
let roundedUp: bool = false;

/** Whether a discarded fraction (`guard`, its weight one half in bit 63, bit 0 sticky) increments the magnitude. */
export function roundsUp(sign: u32, odd: bool, guard: u64): bool {
  if (guard == 0) return false;
  const mode = roundingMode();
  if (mode == ROUND_NEAREST) return guard > INTEGER_BIT || (guard == INTEGER_BIT && odd);
  if (mode == ROUND_ZERO) return false;
  return (mode == ROUND_DOWN) == (sign != 0);
}

/** Rounds (high:low) to its upper `bits` bits into roundedSig; returns true on a carry out of bit 63. */
function roundSignificand(sign: u32, high: u64, low: u64, bits: u32): bool {
  let kept = high;
  let guard = low;
  let unit: u64 = 1;
  if (bits != 64) {
    unit = (1 as u64) << (64 - bits);
    kept = high & ~(unit - 1);
    guard = (high << bits) | ((low != 0) as u64);
  }
  roundInexact = guard != 0;
  roundedUp = roundsUp(sign, (kept & unit) != 0, guard);
  roundedSig = roundedUp ? kept + unit : kept;
  return roundedUp && roundedSig == 0;
}

function signalRounding(): void {
  if (!roundInexact) return;
  signal(FSW_PE);
  if (roundedUp) signal(FSW_C1);
}

/** Masked overflow: infinity or the largest finite number of that precision, by rounding mode. */
function overflow(sign: u32, bits: u32): void {
  const mode = roundingMode();
  signal(FSW_OE | FSW_PE);
  if (mode == ROUND_NEAREST || (mode != ROUND_ZERO && (mode == ROUND_DOWN) == (sign != 0))) {
    signal(FSW_C1);
    setInfinity(sign);
    return;
  }
  unsignal(FSW_C1);
  setResult((sign << 15) | (EXP_MAX - 1), bits == 64 ? ~(0 as u64) : ~(((1 as u64) << (64 - bits)) - 1));
}

/** Result below the normal range. Tininess is judged after rounding (SDM volume 1 section 4.9.1.5). */
function roundTiny(sign: u32, exp: i32, high: u64, low: u64, bits: u32): void {
  const carry = roundSignificand(sign, high, low, bits);
  const tiny = exp < 0 || !carry;
  if (tiny && isUnmasked(FSW_UE)) {
    signal(FSW_UE);
    signalRounding();
    const wrapped = exp + EXP_WRAP + (carry as i32);
    if (wrapped < 1) {
      // FSCALE can leave even the wrapped range.
      signal(FSW_PE);
      setZero(sign);
    } else setResult((sign << 15) | (wrapped as u32), carry ? INTEGER_BIT : roundedSig);
    return;
  }
  const shifted = shiftRightJam(high, low, (1 - exp) as u32);
  roundSignificand(sign, shifted, jamLow, bits);
  if (tiny && roundInexact) signal(FSW_UE);
  signalRounding();
  setResult((sign << 15) | ((roundedSig >> 63) as u32), roundedSig);
}

/**
 * Rounds and stores a result in register format: value = (high:low) * 2^(exp - 16383 - 127), bit 63 of `high` set,
 * `exp` unbounded. Signals OE, UE, PE and C1; unmasked overflow and underflow give the exponent-wrapped result.
 */
export function roundPack(sign: u32, exp: i32, high: u64, low: u64, bits: u32): void {
  if (exp < 1) {
    roundTiny(sign, exp, high, low, bits);
    return;
  }
  if (roundSignificand(sign, high, low, bits)) {
    roundedSig = INTEGER_BIT;
    exp++;
  }
  if (exp >= (EXP_MAX as i32)) {
    if (!isUnmasked(FSW_OE)) {
      overflow(sign, bits);
      return;
    }
    signal(FSW_OE);
    signalRounding();
    exp -= EXP_WRAP;
    if (exp >= (EXP_MAX as i32)) {
      signal(FSW_PE | FSW_C1);
      setInfinity(sign);
    } else setResult((sign << 15) | (exp as u32), roundedSig);
    return;
  }
  signalRounding();
  setResult((sign << 15) | (exp as u32), roundedSig);
}
