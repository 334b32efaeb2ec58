/** Which flags an instruction may change, and the flags no other file of the core names. */

import { getFlags } from "./flags";
import { CPL, FLAG_DF, FLAG_IF, FLAG_TF, FLAGS_ARITH } from "./layout";

export const FLAG_IOPL: u32 = 0x3000;
export const FLAG_NT: u32 = 0x4000;
export const FLAG_AC: u32 = 0x40000;
export const FLAG_ID: u32 = 0x200000;

/** I/O privilege level of the flags image. */
export function ioplOf(flags: u32): u32 {
  return (flags >> 12) & 3;
}

/**
 * Flags that POPF and IRET may change at the current privilege level, for an operand of 1 << size bytes (SDM vol 2,
 * POPF): IOPL only at level 0, IF only up to IOPL. RF and VM are not among them.
 */
export function writableFlags(size: u32): u32 {
  const cpl = load<u32>(CPL);
  let mask: u32 = FLAGS_ARITH | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID;
  if (cpl == 0) mask |= FLAG_IOPL;
  if (cpl <= ioplOf(getFlags())) mask |= FLAG_IF;
  return size == 1 ? mask & 0xffff : mask;
}
