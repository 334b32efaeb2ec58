/**
 * Frames that wait for a guest's receive buffers: private copies, at most so many bytes, at most so long. A guest that
 * gives no buffers costs that much and no more (XSA-392), and nobody else waits for it.
 */
import type { Frame } from "./frame.ts";

export interface BacklogLimits {
  /** Bytes of frames; each counts for at least BACKLOG_CHARGE. 0: nothing waits. */
  readonly bytes: number;
  /** Nanoseconds that a frame waits. */
  readonly age: number;
}

export const DEFAULT_BACKLOG: BacklogLimits = { bytes: 256 * 1024, age: 100_000_000 };
/** What a small frame is charged: the objects around it take memory, too. */
export const BACKLOG_CHARGE = 512;

interface Waiting {
  readonly frame: Frame;
  readonly since: number;
}

export class Backlog {
  limits: BacklogLimits;
  private frames: Waiting[] = [];
  private first = 0;
  private charged = 0;

  constructor(limits: BacklogLimits = DEFAULT_BACKLOG) {
    this.limits = limits;
  }

  get length(): number {
    return this.frames.length - this.first;
  }
  /** Bytes charged to what waits. */
  get bytes(): number {
    return this.charged;
  }
  /** The oldest frame; undefined when none waits. */
  get head(): Frame | undefined {
    return this.frames[this.first]?.frame;
  }
  /** When the oldest frame has waited long enough; Infinity: none waits. */
  get deadline(): number {
    const head = this.frames[this.first];
    return head ? head.since + this.limits.age : Number.POSITIVE_INFINITY;
  }

  /** Keeps a copy. @returns false when there is no room */
  push(frame: Frame, now: number): boolean {
    const charge = Math.max(frame.length, BACKLOG_CHARGE);
    if (this.charged + charge > this.limits.bytes) return false;
    this.frames.push({ frame: frame.clone(), since: now });
    this.charged += charge;
    return true;
  }

  /** Forgets the oldest. */
  shift(): void {
    const head = this.frames[this.first];
    if (!head) return;
    this.charged -= Math.max(head.frame.length, BACKLOG_CHARGE);
    this.first++;
    if (this.first < 64 && this.first < this.frames.length) return;
    this.frames = this.frames.slice(this.first);
    this.first = 0;
  }

  /** Forgets what has waited too long. @returns how many frames that were */
  expire(now: number): number {
    let count = 0;
    for (; this.deadline <= now; count++) this.shift();
    return count;
  }

  clear(): void {
    this.frames = [];
    this.first = 0;
    this.charged = 0;
  }
}
