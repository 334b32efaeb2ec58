/**
 * The task state segment as far as stacks need it: RSP0…2 and IST of the 64-bit form, ESPn/SSn of the 32-bit and 16-bit
 * forms (SDM vol 3 7.2 and 7.7). There is no hardware task switching.
 */

import { raiseError } from "./fault";
import { EXC_TS, SEG_BASE_TR } from "./layout";
import { sysLd16, sysLd32, sysLd64 } from "./mmu";
import {
  attributesOf,
  checkStackSegment,
  descriptorAttributes,
  descriptorBase,
  limitOf,
  selectorOf,
  TR,
} from "./segment";

let innerSelector: u32 = 0;
let innerDescriptor: u64 = 0;

function checkLimit(last: u32, ext: u32): void {
  if (last > limitOf(TR)) raiseError(EXC_TS, (selectorOf(TR) & 0xfffc) | ext);
}

/** RSP of the 64-bit TSS for privilege `cpl`. */
export function longInnerStack(cpl: u32, ext: u32): u64 {
  const offset = 4 + (cpl << 3);
  checkLimit(offset + 7, ext);
  return sysLd64(load<u64>(SEG_BASE_TR) + (offset as u64));
}

/** Stack pointer n (1…7) of the interrupt stack table. */
export function interruptStack(n: u32, ext: u32): u64 {
  const offset = 28 + (n << 3);
  checkLimit(offset + 7, ext);
  return sysLd64(load<u64>(SEG_BASE_TR) + (offset as u64));
}

/** Stack pointer of a 32-bit or 16-bit TSS for privilege `cpl`; its checked segment is kept for the getters below. */
export function legacyInnerStack(cpl: u32, ext: u32): u64 {
  const base = load<u64>(SEG_BASE_TR);
  let sp: u64 = 0;
  if (attributesOf(TR) & 8) {
    const offset = 4 + (cpl << 3);
    checkLimit(offset + 5, ext);
    sp = sysLd32(base + (offset as u64)) as u64;
    innerSelector = sysLd16(base + (offset as u64) + 4);
  } else {
    const offset = 2 + (cpl << 2);
    checkLimit(offset + 3, ext);
    sp = sysLd16(base + (offset as u64)) as u64;
    innerSelector = sysLd16(base + (offset as u64) + 2);
  }
  innerDescriptor = checkStackSegment(innerSelector, cpl, EXC_TS, ext);
  return sp;
}

/** Selector, descriptor, base and address mask of the stack that legacyInnerStack found last. */
export function innerStackSelector(): u32 {
  return innerSelector;
}

export function innerStackDescriptor(): u64 {
  return innerDescriptor;
}

export function innerStackBase(): u64 {
  return descriptorBase(innerDescriptor);
}

export function innerStackMask(): u64 {
  return descriptorAttributes(innerDescriptor) & 0x4000 ? 0xffffffff : 0xffff;
}
