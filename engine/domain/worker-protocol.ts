/** What a domain process and its vCPU worker say to each other. Both are ours: types suffice. */

import type { MessagePort } from "node:worker_threads";
import type { MemoryToken } from "../memory/guest-memory.ts";
import type { StorageRequest } from "./driver/storage-io.ts";
import type { PvhEntry } from "./entry-state.ts";
import type { Json } from "./json-state.ts";
import type { LoopEnd } from "./vcpu-loop.ts";

export interface WorkerInput {
  readonly memory: MemoryToken;
  /** Path of the domain directory; without it there are no other domains. */
  readonly directory: string | undefined;
  /** Requests for the backends that run on the vCPU's thread; CONTROL_REQUESTS counts them. */
  readonly backends: MessagePort;
  readonly core: WebAssembly.Module;
  readonly domain: number;
  readonly entry: PvhEntry;
}

/** A request for the backends, and its answer. */
export interface BackendRequest {
  readonly id: number;
  readonly request: StorageRequest;
}
export interface BackendAnswer {
  readonly id: number;
  readonly value: unknown;
}

export type WorkerMessage =
  /** The domain exists and its guest begins to run. */
  | { readonly kind: "ready" }
  /** The guest sent events to the host's ends of channels: see EventDelivery.takeHostPending. */
  | { readonly kind: "event" }
  | { readonly kind: "emergency-console"; readonly bytes: Uint8Array }
  | { readonly kind: "log"; readonly line: string }
  | { readonly kind: "end"; readonly end: LoopEnd; readonly registers: { [key: string]: Json } };
