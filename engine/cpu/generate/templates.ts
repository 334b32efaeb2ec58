/**
 * What each instruction does, as AssemblyScript text for one operand pattern and size. The same text becomes a hot
 * case of the interpreter's switch or a function of its own; in both, `ip` is the record and `tlb` the TLB in use.
 *
 * Patterns: r register, m memory, i immediate, c CL; the destination first. "rr" is register ← register, "mr" memory ←
 * register, "rri" and "rmi" have an immediate as third operand. The destination register is R_A, the source register
 * R_B; with a memory operand the one register is R_A.
 */
import {
  bits,
  EFFECTIVE,
  high,
  immediate,
  lazy,
  loadMemory,
  mask,
  reg,
  type Size,
  setReg,
  shiftOf,
  storeMemory,
} from "./access.ts";

export type Pattern = string;

/** A template returns the statements, or undefined where the pattern does not exist for the instruction. */
export type Template = (pattern: Pattern, size: Size) => string | undefined;

const lines = (...parts: (string | undefined)[]): string => parts.filter((part) => part !== undefined).join("\n");
const address = `const a: u64 = ${EFFECTIVE};`;

/** Statements declaring x (destination's old value) and y (source). */
function operands(pattern: Pattern, size: Size): string | undefined {
  switch (pattern) {
    case "rr":
      return lines(`const x: u64 = ${reg(size, "R_A")};`, `const y: u64 = ${reg(size, "R_B")};`);
    case "rm":
      return lines(address, loadMemory(size, "y"), `const x: u64 = ${reg(size, "R_A")};`);
    case "mr":
      return lines(address, loadMemory(size, "x"), `const y: u64 = ${reg(size, "R_A")};`);
    case "ri":
      return lines(`const x: u64 = ${reg(size, "R_A")};`, `const y: u64 = ${immediate(size)};`);
    case "mi":
      return lines(address, loadMemory(size, "x"), `const y: u64 = ${immediate(size)};`);
    case "rc":
      return lines(`const x: u64 = ${reg(size, "R_A")};`, "const y: u64 = <u64>load<u8>(GPR + 8);");
    case "mc":
      return lines(address, loadMemory(size, "x"), "const y: u64 = <u64>load<u8>(GPR + 8);");
    case "r":
      return `const x: u64 = ${reg(size, "R_A")};`;
    case "m":
      return lines(address, loadMemory(size, "x"));
    default:
      return undefined;
  }
}

const setDestination = (pattern: Pattern, size: Size, value: string): string =>
  pattern.startsWith("m") ? storeMemory(size, value) : setReg(size, "R_A", value);

/** Two-operand arithmetic: result text from x and y, then flags. */
function binary(result: string, flags: (size: Size) => string, writes = true): Template {
  return (pattern, size) => {
    const head = operands(pattern, size);
    if (head === undefined) return undefined;
    return lines(
      head,
      `const r: u64 = ${result};`,
      writes ? setDestination(pattern, size, "r") : undefined,
      flags(size),
    );
  };
}

const flagsOf = (kind: string) => (size: Size) => lazy(kind, size, high(size, "x"), high(size, "y"));
const logicFlags = (size: Size): string => lazy("KIND_SUB", size, high(size, "r"), "0");

function carryArithmetic(subtract: boolean): Template {
  return (pattern, size) => {
    const head = operands(pattern, size);
    if (head === undefined) return undefined;
    const sign = subtract ? "-" : "+";
    return lines(
      head,
      "const c: u64 = <u64>getCarry();",
      `const r: u64 = (x ${sign} y ${sign} c) & ${mask(size)};`,
      setDestination(pattern, size, "r"),
      `setCarried(x, y, r, ${subtract ? "true" : "false"}, ${shiftOf(size)}, c != 0);`,
    );
  };
}

const counted =
  (kind: "INC" | "DEC"): Template =>
  (pattern, size) => {
    const head = operands(pattern, size);
    if (head === undefined) return undefined;
    return lines(
      head,
      setDestination(pattern, size, kind === "INC" ? "x + 1" : "x - 1"),
      `setCounted(KIND_${kind}, x, ${shiftOf(size)});`,
    );
  };

const mov: Template = (pattern, size) => {
  switch (pattern) {
    case "rr":
      return setReg(size, "R_A", reg(size, "R_B"));
    case "rm":
      return lines(address, loadMemory(size, "y"), setReg(size, "R_A", "y"));
    case "mr":
      return lines(address, storeMemory(size, reg(size, "R_A")));
    case "ri":
      return setReg(size, "R_A", immediate(size));
    case "mi":
      return lines(address, storeMemory(size, immediate(size)));
    default:
      return undefined;
  }
};

/** movzx, movsx, movsxd: `from` is the source's size. */
function extend(from: Size, signed: boolean): Template {
  const widen = (value: string): string =>
    signed ? `<u64>(<i64>((${value}) << ${shiftOf(from)}) >> ${shiftOf(from)})` : value;
  return (pattern, size) => {
    if (pattern === "rr") return setReg(size, "R_A", widen(reg(from, "R_B")));
    if (pattern === "rm") return lines(address, loadMemory(from, "y"), setReg(size, "R_A", widen("y")));
    return undefined;
  };
}

const lea: Template = (pattern, size) => (pattern === "rm" ? setReg(size, "R_A", EFFECTIVE) : undefined);

/** Accesses to the stack in 64-bit mode: an address that is not canonical is #SS there. */
const STACK_STORE = storeMemory(3, "v", "a", "missPush");
const STACK_LOAD = loadMemory(3, "v", "a", "missPop");

const push: Template = (pattern, size) => {
  if (size !== 3) return undefined;
  const stack = "const a: u64 = load<u64>(GPR + 32) - 8;";
  const commit = "store<u64>(GPR + 32, a);";
  if (pattern === "r") return lines(`const v: u64 = ${reg(3, "R_A")};`, stack, STACK_STORE, commit);
  if (pattern === "i") return lines(`const v: u64 = ${immediate(3)};`, stack, STACK_STORE, commit);
  if (pattern === "m") {
    return lines(`const m: u64 = ${EFFECTIVE};`, loadMemory(3, "v", "m"), stack, STACK_STORE, commit);
  }
  return undefined;
};

const pop: Template = (pattern, size) => {
  if (size !== 3 || pattern !== "r") return undefined;
  return lines(
    "const a: u64 = load<u64>(GPR + 32);",
    STACK_LOAD,
    "store<u64>(GPR + 32, a + 8);",
    setReg(3, "R_A", "v"),
  );
};

const leave: Template = (pattern, size) => {
  if (size !== 3 || pattern !== "") return undefined;
  return lines(
    "const a: u64 = load<u64>(GPR + 40);",
    STACK_LOAD,
    "store<u64>(GPR + 32, a + 8);",
    "store<u64>(GPR + 40, v);",
  );
};

const unary =
  (result: string, flags?: (size: Size) => string): Template =>
  (pattern, size) => {
    const head = operands(pattern, size);
    if (head === undefined || pattern.length !== 1) return undefined;
    return lines(head, `const r: u64 = ${result};`, setDestination(pattern, size, "r"), flags?.(size));
  };

const negFlags = (size: Size): string => lazy("KIND_SUB", size, "0", high(size, "x"));

/** Shifts and rotates go through a function that computes value and flags; a count of 0 leaves flags alone. */
function shift(name: string): Template {
  return (pattern, size) => {
    const head = operands(pattern, size);
    if (head === undefined || !/^[rm][ic]$/.test(pattern)) return undefined;
    const count = size === 3 ? "63" : "31";
    if (name === "shl" || name === "shr" || name === "sar") {
      const sx = `(<i64>(x << ${shiftOf(size)}) >> ${shiftOf(size)})`;
      const result = name === "shl" ? "x << n" : name === "shr" ? "x >> n" : `<u64>(${sx} >> n)`;
      const carry =
        name === "shl"
          ? size === 3
            ? "<u32>(x >> (64 - n)) & 1"
            : `<u32>((x << n) >> ${bits(size)}) & 1`
          : name === "shr"
            ? "<u32>(x >> (n - 1)) & 1"
            : `<u32>(${sx} >> (n - 1)) & 1`;
      const overflow =
        name === "shl"
          ? `((<u32>(r >> ${bits(size) - 1}) ^ c) & 1)`
          : name === "shr"
            ? `(<u32>(x >> ${bits(size) - 1}) & 1)`
            : "0";
      return lines(
        head,
        `const n: u64 = y & ${count};`,
        `const r: u64 = ${result};`,
        pattern.startsWith("m") || size === 2
          ? setDestination(pattern, size, "r")
          : `if (n != 0) ${setDestination(pattern, size, "r")}`,
        "if (n != 0) {",
        `const c: u32 = ${carry};`,
        `setResult(r, ${shiftOf(size)}, c | (${overflow} << 11));`,
        "}",
      );
    }
    if ((name === "rol" || name === "ror") && size >= 2) return rotate(name, head, pattern, size);
    return lines(
      head,
      `const n: u32 = <u32>y & ${count};`,
      `const r: u64 = n == 0 ? x : ${name}Value(x, n, ${bits(size)});`,
      setDestination(pattern, size, "r"),
      `if (n != 0) ${name}Flags(x, r, n, ${bits(size)});`,
    );
  };
}

/** ROL and ROR of 32 and 64 bits: one WebAssembly instruction, and only CF and OF change. */
function rotate(name: "rol" | "ror", head: string, pattern: Pattern, size: Size): string {
  const type = `u${bits(size)}`;
  const top = bits(size) - 1;
  const turn = name === "rol" ? "rotl" : "rotr";
  const flags =
    name === "rol"
      ? `setCarryOverflow(<u32>r & 1, (<u32>(r >> ${top}) ^ <u32>r) & 1);`
      : `setCarryOverflow(<u32>(r >> ${top}), <u32>((r >> ${top}) ^ (r >> ${top - 1})) & 1);`;
  return lines(
    head,
    `const n: u64 = y & ${top};`,
    `const r: u64 = <u64>${turn}<${type}>(<${type}>x, <${type}>n);`,
    setDestination(pattern, size, "r"),
    `if (n != 0) ${flags}`,
  );
}

const imul: Template = (pattern, size) => {
  if (size === 0) return undefined;
  const source: Record<string, string> = {
    rr: lines(`const x: u64 = ${reg(size, "R_A")};`, `const y: u64 = ${reg(size, "R_B")};`),
    rm: lines(address, loadMemory(size, "y"), `const x: u64 = ${reg(size, "R_A")};`),
    rri: lines(`const x: u64 = ${reg(size, "R_B")};`, `const y: u64 = ${immediate(size)};`),
    rmi: lines(address, loadMemory(size, "x"), `const y: u64 = ${immediate(size)};`),
  };
  const head = source[pattern];
  if (head === undefined) return undefined;
  if (size === 3) {
    return lines(
      head,
      "const r: u64 = x * y;",
      setReg(3, "R_A", "r"),
      "setResult(r, 0, signedHigh(x, y) != (<i64>r >> 63) ? 2049 : 0);",
    );
  }
  const s = shiftOf(size);
  const signed = (value: string): string => `(<i64>(${value} << ${s}) >> ${s})`;
  return lines(
    head,
    `const full: i64 = ${signed("x")} * ${signed("y")};`,
    "const r: u64 = <u64>full;",
    setReg(size, "R_A", "r"),
    `setResult(r, ${s}, ${signed("r")} != full ? 2049 : 0);`,
  );
};

const cmovcc: Template = (pattern, size) => {
  if (size === 0) return undefined;
  // A false condition still zero-extends a 32-bit destination, and the memory operand is always read.
  const value = `getCond(load<u8>(ip, R_IMM)) ? y : ${reg(size, "R_A")}`;
  if (pattern === "rr") return lines(`const y: u64 = ${reg(size, "R_B")};`, setReg(size, "R_A", value));
  if (pattern === "rm") return lines(address, loadMemory(size, "y"), setReg(size, "R_A", value));
  return undefined;
};

const setcc: Template = (pattern) => {
  const value = "<u64>getCond(load<u8>(ip, R_IMM))";
  if (pattern === "r") return setReg(0, "R_A", value);
  if (pattern === "m") return lines(address, storeMemory(0, value));
  return undefined;
};

const xchg: Template = (pattern, size) => {
  if (pattern === "rr") {
    return lines(
      `const x: u64 = ${reg(size, "R_A")};`,
      `const y: u64 = ${reg(size, "R_B")};`,
      setReg(size, "R_A", "y"),
      setReg(size, "R_B", "x"),
    );
  }
  if (pattern === "mr") {
    return lines(operands("mr", size), storeMemory(size, "y"), setReg(size, "R_A", "x"));
  }
  return undefined;
};

const xadd: Template = (pattern, size) => {
  if (pattern !== "rr" && pattern !== "mr") return undefined;
  const source = pattern === "rr" ? "R_B" : "R_A";
  const write =
    pattern === "rr"
      ? lines(setReg(size, "R_B", "x"), setReg(size, "R_A", "x + y"))
      : lines(storeMemory(size, "x + y"), setReg(size, source, "x"));
  return lines(operands(pattern, size), write, flagsOf("KIND_ADD")(size));
};

const cmpxchg: Template = (pattern, size) => {
  if (pattern !== "rr" && pattern !== "mr") return undefined;
  const accumulator = size === 3 ? "load<u64>(GPR)" : `<u64>load<u${bits(size)}>(GPR)`;
  const setAccumulator =
    size === 3
      ? "store<u64>(GPR, x);"
      : size === 2
        ? "store<u64>(GPR, <u64><u32>x);"
        : `store<u${bits(size)}>(GPR, <u${bits(size)}>x);`;
  // The destination is written in both cases: its old value when the comparison fails.
  return lines(
    operands(pattern, size),
    `const c: u64 = ${accumulator};`,
    pattern === "mr" ? storeMemory(size, "(c == x ? y : x)") : `if (c == x) { ${setReg(size, "R_A", "y")} }`,
    `if (c != x) { ${setAccumulator} }`,
    lazy("KIND_SUB", size, high(size, "c"), high(size, "x")),
  );
};

/** bt, bts, btr, btc on a register, or on memory with an immediate bit number (no address displacement). */
function bitTest(change: string | undefined): Template {
  return (pattern, size) => {
    if (size === 0 || !["rr", "ri", "mi"].includes(pattern)) return undefined;
    return lines(
      operands(pattern, size),
      `const n: u64 = y & ${bits(size) - 1};`,
      change === undefined ? undefined : setDestination(pattern, size, `(x ${change})`),
      "setCarry(<u32>(x >> n) & 1);",
    );
  };
}

const bswap: Template = (pattern, size) => {
  if (pattern !== "r") return undefined;
  if (size === 3) return lines(operands("r", 3), setReg(3, "R_A", "bswap<u64>(x)"));
  return lines(operands("r", 2), setReg(2, "R_A", size === 2 ? "<u64>bswap<u32>(<u32>x)" : "x & 0xffff0000"));
};

const cbw: Template = (pattern, size) => {
  if (pattern !== "") return undefined;
  if (size === 1) return "store<u16>(GPR, <u16><i16>load<i8>(GPR));";
  if (size === 2) return "store<u64>(GPR, <u64><u32><i32>load<i16>(GPR));";
  return "store<u64>(GPR, <u64><i64>load<i32>(GPR));";
};

const cwd: Template = (pattern, size) => {
  if (pattern !== "") return undefined;
  if (size === 1) return "store<u16>(GPR + 16, <u16>(<i32>load<i16>(GPR) >> 31));";
  if (size === 2) return "store<u64>(GPR + 16, <u64><u32>(load<i32>(GPR) >> 31));";
  return "store<u64>(GPR + 16, <u64>(load<i64>(GPR) >> 63));";
};

function doubleShift(left: boolean): Template {
  return (pattern, size) => {
    if (size === 0) return undefined;
    const count = pattern.endsWith("c") ? "<u32>load<u8>(GPR + 8)" : "<u32>load<u8>(ip, R_IMM)";
    const memory = pattern.startsWith("m");
    const head = memory ? operands("mr", size) : operands("rr", size);
    if (!/^[rm]r[ic]$/.test(pattern)) return undefined;
    return lines(
      head,
      `const n: u32 = ${count} & ${size === 3 ? 63 : 31};`,
      `const r: u64 = n == 0 ? x : ${left ? "shldValue" : "shrdValue"}(x, y, n, ${bits(size)});`,
      setDestination(pattern, size, "r"),
      `if (n != 0) ${left ? "shldFlags" : "shrdFlags"}(x, y, r, n, ${bits(size)});`,
    );
  };
}

const bitScan =
  (count: string): Template =>
  (pattern, size) => {
    if (size === 0 || (pattern !== "rr" && pattern !== "rm")) return undefined;
    const source = pattern === "rr" ? `const y: u64 = ${reg(size, "R_B")};` : lines(address, loadMemory(size, "y"));
    // A zero source leaves the destination as it was (also the upper half of a 64-bit register).
    return lines(source, `if (y != 0) { ${setReg(size, "R_A", count)} }`, "setScanFlags(y);");
  };

const nop: Template = (pattern) => (["", "r", "m", "rr"].includes(pattern) ? "" : undefined);

/** Every instruction that is written as a template, by handler name. */
export const TEMPLATES: Readonly<Record<string, Template>> = {
  add: binary("x + y", flagsOf("KIND_ADD")),
  sub: binary("x - y", flagsOf("KIND_SUB")),
  cmp: binary("0", flagsOf("KIND_SUB"), false),
  and: binary("x & y", logicFlags),
  or: binary("x | y", logicFlags),
  xor: binary("x ^ y", logicFlags),
  test: binary("x & y", logicFlags, false),
  adc: carryArithmetic(false),
  sbb: carryArithmetic(true),
  inc: counted("INC"),
  dec: counted("DEC"),
  not: unary("~x"),
  neg: unary("0 - x", negFlags),
  mov,
  movzx_b: extend(0, false),
  movzx_w: extend(1, false),
  movsx_b: extend(0, true),
  movsx_w: extend(1, true),
  movsxd: extend(2, true),
  lea,
  push,
  pop,
  leave,
  shl: shift("shl"),
  shr: shift("shr"),
  sar: shift("sar"),
  rol: shift("rol"),
  ror: shift("ror"),
  rcl: shift("rcl"),
  rcr: shift("rcr"),
  imul,
  cmovcc,
  setcc,
  xchg,
  xadd,
  cmpxchg,
  bt: bitTest(undefined),
  bts: bitTest("| ((<u64>1) << n)"),
  btr: bitTest("& ~((<u64>1) << n)"),
  btc: bitTest("^ ((<u64>1) << n)"),
  bswap,
  cbw,
  cwd,
  shld: doubleShift(true),
  shrd: doubleShift(false),
  bsf: bitScan("ctz<u64>(y)"),
  bsr: bitScan("63 - clz<u64>(y)"),
  nop,
};

/** Whether a form deserves a case of the interpreter's switch; the others become functions. */
export function isHot(handler: string, pattern: Pattern, size: Size): boolean {
  const wide = size >= 2;
  switch (handler) {
    case "add":
    case "sub":
    case "and":
    case "or":
    case "xor":
    case "cmp":
    case "test":
      return wide || size === 0 || handler === "cmp" || handler === "test";
    case "mov":
      return true;
    case "movzx_b":
    case "movzx_w":
    case "movsx_b":
    case "movsx_w":
    case "movsxd":
    case "lea":
      return wide;
    case "inc":
    case "dec":
    case "neg":
    case "not":
    case "cmovcc":
      return wide;
    case "shl":
    case "shr":
    case "sar":
    case "rol":
    case "ror":
      return wide && pattern.startsWith("r");
    case "imul":
    case "bsf":
      return wide && pattern === "rr";
    case "setcc":
      return true;
    case "bt":
      return wide && pattern !== "mi";
    case "bswap":
      return wide;
    case "push":
    case "pop":
    case "leave":
    case "nop":
      return true;
    case "cbw":
    case "cwd":
      return wide;
    case "xchg":
      return wide;
    case "adc":
    case "sbb":
      return wide && (pattern === "rr" || pattern === "ri");
    default:
      return false;
  }
}
