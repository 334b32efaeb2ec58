/**
 * What a guest receives: puts frames into the buffers that it has given, or exchanges pages with it, and answers. A frame
 * takes its buffers as a whole or not at all; what finds none waits in the backlog.
 *
 *   deliver ──▶ (prepare) ──▶ buffers taken ──▶ mapped ──▶ copied ──▶ answered      flush ──▶ published, notified
 *                  └──────▶ backlog ──▲   as soon as the guest gives buffers
 */
import type { GrantMapper } from "../domain-interface.ts";
import type { BackRing } from "../ring/back.ts";
import { RING_REQ_EVENT } from "../ring/layout.ts";
import { Backlog } from "./backlog.ts";
import { NetCounter, type NetCounters } from "./counters.ts";
import { type DeliveryFailure, FRAME_MOST, type Frame } from "./frame.ts";
import type { Notifier } from "./notification.ts";
import type { PageExchange } from "./page-exchange.ts";
import * as net from "./protocol.ts";
import type { SlotJournal } from "./slot-journal.ts";
import { etherType } from "./transmit-ring.ts";

const { ReceiveFlag, GsoType, NetStatus, PAGE } = net;

/** What a frontend takes. */
export interface FrameAcceptance {
  /** Frames of more than one buffer. */
  readonly sg: boolean;
  /** Segmentation left to it (Frame.segmentation); only with sg. */
  readonly gso4: boolean;
  readonly gso6: boolean;
  /** Checksums left to it (Frame.checksum "blank"). */
  readonly csum4: boolean;
  readonly csum6: boolean;
}

/** Makes of a frame one or several that a frontend takes: segmented, with checksums. Nothing: it cannot be done. */
export type FramePreparation = (frame: Frame, accepts: FrameAcceptance) => readonly Frame[];

export interface ReceiveRingOptions {
  /** With slots of RECEIVE_SLOT bytes. */
  readonly ring: BackRing;
  readonly journal: SlotJournal;
  readonly grants: GrantMapper;
  /** Given where the frontend asked for an exchange of pages. */
  readonly exchange: PageExchange | undefined;
  readonly accepts: FrameAcceptance;
  readonly prepare: FramePreparation;
  /** The frontend tells when it has given buffers (feature-rx-notify); without that nothing can wait for them. */
  readonly tells: boolean;
  readonly counters: NetCounters;
  readonly notifier: Notifier;
  /** Nanoseconds, of any clock that does not go back. */
  now(): number;
  /** One line. */
  log(message: string): void;
}

/** Slots of the longest frame: its pages, and one of extra information. */
const SLOTS = Math.ceil(FRAME_MOST / PAGE) + 1;

export class ReceiveRing {
  readonly backlog = new Backlog();
  /** The guest's buffers and its ring are left alone: frames wait, as they do for buffers. */
  held = false;
  private readonly options: ReceiveRingOptions;
  /** For each slot of the frame at hand: the copied request, two words. */
  private readonly request = new Int32Array(2 * SLOTS);
  /** For each buffer: grant handle, or page of our own pool. */
  private readonly buffer = new Float64Array(SLOTS);
  private readonly gso = new Int32Array(2);
  private frames = 0;
  private isBroken = false;

  constructor(options: ReceiveRingOptions) {
    this.options = options;
  }

  get broken(): boolean {
    return this.isBroken;
  }

  /** When something is to be done without being asked; Infinity: never. */
  get deadline(): number {
    return this.backlog.deadline;
  }

  /**
   * Gives a frame to the guest, or keeps a copy for as long as it has no buffers.
   * @returns why it was dropped, if it was
   */
  deliver(frame: Frame): DeliveryFailure | undefined {
    if (this.isBroken) return this.drop("down", NetCounter.rx_down);
    if (this.takes(frame)) return this.deliverOne(frame);
    const { prepare, accepts } = this.options;
    let failure: DeliveryFailure | undefined;
    const prepared = prepare(frame, accepts);
    if (prepared.length === 0) return this.drop("too-long", NetCounter.rx_too_long);
    for (const one of prepared) {
      const dropped = this.takes(one) ? this.deliverOne(one) : this.drop("too-long", NetCounter.rx_too_long);
      failure ??= dropped;
    }
    return failure;
  }

  private takes(frame: Frame): boolean {
    const { accepts } = this.options;
    if (frame.segmentation === "tcpv4" && !(accepts.gso4 && accepts.sg)) return false;
    if (frame.segmentation === "tcpv6" && !(accepts.gso6 && accepts.sg)) return false;
    if (frame.checksum === "blank" && !(etherType(frame.head) === 0x86dd ? accepts.csum6 : accepts.csum4)) return false;
    return true;
  }

  private drop(failure: DeliveryFailure, reason: number): DeliveryFailure {
    this.options.counters.add(NetCounter.rx_dropped);
    this.options.counters.add(reason);
    return failure;
  }

  private deliverOne(frame: Frame): DeliveryFailure | undefined {
    if (frame.length > (this.options.accepts.sg ? FRAME_MOST : PAGE)) {
      return this.drop("too-long", NetCounter.rx_too_long);
    }
    // Those that wait go first.
    if (this.backlog.length > 0) this.drain();
    if (this.backlog.length === 0 && this.put(frame)) return undefined;
    if (this.isBroken) return this.drop("down", NetCounter.rx_down);
    const { tells, counters, now } = this.options;
    if (!(tells || this.held) || !this.backlog.push(frame, now()))
      return this.drop("no-buffer", NetCounter.rx_no_buffer);
    counters.add(NetCounter.rx_queued);
    this.arm();
    return undefined;
  }

  /** Puts what waits into buffers that have come meanwhile, and forgets what has waited too long. */
  drain(): void {
    const { counters, now } = this.options;
    const expired = this.backlog.length > 0 ? this.backlog.expire(now()) : 0;
    counters.add(NetCounter.rx_dropped, expired);
    counters.add(NetCounter.rx_expired, expired);
    for (let head = this.backlog.head; head && !this.isBroken; head = this.backlog.head) {
      if (!this.put(head)) return;
      this.backlog.shift();
    }
  }

  /**
   * While frames wait: asks for an event when there are buffers for the oldest one.
   * @returns whether they are there already
   */
  arm(): boolean {
    const { head } = this.backlog;
    if (!head || this.isBroken || this.held) return false;
    const { ring } = this.options;
    const needed = slotsOf(head);
    // The index is visible before the producer is read again; the frontend does it the other way round.
    ring.shared.store(RING_REQ_EVENT, (ring.requestConsumer + needed) >>> 0);
    return this.available() >= needed;
  }

  private available(): number {
    const there = this.options.ring.unconsumedRequests();
    if (there !== "broken") return there;
    this.isBroken = true;
    this.backlog.clear();
    this.options.counters.add(NetCounter.broken_rings);
    this.options.log("the frontend's receive index is impossible; the ring is not served any more");
    return 0;
  }

  /** @returns false when there are not enough buffers: nothing has happened */
  private put(frame: Frame): boolean {
    const { ring, journal, exchange, counters } = this.options;
    const slots = slotsOf(frame);
    if (this.held || this.available() < slots) return false;
    const buffers = pagesOf(frame);
    if (exchange && !this.takePages(exchange, buffers)) return false;
    for (let n = 0; n < slots; n++) ring.copyRequest(this.request, 2 * n);
    const done = exchange ? this.flip(frame, exchange) : this.copy(frame);
    if (done) {
      counters.add(NetCounter.rx_frames);
      counters.add(NetCounter.rx_bytes, frame.length);
      this.answer(frame, slots);
    } else {
      counters.add(NetCounter.rx_dropped);
      counters.add(NetCounter.rx_bad_grant);
      for (let n = 0; n < slots; n++) this.respond(n, 0, NetStatus.error);
    }
    journal.complete();
    this.frames++;
    return true;
  }

  /** Reference of buffer n; the second slot has none where there is extra information. */
  private reference(frame: Frame, n: number): number {
    const slot = n > 0 && frame.segmentation !== "none" ? n + 1 : n;
    return this.request[2 * slot + 1]! >>> 0;
  }

  private copy(frame: Frame): boolean {
    const { grants, counters } = this.options;
    const buffers = pagesOf(frame);
    const skew = skewOf(frame);
    let mapped = 0;
    for (; mapped < buffers; mapped++) {
      const handle = grants.map(this.reference(frame, mapped), false);
      if (handle < 0) break;
      this.buffer[mapped] = handle;
    }
    counters.add(NetCounter.grants_mapped, mapped);
    const complete = mapped === buffers;
    for (let n = 0; n < mapped; n++) {
      const handle = this.buffer[n]!;
      if (complete) {
        const at = grants.address(handle) + (n === 0 ? skew : 0);
        const count = this.copyPart(frame, n, skew, grants.memory.bytes, at);
        counters.add(NetCounter.copied_bytes, count);
        grants.written(at, count);
      }
      grants.unmap(handle);
    }
    return complete;
  }

  /** Copies what goes into buffer n. @returns bytes */
  private copyPart(frame: Frame, n: number, skew: number, into: Uint8Array, at: number): number {
    return n === 0 ? frame.copyTo(into, at, 0, PAGE - skew) : frame.copyTo(into, at, n * PAGE - skew, PAGE);
  }

  private takePages(exchange: PageExchange, count: number): boolean {
    for (let n = 0; n < count; n++) {
      const page = exchange.take();
      if (page === undefined) {
        while (n > 0) exchange.give(this.buffer[--n]!);
        return false;
      }
      this.buffer[n] = page;
    }
    return true;
  }

  private flip(frame: Frame, exchange: PageExchange): boolean {
    const { counters } = this.options;
    const buffers = pagesOf(frame);
    const skew = skewOf(frame);
    for (let n = 0; n < buffers; n++) {
      const at = this.buffer[n]! + (n === 0 ? skew : 0);
      counters.add(NetCounter.copied_bytes, this.copyPart(frame, n, skew, exchange.memory.bytes, at));
    }
    let given = 0;
    while (given < buffers && exchange.transfer(this.reference(frame, given), this.buffer[given]!)) given++;
    counters.add(NetCounter.rx_flipped, given);
    // The pages that are the guest's already stay there; it is told that there is no frame in them.
    for (let n = given; n < buffers; n++) exchange.give(this.buffer[n]!);
    return given === buffers;
  }

  private answer(frame: Frame, slots: number): void {
    const extra = frame.segmentation === "none" ? 0 : 1;
    let first = slots - extra > 1 ? ReceiveFlag.moreData : 0;
    if (extra > 0) first |= ReceiveFlag.extraInfo;
    if (frame.checksum === "blank") first |= ReceiveFlag.csumBlank | ReceiveFlag.dataValidated;
    else if (frame.checksum === "validated") first |= ReceiveFlag.dataValidated;
    const skew = skewOf(frame);
    this.respond(0, first, Math.min(frame.length, PAGE - skew), skew);
    if (extra > 0) {
      this.options.counters.add(NetCounter.rx_gso);
      net.writeGso(this.gso, frame.segmentation === "tcpv4" ? GsoType.tcpv4 : GsoType.tcpv6, frame.segmentSize);
      this.options.journal.answer(this.gso[0]!, this.gso[1]!);
    }
    for (let n = 1 + extra, at = PAGE - skew; n < slots; n++, at += PAGE) {
      this.respond(n, n + 1 < slots ? ReceiveFlag.moreData : 0, Math.min(frame.length - at, PAGE));
    }
  }

  private respond(n: number, flags: number, status: number, offset = 0): void {
    const id = this.request[2 * n]! & 0xffff;
    this.options.journal.answer(id | (offset << 16), flags | (status << 16));
  }

  /** Publishes what was delivered and notifies according to the policy. */
  flush(): void {
    const { journal, ring, notifier, now } = this.options;
    if (journal.unpublished(ring) === 0) return;
    notifier.published(this.frames, journal.publish(ring), now());
    this.frames = 0;
  }
}

function pagesOf(frame: Frame): number {
  return Math.ceil(frame.length / PAGE);
}

/** Where in its first buffer a frame begins: where it is copied fastest, unless that would take another buffer. */
function skewOf(frame: Frame): number {
  const skew = frame.alignment;
  return frame.length + skew > pagesOf(frame) * PAGE ? 0 : skew;
}

/** Slots of the ring that a frame takes. */
function slotsOf(frame: Frame): number {
  return pagesOf(frame) + (frame.segmentation === "none" ? 0 : 1);
}
