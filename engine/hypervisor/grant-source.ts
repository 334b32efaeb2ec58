/**
 * A TypeScript domain's own pages and the grants of them: allocator and grant table, both in the domain's shared memory, so
 * that its threads share them and they outlive its process. The physmap must be initialisePhysmapIdentity's.
 *
 * Free is a frame whose word (grant-pins.ts) is 0: neither handed out nor mapped by anybody. A freed page that a peer still
 * has mapped is therefore not handed out again before it is unmapped.
 */
import * as abi from "../abi/grant-table.ts";
import { PAGE_SIZE } from "../abi/xen.ts";
import { GRANT_REFS } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import { entryWord, FRAME_ALLOCATED, grantPins, isMarked, markFrame, unmarkFrame } from "./grant-pins.ts";

/** Flags of an entry that a thread of ours has taken and not filled in yet: of no type, and not free. */
const TAKEN = 1 << 15;
const FIRST_REF = abi.GNTTAB_NR_RESERVED_ENTRIES;

export interface GrantSourceOptions {
  readonly mapping: Mapping;
  /** RAM frames that the allocator may hand out: what lies outside belongs to somebody else. All unless said. */
  readonly firstFrame?: number;
  readonly frames?: number;
}

/** One's own pages, and the right to hand them out; satisfies the GrantSource of engine/device. One object a thread. */
export class GrantedPages {
  readonly memory: Mapping;
  private readonly first: number;
  private readonly frames: number;
  private nextFrame = 0;
  private nextRef = 0;

  constructor(options: GrantSourceOptions) {
    this.memory = options.mapping;
    this.first = options.firstFrame ?? 0;
    this.frames = options.frames ?? options.mapping.plan.ramBytes / PAGE_SIZE - this.first;
  }

  /** Byte offset in `memory` of a zeroed page, or undefined when none is left. */
  allocatePage(): number | undefined {
    for (let n = 0; n < this.frames; n++) {
      const index = (this.nextFrame + n) % this.frames;
      if (!markFrame(this.memory, this.first + index, FRAME_ALLOCATED)) continue;
      this.nextFrame = index + 1;
      const address = this.memory.base + (this.first + index) * PAGE_SIZE;
      this.memory.bytes.fill(0, address, address + PAGE_SIZE);
      return address;
    }
    return undefined;
  }

  /** @throws RangeError for an address that is no page of the domain's RAM (a bug) */
  private frameOf(address: number): number {
    const frame = (address - this.memory.base) / PAGE_SIZE;
    if (!Number.isInteger(frame) || frame < 0 || frame >= this.memory.plan.ramBytes / PAGE_SIZE) {
      throw new RangeError(`${address} is not the address of a page of RAM`);
    }
    return frame;
  }

  freePage(address: number): void {
    const frame = this.frameOf(address);
    unmarkFrame(this.memory, frame, FRAME_ALLOCATED);
    if (frame >= this.first && frame < this.first + this.frames) this.nextFrame = frame - this.first;
  }

  /** Offers a page to a domain. @returns the reference, or undefined when the table is full */
  grantAccess(domain: number, address: number, readOnly: boolean): number | undefined {
    return this.takeEntry(this.frameOf(address), domain, abi.GTF_PERMIT_ACCESS | (readOnly ? abi.GTF_READONLY : 0));
  }

  /** Offers the place of a page that is not there any more for one of another domain's. @returns as grantAccess() */
  acceptTransfer(domain: number, address: number): number | undefined {
    return this.takeEntry(this.frameOf(address), domain, abi.GTF_ACCEPT_TRANSFER);
  }

  /** Fills in a free entry of the grant table. */
  private takeEntry(frame: number, domain: number, flags: number): number | undefined {
    const { words } = this.memory;
    for (let n = 0; n < GRANT_REFS - FIRST_REF; n++) {
      const ref = FIRST_REF + ((this.nextRef + n) % (GRANT_REFS - FIRST_REF));
      const entry = entryWord(this.memory, ref);
      if (Atomics.load(words, entry) !== 0 || Atomics.compareExchange(words, entry, 0, TAKEN) !== 0) continue;
      this.nextRef = ref - FIRST_REF + 1;
      Atomics.store(words, entry + 1, frame);
      Atomics.store(words, entry, (domain << 16) | flags);
      return ref;
    }
    return undefined;
  }

  /** Takes a grant back; false while the peer has it mapped, and for a reference that is none. */
  endAccess(ref: number): boolean {
    if (!Number.isInteger(ref) || ref < FIRST_REF || ref >= GRANT_REFS) return false;
    const entry = entryWord(this.memory, ref);
    for (;;) {
      const seen = Atomics.load(this.memory.words, entry);
      if ((seen & abi.GTF_TYPE_MASK) !== abi.GTF_PERMIT_ACCESS) return false;
      if ((seen & (abi.GTF_READING | abi.GTF_WRITING)) !== 0) return false;
      if (Atomics.compareExchange(this.memory.words, entry, seen, 0) !== seen) continue;
      this.nextRef = ref - FIRST_REF;
      return true;
    }
  }

  /**
   * After the process was started again, before its threads run: ends every grant that no peer has mapped and frees the
   * pages that no grant offers. `keep` are addresses of pages to leave alone.
   */
  reclaim(keep: Iterable<number> = []): void {
    const kept = new Set([...keep].map((address) => this.frameOf(address)));
    for (let ref = FIRST_REF; ref < GRANT_REFS; ref++) {
      const entry = entryWord(this.memory, ref);
      if (Atomics.load(this.memory.words, entry) === TAKEN) Atomics.store(this.memory.words, entry, 0);
      else if (!this.endAccess(ref) && grantPins(this.memory, ref) !== 0) {
        kept.add(Atomics.load(this.memory.words, entry + 1) >>> 0);
      }
    }
    for (let frame = this.first; frame < this.first + this.frames; frame++) {
      if (!kept.has(frame) && isMarked(this.memory, frame, FRAME_ALLOCATED)) {
        unmarkFrame(this.memory, frame, FRAME_ALLOCATED);
      }
    }
  }
}

/** The pages and grants of a TypeScript domain. */
export function grantSource(options: GrantSourceOptions): GrantedPages {
  return new GrantedPages(options);
}
