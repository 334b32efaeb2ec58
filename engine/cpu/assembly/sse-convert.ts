/**
 * SSE and SSE2: conversions among binary32, binary64 and integers. Source: SDM volume 2, CVT…; volume 1, 11.5.2.1 for
 * the integer indefinite.
 */
import { begin, convertFormat, F32, F64, fromInteger, ROUND_ZERO, setRounding, settle, toInteger } from "./float-ieee";
import { ld64 } from "./mmu";
import { ea } from "./operands";
import {
  checkMmx,
  checkSse,
  enterMmx,
  inMemory,
  mmx,
  put,
  putGeneral32,
  putGeneral64,
  putMmx,
  regAddress,
  regNumber,
  rm,
  rm32,
  rm64,
  rmGeneral,
  rmNumber,
  wide,
} from "./sse-common";

function joinWords(low: u64, high: u64): u64 {
  return (low & 0xffffffff) | (high << 32);
}

function vector(low: u64, high: u64): v128 {
  return i64x2.replace_lane(i64x2.splat(low), 1, high);
}

function lowWord(pair: u64): u64 {
  return pair & 0xffffffff;
}

/** Two signed doublewords to two binary32. */
function pairToSingles(pair: u64): u64 {
  const low = fromInteger(<i64>(<i32>pair), F32);
  return joinWords(low, fromInteger(<i64>pair >> 32, F32));
}

/** Two binary32 to two signed doublewords. */
function singlesToPair(pair: u64): u64 {
  const low = toInteger(lowWord(pair), F32, 32);
  return joinWords(low, toInteger(pair >> 32, F32, 32));
}

/** Two binary64 to two signed doublewords. */
function doublesToPair(source: v128): u64 {
  const low = toInteger(i64x2.extract_lane(source, 0), F64, 32);
  return joinWords(low, toInteger(i64x2.extract_lane(source, 1), F64, 32));
}

function beginTruncating(): void {
  begin();
  setRounding(ROUND_ZERO);
}

// --- from integers --------------------------------------------------------------------------------------------

/** The MMX register or memory operand of CVTPI2PS and CVTPI2PD; memory leaves the x87 state alone. */
function pairOperand(ip: u32): u64 {
  checkSse();
  if (inMemory(ip)) return ld64(ea(ip));
  checkMmx();
  enterMmx();
  return mmx(rmNumber(ip));
}

/** CVTPI2PS xmm, mm/m64. */
export function sse_cvtpi2ps(ip: u32): void {
  const pair = pairOperand(ip);
  begin();
  const result = pairToSingles(pair);
  settle();
  store<u64>(regAddress(ip), result);
}

/** CVTPI2PD xmm, mm/m64: exact. */
export function sse_cvtpi2pd(ip: u32): void {
  const pair = pairOperand(ip);
  v128.store(regAddress(ip), f64x2.convert_low_i32x4_s(i64x2.splat(pair)));
}

/** CVTSI2SS xmm, r/m32 or r/m64 (REX.W). */
export function sse_cvtsi2ss(ip: u32): void {
  checkSse();
  const value = rmGeneral(ip);
  begin();
  const result = fromInteger(wide(ip) ? <i64>value : <i64>(<i32>value), F32);
  settle();
  store<u32>(regAddress(ip), <u32>result);
}

/** CVTSI2SD xmm, r/m32 or r/m64 (REX.W); the 32-bit form is exact. */
export function sse_cvtsi2sd(ip: u32): void {
  checkSse();
  const value = rmGeneral(ip);
  if (!wide(ip)) {
    store<f64>(regAddress(ip), <f64>(<i32>value));
    return;
  }
  begin();
  const result = fromInteger(<i64>value, F64);
  settle();
  store<u64>(regAddress(ip), result);
}

/** CVTDQ2PS xmm, xmm/m128. */
export function sse_cvtdq2ps(ip: u32): void {
  const source = rm(ip);
  begin();
  const low = pairToSingles(i64x2.extract_lane(source, 0));
  const high = pairToSingles(i64x2.extract_lane(source, 1));
  settle();
  put(ip, vector(low, high));
}

/** CVTDQ2PD xmm, xmm/m64: exact. */
export function sse_cvtdq2pd(ip: u32): void {
  put(ip, f64x2.convert_low_i32x4_s(i64x2.splat(rm64(ip))));
}

// --- between the formats --------------------------------------------------------------------------------------

/** CVTPS2PD xmm, xmm/m64. */
export function sse_cvtps2pd(ip: u32): void {
  const pair = rm64(ip);
  begin();
  const low = convertFormat(lowWord(pair), F32, F64);
  const high = convertFormat(pair >> 32, F32, F64);
  settle();
  put(ip, vector(low, high));
}

/** CVTPD2PS xmm, xmm/m128: the upper half becomes 0. */
export function sse_cvtpd2ps(ip: u32): void {
  const source = rm(ip);
  begin();
  const low = convertFormat(i64x2.extract_lane(source, 0), F64, F32);
  const high = convertFormat(i64x2.extract_lane(source, 1), F64, F32);
  settle();
  put(ip, vector(joinWords(low, high), 0));
}

/** CVTSS2SD xmm, xmm/m32. */
export function sse_cvtss2sd(ip: u32): void {
  const source = rm32(ip);
  begin();
  const result = convertFormat(source, F32, F64);
  settle();
  store<u64>(regAddress(ip), result);
}

/** CVTSD2SS xmm, xmm/m64. */
export function sse_cvtsd2ss(ip: u32): void {
  const source = rm64(ip);
  begin();
  const result = convertFormat(source, F64, F32);
  settle();
  store<u32>(regAddress(ip), <u32>result);
}

// --- to integers ----------------------------------------------------------------------------------------------

/** Writes two doublewords to the MMX register in ModRM.reg. Even an unmasked exception leaves the MMX state entered. */
function settleMmx(ip: u32, pair: u64): void {
  enterMmx();
  settle();
  putMmx(regNumber(ip), pair);
}

/** CVTPS2PI mm, xmm/m64. */
export function sse_cvtps2pi(ip: u32): void {
  checkSse();
  checkMmx();
  const pair = rm64(ip);
  begin();
  settleMmx(ip, singlesToPair(pair));
}

/** CVTTPS2PI mm, xmm/m64. */
export function sse_cvttps2pi(ip: u32): void {
  checkSse();
  checkMmx();
  const pair = rm64(ip);
  beginTruncating();
  settleMmx(ip, singlesToPair(pair));
}

/** CVTPD2PI mm, xmm/m128. */
export function sse_cvtpd2pi(ip: u32): void {
  checkSse();
  checkMmx();
  const source = rm(ip);
  begin();
  settleMmx(ip, doublesToPair(source));
}

/** CVTTPD2PI mm, xmm/m128. */
export function sse_cvttpd2pi(ip: u32): void {
  checkSse();
  checkMmx();
  const source = rm(ip);
  beginTruncating();
  settleMmx(ip, doublesToPair(source));
}

/** Converts one number to the general register in ModRM.reg, 32 or 64 bits (REX.W); begin() was called. */
function toGeneral(ip: u32, value: u64, format: u32): void {
  const result = toInteger(value, format, wide(ip) ? 64 : 32);
  settle();
  if (wide(ip)) putGeneral64(ip, result);
  else putGeneral32(ip, <u32>result);
}

/** CVTSS2SI r32/r64, xmm/m32. */
export function sse_cvtss2si(ip: u32): void {
  const source = rm32(ip);
  begin();
  toGeneral(ip, source, F32);
}

/** CVTTSS2SI r32/r64, xmm/m32. */
export function sse_cvttss2si(ip: u32): void {
  const source = rm32(ip);
  beginTruncating();
  toGeneral(ip, source, F32);
}

/** CVTSD2SI r32/r64, xmm/m64. */
export function sse_cvtsd2si(ip: u32): void {
  const source = rm64(ip);
  begin();
  toGeneral(ip, source, F64);
}

/** CVTTSD2SI r32/r64, xmm/m64. */
export function sse_cvttsd2si(ip: u32): void {
  const source = rm64(ip);
  beginTruncating();
  toGeneral(ip, source, F64);
}

/** Four binary32 to four doublewords; begin() was called. */
function singlesToDoublewords(ip: u32, source: v128): void {
  const low = singlesToPair(i64x2.extract_lane(source, 0));
  const high = singlesToPair(i64x2.extract_lane(source, 1));
  settle();
  put(ip, vector(low, high));
}

/** CVTPS2DQ xmm, xmm/m128. */
export function sse_cvtps2dq(ip: u32): void {
  const source = rm(ip);
  begin();
  singlesToDoublewords(ip, source);
}

/** CVTTPS2DQ xmm, xmm/m128. */
export function sse_cvttps2dq(ip: u32): void {
  const source = rm(ip);
  beginTruncating();
  singlesToDoublewords(ip, source);
}

/** Two binary64 to two doublewords, the upper half 0; begin() was called. */
function doublesToDoublewords(ip: u32, source: v128): void {
  const pair = doublesToPair(source);
  settle();
  put(ip, vector(pair, 0));
}

/** CVTPD2DQ xmm, xmm/m128. */
export function sse_cvtpd2dq(ip: u32): void {
  const source = rm(ip);
  begin();
  doublesToDoublewords(ip, source);
}

/** CVTTPD2DQ xmm, xmm/m128. */
export function sse_cvttpd2dq(ip: u32): void {
  const source = rm(ip);
  beginTruncating();
  doublesToDoublewords(ip, source);
}
