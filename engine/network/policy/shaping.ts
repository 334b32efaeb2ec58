/**
 * Rate limits by token bucket, and fair queueing of interfaces that compete for one way out.
 *
 * `RateLimiter` is for what a guest sends: netback asks it before it consumes a packet and leaves the ring alone until
 * there is credit, so nothing is dropped and the guest's own queue feels the limit (as Xen's vif `rate` does).
 * `FairQueue` is for frames that were taken already and wait for one uplink: deficit round robin (Shreedhar and
 * Varghese, SIGCOMM 1995) shares bytes, not frames, whatever sizes the senders use.
 */
import type { Frame } from "../../device/net/frame.ts";
import type { Rate } from "./rate.ts";

/**
 * A token bucket. Credit comes continuously, at the speed of `rate`, up to one interval's credit.
 *
 * A frame longer than the whole bucket (64 KiB of GSO at a low rate) is let through by a full bucket and leaves a debt,
 * so that the average stays right and no frame waits for ever.
 */
export class RateLimiter {
  #bytes: number;
  /** Nanoseconds that one byte of credit takes. */
  #cost: number;
  /** May be below 0: a debt. */
  #credit: number;
  #at: number | undefined;

  constructor(rate: Rate) {
    this.#bytes = rate.bytes;
    this.#cost = (rate.intervalUs * 1000) / rate.bytes;
    this.#credit = rate.bytes;
  }

  /** A new rate from now on; credit above its bucket is lost, a debt stays. */
  set(rate: Rate): void {
    this.#bytes = rate.bytes;
    this.#cost = (rate.intervalUs * 1000) / rate.bytes;
    this.#credit = Math.min(this.#credit, rate.bytes);
  }

  /**
   * Asks for `bytes` at `now` (ns). @returns 0: they are paid and may go; otherwise nothing is paid, and it is worth
   * asking again after so many nanoseconds.
   */
  allow(bytes: number, now: number): number {
    this.#refill(now);
    const needed = Math.min(bytes, this.#bytes);
    // Half a byte is rounding: whoever waited as long as was said must get through.
    if (this.#credit + 0.5 < needed) return Math.ceil((needed - this.#credit) * this.#cost);
    this.#credit -= bytes;
    return 0;
  }

  #refill(now: number): void {
    const before = this.#at ?? now;
    // A clock that stands still or goes back gives nothing.
    if (now > before) this.#credit = Math.min(this.#bytes, this.#credit + (now - before) / this.#cost);
    this.#at = this.#at === undefined ? now : Math.max(now, before);
  }
}

/** What a queue of one sender may hold. */
export interface FairQueueLimits {
  /** Bytes waiting for one sender. Default 512 KiB. */
  readonly bytesPerSender?: number;
  /** Frames waiting for one sender, so that tiny frames do not fill memory. Default 1024. */
  readonly framesPerSender?: number;
  /** Bytes a sender may send each round. Default 1514: one frame of Ethernet. */
  readonly quantum?: number;
}

/** Counters of one sender's queue. */
export interface SenderCounters {
  readonly sender: number;
  frames: number;
  bytes: number;
  droppedFrames: number;
  droppedBytes: number;
  waitingFrames: number;
  waitingBytes: number;
}

interface SenderQueue {
  readonly counters: SenderCounters;
  readonly frames: (Frame | undefined)[];
  head: number;
  deficit: number;
  weight: number;
  /** In the round: it has frames waiting. */
  active: boolean;
}

/** Bytes that a frame costs besides its own: a queue of empty frames is not free. */
const FRAME_OVERHEAD = 64;

/**
 * Deficit round robin over senders (interfaces, by number). `offer` takes a private copy; `take` gives the next frame.
 * Work for each frame is constant as long as the quantum is not far below the longest frame.
 */
export class FairQueue {
  readonly #senders = new Map<number, SenderQueue>();
  readonly #round: SenderQueue[] = [];
  #current = 0;
  /** Whether the sender whose turn it is has had its quantum. */
  #paid = false;
  readonly #bytesMost: number;
  readonly #framesMost: number;
  readonly #quantum: number;
  #waiting = 0;

  constructor(limits: FairQueueLimits = {}) {
    this.#bytesMost = limits.bytesPerSender ?? 512 * 1024;
    this.#framesMost = limits.framesPerSender ?? 1024;
    this.#quantum = limits.quantum ?? 1514;
  }

  /** Frames waiting, of all senders. */
  get length(): number {
    return this.#waiting;
  }

  /** A sender's share relative to others (default 1; from 0.01 to 100). */
  setWeight(sender: number, weight: number): void {
    this.#queue(sender).weight = Math.min(100, Math.max(0.01, weight));
  }

  /** Queues a copy of the frame. @returns false when the sender's queue is full: dropped and counted there */
  offer(sender: number, frame: Frame): boolean {
    const queue = this.#queue(sender);
    const { counters } = queue;
    const held = counters.waitingBytes + counters.waitingFrames * FRAME_OVERHEAD;
    if (counters.waitingFrames >= this.#framesMost || held + frame.length > this.#bytesMost) {
      counters.droppedFrames++;
      counters.droppedBytes += frame.length;
      return false;
    }
    queue.frames.push(frame.clone());
    counters.waitingFrames++;
    counters.waitingBytes += frame.length;
    this.#waiting++;
    if (!queue.active) {
      queue.active = true;
      queue.deficit = 0;
      this.#round.push(queue);
    }
    return true;
  }

  /** Length in bytes of the frame that `take` would give; 0 when none waits. For asking a RateLimiter first. */
  peekLength(): number {
    const queue = this.#turn();
    return queue === undefined ? 0 : (queue.frames[queue.head]?.length ?? 0);
  }

  /** The next frame, or undefined when none waits. It is the caller's. */
  take(): Frame | undefined {
    const queue = this.#turn();
    const frame = queue?.frames[queue.head];
    if (queue === undefined || frame === undefined) return undefined;
    queue.frames[queue.head++] = undefined;
    if (queue.head > 64 && queue.head * 2 > queue.frames.length) {
      queue.frames.splice(0, queue.head);
      queue.head = 0;
    }
    queue.deficit -= frame.length;
    queue.counters.waitingFrames--;
    queue.counters.waitingBytes -= frame.length;
    queue.counters.frames++;
    queue.counters.bytes += frame.length;
    this.#waiting--;
    if (queue.counters.waitingFrames === 0) this.#leave(queue);
    return frame;
  }

  /** Drops what a sender has waiting, and forgets it: its interface is gone. */
  remove(sender: number): void {
    const queue = this.#senders.get(sender);
    if (queue === undefined) return;
    this.#waiting -= queue.counters.waitingFrames;
    this.#leave(queue);
    this.#senders.delete(sender);
  }

  counters(): SenderCounters[] {
    return [...this.#senders.values()].map((queue) => ({ ...queue.counters }));
  }

  #queue(sender: number): SenderQueue {
    let queue = this.#senders.get(sender);
    if (queue === undefined) {
      const counters = {
        sender,
        frames: 0,
        bytes: 0,
        droppedFrames: 0,
        droppedBytes: 0,
        waitingFrames: 0,
        waitingBytes: 0,
      };
      queue = { counters, frames: [], head: 0, deficit: 0, weight: 1, active: false };
      this.#senders.set(sender, queue);
    }
    return queue;
  }

  /**
   * The sender whose first frame its deficit covers: each visit adds a quantum, what does not suffice stays for the
   * next.
   */
  #turn(): SenderQueue | undefined {
    if (this.#waiting === 0) return undefined;
    for (;;) {
      if (this.#current >= this.#round.length) this.#current = 0;
      const queue = this.#round[this.#current];
      if (queue === undefined) return undefined;
      if (!this.#paid) {
        queue.deficit += this.#quantum * queue.weight;
        this.#paid = true;
      }
      if ((queue.frames[queue.head]?.length ?? 0) <= queue.deficit) return queue;
      this.#current++;
      this.#paid = false;
    }
  }

  #leave(queue: SenderQueue): void {
    if (!queue.active) return;
    queue.active = false;
    queue.frames.length = 0;
    queue.head = 0;
    const at = this.#round.indexOf(queue);
    this.#round.splice(at, 1);
    if (at < this.#current) this.#current--;
    else if (at === this.#current) this.#paid = false;
  }
}
