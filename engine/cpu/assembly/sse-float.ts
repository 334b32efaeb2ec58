/**
 * SSE and SSE2: float arithmetic. Each handler lets WebAssembly compute and asks sse-float-lanes.ts to accept that or
 * do it again exactly. Source: SDM volume 2.
 */
import { OP_ADD, OP_DIV, OP_MAX, OP_MIN, OP_MUL, OP_SQRT, OP_SUB } from "./float-ieee";
import { reciprocal, reciprocalRoot } from "./sse-approximation";
import { put, reg, regAddress, rm, rm32, rm64 } from "./sse-common";
import { finish32, finish32x4, finish64, finish64x2, lane32, lane64, lanes32, lanes64 } from "./sse-float-lanes";

/** ADDPS xmm, xmm/m128: adds four binary32. */
export function sse_addps(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  finish32x4(ip, OP_ADD, a, b, f32x4.add(a, b));
}

/** ADDPD xmm, xmm/m128: adds two binary64. */
export function sse_addpd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  finish64x2(ip, OP_ADD, a, b, f64x2.add(a, b));
}

/** ADDSS xmm, xmm/m32: adds the low binary32. */
export function sse_addss(ip: u32): void {
  const a = load<u32>(regAddress(ip));
  const b = rm32(ip);
  finish32(ip, OP_ADD, a, b, reinterpret<u32>(reinterpret<f32>(a) + reinterpret<f32>(b)));
}

/** ADDSD xmm, xmm/m64: adds the low binary64. */
export function sse_addsd(ip: u32): void {
  const a = load<u64>(regAddress(ip));
  const b = rm64(ip);
  finish64(ip, OP_ADD, a, b, reinterpret<u64>(reinterpret<f64>(a) + reinterpret<f64>(b)));
}

/** MULPS xmm, xmm/m128: multiplies four binary32. */
export function sse_mulps(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  finish32x4(ip, OP_MUL, a, b, f32x4.mul(a, b));
}

/** MULPD xmm, xmm/m128: multiplies two binary64. */
export function sse_mulpd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  finish64x2(ip, OP_MUL, a, b, f64x2.mul(a, b));
}

/** MULSS xmm, xmm/m32: multiplies the low binary32. */
export function sse_mulss(ip: u32): void {
  const a = load<u32>(regAddress(ip));
  const b = rm32(ip);
  finish32(ip, OP_MUL, a, b, reinterpret<u32>(reinterpret<f32>(a) * reinterpret<f32>(b)));
}

/** MULSD xmm, xmm/m64: multiplies the low binary64. */
export function sse_mulsd(ip: u32): void {
  const a = load<u64>(regAddress(ip));
  const b = rm64(ip);
  finish64(ip, OP_MUL, a, b, reinterpret<u64>(reinterpret<f64>(a) * reinterpret<f64>(b)));
}

/** SUBPS xmm, xmm/m128: subtracts four binary32. */
export function sse_subps(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  finish32x4(ip, OP_SUB, a, b, f32x4.sub(a, b));
}

/** SUBPD xmm, xmm/m128: subtracts two binary64. */
export function sse_subpd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  finish64x2(ip, OP_SUB, a, b, f64x2.sub(a, b));
}

/** SUBSS xmm, xmm/m32: subtracts the low binary32. */
export function sse_subss(ip: u32): void {
  const a = load<u32>(regAddress(ip));
  const b = rm32(ip);
  finish32(ip, OP_SUB, a, b, reinterpret<u32>(reinterpret<f32>(a) - reinterpret<f32>(b)));
}

/** SUBSD xmm, xmm/m64: subtracts the low binary64. */
export function sse_subsd(ip: u32): void {
  const a = load<u64>(regAddress(ip));
  const b = rm64(ip);
  finish64(ip, OP_SUB, a, b, reinterpret<u64>(reinterpret<f64>(a) - reinterpret<f64>(b)));
}

/** DIVPS xmm, xmm/m128: divides four binary32. */
export function sse_divps(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  finish32x4(ip, OP_DIV, a, b, f32x4.div(a, b));
}

/** DIVPD xmm, xmm/m128: divides two binary64. */
export function sse_divpd(ip: u32): void {
  const a = reg(ip);
  const b = rm(ip);
  finish64x2(ip, OP_DIV, a, b, f64x2.div(a, b));
}

/** DIVSS xmm, xmm/m32: divides the low binary32. */
export function sse_divss(ip: u32): void {
  const a = load<u32>(regAddress(ip));
  const b = rm32(ip);
  finish32(ip, OP_DIV, a, b, reinterpret<u32>(reinterpret<f32>(a) / reinterpret<f32>(b)));
}

/** DIVSD xmm, xmm/m64: divides the low binary64. */
export function sse_divsd(ip: u32): void {
  const a = load<u64>(regAddress(ip));
  const b = rm64(ip);
  finish64(ip, OP_DIV, a, b, reinterpret<u64>(reinterpret<f64>(a) / reinterpret<f64>(b)));
}

/** SQRTPS xmm, xmm/m128: square roots of four binary32. */
export function sse_sqrtps(ip: u32): void {
  const b = rm(ip);
  finish32x4(ip, OP_SQRT, b, b, f32x4.sqrt(b));
}

/** SQRTPD xmm, xmm/m128: square roots of two binary64. */
export function sse_sqrtpd(ip: u32): void {
  const b = rm(ip);
  finish64x2(ip, OP_SQRT, b, b, f64x2.sqrt(b));
}

/** SQRTSS xmm, xmm/m32: square root of the low binary32. */
export function sse_sqrtss(ip: u32): void {
  const b = rm32(ip);
  finish32(ip, OP_SQRT, b, b, reinterpret<u32>(sqrt<f32>(reinterpret<f32>(b))));
}

/** SQRTSD xmm, xmm/m64: square root of the low binary64. */
export function sse_sqrtsd(ip: u32): void {
  const b = rm64(ip);
  finish64(ip, OP_SQRT, b, b, reinterpret<u64>(sqrt<f64>(reinterpret<f64>(b))));
}

/** MINPS xmm, xmm/m128: minima of four binary32; the second operand wins ties and NaN. */
export function sse_minps(ip: u32): void {
  const a = reg(ip);
  lanes32(ip, OP_MIN, a, rm(ip));
}

/** MINPD xmm, xmm/m128: minima of two binary64. */
export function sse_minpd(ip: u32): void {
  const a = reg(ip);
  lanes64(ip, OP_MIN, a, rm(ip));
}

/** MINSS xmm, xmm/m32: minimum of the low binary32. */
export function sse_minss(ip: u32): void {
  lane32(ip, OP_MIN, load<u32>(regAddress(ip)), rm32(ip));
}

/** MINSD xmm, xmm/m64: minimum of the low binary64. */
export function sse_minsd(ip: u32): void {
  lane64(ip, OP_MIN, load<u64>(regAddress(ip)), rm64(ip));
}

/** MAXPS xmm, xmm/m128: maxima of four binary32; the second operand wins ties and NaN. */
export function sse_maxps(ip: u32): void {
  const a = reg(ip);
  lanes32(ip, OP_MAX, a, rm(ip));
}

/** MAXPD xmm, xmm/m128: maxima of two binary64. */
export function sse_maxpd(ip: u32): void {
  const a = reg(ip);
  lanes64(ip, OP_MAX, a, rm(ip));
}

/** MAXSS xmm, xmm/m32: maximum of the low binary32. */
export function sse_maxss(ip: u32): void {
  lane32(ip, OP_MAX, load<u32>(regAddress(ip)), rm32(ip));
}

/** MAXSD xmm, xmm/m64: maximum of the low binary64. */
export function sse_maxsd(ip: u32): void {
  lane64(ip, OP_MAX, load<u64>(regAddress(ip)), rm64(ip));
}

/** RSQRTPS xmm, xmm/m128: approximations. */
export function sse_rsqrtps(ip: u32): void {
  let value = rm(ip);
  value = i32x4.replace_lane(value, 0, reciprocalRoot(i32x4.extract_lane(value, 0)));
  value = i32x4.replace_lane(value, 1, reciprocalRoot(i32x4.extract_lane(value, 1)));
  value = i32x4.replace_lane(value, 2, reciprocalRoot(i32x4.extract_lane(value, 2)));
  put(ip, i32x4.replace_lane(value, 3, reciprocalRoot(i32x4.extract_lane(value, 3))));
}

/** RSQRTSS xmm, xmm/m32: approximation of the low lane. */
export function sse_rsqrtss(ip: u32): void {
  store<u32>(regAddress(ip), reciprocalRoot(rm32(ip)));
}

/** RCPPS xmm, xmm/m128: approximations. */
export function sse_rcpps(ip: u32): void {
  let value = rm(ip);
  value = i32x4.replace_lane(value, 0, reciprocal(i32x4.extract_lane(value, 0)));
  value = i32x4.replace_lane(value, 1, reciprocal(i32x4.extract_lane(value, 1)));
  value = i32x4.replace_lane(value, 2, reciprocal(i32x4.extract_lane(value, 2)));
  put(ip, i32x4.replace_lane(value, 3, reciprocal(i32x4.extract_lane(value, 3))));
}

/** RCPSS xmm, xmm/m32: approximation of the low lane. */
export function sse_rcpss(ip: u32): void {
  store<u32>(regAddress(ip), reciprocal(rm32(ip)));
}
