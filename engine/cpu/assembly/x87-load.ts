/** Loads and stores of the x87 escapes: real, integer, packed decimal and constants (SDM volume 2 under each name). */

import {
  FSW_DE,
  FSW_IE,
  FSW_SF,
  ROUND_NEAREST,
  ROUND_UP,
  raised,
  resultSe,
  resultSig,
  roundingMode,
  setResult,
  signal,
  widenedDenormal,
} from "./float80";
import { decimalHigh, loadWidened, narrow, narrowAborted, toDecimal, toInteger } from "./float80-convert";
import { pair } from "./float80-wide";
import { checkWrite, st16, st32, st64 } from "./mmu";
import { commitPush } from "./x87-arithmetic";
import {
  aborted,
  finish,
  isEmpty,
  pop,
  push,
  signExponent,
  significand,
  stackOverflow,
  stackUnderflow,
} from "./x87-stack";

/**
 * FLD m32 and m64: the operand is widened in the result. A denormal is loaded even if DE is unmasked, and the exception
 * stays pending (observed on AMD processors).
 */
export function loadReal(): void {
  const denormal = widenedDenormal;
  if (!isEmpty(7)) stackOverflow();
  else loadWidened(resultSe, resultSig, denormal);
  const load = !aborted() || raised == FSW_DE;
  finish();
  if (load) push(resultSe, resultSig);
}

/** FILD, FBLD and FLD m80: exact, the value is in the result. */
export function loadExact(): void {
  if (!isEmpty(7)) stackOverflow();
  commitPush();
}

/** FST and FSTP m32 (`bits` 24) or m64 (`bits` 53). */
export function storeReal(address: u64, bits: u32, pops: bool): void {
  let value: u64;
  let stored = true;
  if (isEmpty(0)) {
    stackUnderflow();
    value = bits == 24 ? 0xffc00000 : (0xfff8 as u64) << 48;
  } else {
    value = narrow(signExponent(0), significand(0), bits);
    stored = !narrowAborted;
  }
  stored = stored && !aborted();
  if (stored) {
    if (bits == 24) st32(address, value as u32);
    else st64(address, value);
  } else checkWrite(address, bits == 24 ? 4 : 8);
  finish();
  if (stored && pops) pop();
}

/** FSTP m80: any bit pattern moves unchanged. */
export function storeExtended(address: u64): void {
  if (isEmpty(0)) stackUnderflow();
  else setResult(signExponent(0), significand(0));
  checkWrite(address, 10);
  if (!finish()) return;
  st64(address, resultSig);
  st16(address + 8, resultSe);
  pop();
}

/** FIST and FISTP of 16, 32 or 64 bits. */
export function storeInteger(address: u64, bits: u32, pops: bool): void {
  let value: u64 = (1 as u64) << (bits - 1);
  if (isEmpty(0)) signal(FSW_IE | FSW_SF);
  else value = toInteger(signExponent(0), significand(0), bits);
  if (aborted()) checkWrite(address, bits >> 3);
  else if (bits == 16) st16(address, value as u32);
  else if (bits == 32) st32(address, value as u32);
  else st64(address, value);
  if (finish() && pops) pop();
}

/** FBSTP. */
export function storeDecimal(address: u64): void {
  let low: u64 = (0xc0 as u64) << 56;
  let high: u32 = 0xffff;
  if (isEmpty(0)) signal(FSW_IE | FSW_SF);
  else {
    low = toDecimal(signExponent(0), significand(0));
    high = decimalHigh;
  }
  checkWrite(address, 10);
  if (!finish()) return;
  st64(address, low);
  st16(address + 8, high);
  pop();
}

/**
 * FLD1, FLDL2T, FLDL2E, FLDPI, FLDLG2, FLDLN2, FLDZ by number. The irrational ones are rounded by the rounding control
 * from a longer constant, without signalling PE.
 */
export function loadConstant(index: u32): void {
  if (index == 0) setResult(0x3fff, (1 as u64) << 63);
  else if (index == 1) setConstant(0x4000, pair(0xd49a784b, 0xcd1b8afe), false);
  else if (index == 2) setConstant(0x3fff, pair(0xb8aa3b29, 0x5c17f0bb), true);
  else if (index == 3) setConstant(0x4000, pair(0xc90fdaa2, 0x2168c234), true);
  else if (index == 4) setConstant(0x3ffd, pair(0x9a209a84, 0xfbcff798), true);
  else if (index == 5) setConstant(0x3ffe, pair(0xb17217f7, 0xd1cf79ab), true);
  else setResult(0, 0);
  loadExact();
}

function setConstant(se: u32, truncated: u64, overHalf: bool): void {
  const mode = roundingMode();
  const up = mode == ROUND_UP || (mode == ROUND_NEAREST && overHalf);
  setResult(se, truncated + (up as u64));
}
