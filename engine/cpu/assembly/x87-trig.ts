/**
 * FSIN, FCOS, FSINCOS and FPTAN (SDM volume 1 section 8.3.7, volume 2 under each name): exact reduction by the
 * processors' own pi, Taylor series on 128-bit working floats, one rounding to 64 bits.
 */
import {
  CLASS_DENORMAL,
  CLASS_INFINITY,
  classOf,
  EXP_BIAS,
  EXP_MAX,
  FSW_C1,
  FSW_C2,
  FSW_DE,
  invalid,
  isSpecial,
  normalExp,
  normalize,
  propagate,
  raised,
  resultSe,
  resultSig,
  SE_ONE,
  setResult,
  signal,
  unsignal,
} from "./float80";
import { pair } from "./float80-wide";
import {
  W_COSINE,
  W_ONE,
  W_RESULT,
  W_SINE,
  W_SQUARE,
  W_SUM,
  W_X,
  wAdd,
  wCopy,
  wDiv,
  wDivSmall,
  wMul,
  wSet,
  wSetInteger,
  wSetSign,
  wSign,
} from "./wide-float";
import { commit, commitPair } from "./x87-arithmetic";
import {
  aborted,
  finish,
  isEmpty,
  push,
  setStatus,
  signExponent,
  significand,
  stackOverflow,
  stackUnderflow,
  status,
  writeStack,
} from "./x87-stack";
import { pack } from "./x87-trans";

const ONE: u64 = 1 << 63;

/**
 * Reduces |x| < 2^63 by pi/2 to W_X in -pi/4 … pi/4 and returns the quadrant. The processors use a pi of 66 bits, so
 * this one does: the remainder is exact, and so different from the remainder by the true pi.
 */
function reduceAngle(se: u32, sig: u64): u32 {
  let high = normalize(se, sig);
  let low: u64 = 0;
  const exp = normalExp - EXP_BIAS;
  if (exp < -1) {
    wSet(W_X, 0, exp, high, low);
    return 0;
  }
  const piHigh = pair(0xc90fdaa2, 0x2168c234);
  const piLow: u64 = (3 as u64) << 62;
  let quadrant: u32 = 0;
  if (exp == -1) {
    low = high << 63;
    high >>= 1;
  }
  for (let i = 0; i <= exp || i == 0; i++) {
    let carry = false;
    if (i > 0) {
      carry = high >> 63 != 0;
      high = (high << 1) | (low >> 63);
      low <<= 1;
      quadrant <<= 1;
    }
    if (carry || high > piHigh || (high == piHigh && low >= piLow)) {
      high = high - piHigh - ((low < piLow) as u64);
      low -= piLow;
      quadrant++;
    }
  }
  const gapHigh = piHigh - high - ((piLow < low) as u64);
  const gapLow = piLow - low;
  if (high > gapHigh || (high == gapHigh && low > gapLow)) {
    wSet(W_X, 1, 0, gapHigh, gapLow);
    return (quadrant + 1) & 3;
  }
  wSet(W_X, 0, 0, high, low);
  return quadrant & 3;
}

/** target = sin or cos of W_X by its Taylor series (first = 3 or 2: the divisors are (k - 1) * k from there on). */
function circularSeries(target: u32, first: u32): void {
  wMul(W_SQUARE, W_X, W_X);
  wSetInteger(W_ONE, 1);
  wCopy(W_SUM, W_ONE);
  for (let k = first + 26; k >= first; k -= 2) {
    wMul(W_SUM, W_SUM, W_SQUARE);
    wDivSmall(W_SUM, k * (k - 1));
    wAdd(W_SUM, W_ONE, W_SUM, true);
  }
  if (first == 3) wMul(target, W_SUM, W_X);
  else wCopy(target, W_SUM);
}

/** Sets W_SINE and W_COSINE of a finite non-zero value below 2^63. */
function circular(se: u32, sig: u64): void {
  const quadrant = reduceAngle(se, sig);
  const swapped = (quadrant & 1) != 0;
  circularSeries(swapped ? W_COSINE : W_SINE, 3);
  circularSeries(swapped ? W_SINE : W_COSINE, 2);
  // sin goes s, c, -s, -c through the quadrants, cos goes c, -s, -c, s
  if (quadrant >= 2) wSetSign(W_SINE, wSign(W_SINE) ^ 1);
  if (quadrant == 1 || quadrant == 2) wSetSign(W_COSINE, wSign(W_COSINE) ^ 1);
  wSetSign(W_SINE, wSign(W_SINE) ^ (se >> 15));
}

function clearC2(): void {
  setStatus(status() & ~FSW_C2);
}

/** True, with C2 set and C1 clear, if the argument is out of range: the instruction then leaves its operand alone. */
function outOfRange(se: u32, sig: u64): bool {
  const exp = se & EXP_MAX;
  if (exp < SE_ONE + 63 || exp == EXP_MAX || sig >> 63 == 0) return false;
  setStatus((status() & ~FSW_C1) | FSW_C2);
  return true;
}

/** Special operands of sine, cosine and tangent; true if the result is set. Zero is not special. */
function specialAngle(se: u32, sig: u64): bool {
  const kind = classOf(se, sig);
  if (isSpecial(kind)) {
    propagate(se, sig, kind);
    return true;
  }
  if (kind == CLASS_INFINITY) {
    invalid();
    return true;
  }
  if (kind == CLASS_DENORMAL) signal(FSW_DE);
  return false;
}

function packSine(se: u32, sig: u64): void {
  if (sig == 0) setResult(se, sig);
  else pack(W_SINE, true);
}

function packCosine(sig: u64): void {
  if (sig == 0) setResult(SE_ONE, ONE);
  else pack(W_COSINE, true);
}

/** FSIN. */
export function sine(): void {
  oneCircular(true);
}

/** FCOS. */
export function cosine(): void {
  oneCircular(false);
}

function oneCircular(wantSine: bool): void {
  clearC2();
  if (isEmpty(0)) {
    stackUnderflow();
    commit(0);
    return;
  }
  const se = signExponent(0);
  const sig = significand(0);
  if (outOfRange(se, sig)) return;
  if (!specialAngle(se, sig)) {
    if (sig != 0) circular(se, sig);
    if (wantSine) packSine(se, sig);
    else packCosine(sig);
  }
  commit(0);
}

/** FSINCOS: ST(0) becomes the sine, then the cosine is pushed. */
export function sineCosine(): void {
  if (twoResultFault()) return;
  const se = signExponent(0);
  const sig = significand(0);
  if (outOfRange(se, sig)) return;
  if (specialAngle(se, sig)) {
    commitPair();
    return;
  }
  if (aborted()) {
    finish();
    return;
  }
  if (sig != 0) circular(se, sig);
  packSine(se, sig);
  const sineSe = resultSe;
  const sineSig = resultSig;
  // C1 tells of the sine alone (observed on AMD processors).
  const sineUp = raised & FSW_C1;
  packCosine(sig);
  if (sineUp == 0) unsignal(FSW_C1);
  finish();
  writeStack(0, sineSe, sineSig);
  push(resultSe, resultSig);
}

/** FPTAN: ST(0) becomes the tangent, then 1.0 is pushed. */
export function tangent(): void {
  if (twoResultFault()) return;
  const se = signExponent(0);
  const sig = significand(0);
  if (outOfRange(se, sig)) return;
  if (specialAngle(se, sig)) {
    commitPair();
    return;
  }
  if (sig == 0) setResult(se, sig);
  else {
    circular(se, sig);
    wDiv(W_RESULT, W_SINE, W_COSINE);
    pack(W_RESULT, true);
  }
  if (!commit(0)) return;
  push(SE_ONE, ONE);
}

/** Stack faults of the instructions that push a second result. */
function twoResultFault(): bool {
  clearC2();
  if (isEmpty(0)) stackUnderflow();
  else if (!isEmpty(7)) stackOverflow();
  else return false;
  commitPair();
  return true;
}
