/**
 * SSE and SSE2: float comparisons into masks and into EFLAGS. Source: SDM volume 2, CMPPS (table of predicates),
 * COMISD and UCOMISD.
 */

import { setArith } from "./flags";
import { begin, compareF, EQUAL, F32, F64, LESS, settle, UNORDERED } from "./float-ieee";
import { FLAG_CF, FLAG_PF, FLAG_ZF, SCRATCH } from "./layout";
import { immediate, put, reg, regAddress, rm, rm32, rm64 } from "./sse-common";

/** Whether predicate 0…7 (EQ LT LE UNORD NEQ NLT NLE ORD) holds; LT, LE and their inverses signal quiet NaN. */
function holds(predicate: u32, a: u64, b: u64, format: u32): bool {
  const base = predicate & 3;
  const order = compareF(a, b, base == 1 || base == 2, format);
  const result =
    base == 0 ? order == EQUAL : base == 1 ? order == LESS : base == 2 ? order <= EQUAL : order == UNORDERED;
  return result != ((predicate & 4) != 0);
}

/** CMPPS xmm, xmm/m128, imm8. */
export function sse_cmpps(ip: u32): void {
  v128.store(SCRATCH, reg(ip));
  v128.store(SCRATCH + 16, rm(ip));
  const predicate = immediate(ip) & 7;
  begin();
  for (let i: u32 = 0; i < 16; i += 4) {
    const result = holds(predicate, load<u32>(SCRATCH + i), load<u32>(SCRATCH + 16 + i), F32);
    store<i32>(SCRATCH + i, result ? -1 : 0);
  }
  settle();
  put(ip, v128.load(SCRATCH));
}

/** CMPPD xmm, xmm/m128, imm8. */
export function sse_cmppd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  const predicate = immediate(ip) & 7;
  begin();
  const low: i64 = holds(predicate, i64x2.extract_lane(a, 0), i64x2.extract_lane(b, 0), F64) ? -1 : 0;
  const high: i64 = holds(predicate, i64x2.extract_lane(a, 1), i64x2.extract_lane(b, 1), F64) ? -1 : 0;
  settle();
  put(ip, i64x2.replace_lane(i64x2.splat(low), 1, high));
}

/** CMPSS xmm, xmm/m32, imm8. */
export function sse_cmpss(ip: u32): void {
  const b = rm32(ip);
  begin();
  const result = holds(immediate(ip) & 7, load<u32>(regAddress(ip)), b, F32);
  settle();
  store<i32>(regAddress(ip), result ? -1 : 0);
}

/** CMPSD xmm, xmm/m64, imm8. */
export function sse_cmpsd(ip: u32): void {
  const b = rm64(ip);
  begin();
  const result = holds(immediate(ip) & 7, load<u64>(regAddress(ip)), b, F64);
  settle();
  store<i64>(regAddress(ip), result ? -1 : 0);
}

/** ZF PF CF of a comparison; OF, AF and SF become 0. */
function compareIntoFlags(a: u64, b: u64, quietSignals: bool, format: u32): void {
  begin();
  const order = compareF(a, b, quietSignals, format);
  settle();
  if (order == UNORDERED) setArith(FLAG_ZF | FLAG_PF | FLAG_CF);
  else setArith(order == EQUAL ? FLAG_ZF : order == LESS ? FLAG_CF : 0);
}

/** UCOMISS xmm, xmm/m32: a quiet NaN is unordered without an exception. */
export function sse_ucomiss(ip: u32): void {
  const b = rm32(ip);
  compareIntoFlags(load<u32>(regAddress(ip)), b, false, F32);
}

/** UCOMISD xmm, xmm/m64. */
export function sse_ucomisd(ip: u32): void {
  const b = rm64(ip);
  compareIntoFlags(load<u64>(regAddress(ip)), b, false, F64);
}

/** COMISS xmm, xmm/m32: any NaN is invalid. */
export function sse_comiss(ip: u32): void {
  const b = rm32(ip);
  compareIntoFlags(load<u32>(regAddress(ip)), b, true, F32);
}

/** COMISD xmm, xmm/m64. */
export function sse_comisd(ip: u32): void {
  const b = rm64(ip);
  compareIntoFlags(load<u64>(regAddress(ip)), b, true, F64);
}
