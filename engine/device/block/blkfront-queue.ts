/**
 * The data path of a block frontend: one ring and its event channel. Knows nothing of XenStore, so it runs on any thread.
 *
 * The backend is not trusted: a response must answer a request that is in flight, with its operation and a known status, or
 * the queue is broken and stays so.
 */
import type { GrantSource } from "../domain-interface.ts";
import { FrontRing } from "../ring/front.ts";
import { SharedRing } from "../ring/layout.ts";
import { type PendingRequest, splitRequest } from "./front-request.ts";
import type { PagePool } from "./page-pool.ts";
import {
  BlockOperation,
  type BlockProtocolName,
  BlockStatus,
  blockProtocol,
  DISCARD_SECURE,
  MAX_DIRECT_SEGMENTS,
} from "./protocol.ts";

/** What the two sides agreed upon. */
export interface BlkfrontFeatures {
  readonly flush: boolean;
  readonly barrier: boolean;
  readonly discard: boolean;
  readonly secureDiscard: boolean;
  readonly persistent: boolean;
  /** Most segments of an indirect request; 0: none of those. */
  readonly indirectSegments: number;
}

/** A connected device as plain data: enough to make its queues on another thread. */
export interface BlkfrontConnection {
  readonly backendId: number;
  /** Low 16 bits of the virtual-device number. */
  readonly handle: number;
  readonly protocol: BlockProtocolName;
  readonly features: BlkfrontFeatures;
  readonly rings: readonly {
    /** Byte offsets of the ring's pages. */
    readonly pages: readonly number[];
    /** Our end of the event channel. */
    readonly port: number;
  }[];
}

export interface BlkfrontQueueOptions {
  readonly connection: BlkfrontConnection;
  /** Which of the connection's rings. */
  readonly ring: number;
  readonly grants: GrantSource;
  readonly pool: PagePool;
  /** EVTCHNOP_send on the ring's port. */
  readonly notify: () => void;
  /**
   * Arranges a call of push() after the present turn, so that everything submitted in it costs one push. Left out on
   * threads without an event loop: those call push() themselves.
   */
  readonly schedule?: (push: () => void) => void;
  /** Ask for an event at every n-th response at most (and never for more than are outstanding). Default 1. */
  readonly holdOff?: number;
  /** The backend has broken the protocol. */
  readonly broken: (reason: string) => void;
}

/** Rounds of handleEvent() before it lets others run. */
const MAX_ROUNDS = 8;
/** Words of a response that mean something: id, then operation and status. */
const RESPONSE_WORDS = 3;

interface InFlight {
  readonly request: PendingRequest;
  readonly operation: number;
}

export class BlkfrontQueue {
  readonly ring: FrontRing;
  private readonly options: BlkfrontQueueOptions;
  private readonly protocol;
  private readonly maxSegments: number;
  private readonly inFlight: (InFlight | undefined)[];
  private readonly freeSlots: number[];
  /** Distinguishes successive requests of one slot: an answer to an earlier one is a forgery. */
  private readonly generations: Uint32Array;
  private readonly message: Int32Array;
  private readonly response = new Int32Array(RESPONSE_WORDS);
  /** For each slot, the page with the segments of an indirect request, and its grant. */
  private readonly indirect: ({ readonly page: number; readonly ref: number } | undefined)[];
  private waiting: PendingRequest[] = [];
  private waitingFrom = 0;
  private unpushed = false;
  private scheduled = false;
  private stopped = false;

  constructor(options: BlkfrontQueueOptions) {
    const { connection, grants } = options;
    const ring = connection.rings[options.ring];
    const protocol = blockProtocol(connection.protocol);
    if (!ring || !protocol) throw new RangeError(`ring ${options.ring} of protocol ${connection.protocol}`);
    this.options = options;
    this.protocol = protocol;
    this.ring = new FrontRing(new SharedRing(grants.memory, ring.pages, protocol.slotSize));
    const { size } = this.ring;
    this.maxSegments = Math.max(MAX_DIRECT_SEGMENTS, connection.features.indirectSegments);
    this.inFlight = new Array(size).fill(undefined);
    this.indirect = new Array(size).fill(undefined);
    this.freeSlots = Array.from({ length: size }, (_, slot) => size - 1 - slot);
    this.generations = new Uint32Array(size);
    this.message = new Int32Array(protocol.slotSize / 4);
  }

  /** Requests that have not been answered, in the ring or waiting for room in it. */
  get outstanding(): number {
    return this.ring.size - this.freeSlots.length + this.waiting.length - this.waitingFrom;
  }

  /** Puts a request into the ring, or in line for it. Not to be used after stop(). */
  submit(request: PendingRequest): void {
    for (const piece of splitRequest(request, this.maxSegments)) {
      if (this.waitingFrom < this.waiting.length || !this.put(piece)) this.waiting.push(piece);
    }
    const { schedule } = this.options;
    if (!schedule || this.scheduled) return;
    this.scheduled = true;
    schedule(() => {
      this.scheduled = false;
      this.push();
    });
  }

  /** Lets the backend see what was submitted; sends an event if it asked for one. */
  push(): void {
    if (this.stopped) return;
    this.putWaiting();
    if (!this.unpushed) return;
    this.unpushed = false;
    if (this.ring.pushRequestsAndCheckNotify()) this.options.notify();
  }

  /**
   * The backend has sent an event (or may have answered): completes requests.
   * @returns true when there is more to do: call it again, after letting others run
   */
  handleEvent(): boolean {
    const { ring, response } = this;
    for (let round = 0; round < MAX_ROUNDS; round++) {
      const count = this.stopped ? 0 : ring.unconsumedResponses();
      if (count === "broken") return this.breakDown("more responses than requests");
      for (let i = 0; i < count && !this.stopped; i++) {
        ring.copyResponse(response, 0, RESPONSE_WORDS);
        if (!this.complete()) return false;
      }
      if (this.stopped) return false;
      this.push();
      const more = ring.finalCheckForResponses(this.options.holdOff ?? 1);
      if (more === "broken") return this.breakDown("more responses than requests");
      if (!more) return false;
    }
    return true;
  }

  /**
   * Ends the use of the ring: nothing is sent or completed after this.
   * @returns what has not been answered, in order; the grants made for those requests stay in their ownRefs
   */
  stop(): PendingRequest[] {
    this.stopped = true;
    const left = this.inFlight.flatMap((entry) => (entry ? [entry.request] : []));
    left.push(...this.waiting.slice(this.waitingFrom));
    this.inFlight.fill(undefined);
    this.waiting = [];
    this.waitingFrom = 0;
    for (const page of this.indirect) if (page) this.options.pool.dispose(page.page, page.ref);
    this.indirect.fill(undefined);
    // Pieces of one request are in the order of their sectors here and there; a stable sort keeps it.
    return left.sort((a, b) => a.sequence - b.sequence || sectorOf(a) - sectorOf(b));
  }

  private breakDown(reason: string): false {
    if (!this.stopped) this.options.broken(reason);
    return false;
  }

  private putWaiting(): void {
    while (this.waitingFrom < this.waiting.length) {
      const next = this.waiting[this.waitingFrom];
      if (!next || !this.put(next)) break;
      this.waitingFrom++;
    }
    // Cleared in one go when half of it is through: shifting each would be quadratic.
    if (this.waitingFrom > 0 && this.waitingFrom * 2 >= this.waiting.length) {
      this.waiting = this.waiting.slice(this.waitingFrom);
      this.waitingFrom = 0;
    }
  }

  /** @returns false when there is no room in the ring, or no grant before others are given back */
  private put(request: PendingRequest): boolean {
    if (this.ring.free === 0) return false;
    const slot = this.freeSlots.pop();
    if (slot === undefined) return false;
    const operation = this.encode(request, slot);
    if (operation === undefined) {
      this.freeSlots.push(slot);
      // Grants come back with every completed request; when there is none to wait for, they never do.
      if (this.freeSlots.length < this.ring.size) return false;
      this.fail(request, "no-grants", "the grant table is full");
      return true;
    }
    this.inFlight[slot] = { request, operation };
    this.ring.putRequest(this.message);
    this.unpushed = true;
    return true;
  }

  private fail(request: PendingRequest, code: "no-grants", message: string): void {
    queueMicrotask(() => request.done({ code, message }));
  }

  /** Writes the message of a request. @returns its operation, or undefined when grants are lacking */
  private encode(request: PendingRequest, slot: number): number | undefined {
    const { message, protocol } = this;
    const { command } = request;
    const { handle, features } = this.options.connection;
    message.fill(0);
    const generation = ((this.generations[slot] ?? 0) + 1) >>> 0;
    this.generations[slot] = generation;
    message[protocol.idWord] = slot;
    message[protocol.idWord + 1] = generation | 0;
    if (command.operation === "flush") {
      const operation = features.flush ? BlockOperation.flush_diskcache : BlockOperation.write_barrier;
      message[0] = operation | (handle << 16);
      return operation;
    }
    message[protocol.sectorWord] = command.sector | 0;
    message[protocol.sectorWord + 1] = Math.floor(command.sector / 2 ** 32);
    if (command.operation === "discard") {
      message[0] = BlockOperation.discard | ((command.secure ? DISCARD_SECURE : 0) << 8) | (handle << 16);
      message[protocol.discardSectorsWord] = command.sectors | 0;
      message[protocol.discardSectorsWord + 1] = Math.floor(command.sectors / 2 ** 32);
      return BlockOperation.discard;
    }
    if (!this.grantSegments(request)) return undefined;
    const operation = BlockOperation[command.operation];
    const count = command.segments.length;
    if (count <= MAX_DIRECT_SEGMENTS) {
      message[0] = operation | (count << 8) | (handle << 16);
      this.writeSegments(request, message, protocol.segmentsWord);
      return operation;
    }
    const page = this.indirectPage(slot);
    if (!page) return undefined;
    message[0] = BlockOperation.indirect | (operation << 8) | (count << 16);
    // The handle stands before the references to the pages of segments.
    message[protocol.indirectGrefsWord - 1] = handle;
    message[protocol.indirectGrefsWord] = page.ref | 0;
    this.writeSegments(request, this.options.grants.memory.words, page.page / 4);
    // A response names the operation that is carried.
    return operation;
  }

  /** Grants the pages that come without a grant, unless an earlier try has. */
  private grantSegments(request: PendingRequest): boolean {
    const { command, ownRefs } = request;
    if (command.operation === "flush" || command.operation === "discard" || ownRefs.length > 0) return true;
    const { grants, connection } = this.options;
    const readOnly = command.operation !== "read" && !connection.features.persistent;
    for (const segment of command.segments) {
      if (segment.ref !== undefined) continue;
      const ref = grants.grantAccess(connection.backendId, segment.page, readOnly);
      if (ref === undefined) {
        // Nobody has seen these: they cannot be mapped.
        for (const made of ownRefs.splice(0)) grants.endAccess(made);
        return false;
      }
      ownRefs.push(ref);
    }
    return true;
  }

  private writeSegments(request: PendingRequest, words: Int32Array, at: number): void {
    const { command, ownRefs } = request;
    if (command.operation === "flush" || command.operation === "discard") return;
    let own = 0;
    let word = at;
    for (const { ref, first, last } of command.segments) {
      words[word++] = (ref ?? ownRefs[own++] ?? 0) | 0;
      words[word++] = first | (last << 8);
    }
  }

  private indirectPage(slot: number): { readonly page: number; readonly ref: number } | undefined {
    const known = this.indirect[slot];
    if (known) return known;
    const { grants, connection } = this.options;
    const page = grants.allocatePage();
    if (page === undefined) return undefined;
    const ref = grants.grantAccess(connection.backendId, page, !connection.features.persistent);
    if (ref === undefined) {
      grants.freePage(page);
      return undefined;
    }
    this.indirect[slot] = { page, ref };
    return this.indirect[slot];
  }

  /** Deals with the response in `this.response`. @returns false when it was a forgery */
  private complete(): boolean {
    const slot = (this.response[0] ?? 0) >>> 0;
    const generation = (this.response[1] ?? 0) >>> 0;
    const word = this.response[2] ?? 0;
    const entry = this.inFlight[slot];
    if (!entry || this.generations[slot] !== generation) {
      return this.breakDown("a response to a request that is not in flight");
    }
    const status = word >> 16;
    if ((word & 0xff) !== entry.operation) return this.breakDown("a response with another operation than its request");
    if (status > BlockStatus.okay || status < BlockStatus.eopnotsupp) return this.breakDown(`status ${status}`);
    this.inFlight[slot] = undefined;
    this.freeSlots.push(slot);
    const held = takeBackGrants(entry.request, this.options.grants, this.options.pool);
    const kept = held.length > 0 ? { heldPages: held } : {};
    if (status === BlockStatus.okay) {
      const failure = { code: "page-held", message: "the backend keeps pages mapped", ...kept } as const;
      entry.request.done(held.length > 0 ? failure : undefined);
    } else if (status === BlockStatus.error) {
      entry.request.done({ code: "io-error", message: "the backend reports an I/O error", ...kept });
    } else {
      entry.request.done({ code: "unsupported", message: "the backend does not support the operation", ...kept });
    }
    return true;
  }
}

function sectorOf({ command }: PendingRequest): number {
  return command.operation === "flush" ? 0 : command.sector;
}

/** Takes back the grants that were made for a request. @returns the pages that the backend keeps; the pool has them now */
export function takeBackGrants(request: PendingRequest, grants: GrantSource, pool: PagePool): number[] {
  const { command, ownRefs } = request;
  if (ownRefs.length === 0 || command.operation === "flush" || command.operation === "discard") return [];
  const held: number[] = [];
  let own = 0;
  for (const { page, ref } of command.segments) {
    if (ref !== undefined) continue;
    const made = ownRefs[own++];
    if (made === undefined || grants.endAccess(made)) continue;
    pool.hold(page, made);
    held.push(page);
  }
  request.ownRefs = [];
  return held;
}
