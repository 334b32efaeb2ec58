/**
 * The multicast addresses that a guest wants to hear (netif.h, feature-multicast-control), in memory that outlives the
 * process: after a restart of the backend the guest does not send them again.
 *
 *   word 0     number of addresses
 *   word 2 + 2i, 3 + 2i   the first two octets, the last four
 */
import type { MemoryView } from "../domain-interface.ts";

/** Addresses of one interface; a guest that wants more is refused, and can ask for all by not using the feature. */
export const MULTICAST_MOST = 64;
/** Bytes of a list. */
export const MULTICAST_SIZE = 8 + 8 * MULTICAST_MOST;

export class MulticastList {
  /** Whether the list is looked at: the guest has asked for it. */
  enabled = false;
  private readonly words: Int32Array;
  private readonly start: number;

  /** @param address byte offset of MULTICAST_SIZE bytes, a multiple of 4 */
  constructor(memory: Pick<MemoryView, "words">, address: number) {
    this.words = memory.words;
    this.start = address / 4;
  }

  private get count(): number {
    return Math.min(this.words[this.start]! >>> 0, MULTICAST_MOST);
  }

  /** Forgets all: a new connection begins. */
  clear(): void {
    this.words[this.start] = 0;
  }

  private find(low: number, high: number): number {
    for (let n = 0; n < this.count; n++) {
      const at = this.start + 2 + 2 * n;
      if (this.words[at] === low && this.words[at + 1] === (high | 0)) return n;
    }
    return -1;
  }

  /** @returns false when the list is full */
  add(low: number, high: number): boolean {
    if (this.find(low, high) >= 0) return true;
    const { count } = this;
    if (count === MULTICAST_MOST) return false;
    const at = this.start + 2 + 2 * count;
    this.words[at] = low;
    this.words[at + 1] = high | 0;
    // The entry is whole before it counts.
    Atomics.store(this.words, this.start, count + 1);
    return true;
  }

  /** No error when the address is not there. */
  delete(low: number, high: number): void {
    const n = this.find(low, high);
    if (n < 0) return;
    const last = this.count - 1;
    const [from, to] = [this.start + 2 + 2 * last, this.start + 2 + 2 * n];
    this.words[to] = this.words[from]!;
    this.words[to + 1] = this.words[from + 1]!;
    Atomics.store(this.words, this.start, last);
  }

  /** Whether a frame with this destination is for the guest: `head` begins with it. */
  wants(head: Uint8Array): boolean {
    if (!this.enabled || (head[0]! & 1) === 0) return true;
    const low = head[0]! | (head[1]! << 8);
    const high = head[2]! | (head[3]! << 8) | (head[4]! << 16) | (head[5]! << 24);
    // Broadcast is no multicast group: ARP would be lost.
    return (low === 0xffff && high === -1) || this.find(low, high) >= 0;
  }
}
