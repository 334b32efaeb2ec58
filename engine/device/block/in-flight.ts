/**
 * The requests of one ring that have been consumed and not yet answered, kept in memory that outlives the process, so
 * that a backend that is killed at any instruction can be followed by another one that answers each exactly once.
 *
 *   header, 64 bytes   magic, version, slots, bytes of a request, published, publishing
 *   entry × slots      state, order, answer, 0, then the copied request
 *
 * The ring alone would not do: responses overwrite request slots. The argument, window by window. A killed process's
 * stores are seen in program order, and the order is kept by Atomics where it matters.
 *
 * 1. Consuming copies the request into a free entry, notes its place in the order and then sets the state to TAKEN.
 *    Killed before that store, the request is not consumed: no response slot reaches it (responses stay behind consumed
 *    requests), so the ring still has it. Killed after, the entry has it whole. There is no saved consumer index that
 *    could disagree: it is the number of published responses plus the number of outstanding entries.
 * 2. Executing changes no state here. Killed before, during or after, the request is executed again, oldest first.
 *    Reading again fills pages that the frontend has not been given back; writing and discarding again do the same to
 *    the same sectors. A request answered meanwhile that overlaps was in flight at the same time, and then either order
 *    is right. A flush that is outstanding is done again after everything older; one that was answered had done its
 *    work before.
 * 3. The response is written to its slot, then the entry becomes ANSWERED with that slot's index. Nobody sees the slot
 *    before rsp_prod covers it, so whether or not the process died in between, the request still counts as outstanding.
 * 4. Publishing notes the new index as `publishing`, stores it to the ring's rsp_prod, and then as `published`. The
 *    store to the ring is the one moment when responses exist for the frontend. Killed before it, rsp_prod still is
 *    `published` and the answers are given again; killed after it, rsp_prod equals `publishing` and the entries
 *    answered below it are done. Any other value was written by the frontend, and counts as not published: it can only
 *    confuse itself.
 * 5. Entries are freed after that. Killed in between, an ANSWERED entry whose index is below `published` is free.
 * 6. Recovery only repeats these conclusions, so it may be killed too. Afterwards the frontend is sent an event in any
 *    case, as the one that belonged to the last publication may not have been sent.
 *
 * The memory is the backend's own: no frontend can reach it.
 */
import type { MemoryView } from "../domain-interface.ts";
import type { BackRing, BackRingIndexes } from "../ring/back.ts";

const MAGIC = 0x4c464e49;
const VERSION = 1;
const HEADER_WORDS = 16;
const ENTRY_WORDS = 4;

/** Word offsets in the header. */
const Header = { magic: 0, version: 1, slots: 2, slotSize: 3, published: 4, publishing: 5 } as const;
/** Word offsets in an entry. */
const Entry = { state: 0, order: 1, answer: 2 } as const;
const State = { free: 0, taken: 1, answered: 2 } as const;

/** The moments between two stores, for tests that kill the process there. */
export type InFlightStep =
  | "copied"
  | "taken"
  | "answered"
  | "announced"
  | "published"
  | "noted"
  | "freed"
  | "recovering";

/** Bytes of a region for a ring of `slots` slots of `slotSize` bytes. */
export function inFlightSize(slots: number, slotSize: number): number {
  return 4 * (HEADER_WORDS + slots * (ENTRY_WORDS + slotSize / 4));
}

export interface Recovered {
  readonly indexes: BackRingIndexes;
  /** Entries to execute again, oldest first. */
  readonly outstanding: readonly number[];
}

export class InFlightRegion {
  /** The memory's words; a request begins at requestWord(entry). */
  readonly words: Int32Array<SharedArrayBuffer>;
  private readonly start: number;
  private readonly slots: number;
  private readonly slotSize: number;
  private readonly entryWords: number;
  private readonly free: Int32Array;
  private freeCount = 0;
  private readonly answered: Int32Array;
  private answeredCount = 0;

  /**
   * @param address byte offset in `memory`, a multiple of 4, of inFlightSize(slots, slotSize) bytes
   * @param slots the ring's number of slots
   */
  constructor(memory: MemoryView, address: number, slots: number, slotSize: number) {
    if (address % 4 !== 0 || address + inFlightSize(slots, slotSize) > memory.bytes.length) {
      throw new RangeError(`in-flight region of ${slots} slots at ${address}`);
    }
    this.words = memory.words;
    this.start = address / 4;
    this.slots = slots;
    this.slotSize = slotSize;
    this.entryWords = ENTRY_WORDS + slotSize / 4;
    this.free = new Int32Array(slots);
    this.answered = new Int32Array(slots);
  }

  /** Free entries: requests that may be taken. */
  get room(): number {
    return this.freeCount;
  }
  /** Answers that have not been published. */
  get unpublished(): number {
    return this.answeredCount;
  }

  /** Begins a new connection at an index of its ring (0, or where an old frontend's ring stands). */
  reset(index: number): void {
    // Nothing is valid until the magic number is there again.
    this.clear();
    this.words.fill(0, this.start, this.start + HEADER_WORDS + this.slots * this.entryWords);
    this.setHeader(Header.version, VERSION);
    this.setHeader(Header.slots, this.slots);
    this.setHeader(Header.slotSize, this.slotSize);
    this.setHeader(Header.published, index);
    this.setHeader(Header.publishing, index);
    this.collectFree();
    this.setHeader(Header.magic, MAGIC);
  }

  /** Ends the connection: nothing here concerns a later one. */
  clear(): void {
    this.setHeader(Header.magic, 0);
  }

  /** Word index of an entry's request. */
  requestWord(entry: number): number {
    return this.entryAt(entry) + ENTRY_WORDS;
  }

  /** Consumes the next request of the ring into a free entry. Only while there is room. */
  take(ring: BackRing): number {
    const entry = this.free[this.freeCount - 1]!;
    const at = this.entryAt(entry);
    const order = ring.requestConsumer;
    ring.copyRequest(this.words, at + ENTRY_WORDS);
    this.step("copied");
    this.words[at + Entry.order] = order | 0;
    // The request and its order are whole before the entry counts.
    Atomics.store(this.words, at + Entry.state, State.taken);
    this.freeCount--;
    this.step("taken");
    return entry;
  }

  /** Puts a response for an entry and notes which response it is. */
  answer(entry: number, ring: BackRing, response: Int32Array, words: number): void {
    const at = this.entryAt(entry);
    this.words[at + Entry.answer] = ring.responseProducer | 0;
    ring.putResponse(response, 0, words);
    Atomics.store(this.words, at + Entry.state, State.answered);
    this.answered[this.answeredCount++] = entry;
    this.step("answered");
  }

  /** Publishes all answers and frees their entries. @returns whether the frontend wants an event */
  publish(ring: BackRing): boolean {
    const producer = ring.responseProducer;
    this.setHeader(Header.publishing, producer);
    this.step("announced");
    const notify = ring.pushResponsesAndCheckNotify();
    this.step("published");
    this.setHeader(Header.published, producer);
    this.step("noted");
    for (let i = 0; i < this.answeredCount; i++) {
      const entry = this.answered[i]!;
      Atomics.store(this.words, this.entryAt(entry) + Entry.state, State.free);
      this.free[this.freeCount++] = entry;
      this.step("freed");
    }
    this.answeredCount = 0;
    return notify;
  }

  /**
   * Finds out where the predecessor was. May be repeated.
   *
   * @param ringProducer the ring's public rsp_prod
   * @returns undefined when the region holds nothing of a ring of this shape: no request was ever consumed
   */
  recover(ringProducer: number): Recovered | undefined {
    if (this.header(Header.magic) !== MAGIC || this.header(Header.version) !== VERSION) return undefined;
    if (this.header(Header.slots) !== this.slots || this.header(Header.slotSize) !== this.slotSize) return undefined;
    const announced = this.header(Header.publishing);
    const published = announced === ringProducer >>> 0 ? announced : this.header(Header.published);
    this.setHeader(Header.published, published);
    this.step("recovering");
    const outstanding: number[] = [];
    for (let entry = 0; entry < this.slots; entry++) {
      const at = this.entryAt(entry);
      const state = Atomics.load(this.words, at + Entry.state);
      // Signed difference: indexes run freely over 32 bits.
      const done = state === State.answered && ((published - this.words[at + Entry.answer]!) | 0) > 0;
      if (state === State.free) continue;
      Atomics.store(this.words, at + Entry.state, done ? State.free : State.taken);
      this.step("recovering");
      if (!done) outstanding.push(entry);
    }
    this.setHeader(Header.publishing, published);
    this.collectFree();
    const requestConsumer = (published + outstanding.length) >>> 0;
    const age = (entry: number) => (requestConsumer - this.words[this.entryAt(entry) + Entry.order]!) >>> 0;
    outstanding.sort((a, b) => age(b) - age(a));
    return { indexes: { requestConsumer, responseProducer: published }, outstanding };
  }

  /** Called between any two stores that another process could find; does nothing. Tests override it. */
  protected step(_step: InFlightStep): void {}

  private collectFree(): void {
    this.freeCount = 0;
    this.answeredCount = 0;
    for (let entry = this.slots - 1; entry >= 0; entry--) {
      if (this.words[this.entryAt(entry) + Entry.state] === State.free) this.free[this.freeCount++] = entry;
    }
  }

  private entryAt(entry: number): number {
    return this.start + HEADER_WORDS + entry * this.entryWords;
  }
  private header(word: number): number {
    return Atomics.load(this.words, this.start + word) >>> 0;
  }
  private setHeader(word: number, value: number): void {
    Atomics.store(this.words, this.start + word, value | 0);
  }
}
