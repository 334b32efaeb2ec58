/** What a domain process and its vCPU worker say to each other. Both are ours: types suffice. */

import type { MemoryToken } from "../memory/guest-memory.ts";
import type { PvhEntry } from "./entry-state.ts";
import type { Json } from "./json-state.ts";
import type { LoopEnd } from "./vcpu-loop.ts";

export interface WorkerInput {
  readonly memory: MemoryToken;
  readonly core: WebAssembly.Module;
  readonly domain: number;
  readonly entry: PvhEntry;
}

export type WorkerMessage =
  /** The domain exists and its guest begins to run. */
  | { readonly kind: "ready"; readonly consolePort: number; readonly xenstorePort: number }
  /** The guest sent events to the host's ends of channels: see EventDelivery.takeHostPending. */
  | { readonly kind: "event" }
  | { readonly kind: "emergency-console"; readonly bytes: Uint8Array }
  | { readonly kind: "log"; readonly line: string }
  | { readonly kind: "end"; readonly end: LoopEnd; readonly registers: { [key: string]: Json } };
