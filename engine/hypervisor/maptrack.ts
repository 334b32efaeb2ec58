/**
 * What a domain has mapped of others: a table in its own control frames, so that it outlives the domain's process.
 *
 * An entry is { u16 domid, flags; u32 ref + 1; u32 frame + 1; u32 tag }, all zero when free. `frame` counts pages of the
 * granting domain's file. The tag holds the guest frame at which the page was mapped (20 bits) and, above, as much of the
 * granting domain's generation as fits: a later domain with its number is another one. Any thread of the domain takes
 * entries, by compare-and-exchange on the first word; an entry that is being changed belongs to who changes it.
 */
import { CONTROL_MAPTRACK, MAPTRACK_ENTRIES, MAPTRACK_ENTRY } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";

const CHANGING = 1 << 16;
const LIVE = 2 << 16;
const READ_ONLY = 4 << 16;
/** The page lies in the guest's physmap, at the tag's frame. */
const HOST = 8 << 16;
const STATE = CHANGING | LIVE;

const WORDS = MAPTRACK_ENTRY / 4;
const HOST_FRAME = 0xfffff;
const GENERATION_SHIFT = 20;
const GENERATION = 0xfff;

export class Maptrack {
  private readonly words: Int32Array<SharedArrayBuffer>;
  private readonly start: number;
  /** Where a free entry is likely: the last one freed. */
  private hint = 0;

  /** `mapping` is the memory of the mapping domain. */
  constructor(mapping: Mapping) {
    this.words = mapping.words;
    this.start = (mapping.base + mapping.plan.control + CONTROL_MAPTRACK) >>> 2;
  }

  private at(handle: number): number {
    return this.start + handle * WORDS;
  }

  private first(handle: number): number {
    return Number.isInteger(handle) && handle >= 0 && handle < MAPTRACK_ENTRIES
      ? Atomics.load(this.words, this.at(handle))
      : 0;
  }

  /** Takes a free entry for a grant and marks it as being changed. @returns the handle, or -1 when all are in use */
  reserve(domid: number, generation: number, ref: number, readOnly: boolean): number {
    const value = domid | CHANGING | (readOnly ? READ_ONLY : 0);
    for (let n = 0; n < MAPTRACK_ENTRIES; n++) {
      const handle = (this.hint + n) & (MAPTRACK_ENTRIES - 1);
      const at = this.at(handle);
      if (Atomics.load(this.words, at) !== 0 || Atomics.compareExchange(this.words, at, 0, value) !== 0) continue;
      this.hint = handle + 1;
      Atomics.store(this.words, at + 3, (generation & GENERATION) << GENERATION_SHIFT);
      Atomics.store(this.words, at + 1, ref + 1);
      return handle;
    }
    return -1;
  }

  /** Notes the page that is about to be pinned: page number in the granting domain's file. */
  setFrame(handle: number, frame: number): void {
    Atomics.store(this.words, this.at(handle) + 2, frame + 1);
  }

  /** The mapping is complete. */
  commit(handle: number): void {
    const at = this.at(handle);
    Atomics.store(this.words, at, (Atomics.load(this.words, at) & ~STATE) | LIVE);
  }

  /** Takes a live entry for unmapping; false for a handle that is not live, or that another thread takes. */
  begin(handle: number): boolean {
    const seen = this.first(handle);
    if ((seen & STATE) !== LIVE) return false;
    return Atomics.compareExchange(this.words, this.at(handle), seen, (seen & ~STATE) | CHANGING) === seen;
  }

  free(handle: number): void {
    const at = this.at(handle);
    // The first word last: an entry that is being changed never shows what it was used for before.
    for (let word = WORDS - 1; word >= 0; word--) Atomics.store(this.words, at + word, 0);
    this.hint = handle;
  }

  /** Notes the guest frame at which the page was put. */
  setHostFrame(handle: number, frame: number): void {
    const at = this.at(handle);
    Atomics.store(this.words, at + 3, (Atomics.load(this.words, at + 3) & ~HOST_FRAME) | frame);
    Atomics.or(this.words, at, HOST);
  }

  /** The guest frame at which the page lies, or undefined. */
  hostFrame(handle: number): number | undefined {
    return (this.first(handle) & HOST) === 0 ? undefined : Atomics.load(this.words, this.at(handle) + 3) & HOST_FRAME;
  }

  isLive(handle: number): boolean {
    return (this.first(handle) & STATE) === LIVE;
  }

  isChanging(handle: number): boolean {
    return (this.first(handle) & CHANGING) !== 0;
  }

  domid(handle: number): number {
    return this.first(handle) & 0xffff;
  }

  readOnly(handle: number): boolean {
    return (this.first(handle) & READ_ONLY) !== 0;
  }

  /** The reference, or -1 if the entry does not say yet. */
  ref(handle: number): number {
    return Atomics.load(this.words, this.at(handle) + 1) - 1;
  }

  /** The page number in the granting domain's file, or -1 if the entry does not say yet. */
  frame(handle: number): number {
    return (this.words[this.at(handle) + 2] ?? 0) - 1;
  }

  /** Whether the entry means the domain of that generation. */
  isOf(handle: number, generation: number): boolean {
    return Atomics.load(this.words, this.at(handle) + 3) >>> GENERATION_SHIFT === (generation & GENERATION);
  }
}
