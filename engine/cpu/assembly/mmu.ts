/**
 * Address translation (APM volume 2, chapter 5) behind a software TLB.
 *
 * A TLB entry holds one tag per access right. A hit compares the page of the access' LAST byte with the tag found by
 * its FIRST byte, so one comparison proves presence, permission and that no page is crossed. Pages with decoded code
 * never get a write tag: the slow path then sees the write and drops the code. Neither do pages whose dirty byte is 0, until
 * they are written: the first write after the byte was cleared passes through here and sets it.
 */
import { codeWritten } from "./code";
import { pageFault, raiseError } from "./fault";
import { hostArrive, hostDevice } from "./host";
import {
  CODE_EPOCH,
  CODE_FLAG,
  CPL,
  CR0,
  CR0_PG,
  CR0_WP,
  CR3,
  CR4,
  CR4_PAE,
  CR4_PGE,
  CR4_PSE,
  CUR,
  DIRTY_FLAG,
  EFER,
  EFER_LMA,
  EFER_NXE,
  EXC_GP,
  EXC_SS,
  JUMP_CACHE,
  JUMP_ENTRIES,
  PHYSMAP,
  PHYSMAP_DEVICE,
  PHYSMAP_FRAMES,
  PHYSMAP_LATER,
  TLB,
  TLB_ADDEND,
  TLB_ENTRIES,
  TLB_KERNEL,
  TLB_MASK,
  TLB_PAGE,
  TLB_USER,
  TLB_W,
  TLB_X,
} from "./layout";

export const READ = 0;
export const WRITE = 1;
export const EXECUTE = 2;

const PAGE: u64 = ~(<u64>0xfff);
const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const ACCESSED: u64 = 0x20;
const DIRTY: u64 = 0x40;
const LARGE: u64 = 0x80;
const GLOBAL: u64 = 0x100;
const NX: u64 = 0x8000000000000000;
const ADDRESS: u64 = 0x000ffffffffff000;
/** Address bits 40…51 are above the guest's physical address width and must be zero. */
const RESERVED_HIGH: u64 = 0x000fff0000000000;

/** Forgets all translations; global pages of the supervisor stay if `keepGlobal`. */
export function flushTlb(keepGlobal: bool): void {
  if (keepGlobal && (load<u64>(CR4) & CR4_PGE) != 0) {
    const end: u32 = TLB_KERNEL + TLB_ENTRIES * 32;
    for (let entry: u32 = TLB_KERNEL; entry < end; entry += 32) {
      if ((load<u32>(entry, TLB_PAGE) & 1) == 0) clearEntry(entry);
    }
  } else {
    memory.fill(TLB_KERNEL, 0xff, TLB_ENTRIES * 32);
  }
  memory.fill(TLB_USER, 0xff, TLB_ENTRIES * 32);
  flushJumps();
}

/** Forgets all resolved jumps: they depend on translations and on decoded code. */
export function flushJumps(): void {
  memory.fill(JUMP_CACHE, 0xff, JUMP_ENTRIES * 16);
  store<u32>(CODE_EPOCH, load<u32>(CODE_EPOCH) + 1);
}

function clearEntry(entry: u32): void {
  store<u64>(entry, 0xffffffffffffffff);
  store<u64>(entry, 0xffffffffffffffff, TLB_W);
  store<u64>(entry, 0xffffffffffffffff, TLB_X);
  store<u32>(entry, 0xfffffffc, TLB_PAGE);
}

/** Whether entries of pages above 4 KiB were made since the last full flush: for the lower and the upper half. */
let largeLow: bool = false;
let largeHigh: bool = false;

/**
 * Forgets the translation of one page (INVLPG). One of 2 MiB and more has many entries, and the page tables no longer
 * say its size: all entries within the largest page size that were made from such pages go.
 */
export function flushPage(a: u64): void {
  const offset = <u32>(a >> 7) & TLB_MASK;
  clearEntry(TLB_KERNEL + offset);
  clearEntry(TLB_USER + offset);
  if (<i64>a < 0 ? largeHigh : largeLow) flushLarge(a);
  flushJumps();
}

function flushLarge(a: u64): void {
  const end: u32 = TLB_USER + TLB_ENTRIES * 32;
  for (let entry: u32 = TLB_KERNEL; entry < end; entry += 32) {
    if ((load<u32>(entry, TLB_PAGE) & 2) != 0 && (load<u64>(entry) ^ a) >> 30 == 0) clearEntry(entry);
  }
}

/** Takes away the write tags of one page of this memory, which now holds decoded code. */
export function protectCode(page: u32): void {
  const end: u32 = TLB_USER + TLB_ENTRIES * 32;
  for (let entry: u32 = TLB_KERNEL; entry < end; entry += 32) {
    if ((load<u32>(entry, TLB_PAGE) & ~3) == page) store<u64>(entry, 0xffffffffffffffff, TLB_W);
  }
}

/** What a translation into the device page gives instead of an address: no memory reaches up there. */
const DEVICE: u32 = 0xfffff000;

function isDevice(pa: u64): bool {
  return pa >> 12 < <u64>PHYSMAP_FRAMES && load<u32>(PHYSMAP + ((<u32>(pa >> 12)) << 2)) == PHYSMAP_DEVICE;
}

/** An address in this memory, 0 for the device page: what is not ordinary memory is not there for bulk accesses. */
function ordinary(at: u32): u32 {
  return at >= DEVICE ? 0 : at;
}

/** Address in this memory of a guest-physical address, 0 where nothing is; bit 0 of the frame means read-only. */
function physical(pa: u64): u32 {
  if (pa >> 12 >= <u64>PHYSMAP_FRAMES) return 0;
  const entry = PHYSMAP + ((<u32>(pa >> 12)) << 2);
  let frame = load<u32>(entry);
  if ((frame & (PHYSMAP_DEVICE | PHYSMAP_LATER)) != 0) {
    if (frame == PHYSMAP_DEVICE) return 0;
    hostArrive(<u32>(pa >> 12));
    frame = load<u32>(entry);
  }
  return frame == 0 ? 0 : frame | (<u32>pa & 0xffe);
}

function readEntry64(pa: u64): u64 {
  const at = physical(pa & ~7) & ~1;
  return at == 0 ? 0 : load<u64>(at);
}

function mark(pa: u64, bits: u64): void {
  const at = physical(pa & ~7) & ~1;
  if (at == 0) return;
  store<u8>(DIRTY_FLAG + (at >> 12), 1);
  atomic.or<u64>(at, bits);
}

// Result of the last walk.
let leaf: u64 = 0;
let leafAt: u64 = 0;
let leafSize: u64 = 0;
let allowed: u64 = 0;
let walkFault: i32 = 0;

function walkLong(a: u64): bool {
  let table = load<u64>(CR3) & ADDRESS;
  let rights: u64 = RW | US;
  const reserved = RESERVED_HIGH | (load<u64>(EFER) & EFER_NXE ? 0 : NX);
  let noExecute: u64 = 0;
  for (let shift: u64 = 39; ; shift -= 9) {
    const at = table + (((a >> shift) & 511) << 3);
    const entry = readEntry64(at);
    if ((entry & P) == 0) return miss(0);
    let bad = entry & reserved;
    if (shift == 39) bad |= entry & LARGE;
    rights &= entry;
    noExecute |= entry & NX;
    const last = shift == 12 || (shift < 39 && (entry & LARGE) != 0);
    if (last && shift > 12) bad |= entry & (((<u64>1) << shift) - 1) & ~(<u64>0x1fff);
    if (bad != 0) return miss(8);
    if (last) return found(entry, at, (<u64>1) << shift, rights | noExecute);
    if ((entry & ACCESSED) == 0) mark(at, ACCESSED);
    table = entry & ADDRESS;
  }
  return false;
}

function walkPae(a: u64): bool {
  const reserved = RESERVED_HIGH | 0x7ff0000000000000 | (load<u64>(EFER) & EFER_NXE ? 0 : NX);
  const directory = readEntry64((load<u64>(CR3) & 0xffffffe0) + ((a >> 30) << 3));
  if ((directory & P) == 0) return miss(0);
  let at = (directory & ADDRESS) + (((a >> 21) & 511) << 3);
  let entry = readEntry64(at);
  if ((entry & P) == 0) return miss(0);
  let rights = entry & (RW | US);
  let noExecute = entry & NX;
  if ((entry & LARGE) != 0) {
    if ((entry & (reserved | 0x1fe000)) != 0) return miss(8);
    return found(entry, at, 0x200000, rights | noExecute);
  }
  if ((entry & reserved) != 0) return miss(8);
  if ((entry & ACCESSED) == 0) mark(at, ACCESSED);
  at = (entry & ADDRESS) + (((a >> 12) & 511) << 3);
  entry = readEntry64(at);
  if ((entry & P) == 0) return miss(0);
  if ((entry & reserved) != 0) return miss(8);
  rights &= entry;
  noExecute |= entry & NX;
  return found(entry, at, 0x1000, rights | noExecute);
}

function walkLegacy(a: u64): bool {
  let at = (load<u64>(CR3) & 0xfffff000) + ((a >> 22) << 2);
  let entry: u64 = <u32>(readEntry64(at) >> ((at & 4) << 3));
  if ((entry & P) == 0) return miss(0);
  const rights = entry & (RW | US);
  if ((entry & LARGE) != 0 && (load<u64>(CR4) & CR4_PSE) != 0) {
    if ((entry & 0x3fe000) != 0) return miss(8);
    return found(entry, at, 0x400000, rights);
  }
  if ((entry & ACCESSED) == 0) mark32(at, ACCESSED);
  at = (entry & 0xfffff000) + (((a >> 12) & 1023) << 2);
  entry = <u32>(readEntry64(at) >> ((at & 4) << 3));
  if ((entry & P) == 0) return miss(0);
  return found(entry, at, 0x1000, rights & entry);
}

function mark32(pa: u64, bits: u64): void {
  mark(pa, bits << ((pa & 4) << 3));
}

function found(entry: u64, at: u64, size: u64, rights: u64): bool {
  leaf = entry;
  leafAt = at;
  leafSize = size;
  allowed = rights;
  return true;
}

function miss(code: i32): bool {
  walkFault = code;
  return false;
}

function walk(a: u64): bool {
  if ((load<u64>(EFER) & EFER_LMA) != 0) return walkLong(a);
  return (load<u64>(CR4) & CR4_PAE) != 0 ? walkPae(a) : walkLegacy(a);
}

/** Whether the rights of the last walk permit an access. */
function permits(access: u32, user: bool): bool {
  if (user && (allowed & US) == 0) return false;
  if (access == EXECUTE) return (allowed & NX) == 0;
  if (access == READ || (allowed & RW) != 0) return true;
  return !user && (load<u64>(CR0) & CR0_WP) == 0;
}

/**
 * Translates one page and fills its TLB entry.
 * @returns address in this memory of the byte at `a`; 0 where no frame is mapped (reads give ones, writes vanish).
 */
function fill(a: u64, access: u32, user: bool, quiet: bool): u32 {
  let pa = a;
  let writable = true;
  let executable = true;
  let kind: u32 = 0; // bit 0 global, bit 1 of a large page
  if ((load<u64>(CR0) & CR0_PG) != 0) {
    if ((load<u64>(EFER) & EFER_LMA) != 0 && ((<i64>a) << 16) >> 16 != <i64>a) {
      if (quiet) return 0;
      raiseError(EXC_GP, 0);
    }
    const code = (access == WRITE ? 2 : 0) | (user ? 4 : 0);
    const fetch = access == EXECUTE && (load<u64>(EFER) & EFER_NXE) != 0 ? 16 : 0;
    if (!walk(a)) {
      if (quiet) return 0;
      pageFault(a, code | fetch | (walkFault != 0 ? walkFault | 1 : 0));
    }
    if (!permits(access, user)) {
      if (quiet) return 0;
      pageFault(a, code | fetch | 1);
    }
    const bits = ACCESSED | (access == WRITE ? DIRTY : 0);
    if ((leaf & bits) != bits) markLeaf(bits);
    writable = permits(WRITE, user) && ((leaf | bits) & DIRTY) != 0;
    executable = permits(EXECUTE, user);
    kind = (leaf & GLOBAL) != 0 ? 1 : 0;
    if (leafSize > 0x1000) {
      kind |= 2;
      if (<i64>a < 0) largeHigh = true;
      else largeLow = true;
    }
    pa = (leaf & ADDRESS & ~(leafSize - 1)) | (a & (leafSize - 1));
  } else {
    pa = <u64>(<u32>a);
  }
  const frame = physical(pa & PAGE);
  if (frame == 0) return isDevice(pa) ? DEVICE | (<u32>a & 0xfff) : 0;
  const page = frame & ~0xfff;
  if ((frame & 1) != 0 && access == WRITE) return 0;
  if ((frame & 1) != 0 || load<u8>(CODE_FLAG + (page >> 12)) != 0) writable = false;
  if (access == WRITE) store<u8>(DIRTY_FLAG + (page >> 12), 1);
  else if (load<u8>(DIRTY_FLAG + (page >> 12)) == 0) writable = false;
  const entry = (user ? TLB_USER : TLB_KERNEL) + (<u32>(a >> 7) & TLB_MASK);
  const tag = a & PAGE;
  store<u64>(entry, tag);
  store<u64>(entry, writable ? tag : 0xffffffffffffffff, TLB_W);
  store<u64>(entry, executable ? tag : 0xffffffffffffffff, TLB_X);
  store<u32>(entry, page - <u32>tag, TLB_ADDEND);
  store<u32>(entry, page | kind, TLB_PAGE);
  return page | (<u32>a & 0xfff);
}

function markLeaf(bits: u64): void {
  const wide = (load<u64>(EFER) & EFER_LMA) != 0 || (load<u64>(CR4) & CR4_PAE) != 0;
  if (wide) mark(leafAt, bits);
  else mark32(leafAt, bits);
}

/** Address in this memory of the byte at `a` for an access with the given privilege; faults as the access would. */
function resolve(a: u64, access: u32, user: bool): u32 {
  const entry = (user ? TLB_USER : TLB_KERNEL) + (<u32>(a >> 7) & TLB_MASK);
  const tag = access == READ ? load<u64>(entry) : access == WRITE ? load<u64>(entry, TLB_W) : load<u64>(entry, TLB_X);
  if (tag == (a & PAGE)) return <u32>a + load<u32>(entry, TLB_ADDEND);
  return fill(a, access, user, false);
}

function isUser(): bool {
  return load<u32>(CPL) == 3;
}

/** Translates for an instruction fetch at the current privilege; 0 where no frame is. */
export function resolveFetch(a: u64): u32 {
  return ordinary(resolve(a, EXECUTE, isUser()));
}

/** Translates at the current privilege without faulting (for the hypervisor). @returns 0 if it would fault. */
export function translate(a: u64, write: bool): u32 {
  return ordinary(fill(a, write ? WRITE : READ, isUser(), true));
}

/** Address in this memory to read one page's part at `a`, or 0. */
export function resolveRead(a: u64): u32 {
  return ordinary(resolve(a, READ, isUser()));
}

/** Address in this memory to write one page's part at `a`, or 0; decoded code there is dropped. */
export function resolveWrite(a: u64): u32 {
  const at = ordinary(resolve(a, WRITE, isUser()));
  if (at != 0 && load<u8>(CODE_FLAG + (at >> 12)) != 0) codeWritten(at);
  return at;
}

// --- accesses that missed the TLB, any size, any alignment ------------------------------------------------------

function crosses(a: u64, size: u32): bool {
  return (<u32>a & 0xfff) + size > 0x1000;
}

function readAt(at: u32, size: u32): u64 {
  if (at >= DEVICE) return hostDevice(at & 0xfff, size, false, 0);
  if (at == 0) return size == 8 ? 0xffffffffffffffff : ((<u64>1) << (size << 3)) - 1;
  if (size == 8) return load<u64>(at);
  if (size == 4) return load<u32>(at);
  if (size == 2) return load<u16>(at);
  return load<u8>(at);
}

function readSlow(a: u64, size: u32, user: bool): u64 {
  if (!crosses(a, size)) return readAt(resolve(a, READ, user), size);
  const low: u32 = 0x1000 - (<u32>a & 0xfff);
  const first = resolve(a, READ, user);
  const second = resolve(wrapLinear(a + low), READ, user);
  let value: u64 = 0;
  for (let i: u32 = 0; i < size; i++) {
    const at = i < low ? first : second;
    const byte: u64 = ordinary(at) == 0 ? 0xff : load<u8>(i < low ? at + i : at + i - low);
    value |= byte << (i << 3);
  }
  return value;
}

/** Linear addresses wrap at 4 GiB outside long mode. */
function wrapLinear(a: u64): u64 {
  return (load<u64>(EFER) & EFER_LMA) != 0 ? a : <u64>(<u32>a);
}

function writeAt(at: u32, value: u64, size: u32): void {
  if (at == 0) return;
  if (at >= DEVICE) {
    hostDevice(at & 0xfff, size, true, <u32>value);
    return;
  }
  if (size == 8) store<u64>(at, value);
  else if (size == 4) store<u32>(at, <u32>value);
  else if (size == 2) store<u16>(at, <u16>value);
  else store<u8>(at, <u8>value);
  if (load<u8>(CODE_FLAG + (at >> 12)) != 0) codeWritten(at);
}

function writeSlow(a: u64, value: u64, size: u32, user: bool): void {
  if (!crosses(a, size)) {
    writeAt(resolve(a, WRITE, user), value, size);
    return;
  }
  const low: u32 = 0x1000 - (<u32>a & 0xfff);
  const first = resolve(a, WRITE, user);
  const second = resolve(wrapLinear(a + low), WRITE, user);
  for (let i: u32 = 0; i < size; i++) {
    const at = i < low ? first : second;
    if (ordinary(at) != 0) writeAt(i < low ? at + i : at + i - low, (value >> (i << 3)) & 0xff, 1);
  }
}

// --- accesses of the running program ----------------------------------------------------------------------------

function hit(a: u64, size: u32): u32 {
  const entry = load<u32>(TLB) + (<u32>(a >> 7) & TLB_MASK);
  return load<u64>(entry) == ((a + (size - 1)) & PAGE) ? <u32>a + load<u32>(entry, TLB_ADDEND) : 0;
}

function hitWrite(a: u64, size: u32): u32 {
  const entry = load<u32>(TLB) + (<u32>(a >> 7) & TLB_MASK);
  return load<u64>(entry, TLB_W) == ((a + (size - 1)) & PAGE) ? <u32>a + load<u32>(entry, TLB_ADDEND) : 0;
}

export function ld8(a: u64): u32 {
  const at = hit(a, 1);
  return at != 0 ? <u32>load<u8>(at) : <u32>readSlow(a, 1, isUser());
}

export function ld16(a: u64): u32 {
  const at = hit(a, 2);
  return at != 0 ? <u32>load<u16>(at) : <u32>readSlow(a, 2, isUser());
}

export function ld32(a: u64): u32 {
  const at = hit(a, 4);
  return at != 0 ? load<u32>(at) : <u32>readSlow(a, 4, isUser());
}

export function ld64(a: u64): u64 {
  const at = hit(a, 8);
  return at != 0 ? load<u64>(at) : readSlow(a, 8, isUser());
}

export function ld128(a: u64): v128 {
  const at = hit(a, 16);
  if (at != 0) return v128.load(at);
  const low = readSlow(a, 8, isUser());
  const high = readSlow(wrapLinear(a + 8), 8, isUser());
  return i64x2.replace_lane(i64x2.splat(low), 1, high);
}

export function st8(a: u64, value: u32): void {
  const at = hitWrite(a, 1);
  if (at != 0) store<u8>(at, <u8>value);
  else writeSlow(a, value, 1, isUser());
}

export function st16(a: u64, value: u32): void {
  const at = hitWrite(a, 2);
  if (at != 0) store<u16>(at, <u16>value);
  else writeSlow(a, value, 2, isUser());
}

export function st32(a: u64, value: u32): void {
  const at = hitWrite(a, 4);
  if (at != 0) store<u32>(at, value);
  else writeSlow(a, value, 4, isUser());
}

export function st64(a: u64, value: u64): void {
  const at = hitWrite(a, 8);
  if (at != 0) store<u64>(at, value);
  else writeSlow(a, value, 8, isUser());
}

export function st128(a: u64, value: v128): void {
  const at = hitWrite(a, 16);
  if (at != 0) {
    v128.store(at, value);
    return;
  }
  checkWrite(a, 16);
  writeSlow(a, i64x2.extract_lane(value, 0), 8, isUser());
  writeSlow(wrapLinear(a + 8), i64x2.extract_lane(value, 1), 8, isUser());
}

/** Faults unless all `size` bytes at `a` can be written; they may cross one page boundary. */
export function checkWrite(a: u64, size: u32): void {
  if (hitWrite(a, size) != 0) return;
  resolve(a, WRITE, isUser());
  if (crosses(a, size)) resolve(wrapLinear(a + (size - 1)), WRITE, isUser());
}

// --- implicit supervisor accesses: descriptor tables, TSS, interrupt stacks --------------------------------------

export function sysLd8(a: u64): u32 {
  return <u32>readSlow(a, 1, false);
}

export function sysLd16(a: u64): u32 {
  return <u32>readSlow(a, 2, false);
}

export function sysLd32(a: u64): u32 {
  return <u32>readSlow(a, 4, false);
}

export function sysLd64(a: u64): u64 {
  return readSlow(a, 8, false);
}

export function sysSt8(a: u64, value: u32): void {
  writeSlow(a, value, 1, false);
}

export function sysSt16(a: u64, value: u32): void {
  writeSlow(a, value, 2, false);
}

export function sysSt32(a: u64, value: u32): void {
  writeSlow(a, value, 4, false);
}

export function sysSt64(a: u64, value: u64): void {
  writeSlow(a, value, 8, false);
}

// --- misses of the interpreter's inline fast path: the record is noted so that a fault finds its RIP ---------------

/** Reads `size` bytes at `a` for the record `ip` after its inline TLB check missed. */
export function missRead(a: u64, size: u32, ip: u32): u64 {
  store<u32>(CUR, ip);
  return readSlow(a, size, isUser());
}

/** Writes `size` bytes at `a` for the record `ip` after its inline TLB check missed. */
export function missWrite(a: u64, value: u64, size: u32, ip: u32): void {
  store<u32>(CUR, ip);
  writeSlow(a, value, size, isUser());
}

function checkStack(a: u64, ip: u32): void {
  if (((<i64>a) << 16) >> 16 == <i64>a) return;
  store<u32>(CUR, ip);
  raiseError(EXC_SS, 0);
}

/** missRead for a pop in 64-bit mode. */
export function missPop(a: u64, size: u32, ip: u32): u64 {
  checkStack(a, ip);
  return missRead(a, size, ip);
}

/** missWrite for a push in 64-bit mode. */
export function missPush(a: u64, value: u64, size: u32, ip: u32): void {
  checkStack(a, ip);
  missWrite(a, value, size, ip);
}

/**
 * Address in this memory for an atomic read-modify-write of `size` bytes at `a`; faults as a write does.
 * @returns 0 if it is not aligned to its size or nothing is mapped there: then no other party can share it atomically.
 */
export function lockAddress(a: u64, size: u32): u32 {
  if ((<u32>a & (size - 1)) != 0) return 0;
  const at = hitWrite(a, size);
  return at != 0 ? at : resolveWrite(a);
}
