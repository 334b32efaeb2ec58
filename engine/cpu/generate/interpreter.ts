/**
 * The text of the interpreter: one function with one switch. Kept below 100 KB of WebAssembly (V8's optimizer degrades
 * badly above), so only frequent forms have cases; `cold` calls a handler function instead.
 */
import type { Case } from "./cases.ts";
import { COMMON_IMPORTS } from "./imports.ts";

const lines = (...parts: string[]): string => parts.join("\n");

/** A step inside a sequence: the next record, unless the element before has written over its own code. */
function step(element: Case): string {
  const writes = /missWrite|missPush|call_indirect/.test(element.text);
  return writes ? "ip += 32; if (load<u16>(ip) == <u16>OP_RESYNC) continue;" : "ip += 32;";
}

function caseText(number: number, elements: readonly Case[]): string {
  const inner = elements.slice(0, -1).map((element) => `{\n${element.text}\n}\n${step(element)}`);
  const last = elements.at(-1);
  const end = last?.falls ? "\nip += 32; continue;" : "";
  const name = elements.map((element) => element.name).join(" ");
  return lines(`case ${number}: { // ${name}`, ...inner, `{\n${last?.text}\n}${end}`, "}");
}

/** Source of interpreter.ts. `sequences` are runs of cases that one record's operation executes. */
export function interpreterSource(cases: readonly Case[], sequences: readonly (readonly Case[])[]): string {
  return lines(
    "// Generated from engine/cpu/table by engine/cpu/generate. Do not edit.",
    COMMON_IMPORTS,
    'import { R_FUNCTION, R_HEAT, SLOT_TEMP } from "../layout";',
    'import { badTarget } from "../branch";',
    'import { addressNarrow } from "../operands";',
    'import { OP_RESYNC } from "./opcodes";',
    'import { afterJump, crossing, farJump, hot, jumpIndirect, resync, stopHere } from "../code";',
    "const PAGE: u64 = ~(<u64>0xfff);",
    "/** Runs records from `ip` until one stops; RIP is exact afterwards. */",
    "export function exec(ip: u32): void {",
    "let tlb: u32 = load<u32>(TLB);",
    "while (true) {",
    "switch (<u32>load<u16>(ip)) {",
    ...cases.map((each, number) => caseText(number, [each])),
    ...sequences.map((elements, index) => caseText(cases.length + index, elements)),
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
