import type { Frame } from "../../../device/net/frame.ts";
import { type BufferBudget, type BufferPool, POOL_BUFFER } from "./buffer-pool.ts";
import { advance, before, distance } from "./tcp-sequence.ts";

/** Segments kept that came before their turn. */
const MOST_EARLY = 128;

/** A filled buffer of the pool, on its way to the host. */
export interface StagedBuffer {
  readonly buffer: Buffer;
  length: number;
}

interface EarlySegment {
  readonly sequence: number;
  readonly bytes: Uint8Array;
}

/** A guest's bytes in order, copied out of its pages once and waiting for the host's socket; and those that came early. */
export class ReceiveQueue {
  /** The next byte that is expected (RFC 9293: RCV.NXT). */
  next = 0;
  /** Bytes in order that the host's socket has not taken yet, those given to it included. */
  held = 0;
  private staged: StagedBuffer[] = [];
  private early: EarlySegment[] = [];
  private earlyBytes = 0;
  private readonly pool: BufferPool;
  private readonly budget: BufferBudget;

  constructor(pool: BufferPool, budget: BufferBudget) {
    this.pool = pool;
    this.budget = budget;
  }

  /** How much more may come beyond `next`. */
  get room(): number {
    return Math.max(0, this.budget.room - this.held);
  }

  /** Bytes that nobody has fetched with takeStaged() yet. */
  get hasStaged(): boolean {
    return this.staged.length > 0;
  }

  /**
   * Takes `length` bytes at `offset` of a frame, whose first is numbered `sequence`: all of them new and inside the window.
   * @returns whether they were in order
   */
  add(frame: Frame, offset: number, length: number, sequence: number): boolean {
    if (sequence !== this.next) {
      this.keepEarly(frame, offset, length, sequence);
      return false;
    }
    this.stageFrame(frame, offset, length);
    if (this.early.length > 0) this.stageEarly();
    return true;
  }

  /** What is ready for the host; it has to come back by giveBack(). */
  takeStaged(): StagedBuffer[] {
    const taken = this.staged;
    this.staged = [];
    return taken;
  }

  /** The host's socket is done with a buffer. */
  giveBack({ buffer, length }: StagedBuffer): void {
    this.held -= length;
    this.budget.held -= length;
    this.pool.give(buffer);
  }

  /** Forgets everything that was not fetched. */
  clear(): void {
    for (const one of this.takeStaged()) this.giveBack(one);
    this.early = [];
    this.countEarly(-this.earlyBytes);
  }

  private tail(): StagedBuffer {
    const last = this.staged.at(-1);
    if (last !== undefined && last.length < POOL_BUFFER) return last;
    const fresh = { buffer: this.pool.take(), length: 0 };
    this.staged.push(fresh);
    return fresh;
  }

  private count(length: number): void {
    this.held += length;
    this.budget.held += length;
    this.next = advance(this.next, length);
  }

  private stageFrame(frame: Frame, offset: number, length: number): void {
    for (let done = 0; done < length; ) {
      const tail = this.tail();
      const count = Math.min(POOL_BUFFER - tail.length, length - done);
      frame.copyTo(tail.buffer, tail.length, offset + done, count);
      tail.length += count;
      done += count;
    }
    this.count(length);
  }

  private stageBytes(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const tail = this.tail();
      const count = Math.min(POOL_BUFFER - tail.length, bytes.length - done);
      tail.buffer.set(bytes.subarray(done, done + count), tail.length);
      tail.length += count;
      done += count;
    }
    this.count(bytes.length);
  }

  private keepEarly(frame: Frame, offset: number, length: number, sequence: number): void {
    // Pieces that overlap can be more bytes than the window has.
    if (this.early.length >= MOST_EARLY || this.earlyBytes + length > this.budget.room) return;
    let at = this.early.length;
    while (at > 0 && before(sequence, this.early[at - 1]!.sequence)) at--;
    const previous = this.early[at - 1];
    if (previous?.sequence === sequence && previous.bytes.length >= length) return;
    const bytes = new Uint8Array(length);
    frame.copyTo(bytes, 0, offset, length);
    this.early.splice(at, 0, { sequence, bytes });
    this.countEarly(length);
  }

  private stageEarly(): void {
    let used = 0;
    for (const { sequence, bytes } of this.early) {
      const old = distance(sequence, this.next);
      if (old < 0) break;
      if (old < bytes.length) this.stageBytes(bytes.subarray(old));
      used++;
    }
    for (const { bytes } of this.early.splice(0, used)) this.countEarly(-bytes.length);
  }

  private countEarly(change: number): void {
    this.earlyBytes += change;
    this.budget.held += change;
  }
}
