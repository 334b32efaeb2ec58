/** Instructions that load, store and inspect segment selectors (SDM vol 2; vol 3 5.10). */

import { requireKernel, storeStatus } from "./control";
import { raise, raiseError } from "./fault";
import { getFlags, setArith } from "./flags";
import { finish, isCanonical } from "./flow";
import {
  CPL,
  EXC_GP,
  EXC_NP,
  EXC_UD,
  FLAG_ZF,
  GPR,
  R_REG,
  R_RM,
  R_SIZE,
  SEG_BASE_LDTR,
  SEG_BASE_TR,
  SHADOW,
} from "./layout";
import { ld16, st16 } from "./mmu";
import { ea } from "./operands";
import {
  ATTRIBUTE_CODE,
  ATTRIBUTE_CONFORMING,
  ATTRIBUTE_PRESENT,
  ATTRIBUTE_S,
  ATTRIBUTE_WRITABLE,
  CS,
  DS,
  descriptorAttributes,
  descriptorBase,
  descriptorLimit,
  dplOf,
  ES,
  FS,
  GS,
  isNull,
  LDTR,
  loadDataSegment,
  longModeActive,
  markDescriptor,
  probeDescriptor,
  protectedMode,
  readDescriptor,
  readDescriptorHigh,
  SS,
  segment,
  selectorOf,
  TR,
} from "./segment";
import { loadSized, peek, push, setMaskedPointer, stackMask } from "./stack";

const RSP = GPR + 32;

function requireProtected(): void {
  if (!protectedMode()) raise(EXC_UD);
}

/** A 16-bit source operand. */
function sourceWord(ip: u32): u32 {
  const source = load<u8>(ip + R_RM) as u32;
  return source == 255 ? ld16(ea(ip)) : (load<u16>(GPR + (source << 3)) as u32);
}

/** Stores to the register ModRM.reg names, with the operand's size. */
function setRegister(ip: u32, value: u64): void {
  const register = GPR + ((load<u8>(ip + R_REG) as u32) << 3);
  const size = load<u8>(ip + R_SIZE);
  if (size == 1) store<u16>(register, value as u16);
  else store<u64>(register, size == 2 ? value & 0xffffffff : value);
}

// --- segment registers ------------------------------------------------------------------------------------------

/** MOV Ev, Sreg. */
export function moveFromSegment(ip: u32): void {
  const n = load<u8>(ip + R_REG) & 7;
  if (n > 5) raise(EXC_UD);
  storeStatus(ip, selectorOf(n) as u64);
}

/** MOV Sreg, Ew. A load of SS holds interrupts back for one instruction. */
export function moveToSegment(ip: u32): void {
  const n = (load<u8>(ip + R_REG) & 7) as u32;
  if (n == CS || n > 5) raise(EXC_UD);
  loadDataSegment(n, sourceWord(ip));
  finish(ip);
  if (n == SS) store<u32>(SHADOW, 1);
}

function pushSegment(ip: u32, n: u32): void {
  push(selectorOf(n) as u64, load<u8>(ip + R_SIZE) as u32);
}

function popSegment(ip: u32, n: u32): void {
  const size = load<u8>(ip + R_SIZE) as u32;
  const mask = stackMask();
  loadDataSegment(n, (peek(0, size) as u32) & 0xffff);
  setMaskedPointer(mask, load<u64>(RSP) + ((1 << size) as u64));
  finish(ip);
  if (n == SS) store<u32>(SHADOW, 1);
}

export function pushEs(ip: u32): void {
  pushSegment(ip, ES);
}

export function pushCs(ip: u32): void {
  pushSegment(ip, CS);
}

export function pushSs(ip: u32): void {
  pushSegment(ip, SS);
}

export function pushDs(ip: u32): void {
  pushSegment(ip, DS);
}

export function pushFs(ip: u32): void {
  pushSegment(ip, FS);
}

export function pushGs(ip: u32): void {
  pushSegment(ip, GS);
}

export function popEs(ip: u32): void {
  popSegment(ip, ES);
}

export function popSs(ip: u32): void {
  popSegment(ip, SS);
}

export function popDs(ip: u32): void {
  popSegment(ip, DS);
}

export function popFs(ip: u32): void {
  popSegment(ip, FS);
}

export function popGs(ip: u32): void {
  popSegment(ip, GS);
}

/** LES, LDS, LSS, LFS, LGS: offset, then selector. */
function loadFarPointer(ip: u32, n: u32): void {
  const size = load<u8>(ip + R_SIZE) as u32;
  const address = ea(ip);
  const offset = loadSized(address, size);
  loadDataSegment(n, ld16(address + ((1 << size) as u64)));
  setRegister(ip, offset);
  finish(ip);
}

export function loadEsPointer(ip: u32): void {
  loadFarPointer(ip, ES);
}

export function loadDsPointer(ip: u32): void {
  loadFarPointer(ip, DS);
}

export function loadSsPointer(ip: u32): void {
  loadFarPointer(ip, SS);
}

export function loadFsPointer(ip: u32): void {
  loadFarPointer(ip, FS);
}

export function loadGsPointer(ip: u32): void {
  loadFarPointer(ip, GS);
}

// --- LDTR and TR ------------------------------------------------------------------------------------------------

/** Reads a system descriptor's base, 64 bits wide in long mode. */
function systemBase(selector: u32, descriptor: u64): u64 {
  let base = descriptorBase(descriptor);
  if (longModeActive()) {
    base |= readDescriptorHigh(selector, EXC_GP) << 32;
    if (!isCanonical(base)) raiseError(EXC_GP, selector & 0xfffc);
  }
  return base;
}

function setSystem(n: u32, selector: u32, attributes: u32, limit: u32): void {
  const at = segment(n);
  store<u16>(at, selector as u16);
  store<u32>(at + 4, attributes);
  store<u32>(at + 8, limit);
}

export function storeLdt(ip: u32): void {
  requireProtected();
  storeStatus(ip, selectorOf(LDTR) as u64);
}

export function storeTask(ip: u32): void {
  requireProtected();
  storeStatus(ip, selectorOf(TR) as u64);
}

/** LLDT. */
export function loadLdt(ip: u32): void {
  requireProtected();
  requireKernel();
  const selector = sourceWord(ip);
  if (isNull(selector)) {
    setSystem(LDTR, selector, 0, 0);
    return;
  }
  const error = selector & 0xfffc;
  if (selector & 4) raiseError(EXC_GP, error);
  const descriptor = readDescriptor(selector, EXC_GP, 0);
  const attributes = descriptorAttributes(descriptor);
  if ((attributes & 0x1f) != 2) raiseError(EXC_GP, error);
  if (!(attributes & ATTRIBUTE_PRESENT)) raiseError(EXC_NP, error);
  store<u64>(SEG_BASE_LDTR, systemBase(selector, descriptor));
  setSystem(LDTR, selector, attributes, descriptorLimit(descriptor));
}

/** LTR: the TSS must be available and becomes busy. */
export function loadTask(ip: u32): void {
  requireProtected();
  requireKernel();
  const selector = sourceWord(ip);
  const error = selector & 0xfffc;
  if (isNull(selector) || selector & 4) raiseError(EXC_GP, error);
  const descriptor = readDescriptor(selector, EXC_GP, 0);
  const attributes = descriptorAttributes(descriptor);
  const type = attributes & 0x1f;
  if (type != 9 && (type != 1 || longModeActive())) raiseError(EXC_GP, error);
  if (!(attributes & ATTRIBUTE_PRESENT)) raiseError(EXC_NP, error);
  const base = systemBase(selector, descriptor);
  markDescriptor(selector, descriptor, 2);
  store<u64>(SEG_BASE_TR, base);
  setSystem(TR, selector, attributes | 2, descriptorLimit(descriptor));
}

// --- inspection -------------------------------------------------------------------------------------------------

function setZero(on: bool): void {
  const flags = getFlags() & ~FLAG_ZF;
  setArith(on ? flags | FLAG_ZF : flags);
}

/** Whether CPL and RPL may see a segment; conforming code is visible to all. */
function isVisible(selector: u32, attributes: u32): bool {
  const conforming = ATTRIBUTE_S | ATTRIBUTE_CODE | ATTRIBUTE_CONFORMING;
  if ((attributes & conforming) == conforming) return true;
  const dpl = dplOf(attributes);
  return dpl >= load<u32>(CPL) && dpl >= (selector & 3);
}

/** System descriptor types LAR accepts, as a bit set: TSS, LDT and gates; in long mode LDT, TSS and call gate. */
function larTypes(): u32 {
  return longModeActive() ? 0x1a04 : 0x1a3e;
}

/** The same for LSL: only types that have a limit. */
function lslTypes(): u32 {
  return longModeActive() ? 0xa04 : 0xa0e;
}

function isInspectable(selector: u32, attributes: u32, types: u32): bool {
  if (!(attributes & ATTRIBUTE_S) && !((types >> (attributes & 15)) & 1)) return false;
  return isVisible(selector, attributes);
}

/** LAR. */
export function loadAccessRights(ip: u32): void {
  requireProtected();
  const selector = sourceWord(ip);
  const descriptor = probeDescriptor(selector);
  const valid = isInspectable(selector, descriptorAttributes(descriptor), larTypes());
  if (valid) setRegister(ip, (descriptor >> 32) & 0xffff00);
  setZero(valid);
}

/** LSL. */
export function loadSegmentLimit(ip: u32): void {
  requireProtected();
  const selector = sourceWord(ip);
  const descriptor = probeDescriptor(selector);
  const valid = isInspectable(selector, descriptorAttributes(descriptor), lslTypes());
  if (valid) setRegister(ip, descriptorLimit(descriptor) as u64);
  setZero(valid);
}

/** VERR. */
export function verifyRead(ip: u32): void {
  requireProtected();
  const selector = sourceWord(ip);
  const attributes = descriptorAttributes(probeDescriptor(selector));
  const readable = !(attributes & ATTRIBUTE_CODE) || (attributes & ATTRIBUTE_WRITABLE) != 0;
  setZero((attributes & ATTRIBUTE_S) != 0 && readable && isVisible(selector, attributes));
}

/** VERW. */
export function verifyWrite(ip: u32): void {
  requireProtected();
  const selector = sourceWord(ip);
  const attributes = descriptorAttributes(probeDescriptor(selector));
  const kind = attributes & (ATTRIBUTE_S | ATTRIBUTE_CODE | ATTRIBUTE_WRITABLE);
  setZero(kind == (ATTRIBUTE_S | ATTRIBUTE_WRITABLE) && isVisible(selector, attributes));
}

/** ARPL. */
export function adjustRpl(ip: u32): void {
  requireProtected();
  const target = sourceWord(ip);
  const rpl = load<u16>(GPR + ((load<u8>(ip + R_REG) as u32) << 3)) & 3;
  const lower = (target & 3) < (rpl as u32);
  if (lower) {
    const register = load<u8>(ip + R_RM) as u32;
    const value = (target & 0xfffc) | (rpl as u32);
    if (register == 255) st16(ea(ip), value);
    else store<u16>(GPR + (register << 3), value as u16);
  }
  setZero(lower);
}
