/**
 * Delivery of exceptions, external interrupts and software interrupts (SDM vol 3 ch. 6, APM vol 2 ch. 8).
 *
 * Task gates raise #GP: hardware task switching does not exist here. A fault while delivering is thrown like any other
 * and comes back through handleFault, which knows from EXC_DEPTH what was being delivered.
 */

import { FLAG_AC, FLAG_NT } from "./eflags";
import { raise, raiseError } from "./fault";
import { getFlags, setFlags } from "./flags";
import { currentRip, isCanonical, jumpTo } from "./flow";
import {
  CPL,
  CUR,
  DR,
  EXC_DB,
  EXC_DE,
  EXC_DEPTH,
  EXC_DF,
  EXC_ERROR,
  EXC_GP,
  EXC_HAS_ERROR,
  EXC_NP,
  EXC_PF,
  EXC_SS,
  EXC_TS,
  EXC_VECTOR,
  EXIT,
  EXIT_SHUTDOWN,
  FLAG_IF,
  FLAG_RF,
  FLAG_TF,
  FLAG_VM,
  GPR,
  IDTR_BASE,
  IDTR_LIMIT,
  RIP,
  SHADOW,
  SLOT_SS,
} from "./layout";
import { sysLd16, sysLd64 } from "./mmu";
import {
  ATTRIBUTE_ACCESSED,
  ATTRIBUTE_CODE,
  ATTRIBUTE_CONFORMING,
  ATTRIBUTE_DEFAULT,
  ATTRIBUTE_LONG,
  ATTRIBUTE_PRESENT,
  ATTRIBUTE_S,
  CS,
  descriptorAttributes,
  descriptorLimit,
  dplOf,
  enterCode,
  isNull,
  longModeActive,
  markDescriptor,
  protectedMode,
  readDescriptor,
  SS,
  selectorOf,
  setFromDescriptor,
  setRealSegment,
  setSegment,
} from "./segment";
import { beginFrame, frameTop, pushFrame, setStackPointer, stackMask } from "./stack";
import {
  innerStackBase,
  innerStackDescriptor,
  innerStackMask,
  innerStackSelector,
  interruptStack,
  legacyInnerStack,
  longInnerStack,
} from "./tss";

// --- what is delivered ------------------------------------------------------------------------------------------
export const DELIVER_FAULT: u32 = 0; // hardware exception
export const DELIVER_EXTERNAL: u32 = 1;
export const DELIVER_SOFTWARE: u32 = 2; // INT n, INT3, INTO: the gate's DPL is checked
export const DELIVER_INT1: u32 = 3; // INT1: like a software interrupt, but no DPL check

/** EXC_DEPTH while something is delivered: its class for the double-fault rules (SDM vol 3 table 6-5). */
const CLASS_NONE: u32 = 0;
const CLASS_BENIGN: u32 = 1;
const CLASS_CONTRIBUTORY: u32 = 2;
const CLASS_PAGE: u32 = 3;
const CLASS_DOUBLE: u32 = 4;

const RSP = GPR + 32;

let delivered: bool = false;

function classOf(vector: u32): u32 {
  if (vector == EXC_PF) return CLASS_PAGE;
  if (vector == EXC_DE || (vector >= (EXC_TS as u32) && vector <= (EXC_GP as u32))) return CLASS_CONTRIBUTORY;
  return vector == EXC_DF ? CLASS_DOUBLE : CLASS_BENIGN;
}

/** Flags as they are pushed: RF is set for faults, so that the instruction may be restarted past a breakpoint. */
function pushedFlags(vector: u32, kind: u32): u64 {
  const flags = getFlags() & ~FLAG_RF;
  return (kind == DELIVER_FAULT && vector != EXC_DB ? flags | FLAG_RF : flags) as u64;
}

/** Flags on entry to the handler; interrupt gates (even types) also mask interrupts. */
function enterFlags(type: u32): void {
  let clear: u32 = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM;
  if (!(type & 1)) clear |= FLAG_IF;
  setFlags(getFlags() & ~clear);
}

/** Checks P and, for software interrupts, the DPL of a gate whose type was found valid. */
function checkGate(gate: u64, kind: u32, error: u32, ext: u32): void {
  const access = ((gate >> 40) as u32) & 0xff;
  if (kind == DELIVER_SOFTWARE && dplOf(access) < load<u32>(CPL)) raiseError(EXC_GP, error | ext);
  if (!(access & ATTRIBUTE_PRESENT)) raiseError(EXC_NP, error | ext);
}

/** The checked descriptor of the handler's code segment. */
function handlerSegment(selector: u32, ext: u32, long: bool): u64 {
  if (isNull(selector)) raiseError(EXC_GP, ext);
  const error = (selector & 0xfffc) | ext;
  const descriptor = readDescriptor(selector, EXC_GP, ext);
  const attributes = descriptorAttributes(descriptor);
  const code = ATTRIBUTE_S | ATTRIBUTE_CODE;
  if ((attributes & code) != code || dplOf(attributes) > load<u32>(CPL)) raiseError(EXC_GP, error);
  if (long && (attributes & (ATTRIBUTE_LONG | ATTRIBUTE_DEFAULT)) != ATTRIBUTE_LONG) raiseError(EXC_GP, error);
  if (!(attributes & ATTRIBUTE_PRESENT)) raiseError(EXC_NP, error);
  markDescriptor(selector, descriptor, ATTRIBUTE_ACCESSED);
  return descriptor;
}

function handlerCpl(descriptor: u64): u32 {
  const attributes = descriptorAttributes(descriptor);
  return attributes & ATTRIBUTE_CONFORMING ? load<u32>(CPL) : dplOf(attributes);
}

function deliverLong(vector: u32, hasError: bool, error: u32, kind: u32, returnRip: u64, ext: u32): void {
  const gateError = (vector << 3) | 2;
  if ((vector << 4) + 15 > load<u32>(IDTR_LIMIT)) raiseError(EXC_GP, gateError | ext);
  const at = load<u64>(IDTR_BASE) + ((vector << 4) as u64);
  const gate = sysLd64(at);
  const type = ((gate >> 40) as u32) & 0x1f;
  if (type != 0xe && type != 0xf) raiseError(EXC_GP, gateError | ext);
  checkGate(gate, kind, gateError, ext);
  const target = (gate & 0xffff) | ((gate >> 32) & 0xffff0000) | (sysLd64(at + 8) << 32);
  const selector = ((gate >> 16) as u32) & 0xffff;
  const descriptor = handlerSegment(selector, ext, true);
  const cpl = handlerCpl(descriptor);
  const inner = cpl < load<u32>(CPL);
  const ist = ((gate >> 32) as u32) & 7;
  let sp = load<u64>(RSP);
  if (ist) sp = interruptStack(ist, ext);
  else if (inner) sp = longInnerStack(cpl, ext);
  if (!isCanonical(sp)) raiseError(EXC_SS, ext);
  if (!isCanonical(target)) raiseError(EXC_GP, ext);
  beginFrame(sp & ~(15 as u64), 0, ~(0 as u64), 3, cpl);
  pushFrame(selectorOf(SS) as u64);
  pushFrame(load<u64>(RSP));
  pushFrame(pushedFlags(vector, kind));
  pushFrame(selectorOf(CS) as u64);
  pushFrame(returnRip);
  if (hasError) pushFrame(error as u64);
  enterFlags(type);
  enterCode(selector, descriptor, cpl);
  if (inner) setSegment(SS, cpl, cpl << 5, 0, 0);
  store<u64>(RSP, frameTop());
  jumpTo(target);
}

function deliverProtected(vector: u32, hasError: bool, error: u32, kind: u32, returnRip: u64, ext: u32): void {
  const gateError = (vector << 3) | 2;
  if ((vector << 3) + 7 > load<u32>(IDTR_LIMIT)) raiseError(EXC_GP, gateError | ext);
  const gate = sysLd64(load<u64>(IDTR_BASE) + ((vector << 3) as u64));
  const type = ((gate >> 40) as u32) & 0x1f;
  // 6, 7: 16-bit interrupt and trap gates; 14, 15: 32-bit ones; 5, the task gate, is refused
  if ((type & ~9) != 6) raiseError(EXC_GP, gateError | ext);
  checkGate(gate, kind, gateError, ext);
  const size: u32 = type & 8 ? 2 : 1;
  const selector = ((gate >> 16) as u32) & 0xffff;
  const descriptor = handlerSegment(selector, ext, false);
  const cpl = handlerCpl(descriptor);
  const inner = cpl < load<u32>(CPL);
  let target = gate & 0xffff;
  if (size == 2) target |= (gate >> 32) & 0xffff0000;
  if (target > (descriptorLimit(descriptor) as u64)) raiseError(EXC_GP, ext);
  if (inner) {
    const sp = legacyInnerStack(cpl, ext);
    markDescriptor(innerStackSelector(), innerStackDescriptor(), ATTRIBUTE_ACCESSED);
    beginFrame(sp, innerStackBase(), innerStackMask(), size, cpl);
    pushFrame(selectorOf(SS) as u64);
    pushFrame(load<u64>(RSP));
  } else {
    beginFrame(load<u64>(RSP), load<u64>(GPR + SLOT_SS), stackMask(), size, cpl);
  }
  pushFrame(pushedFlags(vector, kind));
  pushFrame(selectorOf(CS) as u64);
  pushFrame(returnRip);
  if (hasError) pushFrame(error as u64);
  enterFlags(type);
  enterCode(selector, descriptor, cpl);
  if (inner) setFromDescriptor(SS, innerStackSelector(), innerStackDescriptor());
  setStackPointer(frameTop());
  jumpTo(target);
}

/** Real-address mode: four-byte vectors, no error codes (SDM vol 3 20.1.4). */
function deliverReal(vector: u32, returnRip: u64): void {
  if ((vector << 2) + 3 > load<u32>(IDTR_LIMIT)) raise(EXC_GP);
  const at = load<u64>(IDTR_BASE) + ((vector << 2) as u64);
  const target = sysLd16(at) as u64;
  const selector = sysLd16(at + 2);
  beginFrame(load<u64>(RSP), load<u64>(GPR + SLOT_SS), stackMask(), 1, 0);
  pushFrame(getFlags() as u64);
  pushFrame(selectorOf(CS) as u64);
  pushFrame(returnRip);
  setFlags(getFlags() & ~(FLAG_IF | FLAG_TF | FLAG_AC | FLAG_RF));
  setStackPointer(frameTop());
  setRealSegment(CS, selector);
  jumpTo(target);
}

/**
 * Delivers a vector through the IDT. RIP must be exact (CUR 0): it is what faults and external interrupts push, and
 * where the processor stands if delivery itself faults; software interrupts push `nextRip`.
 * @param kind DELIVER_*
 */
export function deliver(vector: u32, hasError: bool, error: u32, kind: u32, nextRip: u64): void {
  if (kind != DELIVER_FAULT) store<u32>(EXC_DEPTH, CLASS_BENIGN);
  else if (load<u32>(EXC_DEPTH) == CLASS_NONE) store<u32>(EXC_DEPTH, classOf(vector));
  const returnRip = kind >= DELIVER_SOFTWARE ? nextRip : load<u64>(RIP);
  const ext: u32 = kind == DELIVER_SOFTWARE ? 0 : 1;
  if (!protectedMode()) deliverReal(vector, returnRip);
  else if (longModeActive()) deliverLong(vector, hasError, error, kind, returnRip, ext);
  else deliverProtected(vector, hasError, error, kind, returnRip, ext);
  store<u32>(EXC_DEPTH, CLASS_NONE);
  store<u32>(SHADOW, 0);
  delivered = true;
}

/**
 * Takes the single-step trap of the running instruction away. SYSCALL looks at TF when it is done: with TF in SFMASK
 * the kernel sees no trap of its caller's stepping.
 */
export function suppressSingleStep(): void {
  delivered = true;
}

/** Whether the instruction since the last call takes no single-step trap of its own: a delivery, or SYSCALL. */
export function takeDelivered(): bool {
  const was = delivered;
  delivered = false;
  return was;
}

/** Delivers the #DB of a completed single step (EFLAGS.TF): sets DR6.BS. RIP must be exact. */
export function deliverSingleStep(): void {
  store<u64>(DR + 48, load<u64>(DR + 48) | 0x4000);
  deliver(EXC_DB, false, 0, DELIVER_FAULT, load<u64>(RIP));
}

/**
 * Turns the fault in EXC_VECTOR, EXC_HAS_ERROR and EXC_ERROR into an exception at the instruction that raised it,
 * following the double-fault rules; a fault while a double fault is delivered shuts the processor down (EXIT_SHUTDOWN).
 * Faults of the delivery are thrown again: call it again for those.
 */
export function handleFault(): void {
  const record = load<u32>(CUR);
  if (record) jumpTo(currentRip(record));
  const vector = load<u32>(EXC_VECTOR);
  const before = load<u32>(EXC_DEPTH);
  const now = classOf(vector);
  if (before == CLASS_DOUBLE && now >= CLASS_CONTRIBUTORY) {
    store<u32>(EXC_DEPTH, CLASS_NONE);
    store<u32>(EXIT, EXIT_SHUTDOWN);
    return;
  }
  const double =
    (before == CLASS_CONTRIBUTORY && now == CLASS_CONTRIBUTORY) || (before == CLASS_PAGE && now >= CLASS_CONTRIBUTORY);
  if (double) {
    store<u32>(EXC_DEPTH, CLASS_DOUBLE);
    deliver(EXC_DF, true, 0, DELIVER_FAULT, 0);
    return;
  }
  store<u32>(EXC_DEPTH, now);
  deliver(vector, load<u32>(EXC_HAS_ERROR) != 0, load<u32>(EXC_ERROR), DELIVER_FAULT, 0);
}
