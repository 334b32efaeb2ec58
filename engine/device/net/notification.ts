/**
 * When a guest is sent an event for messages that wait for it: as soon as so many wait, or so long after the oldest,
 * whichever comes first. Whether it wants an event at all is told by its ring's event index; that is asked when messages
 * are published, and remembered here.
 */
import { NetCounter, type NetCounters } from "./counters.ts";

/** Settable per interface. With one message and no delay a guest is told at the end of every batch. */
export interface NotificationPolicy {
  /** Messages that may wait without an event, and the one more that causes it: at least 1. */
  readonly messages: number;
  /** Nanoseconds since the oldest one. */
  readonly delay: number;
}

export const PROMPT: NotificationPolicy = { messages: 1, delay: 0 };

export class Notifier {
  policy: NotificationPolicy;
  private readonly counters: NetCounters;
  private readonly send: () => void;
  private waiting = 0;
  private oldest = 0;
  private wanted = false;

  constructor(send: () => void, counters: NetCounters, policy: NotificationPolicy = PROMPT) {
    this.send = send;
    this.counters = counters;
    this.policy = policy;
  }

  /**
   * Messages have been published.
   *
   * @param wanted what pushResponsesAndCheckNotify() said
   * @param now nanoseconds, of any clock that does not go back
   */
  published(messages: number, wanted: boolean, now: number): void {
    if (this.waiting === 0) this.oldest = now;
    this.waiting += messages;
    this.wanted ||= wanted;
    this.check(now);
  }

  /** Sends what is due. @returns when to look again, in nanoseconds of `now`'s clock; Infinity: not before more come */
  check(now: number): number {
    if (this.waiting === 0) return Number.POSITIVE_INFINITY;
    const due = this.oldest + this.policy.delay;
    if (this.waiting < this.policy.messages && now < due) return due;
    this.flush();
    return Number.POSITIVE_INFINITY;
  }

  /** Sends what waits, due or not. */
  flush(): void {
    if (this.waiting === 0) return;
    this.counters.add(this.wanted ? NetCounter.notifications_sent : NetCounter.notifications_suppressed);
    if (this.wanted) this.send();
    this.waiting = 0;
    this.wanted = false;
  }

  /** An event that may have been lost with a predecessor: sent in any case. */
  force(): void {
    this.counters.add(NetCounter.notifications_sent);
    this.send();
  }
}
