/**
 * Compiles blocks that have become hot. The core queues them; between two runs of the vCPU the compiler takes what is queued
 * and makes a module of it, whose functions take the blocks' places: from then on the interpreter, and other compiled
 * blocks, call them.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import { CODE_RESETS, HOT_COUNT, HOT_QUEUE, HOT_THRESHOLD, R_FUNCTION, R_OP } from "../assembly/layout.ts";
import type { OperationTable } from "./ir.ts";
import { buildModule, importedFunctions, type ModuleRecipe } from "./module.ts";
import { type DecodedBlock, RecordReader } from "./records.ts";

export interface CompilerOptions {
  /** Runs of a block until it is compiled. */
  readonly threshold: number;
  /** Blocks of a module, unless they have waited for long. */
  readonly batch: number;
}

const DEFAULTS: CompilerOptions = { threshold: 1000, batch: 64 };
/** Looks at a queue that is not full before it is compiled as it is. */
const PATIENCE = 256;
/** Functions in the table at most; then everything decoded is forgotten, and what is hot compiles anew. */
const MOST_FUNCTIONS = 60_000;
/** Entries by which the table grows. */
const GROWTH = 4096;

/** Exports of the core that the compiler uses itself. */
export interface CompilerCore {
  readonly table: WebAssembly.Table;
  resetCode(): void;
  flushTlb(keepGlobal: number): void;
  flushJumps(): void;
  /** Address of the u16 function table indexes of the handlers. */
  handlerIndexes(): number;
  readonly [name: string]: unknown;
}

/** What the build wrote about the operations, beside the core. @throws Error when the build has not run */
export function loadOperations(): OperationTable {
  const file = new URL("../operations.json", import.meta.url);
  const built = file.pathname.includes("/dist/")
    ? file
    : new URL("../../../dist/engine/cpu/operations.json", import.meta.url);
  return JSON.parse(readFileSync(fileURLToPath(built), "utf8")) as OperationTable;
}

/**
 * V8 moves the code of unlikely branches away only with the first flag; without it compiled blocks take twice the room in the
 * caches. Newer versions do so by themselves and know the flag no more. The second is the work after which V8 optimizes a
 * function, in its bytes: a block has run often before it gets here.
 */
function tuneWebAssembly(): void {
  setFlagsFromString("--experimental-wasm-branch-hinting");
  setFlagsFromString("--wasm-tiering-budget=300000");
}

export class BlockCompiler {
  private readonly options: CompilerOptions;
  private readonly core: CompilerCore;
  private readonly words: Uint32Array;
  private readonly halves: Uint16Array;
  private readonly recipe: ModuleRecipe;
  private readonly imports: WebAssembly.Imports;
  private readonly compiledOperation: number;
  private readonly first: number;
  private next: number;
  private resets: number;
  private patience = PATIENCE;
  /** Blocks compiled so far. */
  compiled = 0;

  constructor(memory: WebAssembly.Memory, core: CompilerCore, options: Partial<CompilerOptions> = {}) {
    this.options = { ...DEFAULTS, ...options };
    this.core = core;
    this.words = new Uint32Array(memory.buffer);
    this.halves = new Uint16Array(memory.buffer);
    tuneWebAssembly();
    const table = loadOperations();
    const records = new RecordReader(memory, table.names);
    const indexes = core.handlerIndexes() >>> 1;
    const handlers = new Map(table.handlers.map((name, n) => [this.halves[indexes + n] ?? 0, name]));
    this.recipe = { table, records, handlers, resync: table.names.indexOf("resync") };
    this.compiledOperation = table.names.indexOf("compiled");
    const functions = Object.fromEntries(importedFunctions(table).map(([name]) => [name, core[name]]));
    this.imports = { env: { memory, table: core.table }, core: functions as WebAssembly.Imports[string] };
    this.first = core.table.length;
    this.next = this.first;
    this.resets = this.word(CODE_RESETS);
    this.words[HOT_THRESHOLD >> 2] = this.options.threshold;
  }

  private word(address: number): number {
    return this.words[address >> 2] ?? 0;
  }

  /** Compiles what is queued, if that is worth a module. To be called while the vCPU does not run. */
  poll(): void {
    const count = this.word(HOT_COUNT);
    if (count === 0) return;
    if (count < this.options.batch && --this.patience > 0) return;
    this.patience = PATIENCE;
    this.compileQueue(count);
  }

  private compileQueue(count: number): void {
    this.forget();
    const heads = this.words.slice(HOT_QUEUE >> 2, (HOT_QUEUE >> 2) + count);
    this.words[HOT_COUNT >> 2] = 0;
    const blocks: DecodedBlock[] = [];
    for (const head of heads) {
      const block = this.recipe.records.block(head);
      if (block !== undefined) blocks.push(block);
    }
    if (this.next - this.first + blocks.length > MOST_FUNCTIONS) {
      this.core.resetCode();
      this.core.flushTlb(0);
      return;
    }
    // Neighbours in the guest's code become neighbours in the module's.
    blocks.sort((a, b) => a.page - b.page || a.offset - b.offset);
    if (blocks.length > 0) this.install(blocks);
  }

  /** After all decoded code was dropped: nothing refers to the functions any more. */
  private forget(): void {
    const resets = this.word(CODE_RESETS);
    if (resets === this.resets) return;
    this.resets = resets;
    for (let n = this.first; n < this.next; n++) this.core.table.set(n, null);
    this.next = this.first;
  }

  private install(blocks: readonly DecodedBlock[]): void {
    const { table } = this.core;
    const first = this.next;
    const end = first + blocks.length;
    if (end > table.length) table.grow(Math.max(GROWTH, end - table.length));
    const module = new WebAssembly.Module(buildModule(this.recipe, blocks, first));
    new WebAssembly.Instance(module, this.imports);
    this.next = end;
    this.compiled += blocks.length;
    // Resolved jumps name the function of their target as well.
    this.core.flushJumps();
    blocks.forEach(({ head }, n) => {
      this.words[(head + R_FUNCTION) >> 2] = first + n;
      this.halves[(head + R_OP) >> 1] = this.compiledOperation;
    });
  }
}
