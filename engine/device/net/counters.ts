/**
 * What a network backend counts for an interface, in shared memory: the thread that serves the rings writes, any thread
 * may read. "tx" is what the guest transmits, "rx" what it receives, as in netif.h. One writer per block; a reader may see
 * the counters a few frames apart.
 */

const NAMES = [
  /** Frames taken from the guest and handed over, and their bytes. */
  "tx_frames",
  "tx_bytes",
  /** Frames that the guest asks to have segmented. */
  "tx_gso",
  /** Packets answered with an error, by reason. */
  "tx_errors",
  "tx_bad_size",
  "tx_bad_fragment",
  "tx_too_many_slots",
  "tx_bad_extra",
  "tx_bad_gso",
  "tx_bad_grant",
  /** Frames taken while the link was down, and dropped. */
  "tx_down",
  /** Times that the rate limit stopped the ring. */
  "tx_throttled",
  "multicast_changes",
  /** Frames put into the guest's buffers, and their bytes. */
  "rx_frames",
  "rx_bytes",
  "rx_gso",
  /** Frames that the guest did not get, by reason. */
  "rx_dropped",
  "rx_no_buffer",
  "rx_expired",
  "rx_too_long",
  "rx_down",
  "rx_bad_grant",
  /** Multicast frames that the guest does not want: not drops. */
  "rx_filtered",
  /** Frames that waited for buffers, as copies. */
  "rx_queued",
  /** Pages exchanged with the guest. */
  "rx_flipped",
  "notifications_sent",
  "notifications_suppressed",
  /** Grants of packets mapped, ever. */
  "grants_mapped",
  /** Bytes copied from or to the guest's pages. */
  "copied_bytes",
  /** Responses published again after a restart. */
  "replayed",
  /** Rings that are not served any more: the guest broke the protocol. */
  "broken_rings",
] as const;

export type NetCounterName = (typeof NAMES)[number];
export const NET_COUNTER_NAMES: readonly NetCounterName[] = NAMES;
/** Bytes of a block of counters. */
export const NET_COUNTERS_SIZE = NAMES.length * Float64Array.BYTES_PER_ELEMENT;

/** Index of each counter in `values`. */
export const NetCounter = Object.fromEntries(NAMES.map((name, index) => [name, index])) as Readonly<
  Record<NetCounterName, number>
>;

export class NetCounters {
  readonly values: Float64Array;

  /**
   * @param buffer where the counters lie, zeroed before the first use; by default memory of this process's own
   * @param offset byte offset, a multiple of 8
   */
  constructor(buffer: ArrayBufferLike = new SharedArrayBuffer(NET_COUNTERS_SIZE), offset = 0) {
    this.values = new Float64Array(buffer, offset, NAMES.length);
  }

  add(counter: number, amount = 1): void {
    this.values[counter] = this.values[counter]! + amount;
  }

  /** All counters by name. */
  read(): Record<NetCounterName, number> {
    return Object.fromEntries(NAMES.map((name, index) => [name, this.values[index] ?? 0])) as Record<
      NetCounterName,
      number
    >;
  }
}
