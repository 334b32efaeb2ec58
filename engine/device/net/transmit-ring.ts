/**
 * What a guest transmits: takes packets from its ring, lends each as a Frame to the sink, and answers. When the sink's
 * call returns the pages are unmapped, so an answer means that nobody needs them any more; it is published only after the
 * whole batch has been handed on, so that a process that is killed in between loses no frame.
 */
import type { GrantMapper } from "../domain-interface.ts";
import type { BackRing } from "../ring/back.ts";
import { NetCounter, type NetCounters } from "./counters.ts";
import { FRAME_HEAD, Frame, type FrameSink } from "./frame.ts";
import type { MulticastList } from "./multicast.ts";
import type { Notifier } from "./notification.ts";
import * as net from "./protocol.ts";
import type { SlotJournal } from "./slot-journal.ts";
import { TransmitPacket } from "./transmit-packet.ts";

const { TransmitFlag, GsoType, NetStatus } = net;

export interface TransmitRingOptions {
  /** With slots of TRANSMIT_SLOT bytes. */
  readonly ring: BackRing;
  readonly journal: SlotJournal;
  readonly grants: GrantMapper;
  readonly sink: FrameSink;
  readonly multicast: MulticastList;
  readonly counters: NetCounters;
  readonly notifier: Notifier;
  /** Nanoseconds, of any clock that does not go back. */
  now(): number;
  /** One line. */
  log(message: string): void;
}

/**
 * Whether a packet may be taken from the guest now.
 * @returns 0: yes, and it is accounted for; else nanoseconds to wait before it is asked about again
 */
export type Admission = (bytes: number) => number;

export class TransmitRing {
  /** Rate limit of the interface; undefined: none. */
  admit: Admission | undefined;
  private readonly options: TransmitRingOptions;
  private readonly frame = new Frame();
  private readonly packet = new TransmitPacket();
  private readonly handles = new Int32Array(net.PACKET_SLOTS);
  private mapped = 0;
  /** The next packet's first slot is taken already, and waits to be admitted. */
  private held = false;
  private resumeAt = 0;
  private answers = 0;
  private isBroken = false;

  constructor(options: TransmitRingOptions) {
    this.options = options;
  }

  /** The guest's request index is impossible: its ring is not served any more. */
  get broken(): boolean {
    return this.isBroken;
  }

  /** When a packet that was not admitted is to be tried again; Infinity: none waits. */
  get deadline(): number {
    return this.held ? this.resumeAt : Number.POSITIVE_INFINITY;
  }

  /**
   * Hands on up to `budget` packets, then ends the batch.
   * @returns how many were taken; 0: there is nothing, or nothing is admitted
   */
  poll(budget: number): number {
    if (this.isBroken) return 0;
    let taken = 0;
    let available = 0;
    while (taken < budget) {
      if (available === 0) {
        const there = this.unconsumed();
        if (there === 0 && !this.held) break;
        available = there;
      }
      if (!this.held) {
        this.options.ring.copyRequest(this.packet.first, 0);
        available--;
      }
      if (!this.admitted()) break;
      const before = this.options.ring.requestConsumer;
      this.serve(available);
      available -= (this.options.ring.requestConsumer - before) >>> 0;
      taken++;
    }
    if (taken > 0) this.endBatch();
    return taken;
  }

  /** Before sleeping: asks for an event. @returns whether there is something to do already */
  arm(): boolean {
    if (this.isBroken || this.held) return false;
    const there = this.options.ring.finalCheckForRequests();
    if (there === "broken") this.break();
    return there === true;
  }

  private unconsumed(): number {
    const there = this.options.ring.unconsumedRequests();
    if (there !== "broken") return there;
    this.break();
    return 0;
  }

  private break(): void {
    this.isBroken = true;
    this.held = false;
    this.options.counters.add(NetCounter.broken_rings);
    this.options.log("the frontend's transmit index is impossible; the ring is not served any more");
  }

  private admitted(): boolean {
    const wait = this.admit?.(net.transmitSize(this.packet.first)) ?? 0;
    if (wait <= 0) {
      this.held = false;
      return true;
    }
    if (!this.held) this.options.counters.add(NetCounter.tx_throttled);
    this.held = true;
    this.resumeAt = this.options.now() + wait;
    return false;
  }

  private endBatch(): void {
    const { sink, journal, ring, notifier, now } = this.options;
    sink.batchEnd?.();
    notifier.published(this.answers, journal.publish(ring), now());
    this.answers = 0;
  }

  private serve(available: number): void {
    const { packet, options } = this;
    const { ring, counters, multicast } = options;
    packet.take(ring, available);
    if (packet.problem < 0 && packet.kind === "frame") {
      packet.problem = this.lend();
    } else if (packet.problem < 0) {
      counters.add(NetCounter.multicast_changes);
      const { multicastLow, multicastHigh } = packet;
      if (packet.kind === "multicast-delete") multicast.delete(multicastLow, multicastHigh);
      else if (!multicast.add(multicastLow, multicastHigh)) packet.problem = NetCounter.tx_bad_extra;
    }
    if (packet.problem >= 0) {
      counters.add(NetCounter.tx_errors);
      counters.add(packet.problem);
    }
    this.answer(packet.problem < 0 ? NetStatus.okay : NetStatus.error);
  }

  private answer(status: number): void {
    const { packet, options } = this;
    for (let n = 0; n < packet.slots; n++) {
      const id = packet.ids[n]!;
      options.journal.answer(id < 0 ? net.transmitResponse(0, NetStatus.none) : net.transmitResponse(id, status));
    }
    this.answers += packet.slots;
  }

  /** Lends the packet to the sink. @returns the counter of what is wrong, or -1 */
  private lend(): number {
    const { frame, packet, options } = this;
    const { counters, sink } = options;
    frame.reset(packet.length);
    const failure = this.fill();
    // A small frame is in its head as a whole: its pages are not needed any more.
    if (failure >= 0 || packet.length <= FRAME_HEAD) this.unmap();
    if (failure >= 0) return failure;
    const wrong = this.offload();
    if (wrong < 0) {
      counters.add(NetCounter.tx_frames);
      counters.add(NetCounter.tx_bytes, packet.length);
      sink.receive(frame);
    }
    this.unmap();
    return wrong;
  }

  private fill(): number {
    const { frame, packet, options } = this;
    const { grants, counters } = options;
    const { bytes } = grants.memory;
    for (let n = 0; n < packet.fragments; n++) {
      const size = packet.size[n]!;
      if (size === 0) continue;
      const handle = grants.map(packet.ref[n]! >>> 0, true);
      if (handle < 0) return NetCounter.tx_bad_grant;
      this.handles[this.mapped++] = handle;
      counters.add(NetCounter.grants_mapped);
      const at = grants.address(handle) + packet.offset[n]!;
      const head = Math.min(size, FRAME_HEAD - frame.headLength);
      if (head > 0) {
        frame.head.set(bytes.subarray(at, at + head), frame.headLength);
        frame.headLength += head;
        counters.add(NetCounter.copied_bytes, head);
      }
      if (size > head) frame.add(bytes, at + head, size - head);
    }
    return -1;
  }

  private unmap(): void {
    const { grants } = this.options;
    while (this.mapped > 0) grants.unmap(this.handles[--this.mapped]!);
  }

  /** What the guest leaves to us to do. @returns the counter of what is wrong, or -1 */
  private offload(): number {
    const { frame, packet, options } = this;
    if ((packet.flags & TransmitFlag.csumBlank) !== 0) frame.checksum = "blank";
    else if ((packet.flags & TransmitFlag.dataValidated) !== 0) frame.checksum = "validated";
    if (packet.gsoType === GsoType.none) return -1;
    const protocol = etherType(frame.head);
    if (protocol !== (packet.gsoType === GsoType.tcpv4 ? 0x0800 : 0x86dd)) return NetCounter.tx_bad_gso;
    // Where all of it fits into one segment there is nothing to do, and nothing that would exempt it from the MTU.
    if (packet.segmentSize >= frame.length - net.FRAME_LEAST) return -1;
    frame.segmentation = packet.gsoType === GsoType.tcpv4 ? "tcpv4" : "tcpv6";
    frame.segmentSize = packet.segmentSize;
    // Segments need checksums of their own anyway.
    frame.checksum = "blank";
    options.counters.add(NetCounter.tx_gso);
    return -1;
  }
}

/** The protocol of an Ethernet frame, behind a VLAN tag if there is one. */
export function etherType(head: Uint8Array): number {
  const type = (head[12]! << 8) | head[13]!;
  return type === 0x8100 || type === 0x88a8 ? (head[16]! << 8) | head[17]! : type;
}
