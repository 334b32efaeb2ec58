/**
 * From table rows to implementations: which operand pattern a row has in its register and its memory form, and which
 * numbered operation (hot case or function) implements it at each size.
 */
import type { Row } from "../table/rows.ts";
import { SIZES, type Size } from "./access.ts";
import { lockedTemplate } from "./locked.ts";
import { isHot, type Pattern, TEMPLATES } from "./templates.ts";

/** How the decoder fills R_A and R_B. */
export const SCHEME = {
  none: 0,
  modrm: 1,
  swapped: 2,
  opcode: 3,
  accumulator: 4,
  opcodeAccumulator: 5,
  rm: 6,
} as const;

export interface RowShape {
  readonly scheme: number;
  /** Pattern of the register form and of the memory form. */
  readonly register?: Pattern;
  readonly memory?: Pattern;
}

const isImmediate = (operand: string): boolean => /^I/.test(operand);

/** Operand patterns of a row, for rows whose handler is a template. */
export function shapeOf(row: Row): RowShape {
  const [first = "", second = "", third = ""] = row.operands;
  const tail = third === "" ? "" : third === "CL" ? "c" : "i";
  const isE = (operand: string): boolean => /^[EM]/.test(operand);
  const isG = (operand: string): boolean => operand.startsWith("G");
  if (isE(first) && isG(second)) return { scheme: SCHEME.swapped, register: `rr${tail}`, memory: `mr${tail}` };
  if (isG(first) && isE(second)) return { scheme: SCHEME.modrm, register: `rr${tail}`, memory: `rm${tail}` };
  if (isE(first)) {
    const source = second === "" ? "" : second === "CL" ? "c" : "i";
    return { scheme: SCHEME.rm, register: `r${source}`, memory: `m${source}` };
  }
  if (first.startsWith("Z") && second === "rAX") return { scheme: SCHEME.opcodeAccumulator, register: "rr" };
  if (first.startsWith("Z")) return { scheme: SCHEME.opcode, register: second === "" ? "r" : "ri" };
  if ((first === "AL" || first === "rAX") && isImmediate(second)) return { scheme: SCHEME.accumulator, register: "ri" };
  if (isImmediate(first)) return { scheme: SCHEME.none, register: "i" };
  return { scheme: SCHEME.none, register: "" };
}

/** Special hot operations that change the flow of control in 64-bit mode, written in interpreter.ts. */
export const BRANCHES = ["jmp", "jcc", "call", "ret", "call_r", "call_m", "jmp_r", "jmp_m"] as const;

/** Conditions of fused compare-and-branch operations, as x86 condition codes. */
export const FUSED_CONDITIONS: readonly number[] = [2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14, 15];
const FUSED: readonly (readonly [string, Pattern, readonly Size[]])[] = [
  ["cmp", "rr", [2, 3]],
  ["cmp", "ri", [0, 2, 3]],
  ["cmp", "mi", [0, 2, 3]],
  ["cmp", "rm", [2, 3]],
  ["test", "rr", [0, 2, 3]],
  ["test", "ri", [0, 2]],
  ["test", "mi", [0]],
];

export interface Operation {
  readonly name: string;
  readonly handler: string;
  readonly pattern: Pattern;
  readonly size: Size;
  readonly body: string;
}

/** All generated implementations: hot ones get a case number, the others become handler functions. */
export class Operations {
  readonly hot: Operation[] = [];
  readonly cold: Operation[] = [];
  private readonly known = new Map<string, number>();

  /** Key → number: hot case numbers count from `HOT_BASE`; cold functions are found by name. */
  request(handler: string, pattern: Pattern, size: Size): Operation | undefined {
    const template = TEMPLATES[handler];
    const body = template?.(pattern, size);
    if (body === undefined) return undefined;
    const name = `${handler}_${pattern === "" ? "none" : pattern}_${8 << size}`;
    const hot = isHot(handler, pattern, size);
    const list = hot ? this.hot : this.cold;
    const key = `${hot}:${name}`;
    const index = this.known.get(key);
    if (index !== undefined) return list[index];
    const operation = { name, handler, pattern, size, body };
    this.known.set(key, list.length);
    list.push(operation);
    return operation;
  }

  /** The LOCK form of a memory pattern as a cold function. */
  requestLocked(handler: string, pattern: Pattern, size: Size): Operation | undefined {
    const plain = TEMPLATES[handler];
    const body = plain && lockedTemplate(handler, plain)?.(pattern, size);
    if (body === undefined) return undefined;
    const name = `lock_${handler}_${pattern}_${8 << size}`;
    const index = this.known.get(name);
    if (index !== undefined) return this.cold[index];
    const operation = { name, handler, pattern, size, body };
    this.known.set(name, this.cold.length);
    this.cold.push(operation);
    return operation;
  }
}

/** The compare operations that a following conditional jump may be fused with. */
export function fusedForms(): { handler: string; pattern: Pattern; size: Size }[] {
  return FUSED.flatMap(([handler, pattern, sizes]) => sizes.map((size) => ({ handler, pattern, size })));
}

export { SIZES };
