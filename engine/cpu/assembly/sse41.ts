/**
 * SSE4.1: insertion and extraction, rounding, dot products; not announced by CPUID unless asked for.
 * Source: SDM volume 2.
 */
import {
  arithmetic,
  begin,
  dropInexact,
  F32,
  F64,
  OP_ADD,
  OP_MUL,
  roundIntegral,
  setRounding,
  settle,
} from "./float-ieee";
import { GPR, SCRATCH } from "./layout";
import { ld8, ld32, st8, st16, st32, st64 } from "./mmu";
import { ea } from "./operands";
import {
  checkSse,
  general,
  immediate,
  inMemory,
  put,
  reg,
  regAddress,
  rm,
  rm32,
  rm64,
  rmAddress,
  rmGeneral,
  rmNumber,
  wide,
} from "./sse-common";

/** Writes a general register named by ModRM.rm. */
function putRm(ip: u32, value: u64): void {
  store<u64>(GPR + (rmNumber(ip) << 3), value);
}

/** Rounding mode of ROUNDPS and its kin: bit 2 of the immediate leaves it to MXCSR. */
function beginRounding(ip: u32): void {
  begin();
  if ((immediate(ip) & 4) == 0) setRounding(immediate(ip) & 3);
}

/** Bit 3 of the immediate silences PE. */
function settleRounding(ip: u32): void {
  if ((immediate(ip) & 8) != 0) dropInexact();
  settle();
}

/** PEXTRB r32/m8, xmm, imm8. */
export function sse_pextrb(ip: u32): void {
  checkSse();
  const value: u32 = load<u8>(regAddress(ip) + (immediate(ip) & 15));
  if (inMemory(ip)) st8(ea(ip), value);
  else putRm(ip, value);
}

/** PEXTRW r32/m16, xmm, imm8 (the SSE4.1 encoding). */
export function sse_pextrw_store(ip: u32): void {
  checkSse();
  const value: u32 = load<u16>(regAddress(ip) + ((immediate(ip) & 7) << 1));
  if (inMemory(ip)) st16(ea(ip), value);
  else putRm(ip, value);
}

/** PEXTRD/PEXTRQ r/m32 or r/m64 (REX.W), xmm, imm8. */
export function sse_pextrd(ip: u32): void {
  checkSse();
  if (wide(ip)) {
    const value = load<u64>(regAddress(ip) + ((immediate(ip) & 1) << 3));
    if (inMemory(ip)) st64(ea(ip), value);
    else putRm(ip, value);
  } else {
    sse_extractps(ip);
  }
}

/** EXTRACTPS r/m32, xmm, imm8. */
export function sse_extractps(ip: u32): void {
  checkSse();
  const value = load<u32>(regAddress(ip) + ((immediate(ip) & 3) << 2));
  if (inMemory(ip)) st32(ea(ip), value);
  else putRm(ip, value);
}

/** PINSRB xmm, r32/m8, imm8. */
export function sse_pinsrb(ip: u32): void {
  checkSse();
  const value = inMemory(ip) ? ld8(ea(ip)) : <u32>general(rmNumber(ip));
  store<u8>(regAddress(ip) + (immediate(ip) & 15), <u8>value);
}

/** PINSRD/PINSRQ xmm, r/m32 or r/m64 (REX.W), imm8. */
export function sse_pinsrd(ip: u32): void {
  checkSse();
  const value = rmGeneral(ip);
  if (wide(ip)) store<u64>(regAddress(ip) + ((immediate(ip) & 1) << 3), value);
  else store<u32>(regAddress(ip) + ((immediate(ip) & 3) << 2), <u32>value);
}

/** INSERTPS xmm, xmm/m32, imm8: one lane in, then lanes cleared by mask. */
export function sse_insertps(ip: u32): void {
  checkSse();
  const order = immediate(ip);
  const value = inMemory(ip) ? ld32(ea(ip)) : load<u32>(rmAddress(ip) + ((order >> 6) << 2));
  store<u32>(regAddress(ip) + (((order >> 4) & 3) << 2), value);
  for (let i: u32 = 0; i < 4; i++) {
    if (((order >> i) & 1) != 0) store<u32>(regAddress(ip) + (i << 2), 0);
  }
}

/** ROUNDPS xmm, xmm/m128, imm8. */
export function sse_roundps(ip: u32): void {
  v128.store(SCRATCH, rm(ip));
  beginRounding(ip);
  for (let i: u32 = 0; i < 16; i += 4) store<u32>(SCRATCH + i, <u32>roundIntegral(load<u32>(SCRATCH + i), F32));
  settleRounding(ip);
  put(ip, v128.load(SCRATCH));
}

/** ROUNDPD xmm, xmm/m128, imm8. */
export function sse_roundpd(ip: u32): void {
  const source = rm(ip);
  beginRounding(ip);
  const low = roundIntegral(i64x2.extract_lane(source, 0), F64);
  const high = roundIntegral(i64x2.extract_lane(source, 1), F64);
  settleRounding(ip);
  put(ip, i64x2.replace_lane(i64x2.splat(low), 1, high));
}

/** ROUNDSS xmm, xmm/m32, imm8. */
export function sse_roundss(ip: u32): void {
  const source = rm32(ip);
  beginRounding(ip);
  const result = roundIntegral(source, F32);
  settleRounding(ip);
  store<u32>(regAddress(ip), <u32>result);
}

/** ROUNDSD xmm, xmm/m64, imm8. */
export function sse_roundsd(ip: u32): void {
  const source = rm64(ip);
  beginRounding(ip);
  const result = roundIntegral(source, F64);
  settleRounding(ip);
  store<u64>(regAddress(ip), result);
}

/** DPPS xmm, xmm/m128, imm8: dot product of the chosen lanes. An unmasked exception of one stage ends it there. */
export function sse_dpps(ip: u32): void {
  v128.store(SCRATCH, reg(ip));
  v128.store(SCRATCH + 16, rm(ip));
  const order = immediate(ip);
  begin();
  for (let i: u32 = 0; i < 4; i++) {
    const a = load<u32>(SCRATCH + (i << 2));
    const b = load<u32>(SCRATCH + 16 + (i << 2));
    store<u32>(SCRATCH + (i << 2), ((order >> (i + 4)) & 1) != 0 ? <u32>arithmetic(OP_MUL, a, b, F32) : 0);
  }
  settle();
  const low = arithmetic(OP_ADD, load<u32>(SCRATCH), load<u32>(SCRATCH + 4), F32);
  const high = arithmetic(OP_ADD, load<u32>(SCRATCH + 8), load<u32>(SCRATCH + 12), F32);
  settle();
  const sum = <u32>arithmetic(OP_ADD, low, high, F32);
  settle();
  for (let i: u32 = 0; i < 4; i++) store<u32>(regAddress(ip) + (i << 2), ((order >> i) & 1) != 0 ? sum : 0);
}

/** DPPD xmm, xmm/m128, imm8: dot product of the chosen lanes, in stages like DPPS. */
export function sse_dppd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const order = immediate(ip);
  begin();
  const low = (order & 16) != 0 ? arithmetic(OP_MUL, i64x2.extract_lane(a, 0), i64x2.extract_lane(b, 0), F64) : 0;
  const high = (order & 32) != 0 ? arithmetic(OP_MUL, i64x2.extract_lane(a, 1), i64x2.extract_lane(b, 1), F64) : 0;
  settle();
  const sum = arithmetic(OP_ADD, low, high, F64);
  settle();
  store<u64>(regAddress(ip), (order & 1) != 0 ? sum : 0);
  store<u64>(regAddress(ip), (order & 2) != 0 ? sum : 0, 8);
}

/** MPSADBW xmm, xmm/m128, imm8: eight sums of absolute differences against one group of four bytes. */
export function sse_mpsadbw(ip: u32): void {
  v128.store(SCRATCH, reg(ip));
  v128.store(SCRATCH + 16, rm(ip));
  const left = SCRATCH + (immediate(ip) & 4);
  const right = SCRATCH + 16 + ((immediate(ip) & 3) << 2);
  for (let i: u32 = 0; i < 8; i++) {
    let sum: i32 = 0;
    for (let j: u32 = 0; j < 4; j++) sum += abs<i32>(<i32>load<u8>(left + i + j) - <i32>load<u8>(right + j));
    store<u16>(SCRATCH + 32 + (i << 1), <u16>sum);
  }
  put(ip, v128.load(SCRATCH + 32));
}
