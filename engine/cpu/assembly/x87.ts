/**
 * The x87 escapes D8 … DF and FWAIT. Each handler decodes ModRM, in the order of SDM volume 2 appendix A.5; aliases that
 * every processor since the 8087 accepts (FCOM2, FXCH4, FSTP8 and so on) are included.
 */

import { raise } from "./fault";
import { getCond } from "./flags";
import { FSW_B, FSW_C1, FSW_ES, resultSe, resultSig, setResult } from "./float80";
import { fromDecimal, fromInteger, widen32, widen64 } from "./float80-convert";
import { CR0, CR0_MP, CR0_TS, EXC_MF, EXC_NM, EXC_UD, GPR, R_MODRM, R_RM } from "./layout";
import { checkWrite, ld16, ld32, ld64, st16 } from "./mmu";
import { ea } from "./operands";
import {
  changeSign,
  compareFlags,
  compareRegister,
  examine,
  exchange,
  extractTop,
  freeRegister,
  loadRegister,
  moveIf,
  remainderOfTop,
  roundTop,
  scaleTop,
  squareRootOfTop,
  storeRegister,
  storeRegisterQuiet,
  test,
  withRegister,
  withValue,
} from "./x87-arithmetic";
import { fpuInit, loadControl, loadEnvironment, restoreState, saveState, storeEnvironment } from "./x87-environment";
import { loadConstant, loadExact, loadReal, storeDecimal, storeExtended, storeInteger, storeReal } from "./x87-load";
import { begin, beginMemory, control, requireUnit, requireWaiting, setStatus, setTop, status, top } from "./x87-stack";
import { arctangent, powerMinusOne, yLog2, yLog2Plus1 } from "./x87-trans";
import { cosine, sine, sineCosine, tangent } from "./x87-trig";

function isMemory(ip: u32): bool {
  return load<u8>(ip, R_RM) == 255;
}

function group(ip: u32): u32 {
  return (load<u8>(ip, R_MODRM) >> 3) & 7;
}

function stackIndex(ip: u32): u32 {
  return load<u8>(ip, R_MODRM) & 7;
}

/** Loads a float32 or integer operand into the result; `kind`: 0 float32, 1 int32, 2 float64, 3 int16. */
function fetchOperand(ip: u32, escape: u32, kind: u32): void {
  const address = ea(ip);
  if (kind == 0) {
    const bits = ld32(address);
    beginMemory(ip, escape, address);
    widen32(bits);
  } else if (kind == 1) {
    const bits = ld32(address);
    beginMemory(ip, escape, address);
    fromInteger(bits as i32 as i64);
  } else if (kind == 2) {
    const bits = ld64(address);
    beginMemory(ip, escape, address);
    widen64(bits);
  } else {
    const bits = ld16(address);
    beginMemory(ip, escape, address);
    fromInteger(bits as i16 as i64);
  }
}

function memoryArithmetic(ip: u32, escape: u32, kind: u32): void {
  fetchOperand(ip, escape, kind);
  withFetched(group(ip));
}

function withFetched(operation: u32): void {
  withValue(operation, resultSe, resultSig);
}

/** D8: arithmetic with float32, or ST(0) op= ST(i). */
export function x87_d8(ip: u32): void {
  requireWaiting();
  if (isMemory(ip)) {
    memoryArithmetic(ip, 0xd8, 0);
    return;
  }
  begin(ip, 0xd8);
  const operation = group(ip);
  if (operation == 2 || operation == 3) compareRegister(stackIndex(ip), operation - 2, false);
  else withRegister(operation, stackIndex(ip), 0, 0);
}

/** D9: float32 loads and stores, environment, constants, one-operand and transcendental operations. */
export function x87_d9(ip: u32): void {
  if (isMemory(ip)) memoryD9(ip);
  else registerD9(ip);
}

function memoryD9(ip: u32): void {
  const operation = group(ip);
  if (operation >= 6) requireUnit();
  else requireWaiting();
  const address = ea(ip);
  switch (operation) {
    case 0:
      fetchOperand(ip, 0xd9, 0);
      loadReal();
      return;
    case 1:
      raise(EXC_UD);
      return;
    case 2:
    case 3:
      storeRealAt(ip, 0xd9, address, 24, operation == 3);
      return;
    case 4:
      loadEnvironment(ip, address);
      return;
    case 5:
      loadControl(ld16(address));
      return;
    case 6:
      storeEnvironment(ip, address);
      return;
    default:
      st16(address, control());
  }
}

function storeRealAt(ip: u32, escape: u32, address: u64, bits: u32, pops: bool): void {
  checkWrite(address, bits == 24 ? 4 : 8);
  beginMemory(ip, escape, address);
  storeReal(address, bits, pops);
}

function storeIntegerAt(ip: u32, escape: u32, address: u64, bits: u32, pops: bool): void {
  checkWrite(address, bits >> 3);
  beginMemory(ip, escape, address);
  storeInteger(address, bits, pops);
}

function registerD9(ip: u32): void {
  requireWaiting();
  const modrm = load<u8>(ip, R_MODRM) as u32;
  const i = modrm & 7;
  if (modrm == 0xd0) return; // FNOP
  if ((modrm & 0xf8) == 0xd0 || modrm == 0xe2 || modrm == 0xe3 || modrm == 0xe6 || modrm == 0xe7 || modrm == 0xef) {
    raise(EXC_UD);
    return;
  }
  begin(ip, 0xd9);
  if (modrm < 0xc8) loadRegister(i);
  else if (modrm < 0xd0) exchange(i);
  else if (modrm < 0xe0) storeRegisterQuiet(i);
  else if (modrm < 0xe2) changeSign(modrm == 0xe1);
  else if (modrm == 0xe4) test();
  else if (modrm == 0xe5) examine();
  else if (modrm < 0xf0) loadConstant(i);
  else functionD9(modrm);
}

/** D9 F0 … D9 FF. */
function functionD9(modrm: u32): void {
  switch (modrm & 15) {
    case 0:
      powerMinusOne();
      return;
    case 1:
      yLog2();
      return;
    case 2:
      tangent();
      return;
    case 3:
      arctangent();
      return;
    case 4:
      extractTop();
      return;
    case 5:
      remainderOfTop(true);
      return;
    case 6:
      rotate(top() - 1);
      return;
    case 7:
      rotate(top() + 1);
      return;
    case 8:
      remainderOfTop(false);
      return;
    case 9:
      yLog2Plus1();
      return;
    case 10:
      squareRootOfTop();
      return;
    case 11:
      sineCosine();
      return;
    case 12:
      roundTop();
      return;
    case 13:
      scaleTop();
      return;
    case 14:
      sine();
      return;
    default:
      cosine();
  }
}

/** FDECSTP and FINCSTP: tags stay with their registers. */
function rotate(newTop: u32): void {
  setTop(newTop);
  setStatus(status() & ~FSW_C1);
}

/** DA: arithmetic with int32, FCMOVcc, FUCOMPP. */
export function x87_da(ip: u32): void {
  requireWaiting();
  if (isMemory(ip)) {
    memoryArithmetic(ip, 0xda, 1);
    return;
  }
  const operation = group(ip);
  if (operation < 4) {
    begin(ip, 0xda);
    moveIf(stackIndex(ip), getCond(moveCondition(operation)));
  } else if (load<u8>(ip, R_MODRM) == 0xe9) {
    begin(ip, 0xda);
    compareRegister(1, 2, true);
  } else raise(EXC_UD);
}

/** Condition codes below, equal, below or equal, parity of FCMOVcc. */
function moveCondition(operation: u32): u32 {
  return operation == 3 ? 10 : 2 + (operation << 1);
}

/** DB: int32 and 80-bit loads and stores, FCMOVNcc, FNCLEX, FNINIT, FUCOMI, FCOMI. */
export function x87_db(ip: u32): void {
  if (isMemory(ip)) memoryDB(ip);
  else registerDB(ip);
}

function memoryDB(ip: u32): void {
  requireWaiting();
  const address = ea(ip);
  const operation = group(ip);
  if (operation == 0) {
    fetchOperand(ip, 0xdb, 1);
    loadExact();
  } else if (operation == 2 || operation == 3) {
    storeIntegerAt(ip, 0xdb, address, 32, operation == 3);
  } else if (operation == 5) {
    const sig = ld64(address);
    const se = ld16(address + 8);
    beginMemory(ip, 0xdb, address);
    setResult(se, sig);
    loadExact();
  } else if (operation == 7) {
    checkWrite(address, 10);
    beginMemory(ip, 0xdb, address);
    storeExtended(address);
  } else raise(EXC_UD);
}

function registerDB(ip: u32): void {
  const modrm = load<u8>(ip, R_MODRM) as u32;
  if (modrm >= 0xe0 && modrm < 0xe8) {
    requireUnit();
    if (modrm == 0xe2) setStatus(status() & ~(0x7f | FSW_ES | FSW_B));
    else if (modrm == 0xe3) fpuInit();
    else if (modrm > 0xe4) raise(EXC_UD);
    // FNENI, FNDISI and FNSETPM (E0, E1, E4) have done nothing since the 80387.
    return;
  }
  requireWaiting();
  const operation = group(ip);
  if (operation == 7) {
    raise(EXC_UD);
    return;
  }
  begin(ip, 0xdb);
  if (operation < 4) moveIf(stackIndex(ip), getCond(moveCondition(operation) | 1));
  else compareFlags(stackIndex(ip), 0, operation == 5);
}

/** DC: arithmetic with float64, or ST(i) op= ST(0). */
export function x87_dc(ip: u32): void {
  requireWaiting();
  if (isMemory(ip)) {
    memoryArithmetic(ip, 0xdc, 2);
    return;
  }
  begin(ip, 0xdc);
  const operation = group(ip);
  if (operation == 2 || operation == 3) compareRegister(stackIndex(ip), operation - 2, false);
  else withRegister(operation, stackIndex(ip), stackIndex(ip), 0);
}

/** DD: float64 loads and stores, whole state, status word, FFREE, FST, FUCOM. */
export function x87_dd(ip: u32): void {
  if (isMemory(ip)) memoryDD(ip);
  else registerDD(ip);
}

function memoryDD(ip: u32): void {
  const operation = group(ip);
  if (operation >= 6) requireUnit();
  else requireWaiting();
  const address = ea(ip);
  if (operation == 0) {
    fetchOperand(ip, 0xdd, 2);
    loadReal();
  } else if (operation == 2 || operation == 3) storeRealAt(ip, 0xdd, address, 53, operation == 3);
  else if (operation == 4) restoreState(ip, address);
  else if (operation == 6) saveState(ip, address);
  else if (operation == 7) st16(address, status());
  else raise(EXC_UD);
}

function registerDD(ip: u32): void {
  requireWaiting();
  const operation = group(ip);
  const i = stackIndex(ip);
  if (operation >= 6) {
    raise(EXC_UD);
    return;
  }
  begin(ip, 0xdd);
  if (operation == 0) freeRegister(i, false);
  else if (operation == 1) exchange(i);
  else if (operation < 4) storeRegister(i, operation == 3);
  else compareRegister(i, operation - 4, true);
}

/** DE: arithmetic with int16, or ST(i) op= ST(0) and pop; FCOMPP. */
export function x87_de(ip: u32): void {
  requireWaiting();
  if (isMemory(ip)) {
    memoryArithmetic(ip, 0xde, 3);
    return;
  }
  const operation = group(ip);
  const i = stackIndex(ip);
  if (operation == 3 && i != 1) {
    raise(EXC_UD);
    return;
  }
  begin(ip, 0xde);
  if (operation == 2) compareRegister(i, 1, false);
  else if (operation == 3) compareRegister(1, 2, false);
  else withRegister(operation, i, i, 1);
}

/** DF: int16 and int64 loads and stores, packed decimal, FNSTSW AX, FUCOMIP, FCOMIP. */
export function x87_df(ip: u32): void {
  if (isMemory(ip)) memoryDF(ip);
  else registerDF(ip);
}

function memoryDF(ip: u32): void {
  requireWaiting();
  const address = ea(ip);
  switch (group(ip)) {
    case 0:
      fetchOperand(ip, 0xdf, 3);
      loadExact();
      return;
    case 1:
      raise(EXC_UD);
      return;
    case 2:
      storeIntegerAt(ip, 0xdf, address, 16, false);
      return;
    case 3:
      storeIntegerAt(ip, 0xdf, address, 16, true);
      return;
    case 4:
      loadDecimal(ip, address);
      return;
    case 5:
      loadLong(ip, address);
      return;
    case 6:
      checkWrite(address, 10);
      beginMemory(ip, 0xdf, address);
      storeDecimal(address);
      return;
    default:
      storeIntegerAt(ip, 0xdf, address, 64, true);
  }
}

function loadDecimal(ip: u32, address: u64): void {
  const low = ld64(address);
  const high = ld16(address + 8);
  beginMemory(ip, 0xdf, address);
  fromDecimal(low, high);
  loadExact();
}

function loadLong(ip: u32, address: u64): void {
  const value = ld64(address);
  beginMemory(ip, 0xdf, address);
  fromInteger(value as i64);
  loadExact();
}

function registerDF(ip: u32): void {
  const modrm = load<u8>(ip, R_MODRM) as u32;
  if (modrm == 0xe0) {
    requireUnit();
    store<u16>(GPR, status() as u16); // FNSTSW AX
    return;
  }
  requireWaiting();
  const operation = group(ip);
  const i = stackIndex(ip);
  if (operation == 4 || operation == 7) {
    raise(EXC_UD);
    return;
  }
  begin(ip, 0xdf);
  if (operation == 0) freeRegister(i, true);
  else if (operation == 1) exchange(i);
  else if (operation < 4) storeRegister(i, true);
  else compareFlags(i, 1, operation == 5);
}

/** FWAIT: #NM only if both CR0.MP and CR0.TS are set. */
export function fwait(_ip: u32): void {
  const both = CR0_MP | CR0_TS;
  if ((load<u64>(CR0) & both) == both) raise(EXC_NM);
  if ((status() & FSW_ES) != 0) raise(EXC_MF);
}
