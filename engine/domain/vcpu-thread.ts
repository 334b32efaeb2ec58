/** What a process makes ready before its guest is known: the compiled CPU core and the vCPU's thread. */
import { Worker } from "node:worker_threads";
import { loadCore } from "../cpu/vcpu.ts";
import { compiledPath } from "./entry.ts";

/** V8 limits of the worker, MiB: its JavaScript heap holds next to nothing. */
const WORKER_HEAP_MIB = 256;

let core: WebAssembly.Module | undefined;

/** Compiles the CPU core, once: a process that waits for its guest does it in advance. @throws Error as loadCore() */
export function compiledCore(): WebAssembly.Module {
  core ??= loadCore();
  return core;
}

/** The vCPU's thread, which loads its modules and then waits for what Machine.start() tells it. */
export function startVcpuThread(): Worker {
  return new Worker(compiledPath(import.meta.url, "vcpu-worker.js"), {
    resourceLimits: { maxOldGenerationSizeMb: WORKER_HEAP_MIB },
  });
}
