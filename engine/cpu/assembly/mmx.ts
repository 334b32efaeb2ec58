/**
 * MMX: arithmetic, comparison and logic on the 64-bit registers, with the integer additions of SSE and SSE2.
 * Operands are carried in the low half of a vector. Source: SDM volume 2; state rules in volume 1, chapter 9.
 */
import { mmxPut, mmxReg, mmxRm } from "./sse-common";
import { multiplyEvenUnsigned, multiplyHighSigned, multiplyHighUnsigned, sumAbsoluteDifferences } from "./sse-lanes";

/** PADDB mm, mm/m64: adds bytes, wrapping. */
export function mmx_paddb(ip: u32): void {
  mmxPut(ip, i8x16.add(mmxReg(ip), mmxRm(ip)));
}

/** PADDW mm, mm/m64: adds words, wrapping. */
export function mmx_paddw(ip: u32): void {
  mmxPut(ip, i16x8.add(mmxReg(ip), mmxRm(ip)));
}

/** PADDD mm, mm/m64: adds doublewords, wrapping. */
export function mmx_paddd(ip: u32): void {
  mmxPut(ip, i32x4.add(mmxReg(ip), mmxRm(ip)));
}

/** PADDQ mm, mm/m64: adds quadwords, wrapping. */
export function mmx_paddq(ip: u32): void {
  mmxPut(ip, i64x2.add(mmxReg(ip), mmxRm(ip)));
}

/** PSUBB mm, mm/m64: subtracts bytes, wrapping. */
export function mmx_psubb(ip: u32): void {
  mmxPut(ip, i8x16.sub(mmxReg(ip), mmxRm(ip)));
}

/** PSUBW mm, mm/m64: subtracts words, wrapping. */
export function mmx_psubw(ip: u32): void {
  mmxPut(ip, i16x8.sub(mmxReg(ip), mmxRm(ip)));
}

/** PSUBD mm, mm/m64: subtracts doublewords, wrapping. */
export function mmx_psubd(ip: u32): void {
  mmxPut(ip, i32x4.sub(mmxReg(ip), mmxRm(ip)));
}

/** PSUBQ mm, mm/m64: subtracts quadwords, wrapping. */
export function mmx_psubq(ip: u32): void {
  mmxPut(ip, i64x2.sub(mmxReg(ip), mmxRm(ip)));
}

/** PADDSB mm, mm/m64: adds signed bytes, saturating. */
export function mmx_paddsb(ip: u32): void {
  mmxPut(ip, i8x16.add_sat_s(mmxReg(ip), mmxRm(ip)));
}

/** PADDSW mm, mm/m64: adds signed words, saturating. */
export function mmx_paddsw(ip: u32): void {
  mmxPut(ip, i16x8.add_sat_s(mmxReg(ip), mmxRm(ip)));
}

/** PADDUSB mm, mm/m64: adds unsigned bytes, saturating. */
export function mmx_paddusb(ip: u32): void {
  mmxPut(ip, i8x16.add_sat_u(mmxReg(ip), mmxRm(ip)));
}

/** PADDUSW mm, mm/m64: adds unsigned words, saturating. */
export function mmx_paddusw(ip: u32): void {
  mmxPut(ip, i16x8.add_sat_u(mmxReg(ip), mmxRm(ip)));
}

/** PSUBSB mm, mm/m64: subtracts signed bytes, saturating. */
export function mmx_psubsb(ip: u32): void {
  mmxPut(ip, i8x16.sub_sat_s(mmxReg(ip), mmxRm(ip)));
}

/** PSUBSW mm, mm/m64: subtracts signed words, saturating. */
export function mmx_psubsw(ip: u32): void {
  mmxPut(ip, i16x8.sub_sat_s(mmxReg(ip), mmxRm(ip)));
}

/** PSUBUSB mm, mm/m64: subtracts unsigned bytes, saturating. */
export function mmx_psubusb(ip: u32): void {
  mmxPut(ip, i8x16.sub_sat_u(mmxReg(ip), mmxRm(ip)));
}

/** PSUBUSW mm, mm/m64: subtracts unsigned words, saturating. */
export function mmx_psubusw(ip: u32): void {
  mmxPut(ip, i16x8.sub_sat_u(mmxReg(ip), mmxRm(ip)));
}

/** PMULLW mm, mm/m64: low halves of word products. */
export function mmx_pmullw(ip: u32): void {
  mmxPut(ip, i16x8.mul(mmxReg(ip), mmxRm(ip)));
}

/** PMULHW mm, mm/m64: high halves of signed word products. */
export function mmx_pmulhw(ip: u32): void {
  mmxPut(ip, multiplyHighSigned(mmxReg(ip), mmxRm(ip)));
}

/** PMULHUW mm, mm/m64: high halves of unsigned word products. */
export function mmx_pmulhuw(ip: u32): void {
  mmxPut(ip, multiplyHighUnsigned(mmxReg(ip), mmxRm(ip)));
}

/** PMULUDQ mm, mm/m64: products of even unsigned doublewords. */
export function mmx_pmuludq(ip: u32): void {
  mmxPut(ip, multiplyEvenUnsigned(mmxReg(ip), mmxRm(ip)));
}

/** PMADDWD mm, mm/m64: sums of adjacent signed word products. */
export function mmx_pmaddwd(ip: u32): void {
  mmxPut(ip, i32x4.dot_i16x8_s(mmxReg(ip), mmxRm(ip)));
}

/** PSADBW mm, mm/m64: sums of absolute byte differences. */
export function mmx_psadbw(ip: u32): void {
  mmxPut(ip, sumAbsoluteDifferences(mmxReg(ip), mmxRm(ip)));
}

/** PAVGB mm, mm/m64: rounded averages of unsigned bytes. */
export function mmx_pavgb(ip: u32): void {
  mmxPut(ip, i8x16.avgr_u(mmxReg(ip), mmxRm(ip)));
}

/** PAVGW mm, mm/m64: rounded averages of unsigned words. */
export function mmx_pavgw(ip: u32): void {
  mmxPut(ip, i16x8.avgr_u(mmxReg(ip), mmxRm(ip)));
}

/** PMINUB mm, mm/m64: minima of unsigned bytes. */
export function mmx_pminub(ip: u32): void {
  mmxPut(ip, i8x16.min_u(mmxReg(ip), mmxRm(ip)));
}

/** PMAXUB mm, mm/m64: maxima of unsigned bytes. */
export function mmx_pmaxub(ip: u32): void {
  mmxPut(ip, i8x16.max_u(mmxReg(ip), mmxRm(ip)));
}

/** PMINSW mm, mm/m64: minima of signed words. */
export function mmx_pminsw(ip: u32): void {
  mmxPut(ip, i16x8.min_s(mmxReg(ip), mmxRm(ip)));
}

/** PMAXSW mm, mm/m64: maxima of signed words. */
export function mmx_pmaxsw(ip: u32): void {
  mmxPut(ip, i16x8.max_s(mmxReg(ip), mmxRm(ip)));
}

/** PCMPEQB mm, mm/m64: marks equal bytes. */
export function mmx_pcmpeqb(ip: u32): void {
  mmxPut(ip, i8x16.eq(mmxReg(ip), mmxRm(ip)));
}

/** PCMPEQW mm, mm/m64: marks equal words. */
export function mmx_pcmpeqw(ip: u32): void {
  mmxPut(ip, i16x8.eq(mmxReg(ip), mmxRm(ip)));
}

/** PCMPEQD mm, mm/m64: marks equal doublewords. */
export function mmx_pcmpeqd(ip: u32): void {
  mmxPut(ip, i32x4.eq(mmxReg(ip), mmxRm(ip)));
}

/** PCMPGTB mm, mm/m64: marks greater signed bytes. */
export function mmx_pcmpgtb(ip: u32): void {
  mmxPut(ip, i8x16.gt_s(mmxReg(ip), mmxRm(ip)));
}

/** PCMPGTW mm, mm/m64: marks greater signed words. */
export function mmx_pcmpgtw(ip: u32): void {
  mmxPut(ip, i16x8.gt_s(mmxReg(ip), mmxRm(ip)));
}

/** PCMPGTD mm, mm/m64: marks greater signed doublewords. */
export function mmx_pcmpgtd(ip: u32): void {
  mmxPut(ip, i32x4.gt_s(mmxReg(ip), mmxRm(ip)));
}

/** PAND mm, mm/m64: bitwise and. */
export function mmx_pand(ip: u32): void {
  mmxPut(ip, v128.and(mmxReg(ip), mmxRm(ip)));
}

/** PANDN mm, mm/m64: bitwise and with the first operand inverted. */
export function mmx_pandn(ip: u32): void {
  mmxPut(ip, v128.andnot(mmxRm(ip), mmxReg(ip)));
}

/** POR mm, mm/m64: bitwise or. */
export function mmx_por(ip: u32): void {
  mmxPut(ip, v128.or(mmxReg(ip), mmxRm(ip)));
}

/** PXOR mm, mm/m64: bitwise exclusive or. */
export function mmx_pxor(ip: u32): void {
  mmxPut(ip, v128.xor(mmxReg(ip), mmxRm(ip)));
}
