/** The domain watchdogs of SCHEDOP_watchdog (xen/include/public/sched.h): two timers the guest has to wind up. */
import { Errno } from "../abi/errors.ts";
import type { Shutdown } from "./domain.ts";

/** The end of a domain whose watchdog ran out, or that says so itself. */
export const WATCHDOG_FIRED: Shutdown = { reason: "crash", cause: "the guest's watchdog fired" };

const WATCHDOGS = 2;
const SECOND = 1e9;

export class Watchdogs {
  /** Domain time in ns at which each expires; undefined: not in use. */
  private readonly deadlines: (number | undefined)[] = new Array(WATCHDOGS).fill(undefined);

  /** The deadlines as data; null: not in use. */
  save(): (number | null)[] {
    return this.deadlines.map((deadline) => deadline ?? null);
  }

  restore(deadlines: readonly (number | null)[]): void {
    for (let id = 0; id < WATCHDOGS; id++) this.deadlines[id] = deadlines[id] ?? undefined;
  }

  /**
   * Starts a watchdog (id 0), winds one up, or stops it (timeout 0). `seconds` from `now`, which is domain time in ns.
   * Answers the id of a new one, 1 and up, 0, or a negated Errno.
   */
  set(id: number, seconds: number, now: number): number {
    if (id > WATCHDOGS) return -Errno.EINVAL;
    if (id === 0) {
      if (seconds === 0) return -Errno.EINVAL;
      const free = this.deadlines.indexOf(undefined);
      if (free < 0) return -Errno.ENOSPC;
      this.deadlines[free] = now + seconds * SECOND;
      return free + 1;
    }
    if (this.deadlines[id - 1] === undefined) return -Errno.EINVAL;
    this.deadlines[id - 1] = seconds === 0 ? undefined : now + seconds * SECOND;
    return 0;
  }

  /** Domain time of the next expiry, or Infinity. */
  get next(): number {
    return Math.min(...this.deadlines.map((deadline) => deadline ?? Number.POSITIVE_INFINITY));
  }
}
