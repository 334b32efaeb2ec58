/**
 * Far jumps, calls and returns and IRET (SDM vol 2 JMP, CALL, RET, IRET; vol 3 5.8).
 *
 * Jumps and calls to a TSS or a task gate raise #GP: there is no hardware task switching. IRET to virtual-8086 mode
 * raises #GP, too: that mode does not exist here.
 */

import { FLAG_NT, writableFlags } from "./eflags";
import { raiseError } from "./fault";
import { getFlags, setFlags } from "./flags";
import { in64, isCanonical, jumpTo, nextRip } from "./flow";
import { CPL, EXC_GP, EXC_NP, FLAG_RF, FLAG_VM, GPR, R_IMM, R_SIZE, SLOT_SS } from "./layout";
import { ld16 } from "./mmu";
import { ea } from "./operands";
import {
  ATTRIBUTE_ACCESSED,
  ATTRIBUTE_CODE,
  ATTRIBUTE_CONFORMING,
  ATTRIBUTE_DEFAULT,
  ATTRIBUTE_LONG,
  ATTRIBUTE_PRESENT,
  ATTRIBUTE_S,
  CS,
  checkStackSegment,
  descriptorAttributes,
  descriptorLimit,
  dplOf,
  dropPrivilegedSegments,
  enterCode,
  isNull,
  longModeActive,
  markDescriptor,
  protectedMode,
  readDescriptor,
  readDescriptorHigh,
  SS,
  selectorOf,
  setFromDescriptor,
  setRealSegment,
  setSegment,
} from "./segment";
import { beginFrame, frameTop, loadSized, peek, pushFrame, setStackPointer, stackLinear, stackMask } from "./stack";
import {
  innerStackBase,
  innerStackDescriptor,
  innerStackMask,
  innerStackSelector,
  legacyInnerStack,
  longInnerStack,
} from "./tss";

const RSP = GPR + 32;
const CODE: u32 = ATTRIBUTE_S | ATTRIBUTE_CODE;
const GATE_LONG_OR_32: u32 = 0xc;
const GATE_16: u32 = 4;

function isLong(descriptor: u64): bool {
  return longModeActive() && (descriptorAttributes(descriptor) & ATTRIBUTE_LONG) != 0;
}

/** Checks what all code segment loads have in common: presence, L and D not both set. */
function checkPresent(selector: u32, attributes: u32): void {
  const error = selector & 0xfffc;
  const both = ATTRIBUTE_LONG | ATTRIBUTE_DEFAULT;
  if (longModeActive() && (attributes & both) == both) raiseError(EXC_GP, error);
  if (!(attributes & ATTRIBUTE_PRESENT)) raiseError(EXC_NP, error);
}

/** The offset a far transfer continues at; outside of the segment (or not canonical) is #GP(0). */
function checkedOffset(descriptor: u64, offset: u64): u64 {
  if (isLong(descriptor)) {
    if (!isCanonical(offset)) raiseError(EXC_GP, 0);
    return offset;
  }
  const short = offset & 0xffffffff;
  if (short > (descriptorLimit(descriptor) as u64)) raiseError(EXC_GP, 0);
  return short;
}

/** Checks a code segment as the direct target of a far jump or call. */
function checkDirect(selector: u32, attributes: u32): void {
  const cpl = load<u32>(CPL);
  const dpl = dplOf(attributes);
  const allowed = attributes & ATTRIBUTE_CONFORMING ? dpl <= cpl : dpl == cpl && (selector & 3) <= cpl;
  if ((attributes & CODE) != CODE || !allowed) raiseError(EXC_GP, selector & 0xfffc);
  checkPresent(selector, attributes);
}

// --- call gates -------------------------------------------------------------------------------------------------
let gateSelector: u32 = 0;
let gateOffset: u64 = 0;
let gateSize: u32 = 0;
let gateParameters: u32 = 0;

/** Reads the call gate that `selector` names; anything else that is not a code segment is #GP. */
function readGate(selector: u32, gate: u64): void {
  const access = descriptorAttributes(gate);
  const type = access & 0x1f;
  const error = selector & 0xfffc;
  const long = longModeActive();
  if (type != GATE_LONG_OR_32 && (type != GATE_16 || long)) raiseError(EXC_GP, error);
  const dpl = dplOf(access);
  if (dpl < load<u32>(CPL) || dpl < (selector & 3)) raiseError(EXC_GP, error);
  if (!(access & ATTRIBUTE_PRESENT)) raiseError(EXC_NP, error);
  gateSelector = ((gate >> 16) as u32) & 0xffff;
  gateOffset = gate & 0xffff;
  if (type == GATE_LONG_OR_32) gateOffset |= (gate >> 32) & 0xffff0000;
  gateSize = type == GATE_16 ? 1 : 2;
  gateParameters = ((gate >> 32) as u32) & 31;
  if (!long) return;
  const high = readDescriptorHigh(selector, EXC_GP);
  if ((high >> 40) & 0x1f) raiseError(EXC_GP, error);
  gateOffset |= high << 32;
  gateSize = 3;
  gateParameters = 0;
}

/** The code segment behind the gate that readGate read. */
function gateTarget(): u64 {
  if (isNull(gateSelector)) raiseError(EXC_GP, 0);
  const descriptor = readDescriptor(gateSelector, EXC_GP, 0);
  const attributes = descriptorAttributes(descriptor);
  const error = gateSelector & 0xfffc;
  if ((attributes & CODE) != CODE || dplOf(attributes) > load<u32>(CPL)) raiseError(EXC_GP, error);
  if (longModeActive() && !(attributes & ATTRIBUTE_LONG)) raiseError(EXC_GP, error);
  checkPresent(gateSelector, attributes);
  return descriptor;
}

// --- jumps and calls --------------------------------------------------------------------------------------------

function jumpFar(selector: u32, offset: u64): void {
  if (!protectedMode()) {
    setRealSegment(CS, selector);
    jumpTo(offset);
    return;
  }
  if (isNull(selector)) raiseError(EXC_GP, 0);
  let descriptor = readDescriptor(selector, EXC_GP, 0);
  let target = selector;
  if (descriptorAttributes(descriptor) & ATTRIBUTE_S) {
    checkDirect(selector, descriptorAttributes(descriptor));
  } else {
    readGate(selector, descriptor);
    descriptor = gateTarget();
    target = gateSelector;
    offset = gateOffset;
    const attributes = descriptorAttributes(descriptor);
    if (!(attributes & ATTRIBUTE_CONFORMING) && dplOf(attributes) != load<u32>(CPL)) {
      raiseError(EXC_GP, target & 0xfffc);
    }
  }
  const rip = checkedOffset(descriptor, offset);
  markDescriptor(target, descriptor, ATTRIBUTE_ACCESSED);
  enterCode(target, descriptor, load<u32>(CPL));
  jumpTo(rip);
}

/** Pushes the return address on the current stack; RSP moves only with the caller's setStackPointer(frameTop()). */
function frameReturn(size: u32, returnRip: u64): void {
  beginFrame(load<u64>(RSP), load<u64>(GPR + SLOT_SS), stackMask(), size, load<u32>(CPL));
  pushFrame(selectorOf(CS) as u64);
  pushFrame(returnRip);
}

/** A call through a gate to an inner level: the stack comes from the TSS, parameters are copied (not in long mode). */
function callInner(descriptor: u64, rip: u64, returnRip: u64): void {
  const cpl = dplOf(descriptorAttributes(descriptor));
  const long = longModeActive();
  if (long) {
    const sp = longInnerStack(cpl, 0);
    if (!isCanonical(sp)) raiseError(EXC_GP, 0);
    beginFrame(sp, 0, ~(0 as u64), gateSize, cpl);
  } else {
    const sp = legacyInnerStack(cpl, 0);
    markDescriptor(innerStackSelector(), innerStackDescriptor(), ATTRIBUTE_ACCESSED);
    beginFrame(sp, innerStackBase(), innerStackMask(), gateSize, cpl);
  }
  pushFrame(selectorOf(SS) as u64);
  pushFrame(load<u64>(RSP));
  for (let n = gateParameters; n > 0; n--) pushFrame(peek((n - 1) << gateSize, gateSize));
  pushFrame(selectorOf(CS) as u64);
  pushFrame(returnRip);
  markDescriptor(gateSelector, descriptor, ATTRIBUTE_ACCESSED);
  enterCode(gateSelector, descriptor, cpl);
  if (long) setSegment(SS, cpl, cpl << 5, 0, 0);
  else setFromDescriptor(SS, innerStackSelector(), innerStackDescriptor());
  setStackPointer(frameTop());
  jumpTo(rip);
}

function callFar(selector: u32, offset: u64, size: u32, returnRip: u64): void {
  if (!protectedMode()) {
    frameReturn(size, returnRip);
    setStackPointer(frameTop());
    setRealSegment(CS, selector);
    jumpTo(offset);
    return;
  }
  if (isNull(selector)) raiseError(EXC_GP, 0);
  let descriptor = readDescriptor(selector, EXC_GP, 0);
  let target = selector;
  if (descriptorAttributes(descriptor) & ATTRIBUTE_S) {
    checkDirect(selector, descriptorAttributes(descriptor));
  } else {
    readGate(selector, descriptor);
    descriptor = gateTarget();
    target = gateSelector;
    offset = gateOffset;
    size = gateSize;
  }
  const rip = checkedOffset(descriptor, offset);
  const attributes = descriptorAttributes(descriptor);
  if (!(attributes & ATTRIBUTE_CONFORMING) && dplOf(attributes) < load<u32>(CPL)) {
    callInner(descriptor, rip, returnRip);
    return;
  }
  frameReturn(size, returnRip);
  markDescriptor(target, descriptor, ATTRIBUTE_ACCESSED);
  setStackPointer(frameTop());
  enterCode(target, descriptor, load<u32>(CPL));
  jumpTo(rip);
}

/** Offset and selector of a far pointer in the instruction: R_IMM holds the offset below and the selector at bit 32. */
function immediateOffset(ip: u32): u64 {
  return load<u32>(ip + R_IMM) as u64;
}

function immediateSelector(ip: u32): u32 {
  return load<u16>(ip + R_IMM + 4) as u32;
}

/** JMP ptr16:16, ptr16:32. */
export function jumpFarImmediate(ip: u32): void {
  jumpFar(immediateSelector(ip), immediateOffset(ip));
}

/** JMP m16:16, m16:32, m16:64. */
export function jumpFarMemory(ip: u32): void {
  const size = load<u8>(ip + R_SIZE) as u32;
  const address = ea(ip);
  const offset = loadSized(address, size);
  jumpFar(ld16(address + ((1 << size) as u64)), offset);
}

/** CALL ptr16:16, ptr16:32. */
export function callFarImmediate(ip: u32): void {
  callFar(immediateSelector(ip), immediateOffset(ip), load<u8>(ip + R_SIZE) as u32, nextRip(ip));
}

/** CALL m16:16, m16:32, m16:64. */
export function callFarMemory(ip: u32): void {
  const size = load<u8>(ip + R_SIZE) as u32;
  const address = ea(ip);
  const offset = loadSized(address, size);
  callFar(ld16(address + ((1 << size) as u64)), offset, size, nextRip(ip));
}

// --- returns ----------------------------------------------------------------------------------------------------

/** Checks the code segment a return goes to and gives its descriptor. */
function returnSegment(selector: u32): u64 {
  if (isNull(selector)) raiseError(EXC_GP, 0);
  const rpl = selector & 3;
  const descriptor = readDescriptor(selector, EXC_GP, 0);
  const attributes = descriptorAttributes(descriptor);
  const dpl = dplOf(attributes);
  const allowed = attributes & ATTRIBUTE_CONFORMING ? dpl <= rpl : dpl == rpl;
  if ((attributes & CODE) != CODE || rpl < load<u32>(CPL) || !allowed) raiseError(EXC_GP, selector & 0xfffc);
  checkPresent(selector, attributes);
  return descriptor;
}

/** Checks the SS that a return pops: 64-bit code below level 3 may have a null one. 0 stands for null. */
function returnStack(selector: u32, cpl: u32, code: u64): u64 {
  if (isNull(selector) && isLong(code) && cpl != 3 && (selector & 3) == cpl) return 0;
  const descriptor = checkStackSegment(selector, cpl, EXC_GP, 0);
  markDescriptor(selector, descriptor, ATTRIBUTE_ACCESSED);
  return descriptor;
}

/** Commits a return whose segments are checked. Nothing here can fault. */
function commitReturn(selector: u32, code: u64, rip: u64, stackSelector: u32, stack: u64, sp: u64): void {
  const old = load<u32>(CPL);
  const cpl = selector & 3;
  enterCode(selector, code, cpl);
  if (stack) setFromDescriptor(SS, stackSelector, stack);
  else setSegment(SS, stackSelector, cpl << 5, 0, 0);
  setStackPointer(sp);
  if (cpl > old) dropPrivilegedSegments(cpl);
  jumpTo(rip);
}

function commitSameStack(selector: u32, code: u64, rip: u64, sp: u64): void {
  setStackPointer(sp);
  enterCode(selector, code, selector & 3);
  jumpTo(rip);
}

function returnFar(size: u32, extra: u32): void {
  const step: i32 = 1 << size;
  const offset = peek(0, size);
  const selector = (peek(step, size) as u32) & 0xffff;
  const behind = load<u64>(RSP) + ((2 * step) as u64) + (extra as u64);
  if (!protectedMode()) {
    setStackPointer(behind);
    setRealSegment(CS, selector);
    jumpTo(offset);
    return;
  }
  const code = returnSegment(selector);
  const rip = checkedOffset(code, offset);
  if ((selector & 3) == load<u32>(CPL)) {
    markDescriptor(selector, code, ATTRIBUTE_ACCESSED);
    commitSameStack(selector, code, rip, behind);
    return;
  }
  // the outer stack lies behind the parameters that RET releases on this one
  const at = stackLinear(2 * step + (extra as i32));
  const sp = loadSized(at, size);
  const stackSelector = ld16(at + (step as u64));
  const stack = returnStack(stackSelector, selector & 3, code);
  markDescriptor(selector, code, ATTRIBUTE_ACCESSED);
  commitReturn(selector, code, rip, stackSelector, stack, sp + (extra as u64));
}

/** RET far. */
export function returnFarPlain(ip: u32): void {
  returnFar(load<u8>(ip + R_SIZE) as u32, 0);
}

/** RET far imm16. */
export function returnFarRelease(ip: u32): void {
  returnFar(load<u8>(ip + R_SIZE) as u32, load<u16>(ip + R_IMM) as u32);
}

/** Flags after IRET pops `image`: like POPF, with RF restored. */
function restoreFlags(image: u32, mask: u32): void {
  setFlags((getFlags() & ~mask) | (image & mask));
}

/** IRET, IRETD, IRETQ. */
export function interruptReturn(ip: u32): void {
  const size = load<u8>(ip + R_SIZE) as u32;
  const step: i32 = 1 << size;
  const real = !protectedMode();
  if (!real && getFlags() & FLAG_NT) raiseError(EXC_GP, 0);
  // Read from the top down, as processors do: it decides which fault a frame at the end of the stack raises.
  const image = peek(2 * step, size) as u32;
  const selector = (peek(step, size) as u32) & 0xffff;
  const offset = peek(0, size);
  let mask = writableFlags(size);
  if (size != 1) mask |= FLAG_RF;
  const behind = load<u64>(RSP) + ((3 * step) as u64);
  if (real) {
    setStackPointer(behind);
    restoreFlags(image, mask);
    setRealSegment(CS, selector);
    jumpTo(offset);
    return;
  }
  if (!longModeActive() && size == 2 && image & FLAG_VM && load<u32>(CPL) == 0) raiseError(EXC_GP, 0);
  const code = returnSegment(selector);
  const rip = checkedOffset(code, offset);
  if (!in64() && (selector & 3) == load<u32>(CPL)) {
    markDescriptor(selector, code, ATTRIBUTE_ACCESSED);
    restoreFlags(image, mask);
    commitSameStack(selector, code, rip, behind);
    return;
  }
  // 64-bit code always pops RSP and SS
  const sp = peek(3 * step, size);
  const stackSelector = (peek(4 * step, size) as u32) & 0xffff;
  const stack = returnStack(stackSelector, selector & 3, code);
  markDescriptor(selector, code, ATTRIBUTE_ACCESSED);
  restoreFlags(image, mask);
  commitReturn(selector, code, rip, stackSelector, stack, sp);
}
