/**
 * Control and debug registers, descriptor-table registers and other instructions of the system programmer
 * (SDM vol 2; vol 3 ch. 2).
 */

import { cpuidAllowsFsGsBase } from "./cpuid";
import { raise, raiseError } from "./fault";
import { finish, in64, isCanonical } from "./flow";
import {
  CPL,
  CR0,
  CR0_ET,
  CR0_PE,
  CR0_PG,
  CR0_TS,
  CR0_WP,
  CR2,
  CR3,
  CR4,
  CR4_DE,
  CR4_FSGSBASE,
  CR4_OSFXSR,
  CR4_OSXMMEXCPT,
  CR4_PAE,
  CR4_PGE,
  CR4_PSE,
  CR4_TSD,
  CR8,
  DR,
  EFER,
  EFER_LMA,
  EFER_LME,
  EXC_DB,
  EXC_GP,
  EXC_UD,
  EXIT,
  EXIT_HALT,
  EXIT_HYPERCALL,
  GDTR_BASE,
  GDTR_LIMIT,
  GPR,
  IDTR_BASE,
  IDTR_LIMIT,
  MSR_KERNEL_GS_BASE,
  R_REG,
  R_RM,
  R_SIZE,
  SLOT_FS,
  SLOT_GS,
} from "./layout";
import { checkWrite, flushPage, flushTlb, ld16, ld32, ld64, st16, st32, st64 } from "./mmu";
import { ea } from "./operands";
import { ATTRIBUTE_LONG, attributesOf, CS, longModeActive, setMode, TR } from "./segment";

const CR0_NW: u64 = 0x20000000;
const CR0_CD: u64 = 0x40000000;
/** PE MP EM TS ET NE WP AM NW CD PG. */
const CR0_DEFINED: u64 = 0xe005003f;
const CR4_MCE: u64 = 0x40;
const CR4_PCE: u64 = 0x100;
const CR3_RESERVED: u64 = ~(0xffffffffff as u64); // physical addresses have 40 bits
const DR7_GD: u64 = 0x2000;

/** Raises #GP(0) unless the processor runs at the innermost level. */
export function requireKernel(): void {
  if (load<u32>(CPL) != 0) raiseError(EXC_GP, 0);
}

/** Register `n` as a MOV to a control or debug register reads it: 64 bits in 64-bit mode, else 32. */
function sourceRegister(n: u32): u64 {
  const value = load<u64>(GPR + (n << 3));
  return in64() ? value : value & 0xffffffff;
}

// --- control registers ------------------------------------------------------------------------------------------

/** Turning paging on with EFER.LME enters long mode, turning it off leaves it (APM vol 2 14.6). */
function pagingChange(on: bool): void {
  const efer = load<u64>(EFER);
  if (on) {
    if (!(efer & EFER_LME)) return;
    const sixteenBitTss = (attributesOf(TR) & 0x1d) == 1;
    if (!(load<u64>(CR4) & CR4_PAE) || attributesOf(CS) & ATTRIBUTE_LONG || sixteenBitTss) raiseError(EXC_GP, 0);
    store<u64>(EFER, efer | EFER_LMA);
  } else {
    if (in64()) raiseError(EXC_GP, 0);
    store<u64>(EFER, efer & ~(EFER_LMA as u64));
  }
}

function writeCr0(value: u64): void {
  const old = load<u64>(CR0);
  if (value >> 32) raiseError(EXC_GP, 0);
  value = (value & CR0_DEFINED) | CR0_ET;
  if ((value & CR0_PG && !(value & CR0_PE)) || (value & CR0_NW && !(value & CR0_CD))) raiseError(EXC_GP, 0);
  const changed = old ^ value;
  if (changed & CR0_PG) pagingChange((value & CR0_PG) != 0);
  store<u64>(CR0, value);
  if (changed & ((CR0_PG as u64) | CR0_WP | CR0_PE)) flushTlb(false);
  setMode();
}

/** CR4 bits that may be set: SMEP, SMAP, PCIDE and OSXSAVE are not offered. */
function cr4Defined(): u64 {
  let bits: u64 = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT;
  bits |= CR4_MCE | CR4_PCE;
  if (cpuidAllowsFsGsBase()) bits |= CR4_FSGSBASE;
  return bits;
}

function writeCr4(value: u64): void {
  if (value & ~cr4Defined() || (longModeActive() && !(value & CR4_PAE))) raiseError(EXC_GP, 0);
  const changed = load<u64>(CR4) ^ value;
  store<u64>(CR4, value);
  if (changed & (CR4_PGE | CR4_PSE | CR4_PAE)) flushTlb(false);
}

function writeCr3(value: u64): void {
  if (longModeActive() && value & CR3_RESERVED) raiseError(EXC_GP, 0);
  store<u64>(CR3, value);
  flushTlb(true);
}

/** MOV r, CRn. */
/** Control registers that do not exist are #UD even where privilege is missing. */
function requireControl(n: u32): void {
  if (n != 0 && n != 2 && n != 3 && n != 4 && n != 8) raise(EXC_UD);
  requireKernel();
}

export function readControl(ip: u32): void {
  let value: u64 = 0;
  requireControl(load<u8>(ip + R_REG));
  switch (load<u8>(ip + R_REG)) {
    case 0:
      value = load<u64>(CR0);
      break;
    case 2:
      value = load<u64>(CR2);
      break;
    case 3:
      value = load<u64>(CR3);
      break;
    case 4:
      value = load<u64>(CR4);
      break;
    case 8:
      value = load<u64>(CR8);
      break;
    default:
      raise(EXC_UD);
  }
  store<u64>(GPR + (load<u8>(ip + R_RM) << 3), in64() ? value : value & 0xffffffff);
}

/** MOV CRn, r. */
export function writeControl(ip: u32): void {
  requireControl(load<u8>(ip + R_REG));
  const value = sourceRegister(load<u8>(ip + R_RM));
  switch (load<u8>(ip + R_REG)) {
    case 0:
      writeCr0(value);
      break;
    case 2:
      store<u64>(CR2, value);
      break;
    case 3:
      writeCr3(value);
      break;
    case 4:
      writeCr4(value);
      break;
    case 8:
      if (value > 15) raiseError(EXC_GP, 0);
      store<u64>(CR8, value);
      break;
    default:
      raise(EXC_UD);
  }
  finish(ip);
}

/** LMSW: PE can be set but not cleared. */
export function loadMachineStatus(ip: u32): void {
  requireKernel();
  const source = load<u8>(ip + R_RM) as u32;
  const word: u64 = (source == 255 ? ld16(ea(ip)) : (load<u16>(GPR + (source << 3)) as u32)) as u64;
  const old = load<u64>(CR0);
  writeCr0((old & ~(14 as u64)) | (word & 15));
  finish(ip);
}

/** Stores a value to the operand: 16 bits in memory, the operand size in a register. */
export function storeStatus(ip: u32, value: u64): void {
  const target = load<u8>(ip + R_RM) as u32;
  if (target == 255) {
    st16(ea(ip), value as u32);
    return;
  }
  const register = GPR + (target << 3);
  const size = load<u8>(ip + R_SIZE);
  if (size == 1) store<u16>(register, value as u16);
  else store<u64>(register, size == 2 ? value & 0xffffffff : value);
}

export function storeMachineStatus(ip: u32): void {
  storeStatus(ip, load<u64>(CR0));
}

export function clearTaskSwitched(_ip: u32): void {
  requireKernel();
  store<u64>(CR0, load<u64>(CR0) & ~(CR0_TS as u64));
}

// --- debug registers --------------------------------------------------------------------------------------------

/** Number of the debug register an instruction names: 4 and 5 are aliases unless CR4.DE. */
function debugNumber(ip: u32): u32 {
  const n = load<u8>(ip + R_REG) as u32;
  const alias = n == 4 || n == 5;
  if (n > 7 || (alias && load<u64>(CR4) & CR4_DE)) raise(EXC_UD);
  requireKernel();
  if (load<u64>(DR + 56) & DR7_GD) {
    // the access itself is the debug event: DR6.BD, with the protection lifted for the handler
    store<u64>(DR + 48, load<u64>(DR + 48) | 0x2000);
    store<u64>(DR + 56, load<u64>(DR + 56) & ~DR7_GD);
    raise(EXC_DB);
  }
  return alias ? n + 2 : n;
}

/** MOV r, DRn. */
export function readDebug(ip: u32): void {
  const value = load<u64>(DR + (debugNumber(ip) << 3));
  store<u64>(GPR + (load<u8>(ip + R_RM) << 3), in64() ? value : value & 0xffffffff);
}

/** MOV DRn, r. Breakpoints are kept but never hit. */
export function writeDebug(ip: u32): void {
  const n = debugNumber(ip);
  let value = sourceRegister(load<u8>(ip + R_RM));
  if (n >= 6 && value >> 32) raiseError(EXC_GP, 0);
  if (n == 6) value = (value & 0xe00f) | 0xffff0ff0;
  if (n == 7) value = (value & 0xffff2bff) | 0x400;
  store<u64>(DR + (n << 3), value);
}

// --- descriptor table registers ---------------------------------------------------------------------------------

function storeTable(ip: u32, base: u64, limit: u32): void {
  const address = ea(ip);
  checkWrite(address, in64() ? 10 : 6);
  st16(address, limit);
  if (in64()) st64(address + 2, base);
  else st32(address + 2, base as u32);
}

let tableLimit: u32 = 0;

/** Reads a pseudo-descriptor: returns its base and leaves its limit in tableLimit. */
function loadTable(ip: u32): u64 {
  requireKernel();
  const address = ea(ip);
  tableLimit = ld16(address);
  if (in64()) {
    const base = ld64(address + 2);
    if (!isCanonical(base)) raiseError(EXC_GP, 0);
    return base;
  }
  const base = ld32(address + 2) as u64;
  return load<u8>(ip + R_SIZE) == 1 ? base & 0xffffff : base;
}

export function storeGdtr(ip: u32): void {
  storeTable(ip, load<u64>(GDTR_BASE), load<u32>(GDTR_LIMIT));
}

export function storeIdtr(ip: u32): void {
  storeTable(ip, load<u64>(IDTR_BASE), load<u32>(IDTR_LIMIT));
}

export function loadGdtr(ip: u32): void {
  store<u64>(GDTR_BASE, loadTable(ip));
  store<u32>(GDTR_LIMIT, tableLimit);
}

export function loadIdtr(ip: u32): void {
  store<u64>(IDTR_BASE, loadTable(ip));
  store<u32>(IDTR_LIMIT, tableLimit);
}

// --- caches, halting, hypercalls --------------------------------------------------------------------------------

export function invalidatePage(ip: u32): void {
  requireKernel();
  flushPage(ea(ip));
  finish(ip);
}

/** INVD, WBINVD: memory is always coherent here. */
export function invalidateCaches(_ip: u32): void {
  requireKernel();
}

export function halt(ip: u32): void {
  requireKernel();
  finish(ip);
  store<u32>(EXIT, EXIT_HALT);
}

/** VMCALL, VMMCALL: from any level; the hypervisor looks at CPL. */
export function hypercall(ip: u32): void {
  finish(ip);
  store<u32>(EXIT, EXIT_HYPERCALL);
}

/** UD0, UD1, UD2 and instructions this processor does not offer. */
export function undefinedInstruction(_ip: u32): void {
  raise(EXC_UD);
}

// --- FS and GS bases --------------------------------------------------------------------------------------------

export function swapGs(_ip: u32): void {
  requireKernel();
  const base = load<u64>(GPR + SLOT_GS);
  store<u64>(GPR + SLOT_GS, load<u64>(MSR_KERNEL_GS_BASE));
  store<u64>(MSR_KERNEL_GS_BASE, base);
}

function readBase(ip: u32, slot: u32): void {
  if (!(load<u64>(CR4) & CR4_FSGSBASE)) raise(EXC_UD);
  const base = load<u64>(GPR + slot);
  store<u64>(GPR + (load<u8>(ip + R_RM) << 3), load<u8>(ip + R_SIZE) == 3 ? base : base & 0xffffffff);
}

function writeBase(ip: u32, slot: u32): void {
  if (!(load<u64>(CR4) & CR4_FSGSBASE)) raise(EXC_UD);
  let base = load<u64>(GPR + (load<u8>(ip + R_RM) << 3));
  if (load<u8>(ip + R_SIZE) != 3) base &= 0xffffffff;
  if (!isCanonical(base)) raiseError(EXC_GP, 0);
  store<u64>(GPR + slot, base);
}

export function readFsBase(ip: u32): void {
  readBase(ip, SLOT_FS);
}

export function readGsBase(ip: u32): void {
  readBase(ip, SLOT_GS);
}

export function writeFsBase(ip: u32): void {
  writeBase(ip, SLOT_FS);
}

export function writeGsBase(ip: u32): void {
  writeBase(ip, SLOT_GS);
}
