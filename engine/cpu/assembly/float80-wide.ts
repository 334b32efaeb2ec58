/**
 * 128-bit helpers for the 80-bit arithmetic. WebAssembly has no wide multiply or divide, so both go by 32-bit parts;
 * second results are left in module variables, because a function returns one value and nothing may be allocated.
 */

/** Remainder of the last divide128. */
export let remainder: u64 = 0;
/** Low half of the last shiftRightJam. */
export let jamLow: u64 = 0;

/** A 64-bit constant from its two 32-bit halves. */
export function pair(high: u32, low: u32): u64 {
  return ((high as u64) << 32) | (low as u64);
}

/** High 64 bits of the 128-bit product a * b. */
export function mulHigh(a: u64, b: u64): u64 {
  const a0 = a & 0xffffffff;
  const a1 = a >> 32;
  const b0 = b & 0xffffffff;
  const b1 = b >> 32;
  const middle = a1 * b0 + ((a0 * b0) >> 32);
  const crossed = a0 * b1 + (middle & 0xffffffff);
  return a1 * b1 + (middle >> 32) + (crossed >> 32);
}

/** One 32-bit quotient digit of (high:next) / divisor; leaves the new partial remainder in `remainder`. */
function divideDigit(high: u64, next: u64, divisor: u64): u64 {
  const d1 = divisor >> 32;
  const d0 = divisor & 0xffffffff;
  let digit = high / d1;
  let rest = high - digit * d1;
  while (digit >> 32 != 0 || digit * d0 > ((rest << 32) | next)) {
    digit--;
    rest += d1;
    if (rest >> 32 != 0) break;
  }
  remainder = ((high << 32) | next) - digit * divisor;
  return digit;
}

/** Quotient of (high:low) / divisor, where high < divisor and bit 63 of divisor is set; see `remainder`. */
export function divide128(high: u64, low: u64, divisor: u64): u64 {
  const upper = divideDigit(high, low >> 32, divisor);
  const lower = divideDigit(remainder, low & 0xffffffff, divisor);
  return (upper << 32) | lower;
}

/**
 * Shifts (high:low) right by `count` >= 0. Bits that fall out are or-ed into bit 0, so that rounding still sees them.
 * Returns the high half; the low half is in `jamLow`.
 */
export function shiftRightJam(high: u64, low: u64, count: u32): u64 {
  if (count == 0) {
    jamLow = low;
    return high;
  }
  if (count < 64) {
    const lost = low << (64 - count);
    jamLow = (high << (64 - count)) | (low >> count) | ((lost != 0) as u64);
    return high >> count;
  }
  if (count == 64) {
    jamLow = high | ((low != 0) as u64);
  } else if (count < 128) {
    const lost = (high << (128 - count)) | low;
    jamLow = (high >> (count - 64)) | ((lost != 0) as u64);
  } else {
    jamLow = ((high | low) != 0) as u64;
  }
  return 0;
}
