/**
 * The block frontend of a TypeScript domain: negotiates with the backend through XenStore (frontendStep), makes rings, and
 * hands requests to them. When the connection ends and the backend comes back (Closed → InitWait), requests that had no
 * answer are sent again, in their order.
 */
import { Errno } from "../../abi/errors.ts";
import { type EventPort, eventPort } from "../../memory/types.ts";
import type { EventChannelPort, GrantSource } from "../domain-interface.ts";
import { FrontendDevice, type FrontendEnd } from "../xenbus/frontend-device.ts";
import type { XenbusState } from "../xenbus/state.ts";
import type { XenbusStore } from "../xenbus/store-access.ts";
import type { OtherEnd } from "../xenbus/xenbus.ts";
import {
  type BlkfrontWishes,
  type BlockGeometry,
  readFeatures,
  readGeometry,
  readTransportOffer,
} from "./backend-features.ts";
import { type BlkfrontConnection, type BlkfrontFeatures, BlkfrontQueue, takeBackGrants } from "./blkfront-queue.ts";
import type { BlockCommand, BlockDone, BlockFailureCode, BlockSegment, PendingRequest } from "./front-request.ts";
import { allocateRings, type FrontRingSetup, releaseRings, ringNodes, STALE_RING_KEYS } from "./front-rings.ts";
import { PagePool } from "./page-pool.ts";
import { type BlockProtocolName, blockProtocol } from "./protocol.ts";

export interface BlkfrontOptions {
  readonly store: XenbusStore;
  readonly vdev: number;
  readonly grants: GrantSource;
  readonly events: EventChannelPort;
  /** Calls `handler` for every event on the port, until the returned function is called. */
  readonly listen: (port: EventPort, handler: () => void) => () => void;
  readonly log: (message: string) => void;
  readonly protocol?: Exclude<BlockProtocolName, "domlab-xen-2.0">;
  /** What to use if the backend offers it. Default: 256 indirect segments, rings of one page, one queue, no persistence. */
  readonly wishes?: Partial<BlkfrontWishes>;
  /** See BlkfrontQueueOptions. */
  readonly holdOff?: number;
  /** Most pages of the pool that read() and write() copy through. Default 1024. */
  readonly poolPages?: number;
  /** The disk has changed its size. */
  readonly onResize?: (geometry: BlockGeometry) => void;
}

/** A request or a connection that failed; the message is one line. */
export class BlkfrontError extends Error {
  readonly code: BlockFailureCode;

  constructor(code: BlockFailureCode, message: string) {
    super(message);
    this.name = "BlkfrontError";
    this.code = code;
  }
}

const DEFAULT_WISHES: BlkfrontWishes = { persistent: false, indirectSegments: 256, ringPageOrder: 0, queues: 1 };
const DEFAULT_POOL_PAGES = 1024;

interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (error: Error) => void;
}

function deferred<T>(): Deferred<T> {
  let resolve: Deferred<T>["resolve"] = () => undefined;
  let reject: Deferred<T>["reject"] = () => undefined;
  const promise = new Promise<T>((fulfil, refuse) => {
    resolve = fulfil;
    reject = refuse;
  });
  return { promise, resolve, reject };
}

interface Queue {
  readonly queue: BlkfrontQueue;
  readonly unlisten: () => void;
}

export class Blkfront extends FrontendDevice {
  readonly pool: PagePool;
  private readonly options: BlkfrontOptions;
  private readonly wishes: BlkfrontWishes;
  private readonly protocol;
  private rings: FrontRingSetup[] = [];
  private queues: Queue[] = [];
  private nextQueue = 0;
  private features: BlkfrontFeatures | undefined;
  private geometryNow: BlockGeometry | undefined;
  /** Requests without a ring, in order. */
  private backlog: PendingRequest[] = [];
  private sequence = 0;
  /** Set when the device is over: why. */
  private ended: BlkfrontError | undefined;
  private readonly firstConnection = deferred<BlockGeometry>();

  constructor(options: BlkfrontOptions) {
    super({ store: options.store, directory: `device/vbd/${options.vdev}`, log: options.log });
    this.options = options;
    this.wishes = { ...DEFAULT_WISHES, ...options.wishes };
    this.pool = new PagePool(options.grants, options.poolPages ?? DEFAULT_POOL_PAGES);
    const protocol = blockProtocol(options.protocol);
    if (!protocol) throw new RangeError(`protocol ${options.protocol}`);
    this.protocol = protocol;
    // Whoever has not called connect() does not wait for it.
    this.firstConnection.promise.catch(() => undefined);
  }

  /** The disk as the backend describes it; undefined before it is connected. */
  get geometry(): BlockGeometry | undefined {
    return this.geometryNow;
  }

  /** What was agreed upon; undefined while not connected. */
  get negotiated(): BlkfrontFeatures | undefined {
    return this.features;
  }

  /** Connects. @returns the disk's properties; rejected with a BlkfrontError when the device ends before */
  async connect(): Promise<BlockGeometry> {
    await this.begin();
    return await this.firstConnection.promise;
  }

  /**
   * Hands a request in. Requests submitted in one turn are pushed together. With several queues only those whose `done`
   * was called before a flush is submitted are sure to be covered by it; `queue` keeps requests on one ring, in order.
   */
  submit(command: BlockCommand, done: BlockDone, queue?: number): void {
    const refusal = this.refusal(command);
    if (refusal !== undefined) {
      queueMicrotask(() => done(refusal === true ? undefined : refusal));
      return;
    }
    const request: PendingRequest = { command, done, sequence: this.sequence++, ownRefs: [] };
    if (this.queues.length === 0) this.backlog.push(request);
    else this.dispatch(request, queue);
  }

  /** As submit(). @returns rejected with a BlkfrontError when it fails */
  request(command: BlockCommand): Promise<void> {
    return new Promise((resolve, reject) => {
      this.submit(command, (failure) =>
        failure ? reject(new BlkfrontError(failure.code, failure.message)) : resolve(),
      );
    });
  }

  /** Reads into pages of one's own, without a copy. */
  read(sector: number, segments: readonly BlockSegment[]): Promise<void> {
    return this.request({ operation: "read", sector, segments });
  }

  /** Writes from pages of one's own, without a copy. */
  write(sector: number, segments: readonly BlockSegment[]): Promise<void> {
    return this.request({ operation: "write", sector, segments });
  }

  /** Everything whose promise was fulfilled before is on durable storage. */
  flush(): Promise<void> {
    return this.request({ operation: "flush" });
  }

  discard(sector: number, sectors: number, secure = false): Promise<void> {
    return this.request({ operation: "discard", sector, sectors, secure });
  }

  /** Largest number of pages that one message carries at present. */
  get segmentsPerRequest(): number {
    return Math.max(11, this.features?.indirectSegments ?? 0);
  }

  /** A grant of a page of one's own to the backend, for BlockSegment.ref; undefined when the table is full. */
  grantPage(page: number): number | undefined {
    return this.backend ? this.options.grants.grantAccess(this.backend.id, page, false) : undefined;
  }

  override reclaim(): number {
    this.pool.reclaim();
    return this.pool.heldPages;
  }

  /** @returns a failure, true when there is nothing to do, or undefined */
  private refusal(command: BlockCommand) {
    if (this.ended) return { code: this.ended.code, message: this.ended.message };
    const { features } = this;
    if (!features) return undefined;
    const unsupported = { code: "unsupported", message: `the backend does not offer ${command.operation}` } as const;
    switch (command.operation) {
      case "flush":
        // A backend that knows neither writes through: what it has answered is durable.
        return features.flush || features.barrier ? undefined : true;
      case "write_barrier":
        return features.barrier ? undefined : unsupported;
      case "discard":
        return features.discard && (!command.secure || features.secureDiscard) ? undefined : unsupported;
      default:
        return undefined;
    }
  }

  private dispatch(request: PendingRequest, queue = this.nextQueue++): void {
    this.queues[queue % this.queues.length]?.queue.submit(request);
  }

  protected override async negotiate(own: XenbusState, backend: OtherEnd): Promise<Record<string, string> | undefined> {
    const { options } = this;
    const offer = await readTransportOffer(options.store, backend.directory, this.wishes);
    const rings = allocateRings({
      ...offer,
      grants: options.grants,
      events: options.events,
      pool: this.pool,
      backendId: backend.id,
      slotSize: this.protocol.slotSize,
    });
    if (typeof rings === "string") {
      await this.fatal(own, Errno.ENOMEM, rings);
      return undefined;
    }
    this.rings = rings;
    for (const key of STALE_RING_KEYS) await options.store.remove(`${this.xenbus.directory}/${key}`);
    return {
      ...ringNodes(rings, offer.ringPageOrder),
      protocol: this.protocol.name,
      "feature-persistent": this.wishes.persistent ? "1" : "0",
    };
  }

  protected override async connected(own: XenbusState, backend: OtherEnd): Promise<boolean> {
    const geometry = await readGeometry(this.options.store, backend.directory);
    if ("problem" in geometry) {
      await this.fatal(own, Errno.EINVAL, geometry.problem);
      return false;
    }
    const features = await readFeatures(this.options.store, backend.directory, this.wishes);
    if (!(await this.switchToConnected(own))) return false;
    this.features = features;
    this.geometryNow = geometry.value;
    this.startQueues(backend, features);
    this.firstConnection.resolve(geometry.value);
    for (const request of this.backlog.splice(0)) this.sendAgain(request);
    return true;
  }

  /** Sends what had no answer before, or had to wait for the connection; all on one ring, so that the order stays. */
  private sendAgain(request: PendingRequest): void {
    // The backend has let go of its maps, or does not mean to: then the pages are lost for this request.
    const held = takeBackGrants(request, this.options.grants, this.pool);
    if (held.length > 0) {
      request.done({ code: "page-held", message: "the backend keeps pages mapped", heldPages: held });
      return;
    }
    const refusal = this.refusal(request.command);
    if (refusal === undefined) this.dispatch(request, 0);
    else request.done(refusal === true ? undefined : refusal);
  }

  private startQueues(backend: OtherEnd, features: BlkfrontFeatures): void {
    const { options } = this;
    const connection: BlkfrontConnection = {
      backendId: backend.id,
      handle: options.vdev & 0xffff,
      protocol: this.protocol.name,
      features,
      rings: this.rings.map(({ pages, port }) => ({ pages: pages.map(({ page }) => page), port })),
    };
    this.queues = this.rings.map(({ port }, ring) => {
      const queue = new BlkfrontQueue({
        connection,
        ring,
        grants: options.grants,
        pool: this.pool,
        notify: () => options.events.notify(eventPort(port)),
        schedule: queueMicrotask,
        ...(options.holdOff === undefined ? {} : { holdOff: options.holdOff }),
        broken: (reason) => this.broken(reason),
      });
      const handle = (): void => {
        if (queue.handleEvent()) setImmediate(handle);
      };
      return { queue, unlisten: options.listen(port, handle) };
    });
  }

  protected override async refresh(backend: OtherEnd): Promise<void> {
    const read = await readGeometry(this.options.store, backend.directory);
    if ("problem" in read || read.value.sectors === this.geometryNow?.sectors) return;
    this.geometryNow = read.value;
    this.options.onResize?.(read.value);
  }

  /** Gives the rings up; what has no answer goes back in line. */
  protected override disconnect(): void {
    if (this.rings.length === 0) return;
    const left = this.queues.flatMap(({ queue, unlisten }) => {
      unlisten();
      return queue.stop();
    });
    this.queues = [];
    this.features = undefined;
    this.backlog = [...left.sort((a, b) => a.sequence - b.sequence), ...this.backlog];
    releaseRings(this.rings.splice(0), { events: this.options.events, pool: this.pool });
  }

  protected override broken(reason: string): void {
    super.broken(reason);
    this.disconnect();
  }

  protected override finish(code: FrontendEnd, message: string): void {
    this.ended = new BlkfrontError(code, message);
    this.disconnect();
    for (const request of this.backlog.splice(0)) {
      const held = takeBackGrants(request, this.options.grants, this.pool);
      request.done({ code, message, ...(held.length > 0 ? { heldPages: held } : {}) });
    }
    this.pool.drain();
    this.firstConnection.reject(this.ended);
  }
}
