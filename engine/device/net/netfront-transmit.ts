/** The transmitting half of a frontend's queue: puts frames into the ring, from pages of its own or of the caller. */
import type { GrantSource } from "../domain-interface.ts";
import { FrontRing } from "../ring/front.ts";
import type { SharedRing } from "../ring/layout.ts";
import type { ChecksumState, SegmentationType } from "./frame.ts";
import * as net from "./protocol.ts";

const { TransmitFlag, GsoType, PAGE } = net;

/** What of a frame is left to the other side. */
export interface SendOptions {
  readonly checksum?: ChecksumState;
  readonly segmentation?: SegmentationType;
  /** Bytes of payload per segment, where there is segmentation. */
  readonly segmentSize?: number;
  /** Called when the backend needs the pages no more, with NETIF_RSP_*. */
  readonly done?: (status: number) => void;
}

/** A piece of a frame in a page that the caller has granted to the backend. */
export interface SendSegment {
  readonly ref: number;
  readonly offset: number;
  readonly size: number;
}

interface Packet {
  left: number;
  status: number;
  readonly done: ((status: number) => void) | undefined;
}

/** A page of our own, granted for the life of the connection. */
interface TransmitPage {
  readonly page: number;
  readonly ref: number;
}

export interface NetfrontTransmitOptions {
  /** Of one page, with slots of TRANSMIT_SLOT bytes. */
  readonly ring: SharedRing;
  readonly grants: GrantSource;
  readonly backendId: number;
  /** Gives a page back whose grant the backend may still have mapped. */
  readonly dispose: (page: number, ref: number) => void;
  /** Most pages of our own that are kept granted. */
  readonly pages: number;
  /** The backend broke the protocol; one line. */
  readonly broken: (reason: string) => void;
}

export class NetfrontTransmit {
  sent = 0;
  sentBytes = 0;
  /** Packets that the backend answered with an error. */
  refused = 0;
  private readonly options: NetfrontTransmitOptions;
  private readonly ring: FrontRing;
  private readonly slot = new Int32Array(3);
  private readonly freeIds: number[] = [];
  private readonly packets: (Packet | undefined)[] = [];
  private readonly pages: (TransmitPage | undefined)[] = [];
  private readonly outstanding = new Uint8Array(net.NET_RING_SLOTS);
  private readonly freePages: TransmitPage[] = [];
  private allocated = 0;
  private isBroken = false;

  constructor(options: NetfrontTransmitOptions) {
    this.options = options;
    this.ring = new FrontRing(options.ring);
    for (let id = net.NET_RING_SLOTS - 1; id >= 0; id--) this.freeIds.push(id);
  }

  /** Slots that are free: a frame takes one a page, and one for segmentation. */
  get free(): number {
    return this.ring.free;
  }
  get pending(): number {
    return this.ring.outstanding;
  }

  /**
   * Sends a copy of a frame; flush() makes it known.
   * @returns false when the ring or the pages are full: poll() and try again
   */
  send(bytes: Uint8Array, options: SendOptions = {}): boolean {
    const count = Math.ceil(bytes.length / PAGE);
    if (!this.room(count, options)) return false;
    const segments: SendSegment[] = [];
    const taken: TransmitPage[] = [];
    for (let n = 0; n < count; n++) {
      const page = this.takePage();
      if (!page) {
        this.freePages.push(...taken);
        return false;
      }
      const size = Math.min(PAGE, bytes.length - n * PAGE);
      this.options.grants.memory.bytes.set(bytes.subarray(n * PAGE, n * PAGE + size), page.page);
      taken.push(page);
      segments.push({ ref: page.ref, offset: 0, size });
    }
    this.put(segments, bytes.length, options, taken);
    return true;
  }

  /**
   * Sends a frame that lies in pages that the caller has granted, for reading at least. They are not to be changed before
   * `options.done` is called.
   * @returns false when the ring is full
   */
  sendSegments(segments: readonly SendSegment[], options: SendOptions = {}): boolean {
    if (!this.room(segments.length, options)) return false;
    const length = segments.reduce((sum, segment) => sum + segment.size, 0);
    this.put(segments, length, options, []);
    return true;
  }

  /** Asks for a multicast address, or no more for it. @returns false when the ring is full */
  multicast(address: Uint8Array, wanted: boolean): boolean {
    if (this.isBroken || this.ring.free < 2) return false;
    const id = this.takeId(undefined, undefined);
    net.writeTransmit(this.slot, { ref: 0, offset: 0, flags: TransmitFlag.extraInfo, id, size: 0 });
    this.ring.putRequest(this.slot);
    const type = wanted ? net.ExtraType.multicastAdd : net.ExtraType.multicastDelete;
    this.slot[0] = type | (address[0]! << 16) | (address[1]! << 24);
    this.slot[1] = address[2]! | (address[3]! << 8) | (address[4]! << 16) | (address[5]! << 24);
    this.slot[2] = 0;
    this.ring.putRequest(this.slot);
    return true;
  }

  private room(segments: number, options: SendOptions): boolean {
    if (segments === 0 || segments > net.PACKET_SLOTS) throw new RangeError(`a frame of ${segments} segments`);
    return !this.isBroken && this.ring.free >= segments + (isSegmented(options) ? 1 : 0);
  }

  private takePage(): TransmitPage | undefined {
    const { grants, backendId, pages } = this.options;
    const kept = this.freePages.pop();
    if (kept || this.allocated === pages) return kept;
    const page = grants.allocatePage();
    if (page === undefined) return undefined;
    const ref = grants.grantAccess(backendId, page, true);
    if (ref === undefined) {
      grants.freePage(page);
      return undefined;
    }
    this.allocated++;
    return { page, ref };
  }

  /** Every slot in the ring has an id of its own, so there is one whenever there is a slot. */
  private takeId(packet: Packet | undefined, page: TransmitPage | undefined): number {
    const id = this.freeIds.pop()!;
    this.packets[id] = packet;
    this.pages[id] = page;
    this.outstanding[id] = 1;
    return id;
  }

  private put(
    segments: readonly SendSegment[],
    length: number,
    options: SendOptions,
    pages: readonly TransmitPage[],
  ): void {
    const { checksum = "complete", done } = options;
    const packet: Packet = { left: segments.length, status: net.NetStatus.okay, done };
    const segmented = isSegmented(options);
    for (let n = 0; n < segments.length; n++) {
      const { ref, offset, size } = segments[n]!;
      let flags = n + 1 < segments.length ? TransmitFlag.moreData : 0;
      if (n === 0 && segmented) flags |= TransmitFlag.extraInfo;
      if (n === 0 && checksum === "blank") flags |= TransmitFlag.csumBlank | TransmitFlag.dataValidated;
      if (n === 0 && checksum === "validated") flags |= TransmitFlag.dataValidated;
      const id = this.takeId(packet, pages[n]);
      net.writeTransmit(this.slot, { ref, offset, flags, id, size: n === 0 ? length : size });
      this.ring.putRequest(this.slot);
      if (n === 0 && segmented) {
        const type = options.segmentation === "tcpv6" ? GsoType.tcpv6 : GsoType.tcpv4;
        net.writeGso(this.slot, type, options.segmentSize ?? 0);
        this.slot[2] = 0;
        this.ring.putRequest(this.slot);
      }
    }
    this.sent++;
    this.sentBytes += length;
  }

  /** Publishes what was put. @returns whether the backend wants an event */
  push(): boolean {
    return this.ring.pushRequestsAndCheckNotify();
  }

  /** Takes the backend's answers. @returns how many */
  poll(): number {
    if (this.isBroken) return 0;
    const there = this.ring.unconsumedResponses();
    if (there === "broken") return this.break("an impossible number of transmit responses");
    for (let n = 0; n < there; n++) {
      this.ring.copyResponse(this.slot, 0, 1);
      const id = this.slot[0]! & 0xffff;
      const status = this.slot[0]! >> 16;
      // Extra information has no id to answer to.
      if (status === net.NetStatus.none) continue;
      if (this.outstanding[id] !== 1) return this.break(`an answer to transmit request ${id}, which is not under way`);
      this.answered(id, status);
    }
    return there;
  }

  private break(reason: string): number {
    this.isBroken = true;
    this.options.broken(reason);
    return 0;
  }

  private answered(id: number, status: number): void {
    const packet = this.packets[id];
    const page = this.pages[id];
    this.outstanding[id] = 0;
    this.packets[id] = undefined;
    this.pages[id] = undefined;
    this.freeIds.push(id);
    if (page) this.freePages.push(page);
    if (!packet) return;
    if (status !== net.NetStatus.okay) packet.status = status;
    if (--packet.left > 0) return;
    if (packet.status !== net.NetStatus.okay) this.refused++;
    packet.done?.(packet.status);
  }

  /** Before sleeping: asks for an event when half of what is under way is answered. @returns whether answers are there */
  arm(): boolean {
    if (this.isBroken) return false;
    const there = this.ring.finalCheckForResponses(Math.max(1, this.ring.outstanding >>> 1));
    if (there === "broken") this.break("an impossible number of transmit responses");
    return there === true;
  }

  /** The connection is over: pages go back, and whoever waits is told that the frame was dropped. */
  close(): void {
    this.isBroken = true;
    const waiting = new Set(this.packets.filter((packet) => packet !== undefined));
    for (const page of [...this.freePages.splice(0), ...this.pages.splice(0)]) {
      if (page) this.options.dispose(page.page, page.ref);
    }
    this.packets.length = 0;
    for (const packet of waiting) packet.done?.(net.NetStatus.dropped);
  }
}

function isSegmented({ segmentation = "none" }: SendOptions): boolean {
  return segmentation !== "none";
}
