/** Puts compiled blocks together to one WebAssembly module that places its functions in the core's table. */
import {
  GPR,
  JUMP_CACHE,
  JUMP_FUNCTION,
  JUMP_MASK,
  JUMP_RECORD,
  JUMP_TAG,
  LEFT,
  MODE_64,
  R_FUNCTION,
  R_LINK,
  SLOT_PAGE,
} from "../assembly/layout.ts";
import { BlockEmitter, type FunctionCode } from "./emitter.ts";
import { EMPTY, Encoder, I32, I64 } from "./encoder.ts";
import type { OperationTable, Signature, Wasm } from "./ir.ts";
import type { DecodedBlock, RecordReader } from "./records.ts";

const SECTION = { custom: 0, type: 1, import: 2, function: 3, element: 9, code: 10 } as const;
const FUNCREF = 0x70;
const MOST_PAGES = 65_536;

const BLOCK_TYPE = 0;
const HANDLER_TYPE = 1;
const JUMP_TYPE = 2;
const FIXED_TYPES: readonly Signature[] = [
  [["i32"], "i32"],
  [["i32"], null],
  [["i64", "i32"], "i32"],
];

/** Functions of the core that only compiled code calls. */
const STEERING: Readonly<Record<string, Signature>> = {
  farJump: [["i32"], "i32"],
  afterJump: [["i32"], "i32"],
  getFlags: [[], "i32"],
  jumpMissed: [["i64"], "i32"],
  jumpStopped: [["i64"], "i32"],
};

const valueType = (wasm: Wasm): number => (wasm === "i64" ? I64 : I32);

/** What every module is made with. */
export interface ModuleRecipe {
  readonly table: OperationTable;
  readonly records: RecordReader;
  /** Number of the operation "resync". */
  readonly resync: number;
  /** Names of the core's handlers by function table index. */
  readonly handlers: ReadonlyMap<number, string>;
}

/** Names and types of the functions a module imports from the core, in order. */
export function importedFunctions(table: OperationTable): [name: string, signature: Signature][] {
  return Object.entries({ ...table.signatures, ...STEERING });
}

/**
 * The module of some blocks: its active element segment puts the function of blocks[n] at table index first + n. It
 * imports env.memory, env.table and core.* (importedFunctions).
 */
export function buildModule(
  recipe: ModuleRecipe,
  blocks: readonly DecodedBlock[],
  first: number,
): Uint8Array<ArrayBuffer> {
  const imports = importedFunctions(recipe.table);
  const numbers = new Map(imports.map(([name], n) => [name, n]));
  const own = imports.length;
  const byHead = new Map(blocks.map((block, n) => [block.head, own + n]));
  const helpers = own + blocks.length;
  const frame = {
    ...recipe,
    core: (name: string): number => {
      const number = numbers.get(name);
      if (number === undefined) throw new Error(`compiler: the core has no function ${name}`);
      return number;
    },
    local: (head: number) => byHead.get(head),
    helpers: {
      jump: helpers,
      enter: helpers + 1,
      link: helpers + 2,
      far: helpers + 3,
    },
    handlerType: HANDLER_TYPE,
  };
  const functions: FunctionCode[] = blocks.map((block) => BlockEmitter.compile(frame, block));
  functions.push(...helperFunctions(frame.core));
  const out = new Encoder(4096);
  out.append(new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]));
  const types = writeTypes(out, imports);
  writeImports(out, imports, types);
  writeFunctions(out, blocks.length);
  writeElements(out, first, own, blocks.length);
  writeHints(out, functions, own);
  writeCode(out, functions);
  return out.bytes().slice();
}

/** Types of the helper functions: jump, enter, link, far. */
const HELPERS = [JUMP_TYPE, BLOCK_TYPE, BLOCK_TYPE, BLOCK_TYPE] as const;

/** Goes on at the block whose head is in local `head`. */
function enterBlock(code: Encoder, head: number): void {
  code.get(head);
  code.get(head);
  code.load("u32", R_FUNCTION);
  code.returnCallIndirect(BLOCK_TYPE);
}

function withLocals(count: number, write: (code: Encoder) => void): FunctionCode {
  const code = new Encoder(128);
  code.unsigned(count === 0 ? 0 : 1);
  if (count > 0) {
    code.unsigned(count);
    code.byte(I32);
  }
  write(code);
  code.op("end");
  return { body: code.bytes(), hints: [] };
}

/** A helper that is a function of the core. */
const forward = (index: number): FunctionCode =>
  withLocals(0, (code) => {
    code.get(0);
    code.returnCall(index);
  });

function helperFunctions(core: (name: string) => number): FunctionCode[] {
  return [
    jumpFunction(core("jumpMissed"), core("jumpStopped")),
    withLocals(0, (code) => enterBlock(code, 0)),
    withLocals(1, (code) => {
      code.get(0);
      code.load("u32", R_LINK);
      code.tee(1);
      code.block("if", EMPTY);
      enterBlock(code, 1);
      code.op("end");
      code.get(0);
      code.returnCall(core("farJump"));
    }),
    forward(core("farJump")),
  ];
}

/**
 * (target, instructions up to here) → next record: through the cache of linear addresses, or the core where that does not
 * know.
 */
function jumpFunction(missed: number, stopped: number): FunctionCode {
  const [target, count, entry] = [0, 1, 2];
  const hints: [number, boolean][] = [];
  const { body } = withLocals(1, (code) => {
    code.i32(0);
    code.i32(0);
    code.load("u32", LEFT);
    code.get(count);
    code.op("i32.sub");
    code.tee(count);
    code.store("u32", LEFT);
    code.get(count);
    code.i32(0);
    code.op("i32.lt_s");
    hints.push([code.length, false]);
    code.block("if", EMPTY);
    code.get(target);
    code.returnCall(stopped);
    code.op("end");
    // entry = (target ^ target >> 13) << 4 & JUMP_MASK
    code.get(target);
    code.get(target);
    code.i64(13n);
    code.op("i64.shr_u");
    code.op("i64.xor");
    code.op("i32.wrap_i64");
    code.i32(4);
    code.op("i32.shl");
    code.i32(JUMP_MASK);
    code.op("i32.and");
    code.tee(entry);
    code.load("u64", JUMP_CACHE);
    code.get(target);
    code.i32(0);
    code.load("u64", JUMP_TAG);
    code.op("i64.xor");
    code.i64(BigInt(MODE_64) << 56n);
    code.op("i64.xor");
    code.op("i64.eq");
    hints.push([code.length, true]);
    code.block("if", EMPTY);
    code.i32(0);
    code.get(target);
    code.i64(~0xfffn);
    code.op("i64.and");
    code.store("u64", GPR + SLOT_PAGE);
    code.get(entry);
    code.load("u32", JUMP_CACHE + JUMP_RECORD);
    code.get(entry);
    code.load("u32", JUMP_CACHE + JUMP_FUNCTION);
    code.returnCallIndirect(BLOCK_TYPE);
    code.op("end");
    code.get(target);
    code.returnCall(missed);
  });
  return { body, hints };
}

const keyOf = ([parameters, result]: Signature): string => `${parameters.join()}>${result ?? ""}`;

function writeTypes(out: Encoder, imports: readonly [string, Signature][]): ReadonlyMap<string, number> {
  const types = new Map(FIXED_TYPES.map((signature, n) => [keyOf(signature), n]));
  const list = [...FIXED_TYPES];
  for (const [, signature] of imports) {
    if (types.has(keyOf(signature))) continue;
    types.set(keyOf(signature), list.length);
    list.push(signature);
  }
  const section = new Encoder();
  section.unsigned(list.length);
  for (const [parameters, result] of list) {
    section.byte(0x60);
    section.unsigned(parameters.length);
    for (const parameter of parameters) section.byte(valueType(parameter));
    section.unsigned(result === null ? 0 : 1);
    if (result !== null) section.byte(valueType(result));
  }
  out.section(SECTION.type, section);
  return types;
}

function writeImports(out: Encoder, imports: readonly [string, Signature][], types: ReadonlyMap<string, number>): void {
  const section = new Encoder();
  section.unsigned(imports.length + 2);
  section.text("env");
  section.text("memory");
  section.byte(2);
  section.byte(3); // shared, with a maximum
  section.unsigned(1);
  section.unsigned(MOST_PAGES);
  section.text("env");
  section.text("table");
  section.byte(1);
  section.byte(FUNCREF);
  section.byte(0);
  section.unsigned(1);
  for (const [name, signature] of imports) {
    section.text("core");
    section.text(name);
    section.byte(0);
    section.unsigned(types.get(keyOf(signature)) ?? 0);
  }
  out.section(SECTION.import, section);
}

function writeFunctions(out: Encoder, blocks: number): void {
  const section = new Encoder();
  section.unsigned(blocks + HELPERS.length);
  for (let n = 0; n < blocks; n++) section.unsigned(BLOCK_TYPE);
  for (const type of HELPERS) section.unsigned(type);
  out.section(SECTION.function, section);
}

function writeElements(out: Encoder, first: number, own: number, blocks: number): void {
  const section = new Encoder();
  section.unsigned(1);
  section.unsigned(0);
  section.i32(first);
  section.op("end");
  section.unsigned(blocks);
  for (let n = 0; n < blocks; n++) section.unsigned(own + n);
  out.section(SECTION.element, section);
}

/** The branch hinting proposal: which ways are seldom taken, so that their code stands apart. */
function writeHints(out: Encoder, functions: readonly FunctionCode[], own: number): void {
  const section = new Encoder();
  section.text("metadata.code.branch_hint");
  const hinted = functions.map((each, n) => [own + n, each.hints] as const).filter(([, hints]) => hints.length > 0);
  section.unsigned(hinted.length);
  for (const [index, hints] of hinted) {
    section.unsigned(index);
    section.unsigned(hints.length);
    for (const [offset, likely] of hints.toSorted((a, b) => a[0] - b[0])) {
      section.unsigned(offset);
      section.unsigned(1);
      section.byte(likely ? 1 : 0);
    }
  }
  out.section(SECTION.custom, section);
}

function writeCode(out: Encoder, functions: readonly FunctionCode[]): void {
  const section = new Encoder(16_384);
  section.unsigned(functions.length);
  for (const { body } of functions) {
    section.unsigned(body.length);
    section.append(body);
  }
  out.section(SECTION.code, section);
}
