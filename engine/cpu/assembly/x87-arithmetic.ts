/** Arithmetic, comparison and register-move forms of the x87 escapes (SDM volume 2; opcode maps in appendix A.5). */

import { setArith } from "./flags";
import {
  CLASS_INFINITY,
  CLASS_NORMAL,
  CLASS_QUIET,
  CLASS_UNSUPPORTED,
  CLASS_ZERO,
  classOf,
  clearRaised,
  FSW_C0,
  FSW_C1,
  FSW_C2,
  FSW_C3,
  FSW_SF,
  raised,
  resultSe,
  resultSig,
  setResult,
} from "./float80";
import { add80, compare80, div80, mul80, sqrt80, sub80 } from "./float80-arithmetic";
import { roundToIntegral } from "./float80-convert";
import { extract80, hasQuotient, remainder80, remainderBits, scale80 } from "./float80-remainder";
import { FLAG_CF, FLAG_PF, FLAG_ZF } from "./layout";
import {
  aborted,
  finish,
  free,
  isEmpty,
  pop,
  push,
  setConditions,
  setStatus,
  signExponent,
  significand,
  stackOverflow,
  stackUnderflow,
  status,
  writeStack,
} from "./x87-stack";

const UNORDERED: u32 = FSW_C0 | FSW_C2 | FSW_C3;

/** Sets C0, C2, C3 of a comparison (unless an unmasked exception stops it) and pops `pops` times. */
function commitCompare(bits: u32, pops: u32): void {
  const stop = aborted();
  finish();
  setConditions(bits);
  if (stop) return;
  for (let i: u32 = 0; i < pops; i++) pop();
}

/** Compares ST(0) with a value. */
function compareValue(se: u32, sig: u64, pops: u32, quiet: bool): void {
  if (isEmpty(0)) {
    stackUnderflow();
    commitCompare(UNORDERED, pops);
  } else commitCompare(compare80(signExponent(0), significand(0), se, sig, quiet), pops);
}

/** Compares ST(0) with ST(i). */
export function compareRegister(i: u32, pops: u32, quiet: bool): void {
  if (isEmpty(i)) {
    stackUnderflow();
    commitCompare(UNORDERED, pops);
  } else compareValue(signExponent(i), significand(i), pops, quiet);
}

/** FCOMI and FUCOMI: the outcome goes to ZF, PF, CF. */
export function compareFlags(i: u32, pops: u32, quiet: bool): void {
  let bits = UNORDERED;
  if (isEmpty(0) || isEmpty(i)) stackUnderflow();
  else bits = compare80(signExponent(0), significand(0), signExponent(i), significand(i), quiet);
  // The flags change even if an unmasked exception stops the pop, and C1 stays (observed on AMD processors).
  const up = status() & FSW_C1;
  const done = finish();
  if ((raised & FSW_SF) == 0) setStatus(status() | up);
  const carry = (bits & FSW_C0) != 0 ? FLAG_CF : 0;
  const parity = (bits & FSW_C2) != 0 ? FLAG_PF : 0;
  const zero = (bits & FSW_C3) != 0 ? FLAG_ZF : 0;
  setArith(carry | parity | zero);
  if (!done) return;
  for (let n: u32 = 0; n < pops; n++) pop();
}

/** FTST. */
export function test(): void {
  compareValue(0, 0, 0, false);
}

/** FXAM: C3 C2 C0 name the class, C1 the sign; an empty register has a sign too. */
export function examine(): void {
  const se = signExponent(0);
  const kind = classOf(se, significand(0));
  let bits: u32;
  if (isEmpty(0)) bits = FSW_C3 | FSW_C0;
  else if (kind == CLASS_ZERO) bits = FSW_C3;
  else if (kind == CLASS_NORMAL) bits = FSW_C2;
  else if (kind == CLASS_INFINITY) bits = FSW_C2 | FSW_C0;
  else if (kind == CLASS_UNSUPPORTED) bits = 0;
  else if (kind >= CLASS_QUIET) bits = FSW_C0;
  else bits = FSW_C3 | FSW_C2;
  setStatus((status() & ~(UNORDERED | FSW_C1)) | bits | (se >> 15 != 0 ? FSW_C1 : 0));
}

/** The six arithmetic operations by their ModRM.reg number (2 and 3 are comparisons). */
function operate(operation: u32, aSe: u32, aSig: u64, bSe: u32, bSig: u64): void {
  if (operation == 0) add80(aSe, aSig, bSe, bSig);
  else if (operation == 1) mul80(aSe, aSig, bSe, bSig);
  else if (operation == 4) sub80(aSe, aSig, bSe, bSig);
  else if (operation == 5) sub80(bSe, bSig, aSe, aSig);
  else if (operation == 6) div80(aSe, aSig, bSe, bSig);
  else div80(bSe, bSig, aSe, aSig);
}

/** ST(0) op value, for the memory forms of D8, DA, DC and DE; operations 2 and 3 compare. */
export function withValue(operation: u32, se: u32, sig: u64): void {
  if (operation == 2 || operation == 3) {
    compareValue(se, sig, operation - 2, false);
    return;
  }
  if (isEmpty(0)) stackUnderflow();
  else operate(operation, signExponent(0), significand(0), se, sig);
  commit(0);
}

/** ST(0) op ST(i) into ST(`destination`), then `pops` pops. */
export function withRegister(operation: u32, i: u32, destination: u32, pops: u32): void {
  if (isEmpty(0) || isEmpty(i)) stackUnderflow();
  else operate(operation, signExponent(0), significand(0), signExponent(i), significand(i));
  if (!commit(destination)) return;
  for (let n: u32 = 0; n < pops; n++) pop();
}

/** Stores the result in ST(i) unless an unmasked exception forbids it; false if so. */
export function commit(i: u32): bool {
  if (!finish()) return false;
  writeStack(i, resultSe, resultSig);
  return true;
}

/** FSQRT. */
export function squareRootOfTop(): void {
  if (isEmpty(0)) stackUnderflow();
  else sqrt80(signExponent(0), significand(0));
  commit(0);
}

/** FRNDINT. */
export function roundTop(): void {
  if (isEmpty(0)) stackUnderflow();
  else roundToIntegral(signExponent(0), significand(0));
  commit(0);
}

/** FCHS and FABS: only the sign bit, whatever the register holds. */
export function changeSign(absolute: bool): void {
  if (isEmpty(0)) stackUnderflow();
  else {
    const se = signExponent(0);
    setResult(absolute ? se & 0x7fff : se ^ 0x8000, significand(0));
  }
  commit(0);
}

/** FPREM and FPREM1. */
export function remainderOfTop(nearest: bool): void {
  let bits: u32 = status() & (FSW_C0 | FSW_C3);
  if (isEmpty(0) || isEmpty(1)) stackUnderflow();
  else {
    remainder80(signExponent(0), significand(0), signExponent(1), significand(1), nearest);
    // Without a quotient (NaN, invalid, stopped) C0 and C3 stay, C2 is cleared.
    if (hasQuotient && !aborted()) bits = remainderBits;
  }
  setConditions(bits & UNORDERED);
  if (!commit(0)) return;
  if ((bits & FSW_C1) != 0) setStatus(status() | FSW_C1);
}

/** FSCALE. */
export function scaleTop(): void {
  if (isEmpty(0) || isEmpty(1)) stackUnderflow();
  else scale80(signExponent(0), significand(0), signExponent(1), significand(1));
  commit(0);
}

/** FXTRACT: exponent into ST(0), then the significand is pushed. */
export function extractTop(): void {
  const se = signExponent(0);
  const sig = significand(0);
  if (isEmpty(0)) stackUnderflow();
  else if (!isEmpty(7)) stackOverflow();
  else {
    extract80(se, sig, true);
    if (!finish()) return;
    writeStack(0, resultSe, resultSig);
    clearRaised();
    extract80(se, sig, false);
    push(resultSe, resultSig);
    return;
  }
  commitPair();
}

/** After a stack fault of an instruction with two results: both are the default NaN. */
export function commitPair(): void {
  if (!commit(0)) return;
  push(resultSe, resultSig);
}

/** FXCH: an empty register takes part as the default NaN. */
export function exchange(i: u32): void {
  const oneEmpty = isEmpty(0);
  const otherEmpty = isEmpty(i);
  let aSe = signExponent(0);
  let aSig = significand(0);
  let bSe = signExponent(i);
  let bSig = significand(i);
  if (oneEmpty || otherEmpty) {
    stackUnderflow();
    if (oneEmpty) {
      aSe = resultSe;
      aSig = resultSig;
    }
    if (otherEmpty) {
      bSe = resultSe;
      bSig = resultSig;
    }
  }
  if (!finish()) return;
  writeStack(0, bSe, bSig);
  writeStack(i, aSe, aSig);
}

/** FST and FSTP to a register: any bit pattern moves unchanged. */
export function storeRegister(i: u32, pops: bool): void {
  if (isEmpty(0)) stackUnderflow();
  else setResult(signExponent(0), significand(0));
  if (commit(i) && pops) pop();
}

/** The undocumented FSTP1 (D9 D8+i): an empty ST(0) is popped without a stack fault and without a store. */
export function storeRegisterQuiet(i: u32): void {
  finish();
  if (!isEmpty(0)) writeStack(i, signExponent(0), significand(0));
  pop();
}

/** FLD of a register. */
export function loadRegister(i: u32): void {
  if (isEmpty(i)) stackUnderflow();
  else if (!isEmpty(7)) stackOverflow();
  else setResult(signExponent(i), significand(i));
  commitPush();
}

/** Pushes the result unless an unmasked exception forbids it. */
export function commitPush(): void {
  if (finish()) push(resultSe, resultSig);
}

/** FCMOVcc: the stack fault comes whatever the condition says; without one C1 stays as it was. */
export function moveIf(i: u32, condition: bool): void {
  if (isEmpty(0) || isEmpty(i)) {
    stackUnderflow();
    commit(0);
    return;
  }
  if (condition) writeStack(0, signExponent(i), significand(i));
}

/** FFREE, and with `pops` the undocumented FFREEP. */
export function freeRegister(i: u32, pops: bool): void {
  finish();
  free(i);
  if (pops) pop();
}
