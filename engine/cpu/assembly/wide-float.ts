/**
 * Working floats of 128 significand bits for the transcendental x87 instructions. They lie in numbered slots of static
 * memory, because nothing may be allocated. The last bits are truncated or jammed, not rounded: with some hundred
 * operations about 120 bits stay right, far more than the 64 that leave this module.
 *
 * Slot layout: u64 high, u64 low (bit 63 of high set, or both 0 for zero), i32 exponent of the leading bit, u32 sign.
 */
import { divide128, jamLow, mulHigh, remainder, shiftRightJam } from "./float80-wide";

const SLOTS: usize = memory.data(512, 16);

// Slots: operands and results of the functions, then temporaries of the series.
export const W_X: u32 = 0;
export const W_Y: u32 = 1;
export const W_RESULT: u32 = 2;
export const W_SQUARE: u32 = 3;
export const W_SUM: u32 = 4;
export const W_ONE: u32 = 5;
export const W_A: u32 = 6;
export const W_B: u32 = 7;
export const W_SINE: u32 = 8;
export const W_COSINE: u32 = 9;

function at(slot: u32): usize {
  return SLOTS + (slot << 5);
}

/** Upper 64 significand bits of a slot. */
export function wHigh(slot: u32): u64 {
  return load<u64>(at(slot));
}

/** Lower 64 significand bits of a slot. */
export function wLow(slot: u32): u64 {
  return load<u64>(at(slot), 8);
}

/** Exponent of the leading bit of a slot. */
export function wExp(slot: u32): i32 {
  return load<i32>(at(slot), 16);
}

/** Sign of a slot, 1 for negative. */
export function wSign(slot: u32): u32 {
  return load<u32>(at(slot), 20);
}

/** True if the slot holds zero. */
export function wIsZero(slot: u32): bool {
  return wHigh(slot) == 0;
}

/** Sets a slot and normalizes it. `exp` is the exponent bit 63 of `high` stands for. */
export function wSet(slot: u32, sign: u32, exp: i32, high: u64, low: u64): void {
  if (high == 0) {
    high = low;
    low = 0;
    exp -= 64;
  }
  if (high == 0) exp = 0;
  else {
    const shift = clz<u64>(high);
    if (shift != 0) {
      high = (high << shift) | (low >> (64 - shift));
      low <<= shift;
      exp -= shift as i32;
    }
  }
  const address = at(slot);
  store<u64>(address, high);
  store<u64>(address, low, 8);
  store<i32>(address, exp, 16);
  store<u32>(address, sign, 20);
}

/** Sets a slot to a small integer. */
export function wSetInteger(slot: u32, value: i32): void {
  const magnitude: u64 = value < 0 ? (-value as u64) : (value as u64);
  wSet(slot, (value < 0) as u32, 63, magnitude, 0);
}

/** Copies a slot. */
export function wCopy(target: u32, source: u32): void {
  wSet(target, wSign(source), wExp(source), wHigh(source), wLow(source));
}

/** Replaces the sign of a slot. */
export function wSetSign(slot: u32, sign: u32): void {
  store<u32>(at(slot), sign, 20);
}

/** Multiplies by 2^power. */
export function wScale(slot: u32, power: i32): void {
  store<i32>(at(slot), wExp(slot) + power, 16);
}

/** True if |a| >= |b|. */
export function wNotLess(a: u32, b: u32): bool {
  if (wIsZero(b)) return true;
  if (wIsZero(a)) return false;
  if (wExp(a) != wExp(b)) return wExp(a) > wExp(b);
  if (wHigh(a) != wHigh(b)) return wHigh(a) > wHigh(b);
  return wLow(a) >= wLow(b);
}

/** target = a + b, or a - b if `negate`. */
export function wAdd(target: u32, a: u32, b: u32, negate: bool): void {
  let aSign = wSign(a);
  let bSign = wSign(b) ^ (negate as u32);
  if (!wNotLess(a, b)) {
    const other = a;
    a = b;
    b = other;
    const otherSign = aSign;
    aSign = bSign;
    bSign = otherSign;
  }
  const high = wHigh(a);
  const low = wLow(a);
  if (wIsZero(b)) {
    wSet(target, aSign, wExp(a), high, low);
    return;
  }
  const bHigh = shiftRightJam(wHigh(b), wLow(b), (wExp(a) - wExp(b)) as u32);
  const bLow = jamLow;
  if (aSign != bSign) {
    wSet(target, aSign, wExp(a), high - bHigh - ((low < bLow) as u64), low - bLow);
    return;
  }
  const sumLow = low + bLow;
  const partial = high + bHigh;
  const sumHigh = partial + ((sumLow < low) as u64);
  const carry = partial < high || sumHigh < partial;
  if (carry) wSet(target, aSign, wExp(a) + 1, (sumHigh >> 1) | ((1 as u64) << 63), (sumHigh << 63) | (sumLow >> 1));
  else wSet(target, aSign, wExp(a), sumHigh, sumLow);
}

/** target = a * b */
export function wMul(target: u32, a: u32, b: u32): void {
  const sign = wSign(a) ^ wSign(b);
  const exp = wExp(a) + wExp(b) + 1;
  const aHigh = wHigh(a);
  const bHigh = wHigh(b);
  let low = aHigh * bHigh;
  let high = mulHigh(aHigh, bHigh);
  const first = mulHigh(aHigh, wLow(b));
  low += first;
  high += (low < first) as u64;
  const second = mulHigh(wLow(a), bHigh);
  low += second;
  high += (low < second) as u64;
  wSet(target, sign, exp, high, low);
}

/** target = a / b by restoring division; b is not zero. The last bit is jammed. */
export function wDiv(target: u32, a: u32, b: u32): void {
  const sign = wSign(a) ^ wSign(b);
  const exp = wExp(a) - wExp(b);
  if (wIsZero(a)) {
    wSet(target, sign, 0, 0, 0);
    return;
  }
  const bHigh = wHigh(b);
  const bLow = wLow(b);
  let restHigh = wHigh(a);
  let restLow = wLow(a);
  let high: u64 = 0;
  let low: u64 = 0;
  let carry = false;
  for (let i = 0; i < 128; i++) {
    high = (high << 1) | (low >> 63);
    low <<= 1;
    if (carry || restHigh > bHigh || (restHigh == bHigh && restLow >= bLow)) {
      restHigh = restHigh - bHigh - ((restLow < bLow) as u64);
      restLow -= bLow;
      low |= 1;
    }
    carry = restHigh >> 63 != 0;
    restHigh = (restHigh << 1) | (restLow >> 63);
    restLow <<= 1;
  }
  if (carry || (restHigh | restLow) != 0) low |= 1;
  wSet(target, sign, exp, high, low);
}

/** Divides a slot by a small positive integer, in place. */
export function wDivSmall(slot: u32, divisor: u32): void {
  const shift = clz<u32>(divisor) + 32;
  // Aligned to bit 63 the divisor exceeds the halved significand, as divide128 wants it.
  const aligned = (divisor as u64) << (shift as u64);
  const source = wHigh(slot);
  const low = wLow(slot);
  const high = divide128(source >> 1, (source << 63) | (low >> 1), aligned);
  const rest = remainder;
  const tail = divide128(rest, low << 63, aligned);
  wSet(slot, wSign(slot), wExp(slot) - 63 + (shift as i32), high, tail);
}
