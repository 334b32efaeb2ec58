/**
 * SSE and SSE2: moves between XMM registers, memory, MMX and general registers, MXCSR, and the instructions that only
 * order memory or hint caches. Source: SDM volume 2.
 */

import { raiseError } from "./fault";
import { EXC_GP, GPR, MXCSR, SCRATCH } from "./layout";
import { ld32, st32, st64, st128 } from "./mmu";
import { ea } from "./operands";
import {
  alignedEa,
  checkMmx,
  checkSse,
  enterMmx,
  general,
  inMemory,
  mmx,
  put,
  putGeneral32,
  putMmx,
  reg,
  regAddress,
  regNumber,
  rm,
  rm32,
  rm64,
  rmAddress,
  rmGeneral,
  rmNumber,
  rmUnaligned,
  wide,
} from "./sse-common";
import { maskedAddress, storeMasked } from "./sse-masked";

/** Bits of MXCSR that must be zero (FXSAVE's MXCSR_MASK is 0xffff). */
const MXCSR_RESERVED: u32 = 0xffff0000;

function mmxAfterSse(ip: u32): u64 {
  checkSse();
  checkMmx();
  return mmx(rmNumber(ip));
}

/** MOVAPS/MOVAPD/MOVDQA xmm, xmm/m128. */
export function sse_movaps_load(ip: u32): void {
  put(ip, rm(ip));
}

/** MOVAPS/MOVAPD/MOVDQA xmm/m128, xmm. */
export function sse_movaps_store(ip: u32): void {
  checkSse();
  if (inMemory(ip)) st128(alignedEa(ip), reg(ip));
  else v128.store(rmAddress(ip), reg(ip));
}

/** MOVUPS/MOVUPD/MOVDQU xmm, xmm/m128 of any alignment. */
export function sse_movups_load(ip: u32): void {
  put(ip, rmUnaligned(ip));
}

/** MOVUPS/MOVUPD/MOVDQU xmm/m128, xmm. */
export function sse_movups_store(ip: u32): void {
  checkSse();
  if (inMemory(ip)) st128(ea(ip), reg(ip));
  else v128.store(rmAddress(ip), reg(ip));
}

/** MOVNTPS/MOVNTPD/MOVNTDQ m128, xmm: the cache hint has no effect here. */
export function sse_movnt_store(ip: u32): void {
  checkSse();
  st128(alignedEa(ip), reg(ip));
}

/** MOVSS xmm, xmm/m32: memory clears the upper lanes, a register keeps them. */
export function sse_movss_load(ip: u32): void {
  const value = rm32(ip);
  if (inMemory(ip)) put(ip, i32x4.replace_lane(i64x2.splat(0), 0, value));
  else store<u32>(regAddress(ip), value);
}

/** MOVSS xmm/m32, xmm. */
export function sse_movss_store(ip: u32): void {
  checkSse();
  const value = load<u32>(regAddress(ip));
  if (inMemory(ip)) st32(ea(ip), value);
  else store<u32>(rmAddress(ip), value);
}

/** MOVSD xmm, xmm/m64: memory clears the upper half, a register keeps it. */
export function sse_movsd_load(ip: u32): void {
  const value = rm64(ip);
  if (inMemory(ip)) put(ip, i64x2.replace_lane(i64x2.splat(0), 0, value));
  else store<u64>(regAddress(ip), value);
}

/** MOVSD xmm/m64, xmm. */
export function sse_movsd_store(ip: u32): void {
  checkSse();
  const value = load<u64>(regAddress(ip));
  if (inMemory(ip)) st64(ea(ip), value);
  else store<u64>(rmAddress(ip), value);
}

/** MOVLPS/MOVLPD xmm, m64: the upper half stays. */
export function sse_movlps_load(ip: u32): void {
  store<u64>(regAddress(ip), rm64(ip));
}

/** MOVHPS/MOVHPD xmm, m64: the lower half stays. */
export function sse_movhps_load(ip: u32): void {
  store<u64>(regAddress(ip), rm64(ip), 8);
}

/** MOVLPS/MOVLPD m64, xmm. */
export function sse_movlps_store(ip: u32): void {
  checkSse();
  st64(ea(ip), load<u64>(regAddress(ip)));
}

/** MOVHPS/MOVHPD m64, xmm. */
export function sse_movhps_store(ip: u32): void {
  checkSse();
  st64(ea(ip), load<u64>(regAddress(ip), 8));
}

/** MOVHLPS xmm, xmm: upper half of the source to the lower half. */
export function sse_movhlps(ip: u32): void {
  checkSse();
  store<u64>(regAddress(ip), load<u64>(rmAddress(ip), 8));
}

/** MOVLHPS xmm, xmm: lower half of the source to the upper half. */
export function sse_movlhps(ip: u32): void {
  checkSse();
  store<u64>(regAddress(ip), load<u64>(rmAddress(ip)), 8);
}

/** MOVD/MOVQ xmm, r/m32 or r/m64 (REX.W): zero-extended. */
export function sse_movd_load(ip: u32): void {
  checkSse();
  put(ip, i64x2.replace_lane(i64x2.splat(0), 0, rmGeneral(ip)));
}

/** MOVD/MOVQ r/m32 or r/m64 (REX.W), xmm. */
export function sse_movd_store(ip: u32): void {
  checkSse();
  const value = load<u64>(regAddress(ip));
  if (!inMemory(ip)) store<u64>(GPR + (rmNumber(ip) << 3), wide(ip) ? value : value & 0xffffffff);
  else if (wide(ip)) st64(ea(ip), value);
  else st32(ea(ip), <u32>value);
}

/** MOVQ xmm, xmm/m64: zero-extended. */
export function sse_movq_load(ip: u32): void {
  put(ip, i64x2.replace_lane(i64x2.splat(0), 0, rm64(ip)));
}

/** MOVQ xmm/m64, xmm: a register destination is zero-extended. */
export function sse_movq_store(ip: u32): void {
  checkSse();
  const value = load<u64>(regAddress(ip));
  if (inMemory(ip)) st64(ea(ip), value);
  else v128.store(rmAddress(ip), i64x2.replace_lane(i64x2.splat(0), 0, value));
}

/** MOVQ2DQ xmm, mm. */
export function sse_movq2dq(ip: u32): void {
  const value = mmxAfterSse(ip);
  put(ip, i64x2.replace_lane(i64x2.splat(0), 0, value));
  enterMmx();
}

/** MOVDQ2Q mm, xmm. */
export function sse_movdq2q(ip: u32): void {
  checkSse();
  checkMmx();
  putMmx(regNumber(ip), load<u64>(rmAddress(ip)));
}

/** MASKMOVDQU xmm, xmm: writes the bytes of the first whose mask byte has its top bit set to [rDI]. */
export function sse_maskmovdqu(ip: u32): void {
  checkSse();
  storeMasked(maskedAddress(ip), reg(ip), <u32>i8x16.bitmask(v128.load(rmAddress(ip))));
}

/** MOVNTI m32/m64, r32/r64: an ordinary store here; needs no SSE state. */
export function sse_movnti(ip: u32): void {
  if (wide(ip)) st64(ea(ip), general(regNumber(ip)));
  else st32(ea(ip), <u32>general(regNumber(ip)));
}

/** MOVMSKPS r32, xmm: the four sign bits. */
export function sse_movmskps(ip: u32): void {
  putGeneral32(ip, <u32>i32x4.bitmask(rm(ip)));
}

/** MOVMSKPD r32, xmm: the two sign bits. */
export function sse_movmskpd(ip: u32): void {
  putGeneral32(ip, <u32>i64x2.bitmask(rm(ip)));
}

/** PMOVMSKB r32, xmm: the sign bits of the bytes. */
export function sse_pmovmskb(ip: u32): void {
  putGeneral32(ip, <u32>i8x16.bitmask(rm(ip)));
}

/** LDMXCSR m32: #GP(0) when a reserved bit is set. */
export function sse_ldmxcsr(ip: u32): void {
  checkSse();
  const value = ld32(ea(ip));
  if ((value & MXCSR_RESERVED) != 0) raiseError(EXC_GP, 0);
  store<u32>(MXCSR, value);
}

/** STMXCSR m32. */
export function sse_stmxcsr(ip: u32): void {
  checkSse();
  st32(ea(ip), load<u32>(MXCSR));
}

/**
 * PREFETCHh, SFENCE, LFENCE: nothing to do, since the accesses of one virtual CPU are those of one thread.
 */
export function sse_ordering(_ip: u32): void {}

/** MFENCE: whoever is at the other end of a ring sees the stores before it before we read on. Any atomic change does that. */
export function memoryFence(_ip: u32): void {
  atomic.add<u32>(SCRATCH, 0);
}
