/**
 * A domain's memory: RAM and special frames in one shared file, mapped into the linear memory of whoever needs it.
 *
 * Two kinds: `mapped` (Linux, macOS) maps the file over the pages of a WebAssembly.Memory, so that several workers and
 * processes see the same bytes; `threads` is one shared WebAssembly.Memory handed around inside one process, for hosts
 * where memory cannot be mapped over (it allows a single vCPU, whose private area is part of that memory).
 */
import type { FramePlan } from "./frame-plan.ts";
import { createMappedMemory, openMappedMemory } from "./mapped.ts";
import { createThreadsMemory, openThreadsMemory } from "./threads.ts";

/** A view of the domain's memory inside a WebAssembly.Memory. */
export interface Mapping {
  readonly memory: WebAssembly.Memory;
  /** Address in `memory` of file offset 0. */
  readonly base: number;
  readonly plan: FramePlan;
  /** The whole of `memory`. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly view: DataView<SharedArrayBuffer>;
  /** Native address of the first byte of `memory`. */
  readonly nativeAddress: bigint;
  /** Where pages of other domains can be mapped: address in `memory`, and number of one-page slots. */
  readonly windowBase: number;
  readonly windowPages: number;
  /** True when the private area has parts of the file mapped over it (see AttachOptions.overlays). */
  readonly overlaid: boolean;
  /** Maps the page at `offset` of another domain's file over a slot of the window. */
  mapForeign(slot: number, descriptor: number, offset: number): void;
  unmapForeign(slot: number): void;
  /** Sleeps while the 32-bit word at file offset `offset` holds `expected`, at most `timeoutNs`; may wake early. */
  wait(offset: number, expected: number, timeoutNs: number): void;
  /** Wakes `count` sleepers (one unless said) on the word at file offset `offset`, in any process. */
  wake(offset: number, count?: number): void;
  /** Lets another thread of the host have the processor, where the host can do so. */
  giveWay(): void;
  /** Gives a page-aligned range back to the host; it reads as zero afterwards. */
  discard(offset: number, length: number): void;
  /** Lets go of the file: what is mapped here reads as zeros of its own from now on, and holds no memory. */
  release(): void;
}

/** A part of the file that is mapped a second time, over the private area. */
export interface Overlay {
  /** Address in the linear memory, a multiple of 64 KiB, as are the others. */
  readonly address: number;
  readonly offset: number;
  readonly length: number;
}

export interface AttachOptions {
  /** Bytes below the file's that belong to the caller alone, a multiple of 64 KiB. A backend needs none. */
  readonly privateBytes?: number;
  /** One-page slots for pages of other domains; only kind `mapped` has any. */
  readonly windowPages?: number;
  /** Ignored by kind `threads`. */
  readonly overlays?: readonly Overlay[];
}

/** What another worker of this process needs to open the same memory; survives structured cloning. */
export type MemoryToken =
  | { readonly kind: "mapped"; readonly descriptor: number; readonly path: string; readonly plan: FramePlan }
  | { readonly kind: "threads"; readonly memory: WebAssembly.Memory; readonly base: number; readonly plan: FramePlan };

export interface GuestMemory {
  readonly kind: MemoryToken["kind"];
  readonly plan: FramePlan;
  readonly token: MemoryToken;
  /** Maps the file into a linear memory. */
  attach(options?: AttachOptions): Mapping;
  /** Closes the file; mappings stay valid. */
  close(): void;
}

/** The kind this host supports best. */
export function defaultMemoryKind(): MemoryToken["kind"] {
  return process.platform === "linux" || process.platform === "darwin" ? "mapped" : "threads";
}

/** Creates a domain's memory, all zero. `privateBytes` is what the vCPU will ask for in attach(). */
export function createGuestMemory(
  plan: FramePlan,
  privateBytes: number,
  kind: MemoryToken["kind"] = defaultMemoryKind(),
): GuestMemory {
  return kind === "mapped" ? createMappedMemory(plan) : createThreadsMemory(plan, privateBytes);
}

/** Opens, in a worker, the memory that a token of the same process names. */
export function openGuestMemory(token: MemoryToken): GuestMemory {
  return token.kind === "mapped" ? openMappedMemory(token) : openThreadsMemory(token);
}
