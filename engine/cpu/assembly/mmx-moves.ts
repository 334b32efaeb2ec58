/**
 * MMX: conversion between lane sizes, shifts and moves. Source: SDM volume 2; state rules in volume 1, chapter 9.
 */
import { FPU_STATUS, FPU_TAG, GPR } from "./layout";
import { ld16, st32, st64 } from "./mmu";
import { ea } from "./operands";
import {
  checkMmx,
  enterMmx,
  general,
  immediate,
  inMemory,
  mmx,
  mmxPut,
  mmxReg,
  mmxRm,
  mmxRm32,
  mmxRm64,
  putGeneral32,
  putMmx,
  regNumber,
  rmGeneral,
  rmNumber,
  wide,
} from "./sse-common";
import {
  highHalf,
  joinLow,
  pickWords,
  shiftArithmetic16,
  shiftArithmetic32,
  shiftLeft16,
  shiftLeft32,
  shiftLeft64,
  shiftRight16,
  shiftRight32,
  shiftRight64,
} from "./sse-lanes";
import { maskedAddress, storeMasked } from "./sse-masked";

/** PACKSSWB mm, mm/m64: words to bytes, signed saturation. */
export function mmx_packsswb(ip: u32): void {
  const both = joinLow(mmxReg(ip), mmxRm(ip));
  mmxPut(ip, i8x16.narrow_i16x8_s(both, both));
}

/** PACKUSWB mm, mm/m64: signed words to bytes, unsigned saturation. */
export function mmx_packuswb(ip: u32): void {
  const both = joinLow(mmxReg(ip), mmxRm(ip));
  mmxPut(ip, i8x16.narrow_i16x8_u(both, both));
}

/** PACKSSDW mm, mm/m64: doublewords to words, signed saturation. */
export function mmx_packssdw(ip: u32): void {
  const both = joinLow(mmxReg(ip), mmxRm(ip));
  mmxPut(ip, i16x8.narrow_i32x4_s(both, both));
}

/** PUNPCKLBW mm, mm/m32: interleaves the low bytes. */
export function mmx_punpcklbw(ip: u32): void {
  mmxPut(ip, i8x16.shuffle(mmxReg(ip), mmxRm32(ip), 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
}

/** PUNPCKHBW mm, mm/m64: interleaves the high bytes. */
export function mmx_punpckhbw(ip: u32): void {
  mmxPut(ip, highHalf(i8x16.shuffle(mmxReg(ip), mmxRm(ip), 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)));
}

/** PUNPCKLWD mm, mm/m32: interleaves the low words. */
export function mmx_punpcklwd(ip: u32): void {
  mmxPut(ip, i16x8.shuffle(mmxReg(ip), mmxRm32(ip), 0, 8, 1, 9, 2, 10, 3, 11));
}

/** PUNPCKHWD mm, mm/m64: interleaves the high words. */
export function mmx_punpckhwd(ip: u32): void {
  mmxPut(ip, highHalf(i16x8.shuffle(mmxReg(ip), mmxRm(ip), 0, 8, 1, 9, 2, 10, 3, 11)));
}

/** PUNPCKLDQ mm, mm/m32: interleaves the low doublewords. */
export function mmx_punpckldq(ip: u32): void {
  mmxPut(ip, i32x4.shuffle(mmxReg(ip), mmxRm32(ip), 0, 4, 1, 5));
}

/** PUNPCKHDQ mm, mm/m64: interleaves the high doublewords. */
export function mmx_punpckhdq(ip: u32): void {
  mmxPut(ip, highHalf(i32x4.shuffle(mmxReg(ip), mmxRm(ip), 0, 4, 1, 5)));
}

/** PSLLW mm, mm/m64: shifts words left. */
export function mmx_psllw(ip: u32): void {
  mmxPut(ip, shiftLeft16(mmxReg(ip), mmxRm64(ip)));
}

/** PSLLW mm, imm8: shifts words left. */
export function mmx_psllw_imm(ip: u32): void {
  const source = mmxRm(ip);
  putMmx(rmNumber(ip), i64x2.extract_lane(shiftLeft16(source, <u64>immediate(ip)), 0));
}

/** PSLLD mm, mm/m64: shifts doublewords left. */
export function mmx_pslld(ip: u32): void {
  mmxPut(ip, shiftLeft32(mmxReg(ip), mmxRm64(ip)));
}

/** PSLLD mm, imm8: shifts doublewords left. */
export function mmx_pslld_imm(ip: u32): void {
  const source = mmxRm(ip);
  putMmx(rmNumber(ip), i64x2.extract_lane(shiftLeft32(source, <u64>immediate(ip)), 0));
}

/** PSLLQ mm, mm/m64: shifts quadwords left. */
export function mmx_psllq(ip: u32): void {
  mmxPut(ip, shiftLeft64(mmxReg(ip), mmxRm64(ip)));
}

/** PSLLQ mm, imm8: shifts quadwords left. */
export function mmx_psllq_imm(ip: u32): void {
  const source = mmxRm(ip);
  putMmx(rmNumber(ip), i64x2.extract_lane(shiftLeft64(source, <u64>immediate(ip)), 0));
}

/** PSRLW mm, mm/m64: shifts words right. */
export function mmx_psrlw(ip: u32): void {
  mmxPut(ip, shiftRight16(mmxReg(ip), mmxRm64(ip)));
}

/** PSRLW mm, imm8: shifts words right. */
export function mmx_psrlw_imm(ip: u32): void {
  const source = mmxRm(ip);
  putMmx(rmNumber(ip), i64x2.extract_lane(shiftRight16(source, <u64>immediate(ip)), 0));
}

/** PSRLD mm, mm/m64: shifts doublewords right. */
export function mmx_psrld(ip: u32): void {
  mmxPut(ip, shiftRight32(mmxReg(ip), mmxRm64(ip)));
}

/** PSRLD mm, imm8: shifts doublewords right. */
export function mmx_psrld_imm(ip: u32): void {
  const source = mmxRm(ip);
  putMmx(rmNumber(ip), i64x2.extract_lane(shiftRight32(source, <u64>immediate(ip)), 0));
}

/** PSRLQ mm, mm/m64: shifts quadwords right. */
export function mmx_psrlq(ip: u32): void {
  mmxPut(ip, shiftRight64(mmxReg(ip), mmxRm64(ip)));
}

/** PSRLQ mm, imm8: shifts quadwords right. */
export function mmx_psrlq_imm(ip: u32): void {
  const source = mmxRm(ip);
  putMmx(rmNumber(ip), i64x2.extract_lane(shiftRight64(source, <u64>immediate(ip)), 0));
}

/** PSRAW mm, mm/m64: shifts words right, with sign. */
export function mmx_psraw(ip: u32): void {
  mmxPut(ip, shiftArithmetic16(mmxReg(ip), mmxRm64(ip)));
}

/** PSRAW mm, imm8: shifts words right, with sign. */
export function mmx_psraw_imm(ip: u32): void {
  const source = mmxRm(ip);
  putMmx(rmNumber(ip), i64x2.extract_lane(shiftArithmetic16(source, <u64>immediate(ip)), 0));
}

/** PSRAD mm, mm/m64: shifts doublewords right, with sign. */
export function mmx_psrad(ip: u32): void {
  mmxPut(ip, shiftArithmetic32(mmxReg(ip), mmxRm64(ip)));
}

/** PSRAD mm, imm8: shifts doublewords right, with sign. */
export function mmx_psrad_imm(ip: u32): void {
  const source = mmxRm(ip);
  putMmx(rmNumber(ip), i64x2.extract_lane(shiftArithmetic32(source, <u64>immediate(ip)), 0));
}

/** MOVD/MOVQ mm, r/m32 or r/m64 (REX.W): zero-extended. */
export function mmx_movd_load(ip: u32): void {
  checkMmx();
  putMmx(regNumber(ip), rmGeneral(ip));
}

/** MOVD/MOVQ r/m32 or r/m64 (REX.W), mm. */
export function mmx_movd_store(ip: u32): void {
  checkMmx();
  const value = mmx(regNumber(ip));
  if (!inMemory(ip)) store<u64>(GPR + (rmNumber(ip) << 3), wide(ip) ? value : value & 0xffffffff);
  else if (wide(ip)) st64(ea(ip), value);
  else st32(ea(ip), <u32>value);
  enterMmx();
}

/** MOVQ mm, mm/m64. */
export function mmx_movq_load(ip: u32): void {
  putMmx(regNumber(ip), mmxRm64(ip));
}

/** MOVQ mm/m64, mm. */
export function mmx_movq_store(ip: u32): void {
  checkMmx();
  const value = mmx(regNumber(ip));
  if (inMemory(ip)) {
    st64(ea(ip), value);
    enterMmx();
  } else {
    putMmx(rmNumber(ip), value);
  }
}

/** MOVNTQ m64, mm: the cache hint has no effect here. */
export function mmx_movntq(ip: u32): void {
  checkMmx();
  st64(ea(ip), mmx(regNumber(ip)));
  enterMmx();
}

/** PSHUFW mm, mm/m64, imm8: picks words. */
export function mmx_pshufw(ip: u32): void {
  putMmx(regNumber(ip), pickWords(mmxRm64(ip), immediate(ip)));
}

/** PINSRW mm, r32/m16, imm8: replaces one word. */
export function mmx_pinsrw(ip: u32): void {
  checkMmx();
  const word = inMemory(ip) ? <u64>ld16(ea(ip)) : general(rmNumber(ip)) & 0xffff;
  const shift = (<u64>(immediate(ip) & 3)) << 4;
  putMmx(regNumber(ip), (mmx(regNumber(ip)) & ~((<u64>0xffff) << shift)) | (word << shift));
}

/** PEXTRW r32, mm, imm8: one word, zero-extended. */
export function mmx_pextrw(ip: u32): void {
  const source = mmxRm64(ip);
  putGeneral32(ip, <u32>(source >> ((<u64>(immediate(ip) & 3)) << 4)) & 0xffff);
  enterMmx();
}

/** PMOVMSKB r32, mm: the sign bits of the bytes. */
export function mmx_pmovmskb(ip: u32): void {
  const source = mmxRm(ip);
  putGeneral32(ip, <u32>i8x16.bitmask(source) & 0xff);
  enterMmx();
}

/** MASKMOVQ mm, mm: writes the bytes of the first whose mask byte has its top bit set to [rDI]. */
export function mmx_maskmovq(ip: u32): void {
  const mask = mmxRm(ip);
  storeMasked(maskedAddress(ip), mmxReg(ip), <u32>i8x16.bitmask(mask) & 0xff);
  enterMmx();
}

/** EMMS: marks all x87 registers empty. */
export function mmx_emms(ip: u32): void {
  checkMmx();
  store<u8>(FPU_TAG, 0);
  store<u16>(FPU_STATUS, <u16>(<u32>load<u16>(FPU_STATUS) & ~0x3800));
}
