/**
 * Lane operations that MMX and SSE share and WebAssembly has no single instruction for. Pure functions of vectors;
 * MMX uses the low half. Source: SDM volume 2, operation sections of the instructions named.
 */

/** Low 8 bytes of a, then low 8 bytes of b: brings two MMX operands into one vector. */
export function joinLow(a: v128, b: v128): v128 {
  return i64x2.shuffle(a, b, 0, 2);
}

/** The high 8 bytes in both halves: brings the upper part of a full-width result to where MMX looks. */
export function highHalf(a: v128): v128 {
  return i64x2.shuffle(a, a, 1, 1);
}

/** PMULHW: high halves of the signed 16-bit products. */
export function multiplyHighSigned(a: v128, b: v128): v128 {
  const low = i32x4.extmul_low_i16x8_s(a, b);
  const high = i32x4.extmul_high_i16x8_s(a, b);
  return i16x8.shuffle(low, high, 1, 3, 5, 7, 9, 11, 13, 15);
}

/** PMULHUW: high halves of the unsigned 16-bit products. */
export function multiplyHighUnsigned(a: v128, b: v128): v128 {
  const low = i32x4.extmul_low_i16x8_u(a, b);
  const high = i32x4.extmul_high_i16x8_u(a, b);
  return i16x8.shuffle(low, high, 1, 3, 5, 7, 9, 11, 13, 15);
}

/** PMULUDQ: products of the even unsigned doublewords. */
export function multiplyEvenUnsigned(a: v128, b: v128): v128 {
  return i64x2.extmul_low_i32x4_u(i32x4.shuffle(a, a, 0, 2, 0, 2), i32x4.shuffle(b, b, 0, 2, 0, 2));
}

/** PMULDQ: products of the even signed doublewords. */
export function multiplyEvenSigned(a: v128, b: v128): v128 {
  return i64x2.extmul_low_i32x4_s(i32x4.shuffle(a, a, 0, 2, 0, 2), i32x4.shuffle(b, b, 0, 2, 0, 2));
}

/** PSADBW: in each half, the sum of the absolute differences of its bytes. */
export function sumAbsoluteDifferences(a: v128, b: v128): v128 {
  const difference = v128.or(i8x16.sub_sat_u(a, b), i8x16.sub_sat_u(b, a));
  const pairs = i16x8.extadd_pairwise_i8x16_u(difference);
  const quads = i32x4.extadd_pairwise_i16x8_u(pairs);
  return i64x2.add(i64x2.shr_u(quads, 32), v128.and(quads, i64x2.splat(0xffffffff)));
}

/** PSLLW: a count above 15 clears. */
export function shiftLeft16(a: v128, count: u64): v128 {
  return count > 15 ? i64x2.splat(0) : i16x8.shl(a, <i32>count);
}

/** PSLLD: a count above 31 clears. */
export function shiftLeft32(a: v128, count: u64): v128 {
  return count > 31 ? i64x2.splat(0) : i32x4.shl(a, <i32>count);
}

/** PSLLQ: a count above 63 clears. */
export function shiftLeft64(a: v128, count: u64): v128 {
  return count > 63 ? i64x2.splat(0) : i64x2.shl(a, <i32>count);
}

/** PSRLW: a count above 15 clears. */
export function shiftRight16(a: v128, count: u64): v128 {
  return count > 15 ? i64x2.splat(0) : i16x8.shr_u(a, <i32>count);
}

/** PSRLD: a count above 31 clears. */
export function shiftRight32(a: v128, count: u64): v128 {
  return count > 31 ? i64x2.splat(0) : i32x4.shr_u(a, <i32>count);
}

/** PSRLQ: a count above 63 clears. */
export function shiftRight64(a: v128, count: u64): v128 {
  return count > 63 ? i64x2.splat(0) : i64x2.shr_u(a, <i32>count);
}

/** PSRAW: a count above 15 fills with the sign. */
export function shiftArithmetic16(a: v128, count: u64): v128 {
  return i16x8.shr_s(a, count > 15 ? 15 : <i32>count);
}

/** PSRAD: a count above 31 fills with the sign. */
export function shiftArithmetic32(a: v128, count: u64): v128 {
  return i32x4.shr_s(a, count > 31 ? 31 : <i32>count);
}

const IDENTITY_LOW: u64 = 0x0706050403020100;
const IDENTITY_HIGH: u64 = 0x0f0e0d0c0b0a0908;

/** Byte numbers 0…15, the identity of a swizzle. */
export function byteNumbers(): v128 {
  return i64x2.replace_lane(i64x2.splat(IDENTITY_LOW), 1, IDENTITY_HIGH);
}

/** PSLLDQ: shift of the whole vector left by bytes. Numbers that wrap below 0 select nothing, as a swizzle gives 0. */
export function shiftLeftBytes(a: v128, count: u32): v128 {
  return count > 15 ? i64x2.splat(0) : i8x16.swizzle(a, i8x16.sub(byteNumbers(), i8x16.splat(<i8>count)));
}

/** PSRLDQ: shift of the whole vector right by bytes. */
export function shiftRightBytes(a: v128, count: u32): v128 {
  return count > 15 ? i64x2.splat(0) : i8x16.swizzle(a, i8x16.add(byteNumbers(), i8x16.splat(<i8>count)));
}

/** PSHUFW's choice for one group of four words: 4 words picked by the 2-bit fields of `order`, from 8 bytes. */
export function pickWords(source: u64, order: u32): u64 {
  return (
    ((source >> ((order & 3) << 4)) & 0xffff) |
    (((source >> (((order >> 2) & 3) << 4)) & 0xffff) << 16) |
    (((source >> (((order >> 4) & 3) << 4)) & 0xffff) << 32) |
    ((source >> (((order >> 6) & 3) << 4)) << 48)
  );
}

/** PSHUFD, SHUFPS: doublewords 0 and 1 come from `low`, 2 and 3 from `high`, picked by the 2-bit fields of `order`. */
export function pickDoublewords(low: v128, high: v128, order: u32): v128 {
  const fields = v128.and(
    i32x4.replace_lane(
      i32x4.replace_lane(i32x4.replace_lane(i32x4.splat(order), 1, order >> 2), 2, order >> 4),
      3,
      order >> 6,
    ),
    i32x4.splat(3),
  );
  const bytes = i32x4.add(i32x4.mul(fields, i32x4.splat(0x04040404)), i32x4.splat(0x03020100));
  return i64x2.shuffle(i8x16.swizzle(low, bytes), i8x16.swizzle(high, bytes), 0, 3);
}
