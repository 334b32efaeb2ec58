/**
 * What a backend has answered and not yet published in one ring, in memory that outlives the process: a backend that is
 * killed at any instruction can be followed by another one that goes on where it was. The ring alone would not do: a
 * response is written over a request, so half a packet answered there would be half a packet lost.
 *
 *   header, 64 bytes   magic, version, published, publishing, completed
 *   entry × slots      the response
 *
 * All indexes are the ring's own and run freely over 32 bits; entry i is the one at i modulo the number of slots.
 *
 * 1. Requests below `completed` are answered; their responses stand in the entries, and only those are ever written to the
 *    ring. What is not completed is still a request there, and a successor takes it again: a transmitted packet may go out
 *    twice, a receive buffer is filled from the beginning.
 * 2. Publishing first notes the new index as `publishing`, writes the responses into the ring, stores rsp_prod, and notes
 *    it as `published`. Killed before rsp_prod was stored, the successor writes the same responses again from the entries.
 *    Killed after it, rsp_prod equals `publishing`, and nothing is written again: the frontend may have put new requests
 *    there. Any other value was written by the frontend and counts as not published: it can only confuse itself.
 * 3. `completed` is stored at a packet's boundary only, so that no successor publishes half of one.
 *
 * The memory is the backend's own: no frontend can reach it.
 */
import type { MemoryView } from "../domain-interface.ts";
import type { BackRing } from "../ring/back.ts";

const MAGIC = 0x4c54454e;
const VERSION = 1;
const HEADER_WORDS = 16;
const Header = { magic: 0, version: 1, published: 2, publishing: 3, completed: 4 } as const;

/** The moments between two stores, for tests that kill the process there. */
export type JournalStep = "answered" | "completed" | "announced" | "written" | "published" | "noted";

/** How large a journal is. */
export interface JournalShape {
  /** Number of slots of the ring. */
  readonly slots: number;
  /** Words of a response: 1 or 2. */
  readonly responseWords: number;
}

/** Bytes of a journal. */
export function journalSize({ slots, responseWords }: JournalShape): number {
  return 4 * (HEADER_WORDS + slots * responseWords);
}

export class SlotJournal {
  private readonly words: Int32Array<SharedArrayBuffer>;
  private readonly start: number;
  private readonly shape: JournalShape;
  /** Index behind the last answer, completed or not. */
  private answered = 0;

  /** @param address byte offset in `memory`, a multiple of 4, of journalSize() bytes */
  constructor(memory: MemoryView, address: number, shape: JournalShape) {
    if (address % 4 !== 0 || address + journalSize(shape) > memory.bytes.length) {
      throw new RangeError(`journal of ${shape.slots} slots at ${address}`);
    }
    this.words = memory.words;
    this.start = address / 4;
    this.shape = shape;
  }

  private header(word: number): number {
    return Atomics.load(this.words, this.start + word) >>> 0;
  }
  private setHeader(word: number, value: number): void {
    Atomics.store(this.words, this.start + word, value | 0);
  }
  private entry(index: number): number {
    const { slots, responseWords } = this.shape;
    return this.start + HEADER_WORDS + (index & (slots - 1)) * responseWords;
  }

  /** Answers that have been given and not published. */
  unpublished(ring: BackRing): number {
    return (this.answered - ring.responseProducer) >>> 0;
  }

  /** Begins a new connection at an index of its ring. */
  reset(index: number): void {
    this.setHeader(Header.magic, 0);
    this.setHeader(Header.version, VERSION);
    for (const word of [Header.published, Header.publishing, Header.completed]) this.setHeader(word, index);
    this.answered = index >>> 0;
    this.setHeader(Header.magic, MAGIC);
  }

  /** Ends the connection: nothing here concerns a later one. */
  clear(): void {
    this.setHeader(Header.magic, 0);
  }

  /**
   * Goes on where a predecessor was: sets the ring's indexes, with its answers still to be published.
   *
   * @returns false when there was no predecessor: reset() is right then
   */
  recover(ring: BackRing): boolean {
    if (this.header(Header.magic) !== MAGIC || this.header(Header.version) !== VERSION) return false;
    const announced = this.header(Header.publishing);
    const published = announced === ring.publishedResponses() ? announced : this.header(Header.published);
    const completed = this.header(Header.completed);
    this.setHeader(Header.publishing, published);
    this.setHeader(Header.published, published);
    ring.restore({ requestConsumer: completed, responseProducer: published });
    this.answered = completed;
    return true;
  }

  /** Answers the oldest request that has no answer: one or two words. */
  answer(first: number, second = 0): void {
    const at = this.entry(this.answered);
    this.words[at] = first;
    if (this.shape.responseWords > 1) this.words[at + 1] = second;
    this.answered = (this.answered + 1) >>> 0;
    this.step("answered");
  }

  /** All answers given so far are to reach the frontend, even if this process dies now. */
  complete(): void {
    this.setHeader(Header.completed, this.answered);
    this.step("completed");
  }

  /** Completes and publishes all answers. @returns whether the frontend wants an event */
  publish(ring: BackRing): boolean {
    this.complete();
    this.setHeader(Header.publishing, this.answered);
    this.step("announced");
    while (ring.responseProducer !== this.answered) {
      ring.putResponse(this.words, this.entry(ring.responseProducer), this.shape.responseWords);
      this.step("written");
    }
    const notify = ring.pushResponsesAndCheckNotify();
    this.step("published");
    this.setHeader(Header.published, this.answered);
    this.step("noted");
    return notify;
  }

  /** Called between any two stores that another process could find; does nothing. Tests override it. */
  protected step(_step: JournalStep): void {}
}
