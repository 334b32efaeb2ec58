/** Entry point of the compiling thread (background.ts). */
import { workerData } from "node:worker_threads";
import type { BackgroundAnswer, BackgroundInput, BackgroundRequest } from "./background.ts";
import { type MadeModule, ModuleMaker } from "./module-maker.ts";

const { memory, handlers, port } = workerData as BackgroundInput;
const maker = new ModuleMaker(memory, handlers);

/** The records may be dropped while they are read here: whatever comes of that is thrown away by the vCPU's thread. */
function make(heads: Uint32Array): MadeModule | undefined {
  try {
    return maker.make(heads);
  } catch {
    return undefined;
  }
}

port.on("message", ({ heads, resets }: BackgroundRequest) => {
  port.postMessage({ resets, made: make(heads) } satisfies BackgroundAnswer);
});
