/**
 * How often a domain's grants and frames are mapped: counters in its control frames, which every mapper changes from its own
 * process.
 *
 * A grant reference has one word, (writable mappings << 16) | all of them. Its top bit is a lock: counting and the grant
 * entry's reading and writing bits must change together, or one mapper's first use and another's last could leave a mapped
 * page that its owner takes for free. A RAM frame has a count of mappings in its low bits and two marks above.
 */
import { GTF_READING, GTF_WRITING } from "../abi/grant-table.ts";
import { PAGE_SIZE } from "../abi/xen.ts";
import { DirtyMarker, markWritten } from "../memory/dirty-log.ts";
import { CONTROL_GRANT_PINS } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";

/** Bit 31 of a reference's word: somebody changes it now. */
const LOCKED = 1 << 31;
/** Mappings of one reference at most, so that the counts stay clear of each other and of the lock. */
const MOST = 0x7fff;
export const ONE_READER = 1;
export const ONE_WRITER = (1 << 16) | 1;

/** Marks in a frame's word: no guest frame maps it and it may be taken; the domain's own allocator has handed it out. */
export const FRAME_FREE = 1 << 31;
export const FRAME_ALLOCATED = 1 << 30;
const FRAME_COUNT = FRAME_ALLOCATED - 1;

const SPINS = 2000;
/**
 * A lock is held for well under a microsecond; a holder that was descheduled needs milliseconds, on a host with ten times the work
 * that it can do a few hundred; a dead one for ever.
 */
const LOCK_PATIENCE_MS = 2000;
/** As LOCK_PATIENCE_MS for who puts a dead mapper's grants in order, and expects its locks. */
const RECOVERY_PATIENCE_MS = 200;

/** Word of reference 0; the others follow. */
function firstRefWord({ base, plan }: Mapping): number {
  return (base + plan.control + CONTROL_GRANT_PINS) >>> 2;
}

function firstEntryWord({ base, plan }: Mapping): number {
  return (base + plan.grantTable) >>> 2;
}

function firstFrameWord({ base, plan }: Mapping): number {
  return (base + plan.framePins) >>> 2;
}

function refWord(mapping: Mapping, ref: number): number {
  return firstRefWord(mapping) + ref;
}

/** Waits for the lock in words[at]. @returns the counts, or -1 when whoever holds it seems to be dead */
function waitForLock(words: Int32Array<SharedArrayBuffer>, at: number, patienceMs: number): number {
  const end = performance.now() + patienceMs;
  for (let spin = 0; ; spin++) {
    const counts = Atomics.load(words, at);
    if (counts >= 0 && Atomics.compareExchange(words, at, counts, counts | LOCKED) === counts) return counts;
    if (spin < SPINS) continue;
    if (performance.now() >= end) return -1;
    Atomics.wait(words, at, Atomics.load(words, at) | LOCKED, 0.1);
  }
}

/**
 * The counters and the grant table of one domain as a mapper uses them for every page: where they lie is worked out once.
 *
 * An Atomics call costs Node ten times what a plain access does. Plain is here only what a compare-and-exchange or an atomic
 * subtraction decides right afterwards, so that an old value costs another try at most, and what nobody but the holder of the
 * lock changes. A plain read is one read: the language forbids compilers to repeat it.
 */
export class PinTables {
  readonly words: Int32Array<SharedArrayBuffer>;
  private readonly refs: number;
  private readonly entries: number;
  private readonly frames: number;
  private readonly ramFrames: number;
  private readonly dirty: DirtyMarker;

  constructor(mapping: Mapping) {
    this.words = mapping.words;
    this.refs = firstRefWord(mapping);
    this.entries = firstEntryWord(mapping);
    this.frames = firstFrameWord(mapping);
    this.ramFrames = mapping.plan.ramBytes / PAGE_SIZE;
    this.dirty = new DirtyMarker(mapping);
  }

  /** Index into `words` of the first word of a grant entry (entryWord()). */
  entry(ref: number): number {
    return this.entries + ref * 2;
  }

  /** Locks a reference. @returns its counts, or -1 when whoever holds the lock seems to be dead */
  lock(ref: number, patienceMs = LOCK_PATIENCE_MS): number {
    const at = this.refs + ref;
    const counts = this.words[at]!;
    if (counts >= 0 && Atomics.compareExchange(this.words, at, counts, counts | LOCKED) === counts) return counts;
    return waitForLock(this.words, at, patienceMs);
  }

  /** Locks a reference, taking the lock from a holder that seems to be dead. @returns its counts */
  seize(ref: number, patienceMs = LOCK_PATIENCE_MS): number {
    const counts = this.lock(ref, patienceMs);
    return counts >= 0 ? counts : Atomics.load(this.words, this.refs + ref) & ~LOCKED;
  }

  /** Stores the counts and lets the next one in. */
  unlock(ref: number, counts: number): void {
    Atomics.store(this.words, this.refs + ref, counts);
  }

  /** Clears an entry's in-use bits that `counts` no longer justifies. With the reference locked. */
  clearUnused(ref: number, counts: number): void {
    const unused = (counts >>> 16 === 0 ? GTF_WRITING : 0) | ((counts & 0xffff) === 0 ? GTF_READING : 0);
    if (unused !== 0) Atomics.and(this.words, this.entry(ref), ~unused);
  }

  /** Counts a mapping of a frame. Special frames are not counted: nobody can give them away. */
  pinFrame(frame: number): void {
    if (frame < this.ramFrames) Atomics.add(this.words, this.frames + frame, 1);
  }

  unpinFrame(frame: number): void {
    if (frame >= this.ramFrames) return;
    const at = this.frames + frame;
    if ((this.words[at]! & FRAME_COUNT) !== 0) Atomics.sub(this.words, at, 1);
  }

  /** Gives back what a mapping of `ref` pinned. A page that could be written is marked so before it is unpinned. */
  release(ref: number, frame: number, readOnly: boolean): void {
    const { words } = this;
    const at = this.refs + ref;
    // lock(), clearUnused() and unlock() written out: so the compiler makes one function of an unmapping.
    const seen = words[at]!;
    const locked = seen >= 0 && Atomics.compareExchange(words, at, seen, seen | LOCKED) === seen;
    const counts = withoutOne(locked ? seen : this.seize(ref), readOnly);
    if (!readOnly && frame < this.ramFrames) this.dirty.mark(frame);
    this.unpinFrame(frame);
    if (counts >>> 16 === 0) {
      Atomics.and(words, this.entries + ref * 2, counts === 0 ? ~(GTF_READING | GTF_WRITING) : ~GTF_WRITING);
    }
    Atomics.store(words, at, counts);
  }
}

/** Locks a reference. @returns its counts, or -1 when whoever holds the lock seems to be dead */
export function lockGrant(mapping: Mapping, ref: number): number {
  return new PinTables(mapping).lock(ref);
}

/** Locks a reference for recovery, taking the lock from a holder that seems to be dead. @returns its counts */
export function seizeGrant(mapping: Mapping, ref: number): number {
  return new PinTables(mapping).seize(ref, RECOVERY_PATIENCE_MS);
}

/** Stores the counts and lets the next one in. */
export function unlockGrant(mapping: Mapping, ref: number, counts: number): void {
  new PinTables(mapping).unlock(ref, counts);
}

/** True while `counts` leaves room for another mapping. */
export function hasRoom(counts: number): boolean {
  return (counts & 0xffff) < MOST;
}

/** Counts after one mapping less; never below none. */
export function withoutOne(counts: number, readOnly: boolean): number {
  const all = Math.max(0, (counts & 0xffff) - 1);
  const writable = readOnly ? counts >>> 16 : Math.max(0, (counts >>> 16) - 1);
  return (Math.min(writable, all) << 16) | all;
}

/** Mappings of a reference: (writable << 16) | all. */
export function grantPins(mapping: Mapping, ref: number): number {
  return Atomics.load(mapping.words, refWord(mapping, ref)) & ~LOCKED;
}

/** Index into `words` of the first word of a grant entry: flags | domid << 16. The second is the frame. */
export function entryWord(mapping: Mapping, ref: number): number {
  return firstEntryWord(mapping) + ref * 2;
}

/** Clears an entry's in-use bits that `counts` no longer justifies. With the reference locked. */
export function clearUnused(mapping: Mapping, ref: number, counts: number): void {
  new PinTables(mapping).clearUnused(ref, counts);
}

function frameWord(mapping: Mapping, frame: number): number {
  return firstFrameWord(mapping) + frame;
}

function isRam(mapping: Mapping, frame: number): boolean {
  return frame * PAGE_SIZE < mapping.plan.ramBytes;
}

/** Mappings of a RAM frame by grants. */
export function framePins(mapping: Mapping, frame: number): number {
  return isRam(mapping, frame) ? Atomics.load(mapping.words, frameWord(mapping, frame)) & FRAME_COUNT : 0;
}

/** Corrects a frame's count from `before` to `count`; false if it has changed meanwhile. */
export function correctFramePins(mapping: Mapping, frame: number, before: number, count: number): boolean {
  const at = frameWord(mapping, frame);
  const seen = Atomics.load(mapping.words, at);
  if ((seen & FRAME_COUNT) !== before) return false;
  // A mapper that was killed may have written; who takes the pins away marks for it.
  if (count < before) markWritten(mapping, frame * PAGE_SIZE, PAGE_SIZE);
  return Atomics.compareExchange(mapping.words, at, seen, (seen & ~FRAME_COUNT) | count) === seen;
}

/** Marks a frame that is neither marked nor mapped. False: it is. */
export function markFrame(mapping: Mapping, frame: number, mark: number): boolean {
  return Atomics.compareExchange(mapping.words, frameWord(mapping, frame), 0, mark) === 0;
}

/** Whether a frame bears the mark. */
export function isMarked(mapping: Mapping, frame: number, mark: number): boolean {
  return (Atomics.load(mapping.words, frameWord(mapping, frame)) & mark) !== 0;
}

/** Takes the mark off. True if it was there, for one of several that try. */
export function unmarkFrame(mapping: Mapping, frame: number, mark: number): boolean {
  return (Atomics.and(mapping.words, frameWord(mapping, frame), ~mark) & mark) !== 0;
}

/** Exchanges a mark for another, whatever the frame's count; a mark of 0 is none. */
export function replaceMark(mapping: Mapping, frame: number, from: number, to: number): void {
  Atomics.or(mapping.words, frameWord(mapping, frame), to);
  if (from !== 0) Atomics.and(mapping.words, frameWord(mapping, frame), ~from);
}
