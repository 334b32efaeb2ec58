import { FRAME_SEGMENTS, type Frame } from "../../../device/net/frame.ts";
import type { BufferBudget } from "./buffer-pool.ts";

/** Chunks of a queue at most before the host's side is paused, so that a host that sends byte by byte costs no more. */
const MOST_CHUNKS = 256;
/** In place of chunks that are done, so that their memory is free before the list is cut. */
const NOTHING = new Uint8Array(0);

/**
 * Bytes for the guest that are not acknowledged yet, in the chunks in which the host's socket gave them: frames point into
 * them, nothing is copied here. Offsets count from the first unacknowledged byte.
 */
export class SendQueue {
  length = 0;
  private chunks: Uint8Array[] = [];
  /** Chunks before this one are done. */
  private first = 0;
  /** Bytes of the first chunk that are done. */
  private skipped = 0;
  private readonly budget: BufferBudget;

  constructor(budget: BufferBudget) {
    this.budget = budget;
  }

  /** Whether the host should send no more for now. */
  get isFull(): boolean {
    return this.length >= this.budget.room || this.chunks.length - this.first >= MOST_CHUNKS;
  }

  /** Whether there is room again, with some distance to isFull. */
  get isLow(): boolean {
    return this.length * 2 <= this.budget.room && (this.chunks.length - this.first) * 2 <= MOST_CHUNKS;
  }

  /** The chunk is the queue's from now on. */
  push(chunk: Uint8Array): void {
    if (chunk.length === 0) return;
    this.chunks.push(chunk);
    this.length += chunk.length;
    this.budget.held += chunk.length;
  }

  /** The first `count` bytes have arrived. */
  drop(count: number): void {
    this.length -= count;
    this.budget.held -= count;
    let rest = this.skipped + count;
    for (let chunk = this.chunks[this.first]; chunk !== undefined; chunk = this.chunks[this.first]) {
      if (rest < chunk.length) break;
      rest -= chunk.length;
      this.chunks[this.first] = NOTHING;
      this.first++;
    }
    this.skipped = rest;
    if (this.first < 32 && this.first < this.chunks.length) return;
    this.chunks = this.chunks.slice(this.first);
    this.first = 0;
  }

  clear(): void {
    this.drop(this.length);
  }

  /**
   * Lets a frame point at `length` bytes from `offset`.
   * @returns bytes that it points at: fewer, where they lie in more pieces than a frame may have
   */
  addTo(frame: Frame, offset: number, length: number): number {
    let skip = this.skipped + offset;
    let added = 0;
    for (let n = this.first; n < this.chunks.length && added < length; n++) {
      const chunk = this.chunks[n]!;
      if (skip >= chunk.length) {
        skip -= chunk.length;
        continue;
      }
      if (frame.segments === FRAME_SEGMENTS) break;
      const count = Math.min(chunk.length - skip, length - added);
      frame.add(chunk, skip, count);
      added += count;
      skip = 0;
    }
    return added;
  }
}
