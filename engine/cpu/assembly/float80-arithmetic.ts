/** Addition, multiplication, division, square root and comparison in the 80-bit format (SDM volume 1 chapter 8). */
import {
  CLASS_DENORMAL,
  CLASS_INFINITY,
  CLASS_SIGNALING,
  CLASS_ZERO,
  classOf,
  EXP_BIAS,
  FSW_C0,
  FSW_C2,
  FSW_C3,
  FSW_DE,
  FSW_IE,
  FSW_ZE,
  invalid,
  isSpecial,
  normalExp,
  normalize,
  noteDenormals,
  precisionBits,
  propagate,
  propagatePair,
  ROUND_DOWN,
  roundingMode,
  roundPack,
  setInfinity,
  setResult,
  setZero,
  signal,
} from "./float80";
import { divide128, jamLow, mulHigh, remainder, shiftRightJam } from "./float80-wide";

/** a + b, rounded to the precision control. */
export function add80(aSe: u32, aSig: u64, bSe: u32, bSig: u64): void {
  if (propagatePair(aSe, aSig, bSe, bSig)) return;
  addSigned(aSe, aSig, bSe, bSig);
}

/** a - b, rounded to the precision control. A NaN operand keeps its own sign. */
export function sub80(aSe: u32, aSig: u64, bSe: u32, bSig: u64): void {
  if (propagatePair(aSe, aSig, bSe, bSig)) return;
  addSigned(aSe, aSig, bSe ^ 0x8000, bSig);
}

function addSigned(aSe: u32, aSig: u64, bSe: u32, bSig: u64): void {
  const aSign = aSe >> 15;
  const bSign = bSe >> 15;
  const aKind = classOf(aSe, aSig);
  const bKind = classOf(bSe, bSig);
  if (aKind == CLASS_INFINITY && bKind == CLASS_INFINITY && aSign != bSign) {
    invalid();
    return;
  }
  noteDenormals(aSe, aSig, bSe, bSig);
  if (aKind == CLASS_INFINITY) setInfinity(aSign);
  else if (bKind == CLASS_INFINITY) setInfinity(bSign);
  else if (aKind == CLASS_ZERO && bKind == CLASS_ZERO) {
    setZero(aSign == bSign ? aSign : ((roundingMode() == ROUND_DOWN) as u32));
  } else if (aKind == CLASS_ZERO) repack(bSe, bSig);
  else if (bKind == CLASS_ZERO) repack(aSe, aSig);
  else {
    aSig = normalize(aSe, aSig);
    const aExp = normalExp;
    bSig = normalize(bSe, bSig);
    const bExp = normalExp;
    if (aExp > bExp || (aExp == bExp && aSig >= bSig)) addOrdered(aSign, aExp, aSig, bSign, bExp, bSig);
    else addOrdered(bSign, bExp, bSig, aSign, aExp, aSig);
  }
}

/** Rounds a finite non-zero operand to the precision control. */
function repack(se: u32, sig: u64): void {
  sig = normalize(se, sig);
  roundPack(se >> 15, normalExp, sig, 0, precisionBits());
}

/** Sum of two normalized numbers, the first not smaller in magnitude. */
function addOrdered(aSign: u32, aExp: i32, aSig: u64, bSign: u32, bExp: i32, bSig: u64): void {
  let bHigh = shiftRightJam(bSig, 0, (aExp - bExp) as u32);
  let low = jamLow;
  if (aSign == bSign) {
    let high = aSig + bHigh;
    if (high < aSig) {
      high = (high >> 1) | ((1 as u64) << 63);
      low = ((aSig + bHigh) << 63) | (low >> 1) | (low & 1);
      aExp++;
    }
    roundPack(aSign, aExp, high, low, precisionBits());
    return;
  }
  bHigh += (low != 0) as u64;
  let high = aSig - bHigh;
  low = -low;
  if ((high | low) == 0) {
    setZero((roundingMode() == ROUND_DOWN) as u32);
    return;
  }
  if (high == 0) {
    high = low;
    low = 0;
    aExp -= 64;
  }
  const shift = clz<u64>(high);
  if (shift != 0) {
    high = (high << shift) | (low >> (64 - shift));
    low = low << shift;
  }
  roundPack(aSign, aExp - (shift as i32), high, low, precisionBits());
}

/** a * b, rounded to the precision control. */
export function mul80(aSe: u32, aSig: u64, bSe: u32, bSig: u64): void {
  if (propagatePair(aSe, aSig, bSe, bSig)) return;
  const sign = (aSe ^ bSe) >> 15;
  const aKind = classOf(aSe, aSig);
  const bKind = classOf(bSe, bSig);
  if ((aKind == CLASS_INFINITY && bKind == CLASS_ZERO) || (aKind == CLASS_ZERO && bKind == CLASS_INFINITY)) {
    invalid();
    return;
  }
  noteDenormals(aSe, aSig, bSe, bSig);
  if (aKind == CLASS_INFINITY || bKind == CLASS_INFINITY) setInfinity(sign);
  else if (aKind == CLASS_ZERO || bKind == CLASS_ZERO) setZero(sign);
  else {
    aSig = normalize(aSe, aSig);
    let exp = normalExp;
    bSig = normalize(bSe, bSig);
    exp += normalExp - EXP_BIAS + 1;
    let high = mulHigh(aSig, bSig);
    let low = aSig * bSig;
    if (high >> 63 == 0) {
      high = (high << 1) | (low >> 63);
      low <<= 1;
      exp--;
    }
    roundPack(sign, exp, high, low, precisionBits());
  }
}

/** a / b, rounded to the precision control. */
export function div80(aSe: u32, aSig: u64, bSe: u32, bSig: u64): void {
  if (propagatePair(aSe, aSig, bSe, bSig)) return;
  const sign = (aSe ^ bSe) >> 15;
  const aKind = classOf(aSe, aSig);
  const bKind = classOf(bSe, bSig);
  if (aKind == bKind && (aKind == CLASS_INFINITY || aKind == CLASS_ZERO)) {
    invalid();
    return;
  }
  if (bKind == CLASS_ZERO) {
    if (aKind != CLASS_INFINITY) signal(FSW_ZE);
    setInfinity(sign);
    return;
  }
  noteDenormals(aSe, aSig, bSe, bSig);
  if (aKind == CLASS_INFINITY) setInfinity(sign);
  else if (aKind == CLASS_ZERO || bKind == CLASS_INFINITY) setZero(sign);
  else {
    aSig = normalize(aSe, aSig);
    let exp = normalExp;
    bSig = normalize(bSe, bSig);
    exp += EXP_BIAS - normalExp;
    let low: u64 = 0;
    if (aSig >= bSig) {
      low = aSig << 63;
      aSig >>= 1;
    } else exp--;
    const high = divide128(aSig, low, bSig);
    low = divide128(remainder, 0, bSig);
    roundPack(sign, exp, high, low | ((remainder != 0) as u64), precisionBits());
  }
}

/** Square root, rounded to the precision control. */
export function sqrt80(se: u32, sig: u64): void {
  const kind = classOf(se, sig);
  if (isSpecial(kind)) {
    propagate(se, sig, kind);
    return;
  }
  if (kind == CLASS_ZERO) {
    setResult(se, sig);
    return;
  }
  if (se >> 15 != 0) {
    invalid();
    return;
  }
  if (kind == CLASS_INFINITY) {
    setResult(se, sig);
    return;
  }
  if (kind == CLASS_DENORMAL) signal(FSW_DE);
  sig = normalize(se, sig);
  // The radicand is (sig:0) for an odd and half of it for an even power of two, so that the root has 64 bits.
  const power = normalExp - EXP_BIAS;
  let low: u64 = 0;
  if ((power & 1) == 0) {
    low = sig << 63;
    sig >>= 1;
  }
  const root = squareRoot(sig, low);
  // (root + 1/2)^2 = root^2 + root + 1/4: the remainder tells on which side of a half the fraction lies.
  const squareLow = root * root;
  const restHigh = sig - mulHigh(root, root) - ((low < squareLow) as u64);
  const rest = low - squareLow;
  let guard: u64 = 0;
  if ((restHigh | rest) != 0) guard = restHigh != 0 || rest > root ? (3 as u64) << 62 : (1 as u64) << 62;
  roundPack(0, (power >> 1) + EXP_BIAS, root, guard, precisionBits());
}

/** Integer square root of (high:low), high >= 2^62: a Newton step on the float64 estimate, then made exact. */
function squareRoot(high: u64, low: u64): u64 {
  const estimate = Math.sqrt(high as f64) * 4294967296.0;
  const limit = 18446744073709549568.0;
  let root: u64 = estimate >= limit ? ~(0 as u64) : (estimate as u64);
  const quotient = high < root ? divide128(high, low, root) : ~(0 as u64);
  root = (root >> 1) + (quotient >> 1) + (root & quotient & 1);
  while (squareExceeds(root, high, low)) root--;
  while (root != ~(0 as u64) && !squareExceeds(root + 1, high, low)) root++;
  return root;
}

function squareExceeds(root: u64, high: u64, low: u64): bool {
  const squareHigh = mulHigh(root, root);
  return squareHigh > high || (squareHigh == high && root * root > low);
}

/**
 * Compares a with b. Returns C3/C2/C0 as FCOM sets them: 0 for a > b, C0 less, C3 equal, all three unordered.
 * `quiet`: only an SNaN or an unsupported format is invalid (FUCOM), otherwise any NaN.
 */
export function compare80(aSe: u32, aSig: u64, bSe: u32, bSig: u64, quiet: bool): u32 {
  const aKind = classOf(aSe, aSig);
  const bKind = classOf(bSe, bSig);
  if (isSpecial(aKind) || isSpecial(bKind)) {
    if (!quiet || aKind >= CLASS_SIGNALING || bKind >= CLASS_SIGNALING) signal(FSW_IE);
    return FSW_C0 | FSW_C2 | FSW_C3;
  }
  noteDenormals(aSe, aSig, bSe, bSig);
  if (aKind == CLASS_ZERO && bKind == CLASS_ZERO) return FSW_C3;
  const aSign = aSe >> 15;
  if (aSign != bSe >> 15) return aSign != 0 ? FSW_C0 : 0;
  // A pseudo-denormal has the weight of exponent 1.
  const aExp = aKind == CLASS_DENORMAL ? 1 : aSe & 0x7fff;
  const bExp = bKind == CLASS_DENORMAL ? 1 : bSe & 0x7fff;
  if (aExp == bExp && aSig == bSig) return FSW_C3;
  const less = aExp < bExp || (aExp == bExp && aSig < bSig);
  return less == (aSign == 0) ? FSW_C0 : 0;
}
