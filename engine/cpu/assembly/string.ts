/**
 * String instructions. A repeated one works through each page in bulk, and is restartable in the middle: registers
 * always say what is left when a fault or the end of a page interrupts it.
 */
import { raise } from "./fault";
import {
  EFLAGS,
  EXC_RESTART,
  FLAG_DF,
  GPR,
  KIND_SUB,
  LAZY_A,
  LAZY_B,
  LAZY_KIND,
  MODE,
  MODE_32,
  MODE_64,
  PREFIX_ADDR,
  PREFIX_REP,
  PREFIX_REPNE,
  R_PREFIX,
  R_SEG,
  R_SIZE,
  SLOT_ES,
  SLOT_ZERO,
} from "./layout";
import { ld8, ld16, ld32, ld64, resolveRead, resolveWrite, st8, st16, st32, st64 } from "./mmu";

const RAX = GPR;
const RCX = GPR + 8;
const RSI = GPR + 48;
const RDI = GPR + 56;

/** Bits of an address that the instruction's address size keeps. */
export function addressMask(ip: u32): u64 {
  const other = (load<u8>(ip, R_PREFIX) & PREFIX_ADDR) != 0;
  const mode = load<u32>(MODE);
  if (mode == MODE_64) return other ? 0xffffffff : 0xffffffffffffffff;
  return (mode == MODE_32) != other ? 0xffffffff : 0xffff;
}

/** Sets an index or count register as far as the address size reaches. */
function setIndex(register: u32, value: u64, mask: u64): void {
  if (mask == 0xffff) store<u16>(register, <u16>value);
  else store<u64>(register, value & mask);
}

function linear(slot: u32, register: u32, mask: u64): u64 {
  const a = load<u64>(GPR + slot) + (load<u64>(register) & mask);
  return load<u32>(MODE) == MODE_64 ? a : <u64>(<u32>a);
}

function sourceSlot(ip: u32): u32 {
  const segment = <u32>load<u8>(ip, R_SEG);
  return load<u32>(MODE) == MODE_64 && segment < 4 ? SLOT_ZERO : SLOT_ES + (segment << 3);
}

function destinationSlot(): u32 {
  return load<u32>(MODE) == MODE_64 ? SLOT_ZERO : SLOT_ES;
}

function get(a: u64, size: u32): u64 {
  if (size == 0) return ld8(a);
  if (size == 1) return ld16(a);
  if (size == 2) return ld32(a);
  return ld64(a);
}

function put(a: u64, size: u32, value: u64): void {
  if (size == 0) st8(a, <u32>value);
  else if (size == 1) st16(a, <u32>value);
  else if (size == 2) st32(a, <u32>value);
  else st64(a, value);
}

function stepOf(size: u32): u64 {
  return (load<u32>(EFLAGS) & FLAG_DF) != 0 ? 0 - ((<u64>1) << size) : (<u64>1) << size;
}

function advance(register: u32, by: u64, mask: u64): void {
  setIndex(register, load<u64>(register) + by, mask);
}

function repeats(ip: u32): bool {
  return (load<u8>(ip, R_PREFIX) & (PREFIX_REP | PREFIX_REPNE)) != 0;
}

/** Whole elements from `a` upwards that stay in its page, at most `count`. */
function inPage(a: u64, size: u32, count: u64): u64 {
  const room = <u64>(0x1000 - (<u32>a & 0xfff)) >> size;
  return min<u64>(room, count);
}

/** Index registers must not wrap within one bulk step. */
function noWrap(register: u32, mask: u64, size: u32, count: u64): bool {
  if (mask == 0xffffffffffffffff) return true;
  return (load<u64>(register) & mask) + (count << size) <= mask;
}

/** Steps of a repeated instruction between two looks at interrupts and budget. */
const PATIENCE: u32 = 0x10000;
let patience: u32 = 0;

/**
 * Called after each step of a repeated instruction, with the registers saying what is left: now and then it leaves the
 * instruction, to be resumed there, so that a count of 2^64 delays neither interrupts nor the end of the budget.
 */
function breathe(): void {
  if (--patience == 0) raise(EXC_RESTART);
}

// --- MOVS --------------------------------------------------------------------------------------------------------

function moveOne(ip: u32, size: u32, mask: u64): void {
  const value = get(linear(sourceSlot(ip), RSI, mask), size);
  put(linear(destinationSlot(), RDI, mask), size, value);
  const step = stepOf(size);
  advance(RSI, step, mask);
  advance(RDI, step, mask);
}

/** Moves as many elements as one page of each side allows. @returns elements moved, 0 if it must go one by one. */
function moveBulk(ip: u32, size: u32, mask: u64, count: u64): u64 {
  if ((load<u32>(EFLAGS) & FLAG_DF) != 0) return 0;
  const from = linear(sourceSlot(ip), RSI, mask);
  const to = linear(destinationSlot(), RDI, mask);
  const n = inPage(to, size, inPage(from, size, count));
  if (n == 0 || !noWrap(RSI, mask, size, n) || !noWrap(RDI, mask, size, n)) return 0;
  const source = resolveRead(from);
  const target = resolveWrite(to);
  if (source == 0 || target == 0) return 0;
  const bytes = <u32>(n << size);
  // Overlap upwards repeats the source's beginning, element by element; memory.copy would not.
  if (target > source && target - source < bytes) {
    repeatPattern(target, source, bytes, size);
  } else {
    memory.copy(target, source, bytes);
  }
  advance(RSI, bytes, mask);
  advance(RDI, bytes, mask);
  return n;
}

function repeatPattern(target: u32, source: u32, bytes: u32, size: u32): void {
  const step: u32 = 1 << size;
  for (let i: u32 = 0; i < bytes; i += step) {
    if (size == 0) store<u8>(target + i, load<u8>(source + i));
    else if (size == 1) store<u16>(target + i, load<u16>(source + i));
    else if (size == 2) store<u32>(target + i, load<u32>(source + i));
    else store<u64>(target + i, load<u64>(source + i));
  }
}

export function movs(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const mask = addressMask(ip);
  if (!repeats(ip)) {
    moveOne(ip, size, mask);
    return;
  }
  patience = PATIENCE;
  for (let count = load<u64>(RCX) & mask; count != 0; ) {
    let n = moveBulk(ip, size, mask, count);
    if (n == 0) {
      moveOne(ip, size, mask);
      n = 1;
    }
    count -= n;
    setIndex(RCX, count, mask);
    if (count != 0) breathe();
  }
}

// --- STOS --------------------------------------------------------------------------------------------------------

function storeBulk(size: u32, mask: u64, count: u64): u64 {
  if ((load<u32>(EFLAGS) & FLAG_DF) != 0) return 0;
  const to = linear(destinationSlot(), RDI, mask);
  const n = inPage(to, size, count);
  if (n == 0 || !noWrap(RDI, mask, size, n)) return 0;
  const target = resolveWrite(to);
  if (target == 0) return 0;
  const bytes = <u32>(n << size);
  const value = load<u64>(RAX);
  if (size == 0 || value == 0) {
    memory.fill(target, <u8>value, bytes);
  } else {
    const step: u32 = 1 << size;
    for (let i: u32 = 0; i < bytes; i += step) {
      if (size == 1) store<u16>(target + i, <u16>value);
      else if (size == 2) store<u32>(target + i, <u32>value);
      else store<u64>(target + i, value);
    }
  }
  advance(RDI, bytes, mask);
  return n;
}

export function stos(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const mask = addressMask(ip);
  let count: u64 = repeats(ip) ? load<u64>(RCX) & mask : 1;
  patience = PATIENCE;
  while (count != 0) {
    let n: u64 = repeats(ip) ? storeBulk(size, mask, count) : 0;
    if (n == 0) {
      put(linear(destinationSlot(), RDI, mask), size, load<u64>(RAX));
      advance(RDI, stepOf(size), mask);
      n = 1;
    }
    count -= n;
    if (repeats(ip)) setIndex(RCX, count, mask);
    if (count != 0) breathe();
  }
}

// --- LODS, SCAS, CMPS --------------------------------------------------------------------------------------------

export function lods(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const mask = addressMask(ip);
  let count: u64 = repeats(ip) ? load<u64>(RCX) & mask : 1;
  patience = PATIENCE;
  while (count != 0) {
    const value = get(linear(sourceSlot(ip), RSI, mask), size);
    if (size == 0) store<u8>(RAX, <u8>value);
    else if (size == 1) store<u16>(RAX, <u16>value);
    else store<u64>(RAX, value);
    advance(RSI, stepOf(size), mask);
    count--;
    if (repeats(ip)) setIndex(RCX, count, mask);
    if (count != 0) breathe();
  }
}

function compareFlags(x: u64, y: u64, size: u32): void {
  const shift: u32 = 64 - (8 << size);
  store<u64>(LAZY_A, x << shift);
  store<u64>(LAZY_B, y << shift);
  store<u32>(LAZY_KIND, KIND_SUB | (shift << 8));
}

function accumulator(size: u32): u64 {
  if (size == 0) return load<u8>(RAX);
  if (size == 1) return load<u16>(RAX);
  if (size == 2) return load<u32>(RAX);
  return load<u64>(RAX);
}

/** Whether a repeated comparison goes on: REPE while equal, REPNE while different. */
function goesOn(ip: u32, equal: bool): bool {
  return ((load<u8>(ip, R_PREFIX) & PREFIX_REPNE) != 0) != equal;
}

export function scas(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const mask = addressMask(ip);
  const again = repeats(ip);
  let count: u64 = again ? load<u64>(RCX) & mask : 1;
  patience = PATIENCE;
  const x = accumulator(size);
  while (count != 0) {
    const y = get(linear(destinationSlot(), RDI, mask), size);
    advance(RDI, stepOf(size), mask);
    compareFlags(x, y, size);
    count--;
    if (!again) return;
    setIndex(RCX, count, mask);
    if (!goesOn(ip, x == y)) return;
    if (count != 0) breathe();
  }
}

export function cmps(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const mask = addressMask(ip);
  const again = repeats(ip);
  let count: u64 = again ? load<u64>(RCX) & mask : 1;
  patience = PATIENCE;
  while (count != 0) {
    const x = get(linear(sourceSlot(ip), RSI, mask), size);
    const y = get(linear(destinationSlot(), RDI, mask), size);
    const step = stepOf(size);
    advance(RSI, step, mask);
    advance(RDI, step, mask);
    compareFlags(x, y, size);
    count--;
    if (!again) return;
    setIndex(RCX, count, mask);
    if (!goesOn(ip, x == y)) return;
    if (count != 0) breathe();
  }
}
