/**
 * How long a thread with nothing to do looks for its next event before it sleeps. A wake-up costs some 20 µs, so where events
 * come sooner than that it pays to look; where they do not it wastes a core. So the time adapts, as KVM's halt polling does:
 * it grows while events come soon after the thread fell asleep, and shrinks when they do not.
 */
const LEAST_NS = 10_000;
const MOST_NS = 200_000;

export class HaltPoll {
  private ns = LEAST_NS;

  /** How long to look, ns. */
  get time(): number {
    return this.ns;
  }

  /** After a wait of so many ns that ended with an event. */
  waited(ns: number): void {
    if (ns <= this.ns) return;
    this.ns = ns < MOST_NS ? Math.min(MOST_NS, this.ns * 2) : Math.max(LEAST_NS, this.ns / 2);
  }
}
