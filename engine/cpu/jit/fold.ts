/** Evaluates what is constant in an operation once its record is known. */
import { GPR, SLOT_GS, SLOT_ZERO } from "../assembly/layout.ts";
import type { Access, Expression, Wasm } from "./ir.ts";
import type { RecordReader } from "./records.ts";

/** Expressions of a certain record: fields are gone, registers have names. */
export type Node =
  | ["i32", number]
  | ["i64", bigint]
  /** A register or slot: byte offset from GPR. */
  | ["register", Access, number]
  | ["local", number, Wasm]
  | ["tlb"]
  | ["load", Access, Node, number]
  | ["op", string, ...Node[]]
  | ["if", Wasm, Node, Node, Node]
  | ["call", string, ...Node[]];

export const isConstant = (node: Node): node is ["i32", number] | ["i64", bigint] =>
  node[0] === "i32" || node[0] === "i64";

/** Whether an address of this memory is a register's, a slot's or a part of one. */
export const isRegister = (address: number): boolean => address >= GPR && address < GPR + SLOT_GS + 8;

const boolean = (value: boolean): Node => ["i32", value ? 1 : 0];
const small = (value: number): Node => ["i32", value | 0];
const large = (value: bigint): Node => ["i64", BigInt.asIntN(64, value)];
const unsigned = (value: bigint): bigint => BigInt.asUintN(64, value);

const FOLD32: Readonly<Record<string, (a: number, b: number) => Node>> = {
  "i32.add": (a, b) => small(a + b),
  "i32.sub": (a, b) => small(a - b),
  "i32.and": (a, b) => small(a & b),
  "i32.or": (a, b) => small(a | b),
  "i32.xor": (a, b) => small(a ^ b),
  "i32.shl": (a, b) => small(a << b),
  "i32.eq": (a, b) => boolean(a === b),
  "i32.ne": (a, b) => boolean(a !== b),
};
const FOLD64: Readonly<Record<string, (a: bigint, b: bigint) => Node>> = {
  "i64.add": (a, b) => large(a + b),
  "i64.sub": (a, b) => large(a - b),
  "i64.and": (a, b) => large(a & b),
  "i64.or": (a, b) => large(a | b),
  "i64.xor": (a, b) => large(a ^ b),
  "i64.shl": (a, b) => large(a << (b & 63n)),
  "i64.shr_u": (a, b) => large(unsigned(a) >> (b & 63n)),
  "i64.shr_s": (a, b) => large(a >> (b & 63n)),
  "i64.eq": (a, b) => boolean(a === b),
  "i64.ne": (a, b) => boolean(a !== b),
};

function foldOperation(name: string, operands: Node[]): Node {
  const [a, b] = operands;
  if (a?.[0] === "i32" && b === undefined) {
    if (name === "i64.extend_i32_u") return ["i64", BigInt(a[1] >>> 0)];
    if (name === "i64.extend_i32_s") return ["i64", BigInt(a[1])];
    if (name === "i32.eqz") return boolean(a[1] === 0);
  }
  if (a?.[0] === "i64" && b === undefined) {
    if (name === "i32.wrap_i64") return ["i32", Number(BigInt.asIntN(32, a[1]))];
    if (name === "i64.eqz") return boolean(a[1] === 0n);
  }
  if (a?.[0] === "i32" && b?.[0] === "i32") {
    const value = FOLD32[name]?.(a[1], b[1]);
    if (value !== undefined) return value;
  }
  if (a?.[0] === "i64" && b?.[0] === "i64") {
    const value = FOLD64[name]?.(a[1], b[1]);
    if (value !== undefined) return value;
  }
  return withoutEffect(name, a, b) ?? ["op", name, ...operands];
}

/** Additions of 0 and shifts by 0. */
function withoutEffect(name: string, a: Node | undefined, b: Node | undefined): Node | undefined {
  if (b?.[0] === "i64" && b[1] === 0n && /^i64\.(add|sub|or|xor|shl|shr_u|shr_s)$/.test(name)) return a;
  if (a?.[0] === "i64" && a[1] === 0n) {
    if (name === "i64.add") return b;
    if (name === "i64.shl") return a;
  }
  return undefined;
}

/** Variables of the operation by name. */
export type Environment = ReadonlyMap<string, Node>;

/** Simplifies an expression for the record at `at`. @throws Error for a variable that is not there (a bug) */
export function fold(expression: Expression, at: number, records: RecordReader, variables: Environment): Node {
  const each = (part: Expression): Node => fold(part, at, records, variables);
  switch (expression[0]) {
    case "i32":
    case "tlb":
      return expression;
    case "i64":
      return ["i64", BigInt(expression[1])];
    case "ip":
      return ["i32", at];
    case "field": {
      const value = records.field(at, expression[1], expression[2]);
      return typeof value === "bigint" ? ["i64", value] : ["i32", value];
    }
    case "get": {
      const value = variables.get(expression[1]);
      if (value === undefined) throw new Error(`operation: no variable ${expression[1]}`);
      return value;
    }
    case "load": {
      const address = each(expression[2]);
      if (address[0] !== "i32") return ["load", expression[1], address, expression[3]];
      const absolute = address[1] + expression[3];
      if (!isRegister(absolute)) return ["load", expression[1], ["i32", 0], absolute];
      if (absolute - GPR === SLOT_ZERO) return expression[1] === "u64" ? ["i64", 0n] : ["i32", 0];
      return ["register", expression[1], absolute - GPR];
    }
    case "op":
      return foldOperation(expression[1], (expression.slice(2) as Expression[]).map(each));
    case "if": {
      const condition = each(expression[2]);
      if (condition[0] === "i32") return each(condition[1] !== 0 ? expression[3] : expression[4]);
      return ["if", expression[1], condition, each(expression[3]), each(expression[4])];
    }
    case "call":
      return ["call", expression[1], ...(expression.slice(2) as Expression[]).map(each)];
  }
}
