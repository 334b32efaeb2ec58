/**
 * One TCP connection between a guest and us: we are its other end, whatever the guest believes, and what it sends goes on
 * through a socket of the host.
 *
 * Names and rules are those of RFC 9293 (3.3.2 state machine, 3.10 event processing); RFC 5961 for resets and SYNs in the
 * window. The states before "established" differ in one point: "connecting" is a guest's SYN that is not answered until
 * the host's socket is connected, so that a refused connection is refused to the guest as well.
 */
import { TcpFlag } from "../../headers.ts";
import type { BufferBudget, BufferPool } from "./buffer-pool.ts";
import { type HostStream, HostWriter } from "./tcp-host-writer.ts";
import { ReceiveQueue } from "./tcp-receive-queue.ts";
import { readSynOptions, type Segment, type SynOptions, segmentLength } from "./tcp-segment.ts";
import { advance, before, distance } from "./tcp-sequence.ts";
import { Transmitter } from "./tcp-transmitter.ts";

export type TcpState =
  | "connecting"
  | "syn-sent"
  | "syn-received"
  | "established"
  | "fin-wait-1"
  | "fin-wait-2"
  | "close-wait"
  | "closing"
  | "last-ack"
  | "time-wait"
  | "closed";

type CloseEvent = "we-sent-fin" | "our-fin-acknowledged" | "fin-received";

/** The right half of RFC 9293's figure 5: how connections end. What is not listed changes nothing. */
const closing: Readonly<Partial<Record<TcpState, Partial<Record<CloseEvent, TcpState>>>>> = {
  established: { "we-sent-fin": "fin-wait-1", "fin-received": "close-wait" },
  "fin-wait-1": { "our-fin-acknowledged": "fin-wait-2", "fin-received": "closing" },
  "fin-wait-2": { "fin-received": "time-wait" },
  "close-wait": { "we-sent-fin": "last-ack" },
  closing: { "our-fin-acknowledged": "time-wait" },
  "last-ack": { "our-fin-acknowledged": "closed" },
};

/** Both ends as the guest sees them; addresses are unsigned numbers. */
export interface TcpEndpoints {
  readonly guestMac: { readonly high: number; readonly low: number };
  readonly guestAddress: number;
  readonly guestPort: number;
  /** What we answer as. */
  readonly address: number;
  readonly port: number;
}

/** What a connection needs of its surroundings. */
export interface TcpEnvironment {
  readonly pool: BufferPool;
  readonly budget: BufferBudget;
  /** Largest segment that fits the switch's MTU. */
  readonly mss: number;
  /** Milliseconds. */
  now(): number;
  /** service() is to be called soon; never called from here at once. */
  wake(connection: TcpConnection): void;
  /**
   * Sends a segment with up to `length` bytes of the queue from `offset`. @returns how many bytes it took along
   */
  emit(connection: TcpConnection, flags: number, sequence: number, offset: number, length: number): number;
  /** The state is another one; "closed" is the last. */
  changed(connection: TcpConnection, before: TcpState): void;
}

/** Milliseconds for which the ports of a closed connection stay taken. */
const TIME_WAIT = 10_000;
/** A guest that has been silent for so long is asked whether it is still there, every KEEPALIVE_EVERY, so many times. */
const KEEPALIVE_AFTER = 300_000;
const KEEPALIVE_EVERY = 75_000;
const KEEPALIVE_TIMES = 5;
/** A chunk of so many bytes filled the socket's read buffer: more is likely to follow at once. */
const LIKELY_MORE = 65_536;

/** How a connection ended, as far as it was not in peace. */
export type TcpEnd = "reset-by-guest" | "reset-by-host" | "timed-out" | "evicted" | "refused";

export class TcpConnection {
  readonly endpoints: TcpEndpoints;
  readonly environment: TcpEnvironment;
  readonly receiveQueue: ReceiveQueue;
  readonly transmitter: Transmitter;
  state: TcpState;
  /** Why it ended, where it did not in peace. */
  end: TcpEnd | undefined;
  /** Milliseconds, of the environment's clock. */
  lastHeard: number;
  /** Set while the connection stands in the list of those to be serviced. */
  isAwake = false;
  private readonly writer: HostWriter;
  private finReceived = false;
  private nextProbe: number;
  private timeWaitUntil = 0;

  private constructor(
    endpoints: TcpEndpoints,
    environment: TcpEnvironment,
    host: HostStream,
    state: TcpState,
    initial: number,
  ) {
    this.endpoints = endpoints;
    this.environment = environment;
    this.state = state;
    this.receiveQueue = new ReceiveQueue(environment.pool, environment.budget);
    this.transmitter = new Transmitter(this, initial);
    this.writer = new HostWriter(host, this.receiveQueue, () => this.windowMayHaveOpened());
    this.lastHeard = environment.now();
    this.nextProbe = this.lastHeard + KEEPALIVE_AFTER;
  }

  /** A guest's SYN: `initial` is our initial sequence number. hostConnected() lets it be answered. */
  static accept(
    endpoints: TcpEndpoints,
    environment: TcpEnvironment,
    host: HostStream,
    initial: number,
    syn: { readonly sequence: number; readonly window: number; readonly options: SynOptions },
  ): TcpConnection {
    const connection = new TcpConnection(endpoints, environment, host, "connecting", initial);
    connection.receiveQueue.next = advance(syn.sequence, 1);
    connection.transmitter.peerSyn(syn.options, syn.window, syn.sequence);
    return connection;
  }

  /** A connection that we open to a guest for the host. */
  static open(endpoints: TcpEndpoints, environment: TcpEnvironment, host: HostStream, initial: number): TcpConnection {
    const connection = new TcpConnection(endpoints, environment, host, "syn-sent", initial);
    connection.transmitter.sendSyn();
    return connection;
  }

  /** Whether data may flow: the handshake is over, and neither is all. */
  get isSynchronised(): boolean {
    return this.state !== "connecting" && this.state !== "syn-sent" && this.state !== "closed";
  }

  /** The host's socket is connected. */
  hostConnected(): void {
    if (this.state !== "connecting") return;
    this.enter("syn-received");
    this.transmitter.sendSyn();
  }

  /** Bytes from the host's socket; the chunk is the connection's from now on. */
  hostData(chunk: Uint8Array): void {
    if (this.state === "closed") return;
    this.transmitter.queue.push(chunk);
    this.transmitter.moreIsLikely = chunk.length >= LIKELY_MORE;
    if (this.transmitter.queue.isFull) this.writer.host.pause();
    this.environment.wake(this);
  }

  /** The host sends no more. */
  hostEnded(): void {
    if (this.state === "closed") return;
    this.transmitter.isLast = true;
    this.transmitter.moreIsLikely = false;
    this.environment.wake(this);
  }

  /** The host's socket broke: the guest gets a reset. */
  hostFailed(): void {
    this.reset("reset-by-host");
  }

  /** Ends the connection with a reset to the guest (none in "connecting": whoever refuses answers by itself). */
  reset(end: TcpEnd): void {
    if (this.state === "closed") return;
    const { transmitter } = this;
    if (this.isSynchronised && this.state !== "time-wait") {
      this.environment.emit(this, TcpFlag.rst | TcpFlag.ack, transmitter.most, 0, 0);
    }
    this.finish(end);
  }

  /** Ends the connection without a word to the guest. */
  finish(end: TcpEnd | undefined): void {
    if (this.state === "closed") return;
    this.end = end;
    this.transmitter.queue.clear();
    this.writer.finish(end !== undefined);
    this.enter("closed");
  }

  /** A segment of the guest's. */
  receive(segment: Segment): void {
    this.lastHeard = this.environment.now();
    this.nextProbe = this.lastHeard + KEEPALIVE_AFTER;
    if (this.state === "closed") return;
    if (this.state === "connecting") {
      if ((segment.flags & TcpFlag.rst) !== 0) this.finish("reset-by-guest");
    } else if (this.state === "syn-sent") this.receiveInSynSent(segment);
    else this.receiveSynchronised(segment);
  }

  /** Does what has become due: hands bytes to the host, sends what there is to send. */
  service(): void {
    this.isAwake = false;
    if (this.state === "closed") return;
    this.writer.flush(this.finReceived);
    if (this.state !== "connecting" && this.transmitter.output()) this.closeEvent("we-sent-fin");
  }

  /** Looks at the timers. */
  tick(now: number): void {
    if (this.state === "time-wait") {
      // A slow host may still have to take the guest's last bytes.
      if (now >= this.timeWaitUntil && this.writer.isDone) this.finish(undefined);
      return;
    }
    if (!this.transmitter.tick(now)) this.reset("timed-out");
    else if (this.isSynchronised && now >= this.nextProbe) this.keepAlive(now);
  }

  private keepAlive(now: number): void {
    if (now - this.lastHeard > KEEPALIVE_AFTER + KEEPALIVE_TIMES * KEEPALIVE_EVERY) {
      this.reset("timed-out");
      return;
    }
    this.nextProbe = now + KEEPALIVE_EVERY;
    // A byte before the window: not acceptable, so it has to be answered with an acknowledgement (RFC 9293, 3.8.4).
    this.environment.emit(this, TcpFlag.ack, advance(this.transmitter.una, -1), 0, 0);
  }

  private enter(state: TcpState): void {
    if (state === this.state) return;
    const before = this.state;
    this.state = state;
    if (state === "time-wait") this.timeWaitUntil = this.environment.now() + TIME_WAIT;
    this.environment.changed(this, before);
  }

  private closeEvent(event: CloseEvent): void {
    const next = closing[this.state]?.[event];
    if (next === "closed" && this.writer.isDone) this.finish(undefined);
    else if (next === "closed") this.enter("time-wait");
    else if (next !== undefined) this.enter(next);
  }

  private windowMayHaveOpened(): void {
    if (this.state === "closed") return;
    if (this.receiveQueue.hasStaged || this.finReceived || this.transmitter.offerMore()) {
      this.environment.wake(this);
    }
  }

  private acknowledge(): void {
    this.transmitter.acknowledgementsDue++;
    this.environment.wake(this);
  }

  private receiveInSynSent(segment: Segment): void {
    const { flags, acknowledgement } = segment;
    const { transmitter } = this;
    const hasAck = (flags & TcpFlag.ack) !== 0;
    if (hasAck && acknowledgement !== advance(transmitter.una, 1)) {
      if ((flags & TcpFlag.rst) === 0) this.environment.emit(this, TcpFlag.rst, acknowledgement, 0, 0);
      return;
    }
    if ((flags & TcpFlag.rst) !== 0) {
      if (hasAck) this.finish("refused");
      return;
    }
    if ((flags & TcpFlag.syn) === 0) return;
    this.receiveQueue.next = advance(segment.sequence, 1);
    transmitter.peerSyn(readSynOptions(segment), segment.window, segment.sequence);
    if (!hasAck) {
      // Both opened at the same time: the same SYN again, with an acknowledgement.
      this.enter("syn-received");
      transmitter.sendSyn();
      this.environment.wake(this);
      return;
    }
    this.establish();
    transmitter.acknowledged(segment);
    this.acknowledge();
  }

  private establish(): void {
    this.enter("established");
    this.writer.host.resume();
  }

  private receiveSynchronised(segment: Segment): void {
    const use = this.judge(segment);
    if (use === "nothing" || (segment.flags & TcpFlag.ack) === 0) return;
    const { transmitter } = this;
    if (this.state === "syn-received") {
      if (segment.acknowledgement !== advance(transmitter.una, 1)) {
        this.environment.emit(this, TcpFlag.rst, segment.acknowledgement, 0, 0);
        return;
      }
      this.establish();
    }
    if (before(transmitter.most, segment.acknowledgement)) {
      this.acknowledge();
      return;
    }
    if (transmitter.acknowledged(segment)) this.closeEvent("our-fin-acknowledged");
    if (transmitter.queue.isLow) this.writer.host.resume();
    if (use === "all") {
      this.takePayload(segment);
      this.takeFin(segment);
    }
    this.environment.wake(this);
  }

  /** RFC 9293, 3.10.7.4, first to fourth: window, RST, SYN. @returns what of the segment is to be used */
  private judge(segment: Segment): "all" | "acknowledgement" | "nothing" {
    const { flags } = segment;
    const start = distance(this.receiveQueue.next, segment.sequence);
    const window = this.transmitter.offeredWindow;
    if ((flags & TcpFlag.rst) !== 0) {
      if (start === 0) this.finish("reset-by-guest");
      else if (start > 0 && start < window) this.acknowledge();
      return "nothing";
    }
    if ((flags & TcpFlag.syn) !== 0) {
      // A repeated SYN: our answer to it got lost. Any other is answered by saying where we are (RFC 5961, 4).
      if (this.state === "syn-received" && start === -1) this.transmitter.sendSyn();
      else this.transmitter.acknowledgementsDue++;
      this.environment.wake(this);
      return "nothing";
    }
    const length = segmentLength(segment);
    if (length === 0) {
      // An old acknowledgement says nothing, and answering each could go on for ever; a keepalive is answered.
      if (start === -1) this.acknowledge();
      return start >= 0 && start <= window ? "all" : "nothing";
    }
    if (start + length > 0 && (start < window || start === 0)) return "all";
    this.acknowledge();
    if (this.state === "time-wait") this.timeWaitUntil = this.lastHeard + TIME_WAIT;
    // A repetition of what came last carries news of the other direction nevertheless.
    return start + length === 0 ? "acknowledgement" : "nothing";
  }

  /** Queues what is new of the segment's bytes. */
  private takePayload(segment: Segment): void {
    if (segment.payloadLength === 0) return;
    const { receiveQueue, transmitter } = this;
    transmitter.acknowledgementsDue++;
    if (this.finReceived) return;
    const old = Math.max(0, distance(segment.sequence, receiveQueue.next));
    const sequence = advance(segment.sequence, old);
    const room = transmitter.offeredWindow - distance(receiveQueue.next, sequence);
    const length = Math.min(segment.payloadLength - old, room);
    if (length <= 0) return;
    const inOrder = receiveQueue.add(segment.frame, segment.payloadOffset + old, length, sequence);
    // One acknowledgement does for what comes in order; each segment past a gap says so by one of its own.
    if (inOrder) transmitter.acknowledgementsDue = 1;
  }

  /** The guest's FIN counts once everything before it is there. */
  private takeFin(segment: Segment): void {
    if ((segment.flags & TcpFlag.fin) === 0 || this.finReceived) return;
    if (advance(segment.sequence, segment.payloadLength) !== this.receiveQueue.next) return;
    this.finReceived = true;
    this.receiveQueue.next = advance(this.receiveQueue.next, 1);
    this.transmitter.acknowledgementsDue = 1;
    this.closeEvent("fin-received");
  }
}
