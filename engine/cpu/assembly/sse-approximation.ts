/**
 * RCPPS and RSQRTPS: approximations with a relative error of at most 1.5 * 2^-12, never an exception. The true value is
 * rounded to 12 bits, which is within the bound; processors differ here among themselves. Denormal operands count as
 * zero, and results below the normal range become zero. Source: SDM volume 2, RCPPS and RSQRTPS.
 */

const SIGN: u32 = 0x80000000;
const INFINITY_BITS: u32 = 0x7f800000;
const QUIET: u32 = 0x400000;
const SMALLEST_NORMAL: u32 = 0x00800000;
const INDEFINITE: u32 = 0xffc00000;

/** Rounds a positive normal number to 12 significant bits. */
function coarse(value: f64): u32 {
  const bits = reinterpret<u32>(<f32>value);
  return (bits + 0x7ff + ((bits >> 12) & 1)) & ~0xfff;
}

/** RCPSS of one bit pattern. */
export function reciprocal(bits: u32): u32 {
  const value = bits & ~SIGN;
  const sign = bits & SIGN;
  if (value > INFINITY_BITS) return bits | QUIET;
  if (value < SMALLEST_NORMAL) return sign | INFINITY_BITS;
  if (value == INFINITY_BITS) return sign;
  const result = coarse(1.0 / <f64>reinterpret<f32>(value));
  return result < SMALLEST_NORMAL ? sign : sign | result;
}

/** RSQRTSS of one bit pattern. */
export function reciprocalRoot(bits: u32): u32 {
  const value = bits & ~SIGN;
  if (value > INFINITY_BITS) return bits | QUIET;
  if (value < SMALLEST_NORMAL) return (bits & SIGN) | INFINITY_BITS;
  if ((bits & SIGN) != 0) return INDEFINITE;
  return value == INFINITY_BITS ? 0 : coarse(1.0 / sqrt<f64>(<f64>reinterpret<f32>(value)));
}
