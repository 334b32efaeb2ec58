/**
 * The decoder: instruction bytes → one record, or two when the address needs a micro-operation first.
 * Encoding: APM volume 3, chapter 1. What is an instruction at all comes from the generated tables.
 */

import { HANDLERS } from "./generated/handlers";
import {
  FUSE,
  FUSE_CONDITION,
  HAS_MODRM,
  MERGE_KEYS,
  MERGE_RESULTS,
  NODES,
  OP_ADDRESS,
  OP_ADDRESS_SEGMENT,
  OP_CALL,
  OP_CALL_M,
  OP_CALL_R,
  OP_COLD,
  OP_COLD_JUMP,
  OP_FUSED_FIRST,
  OP_HOT_FIRST,
  OP_JCC_FIRST,
  OP_JMP,
  ROOTS,
  ROW_CODES,
  ROW_FLAGS,
  ROW_IMMEDIATE,
  ROW_SCHEME,
  ROW_SIZE,
} from "./generated/opcodes";
import {
  LENGTH_FUSED,
  MODE,
  MODE_32,
  MODE_64,
  PREFIX_ADDR,
  PREFIX_LOCK,
  PREFIX_OPSIZE,
  PREFIX_REP,
  PREFIX_REPNE,
  PREFIX_REX,
  PREFIX_REXW,
  PREFIX_SEG,
  R_A,
  R_B,
  R_BASE,
  R_COUNT,
  R_DISP,
  R_HANDLER,
  R_IMM,
  R_IMM_HIGH,
  R_INDEX,
  R_LENGTH,
  R_LINK,
  R_MODRM,
  R_OFFSET,
  R_OP,
  R_PREFIX,
  R_REG,
  R_RM,
  R_SCALE,
  R_SEG,
  R_SIZE,
  RECORD,
  SLOT_ES,
  SLOT_PAGE,
  SLOT_TEMP,
  SLOT_ZERO,
} from "./layout";

/** Bytes of the instruction decoded last. */
export let decodedLength: u32 = 0;
/** Whether the block ends with it. */
export let decodeEnds: bool = false;

// Row flags and schemes: the same numbers as in engine/cpu/generate.
const ROW_LOCK: u32 = 1;
const ROW_JUMP: u32 = 2;
const ROW_BYTE_REG: u32 = 16;
const ROW_BYTE_RM: u32 = 32;
const ROW_CONDITION: u32 = 64;
const SCHEME_MODRM: u32 = 1;
const MERGE_MASK: u32 = 2047;
const SCHEME_SWAPPED: u32 = 2;
const SCHEME_OPCODE: u32 = 3;
const SCHEME_ACCUMULATOR: u32 = 4;
const SCHEME_OPCODE_ACCUMULATOR: u32 = 5;
const SCHEME_RM: u32 = 6;

// The instruction at hand.
let at: u32 = 0;
let mode: u32 = 0;
let prefixes: u32 = 0;
let rex: u32 = 0;
let segment: u32 = 0;
let overridden: bool = false;
let opcode: u32 = 0;
let map: u32 = 0;
let modrm: u32 = 0;
let base: u32 = 0;
let index: u32 = 0;
let scale: u32 = 0;
let displacement: i64 = 0;
let stackBased: bool = false;
let relative: bool = false;
let immediate: i64 = 0;

function prefixStep(byte: u32): bool {
  switch (byte) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
      // ES, CS, SS and DS have no meaning in 64-bit mode.
      if (mode != MODE_64) setSegment((byte >> 3) & 3);
      return true;
    case 0x64:
    case 0x65:
      setSegment(byte - 0x60);
      return true;
    case 0x66:
      prefixes |= PREFIX_OPSIZE;
      return true;
    case 0x67:
      prefixes |= PREFIX_ADDR;
      return true;
    case 0xf0:
      prefixes |= PREFIX_LOCK;
      return true;
    case 0xf2:
      prefixes = (prefixes & ~PREFIX_REP) | PREFIX_REPNE;
      return true;
    case 0xf3:
      prefixes = (prefixes & ~PREFIX_REPNE) | PREFIX_REP;
      return true;
    default:
      return false;
  }
}

function setSegment(n: u32): void {
  segment = n;
  overridden = true;
  prefixes |= PREFIX_SEG;
}

function readPrefixes(): void {
  prefixes = 0;
  rex = 0;
  segment = 3;
  overridden = false;
  const limit = at + 14;
  while (at < limit) {
    const byte = <u32>load<u8>(at);
    if (prefixStep(byte)) {
      rex = 0;
    } else if (mode == MODE_64 && (byte & 0xf0) == 0x40) {
      rex = byte;
    } else {
      break;
    }
    at++;
  }
  if (rex != 0) prefixes |= PREFIX_REX | (rex & 8 ? PREFIX_REXW : 0);
}

function readOpcode(): void {
  opcode = load<u8>(at++);
  map = 0;
  if (opcode != 0x0f) return;
  map = 1;
  opcode = load<u8>(at++);
  if (opcode == 0x38) map = 2;
  else if (opcode == 0x3a) map = 3;
  if (map > 1) opcode = load<u8>(at++);
}

/** Address size as log2 of its bytes: 1, 2 or 3. */
function addressSize(): u32 {
  const other = (prefixes & PREFIX_ADDR) != 0;
  if (mode == MODE_64) return other ? 2 : 3;
  return (mode == MODE_32) != other ? 2 : 1;
}

function readDisplacement(bytes: u32): void {
  if (bytes == 1) displacement = load<i8>(at);
  else if (bytes == 2) displacement = load<i16>(at);
  else if (bytes == 4) displacement = load<i32>(at);
  at += bytes;
}

function readAddress(): void {
  base = SLOT_ZERO;
  index = SLOT_ZERO;
  scale = 0;
  displacement = 0;
  stackBased = false;
  relative = false;
  if ((modrm & 0xc0) == 0xc0) return;
  if (addressSize() == 1) readAddress16();
  else readAddress32();
  if (stackBased && !overridden) segment = 2;
}

function readAddress16(): void {
  const rm = modrm & 7;
  const mod = modrm >> 6;
  // BX+SI, BX+DI, BP+SI, BP+DI, SI, DI, BP, BX
  const bases: u32 = rm < 4 ? (rm < 2 ? 3 : 5) : rm == 4 ? 6 : rm == 5 ? 7 : rm == 6 ? 5 : 3;
  if (rm == 6 && mod == 0) {
    readDisplacement(2);
    return;
  }
  base = bases << 3;
  stackBased = bases == 5;
  if (rm < 4) index = (6 + (rm & 1)) << 3;
  readDisplacement(mod == 1 ? 1 : mod == 2 ? 2 : 0);
}

function readAddress32(): void {
  const mod = modrm >> 6;
  let rm = modrm & 7;
  let none = false;
  if (rm == 4) {
    const sib = <u32>load<u8>(at++);
    const n = ((sib >> 3) & 7) | (rex & 2 ? 8 : 0);
    if (n != 4) {
      index = n << 3;
      scale = sib >> 6;
    }
    rm = sib & 7;
    none = rm == 5 && mod == 0;
  } else if (rm == 5 && mod == 0) {
    none = true;
    relative = mode == MODE_64;
  }
  if (none) {
    readDisplacement(4);
    return;
  }
  const n = rm | (rex & 1 ? 8 : 0);
  base = n << 3;
  stackBased = n == 4 || n == 5;
  readDisplacement(mod == 1 ? 1 : mod == 2 ? 4 : 0);
}

function rootOf(): u32 {
  let node = <u32>load<u16>(ROOTS + (((map << 8) | opcode) << 1));
  while ((node & 0x8000) != 0) {
    const split = NODES + ((node & 0x7fff) << 1);
    let child: u32 = 0;
    switch (load<u16>(split)) {
      case 0:
        child = prefixes & PREFIX_REP ? 2 : prefixes & PREFIX_REPNE ? 3 : prefixes & PREFIX_OPSIZE ? 1 : 0;
        break;
      case 1:
        child = (modrm >> 3) & 7;
        break;
      case 2:
        child = modrm >= 0xc0 ? 1 : 0;
        break;
      case 3:
        child = modrm & 7;
        break;
      default:
        child = mode == MODE_64 ? 1 : 0;
    }
    node = load<u16>(split + 2 + (child << 1));
  }
  return node;
}

/** Operand size as log2 of its bytes. */
function sizeFor(row: u32): u32 {
  const rule = <u32>load<u8>(ROW_SIZE + row);
  if (rule < 4) return rule;
  const other = (prefixes & PREFIX_OPSIZE) != 0;
  if (rule == 6) return prefixes & PREFIX_REXW || (mode == MODE_64 && map == 1 && (opcode & 0xfc) == 0x20) ? 3 : 2;
  if (mode == MODE_64) {
    if ((prefixes & PREFIX_REXW) != 0) return 3;
    // Near branches keep 64 bits whatever the prefix says, as on Intel's processors.
    if (rule == 7) return 3;
    if (rule == 5) return other ? 1 : 3;
    return other ? 1 : 2;
  }
  return (mode == MODE_32) != other ? 2 : 1;
}

function signedImmediate(bytes: u32): void {
  if (bytes == 1) immediate = load<i8>(at);
  else if (bytes == 2) immediate = load<i16>(at);
  else if (bytes == 4) immediate = load<i32>(at);
  else immediate = load<i64>(at);
  at += bytes;
}

function readImmediate(kind: u32, size: u32): void {
  immediate = 0;
  switch (kind) {
    case 0:
      return;
    case 1: // Ib
      immediate = load<u8>(at++);
      return;
    case 2: // Iw
      immediate = load<u16>(at);
      at += 2;
      return;
    case 3: // Iz
    case 7: // Jz
      signedImmediate(size == 1 ? 2 : 4);
      return;
    case 4: // Iv
      signedImmediate(1 << size);
      return;
    case 5: // Ibs
    case 6: // Jb
      signedImmediate(1);
      return;
    case 8: // Ob, Ov: an absolute offset of the address size
      signedImmediate(1 << addressSize());
      if (addressSize() == 1) immediate &= 0xffff;
      if (addressSize() == 2) immediate &= 0xffffffff;
      return;
    case 9: // enter: Iw, Ib
      immediate = <i64>load<u16>(at) | ((<i64>load<u8>(at + 2)) << 16);
      at += 3;
      return;
    case 10: // far pointer: offset in the low 32 bits, selector above
      if (size == 1) {
        immediate = <i64>load<u16>(at) | ((<i64>load<u16>(at + 2)) << 32);
        at += 4;
      } else {
        immediate = <i64>load<u32>(at) | ((<i64>load<u16>(at + 4)) << 32);
        at += 6;
      }
      return;
    default: // the constant 1 of a shift
      immediate = 1;
  }
}

/** Slot of a register as byte operand: without REX, 4…7 are AH, CH, DH, BH. */
function byteSlot(n: u32): u32 {
  return (prefixes & PREFIX_REX) == 0 && n >= 4 && n < 8 ? ((n - 4) << 3) + 1 : n << 3;
}

function fillOperands(out: u32, row: u32, flags: u32): void {
  const reg = ((modrm >> 3) & 7) | (rex & 4 ? 8 : 0);
  const rm = (modrm & 7) | (rex & 1 ? 8 : 0);
  const z = (opcode & 7) | (rex & 1 ? 8 : 0);
  const memory = modrm < 0xc0;
  const regSlot = flags & ROW_BYTE_REG ? byteSlot(reg) : reg << 3;
  const rmSlot = flags & ROW_BYTE_RM ? byteSlot(rm) : rm << 3;
  const scheme = <u32>load<u8>(ROW_SCHEME + row);
  let a: u32 = regSlot;
  let b: u32 = rmSlot;
  if (scheme == SCHEME_SWAPPED && !memory) {
    a = rmSlot;
    b = regSlot;
  } else if (scheme == SCHEME_RM) {
    a = rmSlot;
  } else if (scheme == SCHEME_OPCODE || scheme == SCHEME_OPCODE_ACCUMULATOR) {
    a = flags & ROW_BYTE_REG ? byteSlot(z) : z << 3;
    b = 0;
  } else if (scheme == SCHEME_ACCUMULATOR) {
    a = 0;
  }
  store<u8>(out, <u8>a, R_A);
  store<u8>(out, <u8>b, R_B);
}

function fillCold(out: u32, row: u32, code: u32, size: u32, form: u32): void {
  const scheme = <u32>load<u8>(ROW_SCHEME + row);
  const z = (opcode & 7) | (rex & 1 ? 8 : 0);
  let rm = (modrm & 7) | (rex & 1 ? 8 : 0);
  if (form == 1) rm = 255;
  else if (scheme == SCHEME_OPCODE || scheme == SCHEME_OPCODE_ACCUMULATOR) rm = z;
  else if (load<u8>(HAS_MODRM + ((map << 8) | opcode)) == 0) rm = 254;
  store<u16>(out, load<u16>(HANDLERS + ((code & 0x7fff) << 1)), R_HANDLER);
  store<u8>(out, <u8>prefixes, R_PREFIX);
  store<u8>(out, <u8>size, R_SIZE);
  store<u8>(out, <u8>modrm, R_MODRM);
  store<u8>(out, <u8>(((modrm >> 3) & 7) | (rex & 4 ? 8 : 0)), R_REG);
  store<u8>(out, <u8>rm, R_RM);
  store<u8>(out, <u8>segment, R_SEG);
}

/** Emits the micro-operation that computes an address the fast form cannot; returns records written. */
function fillAddress(out: u32, offset: u32, count: u32): u32 {
  const narrow = addressSize();
  if (mode == MODE_64 && narrow == 3) {
    if (segment < 4) {
      putAddress(out, base, index, scale);
      return 0;
    }
    const slot = SLOT_ES + (segment << 3);
    if (index == SLOT_ZERO) {
      putAddress(out, base, slot, 0);
      return 0;
    }
    micro(out, OP_ADDRESS_SEGMENT, slot, offset, count);
  } else {
    micro(out, OP_ADDRESS, mode == MODE_64 && segment < 4 ? SLOT_ZERO : SLOT_ES + (segment << 3), offset, count);
    store<u64>(out, narrow == 1 ? 0xffff : 0xffffffff, R_IMM);
  }
  return 1;
}

function micro(out: u32, op: u32, slot: u32, offset: u32, count: u32): void {
  store<u16>(out, <u16>op, R_OP);
  store<u8>(out, <u8>slot, R_A);
  store<u8>(out, <u8>segment, R_B);
  putAddress(out, base, index, scale);
  store<u32>(out, <u32>displacement, R_DISP);
  place(out, offset, count);
}

function place(out: u32, offset: u32, count: u32): void {
  store<u8>(out, <u8>decodedLength, R_LENGTH);
  store<u16>(out, <u16>offset, R_OFFSET);
  store<u16>(out, <u16>count, R_COUNT);
}

function putAddress(out: u32, b: u32, i: u32, s: u32): void {
  store<u8>(out, <u8>b, R_BASE);
  store<u8>(out, <u8>i, R_INDEX);
  store<u8>(out, <u8>s, R_SCALE);
}

/** Implementation code of a row for these operands; 0 where the encoding is invalid. */
function implementation(row: u32, flags: u32, size: u32, form: u32): u32 {
  const codes = ROW_CODES + row * 24;
  if ((prefixes & PREFIX_LOCK) != 0) {
    if ((flags & ROW_LOCK) == 0 || form == 0) return 0;
    const locked = <u32>load<u16>(codes + ((8 + size) << 1));
    if (locked != 0) return locked;
  }
  return load<u16>(codes + (((form << 2) + size) << 1));
}

/**
 * Decodes the instruction whose bytes start at `from` (at least 16 readable) into records at `out`.
 * `offset`: its offset in the page; `count`: instructions of the block up to it.
 * @returns records written; decodedLength and decodeEnds tell the rest.
 */
export function decode(from: u32, out: u32, offset: u32, count: u32): u32 {
  at = from;
  mode = load<u32>(MODE);
  readPrefixes();
  readOpcode();
  modrm = 0xc0;
  base = SLOT_ZERO;
  index = SLOT_ZERO;
  scale = 0;
  displacement = 0;
  relative = false;
  const hasModrm = load<u8>(HAS_MODRM + ((map << 8) | opcode)) != 0;
  if (hasModrm) {
    modrm = load<u8>(at++);
    readAddress();
  }
  const node = rootOf();
  const row = node - 1;
  const form: u32 = hasModrm && modrm < 0xc0 ? 1 : 0;
  let size: u32 = 2;
  let flags: u32 = 0;
  let code: u32 = 0;
  immediate = 0;
  if (node != 0) {
    size = sizeFor(row);
    // XCHG eAX,eAX is NOP: it must not clear the upper half of RAX, so it exchanges all 64 bits with themselves.
    if (map == 0 && opcode == 0x90 && (rex & 1) == 0) size = 3;
    flags = load<u8>(ROW_FLAGS + row);
    readImmediate(load<u8>(ROW_IMMEDIATE + row), size);
    code = implementation(row, flags, size, form);
  }
  decodedLength = at - from;
  if (code == 0 || decodedLength > 15) return invalid(out, offset, count);
  let records: u32 = 0;
  if (relative) {
    base = SLOT_PAGE;
    displacement += offset + decodedLength;
  }
  store<u64>(out, 0);
  store<u64>(out, 0, 8);
  if (form == 1) records = fillAddress(out, offset, count);
  const main = out + records * RECORD;
  if (records != 0) {
    store<u64>(main, 0);
    store<u64>(main, 0, 8);
    putAddress(main, SLOT_TEMP, SLOT_ZERO, 0);
  } else if (form == 1) {
    store<u32>(main, <u32>displacement, R_DISP);
  } else {
    putAddress(main, SLOT_ZERO, SLOT_ZERO, 0);
  }
  fillOperands(main, row, flags);
  place(main, offset, count);
  store<u64>(main, immediate, R_IMM);
  store<u64>(main, 0, R_LINK);
  finishRecord(main, row, code, flags, size, form, offset);
  return records + 1;
}

function finishRecord(out: u32, row: u32, code: u32, flags: u32, size: u32, form: u32, offset: u32): void {
  const condition = opcode & 15;
  decodeEnds = false;
  if ((code & 0x8000) != 0) {
    store<u16>(out, <u16>(flags & ROW_JUMP ? OP_COLD_JUMP : OP_COLD), R_OP);
    decodeEnds = (flags & ROW_JUMP) != 0;
    fillCold(out, row, code, size, form);
    if ((flags & ROW_CONDITION) != 0) {
      if ((flags & ROW_JUMP) != 0) store<u8>(out, <u8>condition, R_MODRM);
      else store<u64>(out, condition, R_IMM);
    }
    return;
  }
  let op = code;
  if (op < OP_HOT_FIRST) {
    const next = offset + decodedLength;
    if (op == OP_JCC_FIRST) op += condition;
    else decodeEnds = true;
    if (op == OP_JMP || op == OP_CALL || op >= OP_JCC_FIRST) store<i32>(out, <i32>(next + <u32>immediate), R_IMM_HIGH);
    if (op == OP_CALL || op == OP_CALL_R || op == OP_CALL_M) store<u32>(out, next, R_IMM);
  } else if ((flags & ROW_CONDITION) != 0) {
    store<u64>(out, condition, R_IMM);
  }
  store<u16>(out, <u16>op, R_OP);
}

/** A record that raises #UD (#GP for an instruction of more than 15 bytes). */
function invalid(out: u32, offset: u32, count: u32): u32 {
  store<u64>(out, 0);
  store<u64>(out, 0, 8);
  store<u64>(out, decodedLength > 15 ? 1 : 0, R_IMM);
  place(out, offset, count);
  store<u16>(out, <u16>OP_COLD, R_OP);
  store<u64>(out, 0, R_LINK);
  store<u16>(out, load<u16>(HANDLERS), R_HANDLER);
  decodeEnds = true;
  if (decodedLength > 15) decodedLength = 15;
  return 1;
}

/** Joins a conditional jump at `jump` with the comparison record before it. @returns false where they do not fit. */
export function fuseWithPrevious(previous: u32, jump: u32): bool {
  const op = <u32>load<u16>(jump);
  if (op < OP_JCC_FIRST || op >= OP_HOT_FIRST) return false;
  const compare = <u32>load<u16>(previous);
  if (compare < OP_HOT_FIRST || compare >= OP_FUSED_FIRST) return false;
  const first = <u32>load<u16>(FUSE + ((compare - OP_HOT_FIRST) << 1));
  const condition = <u32>load<u8>(FUSE_CONDITION + (op - OP_JCC_FIRST));
  if (first == 0 || condition == 0xff) return false;
  store<u16>(previous, <u16>(first + condition), R_OP);
  store<u32>(previous, load<u32>(jump, R_IMM_HIGH), R_IMM_HIGH);
  store<u32>(previous, 0, R_LINK);
  store<u16>(previous, load<u16>(jump, R_COUNT), R_COUNT);
  store<u8>(previous, load<u8>(previous, R_LENGTH) | LENGTH_FUSED, R_LENGTH);
  return true;
}

/** The operation that does `first` and then `second`, or 0. The hash is that of generate/sequences.ts. */
function merged(first: u32, second: u32): u32 {
  const key = first | (second << 16);
  for (let slot = (first * 31 + second * 7) & MERGE_MASK; ; slot = (slot + 1) & MERGE_MASK) {
    const found = load<u32>(MERGE_KEYS + (slot << 2));
    if (found == key) return load<u16>(MERGE_RESULTS + (slot << 1));
    if (found == 0) break;
  }
  return 0;
}

/** Gives the first record of each known sequence in a finished block the operation that executes them all. */
export function mergeRecords(start: u32, end: u32): void {
  let head = start;
  let op = <u32>load<u16>(head);
  for (let record = start + RECORD; record < end; record += RECORD) {
    const second = <u32>load<u16>(record);
    const result = merged(op, second);
    if (result != 0) {
      store<u16>(head, <u16>result);
      op = result;
    } else {
      head = record;
      op = second;
    }
  }
}
