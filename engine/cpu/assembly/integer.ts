/** General-purpose instructions that are not templates: wide multiply and divide, bit strings, decimal, frames. */
import { signedHigh, unsignedHigh } from "./alu";
import { release } from "./branch";
import { raise, raiseError } from "./fault";
import { getCarry, getFlags, parity, setArith, setCarry, setResult } from "./flags";
import { isCanonical } from "./flow";
import {
  EFLAGS,
  EXC_BR,
  EXC_DE,
  EXC_GP,
  EXC_SS,
  EXC_UD,
  FLAG_AF,
  FLAG_CF,
  FLAG_DF,
  FLAG_OF,
  FLAG_SF,
  FLAG_ZF,
  FLAGS_ARITH,
  GPR,
  MODE,
  MODE_64,
  PREFIX_LOCK,
  PREFIX_REXW,
  R_A,
  R_BASE,
  R_IMM,
  R_PREFIX,
  R_REG,
  R_RM,
  R_SEG,
  R_SIZE,
  RECORD,
  SLOT_ES,
  SLOT_TEMP,
  SLOT_ZERO,
} from "./layout";
import { checkWrite, ld8, ld16, ld32, ld64, lockAddress, st8, st16, st32, st64 } from "./mmu";
import { ea, microAddress } from "./operands";
import { loadSized, peek, poke, push as pushValue, setStackPointer, stackLinear, stackMask, storeSized } from "./stack";
import { addressMask } from "./string";

/** What undecodable bytes run: #UD, or #GP when the instruction is longer than 15 bytes. */
export function invalid_opcode(ip: u32): void {
  if (load<u8>(ip, R_IMM) != 0) raiseError(EXC_GP, 0);
  raise(EXC_UD);
}

function loadAny(a: u64, size: u32): u64 {
  return size == 0 ? <u64>ld8(a) : loadSized(a, size);
}

function storeAny(a: u64, size: u32, value: u64): void {
  if (size == 0) st8(a, <u32>value);
  else storeSized(a, size, value);
}

/** Writes general register bytes: `slot` as in R_A. */
function setSlot(slot: u32, size: u32, value: u64): void {
  if (size == 3) store<u64>(GPR + slot, value);
  else if (size == 2) store<u64>(GPR + slot, value & 0xffffffff);
  else if (size == 1) store<u16>(GPR + slot, <u16>value);
  else store<u8>(GPR + slot, <u8>value);
}

function getSlot(slot: u32, size: u32): u64 {
  if (size == 3) return load<u64>(GPR + slot);
  if (size == 2) return load<u32>(GPR + slot);
  if (size == 1) return load<u16>(GPR + slot);
  return load<u8>(GPR + slot);
}

/** The r/m operand, zero-extended. */
function source(ip: u32, size: u32): u64 {
  if (load<u8>(ip, R_RM) == 255) return loadAny(ea(ip), size);
  return getSlot(load<u8>(ip, R_A), size);
}

function signExtend(value: u64, size: u32): i64 {
  const shift: u64 = 64 - (8 << size);
  return <i64>(value << shift) >> shift;
}

export function mul(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const y = source(ip, size);
  const x = getSlot(0, size);
  const shift: u32 = 64 - (8 << size);
  let high: u64 = 0;
  const low = x * y;
  if (size == 3) {
    high = unsignedHigh(x, y);
    store<u64>(GPR, low);
    store<u64>(GPR + 16, high);
  } else {
    high = low >> (8 << size);
    putPair(low, size);
  }
  setResult(low, shift, high != 0 ? FLAG_CF | FLAG_OF : 0);
}

/** Stores a double-width value of operand size below 64 bits to AX, DX:AX or EDX:EAX. */
function putPair(value: u64, size: u32): void {
  if (size == 0) {
    store<u16>(GPR, <u16>value);
    return;
  }
  setSlot(0, size, value);
  setSlot(16, size, value >> (8 << size));
}

export function imul1(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const y = signExtend(source(ip, size), size);
  const x = signExtend(getSlot(0, size), size);
  const low = <u64>(x * y);
  let fits = false;
  if (size == 3) {
    const high = signedHigh(<u64>x, <u64>y);
    store<u64>(GPR, low);
    store<u64>(GPR + 16, <u64>high);
    fits = high == <i64>low >> 63;
  } else {
    putPair(low, size);
    fits = signExtend(low, size) == <i64>low;
  }
  setResult(low, 64 - (8 << size), fits ? 0 : FLAG_CF | FLAG_OF);
}

// Quotient and remainder of the last 128-bit division.
let quotient: u64 = 0;
let remainder: u64 = 0;

/** Divides high:low by y, high < y. */
function divide128(high: u64, low: u64, y: u64): void {
  let r = high;
  let q: u64 = 0;
  for (let i: i64 = 63; i >= 0; i--) {
    const carry = r >> 63;
    r = (r << 1) | ((low >> <u64>i) & 1);
    q <<= 1;
    if (carry != 0 || r >= y) {
      r -= y;
      q |= 1;
    }
  }
  quotient = q;
  remainder = r;
}

export function div(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const y = source(ip, size);
  if (y == 0) raise(EXC_DE);
  if (size == 3) {
    const high = load<u64>(GPR + 16);
    const low = load<u64>(GPR);
    if (high >= y) raise(EXC_DE);
    if (high == 0) {
      quotient = low / y;
      remainder = low % y;
    } else {
      divide128(high, low, y);
    }
    store<u64>(GPR, quotient);
    store<u64>(GPR + 16, remainder);
    return;
  }
  const x = dividend(size);
  const q = x / y;
  if (q >> (8 << size) != 0) raise(EXC_DE);
  putDivision(q, x % y, size);
}

function dividend(size: u32): u64 {
  if (size == 0) return load<u16>(GPR);
  return (getSlot(16, size) << (8 << size)) | getSlot(0, size);
}

function putDivision(q: u64, r: u64, size: u32): void {
  if (size == 0) {
    store<u8>(GPR, <u8>q);
    store<u8>(GPR + 1, <u8>r);
    return;
  }
  setSlot(0, size, q);
  setSlot(16, size, r);
}

export function idiv(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const y = signExtend(source(ip, size), size);
  if (y == 0) raise(EXC_DE);
  if (size == 3) {
    divideSigned128(<i64>load<u64>(GPR + 16), load<u64>(GPR), y);
    store<u64>(GPR, quotient);
    store<u64>(GPR + 16, remainder);
    return;
  }
  const x = signExtend(dividend(size), size + 1);
  if (y == -1) {
    // Also avoids WebAssembly's trap on the most negative dividend.
    const q = -x;
    if (signExtend(<u64>q, size) != q) raise(EXC_DE);
    putDivision(<u64>q, 0, size);
    return;
  }
  const q = x / y;
  if (signExtend(<u64>q, size) != q) raise(EXC_DE);
  putDivision(<u64>q, <u64>(x % y), size);
}

function divideSigned128(high: i64, low: u64, y: i64): void {
  const negative = high < 0;
  let h = <u64>high;
  let l = low;
  if (negative) {
    l = 0 - l;
    h = ~h + (l == 0 ? 1 : 0);
  }
  const divisor = y < 0 ? 0 - <u64>y : <u64>y;
  if (h >= divisor) raise(EXC_DE);
  divide128(h, l, divisor);
  const flip = negative != y < 0;
  if (flip ? quotient > 0x8000000000000000 : quotient > 0x7fffffffffffffff) raise(EXC_DE);
  if (flip) quotient = 0 - quotient;
  if (negative) remainder = 0 - remainder;
}

// --- bit strings: the bit number selects the memory word too -----------------------------------------------------

function bitString(ip: u32, change: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const width: u64 = 8 << size;
  const number = signExtend(load<u64>(GPR + ((<u32>load<u8>(ip, R_REG)) << 3)), size);
  const a = displaced(ip, (<u64>(number >> (3 + size))) << size);
  const bit = (<u64>1) << (<u64>number & (width - 1));
  let old: u64 = 0;
  if (change == 0) {
    old = loadSized(a, size);
  } else if ((load<u8>(ip, R_PREFIX) & PREFIX_LOCK) != 0) {
    old = lockedBit(a, size, bit, change);
  } else {
    old = loadSized(a, size);
    storeSized(a, size, changed(old, bit, change));
  }
  setCarry(u32((old & bit) != 0));
}

/** The memory operand's address moved by `bytes`, wrapping as its address size says. */
function displaced(ip: u32, bytes: u64): u64 {
  const long = load<u32>(MODE) == MODE_64;
  const mask = addressMask(ip);
  if (long && mask == 0xffffffffffffffff) return ea(ip) + bytes;
  const segment = <u32>load<u8>(ip, R_SEG);
  const base = load<u64>(GPR + (long && segment < 4 ? SLOT_ZERO : SLOT_ES + (segment << 3)));
  const a = base + ((ea(ip) - base + bytes) & mask);
  return long ? a : <u64>(<u32>a);
}

function changed(old: u64, bit: u64, change: u32): u64 {
  return change == 1 ? old | bit : change == 2 ? old & ~bit : old ^ bit;
}

function lockedBit(a: u64, size: u32, bit: u64, change: u32): u64 {
  const at = lockAddress(a, 1 << size);
  if (at == 0) {
    const value = loadSized(a, size);
    storeSized(a, size, changed(value, bit, change));
    return value;
  }
  if (size == 3) {
    if (change == 1) return atomic.or<u64>(at, bit);
    return change == 2 ? atomic.and<u64>(at, ~bit) : atomic.xor<u64>(at, bit);
  }
  if (size == 2) {
    if (change == 1) return atomic.or<u32>(at, <u32>bit);
    return change == 2 ? atomic.and<u32>(at, ~(<u32>bit)) : atomic.xor<u32>(at, <u32>bit);
  }
  if (change == 1) return atomic.or<u16>(at, <u16>bit);
  return change == 2 ? atomic.and<u16>(at, ~(<u16>bit)) : atomic.xor<u16>(at, <u16>bit);
}

export function bt(ip: u32): void {
  bitString(ip, 0);
}

export function bts(ip: u32): void {
  bitString(ip, 1);
}

export function btr(ip: u32): void {
  bitString(ip, 2);
}

export function btc(ip: u32): void {
  bitString(ip, 3);
}

/** CMPXCHG8B, and CMPXCHG16B with REX.W (which must be aligned). */
export function cmpxchg8b(ip: u32): void {
  const a = ea(ip);
  if ((load<u8>(ip, R_PREFIX) & PREFIX_REXW) != 0) {
    cmpxchg16b(a);
    return;
  }
  const expected = ((<u64>load<u32>(GPR + 16)) << 32) | load<u32>(GPR);
  const next = ((<u64>load<u32>(GPR + 8)) << 32) | load<u32>(GPR + 24);
  const at = lockAddress(a, 8);
  let old: u64 = 0;
  if (at != 0) {
    old = atomic.cmpxchg<u64>(at, expected, next);
  } else {
    checkWrite(a, 8);
    old = ld64(a);
    st64(a, old == expected ? next : old);
  }
  if (old != expected) {
    store<u64>(GPR, old & 0xffffffff);
    store<u64>(GPR + 16, old >> 32);
  }
  setArith((getFlags() & ~FLAG_ZF) | (old == expected ? FLAG_ZF : 0));
}

function cmpxchg16b(a: u64): void {
  if ((a & 15) != 0) raiseError(EXC_GP, 0);
  checkWrite(a, 16);
  const low = ld64(a);
  const high = ld64(a + 8);
  const equal = low == load<u64>(GPR) && high == load<u64>(GPR + 16);
  if (equal) {
    st64(a, load<u64>(GPR + 24));
    st64(a + 8, load<u64>(GPR + 8));
  } else {
    store<u64>(GPR, low);
    store<u64>(GPR + 16, high);
  }
  setArith((getFlags() & ~FLAG_ZF) | (equal ? FLAG_ZF : 0));
}

// --- stack -------------------------------------------------------------------------------------------------------

export function push(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const rm = <u32>load<u8>(ip, R_RM);
  let value: u64 = 0;
  if (rm == 255) value = loadSized(ea(ip), size);
  else if (rm == 254) value = load<u64>(ip, R_IMM);
  else value = load<u64>(GPR + (rm << 3));
  pushValue(value, size);
}

export function pop(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const value = peek(0, size);
  if (load<u8>(ip, R_RM) != 255) {
    release(1 << size);
    setSlot(load<u8>(ip, R_A), size, value);
    return;
  }
  // An address based on RSP is computed with RSP already moved.
  const before = load<u64>(GPR + 32);
  release(1 << size);
  if (load<u8>(ip, R_BASE) == SLOT_TEMP) microAddress(ip - RECORD);
  const a = ea(ip);
  store<u64>(GPR + 32, before);
  storeSized(a, size, value);
  release(1 << size);
}

/** An address used as stack in 64-bit mode. */
function stackAddress(a: u64): u64 {
  if (!isCanonical(a)) raiseError(EXC_SS, 0);
  return a;
}

export function leave(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const before = load<u64>(GPR + 32);
  const offset = <i32>((load<u64>(GPR + 40) & stackMask()) - (before & stackMask()));
  const mask = stackMask();
  const value = mask == 0xffffffffffffffff ? loadSized(stackAddress(load<u64>(GPR + 40)), size) : peek(offset, size);
  setStackPointer((load<u64>(GPR + 40) & mask) + (1 << size));
  setSlot(40, size, value);
}

export function enter(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const bytes: i32 = 1 << size;
  const allocate = <u32>load<u16>(ip, R_IMM);
  const level = <u32>load<u8>(ip + 2, R_IMM) & 31;
  const mask = stackMask();
  const bp = load<u64>(GPR + 40);
  let offset: i32 = -bytes;
  poke(offset, size, bp);
  const frame = load<u64>(GPR + 32) - <u64>bytes;
  const toBp = <i32>((bp & mask) - (load<u64>(GPR + 32) & mask));
  for (let i: u32 = 1; i < level; i++) {
    offset -= bytes;
    const long = mask == 0xffffffffffffffff;
    const from = long ? stackAddress(bp - <u64>(<u32>bytes * i)) : stackLinear(toBp - bytes * <i32>i);
    poke(offset, size, loadSized(from, size));
  }
  if (level != 0) {
    offset -= bytes;
    poke(offset, size, frame);
  }
  // The last byte of the new frame must be writable, as the processor checks.
  checkWrite(stackLinear(offset - <i32>allocate), 1);
  setStackPointer(load<u64>(GPR + 32) + <u64>(<i64>(offset - <i32>allocate)));
  setSlot(40, size, frame);
}

export function pusha(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const bytes: i32 = 1 << size;
  for (let n: i32 = 0; n < 8; n++) {
    poke(-bytes * (n + 1), size, load<u64>(GPR + (n << 3)));
  }
  setStackPointer(load<u64>(GPR + 32) - <u64>(bytes * 8));
}

export function popa(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const bytes: i32 = 1 << size;
  for (let n: i32 = 7; n >= 0; n--) peek(bytes * (7 - n), size);
  for (let n: i32 = 7; n >= 0; n--) {
    if (n != 4) setSlot((<u32>n) << 3, size, peek(bytes * (7 - n), size));
  }
  release(bytes * 8);
}

export function bound(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const a = ea(ip);
  const value = signExtend(load<u64>(GPR + ((<u32>load<u8>(ip, R_REG)) << 3)), size);
  const low = signExtend(loadSized(a, size), size);
  const high = signExtend(loadSized(a + (1 << size), size), size);
  if (value < low || value > high) raise(EXC_BR);
}

// --- data movement -----------------------------------------------------------------------------------------------

/** Linear address of a moffs operand. */
function offsetAddress(ip: u32): u64 {
  const segment = <u32>load<u8>(ip, R_SEG);
  const long = load<u32>(MODE) == MODE_64;
  const slot: u32 = long && segment < 4 ? SLOT_ZERO : SLOT_ES + (segment << 3);
  const a = load<u64>(GPR + slot) + load<u64>(ip, R_IMM);
  return long ? a : <u64>(<u32>a);
}

export function mov_from_offset(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  setSlot(0, size, loadAny(offsetAddress(ip), size));
}

export function mov_to_offset(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  storeAny(offsetAddress(ip), size, getSlot(0, size));
}

export function xlat(ip: u32): void {
  const segment = <u32>load<u8>(ip, R_SEG);
  const long = load<u32>(MODE) == MODE_64;
  let a = (load<u64>(GPR + 24) + load<u8>(GPR)) & addressMask(ip);
  if (!(long && segment < 4)) a += load<u64>(GPR + SLOT_ES + (segment << 3));
  store<u8>(GPR, <u8>ld8(long ? a : <u64>(<u32>a)));
}

// --- flags -------------------------------------------------------------------------------------------------------

export function sahf(ip: u32): void {
  const ah = <u32>load<u8>(GPR + 1);
  setArith((getFlags() & FLAG_OF) | (ah & 0xd5));
}

export function lahf(ip: u32): void {
  store<u8>(GPR + 1, <u8>(getFlags() & 0xd7) | 2);
}

export function cmc(ip: u32): void {
  setCarry(getCarry() ^ 1);
}

export function clc(ip: u32): void {
  setCarry(0);
}

export function stc(ip: u32): void {
  setCarry(1);
}

export function cld(ip: u32): void {
  store<u32>(EFLAGS, load<u32>(EFLAGS) & ~FLAG_DF);
}

export function std(ip: u32): void {
  store<u32>(EFLAGS, load<u32>(EFLAGS) | FLAG_DF);
}

// --- decimal arithmetic (not in 64-bit mode) -----------------------------------------------------------------------

function byteResult(al: u32, extra: u32): void {
  store<u8>(GPR, <u8>al);
  const low = al & 0xff;
  setArith(extra | parity(low) | (low == 0 ? FLAG_ZF : 0) | (low & 0x80 ? FLAG_SF : 0));
}

function adjust(subtract: bool): void {
  const al = <u32>load<u8>(GPR);
  const flags = getFlags();
  let result = al;
  let out: u32 = 0;
  if ((al & 15) > 9 || (flags & FLAG_AF) != 0) {
    result = subtract ? result - 6 : result + 6;
    out |= FLAG_AF;
    if (subtract && al < 6) out |= FLAG_CF;
  }
  if (al > 0x99 || (flags & FLAG_CF) != 0) {
    result = subtract ? result - 0x60 : result + 0x60;
    out |= FLAG_CF;
  }
  byteResult(result, out);
}

export function daa(ip: u32): void {
  adjust(false);
}

export function das(ip: u32): void {
  adjust(true);
}

function asciiAdjust(step: u32): void {
  const flags = getFlags();
  const needed = (load<u8>(GPR) & 15) > 9 || (flags & FLAG_AF) != 0;
  if (needed) store<u16>(GPR, <u16>(load<u16>(GPR) + step));
  setArith((flags & FLAGS_ARITH & ~(FLAG_CF | FLAG_AF)) | (needed ? FLAG_CF | FLAG_AF : 0));
  store<u8>(GPR, load<u8>(GPR) & 15);
}

export function aaa(ip: u32): void {
  asciiAdjust(0x106);
}

export function aas(ip: u32): void {
  asciiAdjust(<u32>-0x106);
}

export function aam(ip: u32): void {
  const radix = <u32>load<u8>(ip, R_IMM);
  if (radix == 0) raise(EXC_DE);
  const al = <u32>load<u8>(GPR);
  store<u8>(GPR + 1, <u8>(al / radix));
  byteResult(al % radix, 0);
}

export function aad(ip: u32): void {
  const al = <u32>load<u8>(GPR) + <u32>load<u8>(GPR + 1) * <u32>load<u8>(ip, R_IMM);
  store<u8>(GPR + 1, 0);
  byteResult(al, 0);
}

export function salc(ip: u32): void {
  store<u8>(GPR, getCarry() != 0 ? 0xff : 0);
}
