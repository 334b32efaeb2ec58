/**
 * Compiles blocks that have become hot. The core queues them; between two runs of the vCPU the compiler takes what is queued
 * and has a module made of it, whose functions take the blocks' places: from then on the interpreter, and other compiled
 * blocks, call them.
 */
import { setFlagsFromString } from "node:v8";
import {
  CODE_GENERATION,
  CODE_RESETS,
  HOT_COUNT,
  HOT_QUEUE,
  HOT_THRESHOLD,
  R_FUNCTION,
  R_GENERATION,
  R_OP,
  R_PAGE,
} from "../assembly/layout.ts";
import { BackgroundCompiler } from "./background.ts";
import { buildDispatch, DISPATCH } from "./dispatch.ts";
import type { OperationTable } from "./ir.ts";
import { importedFunctions } from "./module.ts";
import { type MadeModule, ModuleMaker } from "./module-maker.ts";
import { loadOperations } from "./operations.ts";

export interface CompilerOptions {
  /** Runs of a block until it is compiled: about as many as cost what compiling it costs. */
  readonly threshold: number;
  /** Blocks of a module, unless they have waited for long. */
  readonly batch: number;
  /** Blocks compiled at most; then everything decoded is forgotten, and what is hot compiles anew. */
  readonly most: number;
  /** Whether a thread of its own makes the modules; else poll() does, at once. */
  readonly background: boolean;
}

const DEFAULTS: CompilerOptions = { threshold: 10_000, batch: 2048, most: 40_000, background: false };
/**
 * How long a queue that is not full waits before it is compiled as it is: each look at it adds its length and STRAGGLER. The blocks of
 * a module lie together and call each other directly, so few large modules run faster than many small ones; a thousand blocks that
 * became hot together wait for some hundreds of looks, a single one for thousands.
 */
const PATIENCE = 400_000;
const STRAGGLER = 50;

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

/**
 * V8 moves the code of unlikely branches away only with this flag; without it compiled blocks take twice the room in the
 * caches. Newer versions do so by themselves and know the flag no more.
 */
function tuneWebAssembly(): void {
  setFlagsFromString("--experimental-wasm-branch-hinting");
}

/** What modules of blocks are instantiated with. */
function link(memory: WebAssembly.Memory, core: CompilerCore, table: OperationTable): WebAssembly.Imports {
  const env = { memory, table: core.table };
  const exports = core as unknown as WebAssembly.Imports[string];
  const shared = new WebAssembly.Instance(new WebAssembly.Module(buildDispatch()), { env, core: exports }).exports;
  const dispatch = Object.fromEntries(Object.keys(DISPATCH).map((name, n) => [name, shared[n] as () => number]));
  const named = importedFunctions(table).filter(({ module }) => module === "core");
  const functions = Object.fromEntries(named.map(({ name }) => [name, core[name]]));
  return { env, dispatch, core: functions as WebAssembly.Imports[string] };
}

export class BlockCompiler {
  private readonly options: CompilerOptions;
  private readonly core: CompilerCore;
  private readonly words: Uint32Array;
  private readonly halves: Uint16Array;
  private readonly maker: ModuleMaker | undefined;
  private readonly background: BackgroundCompiler | undefined;
  private readonly imports: WebAssembly.Imports;
  private readonly compiledOperation: number;
  private readonly first: number;
  private next: number;
  private resets: number;
  /** What looks at the queue have added up to. */
  private waited = 0;
  /** Whether the background has not answered yet. */
  private waiting = false;
  /** Blocks compiled so far. */
  compiled = 0;

  constructor(memory: WebAssembly.Memory, core: CompilerCore, options: Partial<CompilerOptions> = {}) {
    this.options = { ...DEFAULTS, ...options };
    this.core = core;
    this.words = new Uint32Array(memory.buffer);
    this.halves = new Uint16Array(memory.buffer);
    tuneWebAssembly();
    const table = loadOperations();
    this.compiledOperation = table.names.indexOf("compiled");
    this.imports = link(memory, core, table);
    const indexes = core.handlerIndexes() >>> 1;
    const handlers = new Map(table.handlers.map((name, n) => [this.halves[indexes + n] ?? 0, name]));
    if (this.options.background) this.background = new BackgroundCompiler(memory, handlers);
    else this.maker = new ModuleMaker(memory, handlers);
    // At once: growing it later would take long.
    this.first = core.table.grow(this.options.most);
    this.next = this.first;
    this.resets = this.word(CODE_RESETS);
    this.words[HOT_THRESHOLD >> 2] = this.options.threshold;
  }

  private word(address: number): number {
    return this.words[address >> 2] ?? 0;
  }

  /** Has what is queued compiled, if that is worth a module, and installs what is ready. While the vCPU does not run. */
  poll(): void {
    if (this.waiting) this.receive();
    const count = this.word(HOT_COUNT);
    if (count === 0 || this.waiting) return;
    this.waited += count + STRAGGLER;
    if (count < this.options.batch && this.waited < PATIENCE) return;
    this.waited = 0;
    this.compileQueue(count);
  }

  private receive(): void {
    const answer = this.background?.take();
    if (answer === undefined) return;
    this.waiting = false;
    if (answer.resets === this.word(CODE_RESETS) && answer.made !== undefined) this.install(answer.made);
  }

  private compileQueue(count: number): void {
    this.forget();
    const heads = this.words.slice(HOT_QUEUE >> 2, (HOT_QUEUE >> 2) + count);
    this.words[HOT_COUNT >> 2] = 0;
    if (this.next - this.first + heads.length > this.options.most) {
      this.core.resetCode();
      this.core.flushTlb(0);
    } else if (this.background !== undefined) {
      this.background.request({ heads, resets: this.resets });
      this.waiting = true;
    } else {
      const made = this.maker?.make(heads);
      if (made !== undefined) this.install(made);
    }
  }

  /** After all decoded code was dropped: nothing refers to the functions any more. */
  private forget(): void {
    const resets = this.word(CODE_RESETS);
    if (resets === this.resets) return;
    this.resets = resets;
    for (let n = this.first; n < this.next; n++) this.core.table.set(n, null);
    this.next = this.first;
  }

  private install({ heads, module }: MadeModule): void {
    const { table } = this.core;
    const first = this.next;
    const { exports } = new WebAssembly.Instance(module, this.imports);
    heads.forEach((_, n) => {
      table.set(first + n, exports[n] as () => number);
    });
    this.next = first + heads.length;
    this.compiled += heads.length;
    // Resolved jumps name the function of their target as well.
    this.core.flushJumps();
    heads.forEach((head, n) => {
      if (!this.current(head)) return;
      this.words[(head + R_FUNCTION) >> 2] = first + n;
      this.halves[(head + R_OP) >> 1] = this.compiledOperation;
    });
  }

  /** Whether a block's code is as it was when it was decoded. */
  private current(head: number): boolean {
    const page = this.word(head + R_PAGE);
    return this.word(head + R_GENERATION) === this.word(CODE_GENERATION + (page >>> 12) * 4);
  }
}
