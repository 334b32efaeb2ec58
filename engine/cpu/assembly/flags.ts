/**
 * Lazy arithmetic flags.
 *
 * An arithmetic instruction only stores its operands, shifted left so that the sign bit is bit 63, and what it did.
 * Carry, zero, sign and overflow then need no operand size: one 64-bit comparison answers for all four sizes.
 * A logical result r is kept as the subtraction r - 0, which has exactly its flags (CF = OF = AF = 0).
 */
import {
  EFLAGS,
  FLAG_AF,
  FLAG_CF,
  FLAG_OF,
  FLAG_PF,
  FLAG_SF,
  FLAG_ZF,
  FLAGS_ARITH,
  KIND_ADD,
  KIND_DEC,
  KIND_EXPLICIT,
  KIND_INC,
  KIND_RESULT,
  KIND_SUB,
  LAZY_A,
  LAZY_B,
  LAZY_KIND,
} from "./layout";

/** PF of a result: set when its low byte has an even number of ones. */
export function parity(low: u32): u32 {
  return popcnt<u32>(low & 0xff) & 1 ? 0 : FLAG_PF;
}

/** Writes all lazy flags into EFLAGS; afterwards the lazy kind is EXPLICIT. */
export function materialize(): void {
  const word = load<u32>(LAZY_KIND);
  const kind = word & 0xff;
  if (kind == KIND_EXPLICIT) return;
  const shift: u64 = word >> 8;
  const a = load<u64>(LAZY_A);
  const b = load<u64>(LAZY_B);
  const old = load<u32>(EFLAGS);
  let result: u64 = a;
  let flags: u32 = 0;
  if (kind == KIND_RESULT) {
    flags = old & (FLAG_CF | FLAG_OF | FLAG_AF);
  } else {
    const subtracts = kind == KIND_SUB || kind == KIND_DEC;
    result = subtracts ? a - b : a + b;
    if (kind == KIND_SUB) flags = a < b ? FLAG_CF : 0;
    else if (kind == KIND_ADD) flags = result < a ? FLAG_CF : 0;
    else flags = old & FLAG_CF;
    const overflow = subtracts ? (a ^ b) & (a ^ result) : (a ^ result) & (b ^ result);
    if (overflow >> 63) flags |= FLAG_OF;
    flags |= <u32>((a ^ b ^ result) >> shift) & FLAG_AF;
  }
  if (result == 0) flags |= FLAG_ZF;
  if (result >> 63) flags |= FLAG_SF;
  flags |= parity(<u32>(result >> shift));
  store<u32>(EFLAGS, (old & ~FLAGS_ARITH) | flags);
  store<u32>(LAZY_KIND, KIND_EXPLICIT);
}

/** The full EFLAGS, arithmetic bits included. */
export function getFlags(): u32 {
  materialize();
  return load<u32>(EFLAGS);
}

/** Stores the full EFLAGS. */
export function setFlags(value: u32): void {
  store<u32>(EFLAGS, value | 2);
  store<u32>(LAZY_KIND, KIND_EXPLICIT);
}

/** Replaces CF PF AF ZF SF OF, leaving the other bits. */
export function setArith(value: u32): void {
  store<u32>(EFLAGS, (load<u32>(EFLAGS) & ~FLAGS_ARITH) | (value & FLAGS_ARITH));
  store<u32>(LAZY_KIND, KIND_EXPLICIT);
}

/** Makes CF, OF and AF explicit in EFLAGS, for instructions that change only those; ZF, SF and PF stay lazy. */
export function settleCarry(): void {
  const word = load<u32>(LAZY_KIND);
  const kind = word & 0xff;
  if (kind == KIND_EXPLICIT || kind == KIND_RESULT) return;
  const a = load<u64>(LAZY_A);
  const b = load<u64>(LAZY_B);
  const subtracts = kind == KIND_SUB || kind == KIND_DEC;
  const result = subtracts ? a - b : a + b;
  let flags = load<u32>(EFLAGS) & FLAG_CF;
  if (kind == KIND_SUB) flags = u32(a < b);
  else if (kind == KIND_ADD) flags = u32(result < a);
  const overflow = subtracts ? (a ^ b) & (a ^ result) : (a ^ result) & (b ^ result);
  flags |= (<u32>(overflow >> 63)) << 11;
  flags |= <u32>((a ^ b ^ result) >> <u64>(word >> 8)) & FLAG_AF;
  store<u32>(EFLAGS, (load<u32>(EFLAGS) & ~(FLAG_CF | FLAG_OF | FLAG_AF)) | flags);
  store<u64>(LAZY_A, result);
  store<u32>(LAZY_KIND, (word & 0xffffff00) | KIND_RESULT);
}

/** Replaces CF alone. */
export function setCarry(carry: u32): void {
  settleCarry();
  store<u32>(EFLAGS, (load<u32>(EFLAGS) & ~FLAG_CF) | carry);
}

/** Replaces CF and OF alone; both are 0 or 1. */
export function setCarryOverflow(carry: u32, overflow: u32): void {
  settleCarry();
  store<u32>(EFLAGS, (load<u32>(EFLAGS) & ~(FLAG_CF | FLAG_OF)) | carry | (overflow << 11));
}

/** CF alone, as 0 or 1, without materializing. */
export function getCarry(): u32 {
  const kind = load<u32>(LAZY_KIND) & 0xff;
  const a = load<u64>(LAZY_A);
  if (kind == KIND_SUB) return u32(a < load<u64>(LAZY_B));
  if (kind == KIND_ADD) return u32(a + load<u64>(LAZY_B) < a);
  return load<u32>(EFLAGS) & FLAG_CF;
}

/** Lazy flags of an increment or decrement: CF survives, so it is taken first. `shift` = 64 − operand bits. */
export function setCounted(kind: u32, a: u64, shift: u32): void {
  const carry = getCarry();
  store<u32>(EFLAGS, (load<u32>(EFLAGS) & ~FLAG_CF) | carry);
  store<u64>(LAZY_A, a << shift);
  store<u64>(LAZY_B, (<u64>1) << shift);
  store<u32>(LAZY_KIND, kind | (shift << 8));
}

/** Flags whose ZF SF PF follow a result while CF, OF and AF are given. */
export function setResult(result: u64, shift: u32, carryOverflow: u32): void {
  store<u32>(EFLAGS, (load<u32>(EFLAGS) & ~(FLAG_CF | FLAG_OF | FLAG_AF)) | carryOverflow);
  store<u64>(LAZY_A, result << shift);
  store<u32>(LAZY_KIND, KIND_RESULT | (shift << 8));
}

/** Flags of a logical result. */
export function setLogic(result: u64, shift: u32): void {
  store<u64>(LAZY_A, result << shift);
  store<u64>(LAZY_B, 0);
  store<u32>(LAZY_KIND, KIND_SUB | (shift << 8));
}

function explicitCond(cc: u32): bool {
  const f = getFlags();
  let holds = false;
  switch (cc >> 1) {
    case 0:
      holds = (f & FLAG_OF) != 0;
      break;
    case 1:
      holds = (f & FLAG_CF) != 0;
      break;
    case 2:
      holds = (f & FLAG_ZF) != 0;
      break;
    case 3:
      holds = (f & (FLAG_CF | FLAG_ZF)) != 0;
      break;
    case 4:
      holds = (f & FLAG_SF) != 0;
      break;
    case 5:
      holds = (f & FLAG_PF) != 0;
      break;
    case 6:
      holds = ((f & FLAG_SF) != 0) != ((f & FLAG_OF) != 0);
      break;
    default:
      holds = (f & FLAG_ZF) != 0 || ((f & FLAG_SF) != 0) != ((f & FLAG_OF) != 0);
  }
  return holds != ((cc & 1) != 0);
}

/** Whether an x86 condition (the low four opcode bits of Jcc) holds. */
export function getCond(cc: u32): bool {
  if ((load<u32>(LAZY_KIND) & 0xff) != KIND_SUB) return explicitCond(cc);
  const a = load<u64>(LAZY_A);
  const b = load<u64>(LAZY_B);
  let holds = false;
  switch (cc >> 1) {
    case 1:
      holds = a < b;
      break;
    case 2:
      holds = a == b;
      break;
    case 3:
      holds = a <= b;
      break;
    case 4:
      holds = <i64>(a - b) < 0;
      break;
    case 6:
      holds = <i64>a < <i64>b;
      break;
    case 7:
      holds = <i64>a <= <i64>b;
      break;
    default:
      return explicitCond(cc);
  }
  return holds != ((cc & 1) != 0);
}
