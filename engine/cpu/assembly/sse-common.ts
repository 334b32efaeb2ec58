/**
 * What every MMX and SSE handler begins and ends with: the availability checks, and access to the two register files
 * and to memory operands. Source: SDM volume 1, 9.6 and 11.6; volume 2, 2.4 (exceptions by class).
 */

import { raise, raiseError } from "./fault";
import {
  CR0,
  CR0_EM,
  CR0_TS,
  CR4,
  CR4_OSFXSR,
  EXC_GP,
  EXC_MF,
  EXC_NM,
  EXC_UD,
  FPR,
  FPU_STATUS,
  FPU_TAG,
  GPR,
  PREFIX_REXW,
  R_IMM,
  R_PREFIX,
  R_REG,
  R_RM,
  XMM,
} from "./layout";
import { ld32, ld64, ld128 } from "./mmu";
import { ea } from "./operands";

const STATUS_ES: u32 = 0x80; // FSW: an unmasked x87 exception is pending
const STATUS_TOP: u32 = 0x3800;

function sseUnavailable(): void {
  const ts = load<u32>(CR0) & CR0_TS;
  if ((load<u32>(CR0) & CR0_EM) != 0 || (load<u32>(CR4) & CR4_OSFXSR) == 0) raise(EXC_UD);
  if (ts != 0) raise(EXC_NM);
}

/** Raises #UD (CR0.EM, or CR4.OSFXSR clear) or #NM (CR0.TS). Every instruction that touches XMM or MXCSR starts so. */
export function checkSse(): void {
  if ((load<u32>(CR0) & (CR0_EM | CR0_TS)) != 0 || (load<u32>(CR4) & CR4_OSFXSR) == 0) sseUnavailable();
}

/** Raises #UD (CR0.EM), #NM (CR0.TS) or #MF (pending x87 exception), in this order. */
export function checkMmx(): void {
  const cr0 = load<u32>(CR0);
  if ((cr0 & CR0_EM) != 0) raise(EXC_UD);
  if ((cr0 & CR0_TS) != 0) raise(EXC_NM);
  if ((load<u16>(FPU_STATUS) & STATUS_ES) != 0) raise(EXC_MF);
}

/** Number of the ModRM.reg register. */
export function regNumber(ip: u32): u32 {
  return load<u8>(ip, R_REG);
}

/** Number of the ModRM.rm register, or 255 for a memory operand. */
export function rmNumber(ip: u32): u32 {
  return load<u8>(ip, R_RM);
}

/** Whether the operand in ModRM.rm is in memory. */
export function inMemory(ip: u32): bool {
  return load<u8>(ip, R_RM) == 255;
}

/** The immediate byte, unsigned. */
export function immediate(ip: u32): u32 {
  return load<u8>(ip, R_IMM);
}

/** Whether REX.W is present: the "y" operands are then 64 bits wide. */
export function wide(ip: u32): bool {
  return (load<u8>(ip, R_PREFIX) & PREFIX_REXW) != 0;
}

// --- XMM ------------------------------------------------------------------------------------------------------

/** Address of the XMM register named by ModRM.reg. */
export function regAddress(ip: u32): u32 {
  return XMM + ((<u32>load<u8>(ip, R_REG)) << 4);
}

/** Address of the XMM register named by ModRM.rm; only for register operands. */
export function rmAddress(ip: u32): u32 {
  return XMM + ((<u32>load<u8>(ip, R_RM)) << 4);
}

/** The XMM register named by ModRM.reg. */
export function reg(ip: u32): v128 {
  return v128.load(regAddress(ip));
}

/** Writes the XMM register named by ModRM.reg. */
export function put(ip: u32, value: v128): void {
  v128.store(regAddress(ip), value);
}

/** Linear address of a 16-byte operand in memory; #GP(0) unless it is 16-byte aligned. */
export function alignedEa(ip: u32): u64 {
  const address = ea(ip);
  if ((address & 15) != 0) raiseError(EXC_GP, 0);
  return address;
}

/** 16-byte operand in ModRM.rm after the SSE checks; memory must be aligned. */
export function rm(ip: u32): v128 {
  checkSse();
  return inMemory(ip) ? ld128(alignedEa(ip)) : v128.load(rmAddress(ip));
}

/** 16-byte operand in ModRM.rm after the SSE checks; memory may have any alignment (MOVUPS and its kin). */
export function rmUnaligned(ip: u32): v128 {
  checkSse();
  return inMemory(ip) ? ld128(ea(ip)) : v128.load(rmAddress(ip));
}

/** Low 8 bytes of the XMM register, or 8 bytes of memory, in ModRM.rm, after the SSE checks. */
export function rm64(ip: u32): u64 {
  checkSse();
  return inMemory(ip) ? ld64(ea(ip)) : load<u64>(rmAddress(ip));
}

/** Low 4 bytes of the XMM register, or 4 bytes of memory, in ModRM.rm, after the SSE checks. */
export function rm32(ip: u32): u32 {
  checkSse();
  return inMemory(ip) ? ld32(ea(ip)) : load<u32>(rmAddress(ip));
}

// --- general registers ----------------------------------------------------------------------------------------

/** General register n, all 64 bits. */
export function general(n: u32): u64 {
  return load<u64>(GPR + (n << 3));
}

/** Writes a 32-bit result to the general register named by ModRM.reg, zero-extended. */
export function putGeneral32(ip: u32, value: u32): void {
  store<u64>(GPR + ((<u32>load<u8>(ip, R_REG)) << 3), <u64>value);
}

/** Writes a 64-bit result to the general register named by ModRM.reg. */
export function putGeneral64(ip: u32, value: u64): void {
  store<u64>(GPR + ((<u32>load<u8>(ip, R_REG)) << 3), value);
}

/** General register or memory in ModRM.rm, 32 bits zero-extended, or 64 with REX.W. No checks. */
export function rmGeneral(ip: u32): u64 {
  if (wide(ip)) return inMemory(ip) ? ld64(ea(ip)) : general(rmNumber(ip));
  return inMemory(ip) ? <u64>ld32(ea(ip)) : general(rmNumber(ip)) & 0xffffffff;
}

// --- MMX ------------------------------------------------------------------------------------------------------

/** MMX register n (its number modulo 8: REX does not extend it). */
export function mmx(n: u32): u64 {
  return load<u64>(FPR + ((n & 7) << 4));
}

/** What every MMX instruction does to the x87 state: TOP becomes 0 and all registers are marked in use. */
export function enterMmx(): void {
  store<u16>(FPU_STATUS, <u16>(<u32>load<u16>(FPU_STATUS) & ~STATUS_TOP));
  store<u8>(FPU_TAG, 0xff);
}

/** Writes MMX register n; the exponent half of its x87 register becomes all ones (SDM volume 1, 9.2.1). */
export function putMmx(n: u32, value: u64): void {
  const address = FPR + ((n & 7) << 4);
  store<u64>(address, value);
  store<u16>(address, 0xffff, 8);
  enterMmx();
}

/** The MMX register named by ModRM.reg, in the low half of a vector. */
export function mmxReg(ip: u32): v128 {
  return i64x2.splat(mmx(load<u8>(ip, R_REG)));
}

/** 8-byte MMX register or memory operand in ModRM.rm, after the MMX checks. */
export function mmxRm64(ip: u32): u64 {
  checkMmx();
  return inMemory(ip) ? ld64(ea(ip)) : mmx(rmNumber(ip));
}

/** 8-byte operand in ModRM.rm in both halves of a vector, after the MMX checks. */
export function mmxRm(ip: u32): v128 {
  return i64x2.splat(mmxRm64(ip));
}

/** 4-byte memory operand or low half of an MMX register in ModRM.rm, after the MMX checks. */
export function mmxRm32(ip: u32): v128 {
  checkMmx();
  return i64x2.splat(inMemory(ip) ? <u64>ld32(ea(ip)) : mmx(rmNumber(ip)));
}

/** Writes the low half of a vector to the MMX register named by ModRM.reg. */
export function mmxPut(ip: u32, value: v128): void {
  putMmx(load<u8>(ip, R_REG), i64x2.extract_lane(value, 0));
}
