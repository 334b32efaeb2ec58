/** Puts compiled blocks together to one WebAssembly module. */
import type { CodePages } from "./code-pages.ts";
import { BLOCK, DISPATCH } from "./dispatch.ts";
import { BlockEmitter } from "./emitter.ts";
import type { OperationTable, Signature } from "./ir.ts";
import { type ImportedFunction, Types, writeModule } from "./module-writer.ts";
import type { DecodedBlock, RecordReader } from "./records.ts";

/** Functions of the core that only compiled code calls. */
const STEERING: Readonly<Record<string, Signature>> = {
  farJump: [["i32"], "i32"],
  afterJump: [["i32"], "i32"],
  getFlags: [[], "i32"],
  /** (instructions) → whether STI is done. */
  enableInterrupts: [["i32"], "i32"],
  /** → whether CLI is done. */
  disableInterrupts: [[], "i32"],
};

/** What every module is made with. */
export interface ModuleRecipe {
  readonly table: OperationTable;
  readonly records: RecordReader;
  readonly pages: CodePages;
  /** Number of the operation "resync". */
  readonly resync: number;
  /** Names of the core's handlers by function table index. */
  readonly handlers: ReadonlyMap<number, string>;
}

/** The functions that a module of blocks imports, in order. */
export function importedFunctions(table: OperationTable): ImportedFunction[] {
  const list = (module: string, functions: Readonly<Record<string, Signature>>) =>
    Object.entries(functions).map(([name, signature]) => ({ module, name, signature }));
  return [...list("dispatch", DISPATCH), ...list("core", { ...table.signatures, ...STEERING })];
}

/** The binary of a module whose export "n" runs blocks[n]; it imports env.memory and importedFunctions(). */
export function buildModule(recipe: ModuleRecipe, blocks: readonly DecodedBlock[]): Uint8Array<ArrayBuffer> {
  const imports = importedFunctions(recipe.table);
  const numbers = new Map(imports.map(({ name }, n) => [name, n]));
  const byHead = new Map(blocks.map((block, n) => [block.head, imports.length + n]));
  const frame = {
    ...recipe,
    imported: (name: string): number => {
      const number = numbers.get(name);
      if (number === undefined) throw new Error(`compiler: there is no function ${name} to import`);
      return number;
    },
    local: (head: number) => byHead.get(head),
  };
  const functions = blocks.map((block) => ({ ...BlockEmitter.compile(frame, block), signature: BLOCK }));
  return writeModule(new Types(), { imports, table: false, functions });
}
