/**
 * SYSCALL, SYSRET, SYSENTER and SYSEXIT (SDM vol 2; APM vol 2 6.1).
 *
 * SYSCALL works from compatibility and legacy mode as on AMD processors, SYSENTER in long mode as on Intel ones.
 * SYSRET follows AMD: a non-canonical RCX faults at level 3, when the instruction there is fetched.
 */

import { suppressSingleStep } from "./exception";
import { raise, raiseError } from "./fault";
import { getFlags, setFlags } from "./flags";
import { in64, isCanonical, jumpTo, nextRip } from "./flow";
import {
  CPL,
  EFER,
  EFER_SCE,
  EXC_GP,
  EXC_UD,
  FLAG_IF,
  FLAG_RF,
  FLAG_TF,
  FLAG_VM,
  GPR,
  MSR_CSTAR,
  MSR_LSTAR,
  MSR_SFMASK,
  MSR_STAR,
  MSR_SYSENTER_CS,
  MSR_SYSENTER_EIP,
  MSR_SYSENTER_ESP,
  PREFIX_REXW,
  R_PREFIX,
} from "./layout";
import { enterFlat, FLAT_CODE_32, FLAT_CODE_64, longModeActive, protectedMode } from "./segment";

const RCX = GPR + 8;
const RDX = GPR + 16;
const RSP = GPR + 32;
const R11 = GPR + 88;
/** Flags that SYSRET takes from R11: all defined ones except RF and VM. */
const SYSRET_FLAGS: u32 = 0x3c7fd7;

function wide(ip: u32): bool {
  return (load<u8>(ip + R_PREFIX) & PREFIX_REXW) != 0;
}

export function syscallEnter(ip: u32): void {
  if (!protectedMode() || !(load<u64>(EFER) & EFER_SCE)) raise(EXC_UD);
  const star = load<u64>(MSR_STAR);
  const selector = ((star >> 32) as u32) & 0xfffc;
  const flags = getFlags();
  const from64 = in64();
  store<u64>(RCX, nextRip(ip));
  if (!longModeActive()) {
    setFlags(flags & ~(FLAG_VM | FLAG_IF | FLAG_RF));
    enterFlat(selector, selector + 8, FLAT_CODE_32, 0);
    jumpTo(star & 0xffffffff);
    return;
  }
  store<u64>(R11, (flags & ~FLAG_RF) as u64);
  setFlags(flags & ~(load<u32>(MSR_SFMASK) | FLAG_RF));
  if ((load<u32>(MSR_SFMASK) & FLAG_TF) != 0) suppressSingleStep();
  enterFlat(selector, selector + 8, FLAT_CODE_64, 0);
  jumpTo(load<u64>(from64 ? MSR_LSTAR : MSR_CSTAR));
}

export function syscallReturn(ip: u32): void {
  if (!protectedMode() || !(load<u64>(EFER) & EFER_SCE)) raise(EXC_UD);
  if (load<u32>(CPL) != 0) raiseError(EXC_GP, 0);
  const base = ((load<u64>(MSR_STAR) >> 48) as u32) & 0xffff;
  const to64 = in64() && wide(ip);
  const target = load<u64>(RCX);
  if (in64()) setFlags(load<u32>(R11) & SYSRET_FLAGS);
  else setFlags(getFlags() | FLAG_IF);
  enterFlat((to64 ? base + 16 : base) | 3, (base + 8) | 3, to64 ? FLAT_CODE_64 : FLAT_CODE_32, 3);
  jumpTo(to64 ? target : target & 0xffffffff);
}

export function sysenterEnter(_ip: u32): void {
  const selector = load<u32>(MSR_SYSENTER_CS) & 0xfffc;
  if (!protectedMode() || selector == 0) raiseError(EXC_GP, 0);
  const long = longModeActive();
  const mask: u64 = long ? ~(0 as u64) : 0xffffffff;
  setFlags(getFlags() & ~(FLAG_VM | FLAG_IF | FLAG_RF));
  enterFlat(selector, selector + 8, long ? FLAT_CODE_64 : FLAT_CODE_32, 0);
  store<u64>(RSP, load<u64>(MSR_SYSENTER_ESP) & mask);
  jumpTo(load<u64>(MSR_SYSENTER_EIP) & mask);
}

export function sysenterReturn(ip: u32): void {
  const base = load<u32>(MSR_SYSENTER_CS) & 0xfffc;
  if (!protectedMode() || base == 0 || load<u32>(CPL) != 0) raiseError(EXC_GP, 0);
  const to64 = wide(ip);
  const mask: u64 = to64 ? ~(0 as u64) : 0xffffffff;
  const rip = load<u64>(RDX) & mask;
  const rsp = load<u64>(RCX) & mask;
  if (to64 && (!isCanonical(rip) || !isCanonical(rsp))) raiseError(EXC_GP, 0);
  const selector = to64 ? base + 32 : base + 16;
  enterFlat(selector | 3, (selector + 8) | 3, to64 ? FLAT_CODE_64 : FLAT_CODE_32, 3);
  store<u64>(RSP, rsp);
  jumpTo(rip);
}
