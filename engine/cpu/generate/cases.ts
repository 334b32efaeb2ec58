/**
 * The cases of the interpreter's switch as text. A case that goes on with the next record has `falls` set and leaves
 * the step to whoever places it, so that several can stand behind one another in a sequence.
 */
import { EFFECTIVE, loadMemory, reg, storeMemory } from "./access.ts";
import { FUSED_CONDITIONS, type Operation } from "./forms.ts";
import { TEMPLATES } from "./templates.ts";

const lines = (...parts: string[]): string => parts.join("\n");

export interface Case {
  readonly name: string;
  /** Statements; `break` takes the jump that the record names. */
  readonly text: string;
  /** Whether control can fall through to the next record. */
  readonly falls: boolean;
}

/** Whether a condition holds, over lazy operands a and b of a subtraction. */
function subtraction(cc: number, a: string, b: string): string | undefined {
  const positive: Record<number, string> = {
    1: `${a} < ${b}`,
    2: `${a} == ${b}`,
    3: `${a} <= ${b}`,
    4: `<i64>(${a} - ${b}) < 0`,
    6: `<i64>${a} < <i64>${b}`,
    7: `<i64>${a} <= <i64>${b}`,
  };
  const text = positive[cc >> 1];
  if (text === undefined) return undefined;
  return cc & 1 ? `!(${text})` : text;
}

function conditionalJumps(): Case[] {
  return Array.from({ length: 16 }, (_, cc) => {
    const direct = subtraction(cc, "load<u64>(LAZY_A)", "load<u64>(LAZY_B)");
    const holds =
      direct === undefined ? `getCond(${cc})` : `(load<u8>(LAZY_KIND) == KIND_SUB ? ${direct} : getCond(${cc}))`;
    return { name: `jcc_${cc}`, text: `if (${holds}) break;`, falls: true };
  });
}

const PUSH_RETURN = lines(
  "const a: u64 = load<u64>(GPR + 32) - 8;",
  "const v: u64 = load<u64>(GPR + SLOT_PAGE) + <u64>load<u32>(ip, R_IMM);",
  storeMemory(3, "v", "a", "missPush"),
  "store<u64>(GPR + 32, a);",
);

function branches(): Map<string, string> {
  const register = `const t: u64 = ${reg(3, "R_A")};`;
  const memory = lines(`const m: u64 = ${EFFECTIVE};`, loadMemory(3, "t", "m"));
  const indirect = "ip = jumpIndirect(ip, t); continue;";
  const check = "if (<i64>(t << 16) >> 16 != <i64>t) badTarget(ip);";
  const pop = lines("const m: u64 = load<u64>(GPR + 32);", loadMemory(3, "t", "m", "missPop"));
  return new Map([
    ["jmp", "break;"],
    ["call", lines(PUSH_RETURN, "break;")],
    ["ret", lines(pop, check, "store<u64>(GPR + 32, m + 8);", indirect)],
    ["call_r", lines(register, check, PUSH_RETURN, indirect)],
    ["call_m", lines(memory, check, PUSH_RETURN, indirect)],
    ["jmp_r", lines(register, check, indirect)],
    ["jmp_m", lines(memory, check, indirect)],
  ]);
}

const INVOKE = "store<u32>(CUR, ip); call_indirect(<u32>load<u16>(ip, R_HANDLER), ip);";
// A block's head: one more run. What runs a compiled block may have changed the privilege level.
const HEAD = "const heat: u32 = load<u32>(ip, R_HEAT) - 1; store<u32>(ip, heat, R_HEAT); if (heat == 0) hot(ip);";
const FALLING: ReadonlyMap<string, string> = new Map([
  ["cold", INVOKE],
  ["head", HEAD],
  ["address", "store<u32>(CUR, ip); addressNarrow(ip);"],
  ["address_segment", `store<u64>(GPR + SLOT_TEMP, load<u64>(load<u8>(ip, R_A), GPR) + ${EFFECTIVE});`],
]);
const ENDING: ReadonlyMap<string, string> = new Map([
  ["stopped", "return;"],
  ["cold_jump", `${INVOKE} ip = afterJump(ip); tlb = load<u32>(TLB); continue;`],
  ["stop", "stopHere(ip); return;"],
  ["resync", "ip = resync(ip); continue;"],
  ["cross", "ip = crossing(ip); continue;"],
  ["compiled", "ip = call_indirect<u32>(load<u32>(ip, R_FUNCTION), ip); tlb = load<u32>(TLB); continue;"],
  ["jcc", "unreachable();"],
  ...branches(),
]);

/** The fixed operations, in the order of their numbers. */
function fixedCase(name: string): Case {
  const falling = FALLING.get(name);
  if (falling !== undefined) return { name, text: falling, falls: true };
  const text = ENDING.get(name);
  if (text === undefined) throw new Error(`interpreter: no case for ${name}`);
  return { name, text, falls: false };
}

/** A comparison joined with the conditional jump behind it. */
export interface FusedForm {
  readonly handler: string;
  readonly pattern: string;
  readonly size: 0 | 1 | 2 | 3;
}

function fusedCase({ handler, pattern, size }: FusedForm, cc: number): Case {
  // The immediate's upper half holds the jump target here.
  const plain = TEMPLATES[handler]?.(pattern, size) ?? "";
  const body = plain.replace("load<u64>(ip, R_IMM)", "<u64><i64>load<i32>(ip, R_IMM)");
  const shift = 64 - (8 << size);
  const widen = (name: string): string => (shift === 0 || cc < 8 ? name : `(${name} << ${shift})`);
  const holds = handler === "test" ? subtraction(cc, widen("r"), "0") : subtraction(cc, widen("x"), widen("y"));
  return {
    name: `${handler}_${pattern}_${8 << size}_jcc_${cc}`,
    text: lines(body, `if (${holds}) break;`),
    falls: true,
  };
}

/** All cases before the sequences, in the order of their numbers. */
export function baseCases(fixed: readonly string[], hot: readonly Operation[], fused: readonly FusedForm[]): Case[] {
  return [
    ...fixed.map(fixedCase),
    ...conditionalJumps(),
    ...hot.map(({ name, body }) => ({ name, text: body, falls: true })),
    ...fused.flatMap((form) => FUSED_CONDITIONS.map((cc) => fusedCase(form, cc))),
  ];
}
