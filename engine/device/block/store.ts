/** What a block backend serves: the interface between the backend and engine/disk. */
import type { MemoryView } from "../domain-interface.ts";

/**
 * Where the bytes of one request lie in the peer's memory: `count` pieces. Reused between calls: whoever needs it after
 * the call has returned copies it.
 */
export interface Scatter {
  readonly memory: MemoryView;
  count: number;
  /** Byte offsets into memory.bytes. Neighbouring pieces that touch have been joined. */
  readonly addresses: Float64Array;
  /** Bytes, multiples of 512. */
  readonly lengths: Uint32Array;
}

/** Why an operation failed: an errno of the host (EIO, ENOSPC, EROFS, EOPNOTSUPP…). */
export interface StoreFailure {
  readonly errno: number;
  /** One line for the log. */
  readonly message: string;
}

/** Called exactly once, possibly before the operation's function returns; no argument: success. */
export type Done = (failure?: StoreFailure) => void;

export interface BlockStore {
  /** Bytes, a multiple of sectorSize. */
  readonly size: number;
  /** Logical sector size in bytes, 512 or 4096. */
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  /** Whether discard() frees storage, and in what unit (bytes). */
  readonly discard: { readonly granularity: number; readonly alignment: number; readonly secure: boolean } | undefined;
  /** True when every operation calls `done` before it returns: such a store can be used on a thread that blocks. */
  readonly synchronous: boolean;
  /** Offsets and lengths are in bytes; the caller has checked them against `size` and `readOnly`. */
  read(offset: number, into: Scatter, done: Done): void;
  write(offset: number, from: Scatter, done: Done): void;
  /** Fulfilled when everything that was written before is on durable storage. */
  flush(done: Done): void;
  discardRange(offset: number, length: number, secure: boolean, done: Done): void;
  /**
   * Gives the image another size, in bytes, while it is in use; `size` says so on return. Left out: it cannot be done.
   * @returns why it could not be: nothing has changed then
   */
  resize?(size: number): StoreFailure | undefined;
  /** Calls `listener` when size has changed (an image that grew). */
  onResize(listener: () => void): void;
  close(): Promise<void>;
}
