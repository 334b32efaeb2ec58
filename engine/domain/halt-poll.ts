/**
 * How long a thread with nothing to do looks for its next event before it sleeps. A wake-up costs some 20 µs, and a thread that
 * has slept runs the next half millisecond a third slower (engine/DESIGN.md, speed of disks), so where events come sooner than
 * that it pays to look; where they do not it wastes a core. So the time adapts, as KVM's halt polling does: it grows while events
 * come soon after the thread fell asleep, and shrinks when they do not. Unlike KVM's it forgives one long wait among short ones,
 * and it is at its least at once where other threads need the processor.
 */
const LEAST_NS = 10_000;
const MOST_NS = 1_000_000;
/** Long waits in a row that are forgiven. */
const FORGIVEN = 1;
/** Two looks so far apart: the host ran another thread in between. */
const TAKEN_AWAY_NS = 100_000;
/** What comes sooner than this is not delayed by giving way, a system call. */
const ALONE_NS = 5_000;

/** What looking needs of the host. */
export interface Surroundings {
  /** ns, monotonic. */
  clock(): number;
  /**
   * Lets another thread have the processor. Without it the host may have woken the very thread that would send the event on
   * the processor of the one that looks for it, and both stand still until the latter gives up.
   */
  giveWay(): void;
}

export class HaltPoll {
  private readonly mostNs: number;
  private ns = LEAST_NS;
  private long = 0;

  /** @param mostNs longest time to look */
  constructor(mostNs = MOST_NS) {
    this.mostNs = mostNs;
  }

  /** How long to look, ns. */
  get time(): number {
    return this.ns;
  }

  /** After a wait of so many ns, looking included; Infinity: no event has ended it. */
  waited(ns: number): void {
    if (ns >= this.mostNs) {
      if (++this.long > FORGIVEN) this.ns = Math.max(LEAST_NS, this.ns / 2);
      return;
    }
    this.long = 0;
    if (ns > this.ns) this.ns = Math.min(this.mostNs, this.ns * 2);
  }

  /** Looks until `awake()` or the time is over, `limitNs` at most. @returns whether it is awake */
  look({ clock, giveWay }: Surroundings, limitNs: number, awake: () => boolean): boolean {
    const start = clock();
    const until = start + Math.min(this.ns, limitNs);
    for (let last = start; ; ) {
      if (awake()) {
        this.waited(last - start);
        return true;
      }
      const now = clock();
      if (now - last > TAKEN_AWAY_NS) return this.interrupted(awake());
      if (now >= until) return false;
      last = now;
      if (now - start >= ALONE_NS) giveWay();
    }
  }

  /** Another thread had the processor: maybe the one that sends the event. */
  private interrupted(awake: boolean): boolean {
    if (!awake) this.ns = LEAST_NS;
    return awake;
  }
}
