/**
 * Segment registers, descriptors, privilege level and execution mode (SDM vol 3 ch. 3 and 5, APM vol 2 ch. 4).
 *
 * Limits of data segments are not enforced on accesses: every guest this CPU is made for runs flat. Limits of the
 * descriptor tables, of the TSS and of far branch targets are.
 */

import { raiseError } from "./fault";
import {
  CPL,
  CR0,
  CR0_PE,
  EFER,
  EFER_LMA,
  EXC_GP,
  EXC_NP,
  EXC_SS,
  GDTR_BASE,
  GDTR_LIMIT,
  GPR,
  JUMP_TAG,
  MODE,
  MODE_16,
  MODE_32,
  MODE_64,
  MODE_REAL,
  RIP_MASK,
  SEG,
  SEG_BASE_LDTR,
  SLOT_CS,
  SLOT_DS,
  SLOT_ES,
  SLOT_SS,
  TLB,
  TLB_KERNEL,
  TLB_USER,
} from "./layout";
import { flushTlb, sysLd8, sysLd64, sysSt8 } from "./mmu";

// --- numbers of the segment registers ---------------------------------------------------------------------------
export const ES: u32 = 0;
export const CS: u32 = 1;
export const SS: u32 = 2;
export const DS: u32 = 3;
export const FS: u32 = 4;
export const GS: u32 = 5;
export const LDTR: u32 = 6;
export const TR: u32 = 7;

// --- attribute bits, as SEG keeps them --------------------------------------------------------------------------
export const ATTRIBUTE_ACCESSED: u32 = 1;
export const ATTRIBUTE_WRITABLE: u32 = 2; // code: readable
export const ATTRIBUTE_CONFORMING: u32 = 4; // data: expand-down
export const ATTRIBUTE_CODE: u32 = 8;
export const ATTRIBUTE_S: u32 = 0x10; // clear: system descriptor
export const ATTRIBUTE_PRESENT: u32 = 0x80;
export const ATTRIBUTE_LONG: u32 = 0x2000;
export const ATTRIBUTE_DEFAULT: u32 = 0x4000;
export const ATTRIBUTE_GRANULARITY: u32 = 0x8000;

/** The attributes of flat segments that SYSCALL and its relatives load without looking at a descriptor. */
export const FLAT_CODE_64: u32 = 0xa09b;
export const FLAT_CODE_32: u32 = 0xc09b;
export const FLAT_DATA: u32 = 0xc093;

/** Offset of the hidden base of ES, CS, SS and DS within their entry of SEG: it survives 64-bit mode's zero bases. */
const HIDDEN_BASE = 12;

/** Address of the bookkeeping of segment register n. */
export function segment(n: u32): u32 {
  return SEG + (n << 4);
}

export function selectorOf(n: u32): u32 {
  return load<u16>(segment(n)) as u32;
}

export function attributesOf(n: u32): u32 {
  return load<u32>(segment(n) + 4);
}

export function limitOf(n: u32): u32 {
  return load<u32>(segment(n) + 8);
}

export function longModeActive(): bool {
  return (load<u64>(EFER) & EFER_LMA) != 0;
}

export function protectedMode(): bool {
  return (load<u64>(CR0) & CR0_PE) != 0;
}

// --- fields of a descriptor -------------------------------------------------------------------------------------

export function descriptorAttributes(descriptor: u64): u32 {
  return ((descriptor >> 40) as u32) & 0xf0ff;
}

export function descriptorBase(descriptor: u64): u64 {
  return ((descriptor >> 16) & 0xffffff) | ((descriptor >> 56) << 24);
}

/** Limit in bytes, granularity applied. */
export function descriptorLimit(descriptor: u64): u32 {
  const raw = ((descriptor & 0xffff) as u32) | (((descriptor >> 32) as u32) & 0xf0000);
  return (descriptor >> 55) & 1 ? (raw << 12) | 0xfff : raw;
}

export function dplOf(attributes: u32): u32 {
  return (attributes >> 5) & 3;
}

/** Whether the selector names nothing (index 0 of the GDT). */
export function isNull(selector: u32): bool {
  return (selector & 0xfffc) == 0;
}

let tableAddress: u64 = 0;

/** Puts the linear address of a selector's descriptor into tableAddress; false if `bytes` of it exceed the table. */
function locate(selector: u32, bytes: u32): bool {
  const last = (selector & 0xfff8) + bytes - 1;
  if (selector & 4) {
    if (!(attributesOf(LDTR) & ATTRIBUTE_PRESENT) || last > limitOf(LDTR)) return false;
    tableAddress = load<u64>(SEG_BASE_LDTR) + ((selector & 0xfff8) as u64);
    return true;
  }
  if (last > load<u32>(GDTR_LIMIT)) return false;
  tableAddress = load<u64>(GDTR_BASE) + ((selector & 0xfff8) as u64);
  return true;
}

/** The descriptor of a selector, or 0 (which is not present and of no valid type) when it is outside its table. */
export function probeDescriptor(selector: u32): u64 {
  return !isNull(selector) && locate(selector, 8) ? sysLd64(tableAddress) : 0;
}

/** The descriptor of a selector; outside of the table faults with `vector` and the selector (plus the EXT bit). */
export function readDescriptor(selector: u32, vector: u32, ext: u32): u64 {
  if (!locate(selector, 8)) raiseError(vector, (selector & 0xfffc) | ext);
  return sysLd64(tableAddress);
}

/** Upper 8 bytes of a 16-byte system descriptor of long mode (base 63…32 in the low half). */
export function readDescriptorHigh(selector: u32, vector: u32): u64 {
  if (!locate(selector, 16)) raiseError(vector, selector & 0xfffc);
  return sysLd64(tableAddress + 8);
}

/** Sets bits of a descriptor's type byte in memory (accessed, busy) unless they are set already. */
export function markDescriptor(selector: u32, descriptor: u64, bits: u32): void {
  const type = ((descriptor >> 40) as u32) & 0xff;
  if ((type & bits) == bits || !locate(selector, 8)) return;
  sysSt8(tableAddress + 5, sysLd8(tableAddress + 5) | bits);
}

// --- loading ----------------------------------------------------------------------------------------------------

/** Stores a segment register. ES…DS have base 0 while 64-bit code runs, whatever their descriptor says. */
export function setSegment(n: u32, selector: u32, attributes: u32, limit: u32, base: u64): void {
  const at = segment(n);
  store<u16>(at, selector as u16);
  store<u32>(at + 4, attributes);
  store<u32>(at + 8, limit);
  if (n < FS) {
    store<u32>(at + HIDDEN_BASE, base as u32);
    if (load<u32>(MODE) == MODE_64) base = 0;
  }
  store<u64>(GPR + SLOT_ES + (n << 3), base);
}

/** Stores a segment register from a checked descriptor, which is marked accessed by the caller. */
export function setFromDescriptor(n: u32, selector: u32, descriptor: u64): void {
  const attributes = descriptorAttributes(descriptor) | ATTRIBUTE_ACCESSED;
  setSegment(n, selector, attributes, descriptorLimit(descriptor), descriptorBase(descriptor));
}

/** Real-address mode: the base follows from the selector; limit and attributes stay. */
export function setRealSegment(n: u32, selector: u32): void {
  setSegment(n, selector, attributesOf(n), limitOf(n), (selector as u64) << 4);
}

/**
 * Checks a selector for SS at privilege `cpl` and returns its descriptor. Faults with `vector` (#GP, or #TS when the
 * selector comes from a TSS); a stack that is not present is #SS.
 */
export function checkStackSegment(selector: u32, cpl: u32, vector: u32, ext: u32): u64 {
  if (isNull(selector)) raiseError(vector, ext);
  const error = (selector & 0xfffc) | ext;
  const descriptor = readDescriptor(selector, vector, ext);
  const attributes = descriptorAttributes(descriptor);
  const kind = attributes & (ATTRIBUTE_S | ATTRIBUTE_CODE | ATTRIBUTE_WRITABLE);
  if (kind != (ATTRIBUTE_S | ATTRIBUTE_WRITABLE) || (selector & 3) != cpl || dplOf(attributes) != cpl) {
    raiseError(vector, error);
  }
  if (!(attributes & ATTRIBUTE_PRESENT)) raiseError(EXC_SS, error);
  return descriptor;
}

function loadStackSegment(selector: u32): void {
  const cpl = load<u32>(CPL);
  if (isNull(selector)) {
    // 64-bit kernels run with a null SS; its RPL must be the privilege level, which cannot be 3
    if (load<u32>(MODE) != MODE_64 || cpl == 3 || (selector & 3) != cpl) raiseError(EXC_GP, 0);
    setSegment(SS, selector, cpl << 5, 0, 0);
    return;
  }
  const descriptor = checkStackSegment(selector, cpl, EXC_GP, 0);
  markDescriptor(selector, descriptor, ATTRIBUTE_ACCESSED);
  setFromDescriptor(SS, selector, descriptor);
}

/** Loads ES, SS, DS, FS or GS as MOV and POP do (SDM vol 2, MOV). */
export function loadDataSegment(n: u32, selector: u32): void {
  if (!protectedMode()) {
    setRealSegment(n, selector);
    return;
  }
  if (n == SS) {
    loadStackSegment(selector);
    return;
  }
  if (isNull(selector)) {
    setSegment(n, selector, 0, 0, 0);
    return;
  }
  const descriptor = readDescriptor(selector, EXC_GP, 0);
  const attributes = descriptorAttributes(descriptor);
  const error = selector & 0xfffc;
  const code = (attributes & ATTRIBUTE_CODE) != 0;
  if (!(attributes & ATTRIBUTE_S) || (code && !(attributes & ATTRIBUTE_WRITABLE))) raiseError(EXC_GP, error);
  if (!code || !(attributes & ATTRIBUTE_CONFORMING)) {
    const dpl = dplOf(attributes);
    if (dpl < load<u32>(CPL) || dpl < (selector & 3)) raiseError(EXC_GP, error);
  }
  if (!(attributes & ATTRIBUTE_PRESENT)) raiseError(EXC_NP, error);
  markDescriptor(selector, descriptor, ATTRIBUTE_ACCESSED);
  setFromDescriptor(n, selector, descriptor);
}

/** Enters a checked code segment at privilege `cpl`: CS, CPL, MODE and what depends on them. */
export function enterCode(selector: u32, descriptor: u64, cpl: u32): void {
  setFromDescriptor(CS, (selector & 0xfffc) | cpl, descriptor);
  setCpl(cpl);
  setMode();
}

/** Enters a flat code segment with SS behind it, as SYSCALL and its relatives do. */
export function enterFlat(selector: u32, stack: u32, code: u32, cpl: u32): void {
  const dpl = cpl << 5;
  setSegment(CS, selector, code | dpl, 0xffffffff, 0);
  setSegment(SS, stack, FLAT_DATA | dpl, 0xffffffff, 0);
  setCpl(cpl);
  setMode();
}

/** Returning outwards makes data segments unusable that the new privilege level may not use (SDM vol 3 5.8.6). */
export function dropPrivilegedSegments(cpl: u32): void {
  for (let n: u32 = ES; n <= GS; n++) {
    if (n == CS || n == SS) continue;
    const attributes = attributesOf(n);
    const conforming =
      (attributes & (ATTRIBUTE_CODE | ATTRIBUTE_CONFORMING)) == (ATTRIBUTE_CODE | ATTRIBUTE_CONFORMING);
    if (conforming || dplOf(attributes) >= cpl) continue;
    // the base stays, as on processors: 64-bit FS and GS bases are set by MSR under a null selector
    store<u16>(segment(n), 0);
    store<u32>(segment(n) + 4, 0);
  }
}

// --- privilege and mode -----------------------------------------------------------------------------------------

/** Sets the current privilege level and the TLB that serves it. */
export function setCpl(cpl: u32): void {
  store<u32>(CPL, cpl);
  store<u32>(TLB, cpl == 3 ? TLB_USER : TLB_KERNEL);
  store<u64>(JUMP_TAG, cpl == 3 ? (1 as u64) << 62 : 0);
}

function currentMode(): u32 {
  if (!protectedMode()) return MODE_REAL;
  const attributes = attributesOf(CS);
  if (longModeActive() && attributes & ATTRIBUTE_LONG) return MODE_64;
  return attributes & ATTRIBUTE_DEFAULT ? MODE_32 : MODE_16;
}

/** Recomputes MODE, RIP_MASK and the bases of ES…DS from CR0, EFER and CS. */
export function setMode(): void {
  const mode = currentMode();
  const long = mode == MODE_64;
  store<u32>(MODE, mode);
  store<u64>(RIP_MASK, long ? ~(0 as u64) : 0xffffffff);
  store<u64>(GPR + SLOT_ES, long ? 0 : (load<u32>(SEG + HIDDEN_BASE) as u64));
  store<u64>(GPR + SLOT_CS, long ? 0 : (load<u32>(SEG + 16 + HIDDEN_BASE) as u64));
  store<u64>(GPR + SLOT_SS, long ? 0 : (load<u32>(SEG + 32 + HIDDEN_BASE) as u64));
  store<u64>(GPR + SLOT_DS, long ? 0 : (load<u32>(SEG + 48 + HIDDEN_BASE) as u64));
}

/**
 * To be called after the architectural state was written from outside: recomputes everything that is derived from it.
 * The privilege level is the DPL of SS (SDM vol 3 24.4.1 keeps it there, too), 0 in real-address mode.
 */
export function afterStateWrite(): void {
  setCpl(protectedMode() ? dplOf(attributesOf(SS)) : 0);
  setMode();
  flushTlb(false);
}
