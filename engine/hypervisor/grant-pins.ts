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
/** A lock is held for well under a microsecond; a holder that was descheduled needs milliseconds, a dead one for ever. */
const LOCK_PATIENCE_MS = 200;

function refWord(mapping: Mapping, ref: number): number {
  return ((mapping.base + mapping.plan.control + CONTROL_GRANT_PINS) >>> 2) + ref;
}

function tryLock(words: Int32Array<SharedArrayBuffer>, at: number): number {
  const counts = Atomics.load(words, at);
  return counts >= 0 && Atomics.compareExchange(words, at, counts, counts | LOCKED) === counts ? counts : -1;
}

/** Locks a reference. @returns its counts, or -1 when whoever holds the lock seems to be dead */
export function lockGrant(mapping: Mapping, ref: number): number {
  const at = refWord(mapping, ref);
  for (let spin = 0; spin < SPINS; spin++) {
    const counts = tryLock(mapping.words, at);
    if (counts >= 0) return counts;
  }
  const end = performance.now() + LOCK_PATIENCE_MS;
  while (performance.now() < end) {
    const counts = tryLock(mapping.words, at);
    if (counts >= 0) return counts;
    Atomics.wait(mapping.words, at, Atomics.load(mapping.words, at) | LOCKED, 0.1);
  }
  return -1;
}

/** Locks a reference, taking the lock from a holder that seems to be dead. @returns its counts */
export function seizeGrant(mapping: Mapping, ref: number): number {
  const counts = lockGrant(mapping, ref);
  return counts >= 0 ? counts : Atomics.load(mapping.words, refWord(mapping, ref)) & ~LOCKED;
}

/** Stores the counts and lets the next one in. */
export function unlockGrant(mapping: Mapping, ref: number, counts: number): void {
  Atomics.store(mapping.words, refWord(mapping, ref), counts);
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
  return ((mapping.base + mapping.plan.grantTable) >>> 2) + ref * 2;
}

/** Clears an entry's in-use bits that `counts` no longer justifies. With the reference locked. */
export function clearUnused(mapping: Mapping, ref: number, counts: number): void {
  const unused = (counts >>> 16 === 0 ? GTF_WRITING : 0) | ((counts & 0xffff) === 0 ? GTF_READING : 0);
  if (unused !== 0) Atomics.and(mapping.words, entryWord(mapping, ref), ~unused);
}

function frameWord(mapping: Mapping, frame: number): number {
  return ((mapping.base + mapping.plan.framePins) >>> 2) + frame;
}

/** Special frames are not counted: nobody can give them away. */
function isRam(mapping: Mapping, frame: number): boolean {
  return frame * PAGE_SIZE < mapping.plan.ramBytes;
}

export function pinFrame(mapping: Mapping, frame: number): void {
  if (isRam(mapping, frame)) Atomics.add(mapping.words, frameWord(mapping, frame), 1);
}

export function unpinFrame(mapping: Mapping, frame: number): void {
  if (!isRam(mapping, frame)) return;
  const at = frameWord(mapping, frame);
  if ((Atomics.load(mapping.words, at) & FRAME_COUNT) !== 0) Atomics.sub(mapping.words, at, 1);
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
