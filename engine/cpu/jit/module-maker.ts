/** From heads of hot blocks to a compiled module. Everything it needs it reads in the vCPU's memory, from whatever thread. */
import { CodePages } from "./code-pages.ts";
import { buildModule, type ModuleRecipe } from "./module.ts";
import { loadOperations } from "./operations.ts";
import { RecordReader } from "./records.ts";

/** Blocks and the module whose export "n" runs the n-th of them. */
export interface MadeModule {
  readonly heads: readonly number[];
  readonly module: WebAssembly.Module;
}

export class ModuleMaker {
  private readonly recipe: ModuleRecipe;

  /** @param handlers names of the core's handlers by function table index */
  constructor(memory: WebAssembly.Memory, handlers: ReadonlyMap<number, string>) {
    const table = loadOperations();
    const records = new RecordReader(memory, table.names);
    this.recipe = {
      table,
      records,
      pages: new CodePages(records.view),
      handlers,
      resync: table.names.indexOf("resync"),
    };
  }

  /** Compiles the blocks whose code has not changed. @returns undefined when there are none */
  make(heads: Iterable<number>): MadeModule | undefined {
    const blocks = [...heads]
      .map((head) => this.recipe.records.block(head))
      .filter((block) => block !== undefined)
      // Neighbours in the guest's code become neighbours in the module's.
      .sort((a, b) => a.page - b.page || a.offset - b.offset);
    if (blocks.length === 0) return undefined;
    this.recipe.pages.renew();
    const module = new WebAssembly.Module(buildModule(this.recipe, blocks));
    return { heads: blocks.map(({ head }) => head), module };
  }
}
