/** What a domain process and its vCPU worker say to each other. Both are ours: types suffice. */

import type { MessagePort } from "node:worker_threads";
import type { MemoryToken } from "../memory/guest-memory.ts";
import type { GuestState } from "../snapshot/guest-state.ts";
import type { DomainStart } from "./config.ts";
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
  /** Requests for the vCPU itself; counted likewise. */
  readonly control: MessagePort;
  readonly core: WebAssembly.Module;
  readonly domain: number;
  /**
   * Where a new guest begins, or what a restored one was; the latter waits for "restore" and then to be unpaused. `pages` is its
   * snapshot file.
   */
  readonly start: { readonly entry: PvhEntry } | { readonly saved: GuestState; readonly pages: DomainStart["pages"] };
}

/** A request for the vCPU. The answer to "save" is a document (snapshot/guest-state.ts) or an Unsaveable, to the others nothing. */
export type VcpuRequest =
  /** Stop running guest code; `offline`: for so long that the guest's accounts should show it. */
  | { readonly op: "pause"; readonly offline: boolean }
  | { readonly op: "unpause"; readonly after: Pause }
  /** What the paused guest is. `drivers`: numbers of domains that serve devices and will connect to a restored guest. */
  | { readonly op: "save"; readonly drivers: readonly number[] }
  /** Become what was saved. The memory is in place or on its way. */
  | { readonly op: "restore" }
  /** The memory is there, all of it. */
  | { readonly op: "loaded" }
  /** Forget translations, so that pages that are written to from now on are marked as dirty. */
  | { readonly op: "flush-translations" };

/**
 * What a guest goes on after: a snapshot, of which it shall notice nothing; a pause, during which its time went on; the time
 * since it was saved, which it is told at once ("jump") or learns when it comes back from a suspend of its own ("suspend").
 */
export type Pause = "snapshot" | "pause" | "restore-jump" | "restore-suspend";

export interface VcpuRequestMessage {
  readonly id: number;
  readonly request: VcpuRequest;
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
