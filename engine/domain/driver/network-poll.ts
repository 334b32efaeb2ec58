/**
 * Serves many interfaces on one event loop: in turn, with a bounded number of packets each, and without waiting for events
 * while there is traffic. A wake-up through the event loop costs two thread switches, so after work the loop looks on for a
 * moment that adapts (halt-poll.ts), and only then asks for events and sleeps.
 *
 *   event ──▶ kick ──▶ turn: service, poll each ──▶ work? ──yes──▶ turn (setImmediate)
 *                        ▲                            └─no, for a moment──▶ turn
 *                        └──── something came ◀── arm all ◀── no, longer ──▶ sleep (a timer where the clock asks)
 */
import type { Clock } from "../../network/types.ts";
import { HaltPoll } from "../halt-poll.ts";

/** Something with rings, as Vif of engine/device/net. */
export interface Pollable {
  /** Takes up to so many packets. @returns how many there were */
  poll(budget: number): number;
  /** Before sleeping: asks for events. @returns whether there is something to do already */
  arm(): boolean;
  /** Does what the clock says. @returns when to be called again, ns; Infinity: no need */
  service(now: number): number;
}

/** Packets of one interface before the next has its turn: enough to make a batch, too few to make others wait. */
const BUDGET = 64;
/** A timer of the event loop is not finer than this: what is due sooner is looked for. */
const TIMER_NS = 1_000_000;
/** Longest look for more: it keeps the whole event loop busy. */
const LOOK_NS = 200_000;

export interface PollLoopOptions {
  readonly clock: Clock;
  /** Called after each turn with work, and before sleeping. */
  readonly turnEnd?: () => void;
  /** Calls back in the event loop's next turn; setImmediate unless a test has its own. */
  readonly next?: (call: () => void) => void;
}

export class PollLoop {
  private readonly clock: Clock;
  private readonly turnEnd: () => void;
  private readonly next: (call: () => void) => void;
  private readonly halt = new HaltPoll(LOOK_NS);
  private readonly members: Pollable[] = [];
  private first = 0;
  private running = false;
  /** When there was something to do last. */
  private busy = 0;
  private timer: { cancel(): void } | undefined;
  private started = false;
  private closed = false;

  constructor({ clock, turnEnd, next }: PollLoopOptions) {
    this.clock = clock;
    this.turnEnd = turnEnd ?? (() => {});
    this.next = next ?? ((call) => void setImmediate(call));
  }

  /** Begins; members and events that came before are not forgotten. */
  start(): void {
    this.started = true;
    this.kick();
  }

  add(member: Pollable): void {
    this.members.push(member);
    this.kick();
  }

  remove(member: Pollable): void {
    const index = this.members.indexOf(member);
    if (index >= 0) this.members.splice(index, 1);
  }

  /** There may be something to do: an event came, or frames were delivered that wait for buffers or for a notification. */
  kick(): void {
    if (this.running || this.closed || !this.started) return;
    const now = this.clock.now();
    this.halt.waited(now - this.busy);
    this.timer?.cancel();
    this.timer = undefined;
    this.busy = now;
    this.running = true;
    this.next(this.turn);
  }

  /** Nothing is polled after this. */
  close(): void {
    this.closed = true;
    this.timer?.cancel();
  }

  private readonly turn = (): void => {
    if (this.closed) return;
    const { members } = this;
    let taken = 0;
    const count = members.length;
    this.first = count === 0 ? 0 : (this.first + 1) % count;
    // A member may remove itself: those that are gone meanwhile are left out.
    for (let n = 0; n < count; n++) taken += members[(this.first + n) % count]?.poll(BUDGET) ?? 0;
    const now = this.clock.now();
    let due = Number.POSITIVE_INFINITY;
    for (const member of members) due = Math.min(due, member.service(now));
    if (taken > 0) {
      this.busy = now;
      this.turnEnd();
    }
    if (taken > 0 || now - this.busy < this.halt.time || due - now < TIMER_NS) this.next(this.turn);
    else this.sleep(due, now);
  };

  private sleep(due: number, now: number): void {
    this.turnEnd();
    let ready = false;
    for (const member of this.members) ready = member.arm() || ready;
    if (ready) {
      this.busy = now;
      this.next(this.turn);
      return;
    }
    this.running = false;
    if (due !== Number.POSITIVE_INFINITY) this.timer = this.clock.after(due - now, () => this.kick());
  }
}
