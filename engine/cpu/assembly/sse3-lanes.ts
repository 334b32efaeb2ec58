/** Lane operations of SSSE3, pure functions of vectors. Source: SDM volume 2. */

function even16(a: v128, b: v128): v128 {
  return i16x8.shuffle(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
}

function odd16(a: v128, b: v128): v128 {
  return i16x8.shuffle(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
}

/** PHADDW: sums of adjacent words of a, then of b. */
export function addPairs16(a: v128, b: v128): v128 {
  return i16x8.add(even16(a, b), odd16(a, b));
}

/** PHADDSW: the same, saturating. */
export function addPairsSaturated16(a: v128, b: v128): v128 {
  return i16x8.add_sat_s(even16(a, b), odd16(a, b));
}

/** PHADDD: sums of adjacent doublewords. */
export function addPairs32(a: v128, b: v128): v128 {
  return i32x4.add(i32x4.shuffle(a, b, 0, 2, 4, 6), i32x4.shuffle(a, b, 1, 3, 5, 7));
}

/** PHSUBW: the lower word of each pair minus the higher. */
export function subtractPairs16(a: v128, b: v128): v128 {
  return i16x8.sub(even16(a, b), odd16(a, b));
}

/** PHSUBSW: the same, saturating. */
export function subtractPairsSaturated16(a: v128, b: v128): v128 {
  return i16x8.sub_sat_s(even16(a, b), odd16(a, b));
}

/** PHSUBD: the lower doubleword of each pair minus the higher. */
export function subtractPairs32(a: v128, b: v128): v128 {
  return i32x4.sub(i32x4.shuffle(a, b, 0, 2, 4, 6), i32x4.shuffle(a, b, 1, 3, 5, 7));
}

/** PMADDUBSW: unsigned bytes of a times signed bytes of b; adjacent products are added with saturation. */
export function multiplyAddBytes(a: v128, b: v128): v128 {
  const low = i16x8.mul(i16x8.extend_low_i8x16_u(a), i16x8.extend_low_i8x16_s(b));
  const high = i16x8.mul(i16x8.extend_high_i8x16_u(a), i16x8.extend_high_i8x16_s(b));
  return addPairsSaturated16(low, high);
}

/** PMULHRSW: WebAssembly's rounding multiplication, but -1 times -1 (as fractions) wraps instead of saturating. */
export function multiplyRound16(a: v128, b: v128): v128 {
  const least = i16x8.splat(-0x8000);
  const wraps = v128.and(i16x8.eq(a, least), i16x8.eq(b, least));
  return v128.xor(i16x8.q15mulr_sat_s(a, b), wraps);
}

/** PSIGNB: a negated where b is negative, zero where b is zero. */
export function sign8(a: v128, b: v128): v128 {
  const negative = i8x16.shr_s(b, 7);
  return v128.andnot(i8x16.sub(v128.xor(a, negative), negative), i8x16.eq(b, i64x2.splat(0)));
}

/** PSIGNW. */
export function sign16(a: v128, b: v128): v128 {
  const negative = i16x8.shr_s(b, 15);
  return v128.andnot(i16x8.sub(v128.xor(a, negative), negative), i16x8.eq(b, i64x2.splat(0)));
}

/** PSIGND. */
export function sign32(a: v128, b: v128): v128 {
  const negative = i32x4.shr_s(b, 31);
  return v128.andnot(i32x4.sub(v128.xor(a, negative), negative), i32x4.eq(b, i64x2.splat(0)));
}
