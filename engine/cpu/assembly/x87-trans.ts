/**
 * The transcendental x87 instructions but the circular ones (SDM volume 1 section 8.3.7 and volume 2 under each name). Arguments are reduced
 * exactly, series run on 128-bit working floats, and one rounding to 64 bits ends each.
 */
import {
  CLASS_DENORMAL,
  CLASS_INFINITY,
  CLASS_NORMAL,
  CLASS_ZERO,
  classOf,
  EXP_BIAS,
  EXP_MAX,
  FSW_DE,
  FSW_PE,
  FSW_UE,
  FSW_ZE,
  invalid,
  isSpecial,
  normalExp,
  normalize,
  noteDenormals,
  propagate,
  propagatePair,
  resultSe,
  roundPack,
  SE_ONE,
  setInfinity,
  setResult,
  setZero,
  signal,
} from "./float80";
import { pair } from "./float80-wide";
import {
  W_A,
  W_B,
  W_ONE,
  W_RESULT,
  W_SQUARE,
  W_SUM,
  W_X,
  W_Y,
  wAdd,
  wCopy,
  wDiv,
  wDivSmall,
  wExp,
  wHigh,
  wIsZero,
  wLow,
  wMul,
  wNotLess,
  wScale,
  wSet,
  wSetInteger,
  wSetSign,
  wSign,
} from "./wide-float";
import { commit } from "./x87-arithmetic";
import { isEmpty, pop, signExponent, significand, stackUnderflow } from "./x87-stack";

const ONE: u64 = 1 << 63;

function setPi(slot: u32): void {
  wSet(slot, 0, 1, pair(0xc90fdaa2, 0x2168c234), pair(0xc4c6628b, 0x80dc1cd1));
}

/** A finite non-zero value into a slot, exactly. */
function setFrom(slot: u32, se: u32, sig: u64): void {
  const normal = normalize(se, sig);
  wSet(slot, se >> 15, normalExp - EXP_BIAS, normal, 0);
}

/** Rounds a slot to the result; `inexact`: more bits follow than the slot holds. */
export function pack(slot: u32, inexact: bool): void {
  if (wIsZero(slot)) {
    setZero(wSign(slot));
    return;
  }
  roundPack(wSign(slot), wExp(slot) + EXP_BIAS, wHigh(slot), wLow(slot) | (inexact as u64), 64);
}

// --- 2^x - 1 --------------------------------------------------------------------------------------------------

/** F2XM1. Outside -1 … +1 the result is undefined by the manual; the argument stays. */
export function powerMinusOne(): void {
  if (isEmpty(0)) stackUnderflow();
  else powerOf(signExponent(0), significand(0));
  commit(0);
}

function powerOf(se: u32, sig: u64): void {
  const kind = classOf(se, sig);
  if (isSpecial(kind)) {
    propagate(se, sig, kind);
    return;
  }
  if (kind == CLASS_DENORMAL) signal(FSW_DE);
  if (kind == CLASS_INFINITY && se >> 15 != 0) {
    setResult(0xbfff, ONE);
    return;
  }
  const exp = (se & EXP_MAX) as i32;
  if (kind == CLASS_ZERO || kind == CLASS_INFINITY || exp > EXP_BIAS || (exp == EXP_BIAS && sig != ONE)) {
    if (kind == CLASS_NORMAL) signal(FSW_PE);
    setResult(se, sig);
    return;
  }
  if (exp == EXP_BIAS) {
    // Exact, but processors report both as inexact all the same.
    signal(FSW_PE);
    if (se >> 15 != 0) setResult(0xbffe, ONE);
    else setResult(se, sig);
    return;
  }
  setFrom(W_X, se, sig);
  wSet(W_A, 0, -1, pair(0xb17217f7, 0xd1cf79ab), pair(0xc9e3b398, 0x03f2f6af));
  wMul(W_X, W_X, W_A);
  // e^y - 1 = y (1 + y/2 (1 + y/3 (1 + …)))
  wSetInteger(W_ONE, 1);
  wCopy(W_SUM, W_ONE);
  for (let n: u32 = 28; n >= 2; n--) {
    wMul(W_SUM, W_SUM, W_X);
    wDivSmall(W_SUM, n);
    wAdd(W_SUM, W_ONE, W_SUM, false);
  }
  wMul(W_RESULT, W_SUM, W_X);
  pack(W_RESULT, true);
}

// --- y * log2(x) ----------------------------------------------------------------------------------------------

/** W_RESULT = log2((1 + z) / (1 - z)) for the ratio z in W_A, |z| < 0.18: 2/ln 2 * (z + z^3/3 + z^5/5 + …). */
function logarithmOfRatio(): void {
  wMul(W_SQUARE, W_A, W_A);
  wSetInteger(W_SUM, 1);
  wDivSmall(W_SUM, 51);
  for (let n: i32 = 49; n >= 1; n -= 2) {
    wMul(W_SUM, W_SUM, W_SQUARE);
    wSetInteger(W_B, 1);
    wDivSmall(W_B, n as u32);
    wAdd(W_SUM, W_B, W_SUM, false);
  }
  wSet(W_B, 0, 1, pair(0xb8aa3b29, 0x5c17f0bb), pair(0xbe87fed0, 0x691d3e89));
  wMul(W_RESULT, W_SUM, W_A);
  wMul(W_RESULT, W_RESULT, W_B);
}

/** W_RESULT = log2(W_X), W_X > 0. */
function logarithm(): void {
  // x = 2^power * m with m in [1/sqrt 2, sqrt 2]
  let power = wExp(W_X);
  if (wHigh(W_X) > pair(0xb504f333, 0xf9de6484)) power++;
  wScale(W_X, -power);
  wSetInteger(W_ONE, 1);
  wAdd(W_A, W_X, W_ONE, true);
  wAdd(W_B, W_X, W_ONE, false);
  wDiv(W_A, W_A, W_B);
  logarithmOfRatio();
  wSetInteger(W_B, power);
  wAdd(W_RESULT, W_B, W_RESULT, false);
}

/** FYL2X: ST(1) = ST(1) * log2(ST(0)), pop. */
export function yLog2(): void {
  if (isEmpty(0) || isEmpty(1)) stackUnderflow();
  else logOf(signExponent(0), significand(0), signExponent(1), significand(1));
  if (commit(1)) pop();
}

function logOf(xSe: u32, xSig: u64, ySe: u32, ySig: u64): void {
  if (propagatePair(ySe, ySig, xSe, xSig)) return;
  const xKind = classOf(xSe, xSig);
  const yKind = classOf(ySe, ySig);
  const ySign = ySe >> 15;
  if (xKind == CLASS_ZERO) {
    if (yKind == CLASS_ZERO) {
      invalid();
      return;
    }
    if (yKind != CLASS_INFINITY) signal(FSW_ZE);
    setInfinity(ySign ^ 1);
    return;
  }
  const isOne = xSe == SE_ONE && xSig == ONE;
  if (xSe >> 15 != 0 || (isOne && yKind == CLASS_INFINITY) || (xKind == CLASS_INFINITY && yKind == CLASS_ZERO)) {
    invalid();
    return;
  }
  noteDenormals(xSe, xSig, ySe, ySig);
  const below: u32 = xSe < SE_ONE ? 1 : 0;
  if (yKind == CLASS_INFINITY || xKind == CLASS_INFINITY) setInfinity(ySign ^ below);
  else if (yKind == CLASS_ZERO) setZero(ySign ^ below);
  else if (isOne) setZero(ySign);
  else {
    setFrom(W_X, xSe, xSig);
    setFrom(W_Y, ySe, ySig);
    const power = wHigh(W_X) == ONE;
    logarithm();
    wMul(W_RESULT, W_RESULT, W_Y);
    pack(W_RESULT, !power);
    // For powers of two the product is exact, but processors report it as inexact all the same.
    if (power) signal((resultSe & EXP_MAX) == 0 ? FSW_PE | FSW_UE : FSW_PE);
  }
}

/** FYL2XP1: ST(1) = ST(1) * log2(ST(0) + 1), pop. */
export function yLog2Plus1(): void {
  if (isEmpty(0) || isEmpty(1)) stackUnderflow();
  else logOfPlus1(signExponent(0), significand(0), signExponent(1), significand(1));
  if (commit(1)) pop();
}

function logOfPlus1(xSe: u32, xSig: u64, ySe: u32, ySig: u64): void {
  if (propagatePair(ySe, ySig, xSe, xSig)) return;
  const xKind = classOf(xSe, xSig);
  const yKind = classOf(ySe, ySig);
  const sign = (xSe ^ ySe) >> 15;
  const negative = xSe >> 15 != 0;
  if (
    (xKind == CLASS_ZERO && yKind == CLASS_INFINITY) ||
    (xKind == CLASS_INFINITY && (negative || yKind == CLASS_ZERO))
  ) {
    invalid();
    return;
  }
  noteDenormals(xSe, xSig, ySe, ySig);
  if (yKind == CLASS_INFINITY || xKind == CLASS_INFINITY) setInfinity(sign);
  else if (xKind == CLASS_ZERO || yKind == CLASS_ZERO) setZero(sign);
  else if (negative && (xSe & EXP_MAX) >= SE_ONE) {
    // Undefined by the manual; AMD processors return the argument.
    signal(FSW_PE);
    setResult(xSe, xSig);
  } else {
    setFrom(W_X, xSe, xSig);
    setFrom(W_Y, ySe, ySig);
    wSetInteger(W_ONE, 1);
    if (wExp(W_X) >= -2) {
      wAdd(W_X, W_X, W_ONE, false);
      logarithm();
    } else {
      // 1 + x = (1 + z) / (1 - z) for z = x / (2 + x): no digits of a small x are lost
      wSetInteger(W_B, 2);
      wAdd(W_B, W_B, W_X, false);
      wDiv(W_A, W_X, W_B);
      logarithmOfRatio();
    }
    wMul(W_RESULT, W_RESULT, W_Y);
    pack(W_RESULT, true);
  }
}

// --- arctangent -----------------------------------------------------------------------------------------------

/** FPATAN: ST(1) = angle of the point (ST(0), ST(1)), pop. */
export function arctangent(): void {
  if (isEmpty(0) || isEmpty(1)) stackUnderflow();
  else angleOf(signExponent(0), significand(0), signExponent(1), significand(1));
  if (commit(1)) pop();
}

/** Result: `quarters` * pi/4 with the sign of y. */
function packPi(quarters: u32, sign: u32): void {
  setPi(W_RESULT);
  if (quarters == 3) {
    wSetInteger(W_A, 3);
    wMul(W_RESULT, W_RESULT, W_A);
    wScale(W_RESULT, -2);
  } else wScale(W_RESULT, quarters == 4 ? 0 : quarters == 2 ? -1 : -2);
  wSetSign(W_RESULT, sign);
  pack(W_RESULT, true);
}

function angleOf(xSe: u32, xSig: u64, ySe: u32, ySig: u64): void {
  if (propagatePair(ySe, ySig, xSe, xSig)) return;
  noteDenormals(xSe, xSig, ySe, ySig);
  const xKind = classOf(xSe, xSig);
  const yKind = classOf(ySe, ySig);
  const sign = ySe >> 15;
  const left = xSe >> 15 != 0;
  if (yKind == CLASS_INFINITY) {
    if (xKind == CLASS_INFINITY) packPi(left ? 3 : 1, sign);
    else packPi(2, sign);
  } else if (xKind == CLASS_INFINITY || yKind == CLASS_ZERO) {
    if (left) packPi(4, sign);
    else setZero(sign);
  } else if (xKind == CLASS_ZERO) packPi(2, sign);
  else {
    setFrom(W_X, xSe & EXP_MAX, xSig);
    setFrom(W_Y, ySe & EXP_MAX, ySig);
    finiteAngle(left);
    wSetSign(W_RESULT, sign);
    pack(W_RESULT, true);
  }
}

/** W_RESULT = angle of (±W_X, W_Y), both positive here. */
function finiteAngle(left: bool): void {
  const steep = wNotLess(W_Y, W_X) && !wNotLess(W_X, W_Y);
  if (steep) wDiv(W_A, W_X, W_Y);
  else wDiv(W_A, W_Y, W_X);
  // atan q = pi/4 - atan((1 - q) / (1 + q)) for q above tan(pi/8)
  const folded = wExp(W_A) >= -1 || (wExp(W_A) == -2 && wHigh(W_A) >= pair(0xd413cccf, 0xe7799211));
  if (folded) {
    wAdd(W_RESULT, W_X, W_Y, true);
    wSetSign(W_RESULT, 0);
    wAdd(W_B, W_X, W_Y, false);
    wDiv(W_A, W_RESULT, W_B);
  }
  arctangentSeries();
  if (folded) {
    setPi(W_B);
    wScale(W_B, -2);
    wAdd(W_RESULT, W_B, W_RESULT, true);
  }
  if (steep || left) {
    setPi(W_B);
    if (steep) wScale(W_B, -1);
    // steep: pi/2 - a to the right of the y axis, pi/2 + a to the left; flat: pi - a
    wAdd(W_RESULT, W_B, W_RESULT, !(steep && left));
  }
}

/** W_RESULT = atan(W_A), 0 <= W_A <= 0.415: q - q^3/3 + q^5/5 - … */
function arctangentSeries(): void {
  wMul(W_SQUARE, W_A, W_A);
  wSetInteger(W_SUM, 0);
  for (let n: i32 = 85; n >= 1; n -= 2) {
    wMul(W_SUM, W_SUM, W_SQUARE);
    wSetInteger(W_B, 1);
    wDivSmall(W_B, n as u32);
    wAdd(W_SUM, W_B, W_SUM, true);
  }
  wMul(W_RESULT, W_SUM, W_A);
}
