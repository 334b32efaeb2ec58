/** The receiving half of a frontend's queue: keeps the ring filled with buffers, and puts frames together from them. */
import type { GrantSource } from "../domain-interface.ts";
import { FrontRing } from "../ring/front.ts";
import type { SharedRing } from "../ring/layout.ts";
import { FRAME_HEAD, FRAME_SEGMENTS, Frame } from "./frame.ts";
import type { PageAcceptor } from "./page-exchange.ts";
import * as net from "./protocol.ts";

const { ReceiveFlag, GsoType, PAGE } = net;

/** A buffer in the ring: copied into, it stays the same page and grant for the life of the connection. */
interface Buffer {
  page: number;
  ref: number;
}

export interface NetfrontReceiveOptions {
  /** Of one page, with slots of RECEIVE_SLOT bytes. */
  readonly ring: SharedRing;
  readonly grants: GrantSource;
  /** Given: pages are exchanged. */
  readonly acceptor: PageAcceptor | undefined;
  readonly backendId: number;
  /** Buffers kept in the ring, at most its 256 slots. */
  readonly buffers: number;
  readonly dispose: (page: number, ref: number) => void;
  /** Gets each frame, which is valid until it returns. */
  readonly receive: (frame: Frame) => void;
  /** The backend broke the protocol; one line. */
  readonly broken: (reason: string) => void;
}

export class NetfrontReceive {
  received = 0;
  receivedBytes = 0;
  /** Frames that came with an error. */
  failed = 0;
  private readonly options: NetfrontReceiveOptions;
  private readonly ring: FrontRing;
  private readonly slot = new Int32Array(2);
  private readonly frame = new Frame();
  /** By slot: a response stands where its request stood. */
  private readonly posted: (Buffer | undefined)[] = [];
  private produced = 0;
  private consumed = 0;
  /** Buffers and lengths of the frame that is being put together. */
  private parts: { readonly buffer: Buffer; readonly offset: number; readonly size: number }[] = [];
  private spare: Buffer[] = [];
  private inFrame = false;
  private wantsExtra = false;
  private more = false;
  private bad = false;
  private flags = 0;
  private gsoType = 0;
  private segmentSize = 0;
  private isBroken = false;

  constructor(options: NetfrontReceiveOptions) {
    this.options = options;
    this.ring = new FrontRing(options.ring);
  }

  /** Puts buffers into the ring up to the wanted number. @returns whether the backend wants an event */
  refill(): boolean {
    const { buffers } = this.options;
    while (this.ring.outstanding < buffers && !this.isBroken) {
      const buffer = this.spare.pop() ?? this.makeBuffer();
      if (!buffer) break;
      const index = this.produced++ & (net.NET_RING_SLOTS - 1);
      this.posted[index] = buffer;
      this.slot[0] = index;
      this.slot[1] = buffer.ref;
      this.ring.putRequest(this.slot);
    }
    return this.ring.pushRequestsAndCheckNotify();
  }

  private makeBuffer(): Buffer | undefined {
    const page = this.options.grants.allocatePage();
    if (page === undefined) return undefined;
    const ref = this.offer(page);
    if (ref !== undefined) return { page, ref };
    this.options.grants.freePage(page);
    return undefined;
  }

  private offer(page: number): number | undefined {
    const { grants, acceptor, backendId } = this.options;
    return acceptor ? acceptor.offer(backendId, page) : grants.grantAccess(backendId, page, false);
  }

  /** Hands on what has come, and gives buffers for it. @returns frames */
  poll(): number {
    if (this.isBroken) return 0;
    const there = this.ring.unconsumedResponses();
    if (there === "broken") return this.break("an impossible number of receive responses");
    const before = this.received;
    for (let n = 0; n < there && !this.isBroken; n++) this.response();
    return this.received - before;
  }

  private break(reason: string): number {
    this.isBroken = true;
    this.options.broken(reason);
    return 0;
  }

  private response(): void {
    this.ring.copyResponse(this.slot, 0, 2);
    const buffer = this.posted[this.consumed++ & (net.NET_RING_SLOTS - 1)]!;
    this.posted[(this.consumed - 1) & (net.NET_RING_SLOTS - 1)] = undefined;
    if (this.wantsExtra) this.extra(buffer);
    else this.fragment(buffer);
    if (!this.wantsExtra && !this.more) this.finish();
  }

  private extra(buffer: Buffer): void {
    if (net.extraType(this.slot) === net.ExtraType.gso) {
      this.gsoType = net.gsoType(this.slot);
      this.segmentSize = net.gsoSegmentSize(this.slot);
    } else this.bad = true;
    this.wantsExtra = net.extraMore(this.slot);
    this.recycle(buffer);
  }

  private fragment(buffer: Buffer): void {
    const offset = this.slot[0]! >>> 16;
    const flags = this.slot[1]! & 0xffff;
    const size = this.slot[1]! >> 16;
    if (!this.inFrame) {
      this.inFrame = true;
      this.bad = false;
      this.flags = flags;
      this.gsoType = GsoType.none;
      this.wantsExtra = (flags & ReceiveFlag.extraInfo) !== 0;
    }
    this.more = (flags & ReceiveFlag.moreData) !== 0;
    if (size <= 0 || offset + size > PAGE || this.parts.length === FRAME_SEGMENTS - 1) {
      this.bad = true;
      this.recycle(buffer);
    } else this.parts.push({ buffer: this.exchanged(buffer), offset, size });
  }

  /** In an exchange, the page that came in the place of ours. */
  private exchanged(buffer: Buffer): Buffer {
    const { acceptor } = this.options;
    if (!acceptor) return buffer;
    const page = acceptor.accept(buffer.ref);
    if (page === undefined) this.bad = true;
    return { page: page ?? -1, ref: -1 };
  }

  /** A buffer is to be used again: the same, or in an exchange another page. */
  private recycle(used: Buffer): void {
    const { acceptor, grants } = this.options;
    if (!acceptor) {
      this.spare.push(used);
      return;
    }
    // What was not used for data may have been exchanged all the same.
    const page = used.ref < 0 ? used.page : acceptor.accept(used.ref);
    if (page === undefined || page < 0) return;
    const ref = this.offer(page);
    if (ref === undefined) grants.freePage(page);
    else this.spare.push({ page, ref });
  }

  private finish(): void {
    this.inFrame = false;
    if (this.bad) this.failed++;
    else this.hand();
    for (const { buffer } of this.parts) this.recycle(buffer);
    this.parts = [];
  }

  private hand(): void {
    const { frame, parts } = this;
    const { bytes } = this.options.grants.memory;
    frame.reset(parts.reduce((sum, part) => sum + part.size, 0));
    for (const { buffer, offset, size } of parts) {
      const at = buffer.page + offset;
      const head = Math.max(0, Math.min(size, FRAME_HEAD - frame.headLength));
      if (head > 0) frame.head.set(bytes.subarray(at, at + head), frame.headLength);
      frame.headLength += head;
      if (size > head) frame.add(bytes, at + head, size - head);
    }
    if ((this.flags & ReceiveFlag.csumBlank) !== 0) frame.checksum = "blank";
    else if ((this.flags & ReceiveFlag.dataValidated) !== 0) frame.checksum = "validated";
    if (this.gsoType !== GsoType.none) {
      frame.segmentation = this.gsoType === GsoType.tcpv6 ? "tcpv6" : "tcpv4";
      frame.segmentSize = this.segmentSize;
    }
    this.received++;
    this.receivedBytes += frame.length;
    this.options.receive(frame);
  }

  /** Before sleeping: asks for an event. @returns whether something has come */
  arm(): boolean {
    if (this.isBroken) return false;
    const there = this.ring.finalCheckForResponses();
    if (there === "broken") this.break("an impossible number of receive responses");
    return there === true;
  }

  /** The connection is over: buffers go back. */
  close(): void {
    this.isBroken = true;
    const { acceptor, grants, dispose } = this.options;
    const left = [
      ...this.posted.splice(0),
      ...this.spare.splice(0),
      ...this.parts.splice(0).map((part) => part.buffer),
    ];
    for (const buffer of left) {
      if (!buffer || buffer.page < 0) continue;
      if (!acceptor) dispose(buffer.page, buffer.ref);
      else {
        const page = buffer.ref < 0 ? buffer.page : acceptor.accept(buffer.ref);
        if (page !== undefined) grants.freePage(page);
      }
    }
  }
}
