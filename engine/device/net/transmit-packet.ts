/**
 * One packet as a guest describes it in the transmit ring: takes its slots, each copied once, and checks all that can be
 * checked before a page is mapped. Whatever is wrong, all slots that belong to the packet are taken, so that the next one
 * begins where the guest meant it to.
 */
import type { BackRing } from "../ring/back.ts";
import { NetCounter } from "./counters.ts";
import * as net from "./protocol.ts";

const { TransmitFlag, ExtraType, GsoType, PAGE } = net;

/** What the packet is for. */
export type PacketKind = "frame" | "multicast-add" | "multicast-delete";

export class TransmitPacket {
  /** The first slot, to be filled in before take(). */
  readonly first = new Int32Array(3);
  /** The counter of what is wrong; -1: nothing. */
  problem = -1;
  kind: PacketKind = "frame";
  /** Bytes of the whole. */
  length = 0;
  flags = 0;
  gsoType = 0;
  segmentSize = 0;
  multicastLow = 0;
  multicastHigh = 0;
  /** Fragments with bytes to take: grant, place in the page, size. */
  fragments = 0;
  readonly ref = new Int32Array(net.PACKET_SLOTS);
  readonly offset = new Int32Array(net.PACKET_SLOTS);
  readonly size = new Int32Array(net.PACKET_SLOTS);
  /** Slots taken, in order: the id to answer to, or -1 for extra information. */
  slots = 0;
  readonly ids = new Int32Array(net.NET_RING_SLOTS + 1);
  private readonly slot = new Int32Array(3);

  private wrong(counter: number): void {
    if (this.problem < 0) this.problem = counter;
  }

  /**
   * Takes the slots behind the first.
   * @param available requests that are in the ring behind it
   */
  take(ring: BackRing, available: number): void {
    const { first } = this;
    this.problem = -1;
    this.kind = "frame";
    this.gsoType = GsoType.none;
    this.segmentSize = 0;
    this.flags = net.transmitFlags(first);
    this.length = net.transmitSize(first);
    this.ids[0] = net.transmitId(first);
    this.slots = 1;
    const left = (this.flags & TransmitFlag.extraInfo) === 0 ? available : this.takeExtras(ring, available);
    this.takeFragments(ring, left);
    if (this.length < net.FRAME_LEAST && this.kind === "frame") this.wrong(NetCounter.tx_bad_size);
  }

  private takeExtras(ring: BackRing, available: number): number {
    const { slot } = this;
    let left = available;
    let more = true;
    for (let count = 1; more; count++) {
      if (left === 0) {
        this.wrong(NetCounter.tx_bad_extra);
        return 0;
      }
      ring.copyRequest(slot, 0);
      left--;
      this.ids[this.slots++] = -1;
      more = net.extraMore(slot);
      if (count > net.PACKET_EXTRAS) this.wrong(NetCounter.tx_bad_extra);
      else this.extra(slot);
    }
    return left;
  }

  private extra(slot: Int32Array): void {
    switch (net.extraType(slot)) {
      case ExtraType.gso: {
        const size = net.gsoSegmentSize(slot);
        const type = net.gsoType(slot);
        if ((type !== GsoType.tcpv4 && type !== GsoType.tcpv6) || size < net.SEGMENT_LEAST) {
          this.wrong(NetCounter.tx_bad_gso);
        }
        this.gsoType = type;
        this.segmentSize = size;
        break;
      }
      case ExtraType.multicastAdd:
      case ExtraType.multicastDelete:
        this.kind = net.extraType(slot) === ExtraType.multicastAdd ? "multicast-add" : "multicast-delete";
        this.multicastLow = net.multicastLow(slot);
        this.multicastHigh = net.multicastHigh(slot);
        break;
      case ExtraType.hash:
        // A hint about the flow, which nothing here depends on.
        break;
      default:
        this.wrong(NetCounter.tx_bad_extra);
    }
  }

  private takeFragments(ring: BackRing, available: number): void {
    const { slot, first } = this;
    let left = available;
    let rest = this.length;
    let count = 1;
    this.fragments = 1;
    for (let more = (this.flags & TransmitFlag.moreData) !== 0; more; ) {
      if (left === 0) {
        // A packet is pushed as a whole: what is not there by now was never meant to come.
        this.wrong(NetCounter.tx_bad_fragment);
        return;
      }
      ring.copyRequest(slot, 0);
      left--;
      more = (net.transmitFlags(slot) & TransmitFlag.moreData) !== 0;
      this.ids[this.slots++] = net.transmitId(slot);
      const size = net.transmitSize(slot);
      if (++count > net.PACKET_SLOTS) this.wrong(NetCounter.tx_too_many_slots);
      else if (size > rest) this.wrong(NetCounter.tx_bad_fragment);
      else {
        rest -= size;
        if (size > 0) this.fragment(this.fragments++, slot, size);
      }
    }
    // The first one's own size is what the others leave.
    this.fragment(0, first, rest);
  }

  private fragment(n: number, slot: Int32Array, size: number): void {
    const offset = net.transmitOffset(slot);
    // The packet that comes along with a multicast address is none, and its place means nothing.
    if (offset + size > PAGE && this.kind === "frame") this.wrong(NetCounter.tx_bad_fragment);
    this.ref[n] = slot[0]!;
    this.offset[n] = offset;
    this.size[n] = size;
  }
}
