/**
 * Flags within a compiled block. An operation that sets them leaves them pending: its operands stay in WebAssembly locals,
 * and only where somebody may look (a slow path that can fault, a handler, the block's end) are they written to the lazy
 * flags in memory, exactly as the interpreter would have left them.
 */
import { KIND_ADD, KIND_SUB, LAZY_A, LAZY_B, LAZY_KIND } from "../assembly/layout.ts";
import type { Encoder } from "./encoder.ts";

/** A value that stays as it is: a constant or a local that nobody writes to again. */
export type Operand =
  | { readonly local: number; readonly wasm: "i32" | "i64" }
  | { readonly constant: bigint; readonly wasm: "i32" | "i64" };

export type Pending =
  /** What memory says. */
  | { readonly kind: "memory" }
  /** The operation `op` (KIND_*) of a and b, both shifted so that the sign is bit 63. */
  | { readonly kind: "lazy"; readonly op: number; readonly shift: number; readonly a: Operand; readonly b: Operand }
  /** Zero, sign and parity of a result; carry, overflow and adjust in `rest` (bits as in EFLAGS). */
  | { readonly kind: "result"; readonly value: Operand; readonly shift: number; readonly rest: Operand }
  /** An increment or decrement (`op`) of x: all but the carry. */
  | {
      readonly kind: "counted";
      readonly op: number;
      readonly x: Operand;
      readonly shift: number;
      readonly below: Pending;
    }
  /** Only the carry has changed: 0 or 1. */
  | { readonly kind: "carry"; readonly carry: Operand; readonly below: Pending };

export const MEMORY: Pending = { kind: "memory" };

/** Carry, overflow and adjust: what "result" gives. */
const CARRY = 1;

/** What the flags need of the block that is being compiled. */
export interface FlagCode {
  readonly code: Encoder;
  /** Calls a function of the core. */
  callCore(name: string): void;
  /** An if without result: what `body` emits runs when the i32 on the stack is not 0. */
  otherwise(type: "i32", then: () => void, or: () => void): void;
}

export function push(code: Encoder, operand: Operand): void {
  if ("local" in operand) code.get(operand.local);
  else if (operand.wasm === "i64") code.i64(operand.constant);
  else code.i32(Number(BigInt.asIntN(32, operand.constant)));
}

/** What a pending state refers to. */
export function operandsOf(pending: Pending): Operand[] {
  switch (pending.kind) {
    case "memory":
      return [];
    case "lazy":
      return [pending.a, pending.b];
    case "result":
      return [pending.value, pending.rest];
    case "counted":
      return [pending.x, ...operandsOf(pending.below)];
    case "carry":
      return [pending.carry, ...operandsOf(pending.below)];
  }
}

/** How many states lie below one another. */
export const depthOf = (pending: Pending): number =>
  pending.kind === "counted" || pending.kind === "carry" ? 1 + depthOf(pending.below) : 0;

const isZero = (operand: Operand): boolean => "constant" in operand && operand.constant === 0n;

/** Writes pending flags to memory. The pending state itself is the caller's business. */
export function storeFlags(at: FlagCode, pending: Pending): void {
  const { code } = at;
  switch (pending.kind) {
    case "memory":
      return;
    case "lazy":
      code.i32(0);
      push(code, pending.a);
      code.store("u64", LAZY_A);
      code.i32(0);
      push(code, pending.b);
      code.store("u64", LAZY_B);
      code.i32(0);
      code.i32(pending.op | (pending.shift << 8));
      code.store("u32", LAZY_KIND);
      return;
    case "result":
      push(code, pending.value);
      code.i32(pending.shift);
      push(code, pending.rest);
      at.callCore("setResult");
      return;
    case "counted":
      storeFlags(at, pending.below);
      code.i32(pending.op);
      push(code, pending.x);
      code.i32(pending.shift);
      at.callCore("setCounted");
      return;
    case "carry":
      storeFlags(at, pending.below);
      push(code, pending.carry);
      at.callCore("setCarry");
      return;
  }
}

/** Conditions of a subtraction a − b: comparison of a and b, or of a − b with 0. */
const SUBTRACTION: Readonly<Record<number, readonly ["pair" | "sign", string]>> = {
  1: ["pair", "i64.lt_u"],
  2: ["pair", "i64.eq"],
  3: ["pair", "i64.le_u"],
  4: ["sign", "i64.lt_s"],
  6: ["pair", "i64.lt_s"],
  7: ["pair", "i64.le_s"],
};

function subtraction(code: Encoder, pair: number, a: () => void, b: () => void, zero: boolean): boolean {
  const [how, comparison] = SUBTRACTION[pair] ?? [];
  if (how === undefined || comparison === undefined) return false;
  a();
  if (how === "pair" && zero && pair === 2) {
    code.op("i64.eqz");
  } else if (how === "pair") {
    b();
    code.op(comparison);
  } else {
    if (!zero) {
      b();
      code.op("i64.sub");
    }
    code.i64(0n);
    code.op(comparison);
  }
  return true;
}

/** Pushes whether the positive condition `pair` (condition code / 2) holds. @returns false where memory has to be asked */
function known(at: FlagCode, pending: Pending, pair: number): boolean {
  const { code } = at;
  switch (pending.kind) {
    case "memory":
      return false;
    case "carry":
      if (pair !== 1) return pair !== 3 && known(at, pending.below, pair);
      push(code, pending.carry);
      return true;
    case "result":
      return knownResult(code, pending.value, pending.shift, pending.rest, pair);
    case "counted": {
      if (pair === 1) return known(at, pending.below, pair);
      if (pair !== 2 && pair !== 4) return false;
      push(code, pending.x);
      code.i64(1n);
      // KIND_INC is 4 and adds, KIND_DEC is 3.
      code.op(pending.op === 4 ? "i64.add" : "i64.sub");
      signOrZero(code, pending.shift, pair);
      return true;
    }
    case "lazy":
      if (pending.op === KIND_SUB) {
        const [a, b] = [() => push(code, pending.a), () => push(code, pending.b)];
        return subtraction(code, pair, a, b, isZero(pending.b));
      }
      return pending.op === KIND_ADD && knownSum(code, pending.a, pending.b, pair);
  }
}

/** Turns the unshifted value on the stack into whether it is zero (pair 2) or negative (pair 4). */
function signOrZero(code: Encoder, shift: number, pair: number): void {
  if (shift !== 0) {
    code.i64(BigInt(shift));
    code.op("i64.shl");
  }
  if (pair === 2) {
    code.op("i64.eqz");
  } else {
    code.i64(0n);
    code.op("i64.lt_s");
  }
}

function knownResult(code: Encoder, value: Operand, shift: number, rest: Operand, pair: number): boolean {
  if (pair === 2 || pair === 4) {
    push(code, value);
    signOrZero(code, shift, pair);
    return true;
  }
  if (pair !== 1) return false;
  push(code, rest);
  code.i32(CARRY);
  code.op("i32.and");
  return true;
}

function knownSum(code: Encoder, a: Operand, b: Operand, pair: number): boolean {
  if (pair !== 1 && pair !== 2 && pair !== 4) return false;
  push(code, a);
  push(code, b);
  code.op("i64.add");
  if (pair === 2) {
    code.op("i64.eqz");
  } else if (pair === 4) {
    code.i64(0n);
    code.op("i64.lt_s");
  } else {
    push(code, a);
    code.op("i64.lt_u");
  }
  return true;
}

/** Pushes 1 if the x86 condition holds, else 0. Nothing is settled: what is pending stays so. */
export function pushCondition(at: FlagCode, pending: Pending, condition: number): void {
  const { code } = at;
  const pair = condition >> 1;
  if (known(at, pending, pair)) {
    if ((condition & 1) !== 0) code.op("i32.eqz");
    return;
  }
  storeFlags(at, pending);
  if (SUBTRACTION[pair] === undefined || pending.kind !== "memory") {
    code.i32(condition);
    at.callCore("getCond");
    return;
  }
  code.i32(0);
  code.load("u8", LAZY_KIND);
  code.i32(KIND_SUB);
  code.op("i32.eq");
  const field = (offset: number) => () => {
    code.i32(0);
    code.load("u64", offset);
  };
  at.otherwise(
    "i32",
    () => {
      subtraction(code, pair, field(LAZY_A), field(LAZY_B), false);
      if ((condition & 1) !== 0) code.op("i32.eqz");
    },
    () => {
      code.i32(condition);
      at.callCore("getCond");
    },
  );
}
