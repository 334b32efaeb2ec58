/**
 * The network frontend of a TypeScript domain: negotiates with the backend through XenStore (frontendStep), makes rings,
 * sends and receives frames. Frames under way when a connection ends are lost, as on a wire; when the backend comes back
 * (Closed → InitWait) it connects again.
 *
 * Used on an event loop it needs nothing but the callback; a vCPU that blocks calls poll() and arm() itself.
 */
import { Errno } from "../../abi/errors.ts";
import type { EventPort } from "../../memory/types.ts";
import { PagePool } from "../block/page-pool.ts";
import type { EventChannelPort, GrantSource } from "../domain-interface.ts";
import { FrontendDevice, type FrontendEnd } from "../xenbus/frontend-device.ts";
import type { XenbusState } from "../xenbus/state.ts";
import type { XenbusStore } from "../xenbus/store-access.ts";
import type { OtherEnd } from "../xenbus/xenbus.ts";
import { flowHash } from "./flow-hash.ts";
import type { Frame } from "./frame.ts";
import {
  DEFAULT_WISHES,
  type NetfrontFeatures,
  type NetfrontWishes,
  readNetOffer,
  wishNodes,
} from "./netfront-offer.ts";
import { NetfrontReceive } from "./netfront-receive.ts";
import { makeNetRings, type NetRingPair, netRingNodes, releaseNetRings, STALE_NET_KEYS } from "./netfront-rings.ts";
import { NetfrontTransmit, type SendOptions, type SendSegment } from "./netfront-transmit.ts";
import type { PageAcceptor } from "./page-exchange.ts";

export type { NetfrontFeatures, NetfrontWishes } from "./netfront-offer.ts";

export interface NetfrontOptions {
  readonly store: XenbusStore;
  readonly handle: number;
  readonly grants: GrantSource;
  readonly events: EventChannelPort;
  /** Calls `handler` for every event on the port, until the returned function is called. Left out: poll() is called. */
  readonly listen?: (port: EventPort, handler: () => void) => () => void;
  /** Gets each frame, which is valid until it returns. */
  readonly receive: (frame: Frame) => void;
  readonly log: (message: string) => void;
  readonly wishes?: Partial<NetfrontWishes>;
  /** Given: frames are received by exchange of pages (request-rx-copy 0). */
  readonly acceptor?: PageAcceptor;
  /** Receive buffers of a queue, at most 256. Default 256. */
  readonly buffers?: number;
  /** Pages of a queue that send() copies through. Default 256. */
  readonly sendPages?: number;
}

/** A connection that failed or ended; the message is one line. */
export class NetfrontError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "NetfrontError";
  }
}

interface Queue {
  readonly pair: NetRingPair;
  readonly transmit: NetfrontTransmit;
  readonly receive: NetfrontReceive;
  readonly unlisten: (() => void)[];
}

export class Netfront extends FrontendDevice {
  private readonly options: NetfrontOptions;
  private readonly wishes: NetfrontWishes;
  private readonly pool: PagePool;
  private features: NetfrontFeatures | undefined;
  private offered: NetfrontFeatures | undefined;
  private rings: NetRingPair[] = [];
  private queues: Queue[] = [];
  private ended: NetfrontError | undefined;
  private waiters: { resolve: (features: NetfrontFeatures) => void; reject: (error: Error) => void }[] = [];

  constructor(options: NetfrontOptions) {
    super({ store: options.store, directory: `device/vif/${options.handle}`, log: options.log });
    this.options = options;
    this.wishes = { ...DEFAULT_WISHES, ...options.wishes };
    this.pool = new PagePool(options.grants, 0);
  }

  /** What was agreed upon; undefined while not connected. */
  get negotiated(): NetfrontFeatures | undefined {
    return this.features;
  }

  /** Connects. @returns what was agreed upon; rejected with a NetfrontError when the device ends before */
  async connect(): Promise<NetfrontFeatures> {
    if (this.ended) throw this.ended;
    if (this.features) return this.features;
    const connected = new Promise<NetfrontFeatures>((resolve, reject) => this.waiters.push({ resolve, reject }));
    await Promise.all([connected, this.begin()]);
    return await connected;
  }

  /** Frames sent and received over the present connection. */
  get statistics(): { sent: number; sentBytes: number; received: number; receivedBytes: number; refused: number } {
    const sum = { sent: 0, sentBytes: 0, received: 0, receivedBytes: 0, refused: 0 };
    for (const { transmit, receive } of this.queues) {
      sum.sent += transmit.sent;
      sum.sentBytes += transmit.sentBytes;
      sum.refused += transmit.refused;
      sum.received += receive.received;
      sum.receivedBytes += receive.receivedBytes;
    }
    return sum;
  }

  /** Slots under way that have no answer yet. */
  get pending(): number {
    return this.queues.reduce((sum, queue) => sum + queue.transmit.pending, 0);
  }

  /**
   * Sends a copy of a frame. Any number may be sent before flush() makes them known.
   * @returns false when it cannot be taken now: not connected, or the ring is full
   */
  send(bytes: Uint8Array, options: SendOptions = {}): boolean {
    return this.queueFor(bytes)?.transmit.send(bytes, options) ?? false;
  }

  /** Sends a frame from pages that grantPage() granted; see NetfrontTransmit.sendSegments. */
  sendSegments(segments: readonly SendSegment[], options: SendOptions = {}, queue = 0): boolean {
    return this.queues[queue]?.transmit.sendSegments(segments, options) ?? false;
  }

  /** Asks for the frames of a multicast address, or no more for them. @returns as send() */
  multicast(address: Uint8Array, wanted: boolean): boolean {
    return this.queues[0]?.transmit.multicast(address, wanted) ?? false;
  }

  /** A grant of a page of one's own to the backend, for SendSegment.ref; undefined when the table is full. */
  grantPage(page: number): number | undefined {
    return this.backend ? this.options.grants.grantAccess(this.backend.id, page, true) : undefined;
  }

  private queueFor(bytes: Uint8Array): Queue | undefined {
    const { queues } = this;
    return queues.length < 2 ? queues[0] : queues[flowHash(bytes, bytes.length) % queues.length];
  }

  /** Makes known what was sent. */
  flush(): void {
    for (const { transmit, pair } of this.queues) {
      if (transmit.push()) this.options.events.notify(pair.transmitPort);
    }
  }

  /** Takes what has come and gives new buffers. @returns frames received and answers taken */
  poll(): number {
    let count = 0;
    for (const queue of this.queues) {
      count += queue.transmit.poll() + queue.receive.poll();
      if (queue.receive.refill()) this.options.events.notify(queue.pair.receivePort);
    }
    return count;
  }

  /** Before blocking: asks for events. @returns whether something is there already */
  arm(): boolean {
    let ready = false;
    for (const { transmit, receive } of this.queues) {
      const sent = transmit.arm();
      ready = receive.arm() || sent || ready;
    }
    return ready;
  }

  override reclaim(): number {
    this.pool.reclaim();
    return this.pool.heldPages;
  }

  protected override async negotiate(own: XenbusState, backend: OtherEnd): Promise<Record<string, string> | undefined> {
    const { options, wishes } = this;
    const read = await readNetOffer(options.store, this.xenbus.directory, backend.directory, {
      ...wishes,
      flip: options.acceptor !== undefined,
    });
    if ("problem" in read) {
      await this.fatal(own, Errno.EINVAL, read.problem);
      return undefined;
    }
    const offer = read.value;
    const { grants, events } = options;
    const { queues, split } = offer;
    const made = makeNetRings({ grants, events, backendId: backend.id, queues, split, dispose: this.dispose });
    if (typeof made === "string") {
      await this.fatal(own, Errno.ENOMEM, made);
      return undefined;
    }
    this.rings = made;
    this.offered = offer;
    for (const key of STALE_NET_KEYS) await options.store.remove(`${this.xenbus.directory}/${key}`);
    return { ...netRingNodes(made), ...wishNodes(wishes, options.acceptor !== undefined) };
  }

  private readonly dispose = (page: number, ref: number): void => this.pool.dispose(page, ref);

  protected override async connected(own: XenbusState, backend: OtherEnd): Promise<boolean> {
    if (!(await this.switchToConnected(own)) || !this.offered) return false;
    this.features = this.offered;
    this.queues = this.rings.map((pair) => this.makeQueue(pair, backend));
    for (const queue of this.queues) {
      if (queue.receive.refill()) this.options.events.notify(queue.pair.receivePort);
    }
    for (const { resolve } of this.waiters.splice(0)) resolve(this.offered);
    return true;
  }

  private makeQueue(pair: NetRingPair, backend: OtherEnd): Queue {
    const { options } = this;
    const common = {
      grants: options.grants,
      backendId: backend.id,
      dispose: this.dispose,
      broken: (reason: string) => this.broken(reason),
    };
    const transmit = new NetfrontTransmit({ ...common, ring: pair.transmit.shared, pages: options.sendPages ?? 256 });
    const receive = new NetfrontReceive({
      ...common,
      ring: pair.receive.shared,
      acceptor: options.acceptor,
      buffers: options.buffers ?? 256,
      receive: options.receive,
    });
    const handle = (): void => {
      if (this.queues.length === 0) return;
      this.poll();
      if (this.arm()) setImmediate(handle);
    };
    const ports = new Set([pair.transmitPort, pair.receivePort]);
    const unlisten = options.listen ? [...ports].map((port) => options.listen!(port, handle)) : [];
    return { pair, transmit, receive, unlisten };
  }

  /** Gives the rings up; what is under way is lost. */
  protected override disconnect(): void {
    if (this.rings.length === 0) return;
    this.features = undefined;
    for (const { transmit, receive, unlisten } of this.queues.splice(0)) {
      for (const end of unlisten) end();
      transmit.close();
      receive.close();
    }
    releaseNetRings(this.rings.splice(0), { events: this.options.events, dispose: this.dispose });
  }

  protected override async fatal(own: XenbusState, errno: number, message: string): Promise<void> {
    this.disconnect();
    await super.fatal(own, errno, message);
  }

  protected override finish(_code: FrontendEnd, message: string): void {
    this.ended = new NetfrontError(message);
    this.disconnect();
    for (const { reject } of this.waiters.splice(0)) reject(this.ended);
  }
}
