/**
 * What a block backend counts for a device, in shared memory: the thread that serves the ring writes, any thread may
 * read. Names as in xl's and xentop's statistics (rd_req, wr_req, oo_req, f_req, ds_req, rd_sect, wr_sect). One writer
 * per block, so an addition needs no lock; a reader may see the counters a few requests apart.
 */

const NAMES = [
  /** Requests consumed, by kind; indirect ones count as what they carry too. */
  "rd_req",
  "wr_req",
  "f_req",
  "ds_req",
  /** Write barriers. */
  "wb_req",
  /** PROBE of the old message set. */
  "pr_req",
  "indirect_req",
  /** Requests put off since the backend could not take them at once: held behind a barrier. */
  "oo_req",
  /** Units of 512 bytes moved. */
  "rd_sect",
  "wr_sect",
  /** Requests that rode along in another one's store operation. */
  "merged",
  /** Responses with an error status, and how many of them were refused before any I/O. */
  "errors",
  "refused",
  "notifications_sent",
  "notifications_suppressed",
  /** Grants mapped at this moment, ever, and kept mapped between requests. */
  "grants_mapped",
  "grants_total",
  "grants_persistent",
  /** Requests executed again after a restart. */
  "replayed",
] as const;

export type BlockCounterName = (typeof NAMES)[number];
export const BLOCK_COUNTER_NAMES: readonly BlockCounterName[] = NAMES;
/** Bytes of a block of counters. */
export const BLOCK_COUNTERS_SIZE = NAMES.length * Float64Array.BYTES_PER_ELEMENT;

/** Index of each counter in `values`. */
export const BlockCounter = Object.fromEntries(NAMES.map((name, index) => [name, index])) as Readonly<
  Record<BlockCounterName, number>
>;

export class BlockCounters {
  readonly values: Float64Array;

  /**
   * @param buffer where the counters lie, zeroed before the first use; by default memory of this process's own
   * @param offset byte offset, a multiple of 8
   */
  constructor(buffer: ArrayBufferLike = new SharedArrayBuffer(BLOCK_COUNTERS_SIZE), offset = 0) {
    this.values = new Float64Array(buffer, offset, NAMES.length);
  }

  add(counter: number, amount = 1): void {
    this.values[counter] = this.values[counter]! + amount;
  }

  /** All counters by name. */
  read(): Record<BlockCounterName, number> {
    return Object.fromEntries(NAMES.map((name, index) => [name, this.values[index] ?? 0])) as Record<
      BlockCounterName,
      number
    >;
  }
}
