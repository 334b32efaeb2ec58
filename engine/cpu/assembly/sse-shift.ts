/**
 * SSE2: integer packing, interleaving and shifts on XMM registers. Source: SDM volume 2.
 */
import { immediate, put, reg, rm, rmAddress } from "./sse-common";
import {
  shiftArithmetic16,
  shiftArithmetic32,
  shiftLeft16,
  shiftLeft32,
  shiftLeft64,
  shiftLeftBytes,
  shiftRight16,
  shiftRight32,
  shiftRight64,
  shiftRightBytes,
} from "./sse-lanes";

/** PACKSSWB xmm, xmm/m128: words to bytes, signed saturation. */
export function sse_packsswb(ip: u32): void {
  put(ip, i8x16.narrow_i16x8_s(reg(ip), rm(ip)));
}

/** PACKUSWB xmm, xmm/m128: signed words to bytes, unsigned saturation. */
export function sse_packuswb(ip: u32): void {
  put(ip, i8x16.narrow_i16x8_u(reg(ip), rm(ip)));
}

/** PACKSSDW xmm, xmm/m128: doublewords to words, signed saturation. */
export function sse_packssdw(ip: u32): void {
  put(ip, i16x8.narrow_i32x4_s(reg(ip), rm(ip)));
}

/** PUNPCKLBW xmm, xmm/m128: interleaves the low bytes. */
export function sse_punpcklbw(ip: u32): void {
  put(ip, i8x16.shuffle(reg(ip), rm(ip), 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
}

/** PUNPCKHBW xmm, xmm/m128: interleaves the high bytes. */
export function sse_punpckhbw(ip: u32): void {
  put(ip, i8x16.shuffle(reg(ip), rm(ip), 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
}

/** PUNPCKLWD xmm, xmm/m128: interleaves the low words. */
export function sse_punpcklwd(ip: u32): void {
  put(ip, i16x8.shuffle(reg(ip), rm(ip), 0, 8, 1, 9, 2, 10, 3, 11));
}

/** PUNPCKHWD xmm, xmm/m128: interleaves the high words. */
export function sse_punpckhwd(ip: u32): void {
  put(ip, i16x8.shuffle(reg(ip), rm(ip), 4, 12, 5, 13, 6, 14, 7, 15));
}

/** PUNPCKLDQ xmm, xmm/m128: interleaves the low doublewords. */
export function sse_punpckldq(ip: u32): void {
  put(ip, i32x4.shuffle(reg(ip), rm(ip), 0, 4, 1, 5));
}

/** PUNPCKHDQ xmm, xmm/m128: interleaves the high doublewords. */
export function sse_punpckhdq(ip: u32): void {
  put(ip, i32x4.shuffle(reg(ip), rm(ip), 2, 6, 3, 7));
}

/** PUNPCKLQDQ xmm, xmm/m128: interleaves the low quadwords. */
export function sse_punpcklqdq(ip: u32): void {
  put(ip, i64x2.shuffle(reg(ip), rm(ip), 0, 2));
}

/** PUNPCKHQDQ xmm, xmm/m128: interleaves the high quadwords. */
export function sse_punpckhqdq(ip: u32): void {
  put(ip, i64x2.shuffle(reg(ip), rm(ip), 1, 3));
}

/** PSLLW xmm, xmm/m128: shifts words left; the count is 64 bits. */
export function sse_psllw(ip: u32): void {
  put(ip, shiftLeft16(reg(ip), i64x2.extract_lane(rm(ip), 0)));
}

/** PSLLW xmm, imm8: shifts words left. */
export function sse_psllw_imm(ip: u32): void {
  v128.store(rmAddress(ip), shiftLeft16(rm(ip), <u64>immediate(ip)));
}

/** PSLLD xmm, xmm/m128: shifts doublewords left; the count is 64 bits. */
export function sse_pslld(ip: u32): void {
  put(ip, shiftLeft32(reg(ip), i64x2.extract_lane(rm(ip), 0)));
}

/** PSLLD xmm, imm8: shifts doublewords left. */
export function sse_pslld_imm(ip: u32): void {
  v128.store(rmAddress(ip), shiftLeft32(rm(ip), <u64>immediate(ip)));
}

/** PSLLQ xmm, xmm/m128: shifts quadwords left; the count is 64 bits. */
export function sse_psllq(ip: u32): void {
  put(ip, shiftLeft64(reg(ip), i64x2.extract_lane(rm(ip), 0)));
}

/** PSLLQ xmm, imm8: shifts quadwords left. */
export function sse_psllq_imm(ip: u32): void {
  v128.store(rmAddress(ip), shiftLeft64(rm(ip), <u64>immediate(ip)));
}

/** PSRLW xmm, xmm/m128: shifts words right; the count is 64 bits. */
export function sse_psrlw(ip: u32): void {
  put(ip, shiftRight16(reg(ip), i64x2.extract_lane(rm(ip), 0)));
}

/** PSRLW xmm, imm8: shifts words right. */
export function sse_psrlw_imm(ip: u32): void {
  v128.store(rmAddress(ip), shiftRight16(rm(ip), <u64>immediate(ip)));
}

/** PSRLD xmm, xmm/m128: shifts doublewords right; the count is 64 bits. */
export function sse_psrld(ip: u32): void {
  put(ip, shiftRight32(reg(ip), i64x2.extract_lane(rm(ip), 0)));
}

/** PSRLD xmm, imm8: shifts doublewords right. */
export function sse_psrld_imm(ip: u32): void {
  v128.store(rmAddress(ip), shiftRight32(rm(ip), <u64>immediate(ip)));
}

/** PSRLQ xmm, xmm/m128: shifts quadwords right; the count is 64 bits. */
export function sse_psrlq(ip: u32): void {
  put(ip, shiftRight64(reg(ip), i64x2.extract_lane(rm(ip), 0)));
}

/** PSRLQ xmm, imm8: shifts quadwords right. */
export function sse_psrlq_imm(ip: u32): void {
  v128.store(rmAddress(ip), shiftRight64(rm(ip), <u64>immediate(ip)));
}

/** PSRAW xmm, xmm/m128: shifts words right, with sign; the count is 64 bits. */
export function sse_psraw(ip: u32): void {
  put(ip, shiftArithmetic16(reg(ip), i64x2.extract_lane(rm(ip), 0)));
}

/** PSRAW xmm, imm8: shifts words right, with sign. */
export function sse_psraw_imm(ip: u32): void {
  v128.store(rmAddress(ip), shiftArithmetic16(rm(ip), <u64>immediate(ip)));
}

/** PSRAD xmm, xmm/m128: shifts doublewords right, with sign; the count is 64 bits. */
export function sse_psrad(ip: u32): void {
  put(ip, shiftArithmetic32(reg(ip), i64x2.extract_lane(rm(ip), 0)));
}

/** PSRAD xmm, imm8: shifts doublewords right, with sign. */
export function sse_psrad_imm(ip: u32): void {
  v128.store(rmAddress(ip), shiftArithmetic32(rm(ip), <u64>immediate(ip)));
}

/** PSRLDQ xmm, imm8: shifts the whole register right by bytes. */
export function sse_psrldq(ip: u32): void {
  v128.store(rmAddress(ip), shiftRightBytes(rm(ip), immediate(ip)));
}

/** PSLLDQ xmm, imm8: shifts the whole register left by bytes. */
export function sse_pslldq(ip: u32): void {
  v128.store(rmAddress(ip), shiftLeftBytes(rm(ip), immediate(ip)));
}
