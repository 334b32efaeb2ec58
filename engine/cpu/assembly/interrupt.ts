/** Software interrupts, the interrupt flag, PUSHF and POPF (SDM vol 2). */

import { ioplOf, writableFlags } from "./eflags";
import { DELIVER_INT1, DELIVER_SOFTWARE, deliver } from "./exception";
import { raiseError } from "./fault";
import { getFlags, setFlags } from "./flags";
import { finish, nextRip, stayAt } from "./flow";
import {
  CPL,
  EFLAGS,
  EXC_BP,
  EXC_DB,
  EXC_GP,
  EXC_OF,
  FLAG_IF,
  FLAG_OF,
  FLAG_RF,
  FLAG_VM,
  R_IMM,
  R_SIZE,
  SHADOW,
} from "./layout";
import { peek, push, setStackPointer, stackPointer } from "./stack";

function software(ip: u32, vector: u32, kind: u32): void {
  const next = nextRip(ip);
  stayAt(ip);
  deliver(vector, false, 0, kind, next);
}

/** INT n. */
export function interruptNumber(ip: u32): void {
  software(ip, load<u8>(ip + R_IMM) as u32, DELIVER_SOFTWARE);
}

/** INT3. */
export function interruptBreakpoint(ip: u32): void {
  software(ip, EXC_BP, DELIVER_SOFTWARE);
}

/** INTO. */
export function interruptOverflow(ip: u32): void {
  if (getFlags() & FLAG_OF) software(ip, EXC_OF, DELIVER_SOFTWARE);
  else finish(ip);
}

/** INT1 (ICEBP). */
export function interruptDebug(ip: u32): void {
  software(ip, EXC_DB, DELIVER_INT1);
}

/** #GP(0) unless the I/O privilege level lets the program touch the interrupt flag. */
function requireIopl(): void {
  if (load<u32>(CPL) > ioplOf(load<u32>(EFLAGS))) raiseError(EXC_GP, 0);
}

export function clearInterrupts(_ip: u32): void {
  requireIopl();
  store<u32>(EFLAGS, load<u32>(EFLAGS) & ~FLAG_IF);
}

/** STI: interrupts wait for one more instruction if they were masked. */
export function setInterrupts(ip: u32): void {
  requireIopl();
  const flags = load<u32>(EFLAGS);
  finish(ip);
  if (flags & FLAG_IF) return;
  store<u32>(EFLAGS, flags | FLAG_IF);
  store<u32>(SHADOW, 1);
}

export function pushFlags(ip: u32): void {
  push((getFlags() & ~(FLAG_RF | FLAG_VM)) as u64, load<u8>(ip + R_SIZE) as u32);
}

export function popFlags(ip: u32): void {
  const size = load<u8>(ip + R_SIZE) as u32;
  const image = peek(0, size) as u32;
  const mask = writableFlags(size);
  setFlags((getFlags() & ~(mask | FLAG_RF)) | (image & mask));
  setStackPointer(stackPointer() + ((1 << size) as u64));
  finish(ip);
}
