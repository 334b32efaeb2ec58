/**
 * Pushes and pops of the system instructions.
 *
 * Nothing here moves RSP before the caller says so: values are read and written relative to RSP, and RSP is set once
 * no access can fault any more.
 */
import { raiseError } from "./fault";
import { isCanonical } from "./flow";
import { EXC_SS, GPR, MODE, MODE_64, SEG, SLOT_SS } from "./layout";
import { ld16, ld32, ld64, st16, st32, st64, sysSt16, sysSt32, sysSt64 } from "./mmu";

const RSP = GPR + 32;
/** Attributes of SS; bit 14 chooses 32-bit stack addresses. */
const SS_ATTRIBUTES = SEG + 2 * 16 + 4;

/** Bits of RSP that address the stack now: 64, 32 or 16 of them. */
export function stackMask(): u64 {
  if (load<u32>(MODE) == MODE_64) return ~(0 as u64);
  return load<u32>(SS_ATTRIBUTES) & 0x4000 ? 0xffffffff : 0xffff;
}

/** RSP as far as it addresses the stack. */
export function stackPointer(): u64 {
  return load<u64>(RSP) & stackMask();
}

/** Sets RSP, keeping the upper bits that a 16-bit stack does not use. */
export function setStackPointer(value: u64): void {
  setMaskedPointer(stackMask(), value);
}

/** The same with the mask of a stack segment that was just replaced. */
export function setMaskedPointer(mask: u64, value: u64): void {
  if (mask == 0xffff) store<u64>(RSP, (load<u64>(RSP) & 0xffff0000) | (value & mask));
  else store<u64>(RSP, value & mask);
}

/** Linear address of the stack byte at `offset` bytes from RSP. */
export function stackLinear(offset: i32): u64 {
  const address = (load<u64>(RSP) + (offset as i64 as u64)) & stackMask();
  if (load<u32>(MODE) == MODE_64) {
    if (!isCanonical(address)) raiseError(EXC_SS, 0);
    return address;
  }
  return (address + load<u64>(GPR + SLOT_SS)) & 0xffffffff;
}

/** Reads a value of 1 << size bytes (size 1…3), zero-extended. */
export function loadSized(address: u64, size: u32): u64 {
  if (size == 3) return ld64(address);
  if (size == 2) return ld32(address) as u64;
  return ld16(address) as u64;
}

/** Writes a value of 1 << size bytes (size 1…3). */
export function storeSized(address: u64, size: u32, value: u64): void {
  if (size == 3) st64(address, value);
  else if (size == 2) st32(address, value as u32);
  else st16(address, value as u32);
}

/** Raises #SS where 1 << size bytes at `offset` from RSP would run past the end of the stack's address range. */
function checkLimit(offset: i32, size: u32): void {
  if (load<u32>(MODE) == MODE_64) return;
  const mask = stackMask();
  if (((load<u64>(RSP) + (offset as i64 as u64)) & mask) + ((1 << size) as u64) - 1 > mask) raiseError(EXC_SS, 0);
}

/** Value of 1 << size bytes that lies `offset` bytes above RSP. */
export function peek(offset: i32, size: u32): u64 {
  checkLimit(offset, size);
  return loadSized(stackLinear(offset), size);
}

/** Writes 1 << size bytes that lie `offset` bytes above RSP. */
export function poke(offset: i32, size: u32, value: u64): void {
  checkLimit(offset, size);
  storeSized(stackLinear(offset), size, value);
}

/** Pushes a value of 1 << size bytes and moves RSP. */
export function push(value: u64, size: u32): void {
  const bytes: i32 = 1 << size;
  poke(-bytes, size, value);
  setStackPointer(load<u64>(RSP) - (bytes as u64));
}

// --- frames on a stack that is not in use yet -------------------------------------------------------------------
let frameSp: u64 = 0;
let frameBase: u64 = 0;
let frameMask: u64 = 0;
let frameSize: u32 = 0;
let frameUser: bool = false;

/**
 * Starts a frame of 1 << size byte elements below `sp` of a stack with this base and address mask. `cpl` is the
 * privilege of the stack's owner: inner stacks are written as supervisor though CPL may still be 3.
 */
export function beginFrame(sp: u64, base: u64, mask: u64, size: u32, cpl: u32): void {
  frameSp = sp;
  frameBase = base;
  frameMask = mask;
  frameSize = size;
  frameUser = cpl == 3;
}

/** Writes the next element of the frame. */
export function pushFrame(value: u64): void {
  frameSp = (frameSp - ((1 << frameSize) as u64)) & frameMask;
  let address = frameSp;
  if (!~frameMask && !isCanonical(address)) raiseError(EXC_SS, 0);
  if (~frameMask) address = (address + frameBase) & 0xffffffff;
  if (frameUser) storeSized(address, frameSize, value);
  else if (frameSize == 3) sysSt64(address, value);
  else if (frameSize == 2) sysSt32(address, value as u32);
  else sysSt16(address, value as u32);
}

/** The stack pointer behind the frame, to be set once the stack is in use. */
export function frameTop(): u64 {
  return frameSp;
}
