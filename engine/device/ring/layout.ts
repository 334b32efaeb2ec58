/**
 * The shared part of a ring (xen/include/public/io/ring.h):
 *
 *   struct sring { uint32_t req_prod, req_event, rsp_prod, rsp_event; uint8_t pad[48]; union { request; response }
 * ring[]; };
 *
 * A ring lies in one or more granted pages that are contiguous only virtually: here each may be anywhere in a linear
 * memory. The number of slots is the greatest power of two that fits. All indexes run freely over 32 bits; slot i is
 * the one at i modulo the number of slots. A slot may straddle two pages, a word never does.
 */
import type { MemoryView } from "../domain-interface.ts";

export const RING_PAGE_SIZE = 4096;
/** Byte offsets in the first page. */
export const RING_REQ_PROD = 0;
export const RING_REQ_EVENT = 4;
export const RING_RSP_PROD = 8;
export const RING_RSP_EVENT = 12;
/** Where the slots begin. */
export const RING_SLOTS = 64;

/** Number of slots of `slotSize` bytes in a ring of `pages` pages. */
export function ringSize(pages: number, slotSize: number): number {
  const room = Math.floor((pages * RING_PAGE_SIZE - RING_SLOTS) / slotSize);
  return room < 1 ? 0 : 2 ** Math.floor(Math.log2(room));
}

/** A ring in memory: where its indexes and slots are. Knows nothing of either end's progress. */
export class SharedRing {
  readonly words: Int32Array<SharedArrayBuffer>;
  /** Number of slots, a power of two. */
  readonly size: number;
  /** Bytes of a slot, a multiple of 4. */
  readonly slotSize: number;
  /** Index in `words` of req_prod; the other three follow it. */
  readonly header: number;
  /** For each slot: index of its first word. */
  private readonly first: Uint32Array;
  /** For each slot: how many of its words lie in the page where it begins. */
  private readonly split: Uint32Array;
  /** For each slot: index of the word after those. */
  private readonly second: Uint32Array;

  /**
   * @param pages byte offsets in `memory` of the ring's pages, in order; each page-aligned
   * @param slotSize size in bytes of the union of request and response; a multiple of 4
   */
  constructor(memory: MemoryView, pages: readonly number[], slotSize: number) {
    if (slotSize <= 0 || slotSize % 4 !== 0) throw new RangeError(`ring slots of ${slotSize} bytes`);
    this.words = memory.words;
    this.slotSize = slotSize;
    this.size = ringSize(pages.length, slotSize);
    if (this.size === 0) throw new RangeError(`a ring of ${pages.length} pages with slots of ${slotSize} bytes`);
    for (const page of pages) {
      if (page % RING_PAGE_SIZE !== 0 || page + RING_PAGE_SIZE > memory.bytes.length) {
        throw new RangeError(`ring page at ${page}`);
      }
    }
    this.header = (pages[0] ?? 0) / 4;
    this.first = new Uint32Array(this.size);
    this.split = new Uint32Array(this.size);
    this.second = new Uint32Array(this.size);
    for (let slot = 0; slot < this.size; slot++) this.place(slot, pages);
  }

  private place(slot: number, pages: readonly number[]): void {
    const start = RING_SLOTS + slot * this.slotSize;
    const page = Math.floor(start / RING_PAGE_SIZE);
    const inPage = start % RING_PAGE_SIZE;
    const room = RING_PAGE_SIZE - inPage;
    this.first[slot] = ((pages[page] ?? 0) + inPage) / 4;
    this.split[slot] = Math.min(room, this.slotSize) / 4;
    this.second[slot] = room < this.slotSize ? (pages[page + 1] ?? 0) / 4 : 0;
  }

  /** Copies the first `count` words of the slot of a free-running index to into[at…], each read once. */
  copyOut(index: number, into: Int32Array, at: number, count: number): void {
    const slot = index & (this.size - 1);
    const words = this.words;
    const first = this.first[slot]!;
    const head = Math.min(this.split[slot]!, count);
    for (let i = 0; i < head; i++) into[at + i] = words[first + i]!;
    if (head === count) return;
    const second = this.second[slot]! - head;
    for (let i = head; i < count; i++) into[at + i] = words[second + i]!;
  }

  /** Copies from[at…] to the first `count` words of the slot of a free-running index. */
  copyIn(index: number, from: Int32Array, at: number, count: number): void {
    const slot = index & (this.size - 1);
    const words = this.words;
    const first = this.first[slot]!;
    const head = Math.min(this.split[slot]!, count);
    for (let i = 0; i < head; i++) words[first + i] = from[at + i]!;
    if (head === count) return;
    const second = this.second[slot]! - head;
    for (let i = head; i < count; i++) words[second + i] = from[at + i]!;
  }

  /** Reads one of the header's indexes. @param field byte offset, RING_REQ_PROD… */
  load(field: number): number {
    return Atomics.load(this.words, this.header + (field >>> 2)) >>> 0;
  }

  /** Writes one of the header's indexes; everything written before is visible to who reads it. */
  store(field: number, value: number): void {
    Atomics.store(this.words, this.header + (field >>> 2), value | 0);
  }
}

/**
 * What the frontend does to a new ring before it hands it out (SHARED_RING_INIT): no requests, no responses, and each
 * end wants to be told of the first one.
 */
export function initialiseSharedRing(ring: SharedRing): void {
  ring.words.fill(0, ring.header, ring.header + RING_SLOTS / 4);
  ring.store(RING_REQ_EVENT, 1);
  ring.store(RING_RSP_EVENT, 1);
}
