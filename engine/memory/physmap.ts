/**
 * Guest frame → address in the vCPU's linear memory: the table that the CPU's software TLB is filled from. It lies in the
 * shared file, so that whoever maps a grant finds the frame behind it (readPhysmap).
 */
import { PAGE_SHIFT, PAGE_SIZE } from "../abi/xen.ts";
import {
  CONSOLE_GFN,
  CONTROL_PHYSMAP_BASE,
  PHYSMAP_ENTRIES,
  SPECIAL_GFN,
  SPECIAL_GFNS,
  WASM_PAGE,
  XENSTORE_GFN,
} from "./frame-plan.ts";
import type { Mapping } from "./guest-memory.ts";
import { type FileOffset, fileOffset, type Gfn, gfn } from "./types.ts";

/** Bit 0 of an entry: the guest may not write the frame. */
const READ_ONLY = 1;
/** An entry that is no address: the device page. */
const DEVICE = 2;
/** Bit 2: what lies there may be on its way still (arrival.ts). Only the vCPU's thread clears it. */
const LATER = 4;
const FLAGS = READ_ONLY | LATER;

export interface PhysmapEntry {
  /** From plan.length on: a page of another domain, in the window of the vCPU's memory. */
  readonly offset: FileOffset;
  readonly readOnly: boolean;
}

function decode(entry: number, base: number): PhysmapEntry | undefined {
  if (entry === 0 || entry === DEVICE) return undefined;
  const readOnly = (entry & READ_ONLY) !== 0;
  return { offset: fileOffset(((entry & ~FLAGS) >>> 0) - base), readOnly };
}

/**
 * What lies at a guest frame of a domain, as its vCPUs have it; undefined for nothing. For other threads and processes. It says
 * where, not whether the contents are there already: see Arrivals.
 */
export function readPhysmap(mapping: Mapping, frame: number): PhysmapEntry | undefined {
  if (!Number.isInteger(frame) || frame < 0 || frame >= PHYSMAP_ENTRIES) return undefined;
  const { words, base, plan } = mapping;
  const entry = Atomics.load(words, ((base + plan.physmap) >>> 2) + frame) >>> 0;
  return decode(entry, Atomics.load(words, (base + plan.control + CONTROL_PHYSMAP_BASE) >>> 2) >>> 0);
}

/**
 * readPhysmap for the fast paths: the file offset of what lies at a guest frame, -1 for nothing. A frame the guest may only
 * read counts as nothing for who wants to write.
 */
export function physmapOffset(mapping: Mapping, frame: number, write: boolean): number {
  if (!(frame >= 0 && frame < PHYSMAP_ENTRIES)) return -1;
  const { words, base, plan } = mapping;
  const entry = Atomics.load(words, ((base + plan.physmap) >>> 2) + frame) >>> 0;
  if (entry === 0 || entry === DEVICE || (write && (entry & READ_ONLY) !== 0)) return -1;
  return ((entry & ~FLAGS) >>> 0) - (Atomics.load(words, (base + plan.control + CONTROL_PHYSMAP_BASE) >>> 2) >>> 0);
}

/**
 * A domain's physmap for who looks frames up all the time: where it lies is worked out once. What entries add to their file
 * offsets is not: a domain whose vCPU has not started yet has not said.
 */
export class PhysmapView {
  private readonly words: Int32Array<SharedArrayBuffer>;
  private readonly table: number;
  private readonly linear: number;

  constructor({ words, base, plan }: Mapping) {
    this.words = words;
    this.table = (base + plan.physmap) >>> 2;
    this.linear = (base + plan.control + CONTROL_PHYSMAP_BASE) >>> 2;
  }

  /** Index into the mapping's `words` of a guest frame's entry, -1 where the table has none. */
  place(frame: number): number {
    return frame >= 0 && frame < PHYSMAP_ENTRIES ? this.table + frame : -1;
  }

  /** physmapOffset() of an entry that was read before. */
  offset(entry: number, write: boolean): number {
    if (entry === 0 || entry === DEVICE || (write && (entry & READ_ONLY) !== 0)) return -1;
    // The base is written once, before the first entry: a plain read will do.
    return ((entry & ~FLAGS) - this.words[this.linear]!) >>> 0;
  }

  /** Whether what an entry leads to may be on its way still: then Arrivals knows. */
  isLater(entry: number): boolean {
    return (entry & LATER) !== 0;
  }

  /** Whether two values of an entry lead to the same page with the same right. */
  isSame(entry: number, other: number): boolean {
    return ((entry ^ other) & ~LATER) === 0;
  }
}

/**
 * Puts a RAM frame at an empty guest frame of another domain, whose vCPUs see it at once.
 * False where something lies already, or at the special frames.
 */
export function placeInPhysmap(mapping: Mapping, frame: number, offset: FileOffset): boolean {
  if (!physmapPlaceable(mapping, frame)) return false;
  const { words, base, plan } = mapping;
  const linear = Atomics.load(words, (base + plan.control + CONTROL_PHYSMAP_BASE) >>> 2);
  return Atomics.compareExchange(words, ((base + plan.physmap) >>> 2) + frame, 0, (linear + offset) | 0) === 0;
}

/** Takes what lies at a guest frame out. @returns its file offset, -1 where nothing did */
export function removeFromPhysmap(mapping: Mapping, frame: number): number {
  const offset = physmapOffset(mapping, frame, false);
  if (offset >= 0) Atomics.store(mapping.words, ((mapping.base + mapping.plan.physmap) >>> 2) + frame, 0);
  return offset;
}

/** Whether placeInPhysmap would find the guest frame empty now. */
export function physmapPlaceable(mapping: Mapping, frame: number): boolean {
  if (!(frame >= 0 && frame < PHYSMAP_ENTRIES)) return false;
  if (frame >= SPECIAL_GFN && frame < SPECIAL_GFN + SPECIAL_GFNS) return false;
  return Atomics.load(mapping.words, ((mapping.base + mapping.plan.physmap) >>> 2) + frame) === 0;
}

/**
 * The physmap of a domain without a vCPU (a TypeScript domain): RAM one to one, and the two toolstack pages. What entries add
 * to their file offsets is a constant of its own here, since no linear memory is meant and 0 must stay "nothing".
 */
export function initialisePhysmapIdentity(mapping: Mapping): void {
  const { words, base, plan } = mapping;
  const table = (base + plan.physmap) >>> 2;
  Atomics.store(words, (base + plan.control + CONTROL_PHYSMAP_BASE) >>> 2, WASM_PAGE);
  for (let frame = 0; frame < plan.ramBytes >>> PAGE_SHIFT; frame++) {
    Atomics.store(words, table + frame, (WASM_PAGE + frame * PAGE_SIZE) | 0);
  }
  Atomics.store(words, table + XENSTORE_GFN, (WASM_PAGE + plan.xenstore) | 0);
  Atomics.store(words, table + CONSOLE_GFN, (WASM_PAGE + plan.console) | 0);
}

export class Physmap {
  readonly frames = PHYSMAP_ENTRIES;
  private readonly table: Uint32Array<SharedArrayBuffer>;
  /** The table in the file, where the vCPU's own is not mapped over it. */
  private readonly mirror: Uint32Array<SharedArrayBuffer> | undefined;
  private readonly base: number;
  private readonly limit: number;
  /** Brings the window of a file offset in, before anybody looks at it. Of a restored guest only. */
  fetch: ((offset: FileOffset) => void) | undefined;
  /** Where marks of LATER may be: [first frame, count]. */
  private readonly expected: [number, number][] = [];

  /** `table` is the byte address of the table in the mapping's linear memory. */
  constructor(mapping: Mapping, table: number) {
    const { buffer } = mapping.bytes;
    this.table = new Uint32Array(buffer, table, PHYSMAP_ENTRIES);
    this.mirror = mapping.overlaid
      ? undefined
      : new Uint32Array(buffer, mapping.base + mapping.plan.physmap, PHYSMAP_ENTRIES);
    this.base = mapping.base;
    this.limit = mapping.plan.length + mapping.windowPages * PAGE_SIZE;
  }

  private set(frame: number, entry: number): void {
    Atomics.store(this.table, frame, entry);
    if (this.mirror) Atomics.store(this.mirror, frame, entry);
  }

  /** Maps RAM one to one from guest frame 0 and the two toolstack pages at their fixed frames. */
  mapInitial(plan: Mapping["plan"]): void {
    this.mapRun(gfn(0), fileOffset(0), plan.ramBytes >>> PAGE_SHIFT);
    this.map(XENSTORE_GFN, plan.xenstore);
    this.map(CONSOLE_GFN, plan.console);
  }

  /** True for a frame number that the table has room for. */
  covers(frame: number): boolean {
    return Number.isInteger(frame) && frame >= 0 && frame < this.frames;
  }

  /** @throws RangeError outside the table or the memory (a bug: guest values are checked with covers()) */
  map(frame: Gfn, offset: FileOffset, readOnly = false): void {
    this.set(frame, this.entryFor(frame, offset, readOnly));
  }

  /**
   * Maps pages that lie one behind the other, while nobody else uses the table.
   * @param later their contents may be on their way still: the first access or get() has them fetched
   * @throws as map()
   */
  mapRun(frame: Gfn, offset: FileOffset, count: number, { readOnly = false, later = false } = {}): void {
    if (count === 0) return;
    const { table, mirror } = this;
    const flags = later ? LATER : 0;
    if (later) this.expected.push([frame, count]);
    const first = this.entryFor(frame, offset, readOnly) | flags;
    const last = this.entryFor(gfn(frame + count - 1), fileOffset(offset + (count - 1) * PAGE_SIZE), readOnly) | flags;
    // Plain stores, several times as fast; the atomic one behind them makes them seen.
    for (let n = 0; n < count; n++) table[frame + n] = first + n * PAGE_SIZE;
    mirror?.set(table.subarray(frame, frame + count), frame);
    this.set(frame + count - 1, last);
  }

  private entryFor(frame: Gfn, offset: FileOffset, readOnly: boolean): number {
    if (!this.covers(frame) || offset < 0 || offset >= this.limit) {
      throw new RangeError(`cannot map guest frame ${frame} at ${offset}`);
    }
    return (this.base + offset) | (readOnly ? READ_ONLY : 0);
  }

  /** Has the contents of a frame fetched if they may be on their way; then it is as any other. @throws what `fetch` throws */
  arrive(frame: number): void {
    const entry = this.table[frame] ?? 0;
    if ((entry & LATER) === 0) return;
    const place = decode(entry, this.base);
    if (place !== undefined) this.fetch?.(place.offset);
    this.set(frame, entry & ~LATER);
  }

  /** All contents have been loaded: no frame needs to be looked after any more. */
  arrived(): void {
    const { table } = this;
    for (const [first, count] of this.expected.splice(0)) {
      for (let frame = first; frame < first + count; frame++) {
        const entry = table[frame]!;
        if ((entry & LATER) !== 0) this.set(frame, entry & ~LATER);
      }
    }
    this.fetch = undefined;
  }

  /** Marks the frame whose accesses the vCPU's device page answers. */
  mapDevice(frame: Gfn): void {
    if (!this.covers(frame)) throw new RangeError(`no guest frame ${frame}`);
    this.set(frame, DEVICE);
  }

  unmap(frame: Gfn): void {
    if (this.covers(frame)) this.set(frame, 0);
  }

  /** Takes out what mapInitial() put in. Nobody else uses the table yet. */
  clearInitial(plan: Mapping["plan"]): void {
    // Not the whole table: most of its pages have never been touched, and shall not take up memory now.
    for (const table of this.mirror ? [this.table, this.mirror] : [this.table]) {
      table.fill(0, 0, plan.ramBytes >>> PAGE_SHIFT);
    }
    this.unmap(XENSTORE_GFN);
    this.unmap(CONSOLE_GFN);
  }

  /** True where nothing lies, not even the device page. */
  isEmpty(frame: number): boolean {
    return this.covers(frame) && this.table[frame] === 0;
  }

  /** What lies at a guest frame, its contents included, or undefined. @throws what `fetch` throws */
  get(frame: number): PhysmapEntry | undefined {
    if (((this.table[frame] ?? 0) & LATER) !== 0) this.arrive(frame);
    return this.covers(frame) ? decode(this.table[frame] ?? 0, this.base) : undefined;
  }
}
