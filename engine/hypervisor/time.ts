/**
 * Xen time: pvclock, wall clock, run states and the per-vCPU timers.
 *
 * The guest's TSC counts nanoseconds of domain time (1 GHz), so pvclock is the identity unless the guest writes its
 * TSC: system_time = ((tsc - tsc_timestamp) << 1) * 2^31 >> 32. See xen/include/public/xen.h, struct vcpu_time_info.
 */

import { Runstate, type RunstateName, runstateInfo } from "../abi/vcpu-op.ts";
import { PVCLOCK_GUEST_STOPPED, PVCLOCK_TSC_STABLE, sharedInfo, sharedInfoCompat, vcpuTimeInfo } from "../abi/xen.ts";
import type { Mapping } from "../memory/guest-memory.ts";

/** Nanoseconds as an unsigned 64-bit integer. */
export function nanoseconds(value: number): bigint {
  return BigInt(Math.max(0, Math.trunc(value)));
}

/**
 * A vcpu_time_info with an even version, for a guest whose TSC reads `tscOffset` at domain time 0. `stopped`: the guest did not
 * run for a while and must not take that for a lock-up (Linux clears the flag, arch/x86/kernel/pvclock.c).
 */
export function encodeTimeInfo(version: number, tscOffset: bigint, stopped = false): Uint8Array {
  return vcpuTimeInfo.encode({
    version,
    tscTimestamp: tscOffset,
    systemTime: 0n,
    tscToSystemMul: 0x80000000,
    tscShift: 1,
    flags: PVCLOCK_TSC_STABLE | (stopped ? PVCLOCK_GUEST_STOPPED : 0),
  });
}

/**
 * Writes a vcpu_time_info at an address of the mapping's memory under its version lock: odd while it changes, so that
 * a reader on another vCPU tries again.
 */
export function writeTimeInfo(mapping: Mapping, address: number, version: number, info: Uint8Array): void {
  const word = address >>> 2;
  Atomics.store(mapping.words, word, version - 1);
  mapping.bytes.set(info.subarray(4), address + 4);
  Atomics.store(mapping.words, word, version);
}

/**
 * Writes the wall clock (time of day at system time 0) into shared_info under its version lock; `narrow` for the layout
 * of 32-bit guests.
 */
export function writeWallclock(mapping: Mapping, version: number, epochNs: bigint, narrow: boolean): void {
  const start = mapping.base + mapping.plan.sharedInfo;
  const layout = narrow ? sharedInfoCompat : sharedInfo;
  const word = (start + layout.offsets.wcVersion) >>> 2;
  const seconds = epochNs / 1_000_000_000n;
  Atomics.store(mapping.words, word, version - 1);
  layout.write(mapping.view, start, {
    wcSec: Number(seconds & 0xffffffffn),
    wcNsec: Number(epochNs % 1_000_000_000n),
    wcSecHi: Number(seconds >> 32n),
  });
  Atomics.store(mapping.words, word, version);
}

/** A RunstateClock as data; times in ns of domain time. */
export interface SavedRunstate {
  readonly state: RunstateName;
  readonly entered: number;
  readonly spent: Readonly<Record<RunstateName, number>>;
}

/** How long a vCPU has been in each run state. */
export class RunstateClock {
  private state: RunstateName = "running";
  private entered: number;
  private spent = { running: 0, runnable: 0, blocked: 0, offline: 0 };

  constructor(now: number) {
    this.entered = now;
  }

  /** Changes the state; `now` is domain time in ns. */
  enter(state: RunstateName, now: number): void {
    this.spent[this.state] += Math.max(0, now - this.entered);
    this.state = state;
    this.entered = now;
  }

  get current(): RunstateName {
    return this.state;
  }

  save(): SavedRunstate {
    return { state: this.state, entered: this.entered, spent: { ...this.spent } };
  }

  restore({ state, entered, spent }: SavedRunstate): void {
    this.state = state;
    this.entered = entered;
    this.spent = { ...spent };
  }

  /** A vcpu_runstate_info; the time in the present state counts up to `now`. `narrow`: for a 32-bit guest. */
  encode(now: number, narrow: boolean): Uint8Array {
    const spent = { ...this.spent };
    spent[this.state] += Math.max(0, now - this.entered);
    return (narrow ? runstateInfo.compat : runstateInfo).encode({
      state: Runstate[this.state],
      stateEntryTime: nanoseconds(this.entered),
      time: [spent.running, spent.runnable, spent.blocked, spent.offline].map(nanoseconds),
    });
  }
}

/** VcpuTimers as data: ns of domain time, undefined for a timer that is not set. */
export interface SavedTimers {
  readonly singleshot?: number | undefined;
  readonly periodic?: number | undefined;
  /** 0: there has never been a periodic timer. */
  readonly period: number;
}

const finite = (time: number): number | undefined => (Number.isFinite(time) ? time : undefined);

/** The two timers of a vCPU, both of which raise VIRQ_TIMER. Times are domain time in ns. */
export class VcpuTimers {
  private singleshot = Number.POSITIVE_INFINITY;
  private periodic = Number.POSITIVE_INFINITY;
  private period = 0;

  setSingleshot(deadline: number): void {
    this.singleshot = deadline;
  }

  stopSingleshot(): void {
    this.singleshot = Number.POSITIVE_INFINITY;
  }

  setPeriodic(period: number, now: number): void {
    this.period = period;
    this.periodic = now + period;
  }

  stopPeriodic(): void {
    this.periodic = Number.POSITIVE_INFINITY;
  }

  save(): SavedTimers {
    return { singleshot: finite(this.singleshot), periodic: finite(this.periodic), period: this.period };
  }

  restore({ singleshot, periodic, period }: SavedTimers): void {
    this.singleshot = singleshot ?? Number.POSITIVE_INFINITY;
    // A periodic timer without a period would tick for ever.
    this.periodic = period > 0 ? (periodic ?? Number.POSITIVE_INFINITY) : Number.POSITIVE_INFINITY;
    this.period = period;
  }

  /** Domain time of the next expiry, or Infinity. */
  get next(): number {
    return Math.min(this.singleshot, this.periodic);
  }

  /** True if a timer has expired; a singleshot is then used up, and ticks that were missed are not made up for. */
  expire(now: number): boolean {
    if (now < this.next) return false;
    if (now >= this.singleshot) this.stopSingleshot();
    if (now >= this.periodic) {
      this.periodic += Math.ceil((now - this.periodic + 1) / this.period) * this.period;
    }
    return true;
  }
}
