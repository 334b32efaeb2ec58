/**
 * SSE3 and SSSE3 (the latter also on MMX registers); not announced by CPUID unless asked for. Source: SDM volume 2.
 */
import { OP_ADD, OP_SUB } from "./float-ieee";
import { SCRATCH } from "./layout";
import { immediate, mmxPut, mmxReg, mmxRm, mmxRm64, put, putMmx, reg, regNumber, rm, rm64 } from "./sse-common";
import { alternate32, alternate64, finish32x4, finish64x2 } from "./sse-float-lanes";
import { joinLow } from "./sse-lanes";
import {
  addPairs16,
  addPairs32,
  addPairsSaturated16,
  multiplyAddBytes,
  multiplyRound16,
  sign8,
  sign16,
  sign32,
  subtractPairs16,
  subtractPairs32,
  subtractPairsSaturated16,
} from "./sse3-lanes";

/** MOVDDUP xmm, xmm/m64. */
export function sse_movddup(ip: u32): void {
  put(ip, i64x2.splat(rm64(ip)));
}

/** MOVSLDUP xmm, xmm/m128. */
export function sse_movsldup(ip: u32): void {
  const source = rm(ip);
  put(ip, i32x4.shuffle(source, source, 0, 0, 2, 2));
}

/** MOVSHDUP xmm, xmm/m128. */
export function sse_movshdup(ip: u32): void {
  const source = rm(ip);
  put(ip, i32x4.shuffle(source, source, 1, 1, 3, 3));
}

/** ADDSUBPS xmm, xmm/m128: subtracts even lanes, adds odd. */
export function sse_addsubps(ip: u32): void {
  const a = reg(ip);
  alternate32(ip, OP_SUB, OP_ADD, a, rm(ip));
}

/** ADDSUBPD xmm, xmm/m128: subtracts the low lane, adds the high. */
export function sse_addsubpd(ip: u32): void {
  const a = reg(ip);
  alternate64(ip, OP_SUB, OP_ADD, a, rm(ip));
}

/** HADDPS xmm, xmm/m128: adds adjacent lanes. */
export function sse_haddps(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const even = i32x4.shuffle(a, b, 0, 2, 4, 6);
  const odd = i32x4.shuffle(a, b, 1, 3, 5, 7);
  finish32x4(ip, OP_ADD, even, odd, f32x4.add(even, odd));
}

/** HADDPD xmm, xmm/m128: adds adjacent lanes. */
export function sse_haddpd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const low = i64x2.shuffle(a, b, 0, 2);
  const high = i64x2.shuffle(a, b, 1, 3);
  finish64x2(ip, OP_ADD, low, high, f64x2.add(low, high));
}

/** HSUBPS xmm, xmm/m128: subs adjacent lanes. */
export function sse_hsubps(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const even = i32x4.shuffle(a, b, 0, 2, 4, 6);
  const odd = i32x4.shuffle(a, b, 1, 3, 5, 7);
  finish32x4(ip, OP_SUB, even, odd, f32x4.sub(even, odd));
}

/** HSUBPD xmm, xmm/m128: subs adjacent lanes. */
export function sse_hsubpd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const low = i64x2.shuffle(a, b, 0, 2);
  const high = i64x2.shuffle(a, b, 1, 3);
  finish64x2(ip, OP_SUB, low, high, f64x2.sub(low, high));
}

/** PSHUFB xmm, xmm/m128: picks bytes; a selector with the top bit set gives 0. */
export function sse_pshufb(ip: u32): void {
  put(ip, i8x16.swizzle(reg(ip), v128.and(rm(ip), i8x16.splat(-0x71))));
}

/** PSHUFB mm, mm/m64: picks bytes; a selector with the top bit set gives 0. */
export function mmx_pshufb(ip: u32): void {
  mmxPut(ip, i8x16.swizzle(mmxReg(ip), v128.and(mmxRm(ip), i8x16.splat(-0x79))));
}

/** PHADDW xmm, xmm/m128: adds adjacent words. */
export function sse_phaddw(ip: u32): void {
  put(ip, addPairs16(reg(ip), rm(ip)));
}

/** PHADDW mm, mm/m64: adds adjacent words. */
export function mmx_phaddw(ip: u32): void {
  const both = joinLow(mmxReg(ip), mmxRm(ip));
  mmxPut(ip, addPairs16(both, both));
}

/** PHADDD xmm, xmm/m128: adds adjacent doublewords. */
export function sse_phaddd(ip: u32): void {
  put(ip, addPairs32(reg(ip), rm(ip)));
}

/** PHADDD mm, mm/m64: adds adjacent doublewords. */
export function mmx_phaddd(ip: u32): void {
  const both = joinLow(mmxReg(ip), mmxRm(ip));
  mmxPut(ip, addPairs32(both, both));
}

/** PHADDSW xmm, xmm/m128: adds adjacent words, saturating. */
export function sse_phaddsw(ip: u32): void {
  put(ip, addPairsSaturated16(reg(ip), rm(ip)));
}

/** PHADDSW mm, mm/m64: adds adjacent words, saturating. */
export function mmx_phaddsw(ip: u32): void {
  const both = joinLow(mmxReg(ip), mmxRm(ip));
  mmxPut(ip, addPairsSaturated16(both, both));
}

/** PMADDUBSW xmm, xmm/m128: sums of products of unsigned and signed bytes, saturating. */
export function sse_pmaddubsw(ip: u32): void {
  put(ip, multiplyAddBytes(reg(ip), rm(ip)));
}

/** PMADDUBSW mm, mm/m64: sums of products of unsigned and signed bytes, saturating. */
export function mmx_pmaddubsw(ip: u32): void {
  mmxPut(ip, multiplyAddBytes(mmxReg(ip), mmxRm(ip)));
}

/** PHSUBW xmm, xmm/m128: subtracts adjacent words. */
export function sse_phsubw(ip: u32): void {
  put(ip, subtractPairs16(reg(ip), rm(ip)));
}

/** PHSUBW mm, mm/m64: subtracts adjacent words. */
export function mmx_phsubw(ip: u32): void {
  const both = joinLow(mmxReg(ip), mmxRm(ip));
  mmxPut(ip, subtractPairs16(both, both));
}

/** PHSUBD xmm, xmm/m128: subtracts adjacent doublewords. */
export function sse_phsubd(ip: u32): void {
  put(ip, subtractPairs32(reg(ip), rm(ip)));
}

/** PHSUBD mm, mm/m64: subtracts adjacent doublewords. */
export function mmx_phsubd(ip: u32): void {
  const both = joinLow(mmxReg(ip), mmxRm(ip));
  mmxPut(ip, subtractPairs32(both, both));
}

/** PHSUBSW xmm, xmm/m128: subtracts adjacent words, saturating. */
export function sse_phsubsw(ip: u32): void {
  put(ip, subtractPairsSaturated16(reg(ip), rm(ip)));
}

/** PHSUBSW mm, mm/m64: subtracts adjacent words, saturating. */
export function mmx_phsubsw(ip: u32): void {
  const both = joinLow(mmxReg(ip), mmxRm(ip));
  mmxPut(ip, subtractPairsSaturated16(both, both));
}

/** PSIGNB xmm, xmm/m128: applies the signs of bytes. */
export function sse_psignb(ip: u32): void {
  put(ip, sign8(reg(ip), rm(ip)));
}

/** PSIGNB mm, mm/m64: applies the signs of bytes. */
export function mmx_psignb(ip: u32): void {
  mmxPut(ip, sign8(mmxReg(ip), mmxRm(ip)));
}

/** PSIGNW xmm, xmm/m128: applies the signs of words. */
export function sse_psignw(ip: u32): void {
  put(ip, sign16(reg(ip), rm(ip)));
}

/** PSIGNW mm, mm/m64: applies the signs of words. */
export function mmx_psignw(ip: u32): void {
  mmxPut(ip, sign16(mmxReg(ip), mmxRm(ip)));
}

/** PSIGND xmm, xmm/m128: applies the signs of doublewords. */
export function sse_psignd(ip: u32): void {
  put(ip, sign32(reg(ip), rm(ip)));
}

/** PSIGND mm, mm/m64: applies the signs of doublewords. */
export function mmx_psignd(ip: u32): void {
  mmxPut(ip, sign32(mmxReg(ip), mmxRm(ip)));
}

/** PMULHRSW xmm, xmm/m128: rounded high halves of word products. */
export function sse_pmulhrsw(ip: u32): void {
  put(ip, multiplyRound16(reg(ip), rm(ip)));
}

/** PMULHRSW mm, mm/m64: rounded high halves of word products. */
export function mmx_pmulhrsw(ip: u32): void {
  mmxPut(ip, multiplyRound16(mmxReg(ip), mmxRm(ip)));
}

/** PABSB xmm, xmm/m128: absolute values. */
export function sse_pabsb(ip: u32): void {
  put(ip, i8x16.abs(rm(ip)));
}

/** PABSB mm, mm/m64: absolute values. */
export function mmx_pabsb(ip: u32): void {
  mmxPut(ip, i8x16.abs(mmxRm(ip)));
}

/** PABSW xmm, xmm/m128: absolute values. */
export function sse_pabsw(ip: u32): void {
  put(ip, i16x8.abs(rm(ip)));
}

/** PABSW mm, mm/m64: absolute values. */
export function mmx_pabsw(ip: u32): void {
  mmxPut(ip, i16x8.abs(mmxRm(ip)));
}

/** PABSD xmm, xmm/m128: absolute values. */
export function sse_pabsd(ip: u32): void {
  put(ip, i32x4.abs(rm(ip)));
}

/** PABSD mm, mm/m64: absolute values. */
export function mmx_pabsd(ip: u32): void {
  mmxPut(ip, i32x4.abs(mmxRm(ip)));
}

/** PALIGNR xmm, xmm/m128, imm8: 16 bytes out of both operands. */
export function sse_palignr(ip: u32): void {
  v128.store(SCRATCH + 16, reg(ip));
  v128.store(SCRATCH, rm(ip));
  v128.store(SCRATCH + 32, i64x2.splat(0));
  put(ip, immediate(ip) > 31 ? i64x2.splat(0) : v128.load(SCRATCH + immediate(ip)));
}

/** PALIGNR mm, mm/m64, imm8: 8 bytes out of both operands. */
export function mmx_palignr(ip: u32): void {
  v128.store(SCRATCH + 8, mmxReg(ip));
  store<u64>(SCRATCH, mmxRm64(ip));
  store<u64>(SCRATCH + 16, 0);
  putMmx(regNumber(ip), immediate(ip) > 15 ? 0 : load<u64>(SCRATCH + immediate(ip)));
}
