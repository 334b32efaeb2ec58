/**
 * The text of the interpreter: one function with one switch. Kept below 100 KB of WebAssembly (V8's optimizer degrades
 * badly above), so only frequent forms have cases; `cold` calls a handler function instead.
 */
import { EFFECTIVE, loadMemory, reg, storeMemory } from "./access.ts";
import { FUSED_CONDITIONS, type Operation } from "./forms.ts";
import { COMMON_IMPORTS } from "./imports.ts";
import { TEMPLATES } from "./templates.ts";

const lines = (...parts: string[]): string => parts.join("\n");
const NEXT = "ip += 32; continue;";

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

function conditionalJumps(base: number): string {
  return Array.from({ length: 16 }, (_, cc) => {
    const direct = subtraction(cc, "load<u64>(LAZY_A)", "load<u64>(LAZY_B)");
    const holds =
      direct === undefined ? `getCond(${cc})` : `(load<u8>(LAZY_KIND) == KIND_SUB ? ${direct} : getCond(${cc}))`;
    return `case ${base + cc}: { if (${holds}) break; ${NEXT} }`;
  }).join("\n");
}

const PUSH_RETURN = lines(
  "const a: u64 = load<u64>(GPR + 32) - 8;",
  "const v: u64 = load<u64>(GPR + SLOT_PAGE) + <u64>load<u32>(ip, R_IMM);",
  storeMemory(3, "v", "a", "missPush"),
  "store<u64>(GPR + 32, a);",
);

function branches(number: (name: string) => number): string {
  const register = `const t: u64 = ${reg(3, "R_A")};`;
  const memory = lines(`const m: u64 = ${EFFECTIVE};`, loadMemory(3, "t", "m"));
  const indirect = "ip = jumpIndirect(ip, t); continue;";
  const check = "if (<i64>(t << 16) >> 16 != <i64>t) badTarget(ip);";
  const cases: [string, string][] = [
    ["jmp", "break;"],
    ["call", lines(PUSH_RETURN, "break;")],
    [
      "ret",
      lines(
        "const m: u64 = load<u64>(GPR + 32);",
        loadMemory(3, "t", "m", "missPop"),
        check,
        "store<u64>(GPR + 32, m + 8);",
        indirect,
      ),
    ],
    ["call_r", lines(register, check, PUSH_RETURN, indirect)],
    ["call_m", lines(memory, check, PUSH_RETURN, indirect)],
    ["jmp_r", lines(register, check, indirect)],
    ["jmp_m", lines(memory, check, indirect)],
  ];
  return cases.map(([name, body]) => `case ${number(name)}: {\n${body}\n}`).join("\n");
}

function fixedCases(number: (name: string) => number): string {
  const invoke = "store<u32>(CUR, ip); call_indirect(<u32>load<u16>(ip, R_HANDLER), ip);";
  const cases: [string, string][] = [
    ["stopped", "return;"],
    ["cold", `${invoke} ${NEXT}`],
    ["cold_jump", `${invoke} ip = afterJump(ip); tlb = load<u32>(TLB); continue;`],
    ["address", `store<u32>(CUR, ip); addressNarrow(ip); ${NEXT}`],
    ["address_segment", `store<u64>(GPR + SLOT_TEMP, load<u64>(load<u8>(ip, R_A), GPR) + ${EFFECTIVE}); ${NEXT}`],
    ["stop", "stopHere(ip, 0); return;"],
    ["resync", "ip = resync(ip); continue;"],
    ["cross", "ip = crossing(ip); continue;"],
  ];
  return cases.map(([name, body]) => `case ${number(name)}: { ${body} }`).join("\n");
}

function fusedCases(base: number, forms: readonly { handler: string; pattern: string; size: 0 | 1 | 2 | 3 }[]): string {
  return forms
    .flatMap(({ handler, pattern, size }, index) =>
      FUSED_CONDITIONS.map((cc, position) => {
        // The immediate's upper half holds the jump target here.
        const body = (TEMPLATES[handler]?.(pattern, size) ?? "").replace(
          "load<u64>(ip, R_IMM)",
          "<u64><i64>load<i32>(ip, R_IMM)",
        );
        const shift = 64 - (8 << size);
        const widen = (name: string): string => (shift === 0 ? name : `(${name} << ${shift})`);
        const signed = cc >= 8;
        const holds =
          handler === "test"
            ? subtraction(cc, signed ? widen("r") : "r", "0")
            : subtraction(cc, signed ? widen("x") : "x", signed ? widen("y") : "y");
        return `case ${base + index * FUSED_CONDITIONS.length + position}: {\n${body}\nif (${holds}) break; ${NEXT} }`;
      }),
    )
    .join("\n");
}

/** Source of interpreter.ts. */
export function interpreterSource(
  fixed: readonly string[],
  hotBase: number,
  hot: readonly Operation[],
  fused: readonly { handler: string; pattern: string; size: 0 | 1 | 2 | 3 }[],
): string {
  const number = (name: string): number => fixed.indexOf(name);
  const body = hot.map(
    (operation, index) => `case ${hotBase + index}: { // ${operation.name}\n${operation.body}\n${NEXT}\n}`,
  );
  return lines(
    "// Generated from engine/cpu/table by engine/cpu/generate. Do not edit.",
    COMMON_IMPORTS,
    'import { SLOT_TEMP } from "../layout";',
    'import { badTarget } from "../branch";',
    'import { addressNarrow } from "../operands";',
    'import { afterJump, crossing, farJump, jumpIndirect, resync, stopHere } from "../code";',
    "const PAGE: u64 = ~(<u64>0xfff);",
    "/** Runs records from `ip` until one stops; RIP is exact afterwards. */",
    "export function exec(ip: u32): void {",
    "let tlb: u32 = load<u32>(TLB);",
    "while (true) {",
    "switch (<u32>load<u16>(ip)) {",
    fixedCases(number),
    branches(number),
    conditionalJumps(fixed.length),
    ...body,
    fusedCases(hotBase + hot.length, fused),
    "default: unreachable();",
    "}",
    "// A taken direct jump: the linked record if it is in this page and budget is left.",
    "const left: i32 = load<i32>(LEFT) - <i32>load<u16>(ip, R_COUNT);",
    "store<i32>(LEFT, left);",
    "const link: u32 = load<u32>(ip, R_LINK);",
    "ip = link != 0 && left >= 0 ? link : farJump(ip);",
    "}",
    "}",
    "",
  );
}
