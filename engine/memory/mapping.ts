import type { FramePlan } from "./frame-plan.ts";
import { WASM_PAGE } from "./frame-plan.ts";

/** A shared memory of exactly `bytes` bytes that cannot grow, so that its address never changes. */
export function fixedMemory(bytes: number): WebAssembly.Memory {
  const pages = bytes / WASM_PAGE;
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
}

/** The typed views of a shared memory that every mapping has. */
export function sharedViews(memory: WebAssembly.Memory, base: number, plan: FramePlan) {
  // A memory made with `shared: true` has a SharedArrayBuffer.
  const buffer = memory.buffer as SharedArrayBuffer;
  return {
    memory,
    base,
    plan,
    bytes: new Uint8Array(buffer),
    words: new Int32Array(buffer),
    view: new DataView(buffer),
  };
}
