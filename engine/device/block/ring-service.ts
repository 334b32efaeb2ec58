/**
 * The block backend's data path: serves one ring. Takes requests, checks them, maps their pages, lets the store read
 * and write right there, and answers. One object per ring; all its functions run on one thread.
 *
 *   taken ──▶ checked ──▶ mapped ──▶ merged ──▶ store ──▶ answered ──▶ published
 *               └──────────────────────── refused ──────────▲
 *
 * Order. Reads, writes and discards are issued in the ring's order; an asynchronous store may complete them in any. A
 * FLUSH waits until everything that was taken before it is complete, then flushes; what comes behind it does not wait.
 * A WRITE_BARRIER (and a FLUSH that carries data) waits likewise, flushes, writes, flushes, and nothing behind it is
 * taken before it is answered.
 *
 * Adjoining requests of a batch that go the same way are merged into one call of the store. When that call fails, each
 * request is tried on its own, so that only those fail that must.
 *
 * What is in flight is kept in an InFlightRegion, whose file says why no request is lost with the process.
 */
import type { GrantMapper } from "../domain-interface.ts";
import type { BackRing } from "../ring/back.ts";
import { BlockCounter, type BlockCounters } from "./counters.ts";
import type { InFlightRegion } from "./in-flight.ts";
import { encodeProbe, LegacyOperation, type LegacyVbd } from "./legacy-protocol.ts";
import type { BlockTarget, Operation, OperationKind } from "./operation.ts";
import { OperationQueue } from "./operation-queue.ts";
import { PersistentGrants } from "./persistent-grants.ts";
import { BlockOperation, type BlockProtocol, BlockStatus, LAST_SECTOR_OF_PAGE, SECTOR } from "./protocol.ts";
import { ParsedRequest, responseOperation } from "./request.ts";
import { SegmentMapper } from "./segment-mapper.ts";

export type { BlockTarget } from "./operation.ts";

/** What the backend has offered. A request for anything else is answered with EOPNOTSUPP. */
export interface BlockFeatures {
  /** Both ends agreed on persistent grants. */
  readonly persistent: boolean;
  /** feature-max-indirect-segments, at most 256; 0: not offered. */
  readonly maxIndirectSegments: number;
  readonly flush: boolean;
  readonly barrier: boolean;
  readonly discard: boolean;
}

/** The guest's disks, for the old message set, where one ring serves all. */
export interface LegacyDevices {
  listVbds(): readonly LegacyVbd[];
  storeOf(device: number): BlockTarget | undefined;
}

export interface BlockRingOptions {
  readonly protocol: BlockProtocol;
  readonly ring: BackRing;
  readonly grants: GrantMapper;
  /** What the ring serves: a disk, or with LEGACY_PROTOCOL all of a guest's. */
  readonly serves: BlockTarget | LegacyDevices;
  readonly features: BlockFeatures;
  /** Of ring.size slots of protocol.slotSize bytes. */
  readonly inFlight: InFlightRegion;
  readonly counters: BlockCounters;
  /** Most grants kept mapped, with features.persistent. */
  readonly persistentGrants?: number;
  /** Sends the frontend an event. */
  notify(): void;
  /** One line; not called for every bad request of a frontend that sends nothing else. */
  log(message: string): void;
}

/**
 * Responses are published when so much has been moved since the last time, so that the frontend can go on meanwhile.
 */
const PUBLISH_BYTES = 256 * 1024;
/** Complaints in full; then only at every power of two. */
const COMPLAINTS = 8;
/** Requests that one call of service() takes before it lets others have a turn, in rings. */
const ROUNDS = 4;

export class BlockRingService {
  private readonly options: BlockRingOptions;
  private readonly legacy: LegacyDevices | undefined;
  private target: BlockTarget | undefined;
  private readonly persistent: PersistentGrants | undefined;
  private readonly mapper: SegmentMapper;
  private readonly request = new ParsedRequest();
  private readonly response = new Int32Array(4);
  private readonly queue: OperationQueue;
  /** The operation that requests are being merged into. */
  private current: Operation | undefined;
  /** Entries of a predecessor that are executed before anything is taken from the ring. */
  private backlog: readonly number[] = [];
  private backlogAt = 0;
  private serving = false;
  private stalled = false;
  /** Nothing is taken from the ring. */
  private holding = false;
  /** Told when nothing is in flight. */
  private readonly holders: (() => void)[] = [];
  private isBroken = false;
  private closed: Promise<void> | undefined;
  /** close() is done. */
  private drained = false;
  private complaints = 0;

  constructor(options: BlockRingOptions) {
    this.options = options;
    const { serves, features, grants, counters, persistentGrants } = options;
    this.legacy = "listVbds" in serves ? serves : undefined;
    this.target = "listVbds" in serves ? undefined : serves;
    if ((this.legacy !== undefined) !== (options.protocol.name === "domlab-xen-2.0")) {
      throw new TypeError(`protocol ${options.protocol.name} does not go with what is served`);
    }
    this.persistent = features.persistent ? new PersistentGrants(grants, counters, persistentGrants) : undefined;
    this.mapper = new SegmentMapper(grants, this.persistent, counters);
    this.queue = new OperationQueue({
      memory: grants.memory,
      mapper: this.mapper,
      counters,
      respond: (entry, status) => this.respond(entry, status),
      progressed: () => this.progressed(),
      log: (message) => this.complain(message),
    });
  }

  /** The frontend has claimed more requests than fit the ring: it is not served any more. */
  get broken(): boolean {
    return this.isBroken;
  }
  /** Nothing is in flight. */
  get idle(): boolean {
    return this.queue.idle && this.backlogAt === this.backlog.length;
  }

  /**
   * Begins with a new connection, where the ring's responses end: at 0, or further on in a ring that another backend has
   * served (its guest was restored). service() then takes what is there.
   *
   * @returns false when the ring's indexes are impossible: it is not served
   */
  start(): boolean {
    const { ring, inFlight } = this.options;
    if (!ring.attach()) {
      this.breakRing();
      return false;
    }
    inFlight.reset(ring.responseProducer);
    // The last event of whoever served the ring before may not have reached the frontend.
    if (ring.responseProducer !== 0) this.tell();
    return true;
  }

  /**
   * Takes over from a predecessor that is gone, whatever it was doing; service() then executes again what it had not
   * answered. The predecessor's mappings of data pages are the caller's to undo, before this.
   *
   * @returns false when no predecessor has served this ring: start() is right then
   */
  recover(): boolean {
    const { inFlight, ring, counters } = this.options;
    const recovered = inFlight.recover(ring.publishedResponses());
    if (!recovered) return false;
    ring.restore(recovered.indexes);
    this.backlog = recovered.outstanding;
    this.backlogAt = 0;
    counters.add(BlockCounter.replayed, recovered.outstanding.length);
    // The predecessor may have published responses and died before it told.
    this.tell();
    return true;
  }

  private tell(): void {
    const { counters, notify } = this.options;
    counters.add(BlockCounter.notifications_sent);
    notify();
  }

  /**
   * Takes nothing more from the ring until release(). Fulfilled when everything that was taken is answered, the answers are
   * published, and the store is at rest; also when the service is closed meanwhile.
   */
  hold(): Promise<void> {
    this.holding = true;
    // A predecessor's requests are taken already: service() is what does them.
    while (this.service());
    return new Promise((resolve) => {
      this.holders.push(resolve);
      this.settleHold();
    });
  }

  /**
   * Ends hold(); service() is to be called then.
   * @param target what the ring serves from now on; left out: what it did. Only a ring that is at rest may change
   */
  release(target?: BlockTarget): void {
    if (target !== undefined && target !== this.target && this.legacy === undefined) {
      if (!this.idle) throw new Error("a ring with requests in flight changed its disk");
      this.target = target;
    }
    this.holding = false;
    for (const resolve of this.holders.splice(0)) resolve();
  }

  private settleHold(): void {
    if (!this.holding || this.holders.length === 0) return;
    const atRest = this.idle && this.options.inFlight.unpublished === 0;
    if (this.closed ? this.drained : atRest) for (const resolve of this.holders.splice(0)) resolve();
  }

  /**
   * Serves what is there. With a synchronous store all of it is answered on return; with another one the service goes
   * on by itself as operations complete.
   *
   * @returns whether to call again soon: the frontend keeps adding requests, and others want their turn
   */
  service(): boolean {
    if (this.serving || this.isBroken || this.closed) return false;
    const { ring } = this.options;
    this.serving = true;
    this.stalled = false;
    let more = false;
    for (let left = ROUNDS * ring.size; ; ) {
      left -= this.takeBatch();
      this.issueCurrent();
      this.publish();
      if (this.queue.held || this.stalled || this.isBroken) {
        this.stalled = true;
        break;
      }
      if (this.backlogAt < this.backlog.length) continue;
      if (this.holding) break;
      const check = ring.finalCheckForRequests();
      if (check === "broken") this.breakRing();
      if (check !== true) break;
      if (left <= 0) {
        more = true;
        break;
      }
    }
    this.serving = false;
    this.settleHold();
    return more;
  }

  /** Takes nothing more, waits for the store, and unmaps every grant but the ring's. Nothing is answered any more. */
  close(): Promise<void> {
    this.closed ??= this.drain();
    return this.closed;
  }

  private async drain(): Promise<void> {
    await this.queue.drain();
    this.persistent?.close();
    this.options.inFlight.clear();
    this.drained = true;
    this.settleHold();
  }

  /** Unmaps up to `count` persistent grants that have not been used lately. */
  shrink(count: number): void {
    this.persistent?.shrink(count);
  }

  /** Takes what is there now, up to a barrier. @returns how many requests that was */
  private takeBatch(): number {
    const { ring, inFlight } = this.options;
    let taken = 0;
    while (this.backlogAt < this.backlog.length && !this.queue.held) {
      this.handle(this.backlog[this.backlogAt++]!, true);
      taken++;
    }
    if (this.queue.held || this.holding) return taken;
    const available = ring.unconsumedRequests();
    if (available === "broken") {
      this.breakRing();
      return taken;
    }
    for (let i = 0; i < available && !this.queue.held; i++) {
      if (inFlight.room === 0) {
        // Requests pushed before their slots' responses were: all entries are answered or in flight.
        this.issueCurrent();
        this.publish();
        if (inFlight.room === 0) {
          this.stalled = true;
          break;
        }
      }
      this.handle(inFlight.take(ring), false);
      taken++;
    }
    return taken;
  }

  private breakRing(): void {
    this.isBroken = true;
    this.options.log("the frontend's request index is impossible; the ring is not served any more");
  }

  /** Takes a request apart and does it, or refuses. */
  private handle(entry: number, again: boolean): void {
    const { protocol, inFlight, features } = this.options;
    const { request } = this;
    const wrong = request.parse(
      protocol,
      inFlight.words,
      inFlight.requestWord(entry),
      this.legacy ? 0 : features.maxIndirectSegments,
    );
    // What is wrong about an indirect request is wrong whatever it carries.
    const supported = this.legacy
      ? request.operation <= LegacyOperation.probe
      : request.indirect || this.supports(request.operation);
    if (!supported) {
      this.refuse(entry, `operation ${request.operation}`, BlockStatus.eopnotsupp);
      return;
    }
    if (wrong !== undefined) {
      this.refuse(entry, wrong);
      return;
    }
    if (!again) this.count();
    if (this.legacy && request.operation === LegacyOperation.probe) {
      this.probe(entry, this.legacy);
      return;
    }
    const target = this.legacy ? this.legacy.storeOf(request.device) : this.target;
    if (!target) this.refuse(entry, `device ${request.device}, which there is not`);
    else if (request.operation === BlockOperation.read) this.transfer(entry, "read", target);
    else if (request.operation === BlockOperation.write) this.transfer(entry, "write", target);
    else if (request.operation === BlockOperation.discard) this.discard(entry, target);
    else if (request.operation === BlockOperation.flush_diskcache && request.segments === 0) this.flush(entry, target);
    else this.barrier(entry, target);
  }

  private supports(operation: number): boolean {
    const { features } = this.options;
    switch (operation) {
      case BlockOperation.read:
      case BlockOperation.write:
        return true;
      case BlockOperation.write_barrier:
        return features.barrier;
      case BlockOperation.flush_diskcache:
        return features.flush;
      case BlockOperation.discard:
        return features.discard;
      default:
        return false;
    }
  }

  private count(): void {
    const { counters } = this.options;
    const { operation, indirect } = this.request;
    if (indirect) counters.add(BlockCounter.indirect_req);
    if (operation === BlockOperation.read) counters.add(BlockCounter.rd_req);
    else if (operation === BlockOperation.write) counters.add(BlockCounter.wr_req);
    else if (this.legacy) counters.add(BlockCounter.pr_req);
    else if (operation === BlockOperation.flush_diskcache) counters.add(BlockCounter.f_req);
    else if (operation === BlockOperation.discard) counters.add(BlockCounter.ds_req);
    else counters.add(BlockCounter.wb_req);
  }

  /** Everything about the parsed request that can be checked before its pages are mapped. */
  private check(kind: OperationKind, target: BlockTarget): string | undefined {
    const { request } = this;
    const { size, sectorSize, readOnly } = target.store;
    if (kind !== "read" && (target.readOnly || readOnly)) return "a read-only disk";
    if (kind !== "discard") {
      if (request.segments === 0) return "no segments";
      if (request.indirect) {
        const wrong = this.mapper.loadIndirect(request);
        if (wrong !== undefined) return wrong;
      }
      const wrong = request.checkSegments(sectorSize);
      if (wrong !== undefined) return wrong;
    }
    return request.checkRange(size, sectorSize);
  }

  private transfer(entry: number, kind: "read" | "write", target: BlockTarget): void {
    const { request } = this;
    const wrong = this.check(kind, target);
    if (wrong !== undefined) {
      this.refuse(entry, wrong);
      return;
    }
    const offset = request.sector * SECTOR;
    const length = request.sectors * SECTOR;
    if (this.current && !this.current.takes(kind, target, offset, length, request.segments)) this.issueCurrent();
    const merged = this.current !== undefined;
    const operation = this.current ?? this.queue.take().begin(kind, target, offset);
    const unmapped = this.mapper.append(operation, request);
    if (unmapped !== undefined) {
      if (!merged) this.queue.drop(operation);
      this.refuse(entry, unmapped);
      return;
    }
    operation.addEntry(entry, length);
    this.current = operation;
    if (merged) this.options.counters.add(BlockCounter.merged);
  }

  private discard(entry: number, target: BlockTarget): void {
    const { request } = this;
    const wrong = this.check("discard", target);
    if (wrong !== undefined || request.sectors === 0) {
      this.refuse(entry, wrong ?? "a discard of nothing");
      return;
    }
    // To claim that data is gone for good when it is not would be worse than to say no.
    if (request.secure && !target.store.discard?.secure) {
      this.refuse(entry, "a secure discard", BlockStatus.eopnotsupp);
      return;
    }
    this.issueCurrent();
    const operation = this.queue.take().begin("discard", target, request.sector * SECTOR);
    operation.addEntry(entry, 0);
    operation.length = request.sectors * SECTOR;
    operation.secure = request.secure;
    this.queue.issue(operation);
  }

  private flush(entry: number, target: BlockTarget): void {
    this.issueCurrent();
    const operation = this.queue.take().begin("flush", target, 0);
    operation.addEntry(entry, 0);
    this.queue.flush(operation);
  }

  /** Checks and maps a barrier at once; it runs when everything before it is complete. */
  private barrier(entry: number, target: BlockTarget): void {
    const { request } = this;
    this.issueCurrent();
    const operation = this.queue.take().begin("write", target, request.sector * SECTOR);
    if (request.segments > 0) {
      const wrong = this.check("write", target) ?? this.mapper.append(operation, request);
      if (wrong !== undefined) {
        this.queue.drop(operation);
        this.refuse(entry, wrong);
        return;
      }
    }
    operation.addEntry(entry, request.segments > 0 ? request.sectors * SECTOR : 0);
    this.queue.barrier(operation);
  }

  private probe(entry: number, devices: LegacyDevices): void {
    const { request } = this;
    const first = request.first[0]!;
    const last = request.last[0]!;
    if (request.segments !== 1 || first > last || last > LAST_SECTOR_OF_PAGE) {
      this.refuse(entry, "a PROBE without a proper segment");
      return;
    }
    const list = encodeProbe(devices.listVbds(), (last - first + 1) * SECTOR);
    const status = list ? this.mapper.put(request.refs[0]!, first * SECTOR, list.bytes) : BlockStatus.error;
    if (!list || status < 0) this.refuse(entry, `grant ${request.refs[0]} of a PROBE: status ${status}`);
    else this.respond(entry, list.records);
  }

  private issueCurrent(): void {
    const operation = this.current;
    if (!operation) return;
    this.current = undefined;
    this.queue.issue(operation);
    if (this.queue.moved >= PUBLISH_BYTES) this.publish();
  }

  /** The store has completed something; outside service() what follows is up to us. */
  private progressed(): void {
    if (this.serving) return;
    this.publish();
    this.settleHold();
    if (!this.stalled || this.queue.held) return;
    while (this.service());
  }

  private publish(): void {
    const { inFlight, ring, counters, notify } = this.options;
    this.queue.moved = 0;
    if (inFlight.unpublished === 0) return;
    if (inFlight.publish(ring)) {
      counters.add(BlockCounter.notifications_sent);
      notify();
    } else counters.add(BlockCounter.notifications_suppressed);
  }

  private refuse(entry: number, reason: string, status: number = BlockStatus.error): void {
    this.options.counters.add(BlockCounter.refused);
    this.complain(`request refused: ${reason}`);
    this.respond(entry, status);
  }

  /** Puts a response: id and operation of the request, a status, and no byte of ours besides (XSA-216). */
  private respond(entry: number, status: number): void {
    if (this.closed) return;
    const { protocol, inFlight, ring, counters } = this.options;
    const { response } = this;
    const at = inFlight.requestWord(entry);
    const words = inFlight.words;
    response[0] = words[at + protocol.idWord]!;
    response[1] = words[at + protocol.idWord + 1]!;
    response[2] = responseOperation(protocol, words[at]!) | ((status & 0xffff) << 16);
    if (status < 0) counters.add(BlockCounter.errors);
    inFlight.answer(entry, ring, response, protocol.responseWords);
  }

  private complain(message: string): void {
    this.complaints++;
    const rare = (this.complaints & (this.complaints - 1)) === 0;
    if (this.complaints > COMPLAINTS && !rare) return;
    this.options.log(this.complaints > COMPLAINTS ? `${message} (complaint ${this.complaints})` : message);
  }
}
