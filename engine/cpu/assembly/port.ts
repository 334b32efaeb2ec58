/**
 * IN, OUT, INS and OUTS (SDM vol 1 ch. 19): every access leaves exec() with EXIT_PORT, strings one element at a time.
 *
 * EXIT_A is the port, EXIT_C the value of an OUT or the linear address an INS will write. EXIT_B: bits 0-3 bytes,
 * 16 out, 32 string, 64 repeated, bits 8-15 instruction length, bits 16-23 address size in bytes (strings).
 */

import { completeInstruction } from "./cpuid";
import { ioplOf } from "./eflags";
import { raiseError } from "./fault";
import { finish, in64, stayAt } from "./flow";
import {
  CPL,
  EFLAGS,
  EXC_GP,
  EXIT,
  EXIT_A,
  EXIT_B,
  EXIT_C,
  EXIT_NONE,
  EXIT_PORT,
  FLAG_DF,
  GPR,
  MODE,
  MODE_32,
  PREFIX_ADDR,
  PREFIX_REP,
  PREFIX_REPNE,
  PREFIX_SEG,
  R_IMM,
  R_LENGTH,
  R_PREFIX,
  R_SEG,
  R_SIZE,
  SEG_BASE_TR,
  SLOT_ES,
} from "./layout";
import { checkWrite, ld8, ld16, ld32, st8, st16, st32, sysLd16 } from "./mmu";
import { ATTRIBUTE_PRESENT, attributesOf, DS, ES, limitOf, protectedMode, TR } from "./segment";

const RAX = GPR;
const RCX = GPR + 8;
const RDX = GPR + 16;
const RSI = GPR + 48;
const RDI = GPR + 56;

const OUT: u32 = 16;
const STRING: u32 = 32;
const REPEATED: u32 = 64;

/** #GP(0) unless IOPL or the TSS' permission bitmap allows the access. */
function checkPermission(port: u32, bytes: u32): void {
  if (!protectedMode() || load<u32>(CPL) <= ioplOf(load<u32>(EFLAGS))) return;
  const attributes = attributesOf(TR);
  const limit = limitOf(TR);
  // 16-bit TSSs have no bitmap; type 9 and 11 are the 32-bit and 64-bit ones
  if ((attributes & 0x1d) != 9 || !(attributes & ATTRIBUTE_PRESENT) || limit < 103) raiseError(EXC_GP, 0);
  const base = load<u64>(SEG_BASE_TR);
  const at = sysLd16(base + 102) + (port >> 3);
  if (at + 1 > limit) raiseError(EXC_GP, 0);
  const mask: u32 = (1 << bytes) - 1;
  if ((sysLd16(base + (at as u64)) >> (port & 7)) & mask) raiseError(EXC_GP, 0);
}

/** Bytes of a port access with the operand size: 64-bit operands do not exist. */
function portBytes(ip: u32): u32 {
  return load<u8>(ip + R_SIZE) == 1 ? 2 : 4;
}

function exitPort(ip: u32, port: u32, detail: u32, value: u64): void {
  stayAt(ip);
  store<u32>(EXIT_A, port);
  store<u32>(EXIT_B, detail | ((load<u8>(ip + R_LENGTH) as u32) << 8));
  store<u64>(EXIT_C, value);
  store<u32>(EXIT, EXIT_PORT);
}

// --- IN and OUT -------------------------------------------------------------------------------------------------

function portIn(ip: u32, port: u32, bytes: u32): void {
  checkPermission(port, bytes);
  exitPort(ip, port, bytes, 0);
}

function portOut(ip: u32, port: u32, bytes: u32): void {
  checkPermission(port, bytes);
  const mask: u32 = bytes == 4 ? 0xffffffff : (1 << (bytes << 3)) - 1;
  exitPort(ip, port, bytes | OUT, (load<u32>(RAX) & mask) as u64);
}

function immediatePort(ip: u32): u32 {
  return load<u8>(ip + R_IMM) as u32;
}

function registerPort(): u32 {
  return load<u16>(RDX) as u32;
}

export function inByteImmediate(ip: u32): void {
  portIn(ip, immediatePort(ip), 1);
}

export function inImmediate(ip: u32): void {
  portIn(ip, immediatePort(ip), portBytes(ip));
}

export function inByte(ip: u32): void {
  portIn(ip, registerPort(), 1);
}

export function inWide(ip: u32): void {
  portIn(ip, registerPort(), portBytes(ip));
}

export function outByteImmediate(ip: u32): void {
  portOut(ip, immediatePort(ip), 1);
}

export function outImmediate(ip: u32): void {
  portOut(ip, immediatePort(ip), portBytes(ip));
}

export function outByte(ip: u32): void {
  portOut(ip, registerPort(), 1);
}

export function outWide(ip: u32): void {
  portOut(ip, registerPort(), portBytes(ip));
}

// --- INS and OUTS -----------------------------------------------------------------------------------------------

/** Address size of the instruction in bytes. */
function addressBytes(ip: u32): u32 {
  const other = (load<u8>(ip + R_PREFIX) & PREFIX_ADDR) != 0;
  if (in64()) return other ? 4 : 8;
  return (load<u32>(MODE) == MODE_32) != other ? 4 : 2;
}

function maskOf(bytes: u32): u64 {
  if (bytes == 8) return ~(0 as u64);
  return bytes == 4 ? 0xffffffff : 0xffff;
}

function isRepeated(ip: u32): bool {
  return (load<u8>(ip + R_PREFIX) & (PREFIX_REP | PREFIX_REPNE)) != 0;
}

/** Linear address of the element at an index register. */
function elementAddress(segment: u32, index: u32, mask: u64): u64 {
  const address = load<u64>(GPR + SLOT_ES + (segment << 3)) + (load<u64>(index) & mask);
  return in64() ? address : address & 0xffffffff;
}

/** Flags of EXIT_B for a string instruction. */
function stringDetail(ip: u32, bytes: u32, width: u32): u32 {
  return bytes | STRING | (isRepeated(ip) ? REPEATED : 0) | (width << 16);
}

/** Whether a repeated instruction has nothing (more) to do; it is finished then. */
function finishedEmpty(ip: u32, mask: u64): bool {
  if (!isRepeated(ip) || load<u64>(RCX) & mask) return false;
  finish(ip);
  return true;
}

function stringIn(ip: u32, bytes: u32): void {
  const width = addressBytes(ip);
  const mask = maskOf(width);
  if (finishedEmpty(ip, mask)) return;
  checkPermission(registerPort(), bytes);
  const address = elementAddress(ES, RDI, mask);
  checkWrite(address, bytes);
  exitPort(ip, registerPort(), stringDetail(ip, bytes, width), address);
}

function stringOut(ip: u32, bytes: u32): void {
  const width = addressBytes(ip);
  const mask = maskOf(width);
  if (finishedEmpty(ip, mask)) return;
  checkPermission(registerPort(), bytes);
  const segment: u32 = load<u8>(ip + R_PREFIX) & PREFIX_SEG ? (load<u8>(ip + R_SEG) as u32) : DS;
  const address = elementAddress(segment, RSI, mask);
  const value = bytes == 1 ? ld8(address) : bytes == 2 ? ld16(address) : ld32(address);
  exitPort(ip, registerPort(), stringDetail(ip, bytes, width) | OUT, value as u64);
}

export function inString(ip: u32): void {
  stringIn(ip, portBytes(ip));
}

export function inStringByte(ip: u32): void {
  stringIn(ip, 1);
}

export function outString(ip: u32): void {
  stringOut(ip, portBytes(ip));
}

export function outStringByte(ip: u32): void {
  stringOut(ip, 1);
}

// --- completion -------------------------------------------------------------------------------------------------

/** Adds to an index or count register within its address size; 32-bit results zero-extend. */
function advance(register: u32, step: i64, width: u32): void {
  const value = load<u64>(register) + (step as u64);
  if (width == 2) store<u16>(register, value as u16);
  else store<u64>(register, value & maskOf(width));
}

function completeString(bytes: u32, detail: u32, value: u32): void {
  const width = (detail >> 16) & 0xff;
  if (!(detail & OUT)) {
    const address = load<u64>(EXIT_C);
    if (bytes == 1) st8(address, value);
    else if (bytes == 2) st16(address, value);
    else st32(address, value);
  }
  const step: i64 = load<u32>(EFLAGS) & FLAG_DF ? -(bytes as i64) : (bytes as i64);
  advance(detail & OUT ? RSI : RDI, step, width);
  if (detail & REPEATED) {
    advance(RCX, -1, width);
    if (load<u64>(RCX) & maskOf(width)) {
      // RIP stays at the instruction, which runs again for the next element
      store<u32>(EXIT, EXIT_NONE);
      return;
    }
  }
  completeInstruction();
}

/** Finishes an EXIT_PORT: `value` is what an IN read (ignored for OUT). */
export function completePort(value: u32): void {
  const detail = load<u32>(EXIT_B);
  const bytes = detail & 15;
  if (detail & STRING) {
    completeString(bytes, detail, value);
    return;
  }
  if (!(detail & OUT)) {
    if (bytes == 1) store<u8>(RAX, value as u8);
    else if (bytes == 2) store<u16>(RAX, value as u16);
    else store<u64>(RAX, value as u64);
  }
  completeInstruction();
}
