/**
 * SSE4.2 and POPCNT; not announced by CPUID unless asked for. Source: SDM volume 2; string comparison in
 * volume 2, 4.1.
 */

import { setArith } from "./flags";
import { FLAG_CF, FLAG_OF, FLAG_SF, FLAG_ZF, GPR, PREFIX_REX, R_PREFIX, R_SIZE, SCRATCH, XMM } from "./layout";
import { ld8, ld16, ld32, ld64 } from "./mmu";
import { ea } from "./operands";
import {
  general,
  immediate,
  inMemory,
  put,
  putGeneral32,
  putGeneral64,
  reg,
  regNumber,
  rm,
  rmNumber,
  rmUnaligned,
  wide,
} from "./sse-common";

const FIRST = SCRATCH;
const SECOND = SCRATCH + 16;
const CRC32C: u32 = 0x82f63b78; // the Castagnoli polynomial, bit-reversed

/** Adds the low `bits` of a value to a CRC-32C, least significant first. */
function crcStep(crc: u32, value: u32, bits: u32): u32 {
  let rest = crc ^ value;
  for (let i: u32 = 0; i < bits; i++) rest = (rest >> 1) ^ ((rest & 1) != 0 ? CRC32C : 0);
  return rest;
}

/** Byte register in ModRM.rm: without a REX prefix 4…7 are AH CH DH BH. */
function byteRegister(ip: u32): u32 {
  const n = rmNumber(ip);
  if (n >= 4 && n < 8 && (load<u8>(ip, R_PREFIX) & PREFIX_REX) == 0) return load<u8>(GPR + ((n - 4) << 3) + 1);
  return load<u8>(GPR + (n << 3));
}

/** General register or memory in ModRM.rm of 2, 4 or 8 bytes (log2 in `size`), zero-extended. */
function operand(ip: u32, size: u32): u64 {
  if (size == 1) return inMemory(ip) ? <u64>ld16(ea(ip)) : general(rmNumber(ip)) & 0xffff;
  if (size == 2) return inMemory(ip) ? <u64>ld32(ea(ip)) : general(rmNumber(ip)) & 0xffffffff;
  return inMemory(ip) ? ld64(ea(ip)) : general(rmNumber(ip));
}

/** Element i of a string at `base`, by bits 0 and 1 of the immediate: words or bytes, signed or not. */
function element(base: u32, i: u32, order: u32): i32 {
  if ((order & 1) != 0) {
    const address = base + (i << 1);
    return (order & 2) != 0 ? <i32>load<i16>(address) : <i32>load<u16>(address);
  }
  return (order & 2) != 0 ? <i32>load<i8>(base + i) : <i32>load<u8>(base + i);
}

/** Length by the first zero element. */
function implicitLength(base: u32, count: u32, order: u32): u32 {
  let i: u32 = 0;
  while (i < count && element(base, i, order) != 0) i++;
  return i;
}

/** Length from EAX or EDX (RAX or RDX with REX.W): its absolute value, at most `count`. */
function explicitLength(ip: u32, register: u32, count: u32): u32 {
  const given: i64 = wide(ip) ? <i64>general(register) : <i64>(<i32>general(register));
  const length: u64 = given < 0 ? -given : given;
  return length > count ? count : <u32>length;
}

/** Bits of the intermediate result before polarity; x and y are the lengths of the two strings. */
function aggregate(order: u32, count: u32, x: u32, y: u32): u32 {
  let bits: u32 = 0;
  for (let j: u32 = 0; j < count; j++) {
    let match = false;
    switch ((order >> 2) & 3) {
      case 0:
        for (let i: u32 = 0; i < x && j < y; i++) {
          match = match || element(FIRST, i, order) == element(SECOND, j, order);
        }
        break;
      case 1:
        for (let i: u32 = 0; i + 1 < x && j < y; i += 2) {
          const c = element(SECOND, j, order);
          match = match || (c >= element(FIRST, i, order) && c <= element(FIRST, i + 1, order));
        }
        break;
      case 2:
        match = j < x && j < y ? element(FIRST, j, order) == element(SECOND, j, order) : j >= x && j >= y;
        break;
      default:
        match = true;
        for (let i: u32 = 0; i < x && i + j < count; i++) {
          match = match && i + j < y && element(FIRST, i, order) == element(SECOND, i + j, order);
        }
    }
    if (match) bits |= (<u32>1) << j;
  }
  return bits;
}

/** The common part of PCMPxSTRx: computes the result bits and sets the flags. */
function compareStrings(ip: u32, explicit: bool): u32 {
  v128.store(FIRST, reg(ip));
  v128.store(SECOND, rmUnaligned(ip));
  const order = immediate(ip);
  const count: u32 = (order & 1) != 0 ? 8 : 16;
  const x = explicit ? explicitLength(ip, 0, count) : implicitLength(FIRST, count, order);
  const y = explicit ? explicitLength(ip, 2, count) : implicitLength(SECOND, count, order);
  let bits = aggregate(order, count, x, y);
  const all = ((<u32>1) << count) - 1;
  const valid = ((<u32>1) << y) - 1;
  if ((order & 0x10) != 0) bits ^= (order & 0x20) != 0 ? valid : all;
  setArith(
    (bits != 0 ? FLAG_CF : 0) | (y < count ? FLAG_ZF : 0) | (x < count ? FLAG_SF : 0) | ((bits & 1) != 0 ? FLAG_OF : 0),
  );
  return bits;
}

/** ECX: number of the first or (bit 6) last matching element, or the element count. */
function giveIndex(ip: u32, bits: u32): void {
  const order = immediate(ip);
  let index: u32 = (order & 1) != 0 ? 8 : 16;
  if (bits != 0) index = (order & 0x40) != 0 ? 31 - <u32>clz(bits) : <u32>ctz(bits);
  store<u64>(GPR + 8, <u64>index);
}

/** XMM0: the result bits, or (bit 6) one element of ones per bit. */
function giveMask(ip: u32, bits: u32): void {
  const order = immediate(ip);
  let result = i64x2.replace_lane(i64x2.splat(0), 0, <u64>bits);
  if ((order & 0x40) != 0) {
    const words = i16x8(1, 2, 4, 8, 16, 32, 64, 128);
    const bytes = i8x16(1, 2, 4, 8, 16, 32, 64, -128, 1, 2, 4, 8, 16, 32, 64, -128);
    const spread = i64x2.replace_lane(i8x16.splat(<i8>bits), 1, <u64>((bits >> 8) & 0xff) * 0x0101010101010101);
    if ((order & 1) != 0) result = i16x8.eq(v128.and(i16x8.splat(<i16>bits), words), words);
    else result = i8x16.eq(v128.and(spread, bytes), bytes);
  }
  v128.store(XMM, result);
}

/** PCMPGTQ xmm, xmm/m128: marks greater signed quadwords. */
export function sse_pcmpgtq(ip: u32): void {
  put(ip, i64x2.gt_s(reg(ip), rm(ip)));
}

/** PCMPESTRM xmm, xmm/m128, imm8. */
export function sse_pcmpestrm(ip: u32): void {
  const bits = compareStrings(ip, true);
  giveMask(ip, bits);
}

/** PCMPESTRI xmm, xmm/m128, imm8. */
export function sse_pcmpestri(ip: u32): void {
  const bits = compareStrings(ip, true);
  giveIndex(ip, bits);
}

/** PCMPISTRM xmm, xmm/m128, imm8. */
export function sse_pcmpistrm(ip: u32): void {
  const bits = compareStrings(ip, false);
  giveMask(ip, bits);
}

/** PCMPISTRI xmm, xmm/m128, imm8. */
export function sse_pcmpistri(ip: u32): void {
  const bits = compareStrings(ip, false);
  giveIndex(ip, bits);
}

/** CRC32 r32, r/m8: one byte of CRC-32C. */
export function sse_crc32_byte(ip: u32): void {
  const value = inMemory(ip) ? ld8(ea(ip)) : byteRegister(ip);
  putGeneral32(ip, crcStep(<u32>general(regNumber(ip)), value, 8));
}

/** CRC32 r32, r/m16, r/m32 or r/m64. */
export function sse_crc32(ip: u32): void {
  const size: u32 = load<u8>(ip, R_SIZE);
  const value = operand(ip, size);
  let crc = crcStep(<u32>general(regNumber(ip)), <u32>value, size == 1 ? 16 : 32);
  if (size == 3) crc = crcStep(crc, <u32>(value >> 32), 32);
  putGeneral32(ip, crc);
}

/** POPCNT r, r/m: number of one bits; ZF for zero, the other flags clear. */
export function sse_popcnt(ip: u32): void {
  const size: u32 = load<u8>(ip, R_SIZE);
  const value = operand(ip, size);
  const count = popcnt<u64>(value);
  if (size == 1) store<u16>(GPR + (regNumber(ip) << 3), <u16>count);
  else putGeneral64(ip, count);
  setArith(value == 0 ? FLAG_ZF : 0);
}
