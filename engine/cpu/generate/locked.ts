/**
 * Read-modify-write instructions on memory with LOCK (XCHG always has it): a compare-and-exchange loop on the shared
 * page, since event bits, grants and rings are changed by other threads and processes at the same time.
 */
import { EFFECTIVE, high, immediate, lazy, mask, reg, type Size, setReg, shiftOf } from "./access.ts";
import type { Template } from "./templates.ts";

const lines = (...parts: string[]): string => parts.filter((part) => part !== "").join("\n");

interface Change {
  /** The new value from x (old), y (source) and c (carry in). */
  readonly result: string;
  readonly flags: (size: Size) => string;
  readonly before?: string;
}

const arithmetic =
  (kind: string) =>
  (size: Size): string =>
    lazy(kind, size, high(size, "x"), high(size, "y"));
const logic = (size: Size): string => lazy("KIND_SUB", size, high(size, "r"), "0");
const carried =
  (subtract: boolean) =>
  (size: Size): string =>
    `setCarried(x, y, r, ${subtract}, ${shiftOf(size)}, c != 0);`;
const bit = "setCarry(<u32>(x >> n) & 1);";

const CHANGES: Readonly<Record<string, Change>> = {
  add: { result: "x + y", flags: arithmetic("KIND_ADD") },
  sub: { result: "x - y", flags: arithmetic("KIND_SUB") },
  and: { result: "x & y", flags: logic },
  or: { result: "x | y", flags: logic },
  xor: { result: "x ^ y", flags: logic },
  adc: { result: "x + y + c", flags: carried(false), before: "const c: u64 = <u64>getCarry();" },
  sbb: { result: "x - y - c", flags: carried(true), before: "const c: u64 = <u64>getCarry();" },
  inc: { result: "x + 1", flags: (size) => `setCounted(KIND_INC, x, ${shiftOf(size)});` },
  dec: { result: "x - 1", flags: (size) => `setCounted(KIND_DEC, x, ${shiftOf(size)});` },
  not: { result: "~x", flags: () => "" },
  neg: { result: "0 - x", flags: (size) => lazy("KIND_SUB", size, "0", high(size, "x")) },
  bts: { result: "x | ((<u64>1) << n)", flags: () => bit },
  btr: { result: "x & ~((<u64>1) << n)", flags: () => bit },
  btc: { result: "x ^ ((<u64>1) << n)", flags: () => bit },
};

/** The locked form of a template, or undefined where the instruction has none. */
export function lockedTemplate(handler: string, plain: Template): Template | undefined {
  const change = CHANGES[handler];
  if (change === undefined && !["xchg", "xadd", "cmpxchg"].includes(handler)) return undefined;
  return (pattern, size) => {
    const unlocked = plain(pattern, size);
    if (unlocked === undefined || !pattern.startsWith("m")) return undefined;
    const width = `u${8 << size}`;
    const source = pattern === "mr" ? reg(size, "R_A") : pattern === "mi" ? immediate(size) : "0";
    return lines(
      `const at: u32 = lockAddress(${EFFECTIVE}, ${1 << size});`,
      "if (at != 0) {",
      `const y: u64 = ${source};`,
      change === undefined ? exchange(handler, size, width) : loop(change, size, width),
      "return;",
      "}",
      unlocked,
    );
  };
}

function loop(change: Change, size: Size, width: string): string {
  return lines(
    change.before ?? "",
    `const n: u64 = y & ${(8 << size) - 1};`,
    "let x: u64 = 0;",
    "let r: u64 = 0;",
    "do {",
    `x = <u64>atomic.load<${width}>(at);`,
    `r = (${change.result}) & ${mask(size)};`,
    `} while (<u64>atomic.cmpxchg<${width}>(at, <${width}>x, <${width}>r) != x);`,
    change.flags(size),
  );
}

function exchange(handler: string, size: Size, width: string): string {
  if (handler === "xchg") return setReg(size, "R_A", `<u64>atomic.xchg<${width}>(at, <${width}>y)`);
  if (handler === "xadd") {
    return lines(
      `const x: u64 = <u64>atomic.add<${width}>(at, <${width}>y);`,
      setReg(size, "R_A", "x"),
      arithmetic("KIND_ADD")(size),
    );
  }
  const accumulator =
    size === 3
      ? "store<u64>(GPR, x)"
      : size === 2
        ? "store<u64>(GPR, <u64><u32>x)"
        : `store<${width}>(GPR, <${width}>x)`;
  return lines(
    `const c: u64 = <u64>load<${width}>(GPR);`,
    `const x: u64 = <u64>atomic.cmpxchg<${width}>(at, <${width}>c, <${width}>y);`,
    `if (x != c) { ${accumulator}; }`,
    lazy("KIND_SUB", size, high(size, "c"), high(size, "x")),
  );
}
