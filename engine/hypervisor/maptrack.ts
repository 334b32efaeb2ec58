/**
 * What a domain has mapped of others: a table in its own control frames, so that it outlives the domain's process.
 *
 * An entry is { u16 domid, flags; u32 ref + 1; u32 frame + 1; u32 tag }, all zero when free. `frame` counts pages of the
 * granting domain's file. The tag holds the guest frame at which the page was mapped (20 bits) and, above, as much of the
 * granting domain's generation as fits: a later domain with its number is another one. Any thread of the domain takes
 * entries, by compare-and-exchange on the first word; an entry that is being changed belongs to who changes it.
 *
 * The other words are written plainly by the entry's owner: an Atomics call costs Node ten times what a plain access does.
 * Nobody looks at them too early. They are in place before the owner's next atomic operation, and it is by one of these that
 * others learn there is something to see: the first word that says "live" or "free", the lock of the reference, the frame's
 * count (recovery counts with the lock held, or between two looks at the count). Whoever is killed has written what came
 * before and nothing of what came after; recovery takes an entry with any of its words missing.
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
/** Words of an entry behind the first: the reference and the frame, each plus one, and the tag. */
export const REF = 1;
export const FRAME = 2;
export const TAG = 3;
const HOST_FRAME = 0xfffff;
const GENERATION_SHIFT = 20;
const GENERATION = 0xfff;

/** What an entry's tag holds of a domain's generation. */
export function generationTag(generation: number): number {
  return (generation & GENERATION) << GENERATION_SHIFT;
}

/** The same, out of an entry's tag. */
export function tagOf(word: number): number {
  return word & ~HOST_FRAME;
}

/** The granting domain's number in an entry's first word. */
export function domidOf(first: number): number {
  return first & 0xffff;
}

/** Whether an entry's first word stands for a mapping for reading only. */
export function isReadOnly(first: number): boolean {
  return (first & READ_ONLY) !== 0;
}

function isHandle(handle: number): boolean {
  return handle >>> 0 === handle && handle < MAPTRACK_ENTRIES;
}

export class Maptrack {
  readonly words: Int32Array<SharedArrayBuffer>;
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
    return isHandle(handle) ? Atomics.load(this.words, this.at(handle)) : 0;
  }

  /** Takes a free entry for a grant and marks it as being changed. @returns the handle, or -1 when all are in use */
  reserve(domid: number, tag: number, ref: number, readOnly: boolean): number {
    const { words, start, hint } = this;
    const value = domid | CHANGING | (readOnly ? READ_ONLY : 0);
    for (let n = 0; n < MAPTRACK_ENTRIES; n++) {
      const handle = (hint + n) & (MAPTRACK_ENTRIES - 1);
      const at = start + handle * WORDS;
      // A plain look to pass by those in use; the exchange decides.
      if (words[at] !== 0 || Atomics.compareExchange(words, at, 0, value) !== 0) continue;
      this.hint = handle + 1;
      words[at + TAG] = tag;
      words[at + REF] = ref + 1;
      return handle;
    }
    return -1;
  }

  /** Notes the page that is about to be pinned: page number in the granting domain's file. */
  setFrame(handle: number, frame: number): void {
    this.words[this.at(handle) + FRAME] = frame + 1;
  }

  /** The mapping is complete. */
  commit(handle: number): void {
    const at = this.at(handle);
    this.words[at] = (this.words[at]! & ~STATE) | LIVE;
  }

  /**
   * Takes a live entry for unmapping.
   * @returns index of its first word in `words`; -1 for a handle that is not live, or that another thread takes
   */
  begin(handle: number): number {
    if (!isHandle(handle)) return -1;
    const { words } = this;
    const at = this.at(handle);
    const seen = words[at]!;
    if ((seen & STATE) !== LIVE) return -1;
    return Atomics.compareExchange(words, at, seen, (seen & ~STATE) | CHANGING) === seen ? at : -1;
  }

  free(handle: number): void {
    const { words } = this;
    const at = this.at(handle);
    // The first word last: an entry that is being changed never shows what it was used for before.
    words[at + TAG] = 0;
    words[at + FRAME] = 0;
    words[at + REF] = 0;
    Atomics.store(words, at, 0);
    this.hint = handle;
  }

  /** Notes the guest frame at which the page was put. */
  setHostFrame(handle: number, frame: number): void {
    const at = this.at(handle);
    Atomics.store(this.words, at + TAG, (Atomics.load(this.words, at + TAG) & ~HOST_FRAME) | frame);
    Atomics.or(this.words, at, HOST);
  }

  /** The guest frame at which the page lies, or undefined. */
  hostFrame(handle: number): number | undefined {
    return (this.first(handle) & HOST) === 0 ? undefined : Atomics.load(this.words, this.at(handle) + TAG) & HOST_FRAME;
  }

  isLive(handle: number): boolean {
    return (this.first(handle) & STATE) === LIVE;
  }

  isChanging(handle: number): boolean {
    return (this.first(handle) & CHANGING) !== 0;
  }

  domid(handle: number): number {
    return domidOf(this.first(handle));
  }

  readOnly(handle: number): boolean {
    return isReadOnly(this.first(handle));
  }

  /** The reference, or -1 if the entry does not say yet. */
  ref(handle: number): number {
    return (this.words[this.at(handle) + REF] ?? 0) - 1;
  }

  /** The page number in the granting domain's file, or -1 if the entry does not say yet. */
  frame(handle: number): number {
    return (this.words[this.at(handle) + FRAME] ?? 0) - 1;
  }

  /** Whether the entry means the domain of that generation. */
  isOf(handle: number, generation: number): boolean {
    return this.tag(handle) === generationTag(generation);
  }

  /** generationTag() of the domain that the entry means. */
  tag(handle: number): number {
    return tagOf(this.words[this.at(handle) + TAG]!);
  }
}
