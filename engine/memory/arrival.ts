/**
 * Memory that is on its way: a restored guest goes on while its memory is still being read from a snapshot, window by window
 * (WINDOW_BYTES). Each window has a state byte in the shared file (plan.arrivals):
 *
 *     PRESENT ◂── settle() ── LOADING ◂── claim() ── ABSENT ◂── expect(), before the guest exists
 *
 * 0 is PRESENT, so a domain that was not restored need not know of all this. Whoever takes a window from ABSENT to LOADING, by
 * compare-and-exchange, fills it; nobody else looks at it before it is PRESENT, and it never goes back. While a window is not
 * there, physmap entries that lead to it are marked (LATER in physmap.ts): only who finds that mark looks at the state. What
 * is reached without the physmap, the special frames and the vcpu_info pages, is loaded before anybody connects to the guest.
 *
 * A thread that cannot load waits, and says which window it waits for: the loader takes that one next. Where the loader gives
 * up it says so (abandon()), and who waits goes on without the page: its guest ends.
 */
import { CONTROL_ABANDONED, CONTROL_ARRIVALS, CONTROL_AWAITING, CONTROL_WANTED, WINDOW_BYTES } from "./frame-plan.ts";
import type { Mapping } from "./guest-memory.ts";

const PRESENT = 0;
const ABSENT = 1;
const LOADING = 2;

/** Longest sleep in one go: the bound on how late the end of a domain is noticed. */
const WAIT_NS = 5e6;
/** Wakes all sleepers. */
const EVERYBODY = 0x7fffffff;

/** The window in which a file offset lies. */
export function windowOf(offset: number): number {
  return Math.floor(offset / WINDOW_BYTES);
}

/** A domain's windows, as one thread sees them. */
export class Arrivals {
  private readonly mapping: Mapping;
  /** Index into `bytes` of window 0's state. */
  private readonly states: number;
  private readonly wanted: number;
  private readonly arrivals: number;
  private readonly awaiting: number;
  private readonly abandoned: number;

  constructor(mapping: Mapping) {
    const { base, plan } = mapping;
    this.mapping = mapping;
    this.states = base + plan.arrivals;
    this.wanted = (base + plan.control + CONTROL_WANTED) >>> 2;
    this.arrivals = (base + plan.control + CONTROL_ARRIVALS) >>> 2;
    this.awaiting = (base + plan.control + CONTROL_AWAITING) >>> 2;
    this.abandoned = (base + plan.control + CONTROL_ABANDONED) >>> 2;
  }

  /** Whether a window's contents are there. Windows behind those that a guest reaches always are. */
  isPresent(window: number): boolean {
    if (window * WINDOW_BYTES >= this.mapping.plan.control) return true;
    return Atomics.load(this.mapping.bytes, this.states + window) === PRESENT;
  }

  /** Says, before anybody else knows the domain, that a window will be loaded. */
  expect(window: number): void {
    Atomics.store(this.mapping.bytes, this.states + window, ABSENT);
  }

  /** Takes a window upon oneself. False: it is there already, or somebody else loads it. */
  claim(window: number): boolean {
    return Atomics.compareExchange(this.mapping.bytes, this.states + window, ABSENT, LOADING) === ABSENT;
  }

  /** The window that was claimed is filled. */
  settle(window: number): void {
    Atomics.store(this.mapping.bytes, this.states + window, PRESENT);
    this.tell();
  }

  /** Says that nothing more will be loaded. Windows that are not there stay so. */
  abandon(): void {
    Atomics.store(this.mapping.words, this.abandoned, 1);
    this.tell();
  }

  private tell(): void {
    const { words, plan } = this.mapping;
    Atomics.add(words, this.arrivals, 1);
    if (Atomics.load(words, this.awaiting) !== 0) this.mapping.wake(plan.control + CONTROL_ARRIVALS, EVERYBODY);
  }

  /** For the loader: the window that somebody waits for, once; undefined for none. */
  takeWanted(): number | undefined {
    const { words } = this.mapping;
    if (Atomics.load(words, this.wanted) === 0) return undefined;
    const wanted = Atomics.exchange(words, this.wanted, 0) >>> 0;
    return wanted === 0 ? undefined : wanted - 1;
  }

  /**
   * Sleeps until a window is there.
   * @returns false when it will not be: its loader has given up, or the domain has ended, which `lives` tells
   */
  wait(window: number, lives: () => boolean): boolean {
    const { words, plan } = this.mapping;
    if (this.isPresent(window)) return true;
    Atomics.add(words, this.awaiting, 1);
    for (;;) {
      const seen = Atomics.load(words, this.arrivals);
      const present = this.isPresent(window);
      if (present || Atomics.load(words, this.abandoned) !== 0 || !lives()) {
        Atomics.sub(words, this.awaiting, 1);
        return present;
      }
      // Another thread's wish may stand there: then ours comes after it.
      Atomics.compareExchange(words, this.wanted, 0, window + 1);
      this.mapping.wait(plan.control + CONTROL_ARRIVALS, seen, WAIT_NS);
    }
  }
}
