/**
 * Writes the generated parts of the CPU core from the instruction table:
 *   opcodes.ts      the decoder's tables and the case numbers
 *   handlers.ts     functions of the templates that are not hot, and the table of all handlers
 *   interpreter.ts  the switch
 */
import { INSTRUCTIONS } from "../table/index.ts";
import type { Row } from "../table/rows.ts";
import { baseCases } from "./cases.ts";
import { BRANCHES, FUSED_CONDITIONS, fusedForms, Operations, SCHEME, SIZES, shapeOf } from "./forms.ts";
import { COMMON_IMPORTS } from "./imports.ts";
import { interpreterSource } from "./interpreter.ts";
import { operationTable } from "./operation-table.ts";
import { mergeTable, resolveSequences } from "./sequences.ts";
import { TEMPLATES } from "./templates.ts";
import { buildTree } from "./tree.ts";

/** Case numbers below this are the fixed cases of interpreter.ts. */
const FIXED = [
  "stopped",
  "cold",
  "cold_jump",
  "address",
  "address_segment",
  "stop",
  "resync",
  "cross",
  "head",
  "compiled",
  ...BRANCHES,
];
const JCC_SPAN = 16;

/** Names of the handwritten handlers, each with the module that exports it. */
export type HandlerModules = ReadonlyMap<string, string>;

export interface GeneratedFile {
  readonly name: string;
  readonly text: string;
}

const IMMEDIATES = ["", "Ib", "Iw", "Iz", "Iv", "Ibs", "Jb", "Jz", "Ob", "enter", "Ap", "1"];

function immediateOf(row: Row): number {
  if (row.operands.includes("Iw") && row.operands.includes("Ib")) return IMMEDIATES.indexOf("enter");
  for (const operand of row.operands) {
    if (operand === "Ov") return IMMEDIATES.indexOf("Ob");
    const found = IMMEDIATES.indexOf(operand);
    if (found > 0) return found;
  }
  return 0;
}

const NEAR_BRANCHES: ReadonlySet<string> = new Set([
  "jcc",
  "jmp",
  "call",
  "ret",
  "ret_imm",
  "call_indirect_near",
  "jmp_indirect_near",
  "loop",
  "loope",
  "loopne",
  "jcxz",
]);

/**
 * Size rule of a row: 0…3 fixed, 4 by operand size, 5 by operand size with 64-bit default, 6 32 or 64 by REX.W,
 * 7 a near branch (always 64 bits in 64-bit mode).
 */
function sizeOf(row: Row): number {
  if (NEAR_BRANCHES.has(row.handler)) return 7;
  if (row.attributes.has("d64")) return 5;
  if (row.attributes.has("byte")) return 0;
  const operand = row.operands.find((each) => !each.startsWith("I") && each !== "1" && each !== "CL") ?? "";
  if (/^(E|G|M|Z|O|R)b$/.test(operand) || operand === "AL") return 0;
  if (/^[EGMR]w$/.test(operand)) return 1;
  if (/^[EGMR]d$/.test(operand)) return 2;
  if (/^[EGMR]q$/.test(operand)) return 3;
  if (/^[EGMRCD]y$/.test(operand)) return 6;
  return 4;
}

const ROW_LOCK = 1;
const ROW_JUMP = 2;
const ROW_BYTE_REG = 16;
const ROW_BYTE_RM = 32;
const ROW_CONDITION = 64;

function flagsOf(row: Row): number {
  let flags = 0;
  if (row.attributes.has("lock")) flags |= ROW_LOCK;
  if (row.attributes.has("jump")) flags |= ROW_JUMP;
  if (row.operands.includes("Gb") || row.operands.includes("Zb")) flags |= ROW_BYTE_REG;
  if (row.operands.includes("Eb")) flags |= ROW_BYTE_RM;
  if (row.span === 16) flags |= ROW_CONDITION;
  return flags;
}

class Generator {
  readonly operations = new Operations();
  readonly handlers: string[] = ["invalid_opcode"];
  private readonly numbers = new Map<string, number>([["invalid_opcode", 0]]);
  readonly hotBase = FIXED.length + JCC_SPAN;
  private readonly modules: HandlerModules;

  constructor(modules: HandlerModules) {
    this.modules = modules;
  }

  handlerNumber(name: string): number {
    const known = this.numbers.get(name);
    if (known !== undefined) return known;
    this.numbers.set(name, this.handlers.length);
    this.handlers.push(name);
    return this.handlers.length - 1;
  }

  /** The eight implementation codes of a row: [register, memory] × size, then the four LOCK forms. */
  codes(row: Row): number[] {
    const shape = shapeOf(row);
    const codes: number[] = [];
    for (const pattern of [shape.register, shape.memory]) {
      for (const size of SIZES) codes.push(this.code(row, pattern, size));
    }
    for (const size of SIZES) {
      const locked =
        shape.memory === undefined ? undefined : this.operations.requestLocked(row.handler, shape.memory, size);
      codes.push(locked === undefined ? 0 : 0x8000 | this.handlerNumber(locked.name));
    }
    return codes;
  }

  private code(row: Row, pattern: string | undefined, size: 0 | 1 | 2 | 3): number {
    const branch = branchCase(row, pattern, size);
    if (branch !== undefined) return branch;
    if (pattern !== undefined && row.handler in TEMPLATES) {
      // XCHG with memory is atomic without a LOCK prefix.
      const locked = row.handler === "xchg" && pattern === "mr";
      const operation = locked
        ? this.operations.requestLocked("xchg", "mr", size)
        : this.operations.request(row.handler, pattern, size);
      if (operation !== undefined) {
        const hot = locked ? -1 : this.operations.hot.indexOf(operation);
        return hot >= 0 ? this.hotBase + hot : 0x8000 | this.handlerNumber(operation.name);
      }
    }
    if (!this.modules.has(row.handler)) {
      if (row.handler in TEMPLATES) return 0;
      throw new Error(`instruction table: no handler "${row.handler}" (${row.mnemonic})`);
    }
    return 0x8000 | this.handlerNumber(row.handler);
  }
}

function branchCase(row: Row, pattern: string | undefined, size: number): number | undefined {
  const at = (name: string): number => FIXED.indexOf(name);
  // A 16-bit operand size cuts EIP: those go through a function.
  if (row.handler === "jmp" && size >= 2) return at("jmp");
  if (row.handler === "jcc" && size >= 2) return FIXED.length;
  if (size !== 3) return undefined;
  if (row.handler === "call") return at("call");
  if (row.handler === "ret") return at("ret");
  if (row.handler === "call_indirect_near") return at(pattern === "r" ? "call_r" : "call_m");
  if (row.handler === "jmp_indirect_near") return at(pattern === "r" ? "jmp_r" : "jmp_m");
  return undefined;
}

const data = (name: string, type: string, values: readonly number[]): string =>
  `export const ${name}: usize = memory.data<${type}>([${values.join(",")}]);\n`;

/** Generates all files. `modules`: exported handler name → module specifier. */
export function generate(modules: HandlerModules): GeneratedFile[] {
  const generator = new Generator(modules);
  const tree = buildTree(INSTRUCTIONS);
  const codes = INSTRUCTIONS.flatMap((row) => generator.codes(row));
  const fused = fusedForms();
  const fusedBase = generator.hotBase + generator.operations.hot.length;
  const fuse = new Array<number>(generator.operations.hot.length).fill(0);
  fused.forEach(({ handler, pattern, size }, index) => {
    const operation = generator.operations.request(handler, pattern, size);
    const hot = operation === undefined ? -1 : generator.operations.hot.indexOf(operation);
    if (hot < 0) throw new Error(`no operation to fuse: ${handler} ${pattern} ${size}`);
    fuse[hot] = fusedBase + index * FUSED_CONDITIONS.length;
  });
  const conditions = Array.from({ length: 16 }, (_, cc) => FUSED_CONDITIONS.indexOf(cc) & 0xff);
  const cases = baseCases(FIXED, generator.operations.hot, fused);
  const { sequences, merges } = resolveSequences(cases);
  const { keys, results } = mergeTable(merges);
  const opcodes = [
    "// Generated from engine/cpu/table by engine/cpu/generate. Do not edit.\n",
    ...FIXED.map((name, index) => `export const OP_${name.toUpperCase()}: u32 = ${index};\n`),
    `export const OP_JCC_FIRST: u32 = ${FIXED.length};\n`,
    `export const OP_HOT_FIRST: u32 = ${generator.hotBase};\n`,
    `export const OP_FUSED_FIRST: u32 = ${fusedBase};\n`,
    data("ROOTS", "u16", tree.roots),
    data("NODES", "u16", tree.nodes.length === 0 ? [0] : tree.nodes),
    data("HAS_MODRM", "u8", tree.modrm),
    data("ROW_CODES", "u16", codes),
    data("ROW_IMMEDIATE", "u8", INSTRUCTIONS.map(immediateOf)),
    data("ROW_SIZE", "u8", INSTRUCTIONS.map(sizeOf)),
    data("ROW_FLAGS", "u8", INSTRUCTIONS.map(flagsOf)),
    data(
      "ROW_SCHEME",
      "u8",
      INSTRUCTIONS.map((row) => (row.map === 0 && row.handler.startsWith("x87") ? SCHEME.none : shapeOf(row).scheme)),
    ),
    data("FUSE", "u16", fuse),
    data("FUSE_CONDITION", "u8", conditions),
    data("MERGE_KEYS", "u32", keys),
    data("MERGE_RESULTS", "u16", results),
  ].join("");
  return [
    { name: "opcodes.ts", text: opcodes },
    { name: "handlers.ts", text: handlersSource(generator, modules) },
    { name: "interpreter.ts", text: interpreterSource(cases, sequences) },
    {
      name: "operations.json",
      text: operationTable(cases, sequences, generator.handlers, generator.operations.cold),
    },
  ];
}

function handlersSource(generator: Generator, modules: HandlerModules): string {
  const imports = new Map<string, string[]>();
  for (const name of generator.handlers) {
    const module = modules.get(name);
    if (module !== undefined) imports.set(module, [...(imports.get(module) ?? []), name]);
  }
  const functions = generator.operations.cold.map(
    ({ name, body }) => `function ${name}(ip: u32): void {\nconst tlb: u32 = load<u32>(TLB);\n${body}\n}\n`,
  );
  const registrations = generator.handlers.map(
    (name, index) => `store<u16>(HANDLERS + ${index * 2}, <u16>${name}.index);`,
  );
  return [
    "// Generated from engine/cpu/table by engine/cpu/generate. Do not edit.\n",
    COMMON_IMPORTS,
    ...[...imports].map(([module, names]) => `import { ${names.join(", ")} } from "../${module}";\n`),
    `/** u16 function table index of each handler number. */\nexport const HANDLERS: usize = memory.data(${generator.handlers.length * 2});\n`,
    "const PAGE: u64 = ~(<u64>0xfff);\n",
    ...functions,
    "/** Fills HANDLERS; called once when the core starts. */\nexport function registerHandlers(): void {\n",
    registrations.join("\n"),
    "\n}\n",
  ].join("");
}
