/** A guest's memory, grants and rings, and the backend's interface over them, in one thread. */
import { NetCounters } from "../../../engine/device/net/counters.ts";
import { Frame, type FrameSink } from "../../../engine/device/net/frame.ts";
import { type NetQueueChannel, type NetQueueParts, netQueueParts } from "../../../engine/device/net/netback-queue.ts";
import type { PageExchange } from "../../../engine/device/net/page-exchange.ts";
import * as net from "../../../engine/device/net/protocol.ts";
import type { FrameAcceptance, FramePreparation } from "../../../engine/device/net/receive-ring.ts";
import { queueRegion, Vif, vifRegionSize } from "../../../engine/device/net/vif.ts";
import { FrontRing } from "../../../engine/device/ring/front.ts";
import { initialiseSharedRing, SharedRing } from "../../../engine/device/ring/layout.ts";
import { FakeGrants, memoryView, PAGE } from "../block-backend-harness.ts";

export { PAGE };
export const ALL: FrameAcceptance = { sg: true, gso4: true, gso6: true, csum4: true, csum6: true };
/** References: page n of the guest's data is 100 + n. */
export const REF = 100;

export interface Slot {
  ref?: number;
  offset?: number;
  size: number;
  flags?: number;
  id?: number;
}

export interface Extra {
  type: number;
  more?: boolean;
  /** GSO: segment size and type. */
  size?: number;
  gso?: number;
  mac?: readonly number[];
}

export interface Taken {
  readonly bytes: Uint8Array;
  readonly checksum: string;
  readonly segmentation: string;
  readonly segmentSize: number;
  readonly segments: number;
}

export interface HarnessOptions {
  queues?: number;
  accepts?: FrameAcceptance;
  tells?: boolean;
  shared?: boolean;
  exchange?: PageExchange;
  prepare?: FramePreparation;
  multicastControl?: boolean;
  dataPages?: number;
  parts?: (channel: NetQueueChannel) => NetQueueParts;
}

export class Harness {
  readonly memory;
  readonly own;
  readonly grants: FakeGrants;
  readonly transmit: FrontRing[] = [];
  readonly receive: FrontRing[] = [];
  readonly sharedTransmit: SharedRing[] = [];
  readonly sharedReceive: SharedRing[] = [];
  readonly taken: Taken[] = [];
  readonly log: string[] = [];
  counters = new NetCounters();
  batches = 0;
  transmitEvents = 0;
  receiveEvents = 0;
  clock = 1_000_000;
  vif: Vif;
  /** Called with each frame before it is copied. */
  onFrame: (frame: Frame) => void = () => undefined;
  onBatchEnd: () => void = () => undefined;
  readonly dataStart: number;
  private readonly options: HarnessOptions;
  private readonly slot = new Int32Array(3);

  constructor(options: HarnessOptions = {}) {
    this.options = options;
    const queues = options.queues ?? 1;
    const dataPages = options.dataPages ?? 64;
    this.memory = memoryView(2 * queues + dataPages);
    this.own = memoryView(Math.ceil(vifRegionSize(queues) / PAGE) + 1);
    this.grants = new FakeGrants(this.memory);
    for (let n = 0; n < queues; n++) {
      const transmit = new SharedRing(this.memory, [2 * n * PAGE], net.TRANSMIT_SLOT);
      const receive = new SharedRing(this.memory, [(2 * n + 1) * PAGE], net.RECEIVE_SLOT);
      initialiseSharedRing(transmit);
      initialiseSharedRing(receive);
      this.sharedTransmit.push(transmit);
      this.sharedReceive.push(receive);
      this.transmit.push(new FrontRing(transmit));
      this.receive.push(new FrontRing(receive));
    }
    this.dataStart = 2 * queues * PAGE;
    for (let n = 0; n < dataPages; n++) {
      this.grants.pages.set(REF + n, { address: this.dataStart + n * PAGE, readOnly: false });
    }
    this.vif = this.makeVif(false);
  }

  makeVif(adopted: boolean): Vif {
    const { options } = this;
    const notifyTransmit = (): void => {
      this.transmitEvents++;
    };
    const notifyReceive = options.shared
      ? notifyTransmit
      : (): void => {
          this.receiveEvents++;
        };
    const sink: FrameSink = {
      receive: (frame) => {
        this.onFrame(frame);
        if (this.taken.length > 10_000) return;
        const bytes = new Uint8Array(frame.length);
        if (frame.copyTo(bytes, 0) !== frame.length) throw new Error("a frame without all its bytes");
        const { checksum, segmentation, segmentSize, segments } = frame;
        this.taken.push({ bytes, checksum, segmentation, segmentSize, segments });
      },
      batchEnd: () => {
        this.batches++;
        this.onBatchEnd();
      },
    };
    return new Vif({
      grants: this.grants,
      exchange: options.exchange,
      accepts: options.accepts ?? ALL,
      prepare: options.prepare ?? (() => []),
      tells: options.tells ?? true,
      sink,
      counters: this.counters,
      now: () => this.clock,
      log: (message) => this.log.push(message),
      multicast: { memory: this.own, address: 0 },
      multicastControl: options.multicastControl ?? false,
      queues: this.sharedTransmit.map((transmit, n) => ({
        transmit,
        receive: this.sharedReceive[n]!,
        notifyTransmit,
        notifyReceive,
        memory: this.own,
        address: queueRegion(n),
        adopted,
      })),
      parts: options.parts ?? netQueueParts,
    });
  }

  page(n: number): Uint8Array {
    return this.memory.bytes.subarray(this.dataStart + n * PAGE, this.dataStart + (n + 1) * PAGE);
  }

  /** Puts raw slots into the transmit ring and pushes them. */
  put(items: readonly (Slot | Extra)[], queue = 0): void {
    for (const item of items) {
      this.slot.fill(0);
      if ("type" in item) {
        this.slot[0] = item.type | (item.more ? net.EXTRA_MORE << 8 : 0) | ((item.size ?? 0) << 16);
        this.slot[1] = item.gso ?? 0;
        const { mac } = item;
        if (mac) new Uint8Array(this.slot.buffer).set(mac, 2);
      } else {
        const { ref = REF, offset = 0, flags = 0, id = 0, size } = item;
        net.writeTransmit(this.slot, { ref, offset, flags, id, size });
      }
      if (!this.transmit[queue]!.putRequest(this.slot)) throw new Error("the transmit ring is full");
    }
    this.transmit[queue]!.pushRequestsAndCheckNotify();
  }

  /** Transmits bytes cut into fragments of these sizes, each in a page of its own from page 0 on. */
  send(bytes: Uint8Array, sizes: readonly number[], flags = 0, extras: readonly Extra[] = []): void {
    let at = 0;
    const slots = sizes.map((size, n): Slot => {
      this.page(n).set(bytes.subarray(at, at + size), 16 + n);
      at += size;
      const more = n + 1 < sizes.length ? net.TransmitFlag.moreData : 0;
      const extra = n === 0 && extras.length > 0 ? net.TransmitFlag.extraInfo : 0;
      return {
        ref: REF + n,
        offset: 16 + n,
        size: n === 0 ? bytes.length : size,
        flags: more | extra | (n === 0 ? flags : 0),
        id: n,
      };
    });
    this.put([slots[0]!, ...extras, ...slots.slice(1)]);
  }

  /** The transmit responses that are there: [id, status]. */
  answers(queue = 0): [number, number][] {
    const ring = this.transmit[queue]!;
    const there = ring.unconsumedResponses();
    if (there === "broken") throw new Error("impossible responses");
    return Array.from({ length: there }, () => {
      ring.copyResponse(this.slot, 0, 1);
      return [this.slot[0]! & 0xffff, this.slot[0]! >> 16];
    });
  }

  /** Gives receive buffers: pages by number; the request's id is the page's number. */
  give(pages: readonly number[], queue = 0): boolean {
    for (const page of pages) {
      this.slot[0] = page;
      this.slot[1] = REF + page;
      if (!this.receive[queue]!.putRequest(this.slot)) throw new Error("the receive ring is full");
    }
    return this.receive[queue]!.pushRequestsAndCheckNotify();
  }

  /** The receive responses that are there, raw. */
  received(queue = 0): { id: number; offset: number; flags: number; status: number; words: [number, number] }[] {
    const ring = this.receive[queue]!;
    const there = ring.unconsumedResponses();
    if (there === "broken") throw new Error("impossible responses");
    return Array.from({ length: there }, () => {
      ring.copyResponse(this.slot, 0, 2);
      const [first, second] = [this.slot[0]!, this.slot[1]!];
      return {
        id: first & 0xffff,
        offset: first >>> 16,
        flags: second & 0xffff,
        status: second >> 16,
        words: [first, second],
      };
    });
  }

  deliver(bytes: Uint8Array, change: (frame: Frame) => void = () => undefined) {
    const frame = Frame.of(bytes);
    change(frame);
    const failure = this.vif.deliver(frame);
    this.vif.flush();
    return failure;
  }

  /** Everything that is mapped has been unmapped. */
  get mapped(): number {
    return this.grants.live;
  }

  count(name: keyof ReturnType<NetCounters["read"]>): number {
    return this.counters.read()[name];
  }
}

/** An IPv4 (or other) frame of `length` bytes, its contents a function of `seed`. */
export function makeFrame(length: number, seed = 1, etherType = 0x0800): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let n = 0; n < length; n++) bytes[n] = (n * 31 + seed * 17 + (n >> 8)) & 0xff;
  bytes.set([0x00, 0x16, 0x3e, 0, 0, seed & 0xff, 0x00, 0x16, 0x3e, 1, 1, 1], 0);
  if (length >= 14) bytes.set([etherType >> 8, etherType & 0xff], 12);
  return bytes;
}
