/**
 * A frontend for the message set of Xen 1.x and 2.0 (legacy-protocol.ts): one ring, through which all disks of the domain are
 * reached, and PROBE to find out which there are.
 */
import { Errno } from "../../abi/errors.ts";
import { type EventPort, eventPort } from "../../memory/types.ts";
import type { EventChannelPort, GrantSource } from "../domain-interface.ts";
import { FrontRing } from "../ring/front.ts";
import { SharedRing } from "../ring/layout.ts";
import { frontendStep, XenbusState, xenbusStateName } from "../xenbus/state.ts";
import type { XenbusStore } from "../xenbus/store-access.ts";
import { type OtherEnd, XenbusDevice } from "../xenbus/xenbus.ts";
import type { BlockSegment } from "./front-request.ts";
import { allocateRings, type FrontRingSetup, releaseRings, ringNodes } from "./front-rings.ts";
import { decodeProbe, LegacyOperation, type LegacyVbd } from "./legacy-protocol.ts";
import { PagePool } from "./page-pool.ts";
import { BlockStatus, LAST_SECTOR_OF_PAGE, LEGACY_PROTOCOL, MAX_DIRECT_SEGMENTS } from "./protocol.ts";

export interface LegacyFrontOptions {
  readonly store: XenbusStore;
  /** The device through whose directory the ring is set up. */
  readonly vdev: number;
  readonly grants: GrantSource;
  readonly events: EventChannelPort;
  /** Calls `handler` for every event on the port, until the returned function is called. */
  readonly listen: (port: EventPort, handler: () => void) => () => void;
  readonly log: (message: string) => void;
}

interface LegacyRequest {
  readonly operation: number;
  readonly device: number;
  readonly sector: number;
  readonly segments: readonly BlockSegment[];
  readonly resolve: (status: number) => void;
  readonly reject: (error: Error) => void;
  refs: number[];
}

const PAGE_SIZE = 4096;
const RESPONSE_WORDS = 3;

export class LegacyFront {
  private readonly options: LegacyFrontOptions;
  private readonly xenbus: XenbusDevice;
  private readonly pool: PagePool;
  private backend: OtherEnd | undefined;
  private rings: FrontRingSetup[] = [];
  private ring: FrontRing | undefined;
  private unlisten: () => void = () => undefined;
  private readonly inFlight = new Map<number, LegacyRequest>();
  private readonly waiting: LegacyRequest[] = [];
  private nextId = 1;
  private ended: Error | undefined;
  private connected: { readonly resolve: () => void; readonly reject: (error: Error) => void } | undefined;

  constructor(options: LegacyFrontOptions) {
    this.options = options;
    this.pool = new PagePool(options.grants, 0);
    this.xenbus = new XenbusDevice({
      store: options.store,
      directory: `device/vbd/${options.vdev}`,
      evaluate: () => this.evaluate(),
      log: options.log,
    });
  }

  /** Connects; rejected when the device ends before. */
  async connect(): Promise<void> {
    const connection = new Promise<void>((resolve, reject) => {
      this.connected = { resolve, reject };
    });
    await this.xenbus.watch(this.xenbus.directory);
    this.xenbus.changed();
    await connection;
  }

  /** PROBE: the domain's disks. */
  async probe(): Promise<LegacyVbd[]> {
    const { grants } = this.options;
    const page = grants.allocatePage();
    if (page === undefined) throw new Error("no memory for the list of disks");
    const segment = { page, first: 0, last: LAST_SECTOR_OF_PAGE };
    const status = await this.request(LegacyOperation.probe, 0, 0, [segment]);
    // The backend may go on writing for all we know: the copy is what counts.
    const list = decodeProbe(grants.memory.bytes.slice(page, page + PAGE_SIZE));
    grants.freePage(page);
    if (status < 0) throw new Error("the backend cannot list the disks");
    return list.slice(0, status);
  }

  /** Reads from a disk into at most 11 segments of one's own pages. */
  async read(device: number, sector: number, segments: readonly BlockSegment[]): Promise<void> {
    await this.transfer(LegacyOperation.read, device, sector, segments);
  }

  /** Writes to a disk from at most 11 segments of one's own pages. */
  async write(device: number, sector: number, segments: readonly BlockSegment[]): Promise<void> {
    await this.transfer(LegacyOperation.write, device, sector, segments);
  }

  /** Disconnects for good; requests without an answer fail. */
  async close(): Promise<void> {
    const own = await this.xenbus.state();
    this.end(new Error("the device is closed"));
    if (own !== XenbusState.Unknown) await this.xenbus.switchState(own, XenbusState.Closed);
    await this.xenbus.close();
  }

  /** Looks again for pages that the backend held. @returns how many are left */
  reclaim(): number {
    this.pool.reclaim();
    return this.pool.heldPages;
  }

  private async transfer(operation: number, device: number, sector: number, segments: readonly BlockSegment[]) {
    const status = await this.request(operation, device, sector, segments);
    if (status !== BlockStatus.okay) throw new Error("the backend reports an I/O error");
  }

  private request(
    operation: number,
    device: number,
    sector: number,
    segments: readonly BlockSegment[],
  ): Promise<number> {
    if (segments.length > MAX_DIRECT_SEGMENTS) throw new RangeError(`${segments.length} segments`);
    return new Promise((resolve, reject) => {
      if (this.ended) return reject(this.ended);
      this.waiting.push({ operation, device, sector, segments, resolve, reject, refs: [] });
      this.push();
    });
  }

  private push(): void {
    const { ring } = this;
    if (!ring) return;
    let put = false;
    for (let next = this.waiting[0]; next && ring.free > 0; next = this.waiting[0]) {
      this.waiting.shift();
      const message = this.encode(next);
      if (!message) {
        next.reject(new Error("the grant table is full"));
        continue;
      }
      ring.putRequest(message);
      put = true;
    }
    const port = this.rings[0]?.port;
    if (put && port !== undefined && ring.pushRequestsAndCheckNotify()) this.options.events.notify(port);
  }

  private encode(request: LegacyRequest): Int32Array | undefined {
    const { grants } = this.options;
    const message = new Int32Array(LEGACY_PROTOCOL.slotSize / 4);
    const id = this.nextId;
    this.nextId = (this.nextId % 0x7fff_ffff) + 1;
    message[0] = request.operation | (request.segments.length << 8) | (request.device << 16);
    message[LEGACY_PROTOCOL.idWord] = id;
    message[LEGACY_PROTOCOL.sectorWord] = request.sector | 0;
    message[LEGACY_PROTOCOL.sectorWord + 1] = Math.floor(request.sector / 2 ** 32);
    let word = LEGACY_PROTOCOL.segmentsWord;
    for (const { page, first, last } of request.segments) {
      const ref = grants.grantAccess(this.backend?.id ?? 0, page, request.operation === LegacyOperation.write);
      if (ref === undefined) {
        for (const made of request.refs) grants.endAccess(made);
        return undefined;
      }
      request.refs.push(ref);
      message[word++] = ref | 0;
      message[word++] = first | (last << 8);
    }
    this.inFlight.set(id, request);
    return message;
  }

  private handleEvent(): void {
    const problem = this.takeResponses();
    if (problem === undefined) this.push();
    else this.broken(problem);
  }

  /** @returns what the backend did that it must not do, if anything */
  private takeResponses(): string | undefined {
    const { ring } = this;
    if (!ring) return undefined;
    const response = new Int32Array(RESPONSE_WORDS);
    let more: boolean | "broken" = true;
    while (more === true) {
      const count = ring.unconsumedResponses();
      if (count === "broken") return "more responses than requests";
      for (let i = 0; i < count; i++) {
        ring.copyResponse(response, 0, RESPONSE_WORDS);
        const [id = 0, , word = 0] = response;
        const request = this.inFlight.get(id);
        if (!request || (word & 0xff) !== request.operation) return "a response to no request";
        this.inFlight.delete(id);
        this.complete(request, word >> 16);
      }
      more = ring.finalCheckForResponses();
    }
    return more === "broken" ? "more responses than requests" : undefined;
  }

  private complete(request: LegacyRequest, status: number): void {
    const held = request.refs.filter((ref) => !this.options.grants.endAccess(ref));
    if (held.length === 0) {
      request.resolve(status);
      return;
    }
    request.segments.forEach(({ page }, index) => {
      const ref = request.refs[index] ?? 0;
      if (held.includes(ref)) this.pool.hold(page, ref);
    });
    request.reject(new Error("the backend keeps pages mapped; they are not to be used again"));
  }

  private broken(reason: string): void {
    this.options.log(`device/vbd/${this.options.vdev}: the backend broke the protocol: ${reason}`);
    this.end(new Error(`the backend broke the protocol: ${reason}`));
    this.xenbus.changed();
  }

  private async evaluate(): Promise<void> {
    const own = await this.xenbus.state();
    if (own === XenbusState.Unknown) return this.end(new Error("the device was removed"));
    if (this.ended) {
      if (own !== XenbusState.Closed) await this.xenbus.switchState(own, XenbusState.Closed);
      return;
    }
    if (!this.backend) {
      this.backend = await this.xenbus.otherEnd("backend");
      if (!this.backend) return this.end(new Error("the device names no backend"));
      await this.xenbus.watch(`${this.backend.directory}/state`);
    }
    const peer = await this.xenbus.peerState(this.backend);
    const step = frontendStep(own, peer);
    if (step === "negotiate") return await this.negotiate(own, this.backend);
    if (step === "connect") return await this.start(own);
    if (step === "wait" || step === "refresh") return;
    if (step === "illegal") await this.xenbus.error(Errno.EINVAL, `saw state ${xenbusStateName(peer)} at the backend`);
    this.end(new Error("the backend has closed the device"));
    if (own !== XenbusState.Closed) await this.xenbus.switchState(own, XenbusState.Closed);
  }

  private async negotiate(own: XenbusState, backend: OtherEnd): Promise<void> {
    const { grants, events } = this.options;
    releaseRings(this.rings.splice(0), { events, pool: this.pool });
    const { slotSize } = LEGACY_PROTOCOL;
    const pool = this.pool;
    const rings = allocateRings({
      grants,
      events,
      pool,
      backendId: backend.id,
      slotSize,
      ringPageOrder: 0,
      queues: 1,
    });
    if (typeof rings === "string") return this.end(new Error(rings));
    this.rings = rings;
    const nodes = { ...ringNodes(rings, 0), protocol: LEGACY_PROTOCOL.name };
    await this.xenbus.switchState(own, XenbusState.Initialised, nodes);
    this.xenbus.changed();
  }

  private async start(own: XenbusState): Promise<void> {
    const setup = this.rings[0];
    if (!setup || !(await this.xenbus.switchState(own, XenbusState.Connected))) return this.xenbus.changed();
    const pages = setup.pages.map(({ page }) => page);
    this.ring = new FrontRing(new SharedRing(this.options.grants.memory, pages, LEGACY_PROTOCOL.slotSize));
    this.unlisten = this.options.listen(eventPort(setup.port), () => this.handleEvent());
    this.connected?.resolve();
    this.push();
  }

  private end(error: Error): void {
    if (this.ended) return;
    this.ended = error;
    this.unlisten();
    this.ring = undefined;
    for (const request of [...this.inFlight.values(), ...this.waiting.splice(0)]) {
      request.segments.forEach(({ page }, index) => {
        const ref = request.refs[index];
        if (ref !== undefined && !this.options.grants.endAccess(ref)) this.pool.hold(page, ref);
      });
      request.reject(error);
    }
    this.inFlight.clear();
    releaseRings(this.rings.splice(0), { events: this.options.events, pool: this.pool });
    this.connected?.reject(error);
  }
}
