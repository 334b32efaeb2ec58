/** One queue of an interface: a ring to transmit, a ring to receive, one or two event channels. */
import type { GrantMapper, MemoryView } from "../domain-interface.ts";
import { BackRing } from "../ring/back.ts";
import type { SharedRing } from "../ring/layout.ts";
import { NetCounter, type NetCounters } from "./counters.ts";
import type { FrameSink } from "./frame.ts";
import type { MulticastList } from "./multicast.ts";
import { Notifier } from "./notification.ts";
import type { PageExchange } from "./page-exchange.ts";
import { NET_RING_SLOTS } from "./protocol.ts";
import { type FrameAcceptance, type FramePreparation, ReceiveRing } from "./receive-ring.ts";
import { type JournalShape, journalSize, SlotJournal } from "./slot-journal.ts";
import { TransmitRing } from "./transmit-ring.ts";

const TRANSMIT_JOURNAL: JournalShape = { slots: NET_RING_SLOTS, responseWords: 1 };
const RECEIVE_JOURNAL: JournalShape = { slots: NET_RING_SLOTS, responseWords: 2 };
/** Bytes that a queue needs in memory that outlives the process. */
export const NET_QUEUE_REGION = journalSize(TRANSMIT_JOURNAL) + journalSize(RECEIVE_JOURNAL);

/** What all queues of an interface have in common. */
export interface NetQueueContext {
  readonly grants: GrantMapper;
  /** Given where the frontend asked for an exchange of pages. */
  readonly exchange: PageExchange | undefined;
  readonly accepts: FrameAcceptance;
  readonly prepare: FramePreparation;
  /** feature-rx-notify of the frontend. */
  readonly tells: boolean;
  readonly sink: FrameSink;
  readonly counters: NetCounters;
  /** Nanoseconds, of any clock that does not go back. */
  now(): number;
  /** One line. */
  log(message: string): void;
}

/** A queue's rings, mapped, and its event channels, bound. */
export interface NetQueueChannel {
  /** Of one page, with slots of TRANSMIT_SLOT bytes. */
  readonly transmit: SharedRing;
  /** Of one page, with slots of RECEIVE_SLOT bytes. */
  readonly receive: SharedRing;
  /** Sends the frontend an event about the one ring, and about the other; the same function: they share a channel. */
  readonly notifyTransmit: () => void;
  readonly notifyReceive: () => void;
  /** NET_QUEUE_REGION bytes at `address` (a multiple of 4), zeroed before the first use. */
  readonly memory: MemoryView;
  readonly address: number;
  /** A predecessor has served these rings: go on where it was. Its mappings of data pages are the caller's to undo. */
  readonly adopted: boolean;
}

/** Where tests put rings and journals of their own. */
export interface NetQueueParts {
  readonly transmitRing: BackRing;
  readonly receiveRing: BackRing;
  readonly transmitJournal: SlotJournal;
  readonly receiveJournal: SlotJournal;
}

/** The rings at their beginning, and the journals in the channel's memory. */
export function netQueueParts(channel: NetQueueChannel): NetQueueParts {
  const { memory, address, transmit, receive } = channel;
  return {
    transmitRing: new BackRing(transmit),
    receiveRing: new BackRing(receive),
    transmitJournal: new SlotJournal(memory, address, TRANSMIT_JOURNAL),
    receiveJournal: new SlotJournal(memory, address + journalSize(TRANSMIT_JOURNAL), RECEIVE_JOURNAL),
  };
}

export class NetQueue {
  readonly transmit: TransmitRing;
  readonly receive: ReceiveRing;
  readonly notifiers: readonly Notifier[];
  /** The rings were served before, by a backend that has left nothing behind but them. */
  readonly takenOver: boolean;
  private readonly parts: NetQueueParts;
  private readonly counters: NetCounters;

  constructor(
    context: NetQueueContext,
    channel: NetQueueChannel,
    multicast: MulticastList,
    parts: NetQueueParts = netQueueParts(channel),
  ) {
    this.parts = parts;
    const { counters } = context;
    this.counters = counters;
    const common = { ...context, now: () => context.now(), log: (message: string) => context.log(message) };
    const shared = channel.notifyTransmit === channel.notifyReceive;
    const receiveNotifier = new Notifier(channel.notifyReceive, counters);
    const transmitNotifier = shared ? receiveNotifier : new Notifier(channel.notifyTransmit, counters);
    this.notifiers = shared ? [receiveNotifier] : [receiveNotifier, transmitNotifier];
    const { transmitRing, transmitJournal, receiveRing, receiveJournal } = parts;
    const transmit = { ring: transmitRing, journal: transmitJournal, notifier: transmitNotifier, multicast };
    this.transmit = new TransmitRing({ ...common, ...transmit });
    const receive = { ring: receiveRing, journal: receiveJournal, notifier: receiveNotifier };
    this.receive = new ReceiveRing({ ...common, ...receive });
    this.takenOver = this.start(channel.adopted);
  }

  private start(adopted: boolean): boolean {
    let takenOver = false;
    const { transmitRing, receiveRing, transmitJournal, receiveJournal } = this.parts;
    for (const [ring, journal] of [
      [transmitRing, transmitJournal],
      [receiveRing, receiveJournal],
    ] as const) {
      if (!adopted || !journal.recover(ring)) takenOver = begin(ring, journal) || takenOver;
      this.counters.add(NetCounter.replayed, journal.unpublished(ring));
      journal.publish(ring);
    }
    // A predecessor may have published and died before it told.
    if (adopted || takenOver) for (const notifier of this.notifiers) notifier.force();
    return takenOver;
  }

  /** Makes known what was done, and leaves the rings alone until release(): no page of the guest is touched. */
  hold(): void {
    this.receive.flush();
    for (const notifier of this.notifiers) notifier.flush();
    this.receive.held = true;
  }

  /** Ends hold(), and gives the guest what has waited. */
  release(): void {
    this.receive.held = false;
    this.receive.drain();
    this.receive.flush();
  }

  /** Frames wait that the guest has given no buffers for. */
  get waiting(): number {
    return this.receive.backlog.length;
  }

  /** Takes up to `budget` packets from the guest, and gives it what waits. @returns packets taken */
  poll(budget: number): number {
    if (this.waiting > 0) {
      this.receive.drain();
      this.receive.flush();
    }
    return this.transmit.poll(budget);
  }

  /** Before sleeping: asks for events. @returns whether there is something to do already */
  arm(): boolean {
    const transmit = this.transmit.arm();
    return this.receive.arm() || transmit;
  }

  /** Does what the clock says. @returns when to be called again, in nanoseconds of now(); Infinity: no need */
  service(now: number): number {
    if (this.receive.deadline <= now) {
      this.receive.drain();
      this.receive.flush();
    }
    const { receive, transmit } = this;
    let next = Math.min(receive.deadline, receive.held ? Number.POSITIVE_INFINITY : transmit.deadline);
    for (const notifier of this.notifiers) next = Math.min(next, notifier.check(now));
    return next;
  }

  /** Publishes what is answered and forgets what waits; nothing here concerns a later connection. */
  close(): void {
    this.receive.flush();
    for (const notifier of this.notifiers) notifier.flush();
    this.receive.backlog.clear();
    this.parts.transmitJournal.clear();
    this.parts.receiveJournal.clear();
  }
}

/**
 * A new connection: where the ring stands, which is 0 unless another backend has served it.
 * @returns whether one has
 */
function begin(ring: BackRing, journal: SlotJournal): boolean {
  // Indexes that are impossible are found so when requests are looked for.
  ring.attach();
  journal.reset(ring.responseProducer);
  return ring.responseProducer !== 0;
}

/** Whether the rings of a queue that nobody serves claim no more requests than they hold. */
export function queueIsSound({ transmit, receive }: NetQueueChannel): boolean {
  return [transmit, receive].every((ring) => new BackRing(ring).attach());
}
