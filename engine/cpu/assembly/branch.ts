/** Control transfers that are not cases of the interpreter: other modes' calls and returns, and the loop family. */
import { raiseError } from "./fault";
import { getCond, getFlags } from "./flags";
import { finish, isCanonical, jumpTo, nextRip } from "./flow";
import {
  CUR,
  EXC_GP,
  FLAG_ZF,
  GPR,
  MODE,
  MODE_32,
  MODE_64,
  PREFIX_ADDR,
  R_IMM,
  R_MODRM,
  R_PREFIX,
  R_RM,
  R_SIZE,
  RIP_MASK,
} from "./layout";
import { ea } from "./operands";
import { loadSized, peek, push, setStackPointer } from "./stack";

/** Moves RSP up by `bytes`. */
export function release(bytes: u32): void {
  setStackPointer(load<u64>(GPR + 32) + <u64>bytes);
}

/** Cuts a branch target to the operand size. */
function cut(target: u64, size: u32): u64 {
  return size == 1 ? target & 0xffff : target & load<u64>(RIP_MASK);
}

function relativeTarget(ip: u32): u64 {
  return cut(nextRip(ip) + load<u64>(ip, R_IMM), load<u8>(ip, R_SIZE));
}

/** Raises #GP(0) for a 64-bit branch target that is no address. */
function checked(target: u64): u64 {
  if (!isCanonical(target)) raiseError(EXC_GP, 0);
  return target;
}

/** What the interpreter's branches call for a target that is not canonical: faults before anything is committed. */
export function badTarget(ip: u32): void {
  store<u32>(CUR, ip);
  raiseError(EXC_GP, 0);
}

export function jmp(ip: u32): void {
  jumpTo(relativeTarget(ip));
}

export function jcc(ip: u32): void {
  branchIf(ip, getCond(load<u8>(ip, R_MODRM)));
}

export function call(ip: u32): void {
  const target = relativeTarget(ip);
  push(nextRip(ip), load<u8>(ip, R_SIZE));
  jumpTo(target);
}

export function ret(ip: u32): void {
  ret_imm(ip);
}

export function ret_imm(ip: u32): void {
  const size = <u32>load<u8>(ip, R_SIZE);
  const target = checked(cut(peek(0, size), size));
  release((1 << size) + <u32>load<u16>(ip, R_IMM));
  jumpTo(target);
}

/** Target of FF /2 and FF /4. */
function indirectTarget(ip: u32): u64 {
  const size = <u32>load<u8>(ip, R_SIZE);
  const rm = <u32>load<u8>(ip, R_RM);
  return checked(cut(rm == 255 ? loadSized(ea(ip), size) : load<u64>(GPR + (rm << 3)), size));
}

export function call_indirect_near(ip: u32): void {
  const target = indirectTarget(ip);
  push(nextRip(ip), load<u8>(ip, R_SIZE));
  jumpTo(target);
}

export function jmp_indirect_near(ip: u32): void {
  jumpTo(indirectTarget(ip));
}

/** log2 of the count register's bytes: chosen by the address size. */
function counterSize(ip: u32): u32 {
  const other = (load<u8>(ip, R_PREFIX) & PREFIX_ADDR) != 0;
  const mode = load<u32>(MODE);
  if (mode == MODE_64) return other ? 2 : 3;
  return (mode == MODE_32) != other ? 2 : 1;
}

function counter(size: u32): u64 {
  const value = load<u64>(GPR + 8);
  return size == 3 ? value : size == 2 ? value & 0xffffffff : value & 0xffff;
}

/** Decrements the count register. @returns its new value. */
function countDown(size: u32): u64 {
  const value = counter(size) - 1;
  if (size == 3) store<u64>(GPR + 8, value);
  else if (size == 2) store<u64>(GPR + 8, value & 0xffffffff);
  else store<u16>(GPR + 8, <u16>value);
  return counter(size);
}

function branchIf(ip: u32, taken: bool): void {
  if (taken) jumpTo(relativeTarget(ip));
  else finish(ip);
}

export function loop(ip: u32): void {
  branchIf(ip, countDown(counterSize(ip)) != 0);
}

export function loope(ip: u32): void {
  const zero = (getFlags() & FLAG_ZF) != 0;
  branchIf(ip, countDown(counterSize(ip)) != 0 && zero);
}

export function loopne(ip: u32): void {
  const zero = (getFlags() & FLAG_ZF) != 0;
  branchIf(ip, countDown(counterSize(ip)) != 0 && !zero);
}

export function jcxz(ip: u32): void {
  branchIf(ip, counter(counterSize(ip)) == 0);
}
