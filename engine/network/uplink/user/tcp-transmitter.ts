/**
 * The sending half of a connection: what has been sent, what may be sent now, what has to be sent again.
 *
 * Sources: RFC 9293 (3.8: retransmission, zero-window probes, silly window avoidance), RFC 7323 (window scale).
 */
import { TcpFlag } from "../../headers.ts";
import { FULL_ROOM } from "./buffer-pool.ts";
import type { TcpConnection } from "./tcp-connection.ts";
import { type Segment, type SynOptions, segmentLength } from "./tcp-segment.ts";
import { SendQueue } from "./tcp-send-queue.ts";
import { advance, before, distance } from "./tcp-sequence.ts";
import { CongestionWindow, RetransmissionTimeout } from "./tcp-timing.ts";

/** Our window's unit is 128 bytes: FULL_ROOM and more can be said in 16 bits. */
export const WINDOW_SCALE = 7;
/** Bytes of TCP payload that an IPv4 packet can carry. */
const MOST_PAYLOAD = 65_535 - 40;
/** Tries without an answer before the guest counts as gone: about a minute for a SYN, two for data. */
const MOST_SYNS = 6;
const MOST_TRIES = 10;
/** Pure acknowledgements in a row at most: three make a guest send again. */
const MOST_DUPLICATES = 8;

export class Transmitter {
  readonly queue: SendQueue;
  /** RFC 9293's SND.UNA and SND.NXT, and the furthest that SND.NXT has been. */
  una: number;
  next: number;
  most: number;
  /** How many acknowledgements the guest is owed. */
  acknowledgementsDue = 0;
  /** The host has sent everything: a FIN follows the queue. */
  isLast = false;
  /** A piece smaller than a segment may wait for what follows at once. */
  moreIsLikely = false;
  /** The window that a SYN says. */
  readonly synWindow: number;
  /** Undefined: not scaled, neither way. In a SYN of ours that opens, the offer. */
  windowScale: number | undefined = WINDOW_SCALE;

  /** Payload bytes of a segment: what both ends take. */
  mss: number;

  private readonly connection: TcpConnection;
  private readonly initial: number;
  private readonly timeout = new RetransmissionTimeout();
  private congestion: CongestionWindow;
  private peerScale = 0;
  private peerWindow = 0;
  /** Sequence and acknowledgement of the segment that said peerWindow (SND.WL1, SND.WL2). */
  private windowSequence = 0;
  private windowAcknowledgement = 0;
  /** Right edge of the window that we have offered; it never goes back. */
  private edge = 0;
  private synDue = false;
  private isSynAcknowledged = false;
  private isFinSent = false;
  /** The first unacknowledged segment is lost. */
  private isFirstLost = false;
  /** Bytes of a frame, as sent last: how many are under way tells how many duplicates can come. */
  private frameSize = 1;
  private tries = 0;
  /** Milliseconds of the environment's clock; 0: not set. */
  private retransmitAt = 0;
  private probeAt = 0;
  private timedAt = 0;
  private timedUntil = 0;

  constructor(connection: TcpConnection, initial: number) {
    this.connection = connection;
    this.initial = initial;
    this.una = initial;
    this.next = initial;
    this.most = initial;
    const { environment } = connection;
    this.queue = new SendQueue(environment.budget);
    this.mss = environment.mss;
    this.congestion = new CongestionWindow(this.mss);
    this.synWindow = Math.min(65_535, environment.budget.room);
  }

  /** Bytes that the guest may send from what is expected next. */
  get offeredWindow(): number {
    return Math.max(0, distance(this.connection.receiveQueue.next, this.edge));
  }

  /** Whether something is to happen if the guest does not answer. */
  get isTimed(): boolean {
    return this.retransmitAt > 0 || this.probeAt > 0;
  }

  /** The guest's SYN has come; receiveQueue.next is set. */
  peerSyn(options: SynOptions, window: number, sequence: number): void {
    this.mss = Math.min(this.connection.environment.mss, options.mss);
    this.congestion = new CongestionWindow(this.mss);
    this.peerScale = options.windowScale ?? 0;
    if (options.windowScale === undefined) this.windowScale = undefined;
    this.peerWindow = window;
    this.windowSequence = sequence;
    this.windowAcknowledgement = this.una;
    this.edge = advance(this.connection.receiveQueue.next, this.synWindow);
  }

  /** A SYN is to be sent, again if it has been. */
  sendSyn(): void {
    this.synDue = true;
    this.connection.environment.wake(this.connection);
  }

  /** The window to say now; from then on it holds. Not scaled yet. */
  offer(): number {
    const gain = this.gain();
    if (gain >= Math.min(this.mss, FULL_ROOM / 2)) this.edge = advance(this.edge, gain);
    return this.offeredWindow;
  }

  /** Whether the guest should be told of more room without being asked; an acknowledgement is due then. */
  offerMore(): boolean {
    const gain = this.gain();
    const isDue = gain >= FULL_ROOM / 4 || (gain >= this.mss && this.offeredWindow < this.mss);
    if (isDue) this.acknowledgementsDue = Math.max(1, this.acknowledgementsDue);
    return isDue;
  }

  /** How far the window's right edge could move. */
  private gain(): number {
    const { next, room } = this.connection.receiveQueue;
    const limit = this.windowScale === undefined ? Math.min(room, 65_535) : room;
    return distance(this.edge, advance(next, limit));
  }

  /**
   * Takes in acknowledgement and window of an acceptable segment that does not acknowledge more than was sent.
   * @returns whether our FIN is acknowledged by it
   */
  acknowledged(segment: Segment): boolean {
    const count = distance(this.una, segment.acknowledgement);
    if (count < 0) return false;
    const oldWindow = this.peerWindow;
    this.updateWindow(segment);
    if (this.probeAt > 0) this.tries = 0;
    if (count > 0) return this.progress(count, segment.acknowledgement);
    const isDuplicate = this.una !== this.most && oldWindow === this.peerWindow && segmentLength(segment) === 0;
    if (!isDuplicate || this.probeAt > 0) return false;
    const frames = Math.ceil(distance(this.una, this.most) / this.frameSize);
    if (this.congestion.duplicate(this.una, this.most, frames)) this.isFirstLost = true;
    return false;
  }

  private updateWindow(segment: Segment): void {
    const { sequence, acknowledgement, window } = segment;
    const isNewer =
      before(this.windowSequence, sequence) ||
      (this.windowSequence === sequence && !before(acknowledgement, this.windowAcknowledgement));
    if (!isNewer) return;
    const isSyn = (segment.flags & TcpFlag.syn) !== 0;
    this.peerWindow = isSyn ? window : window << this.peerScale;
    this.windowSequence = sequence;
    this.windowAcknowledgement = acknowledgement;
    if (this.peerWindow > 0) this.probeAt = 0;
  }

  private progress(count: number, acknowledgement: number): boolean {
    const now = this.connection.environment.now();
    let bytes = count;
    if (!this.isSynAcknowledged) {
      this.isSynAcknowledged = true;
      bytes--;
    }
    const isFinAcknowledged = this.isFinSent && bytes === this.queue.length + 1;
    if (isFinAcknowledged) bytes--;
    this.queue.drop(bytes);
    this.una = acknowledgement;
    if (before(this.next, this.una)) this.next = this.una;
    if (this.timedAt > 0 && !before(this.una, this.timedUntil)) {
      this.timeout.sample(now - this.timedAt);
      this.timedAt = 0;
    } else this.timeout.progress();
    this.tries = 0;
    if (bytes > 0 && this.congestion.acknowledged(bytes, this.una)) this.isFirstLost = true;
    this.retransmitAt = this.una === this.most ? 0 : now + this.timeout.milliseconds;
    return isFinAcknowledged;
  }

  /** Sends what there is to send and may be sent. @returns whether our FIN was among it */
  output(): boolean {
    if (this.synDue) this.emitSyn();
    if (!this.isSynAcknowledged) return false;
    const hadFin = this.isFinSent;
    if (this.isFirstLost) this.repeatFirst();
    this.sendData();
    if (this.isLast && distance(this.una, this.next) === this.queue.length) this.emit(TcpFlag.ack | TcpFlag.fin, 0);
    for (let due = Math.min(this.acknowledgementsDue, MOST_DUPLICATES); due > 0; due--) {
      this.connection.environment.emit(this.connection, TcpFlag.ack, this.most, 0, 0);
    }
    this.acknowledgementsDue = 0;
    return this.isFinSent && !hadFin;
  }

  /** @returns false when the guest has not answered for too long */
  tick(now: number): boolean {
    if (this.retransmitAt > 0 && now >= this.retransmitAt) return this.retransmit(now);
    if (this.probeAt > 0 && now >= this.probeAt) return this.probe(now);
    return true;
  }

  private retransmit(now: number): boolean {
    this.tries++;
    if (this.tries > (this.isSynAcknowledged ? MOST_TRIES : MOST_SYNS)) return false;
    this.timeout.back();
    this.timedAt = 0;
    this.retransmitAt = now + this.timeout.milliseconds;
    if (this.isSynAcknowledged) {
      this.congestion.timedOut(this.una, this.most);
      // From the beginning, as far as the window lets; acknowledgements skip what has arrived.
      this.next = this.una;
      this.isFirstLost = false;
    } else this.synDue = true;
    this.connection.environment.wake(this.connection);
    return true;
  }

  /** One byte into a closed window: the answer says whether it still is (RFC 9293, 3.8.6.1). */
  private probe(now: number): boolean {
    this.tries++;
    if (this.tries > MOST_TRIES) return false;
    this.timeout.back();
    this.probeAt = now + this.timeout.milliseconds;
    if (this.queue.length === 0) return true;
    const { connection } = this;
    connection.environment.emit(connection, TcpFlag.ack, this.una, 0, 1);
    const after = advance(this.una, 1);
    if (before(this.most, after)) this.most = after;
    return true;
  }

  private emitSyn(): void {
    this.synDue = false;
    const { connection } = this;
    const flags = connection.state === "syn-sent" ? TcpFlag.syn : TcpFlag.syn | TcpFlag.ack;
    this.next = advance(this.initial, 1);
    this.most = this.next;
    const now = connection.environment.now();
    if (this.retransmitAt === 0) this.retransmitAt = now + this.timeout.milliseconds;
    connection.environment.emit(connection, flags, this.initial, 0, 0);
  }

  private repeatFirst(): void {
    this.isFirstLost = false;
    this.timedAt = 0;
    const { connection } = this;
    // What gets lost on the way to a guest is a frame, of many segments perhaps, not one segment of it.
    const lost = Math.max(this.mss, Math.min(this.frameSize, this.congestion.bytes));
    const length = Math.floor(Math.min(lost, this.queue.length, distance(this.una, this.most)));
    if (length > 0) connection.environment.emit(connection, TcpFlag.ack, this.una, 0, length);
    else if (this.isFinSent) connection.environment.emit(connection, TcpFlag.ack | TcpFlag.fin, this.una, 0, 0);
    this.retransmitAt = connection.environment.now() + this.timeout.milliseconds;
  }

  private sendData(): void {
    for (;;) {
      const flight = distance(this.una, this.next);
      const rest = this.queue.length - flight;
      if (rest <= 0) return;
      const usable = Math.min(this.congestion.bytes, this.peerWindow) - flight;
      let count = Math.floor(Math.min(rest, usable, MOST_PAYLOAD));
      if (count <= 0) {
        if (flight === 0) this.startProbing();
        return;
      }
      const isAll = count === rest && !this.moreIsLikely;
      if (!isAll && count < this.mss && flight > 0) return;
      if (!isAll && count > this.mss) count -= count % this.mss;
      const isEnd = count === rest;
      const fin = isEnd && this.isLast ? TcpFlag.fin : 0;
      this.emit(TcpFlag.ack | (isEnd ? TcpFlag.psh : 0) | fin, count);
    }
  }

  private startProbing(): void {
    if (this.probeAt > 0 || this.peerWindow > 0) return;
    this.retransmitAt = 0;
    this.probeAt = this.connection.environment.now() + this.timeout.milliseconds;
  }

  /** Sends `length` bytes of the queue at `next`, or as many as a frame can point at, and counts them as sent. */
  private emit(flags: number, length: number): void {
    const { connection } = this;
    const { environment } = connection;
    const offset = distance(this.una, this.next);
    const taken = environment.emit(connection, flags, this.next, offset, length);
    const fin = (flags & TcpFlag.fin) !== 0 && taken === length;
    if (fin) this.isFinSent = true;
    this.next = advance(this.next, taken + (fin ? 1 : 0));
    const now = environment.now();
    if (before(this.most, this.next)) {
      this.most = this.next;
      if (this.timedAt === 0) {
        this.timedAt = now;
        this.timedUntil = this.next;
      }
    }
    if (taken > 0) this.frameSize = Math.max(taken, this.mss);
    if (this.retransmitAt === 0) this.retransmitAt = now + this.timeout.milliseconds;
    if (this.acknowledgementsDue > 0) this.acknowledgementsDue--;
  }
}
