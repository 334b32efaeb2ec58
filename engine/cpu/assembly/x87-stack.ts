/**
 * The x87 register stack: empty and full registers, stack faults, pending exceptions and how an instruction commits its
 * status (SDM volume 1 sections 8.1 and 8.5 to 8.7).
 */

import { raise } from "./fault";
import {
  clearRaised,
  FSW_B,
  FSW_C1,
  FSW_DE,
  FSW_ES,
  FSW_IE,
  FSW_SF,
  FSW_ZE,
  raised,
  setDefaultNan,
  signal,
} from "./float80";
import {
  CR0,
  CR0_EM,
  CR0_TS,
  EXC_MF,
  EXC_NM,
  FPR,
  FPU_CONTROL,
  FPU_CS,
  FPU_DP,
  FPU_DS,
  FPU_IP,
  FPU_OPCODE,
  FPU_STATUS,
  FPU_TAG,
  GPR,
  MODE,
  MODE_64,
  R_MODRM,
  R_OFFSET,
  R_SEG,
  SEG,
  SLOT_ES,
  SLOT_PAGE,
} from "./layout";

/** The status word. */
export function status(): u32 {
  return load<u16>(FPU_STATUS) as u32;
}

/** Replaces the status word. */
export function setStatus(value: u32): void {
  store<u16>(FPU_STATUS, value as u16);
}

/** The control word. */
export function control(): u32 {
  return load<u16>(FPU_CONTROL) as u32;
}

/** Physical number of ST(0). */
export function top(): u32 {
  return (status() >> 11) & 7;
}

/** Replaces TOP; any multiple of 8 may be added. */
export function setTop(value: u32): void {
  setStatus((status() & ~0x3800) | ((value & 7) << 11));
}

/** Sets ES and B if an unmasked exception is flagged, clears them otherwise. */
export function updateSummary(): void {
  const value = status();
  const pending = (value & ~control() & 0x3f) != 0;
  setStatus(pending ? value | FSW_ES | FSW_B : value & ~(FSW_ES | FSW_B));
}

function physical(i: u32): u32 {
  return (top() + i) & 7;
}

/** True if ST(i) is empty. */
export function isEmpty(i: u32): bool {
  return ((load<u8>(FPU_TAG) >> (physical(i) as u8)) & 1) == 0;
}

/** Sign and exponent word of ST(i). */
export function signExponent(i: u32): u32 {
  return load<u16>(FPR + (physical(i) << 4), 8) as u32;
}

/** Significand of ST(i). */
export function significand(i: u32): u64 {
  return load<u64>(FPR + (physical(i) << 4));
}

/** Writes ST(i) and marks it not empty. */
export function writeStack(i: u32, se: u32, sig: u64): void {
  const register = physical(i);
  store<u64>(FPR + (register << 4), sig);
  store<u16>(FPR + (register << 4), se as u16, 8);
  store<u8>(FPU_TAG, load<u8>(FPU_TAG) | (((1 as u32) << register) as u8));
}

/** Marks ST(i) empty. */
export function free(i: u32): void {
  store<u8>(FPU_TAG, load<u8>(FPU_TAG) & ~(((1 as u32) << physical(i)) as u8));
}

/** Frees ST(0) and moves TOP. */
export function pop(): void {
  free(0);
  setTop(top() + 1);
}

/** Makes room for a new ST(0); the caller writes it. */
export function push(se: u32, sig: u64): void {
  setTop(top() - 1);
  writeStack(0, se, sig);
}

/** #NM if the x87 unit is switched off or belongs to another task. */
export function requireUnit(): void {
  if ((load<u64>(CR0) & (CR0_EM | CR0_TS)) != 0) raise(EXC_NM);
}

/** Entry of every waiting instruction: #NM, then #MF for an exception that an earlier instruction left. */
export function requireWaiting(): void {
  requireUnit();
  if ((status() & FSW_ES) != 0) raise(EXC_MF);
}

/** Notes instruction and opcode of a non-control instruction and clears the exception accumulator. */
export function begin(ip: u32, escape: u32): void {
  store<u64>(FPU_IP, load<u64>(GPR + SLOT_PAGE) + (load<u16>(ip, R_OFFSET) as u64));
  store<u16>(FPU_OPCODE, (((escape & 7) << 8) | (load<u8>(ip, R_MODRM) as u32)) as u16);
  store<u16>(FPU_CS, load<u16>(SEG + 16));
  clearRaised();
}

/** The same for an instruction with the memory operand at linear address `address`. */
export function beginMemory(ip: u32, escape: u32, address: u64): void {
  begin(ip, escape);
  const segment = load<u8>(ip, R_SEG) as u32;
  // The pointer is an offset: only FS and GS have a base in 64-bit mode.
  const based = load<u32>(MODE) != MODE_64 || segment >= 4;
  store<u64>(FPU_DP, based ? address - load<u64>(GPR + SLOT_ES + (segment << 3)) : address);
  store<u16>(FPU_DS, load<u16>(SEG + (segment << 4)));
}

/** An operand register is empty: the masked response is the default NaN. */
export function stackUnderflow(): void {
  signal(FSW_IE | FSW_SF);
  setDefaultNan();
}

/** No room for a push: the masked response is the default NaN, C1 tells overflow. */
export function stackOverflow(): void {
  signal(FSW_IE | FSW_SF | FSW_C1);
  setDefaultNan();
}

/** True if an unmasked IE, DE or ZE forbids the operation that `raised` describes. */
export function aborted(): bool {
  return (raised & ~control() & (FSW_IE | FSW_DE | FSW_ZE)) != 0;
}

/**
 * Commits the exceptions of this instruction to the status word; C1 becomes what `raised` says. Returns false if an
 * unmasked IE, DE or ZE forbids storing any result: then what rounding had found does not count.
 */
export function finish(): bool {
  let bits = raised;
  const stop = aborted();
  if (stop) bits &= FSW_IE | FSW_DE | FSW_ZE | FSW_SF | ((bits & FSW_SF) != 0 ? FSW_C1 : 0);
  let value = (status() & ~FSW_C1) | bits;
  if ((value & ~control() & 0x3f) != 0) value |= FSW_ES | FSW_B;
  setStatus(value);
  return !stop;
}

/** Sets C0, C2 and C3 to `bits` and leaves everything else. */
export function setConditions(bits: u32): void {
  setStatus((status() & ~0x4500) | bits);
}
