/**
 * SSE2: integer arithmetic, comparison and logic on XMM registers. Source: SDM volume 2.
 */
import { put, reg, rm } from "./sse-common";
import { multiplyEvenUnsigned, multiplyHighSigned, multiplyHighUnsigned, sumAbsoluteDifferences } from "./sse-lanes";

/** PADDB xmm, xmm/m128: adds bytes, wrapping. */
export function sse_paddb(ip: u32): void {
  put(ip, i8x16.add(reg(ip), rm(ip)));
}

/** PADDW xmm, xmm/m128: adds words, wrapping. */
export function sse_paddw(ip: u32): void {
  put(ip, i16x8.add(reg(ip), rm(ip)));
}

/** PADDD xmm, xmm/m128: adds doublewords, wrapping. */
export function sse_paddd(ip: u32): void {
  put(ip, i32x4.add(reg(ip), rm(ip)));
}

/** PADDQ xmm, xmm/m128: adds quadwords, wrapping. */
export function sse_paddq(ip: u32): void {
  put(ip, i64x2.add(reg(ip), rm(ip)));
}

/** PSUBB xmm, xmm/m128: subtracts bytes, wrapping. */
export function sse_psubb(ip: u32): void {
  put(ip, i8x16.sub(reg(ip), rm(ip)));
}

/** PSUBW xmm, xmm/m128: subtracts words, wrapping. */
export function sse_psubw(ip: u32): void {
  put(ip, i16x8.sub(reg(ip), rm(ip)));
}

/** PSUBD xmm, xmm/m128: subtracts doublewords, wrapping. */
export function sse_psubd(ip: u32): void {
  put(ip, i32x4.sub(reg(ip), rm(ip)));
}

/** PSUBQ xmm, xmm/m128: subtracts quadwords, wrapping. */
export function sse_psubq(ip: u32): void {
  put(ip, i64x2.sub(reg(ip), rm(ip)));
}

/** PADDSB xmm, xmm/m128: adds signed bytes, saturating. */
export function sse_paddsb(ip: u32): void {
  put(ip, i8x16.add_sat_s(reg(ip), rm(ip)));
}

/** PADDSW xmm, xmm/m128: adds signed words, saturating. */
export function sse_paddsw(ip: u32): void {
  put(ip, i16x8.add_sat_s(reg(ip), rm(ip)));
}

/** PADDUSB xmm, xmm/m128: adds unsigned bytes, saturating. */
export function sse_paddusb(ip: u32): void {
  put(ip, i8x16.add_sat_u(reg(ip), rm(ip)));
}

/** PADDUSW xmm, xmm/m128: adds unsigned words, saturating. */
export function sse_paddusw(ip: u32): void {
  put(ip, i16x8.add_sat_u(reg(ip), rm(ip)));
}

/** PSUBSB xmm, xmm/m128: subtracts signed bytes, saturating. */
export function sse_psubsb(ip: u32): void {
  put(ip, i8x16.sub_sat_s(reg(ip), rm(ip)));
}

/** PSUBSW xmm, xmm/m128: subtracts signed words, saturating. */
export function sse_psubsw(ip: u32): void {
  put(ip, i16x8.sub_sat_s(reg(ip), rm(ip)));
}

/** PSUBUSB xmm, xmm/m128: subtracts unsigned bytes, saturating. */
export function sse_psubusb(ip: u32): void {
  put(ip, i8x16.sub_sat_u(reg(ip), rm(ip)));
}

/** PSUBUSW xmm, xmm/m128: subtracts unsigned words, saturating. */
export function sse_psubusw(ip: u32): void {
  put(ip, i16x8.sub_sat_u(reg(ip), rm(ip)));
}

/** PMULLW xmm, xmm/m128: low halves of word products. */
export function sse_pmullw(ip: u32): void {
  put(ip, i16x8.mul(reg(ip), rm(ip)));
}

/** PMULHW xmm, xmm/m128: high halves of signed word products. */
export function sse_pmulhw(ip: u32): void {
  put(ip, multiplyHighSigned(reg(ip), rm(ip)));
}

/** PMULHUW xmm, xmm/m128: high halves of unsigned word products. */
export function sse_pmulhuw(ip: u32): void {
  put(ip, multiplyHighUnsigned(reg(ip), rm(ip)));
}

/** PMULUDQ xmm, xmm/m128: products of even unsigned doublewords. */
export function sse_pmuludq(ip: u32): void {
  put(ip, multiplyEvenUnsigned(reg(ip), rm(ip)));
}

/** PMADDWD xmm, xmm/m128: sums of adjacent signed word products. */
export function sse_pmaddwd(ip: u32): void {
  put(ip, i32x4.dot_i16x8_s(reg(ip), rm(ip)));
}

/** PSADBW xmm, xmm/m128: sums of absolute byte differences. */
export function sse_psadbw(ip: u32): void {
  put(ip, sumAbsoluteDifferences(reg(ip), rm(ip)));
}

/** PAVGB xmm, xmm/m128: rounded averages of unsigned bytes. */
export function sse_pavgb(ip: u32): void {
  put(ip, i8x16.avgr_u(reg(ip), rm(ip)));
}

/** PAVGW xmm, xmm/m128: rounded averages of unsigned words. */
export function sse_pavgw(ip: u32): void {
  put(ip, i16x8.avgr_u(reg(ip), rm(ip)));
}

/** PMINUB xmm, xmm/m128: minima of unsigned bytes. */
export function sse_pminub(ip: u32): void {
  put(ip, i8x16.min_u(reg(ip), rm(ip)));
}

/** PMAXUB xmm, xmm/m128: maxima of unsigned bytes. */
export function sse_pmaxub(ip: u32): void {
  put(ip, i8x16.max_u(reg(ip), rm(ip)));
}

/** PMINSW xmm, xmm/m128: minima of signed words. */
export function sse_pminsw(ip: u32): void {
  put(ip, i16x8.min_s(reg(ip), rm(ip)));
}

/** PMAXSW xmm, xmm/m128: maxima of signed words. */
export function sse_pmaxsw(ip: u32): void {
  put(ip, i16x8.max_s(reg(ip), rm(ip)));
}

/** PCMPEQB xmm, xmm/m128: marks equal bytes. */
export function sse_pcmpeqb(ip: u32): void {
  put(ip, i8x16.eq(reg(ip), rm(ip)));
}

/** PCMPEQW xmm, xmm/m128: marks equal words. */
export function sse_pcmpeqw(ip: u32): void {
  put(ip, i16x8.eq(reg(ip), rm(ip)));
}

/** PCMPEQD xmm, xmm/m128: marks equal doublewords. */
export function sse_pcmpeqd(ip: u32): void {
  put(ip, i32x4.eq(reg(ip), rm(ip)));
}

/** PCMPGTB xmm, xmm/m128: marks greater signed bytes. */
export function sse_pcmpgtb(ip: u32): void {
  put(ip, i8x16.gt_s(reg(ip), rm(ip)));
}

/** PCMPGTW xmm, xmm/m128: marks greater signed words. */
export function sse_pcmpgtw(ip: u32): void {
  put(ip, i16x8.gt_s(reg(ip), rm(ip)));
}

/** PCMPGTD xmm, xmm/m128: marks greater signed doublewords. */
export function sse_pcmpgtd(ip: u32): void {
  put(ip, i32x4.gt_s(reg(ip), rm(ip)));
}

/** PAND xmm, xmm/m128: bitwise and. */
export function sse_pand(ip: u32): void {
  put(ip, v128.and(reg(ip), rm(ip)));
}

/** PANDN xmm, xmm/m128: bitwise and with the first operand inverted. */
export function sse_pandn(ip: u32): void {
  put(ip, v128.andnot(rm(ip), reg(ip)));
}

/** POR xmm, xmm/m128: bitwise or. */
export function sse_por(ip: u32): void {
  put(ip, v128.or(reg(ip), rm(ip)));
}

/** PXOR xmm, xmm/m128: bitwise exclusive or. */
export function sse_pxor(ip: u32): void {
  put(ip, v128.xor(reg(ip), rm(ip)));
}
