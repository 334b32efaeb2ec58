import type { Clock } from "../types.ts";

/** Tries something again later, and after every failure in a row twice as late. */
export class Backoff {
  private readonly clock: Clock;
  private readonly firstNs: number;
  private readonly mostNs: number;
  private delayNs: number;
  private timer: { cancel(): void } | undefined;

  constructor(clock: Clock, firstNs: number, mostNs: number) {
    this.clock = clock;
    this.firstNs = firstNs;
    this.mostNs = mostNs;
    this.delayNs = firstNs;
  }

  /** Calls `attempt` when the time has come. */
  again(attempt: () => void): void {
    this.timer = this.clock.after(this.delayNs, attempt);
    this.delayNs = Math.min(2 * this.delayNs, this.mostNs);
  }

  /** It has worked: the next time begins with the shortest delay. */
  reset(): void {
    this.delayNs = this.firstNs;
  }

  cancel(): void {
    this.timer?.cancel();
  }
}
