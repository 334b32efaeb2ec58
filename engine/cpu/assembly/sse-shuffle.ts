/**
 * SSE and SSE2: shuffles, insertion and extraction, and the bitwise operations of the float group.
 * Source: SDM volume 2.
 */
import { ld16 } from "./mmu";
import { ea } from "./operands";
import {
  checkSse,
  general,
  immediate,
  inMemory,
  put,
  putGeneral32,
  reg,
  regAddress,
  rm,
  rmAddress,
  rmNumber,
} from "./sse-common";
import { highHalf, pickDoublewords, pickWords } from "./sse-lanes";

/** SHUFPS xmm, xmm/m128, imm8: two lanes of each operand. */
export function sse_shufps(ip: u32): void {
  const a = reg(ip);
  put(ip, pickDoublewords(a, rm(ip), immediate(ip)));
}

/** SHUFPD xmm, xmm/m128, imm8: one lane of each operand. */
export function sse_shufpd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const order = immediate(ip);
  const low = (order & 1) != 0 ? highHalf(a) : a;
  put(ip, (order & 2) != 0 ? i64x2.shuffle(low, b, 0, 3) : i64x2.shuffle(low, b, 0, 2));
}

/** PSHUFD xmm, xmm/m128, imm8. */
export function sse_pshufd(ip: u32): void {
  const source = rm(ip);
  put(ip, pickDoublewords(source, source, immediate(ip)));
}

/** PSHUFLW xmm, xmm/m128, imm8: picks words in the lower half. */
export function sse_pshuflw(ip: u32): void {
  const source = rm(ip);
  put(ip, i64x2.replace_lane(source, 0, pickWords(i64x2.extract_lane(source, 0), immediate(ip))));
}

/** PSHUFHW xmm, xmm/m128, imm8: picks words in the upper half. */
export function sse_pshufhw(ip: u32): void {
  const source = rm(ip);
  put(ip, i64x2.replace_lane(source, 1, pickWords(i64x2.extract_lane(source, 1), immediate(ip))));
}

/** UNPCKLPS xmm, xmm/m128: interleaves the low lanes. */
export function sse_unpcklps(ip: u32): void {
  put(ip, i32x4.shuffle(reg(ip), rm(ip), 0, 4, 1, 5));
}

/** UNPCKHPS xmm, xmm/m128: interleaves the high lanes. */
export function sse_unpckhps(ip: u32): void {
  put(ip, i32x4.shuffle(reg(ip), rm(ip), 2, 6, 3, 7));
}

/** UNPCKLPD xmm, xmm/m128: interleaves the low lanes. */
export function sse_unpcklpd(ip: u32): void {
  put(ip, i64x2.shuffle(reg(ip), rm(ip), 0, 2));
}

/** UNPCKHPD xmm, xmm/m128: interleaves the high lanes. */
export function sse_unpckhpd(ip: u32): void {
  put(ip, i64x2.shuffle(reg(ip), rm(ip), 1, 3));
}

/** PINSRW xmm, r32/m16, imm8: replaces one word. */
export function sse_pinsrw(ip: u32): void {
  checkSse();
  const word = inMemory(ip) ? ld16(ea(ip)) : <u32>general(rmNumber(ip));
  store<u16>(regAddress(ip) + ((immediate(ip) & 7) << 1), <u16>word);
}

/** PEXTRW r32, xmm, imm8: one word, zero-extended. */
export function sse_pextrw(ip: u32): void {
  checkSse();
  putGeneral32(ip, load<u16>(rmAddress(ip) + ((immediate(ip) & 7) << 1)));
}

/** ANDPS/ANDPD xmm, xmm/m128: bitwise. */
export function sse_andps(ip: u32): void {
  put(ip, v128.and(reg(ip), rm(ip)));
}

/** ANDNPS/ANDNPD xmm, xmm/m128: bitwise. */
export function sse_andnps(ip: u32): void {
  put(ip, v128.andnot(rm(ip), reg(ip)));
}

/** ORPS/ORPD xmm, xmm/m128: bitwise. */
export function sse_orps(ip: u32): void {
  put(ip, v128.or(reg(ip), rm(ip)));
}

/** XORPS/XORPD xmm, xmm/m128: bitwise. */
export function sse_xorps(ip: u32): void {
  put(ip, v128.xor(reg(ip), rm(ip)));
}
