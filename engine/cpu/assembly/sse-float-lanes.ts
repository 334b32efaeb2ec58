/**
 * The end of a float instruction: accept what WebAssembly computed when that is provably right, else compute exactly.
 *
 * WebAssembly's result is right, flags included, when the mode is round-to-nearest, PE is masked and already set, no
 * operand is denormal, and the result is normal and above the least binade (below it, tininess needs a closer look).
 * Then no exception but PE is possible, and FTZ and DAZ make no difference.
 */

import { arithmetic, begin, F32, F64, settle } from "./float-ieee";
import { MXCSR, SCRATCH } from "./layout";
import { put, regAddress } from "./sse-common";

// rounding mode, PE mask and PE flag: to nearest, masked, set
const MODES: u32 = 0x7020;
const MODES_PLAIN: u32 = 0x1020;

const LEFT = SCRATCH;
const RIGHT = SCRATCH + 16;

function plainModes(): bool {
  return (load<u32>(MXCSR) & MODES) == MODES_PLAIN;
}

function denormal32(bits: u32): bool {
  return (bits & 0x7fffffff) - 1 < 0x7fffff;
}

function denormal64(bits: u64): bool {
  return (bits & 0x7fffffffffffffff) - 1 < 0xfffffffffffff;
}

/** Computes one binary32 lane exactly and writes the low lane of the ModRM.reg register. */
export function lane32(ip: u32, operation: u32, a: u32, b: u32): void {
  begin();
  const result = <u32>arithmetic(operation, a, b, F32);
  settle();
  store<u32>(regAddress(ip), result);
}

/** Computes one binary64 lane exactly and writes the low lane of the ModRM.reg register. */
export function lane64(ip: u32, operation: u32, a: u64, b: u64): void {
  begin();
  const result = arithmetic(operation, a, b, F64);
  settle();
  store<u64>(regAddress(ip), result);
}

/** Computes four binary32 lanes exactly and writes the ModRM.reg register. */
export function lanes32(ip: u32, operation: u32, a: v128, b: v128): void {
  alternate32(ip, operation, operation, a, b);
}

/** Computes two binary64 lanes exactly and writes the ModRM.reg register. */
export function lanes64(ip: u32, operation: u32, a: v128, b: v128): void {
  alternate64(ip, operation, operation, a, b);
}

/** Four binary32 lanes with one operation for the even lanes and one for the odd. */
export function alternate32(ip: u32, even: u32, odd: u32, a: v128, b: v128): void {
  v128.store(LEFT, a);
  v128.store(RIGHT, b);
  begin();
  for (let i: u32 = 0; i < 16; i += 4) {
    const operation = (i & 4) != 0 ? odd : even;
    store<u32>(LEFT + i, <u32>arithmetic(operation, load<u32>(LEFT + i), load<u32>(RIGHT + i), F32));
  }
  settle();
  put(ip, v128.load(LEFT));
}

/** Two binary64 lanes, each with its own operation. */
export function alternate64(ip: u32, even: u32, odd: u32, a: v128, b: v128): void {
  begin();
  const low = arithmetic(even, i64x2.extract_lane(a, 0), i64x2.extract_lane(b, 0), F64);
  const high = arithmetic(odd, i64x2.extract_lane(a, 1), i64x2.extract_lane(b, 1), F64);
  settle();
  put(ip, i64x2.replace_lane(i64x2.splat(low), 1, high));
}

/** Ends a scalar binary32 operation whose candidate result is `result`. */
export function finish32(ip: u32, operation: u32, a: u32, b: u32, result: u32): void {
  const normal = (result & 0x7fffffff) - 0x01000000 < 0x7e800000;
  if (normal && plainModes() && !denormal32(a) && !denormal32(b)) store<u32>(regAddress(ip), result);
  else lane32(ip, operation, a, b);
}

/** Ends a scalar binary64 operation whose candidate result is `result`. */
export function finish64(ip: u32, operation: u32, a: u64, b: u64, result: u64): void {
  const normal = (result & 0x7fffffffffffffff) - 0x0020000000000000 < 0x7fd0000000000000;
  if (normal && plainModes() && !denormal64(a) && !denormal64(b)) store<u64>(regAddress(ip), result);
  else lane64(ip, operation, a, b);
}

/** Lanes of all ones where a binary32 is denormal. */
function denormals32(a: v128): v128 {
  const magnitude = v128.and(a, i32x4.splat(0x7fffffff));
  return i32x4.lt_u(i32x4.sub(magnitude, i32x4.splat(1)), i32x4.splat(0x7fffff));
}

/** Ends a packed binary32 operation whose candidate result is `result`. */
export function finish32x4(ip: u32, operation: u32, a: v128, b: v128, result: v128): void {
  if (plainModes()) {
    const magnitude = v128.and(result, i32x4.splat(0x7fffffff));
    const normal = i32x4.lt_u(i32x4.sub(magnitude, i32x4.splat(0x01000000)), i32x4.splat(0x7e800000));
    const plain = v128.andnot(normal, v128.or(denormals32(a), denormals32(b)));
    if (i32x4.all_true(plain)) {
      put(ip, result);
      return;
    }
  }
  lanes32(ip, operation, a, b);
}

function plainLane64(a: u64, b: u64, result: u64): bool {
  return (result & 0x7fffffffffffffff) - 0x0020000000000000 < 0x7fd0000000000000 && !denormal64(a) && !denormal64(b);
}

/** Ends a packed binary64 operation whose candidate result is `result`. */
export function finish64x2(ip: u32, operation: u32, a: v128, b: v128, result: v128): void {
  if (
    plainModes() &&
    plainLane64(i64x2.extract_lane(a, 0), i64x2.extract_lane(b, 0), i64x2.extract_lane(result, 0)) &&
    plainLane64(i64x2.extract_lane(a, 1), i64x2.extract_lane(b, 1), i64x2.extract_lane(result, 1))
  ) {
    put(ip, result);
    return;
  }
  lanes64(ip, operation, a, b);
}
