/**
 * A block frontend without manners: it makes a ring as the protocol wants it, and then puts into ring, grant table and
 * XenStore whatever it is told to.
 */
import { BlockOperation, X86_64_PROTOCOL } from "../../../engine/device/block/protocol.ts";
import { FrontRing } from "../../../engine/device/ring/front.ts";
import { initialiseSharedRing, SharedRing } from "../../../engine/device/ring/layout.ts";
import { XenbusState } from "../../../engine/device/xenbus/state.ts";
import type { TypescriptDomain } from "../../../engine/domain/typescript/kernel.ts";
import { eventPort } from "../../../engine/memory/types.ts";

const RESPONSE_WORDS = 3;
/** Far longer than any answer takes. */
const PATIENCE_MS = 15_000;

export interface RawSegment {
  readonly ref: number;
  readonly first: number;
  readonly last: number;
}

export interface RawRequest {
  readonly operation: number;
  /** nr_segments, whatever there is in `segments`. */
  readonly count?: number;
  readonly sector?: number;
  readonly segments?: readonly RawSegment[];
}

/** The words of a request; segments beyond the slot's are left out. */
export function requestWords(request: RawRequest, id = 0): Int32Array {
  const { operation, segments = [], count = segments.length, sector = 0 } = request;
  const words = new Int32Array(X86_64_PROTOCOL.slotSize / 4);
  words[0] = operation | (count << 8);
  words[X86_64_PROTOCOL.idWord] = id;
  words[X86_64_PROTOCOL.sectorWord] = sector | 0;
  words[X86_64_PROTOCOL.sectorWord + 1] = Math.floor(sector / 2 ** 32);
  for (const [i, { ref, first, last }] of segments.entries()) {
    const at = X86_64_PROTOCOL.segmentsWord + 2 * i;
    if (at + 1 >= words.length) break;
    words[at] = ref | 0;
    words[at + 1] = first | (last << 8);
  }
  return words;
}

/** The words of an indirect request. */
export function indirectWords(options: {
  readonly carried: number;
  readonly count: number;
  readonly refs: readonly number[];
  readonly sector?: number;
}): Int32Array {
  const { carried, count, refs, sector = 0 } = options;
  const words = new Int32Array(X86_64_PROTOCOL.slotSize / 4);
  words[0] = BlockOperation.indirect | (carried << 8) | (count << 16);
  words[X86_64_PROTOCOL.sectorWord] = sector;
  for (const [i, ref] of refs.entries()) words[X86_64_PROTOCOL.indirectGrefsWord + i] = ref | 0;
  return words;
}

export class RawFront {
  readonly domain: TypescriptDomain;
  readonly directory: string;
  backendId = 0;
  port = 0;
  ring: FrontRing;
  ringRef = 0;
  /** Status of each response so far, in order. */
  readonly statuses: number[] = [];
  private readonly page: number;
  private backend = "";
  private readonly response = new Int32Array(RESPONSE_WORDS);
  private looks: (() => void)[] = [];
  private state: number = XenbusState.Unknown;

  private constructor(domain: TypescriptDomain, vdev: number) {
    this.domain = domain;
    this.directory = `device/vbd/${vdev}`;
    this.page = domain.grants.allocatePage() ?? Number.NaN;
    this.ring = this.freshRing();
  }

  static async open(domain: TypescriptDomain, vdev: number): Promise<RawFront> {
    const front = new RawFront(domain, vdev);
    const { store } = domain;
    front.backendId = Number(await store.read(`${front.directory}/backend-id`));
    front.backend = (await store.read(`${front.directory}/backend`)) ?? "";
    await store.watch(`${front.backend}/state`, async () => {
      front.state = Number((await store.read(`${front.backend}/state`)) ?? 0);
      front.look();
    });
    return front;
  }

  private freshRing(): FrontRing {
    const shared = new SharedRing(this.domain.grants.memory, [this.page], X86_64_PROTOCOL.slotSize);
    initialiseSharedRing(shared);
    return new FrontRing(shared);
  }

  private look(): void {
    for (const look of this.looks) look();
  }

  /** Fulfilled when `test` is true; looks whenever anything has come. @throws Error after a long while */
  async until(what: string, test: () => boolean): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        timer = setTimeout(
          () => reject(new Error(`in vain: ${what}; the backend's state is ${this.state}`)),
          PATIENCE_MS,
        );
        const look = () => {
          if (test()) resolve();
        };
        this.looks.push(look);
        look();
      });
    } finally {
      clearTimeout(timer);
      this.looks = [];
    }
  }

  backendIs(...states: number[]): Promise<void> {
    return this.until(`state ${states}`, () => states.includes(this.state));
  }

  setState(state: number): Promise<void> {
    return this.domain.store.write(`${this.directory}/state`, String(state));
  }

  /** Makes ring and port anew and says so. @param nodes instead of what would be right */
  async publish(nodes: Readonly<Record<string, string>> = {}): Promise<void> {
    const { domain } = this;
    const { store } = domain;
    await this.setState(XenbusState.Initialising);
    await this.backendIs(XenbusState.InitWait);
    this.ring = this.freshRing();
    this.statuses.length = 0;
    this.ringRef = domain.grants.grantAccess(this.backendId, this.page, false) ?? 0;
    this.port = domain.events.allocUnbound(this.backendId);
    const right = { "ring-ref": String(this.ringRef), "event-channel": String(this.port), protocol: "x86_64-abi" };
    for (const [key, value] of Object.entries({ ...right, ...nodes })) {
      await store.write(`${this.directory}/${key}`, value);
    }
    await this.setState(XenbusState.Initialised);
  }

  /** publish(), until requests are served. */
  async connect(): Promise<void> {
    await this.publish();
    await this.backendIs(XenbusState.Connected);
    this.domain.onEvent(this.port, () => this.collect());
    await this.setState(XenbusState.Connected);
  }

  /** Gives everything up. @returns whether the backend has let go of the ring */
  async disconnect(): Promise<boolean> {
    await this.setState(XenbusState.Closing);
    await this.setState(XenbusState.Closed);
    await this.backendIs(XenbusState.Closed);
    this.turnAway();
    this.domain.events.close(eventPort(this.port));
    return this.domain.grants.endAccess(this.ringRef);
  }

  /** Pays no attention to answers any more. */
  turnAway(): void {
    this.domain.offEvent(this.port);
  }

  private collect(): void {
    const { ring } = this;
    do {
      const count = ring.unconsumedResponses();
      if (count === "broken") throw new Error("more responses than requests");
      for (let i = 0; i < count; i++) {
        ring.copyResponse(this.response, 0, RESPONSE_WORDS);
        this.statuses.push((this.response[2] ?? 0) >> 16);
      }
    } while (ring.finalCheckForResponses() === true);
    this.look();
  }

  notify(): void {
    this.domain.events.notify(eventPort(this.port));
  }

  /** Pushes requests without waiting for answers. */
  push(requests: readonly Int32Array[]): void {
    for (const words of requests) if (!this.ring.putRequest(words)) throw new Error("the ring is full");
    if (this.ring.pushRequestsAndCheckNotify()) this.notify();
  }

  /** Pushes requests, as many at a time as there is room for. @returns the statuses of the answers, in their order */
  async answers(requests: readonly Int32Array[]): Promise<number[]> {
    const from = this.statuses.length;
    for (let next = 0; next < requests.length; ) {
      await this.until("room in the ring", () => this.ring.free > 0);
      const batch = requests.slice(next, next + this.ring.free);
      next += batch.length;
      this.push(batch);
    }
    await this.until("all answers", () => this.statuses.length === from + requests.length);
    return this.statuses.slice(from);
  }

  /** A page of one's own that is granted to the backend. */
  grant(readOnly = false, to = this.backendId): { readonly page: number; readonly ref: number } {
    const { grants } = this.domain;
    const page = grants.allocatePage();
    const ref = page === undefined ? undefined : grants.grantAccess(to, page, readOnly);
    if (page === undefined || ref === undefined) throw new Error("no page to grant");
    return { page, ref };
  }
}
