/**
 * Control word, environment and whole-state instructions: FNINIT, FLDCW, FNSTENV/FLDENV, FNSAVE/FRSTOR (SDM volume 1
 * section 8.1.10) and FXSAVE/FXRSTOR (SDM volume 1 section 10.5, APM volume 2 section 11.4.4).
 */

import { raiseError } from "./fault";
import { CLASS_NORMAL, CLASS_ZERO, classOf, FSW_ES } from "./float80";
import {
  CR0,
  CR0_PE,
  EFLAGS,
  EXC_GP,
  FLAG_VM,
  FPR,
  FPU_CONTROL,
  FPU_CS,
  FPU_DP,
  FPU_DS,
  FPU_IP,
  FPU_OPCODE,
  FPU_TAG,
  MODE,
  MODE_64,
  MXCSR,
  PREFIX_REXW,
  R_PREFIX,
  R_SIZE,
  XMM,
} from "./layout";
import { checkWrite, ld8, ld16, ld32, ld64, ld128, st16, st32, st64, st128 } from "./mmu";
import { ea } from "./operands";
import { control, requireUnit, setStatus, signExponent, significand, status, top, updateSummary } from "./x87-stack";

const CONTROL_MASK: u32 = 0x1f3f;
const CONTROL_FIXED: u32 = 0x40; // reads as one on every processor
const MXCSR_MASK: u32 = 0xffff;
const EMPTY: u32 = 3;

/** FNINIT. The registers keep their bits, but all are empty. */
export function fpuInit(): void {
  store<u16>(FPU_CONTROL, 0x37f);
  setStatus(0);
  store<u8>(FPU_TAG, 0);
  store<u16>(FPU_OPCODE, 0);
  store<u64>(FPU_IP, 0);
  store<u64>(FPU_DP, 0);
  store<u16>(FPU_CS, 0);
  store<u16>(FPU_DS, 0);
}

function setControl(value: u32): void {
  store<u16>(FPU_CONTROL, ((value & CONTROL_MASK) | CONTROL_FIXED) as u16);
}

/** FLDCW: unmasking an exception that is flagged makes it pending. */
export function loadControl(value: u32): void {
  setControl(value);
  updateSummary();
}

/** The two-bit tags of FNSTENV: 0 valid, 1 zero, 2 special, 3 empty, for the physical registers. */
function fullTags(): u32 {
  const present = load<u8>(FPU_TAG) as u32;
  let tags: u32 = 0;
  for (let register: u32 = 0; register < 8; register++) {
    let tag = EMPTY;
    if (((present >> register) & 1) != 0) {
      const address = FPR + (register << 4);
      const kind = classOf(load<u16>(address, 8) as u32, load<u64>(address));
      tag = kind == CLASS_ZERO ? 1 : kind == CLASS_NORMAL ? 0 : 2;
    }
    tags |= tag << (register << 1);
  }
  return tags;
}

function setFullTags(tags: u32): void {
  let present: u32 = 0;
  for (let register: u32 = 0; register < 8; register++) {
    if (((tags >> (register << 1)) & 3) != EMPTY) present |= 1 << register;
  }
  store<u8>(FPU_TAG, present as u8);
}

/** Real and virtual-8086 mode keep 20-bit (32-bit) linear pointers and the opcode where protected mode has selectors. */
function isRealFormat(): bool {
  return (load<u64>(CR0) & CR0_PE) == 0 || (load<u32>(EFLAGS) & FLAG_VM) != 0;
}

function is16Bit(ip: u32): bool {
  return load<u8>(ip, R_SIZE) == 1;
}

function environmentSize(ip: u32): u32 {
  return is16Bit(ip) ? 14 : 28;
}

/** Writes the 14 or 28 bytes of environment; the caller has checked that they can be written. */
function writeEnvironment(ip: u32, address: u64): void {
  const instruction = load<u64>(FPU_IP) as u32;
  const data = load<u64>(FPU_DP) as u32;
  const opcode = (load<u16>(FPU_OPCODE) as u32) & 0x7ff;
  const real = isRealFormat();
  if (is16Bit(ip)) {
    st16(address, control());
    st16(address + 2, status());
    st16(address + 4, fullTags());
    st16(address + 6, instruction & 0xffff);
    st16(address + 8, real ? ((instruction >> 4) & 0xf000) | opcode : (load<u16>(FPU_CS) as u32));
    st16(address + 10, data & 0xffff);
    st16(address + 12, real ? (data >> 4) & 0xf000 : (load<u16>(FPU_DS) as u32));
    return;
  }
  st32(address, control() | 0xffff0000);
  st32(address + 4, status() | 0xffff0000);
  st32(address + 8, fullTags() | 0xffff0000);
  if (real) {
    st32(address + 12, (instruction & 0xffff) | 0xffff0000);
    st32(address + 16, ((instruction >> 16) << 12) | opcode);
    st32(address + 20, (data & 0xffff) | 0xffff0000);
    st32(address + 24, (data >> 16) << 12);
  } else {
    st32(address + 12, instruction);
    st32(address + 16, (load<u16>(FPU_CS) as u32) | (opcode << 16));
    st32(address + 20, data);
    st32(address + 24, (load<u16>(FPU_DS) as u32) | 0xffff0000);
  }
}

/** FNSTENV: afterwards all exceptions are masked. */
export function storeEnvironment(ip: u32, address: u64): void {
  checkWrite(address, environmentSize(ip));
  writeEnvironment(ip, address);
  setControl(control() | 0x3f);
  updateSummary();
}

/** FLDENV. */
export function loadEnvironment(ip: u32, address: u64): void {
  const real = isRealFormat();
  let instruction: u32;
  let data: u32;
  let selector: u32;
  let dataSelector: u32;
  let opcode: u32;
  const step: u64 = is16Bit(ip) ? 2 : 4;
  const newControl = ld16(address);
  const newStatus = ld16(address + step);
  const tags = ld16(address + step * 2);
  instruction = ld16(address + step * 3);
  selector = ld16(address + step * 4);
  data = ld16(address + step * 5);
  dataSelector = ld16(address + step * 6);
  opcode = load<u16>(FPU_OPCODE) as u32;
  if (!is16Bit(ip)) {
    const high = ld32(address + 16);
    const dataHigh = ld32(address + 24);
    if (real) {
      opcode = high & 0x7ff;
      instruction |= ((high >> 12) & 0xffff) << 16;
      data |= ((dataHigh >> 12) & 0xffff) << 16;
    } else {
      instruction = ld32(address + 12);
      data = ld32(address + 20);
      opcode = (high >> 16) & 0x7ff;
    }
  } else if (real) {
    opcode = selector & 0x7ff;
    instruction |= (selector & 0xf000) << 4;
    data |= (dataSelector & 0xf000) << 4;
  }
  setControl(newControl);
  setStatus(newStatus);
  setFullTags(tags);
  store<u16>(FPU_OPCODE, opcode as u16);
  store<u64>(FPU_IP, instruction as u64);
  store<u64>(FPU_DP, data as u64);
  store<u16>(FPU_CS, real ? 0 : (selector as u16));
  store<u16>(FPU_DS, real ? 0 : (dataSelector as u16));
  updateSummary();
}

/** FNSAVE: environment and the eight registers from ST(0) on, then FNINIT. */
export function saveState(ip: u32, address: u64): void {
  const size = environmentSize(ip);
  checkWrite(address, size + 80);
  writeEnvironment(ip, address);
  for (let i: u32 = 0; i < 8; i++) {
    const target = address + ((size + i * 10) as u64);
    st64(target, significand(i));
    st16(target + 8, signExponent(i));
  }
  fpuInit();
}

/** FRSTOR. */
export function restoreState(ip: u32, address: u64): void {
  const registers = address + (environmentSize(ip) as u64);
  // A first pass over the registers makes every fault come before anything changes.
  for (let offset: u64 = 0; offset < 80; offset += 8) ld64(registers + offset);
  loadEnvironment(ip, address);
  for (let i: u32 = 0; i < 8; i++) {
    const source = registers + ((i * 10) as u64);
    writeBits((top() + i) & 7, ld16(source + 8), ld64(source));
  }
}

/** Writes a physical register without touching its tag. */
function writeBits(register: u32, se: u32, sig: u64): void {
  store<u64>(FPR + (register << 4), sig);
  store<u16>(FPR + (register << 4), se as u16, 8);
}

function alignedAddress(ip: u32): u64 {
  requireUnit();
  const address = ea(ip);
  if ((address & 15) != 0) raiseError(EXC_GP, 0);
  return address;
}

function vectorCount(): u32 {
  return load<u32>(MODE) == MODE_64 ? 16 : 8;
}

/** FXSAVE. The exception pointers are written only while an exception is pending, as AMD's processors do. */
export function fxsave(ip: u32): void {
  const address = alignedAddress(ip);
  checkWrite(address, 512);
  const pending = (status() & FSW_ES) != 0;
  const wide = (load<u8>(ip, R_PREFIX) & PREFIX_REXW) != 0;
  st16(address, control());
  st16(address + 2, status());
  st16(address + 4, load<u8>(FPU_TAG) as u32);
  st16(address + 6, pending ? (load<u16>(FPU_OPCODE) as u32) : 0);
  const instruction = pending ? load<u64>(FPU_IP) : 0;
  const data = pending ? load<u64>(FPU_DP) : 0;
  if (wide) {
    st64(address + 8, instruction);
    st64(address + 16, data);
  } else {
    st64(address + 8, (instruction & 0xffffffff) | (pending ? (load<u16>(FPU_CS) as u64) << 32 : 0));
    st64(address + 16, (data & 0xffffffff) | (pending ? (load<u16>(FPU_DS) as u64) << 32 : 0));
  }
  st32(address + 24, load<u32>(MXCSR));
  st32(address + 28, MXCSR_MASK);
  for (let i: u32 = 0; i < 8; i++) {
    const target = address + 32 + ((i << 4) as u64);
    st64(target, significand(i));
    st64(target + 8, signExponent(i) as u64);
  }
  const count = vectorCount();
  for (let i: u32 = 0; i < count; i++) st128(address + 160 + ((i << 4) as u64), v128.load(XMM + (i << 4)));
}

/** FXRSTOR. #GP(0) if a reserved MXCSR bit is set. ES is computed anew; the pointers are loaded in any case. */
export function fxrstor(ip: u32): void {
  const address = alignedAddress(ip);
  const mxcsr = ld32(address + 24);
  ld8(address + 511); // the area may cross a page: fault before anything changes
  if ((mxcsr & ~MXCSR_MASK) != 0) raiseError(EXC_GP, 0);
  const wide = (load<u8>(ip, R_PREFIX) & PREFIX_REXW) != 0;
  setControl(ld16(address));
  setStatus(ld16(address + 2));
  store<u8>(FPU_TAG, ld8(address + 4) as u8);
  updateSummary();
  store<u16>(FPU_OPCODE, (ld16(address + 6) & 0x7ff) as u16);
  store<u64>(FPU_IP, wide ? ld64(address + 8) : (ld32(address + 8) as u64));
  store<u64>(FPU_DP, wide ? ld64(address + 16) : (ld32(address + 16) as u64));
  store<u16>(FPU_CS, wide ? 0 : (ld16(address + 12) as u16));
  store<u16>(FPU_DS, wide ? 0 : (ld16(address + 20) as u16));
  store<u32>(MXCSR, mxcsr);
  for (let i: u32 = 0; i < 8; i++) {
    const source = address + 32 + ((i << 4) as u64);
    writeBits((top() + i) & 7, ld16(source + 8), ld64(source));
  }
  const count = vectorCount();
  for (let i: u32 = 0; i < count; i++) v128.store(XMM + (i << 4), ld128(address + 160 + ((i << 4) as u64)));
}
