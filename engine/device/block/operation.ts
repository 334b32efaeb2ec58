/**
 * One call to the store on behalf of one or more requests: what goes where, whose it is, and which grants it holds.
 * Operations are pooled by the ring's service; nothing is allocated for a request.
 */
import type { MemoryView } from "../domain-interface.ts";
import { LAST_SECTOR_OF_PAGE, MAX_INDIRECT_SEGMENTS, SECTOR } from "./protocol.ts";
import type { BlockStore, Done, Scatter } from "./store.ts";

/** Most pieces of an operation: what preadv takes (IOV_MAX). */
export const MAX_PIECES = 1024;
/** Most bytes of an operation. */
export const MAX_OPERATION_BYTES = MAX_INDIRECT_SEGMENTS * (LAST_SECTOR_OF_PAGE + 1) * SECTOR;
/** Most requests that are merged into one operation. */
export const MAX_MERGED = 256;

/** A device as a ring serves it. */
export interface BlockTarget {
  readonly store: BlockStore;
  /** The device is read-only for this guest, or its store is. */
  readonly readOnly: boolean;
}

export type OperationKind = "read" | "write" | "flush" | "discard";

/** A scatter list that grows. */
export class Pieces implements Scatter {
  readonly memory: MemoryView;
  count = 0;
  readonly addresses = new Float64Array(MAX_PIECES);
  readonly lengths = new Uint32Array(MAX_PIECES);

  constructor(memory: MemoryView) {
    this.memory = memory;
  }

  /** Adds a piece; one that begins where the last one ends is joined with it. */
  add(address: number, length: number): void {
    const last = this.count - 1;
    if (last >= 0 && this.addresses[last]! + this.lengths[last]! === address) {
      this.lengths[last] = this.lengths[last]! + length;
      return;
    }
    this.addresses[this.count] = address;
    this.lengths[this.count] = length;
    this.count++;
  }

  /** Drops everything from byte `length` on. */
  cut(length: number): void {
    let kept = 0;
    let left = length;
    for (; left > 0; kept++) {
      const piece = this.lengths[kept]!;
      if (piece > left) this.lengths[kept] = left;
      left -= Math.min(piece, left);
    }
    this.count = kept;
  }

  /** Becomes the part of `whole` from byte `offset` on, `length` bytes long. */
  slice(whole: Scatter, offset: number, length: number): void {
    this.count = 0;
    let skip = offset;
    let left = length;
    for (let i = 0; i < whole.count && left > 0; i++) {
      const piece = whole.lengths[i]!;
      const taken = Math.min(piece - skip, left);
      if (taken > 0) {
        this.add(whole.addresses[i]! + skip, taken);
        left -= taken;
        skip = 0;
      } else skip -= piece;
    }
  }
}

export class Operation {
  kind: OperationKind = "read";
  target: BlockTarget | undefined;
  /** Bytes on the disk. */
  offset = 0;
  length = 0;
  secure = false;
  readonly pieces: Pieces;
  /** In-flight entries of the requests, in order, with the bytes and the status of each. */
  readonly entries = new Int32Array(MAX_MERGED);
  readonly lengths = new Uint32Array(MAX_MERGED);
  readonly statuses = new Int32Array(MAX_MERGED);
  count = 0;
  /** Grants that are held: a handle, or ~slot of a persistent grant. */
  readonly grants = new Int32Array(MAX_PIECES);
  grantCount = 0;
  /** Operations are numbered as they are issued. */
  sequence = 0;
  /** For a flush that waits: how many operations before it are not complete. */
  before = 0;
  /** ≥ 0 once a merged operation has failed and its requests are done one by one: which one, and its first byte. */
  single = -1;
  singleOffset = 0;
  /** The write of a barrier: its request is answered later. */
  barrier = false;
  /** Given to the store; made once. */
  readonly finished: Done;

  constructor(memory: MemoryView, finished: (operation: Operation, ...failure: Parameters<Done>) => void) {
    this.pieces = new Pieces(memory);
    this.finished = (failure) => finished(this, failure);
  }

  begin(kind: OperationKind, target: BlockTarget, offset: number): this {
    this.kind = kind;
    this.target = target;
    this.offset = offset;
    this.length = 0;
    this.secure = false;
    this.pieces.count = 0;
    this.count = 0;
    this.grantCount = 0;
    this.single = -1;
    this.singleOffset = 0;
    this.barrier = false;
    return this;
  }

  addEntry(entry: number, length: number): void {
    this.entries[this.count] = entry;
    this.lengths[this.count] = length;
    this.count++;
    this.length += length;
  }

  /** Whether a request can be appended: same kind and disk, contiguous, and within the limits. */
  takes(kind: OperationKind, target: BlockTarget, offset: number, length: number, segments: number): boolean {
    return (
      this.kind === kind &&
      this.target === target &&
      this.offset + this.length === offset &&
      this.length + length <= MAX_OPERATION_BYTES &&
      this.grantCount + segments <= MAX_PIECES &&
      this.count < MAX_MERGED
    );
  }
}
