/**
 * SSE4.1: integer arithmetic, widening and blending; not announced by CPUID unless asked for. Source: SDM volume 2.
 */

import { setArith } from "./flags";
import { FLAG_CF, FLAG_ZF, SCRATCH, XMM } from "./layout";
import { ld16 } from "./mmu";
import { ea } from "./operands";
import { checkSse, immediate, inMemory, put, reg, rm, rm32, rm64, rmAddress } from "./sse-common";
import { multiplyEvenSigned } from "./sse-lanes";

function rm16(ip: u32): u16 {
  checkSse();
  return inMemory(ip) ? <u16>ld16(ea(ip)) : load<u16>(rmAddress(ip));
}

/** PMULDQ xmm, xmm/m128: products of even signed doublewords. */
export function sse_pmuldq(ip: u32): void {
  put(ip, multiplyEvenSigned(reg(ip), rm(ip)));
}

/** PCMPEQQ xmm, xmm/m128: marks equal quadwords. */
export function sse_pcmpeqq(ip: u32): void {
  put(ip, i64x2.eq(reg(ip), rm(ip)));
}

/** PACKUSDW xmm, xmm/m128: doublewords to words, unsigned saturation. */
export function sse_packusdw(ip: u32): void {
  put(ip, i16x8.narrow_i32x4_u(reg(ip), rm(ip)));
}

/** PMINSB xmm, xmm/m128: minima. */
export function sse_pminsb(ip: u32): void {
  put(ip, i8x16.min_s(reg(ip), rm(ip)));
}

/** PMINSD xmm, xmm/m128: minima. */
export function sse_pminsd(ip: u32): void {
  put(ip, i32x4.min_s(reg(ip), rm(ip)));
}

/** PMINUW xmm, xmm/m128: minima. */
export function sse_pminuw(ip: u32): void {
  put(ip, i16x8.min_u(reg(ip), rm(ip)));
}

/** PMINUD xmm, xmm/m128: minima. */
export function sse_pminud(ip: u32): void {
  put(ip, i32x4.min_u(reg(ip), rm(ip)));
}

/** PMAXSB xmm, xmm/m128: maxima. */
export function sse_pmaxsb(ip: u32): void {
  put(ip, i8x16.max_s(reg(ip), rm(ip)));
}

/** PMAXSD xmm, xmm/m128: maxima. */
export function sse_pmaxsd(ip: u32): void {
  put(ip, i32x4.max_s(reg(ip), rm(ip)));
}

/** PMAXUW xmm, xmm/m128: maxima. */
export function sse_pmaxuw(ip: u32): void {
  put(ip, i16x8.max_u(reg(ip), rm(ip)));
}

/** PMAXUD xmm, xmm/m128: maxima. */
export function sse_pmaxud(ip: u32): void {
  put(ip, i32x4.max_u(reg(ip), rm(ip)));
}

/** PMULLD xmm, xmm/m128: low halves of doubleword products. */
export function sse_pmulld(ip: u32): void {
  put(ip, i32x4.mul(reg(ip), rm(ip)));
}

/** PMOVSXBW xmm, xmm/memory: widens lanes, signed. */
export function sse_pmovsxbw(ip: u32): void {
  put(ip, i16x8.extend_low_i8x16_s(i64x2.splat(rm64(ip))));
}

/** PMOVSXBD xmm, xmm/memory: widens lanes, signed. */
export function sse_pmovsxbd(ip: u32): void {
  put(ip, i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(i32x4.splat(rm32(ip)))));
}

/** PMOVSXBQ xmm, xmm/memory: widens lanes, signed. */
export function sse_pmovsxbq(ip: u32): void {
  put(ip, i64x2.extend_low_i32x4_s(i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(i16x8.splat(rm16(ip))))));
}

/** PMOVSXWD xmm, xmm/memory: widens lanes, signed. */
export function sse_pmovsxwd(ip: u32): void {
  put(ip, i32x4.extend_low_i16x8_s(i64x2.splat(rm64(ip))));
}

/** PMOVSXWQ xmm, xmm/memory: widens lanes, signed. */
export function sse_pmovsxwq(ip: u32): void {
  put(ip, i64x2.extend_low_i32x4_s(i32x4.extend_low_i16x8_s(i32x4.splat(rm32(ip)))));
}

/** PMOVSXDQ xmm, xmm/memory: widens lanes, signed. */
export function sse_pmovsxdq(ip: u32): void {
  put(ip, i64x2.extend_low_i32x4_s(i64x2.splat(rm64(ip))));
}

/** PMOVZXBW xmm, xmm/memory: widens lanes, unsigned. */
export function sse_pmovzxbw(ip: u32): void {
  put(ip, i16x8.extend_low_i8x16_u(i64x2.splat(rm64(ip))));
}

/** PMOVZXBD xmm, xmm/memory: widens lanes, unsigned. */
export function sse_pmovzxbd(ip: u32): void {
  put(ip, i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(i32x4.splat(rm32(ip)))));
}

/** PMOVZXBQ xmm, xmm/memory: widens lanes, unsigned. */
export function sse_pmovzxbq(ip: u32): void {
  put(ip, i64x2.extend_low_i32x4_u(i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(i16x8.splat(rm16(ip))))));
}

/** PMOVZXWD xmm, xmm/memory: widens lanes, unsigned. */
export function sse_pmovzxwd(ip: u32): void {
  put(ip, i32x4.extend_low_i16x8_u(i64x2.splat(rm64(ip))));
}

/** PMOVZXWQ xmm, xmm/memory: widens lanes, unsigned. */
export function sse_pmovzxwq(ip: u32): void {
  put(ip, i64x2.extend_low_i32x4_u(i32x4.extend_low_i16x8_u(i32x4.splat(rm32(ip)))));
}

/** PMOVZXDQ xmm, xmm/memory: widens lanes, unsigned. */
export function sse_pmovzxdq(ip: u32): void {
  put(ip, i64x2.extend_low_i32x4_u(i64x2.splat(rm64(ip))));
}

/** PBLENDVB xmm, xmm/m128, <XMM0>: takes the lanes whose mask has its top bit set. */
export function sse_pblendvb(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  put(ip, v128.bitselect(b, a, i8x16.shr_s(v128.load(XMM), 7)));
}

/** BLENDVPS xmm, xmm/m128, <XMM0>: takes the lanes whose mask has its top bit set. */
export function sse_blendvps(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  put(ip, v128.bitselect(b, a, i32x4.shr_s(v128.load(XMM), 31)));
}

/** BLENDVPD xmm, xmm/m128, <XMM0>: takes the lanes whose mask has its top bit set. */
export function sse_blendvpd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  put(ip, v128.bitselect(b, a, i64x2.shr_s(v128.load(XMM), 63)));
}

/** BLENDPS xmm, xmm/m128, imm8: takes the lanes whose bit is set. */
export function sse_blendps(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const bits = i32x4(1, 2, 4, 8);
  const chosen = i32x4.eq(v128.and(i32x4.splat(<i32>immediate(ip)), bits), bits);
  put(ip, v128.bitselect(b, a, chosen));
}

/** BLENDPD xmm, xmm/m128, imm8: takes the lanes whose bit is set. */
export function sse_blendpd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const bits = i64x2(1, 2);
  const chosen = i64x2.eq(v128.and(i64x2.splat(<i64>immediate(ip)), bits), bits);
  put(ip, v128.bitselect(b, a, chosen));
}

/** PBLENDW xmm, xmm/m128, imm8: takes the lanes whose bit is set. */
export function sse_pblendw(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const bits = i16x8(1, 2, 4, 8, 16, 32, 64, 128);
  const chosen = i16x8.eq(v128.and(i16x8.splat(<i16>immediate(ip)), bits), bits);
  put(ip, v128.bitselect(b, a, chosen));
}

/** PTEST xmm, xmm/m128: ZF if no common bit, CF if the first covers the second. */
export function sse_ptest(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const zero = !v128.any_true(v128.and(a, b));
  const covered = !v128.any_true(v128.andnot(b, a));
  setArith((zero ? FLAG_ZF : 0) | (covered ? FLAG_CF : 0));
}

/** PHMINPOSUW xmm, xmm/m128: the least word and its number. */
export function sse_phminposuw(ip: u32): void {
  v128.store(SCRATCH, rm(ip));
  let least: u32 = 0xffff;
  let place: u32 = 0;
  for (let i: u32 = 0; i < 8; i++) {
    const word: u32 = load<u16>(SCRATCH + (i << 1));
    if (word < least) {
      least = word;
      place = i;
    }
  }
  put(ip, i64x2.replace_lane(i64x2.splat(0), 0, <u64>(least | (place << 16))));
}
