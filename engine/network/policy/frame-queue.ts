/** Frames that wait until a time, in the order in which they came. The frames are private copies. */
import type { Frame } from "../../device/net/frame.ts";
import type { Clock, PortFacts } from "../types.ts";

interface Waiting {
  readonly frame: Frame;
  readonly port: PortFacts;
  readonly due: number;
}

export class TimedQueue {
  readonly #clock: Clock;
  readonly #release: (port: PortFacts, frame: Frame) => void;
  readonly #batchEnd: () => void;
  readonly #waiting: (Waiting | undefined)[] = [];
  #head = 0;
  #timer: { cancel(): void } | undefined;
  #lastDue = 0;
  bytes = 0;

  constructor(clock: Clock, release: (port: PortFacts, frame: Frame) => void, batchEnd: () => void) {
    this.#clock = clock;
    this.#release = release;
    this.#batchEnd = batchEnd;
  }

  /** Frames waiting. */
  get length(): number {
    return this.#waiting.length - this.#head;
  }

  /** Puts a frame at the end. It is released at `due`, and never before one that stands before it. */
  push(frame: Frame, port: PortFacts, due: number): void {
    this.#lastDue = this.length === 0 ? due : Math.max(due, this.#lastDue);
    this.#waiting.push({ frame, port, due: this.#lastDue });
    this.bytes += frame.length;
    this.#arm();
  }

  /** Drops all. */
  clear(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#waiting.length = 0;
    this.#head = 0;
    this.bytes = 0;
  }

  #arm(): void {
    const first = this.#waiting[this.#head];
    if (first === undefined || this.#timer !== undefined) return;
    this.#timer = this.#clock.after(Math.max(0, first.due - this.#clock.now()), () => this.#expire());
  }

  #expire(): void {
    this.#timer = undefined;
    const now = this.#clock.now();
    let released = 0;
    for (;;) {
      const first = this.#waiting[this.#head];
      if (first === undefined || first.due > now) break;
      this.#waiting[this.#head++] = undefined;
      this.bytes -= first.frame.length;
      released++;
      this.#release(first.port, first.frame);
    }
    if (this.#head > 64 && this.#head * 2 > this.#waiting.length) {
      this.#waiting.splice(0, this.#head);
      this.#head = 0;
    }
    if (released > 0) this.#batchEnd();
    this.#arm();
  }
}
