/**
 * Decoded code: blocks of records, the ways into them, and their end when the guest writes over the instructions.
 *
 * A block starts at a jump target and runs on until an unconditional transfer or the end of its page. It is found by
 * the address of its first byte in this memory, so aliases share it; a cache of linear addresses (flushed with the
 * TLB) serves returns, indirect jumps and jumps between pages. Within a page, jumps link to their target's record.
 */
import { decode, decodedLength, decodeEnds, fuseWithPrevious, mergeRecords } from "./decode";
import { raise } from "./fault";
import { currentRip, jumpTo as setRip } from "./flow";
import {
  OP_COLD_JUMP,
  OP_CROSS,
  OP_HEAD,
  OP_HOT_FIRST,
  OP_JMP,
  OP_RESYNC,
  OP_STOP,
  OP_STOPPED,
} from "./generated/opcodes";
import {
  CODE_EPOCH,
  CODE_FLAG,
  CODE_GENERATION,
  CODE_POOL,
  CODE_POOL_END,
  CODE_RESETS,
  CPL,
  CUR,
  EFLAGS,
  ENTRY_COUNT,
  ENTRY_HASH,
  EXC_UD,
  EXIT,
  FLAG_IF,
  FLAG_TF,
  GPR,
  HOT_COUNT,
  HOT_MOST,
  HOT_QUEUE,
  HOT_THRESHOLD,
  IRQ_BYTE,
  IRQ_INJECT,
  JUMP_CACHE,
  JUMP_FUNCTION,
  JUMP_MASK,
  JUMP_RECORD,
  JUMP_TAG,
  KICK,
  LEFT,
  MODE,
  MODE_64,
  POOL_NEXT,
  R_COUNT,
  R_FUNCTION,
  R_GENERATION,
  R_HEAT,
  R_IMM,
  R_IMM_HIGH,
  R_LENGTH,
  R_LINK,
  R_OFFSET,
  R_OP,
  R_PAGE,
  R_RECORDS,
  RECORD,
  RIP,
  RIP_MASK,
  SCRATCH_CODE,
  SHADOW,
  SLOT_CS,
  SLOT_PAGE,
  STEP_RECORDS,
  STOPPED_RECORD,
} from "./layout";
import { flushJumps, protectCode, resolveFetch } from "./mmu";

const PAGE: u64 = ~(<u64>0xfff);
/** Longest block, in instructions: bounds how far a run may exceed its budget. */
const BLOCK_LIMIT: u32 = 64;
/** The longest instruction. */
const LONGEST: u32 = 15;
/** Room a block may need in the pool: its head, two records an instruction and the closing jump. */
const BLOCK_BYTES: u32 = (BLOCK_LIMIT * 2 + 5) * RECORD;
const PROBES: u32 = 4;

/** Number of times the whole pool was dropped: records from before must not be written any more. */
function resets(): u32 {
  return load<u32>(CODE_RESETS);
}

/** Forgets all decoded code, and with it what was compiled. */
export function resetCode(): void {
  store<u32>(CODE_RESETS, resets() + 1);
  store<u32>(HOT_COUNT, 0);
  store<u32>(POOL_NEXT, CODE_POOL);
  memory.fill(ENTRY_HASH, 0xff, ENTRY_COUNT * 16);
  memory.fill(CODE_FLAG, 0, 0x100000);
  store<u16>(STOPPED_RECORD, <u16>OP_STOPPED);
  flushJumps();
}

function hash(at: u32): u32 {
  return (at * 0x9e3779b1) >> 14;
}

/** The record decoded from the byte at `at` of this memory in the current mode, or 0. */
function find(at: u32): u32 {
  const generation = load<u32>(CODE_GENERATION + ((at >> 12) << 2));
  const first = hash(at);
  for (let i: u32 = 0; i < PROBES; i++) {
    const entry = ENTRY_HASH + (((first + i) & (ENTRY_COUNT - 1)) << 4);
    if (load<u32>(entry) == at && load<u32>(entry, 8) == generation && load<u32>(entry, 12) == load<u32>(MODE)) {
      return load<u32>(entry, 4);
    }
  }
  return 0;
}

function remember(at: u32, record: u32): void {
  const first = hash(at);
  let entry = ENTRY_HASH + ((first & (ENTRY_COUNT - 1)) << 4);
  for (let i: u32 = 0; i < PROBES; i++) {
    const each = ENTRY_HASH + (((first + i) & (ENTRY_COUNT - 1)) << 4);
    const old = load<u32>(each);
    const live = old != 0xffffffff && load<u32>(each, 8) == load<u32>(CODE_GENERATION + ((old >> 12) << 2));
    if (!live || old == at) {
      entry = each;
      break;
    }
  }
  store<u32>(entry, at);
  store<u32>(entry, record, 4);
  store<u32>(entry, load<u32>(CODE_GENERATION + ((at >> 12) << 2)), 8);
  store<u32>(entry, load<u32>(MODE), 12);
}

function markCode(at: u32): void {
  const flag = CODE_FLAG + (at >> 12);
  if (load<u8>(flag) != 0) return;
  // Atomic, so that others see it before we read the code: whoever writes there afterwards finds the flag.
  atomic.store<u8>(flag, 1);
  protectCode(at & ~0xfff);
}

/**
 * The guest wrote to the page of `at`, which holds decoded code: all of it is dropped. Should the running block be
 * in that page, its next record becomes a resync, so that the very next instruction is decoded anew.
 */
export function codeWritten(at: u32): void {
  const page = at >> 12;
  store<u8>(CODE_FLAG + page, 0);
  const generation = CODE_GENERATION + (page << 2);
  store<u32>(generation, load<u32>(generation) + 1);
  flushJumps();
  const record = load<u32>(CUR);
  if (record < <u32>CODE_POOL) return;
  const op = <u32>load<u16>(record);
  if (op == OP_COLD_JUMP) return;
  if (op >= OP_JMP && op < OP_HOT_FIRST) {
    store<u32>(record, 0, R_LINK);
    return;
  }
  store<u16>(record + RECORD, <u16>OP_RESYNC);
}

/** Somebody else than the guest wrote to the page of `at`, between two runs: drops what was decoded from it. */
export function dropCode(at: u32): void {
  if (load<u8>(CODE_FLAG + (at >> 12)) == 0) return;
  const record = load<u32>(CUR);
  store<u32>(CUR, 0);
  codeWritten(at);
  store<u32>(CUR, record);
}

/** Writes a jump to page offset `offset` behind a block that ends without one. */
function emitGoto(out: u32, offset: u32, count: u32): u32 {
  store<u64>(out, 0);
  store<u64>(out, 0, 8);
  store<u16>(out, <u16>OP_JMP, R_OP);
  store<u16>(out, <u16>offset, R_OFFSET);
  store<u16>(out, <u16>count, R_COUNT);
  store<u32>(out, offset, R_IMM_HIGH);
  store<u32>(out, 0, R_LINK);
  return out + RECORD;
}

/** Address to decode from: the page itself, or a zero-padded copy where the longest instruction would leave it. */
function window(page: u32, offset: u32): u32 {
  if (offset <= 0x1000 - LONGEST - 1) return page + offset;
  const part = 0x1000 - offset;
  memory.fill(SCRATCH_CODE, 0, 32);
  memory.copy(SCRATCH_CODE, page + offset, part);
  return SCRATCH_CODE;
}

/** Decodes the block that starts at `offset` of the page at `page` in this memory. */
function decodeBlock(page: u32, offset: u32): u32 {
  if (load<u32>(POOL_NEXT) + BLOCK_BYTES > <u32>CODE_POOL_END) resetCode();
  markCode(page);
  const head = load<u32>(POOL_NEXT);
  const start = head + RECORD;
  let out = start;
  let at = offset;
  let count: u32 = 0;
  let previous: u32 = 0;
  while (true) {
    if (at >= 0x1000 || count >= BLOCK_LIMIT) {
      out = emitGoto(out, at, count);
      break;
    }
    const records = decode(window(page, at), out, at, count + 1);
    if (at + decodedLength > 0x1000) {
      store<u64>(out, 0);
      store<u16>(out, <u16>OP_CROSS, R_OP);
      store<u16>(out, <u16>at, R_OFFSET);
      store<u16>(out, <u16>(count + 1), R_COUNT);
      store<u32>(out, 0, R_LINK);
      out += RECORD;
      break;
    }
    at += decodedLength;
    count++;
    if (records == 1 && previous != 0 && fuseWithPrevious(previous, out)) {
      previous = 0;
      continue;
    }
    previous = out + (records - 1) * RECORD;
    out += records * RECORD;
    if (decodeEnds) break;
  }
  store<u32>(POOL_NEXT, out);
  mergeRecords(start, out);
  emitHead(head, page, offset, (out - start) / RECORD);
  remember(page + offset, head);
  return head;
}

/** The record before a block's first: it counts until the block is hot, and says who runs it then. */
function emitHead(head: u32, page: u32, offset: u32, records: u32): void {
  store<u64>(head, 0);
  store<u64>(head, 0, 8);
  store<u16>(head, <u16>OP_HEAD, R_OP);
  store<u16>(head, <u16>records, R_RECORDS);
  store<u16>(head, <u16>offset, R_OFFSET);
  store<u32>(head, load<u32>(HOT_THRESHOLD), R_HEAT);
  store<u32>(head, interpreted.index, R_FUNCTION);
  store<u32>(head, page, R_PAGE);
  store<u32>(head, load<u32>(CODE_GENERATION + ((page >> 12) << 2)), R_GENERATION);
}

/** What runs a block that is not compiled: the interpreter, to which its record is returned. */
export function interpreted(ip: u32): u32 {
  return ip;
}

/**
 * A block has become hot: it waits for the compiler, which knows 64-bit code only. With a full queue it becomes hot again
 * later.
 */
export function hot(ip: u32): void {
  if (load<u32>(MODE) != MODE_64) return;
  const count = load<u32>(HOT_COUNT);
  if (count >= <u32>HOT_MOST) {
    store<u32>(ip, load<u32>(HOT_THRESHOLD), R_HEAT);
    return;
  }
  store<u32>(HOT_QUEUE + (count << 2), ip);
  store<u32>(HOT_COUNT, count + 1);
}

/** Compiled code jumps to a linear address that the jump cache does not know. @returns the next record */
export function jumpMissed(target: u64): u32 {
  setRip(target);
  return enter(target);
}

/** Compiled code jumps to a linear address when the budget is used up. @returns the next record */
export function jumpStopped(target: u64): u32 {
  setRip(target);
  return STOPPED_RECORD;
}

function tagOf(target: u64): u64 {
  return target ^ load<u64>(JUMP_TAG) ^ ((<u64>load<u32>(MODE)) << 56);
}

/** The record at linear address `target`, which RIP names already. Faults as an instruction fetch does. */
export function enter(target: u64): u32 {
  const entry = JUMP_CACHE + (((<u32>target ^ <u32>(target >> 13)) << 4) & JUMP_MASK);
  const tag = tagOf(target);
  if (load<u64>(entry) == tag) {
    store<u64>(GPR + SLOT_PAGE, target & PAGE);
    return load<u32>(entry, JUMP_RECORD);
  }
  const at = resolveFetch(target);
  if (at == 0) raise(EXC_UD);
  let record = find(at);
  if (record == 0) record = decodeBlock(at & ~0xfff, at & 0xfff);
  store<u64>(GPR + SLOT_PAGE, target & PAGE);
  store<u64>(entry, tag);
  store<u32>(entry, record, JUMP_RECORD);
  store<u32>(entry, load<u32>(record, R_FUNCTION), JUMP_FUNCTION);
  return record;
}

/** Linear address of RIP. */
export function linearRip(): u64 {
  const linear = load<u64>(GPR + SLOT_CS) + load<u64>(RIP);
  return load<u32>(MODE) == MODE_64 ? linear : <u64>(<u32>linear);
}

/** A direct jump that has no link or ends the budget. @returns the next record. */
export function farJump(ip: u32): u32 {
  const page = load<u64>(GPR + SLOT_PAGE);
  const base = load<u64>(GPR + SLOT_CS);
  const rip = (page + <u64>(<i64>load<i32>(ip, R_IMM_HIGH)) - base) & load<u64>(RIP_MASK);
  setRip(rip);
  if (load<i32>(LEFT) < 0) return STOPPED_RECORD;
  const target = linearRip();
  const before = resets();
  const record = enter(target);
  if ((target & PAGE) == page && before == resets()) store<u32>(ip, record, R_LINK);
  return record;
}

/** An indirect jump in 64-bit mode. @returns the next record. */
export function jumpIndirect(ip: u32, target: u64): u32 {
  const left = load<i32>(LEFT) - <i32>load<u16>(ip, R_COUNT);
  store<i32>(LEFT, left);
  setRip(target);
  return left < 0 ? STOPPED_RECORD : enter(target);
}

/** Whether the run loop has something to do before the next instruction, other than to keep interrupts away from it. */
function attention(): bool {
  const flags = load<u32>(EFLAGS);
  if ((flags & FLAG_TF) != 0 || load<u32>(KICK) != 0) return true;
  if ((flags & FLAG_IF) == 0) return false;
  if (load<u32>(IRQ_INJECT) != 0) return true;
  const line = load<u32>(IRQ_BYTE);
  return line != 0 && load<u8>(line) != 0;
}

/**
 * After a handler that changed flow, mode or the interrupt flag; RIP is exact. A shadow is over where no interrupt waits: the
 * next instruction runs before anybody looks for one again. @returns the next record.
 */
export function afterJump(ip: u32): u32 {
  const left = load<i32>(LEFT) - <i32>load<u16>(ip, R_COUNT);
  store<i32>(LEFT, left);
  if (left < 0 || load<u32>(EXIT) != 0 || attention()) return STOPPED_RECORD;
  store<u32>(SHADOW, 0);
  return enter(linearRip());
}

/**
 * STI in compiled 64-bit code, if it is nothing but a bit: the processor may do it, nothing waits for the run loop, and the budget
 * is enough for the instructions up to here. @returns whether it is done
 */
export function enableInterrupts(count: i32): bool {
  const flags = load<u32>(EFLAGS);
  if (load<u32>(CPL) != 0 || load<i32>(LEFT) < count) return false;
  if ((flags & FLAG_IF) != 0) return true;
  store<u32>(EFLAGS, flags | FLAG_IF);
  if (!attention()) return true;
  store<u32>(EFLAGS, flags);
  return false;
}

/** CLI in compiled code. @returns false where it faults: nothing is done then */
export function disableInterrupts(): bool {
  if (load<u32>(CPL) != 0) return false;
  store<u32>(EFLAGS, load<u32>(EFLAGS) & ~FLAG_IF);
  return true;
}

/** Ends the run before the instruction at record `ip`'s offset. */
export function stopHere(ip: u32): void {
  store<i32>(LEFT, load<i32>(LEFT) - <i32>load<u16>(ip, R_COUNT));
  setRip(currentRip(ip));
}

/** The record was overwritten because its code changed: decode anew from its instruction. */
export function resync(ip: u32): u32 {
  const whole = load<u8>(ip, R_LENGTH) != 0 ? 1 : 0;
  store<i32>(LEFT, load<i32>(LEFT) - <i32>load<u16>(ip, R_COUNT) + whole);
  setRip(currentRip(ip));
  if (load<i32>(LEFT) < 0) return STOPPED_RECORD;
  return enter(linearRip());
}

/** Copies the 15 bytes from linear address `target`, which crosses into the next page at `part` bytes. */
function gather(target: u64, part: u32): void {
  const first = resolveFetch(target);
  const second = resolveFetch(target + part);
  memory.fill(SCRATCH_CODE, 0xff, 32);
  if (first != 0) memory.copy(SCRATCH_CODE, first, part);
  if (second != 0) {
    markCode(second);
    memory.copy(SCRATCH_CODE + part, second, LONGEST - part);
  }
}

/** An instruction that continues in the next page: decoded for the translation of both pages that holds now. */
export function crossing(ip: u32): u32 {
  const link = load<u32>(ip, R_LINK);
  if (link != 0 && load<u32>(ip, R_IMM) == load<u32>(CODE_EPOCH)) return link;
  store<u32>(CUR, ip);
  const offset = <u32>load<u16>(ip, R_OFFSET);
  const count = <u32>load<u16>(ip, R_COUNT);
  gather(load<u64>(GPR + SLOT_PAGE) + offset, 0x1000 - offset);
  const before = resets();
  if (load<u32>(POOL_NEXT) + BLOCK_BYTES > <u32>CODE_POOL_END) resetCode();
  const start = load<u32>(POOL_NEXT);
  const records = decode(SCRATCH_CODE, start, offset, count);
  const end = emitGoto(start + records * RECORD, offset + decodedLength, count);
  store<u32>(POOL_NEXT, end);
  if (before == resets()) {
    store<u32>(ip, load<u32>(CODE_EPOCH), R_IMM);
    store<u32>(ip, start, R_LINK);
  }
  return start;
}

/** Decodes the one instruction at RIP into its own place, followed by a stop. */
export function decodeStep(): u32 {
  const target = linearRip();
  const offset = <u32>target & 0xfff;
  store<u64>(GPR + SLOT_PAGE, target & PAGE);
  const at = resolveFetch(target);
  if (at == 0) raise(EXC_UD);
  const records = stepInto(at & ~0xfff, offset, target);
  const stop = STEP_RECORDS + records * RECORD;
  emitGoto(stop, offset + decodedLength, 1);
  store<u16>(stop, <u16>OP_STOP, R_OP);
  return STEP_RECORDS;
}

function stepInto(page: u32, offset: u32, target: u64): u32 {
  const records = decode(window(page, offset), STEP_RECORDS, offset, 1);
  if (offset + decodedLength <= 0x1000) return records;
  gather(target, 0x1000 - offset);
  return decode(SCRATCH_CODE, STEP_RECORDS, offset, 1);
}
