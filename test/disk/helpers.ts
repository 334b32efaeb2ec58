import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { onTestFinished } from "vitest";
import type { BlockStore, Scatter, StoreFailure } from "../../engine/device/block/store.ts";
import type { MemoryView } from "../../engine/device/domain-interface.ts";
import { posix } from "../../engine/memory/posix.ts";

/** A folder that is gone after the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "domlab-disk-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** Memory as a peer's would be mapped. */
export function memoryOf(length: number): MemoryView {
  const buffer = new SharedArrayBuffer(length);
  return {
    bytes: new Uint8Array(buffer),
    words: new Int32Array(buffer),
    view: new DataView(buffer),
    nativeAddress: posix().addressOf(buffer),
  };
}

/** Pieces [address, length] of a memory. */
export function scatterOf(memory: MemoryView, pieces: readonly (readonly [number, number])[]): Scatter {
  return {
    memory,
    count: pieces.length,
    addresses: Float64Array.from(pieces, ([address]) => address),
    lengths: Uint32Array.from(pieces, ([, length]) => length),
  };
}

type Operation = "read" | "write";

/** One read or write, as a promise of its failure. */
export function transfer(store: BlockStore, what: Operation, offset: number, scatter: Scatter) {
  return new Promise<StoreFailure | undefined>((resolve) => store[what](offset, scatter, resolve));
}

export function flush(store: BlockStore) {
  return new Promise<StoreFailure | undefined>((resolve) => store.flush(resolve));
}

export function discard(store: BlockStore, offset: number, length: number) {
  return new Promise<StoreFailure | undefined>((resolve) => store.discardRange(offset, length, false, resolve));
}
