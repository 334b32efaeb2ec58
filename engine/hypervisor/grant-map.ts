/**
 * Mapping other domains' grants (GNTTABOP_map_grant_ref, version 1 tables), the mapping side. Whose guest does it by
 * hypercall and a TypeScript domain that does it by itself use the same code, each on threads of its own.
 *
 * The granting guest writes its table at any moment. So the right to the page is checked in the compare-and-exchange that
 * sets the in-use bits: either the guest's revocation sees the bits or we see the revocation. And the frame is looked up
 * again after it was pinned: whoever gives a frame away takes it out of the physmap first and then looks at its pins.
 */
import * as abi from "../abi/grant-table.ts";
import { DOMID_SELF, PAGE_SHIFT, PAGE_SIZE } from "../abi/xen.ts";
import { Arrivals, windowOf } from "../memory/arrival.ts";
import { GRANT_REFS, MAPTRACK_ENTRIES } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import type { Peers } from "../memory/peers.ts";
import { PhysmapView } from "../memory/physmap.ts";
import { codeWritten } from "./code-shootdown.ts";
import { hasRoom, ONE_READER, ONE_WRITER, PinTables } from "./grant-pins.ts";
import { domidOf, FRAME, generationTag, isReadOnly, Maptrack, REF, TAG, tagOf } from "./maptrack.ts";

const { GrantStatus } = abi;

/** How often the guest may change an entry under our hands before we give up; as Xen. */
const ATTEMPTS = 5;
/** Beside a GrantStatus: the page is on its way (Arrivals), and mapping has to be tried again when it is there. */
const LATER = 1;

/** A domain whose grants are mapped. */
export interface Grantor {
  readonly id: number;
  /** Tells it from an earlier domain with the same number. */
  readonly generation: number;
  readonly mapping: Mapping;
}

/** A page that a domain has mapped. */
export interface GrantMap {
  readonly handle: number;
  readonly domid: number;
  readonly ref: number;
  /** File offset of the page in the granting domain's memory. */
  readonly offset: number;
  readonly readOnly: boolean;
}

/**
 * codeWritten for a page that a grant named. The special pages among them hold no code anybody keeps track of.
 * Offsets and lengths in bytes of the granting domain's file.
 */
export function grantWritten(mapping: Mapping, offset: number, length: number, lives: () => boolean): void {
  if (offset < mapping.plan.ramBytes) codeWritten(mapping, offset, length, lives);
}

/**
 * What mapping reads and writes in the granting domain's memory. Kept by whoever maps many of its pages: where things lie is
 * worked out once.
 */
export class GrantorPages extends PinTables {
  readonly grantor: Grantor;
  readonly id: number;
  /** The generation as maptrack entries have it. */
  readonly tag: number;
  /** The domids that an entry may name: the mapper's, and DOMID_SELF for its own grants. */
  private readonly mapper: number;
  private readonly alias: number;
  readonly physmap: PhysmapView;
  readonly arrivals: Arrivals;
  private readonly ramBytes: number;
  private readonly console: number;
  private readonly xenstore: number;

  /** `mapper` is who maps. */
  constructor(grantor: Grantor, mapper: Grantor) {
    const { id, generation, mapping } = grantor;
    super(mapping);
    this.grantor = grantor;
    this.id = id;
    this.tag = generationTag(generation);
    this.mapper = mapper.id;
    this.alias = grantor === mapper ? DOMID_SELF : mapper.id;
    this.physmap = new PhysmapView(mapping);
    this.arrivals = new Arrivals(mapping);
    this.ramBytes = mapping.plan.ramBytes;
    this.console = mapping.plan.console;
    this.xenstore = mapping.plan.xenstore;
  }

  /** Whether an entry's first word gives the page to the mapper. */
  permits(word: number, readOnly: boolean): boolean {
    const domid = word >>> 16;
    if ((word & (abi.GTF_TYPE_MASK | abi.GTF_SUB_PAGE)) !== abi.GTF_PERMIT_ACCESS) return false;
    if (domid !== this.mapper && domid !== this.alias) return false;
    return readOnly || (word & abi.GTF_READONLY) === 0;
  }

  /** Sets the in-use bits of an entry seen as `word`, which permits it, provided that it still does. */
  claim(entry: number, word: number, readOnly: boolean): boolean {
    const uses = readOnly ? abi.GTF_READING : abi.GTF_READING | abi.GTF_WRITING;
    let found = Atomics.compareExchange(this.words, entry, word, word | uses);
    if (found === word) return true;
    for (let attempt = 1; attempt < ATTEMPTS; attempt++) {
      const seen = found;
      if (!this.permits(seen, readOnly)) return false;
      found = Atomics.compareExchange(this.words, entry, seen, seen | uses);
      if (found === seen) return true;
    }
    return false;
  }

  /** Whether pages at that file offset can be granted: RAM of the domain itself, its console page, its XenStore page. */
  holds(offset: number): boolean {
    return (offset >= 0 && offset < this.ramBytes) || offset === this.console || offset === this.xenstore;
  }
}

export class GrantMaps {
  readonly track: Maptrack;
  private readonly peers: Peers;
  private readonly self: Grantor;
  private readonly selfId: number;
  private readonly opened = new WeakMap<Grantor, GrantorPages>();
  /** The window that pin() found missing. */
  private missing = 0;

  /** `mapping` and `id` are the mapping domain's. One object a thread. */
  constructor(mapping: Mapping, id: number, peers: Peers) {
    this.track = new Maptrack(mapping);
    this.peers = peers;
    this.self = { id, generation: 0, mapping };
    this.selfId = id;
  }

  /** The living domain of that number, DOMID_SELF and one's own included. */
  grantor(domid: number): Grantor | undefined {
    return this.isSelf(domid) ? this.self : this.peers.get(domid);
  }

  isSelf(domid: number): boolean {
    return domid === DOMID_SELF || domid === this.selfId;
  }

  /** Whether the domain has ended meanwhile. */
  lives(grantor: Grantor): boolean {
    if (grantor === this.self) return true;
    const peer = this.peers.known(grantor.id);
    return peer === grantor && this.peers.lives(peer);
  }

  /**
   * Maps a grant of a domain.
   * @returns a handle (≥ 0), or a negative GrantStatus: bad_domain, bad_gntref, general_error (not granted to us, or not for
   *   writing), bad_page (the frame is no RAM of that domain), no_space
   */
  map(domid: number, ref: number, readOnly: boolean): number {
    const grantor = this.grantor(domid);
    return grantor === undefined ? GrantStatus.bad_domain : this.mapFrom(grantor, ref, readOnly);
  }

  /** The same, of a domain that was looked up before. */
  mapFrom(grantor: Grantor, ref: number, readOnly: boolean): number {
    return this.lives(grantor) ? this.mapPage(this.pages(grantor), ref, readOnly) : GrantStatus.bad_domain;
  }

  /** What a mapper of many pages of a domain passes to mapPage() and unmap(). */
  pages(grantor: Grantor): GrantorPages {
    let pages = this.opened.get(grantor);
    if (pages === undefined) {
      pages = new GrantorPages(grantor, this.self);
      this.opened.set(grantor, pages);
    }
    return pages;
  }

  /**
   * mapFrom() for a domain of which the caller has seen just now that it lives.
   * @param waits how often a page may be found on its way: the guest may name another one each time
   */
  mapPage(pages: GrantorPages, ref: number, readOnly: boolean, waits = ATTEMPTS): number {
    if (ref >>> 0 !== ref || ref >= GRANT_REFS) return GrantStatus.bad_gntref;
    const { track } = this;
    const handle = track.reserve(pages.id, pages.tag, ref, readOnly);
    if (handle < 0) return GrantStatus.no_space;
    const counts = pages.lock(ref);
    let status: number = GrantStatus.general_error;
    if (counts >= 0) {
      if (hasRoom(counts)) status = this.pin(pages, ref, readOnly, handle, counts);
      const one = readOnly ? ONE_READER : ONE_WRITER;
      pages.unlock(ref, status === GrantStatus.okay ? counts + one : counts);
    }
    if (status !== GrantStatus.okay) {
      track.free(handle);
      return status === LATER ? this.mapLater(pages, ref, readOnly, waits) : status;
    }
    track.commit(handle);
    return handle;
  }

  /** mapPage() of a page that is on its way, once it is there. */
  private mapLater(pages: GrantorPages, ref: number, readOnly: boolean, waits: number): number {
    if (waits === 0) return GrantStatus.general_error;
    const there = pages.arrivals.wait(this.missing, () => this.lives(pages.grantor));
    return there ? this.mapPage(pages, ref, readOnly, waits - 1) : GrantStatus.bad_domain;
  }

  /** The part of mapping that needs the reference locked. */
  private pin(pages: GrantorPages, ref: number, readOnly: boolean, handle: number, counts: number): number {
    const { words, physmap } = pages;
    const entry = pages.entry(ref);
    // Plain reads, each made once. What the guest wrote before it told us of the reference is there, since the ring's or the
    // hypercall's atomic operations lie between; what it writes now, claim() and the second look at the physmap see.
    const word = words[entry]!;
    if (!pages.permits(word, readOnly)) return GrantStatus.general_error;
    const place = physmap.place(words[entry + 1]!);
    if (place < 0) return GrantStatus.bad_page;
    const there = words[place]!;
    const offset = physmap.offset(there, !readOnly);
    if (!pages.holds(offset)) return GrantStatus.bad_page;
    if (physmap.isLater(there)) {
      this.missing = windowOf(offset);
      if (!pages.arrivals.isPresent(this.missing)) return LATER;
    }
    const frame = offset >>> PAGE_SHIFT;
    this.track.setFrame(handle, frame);
    pages.pinFrame(frame);
    if (!pages.claim(entry, word, readOnly)) {
      pages.unpinFrame(frame);
      return GrantStatus.general_error;
    }
    // Atomic, since it must not come before the pin.
    if (physmap.isSame(Atomics.load(words, place), there)) return GrantStatus.okay;
    pages.unpinFrame(frame);
    pages.clearUnused(ref, counts);
    return GrantStatus.bad_page;
  }

  /**
   * Unmaps. The granting domain may have ended.
   * @param likely whose page it most likely is, if the caller knows that it lives
   * @returns GrantStatus.okay or bad_handle
   */
  unmap(handle: number, likely?: GrantorPages): number {
    const { track } = this;
    const at = track.begin(handle);
    if (at < 0) return GrantStatus.bad_handle;
    // The entry is ours until it is free: plain reads will do.
    const { words } = track;
    const first = words[at]!;
    const isLikely = likely !== undefined && domidOf(first) === likely.id && tagOf(words[at + TAG]!) === likely.tag;
    const pages = isLikely ? likely : this.pagesOf(handle);
    if (pages !== undefined) pages.release(words[at + REF]! - 1, words[at + FRAME]! - 1, isReadOnly(first));
    track.free(handle);
    return GrantStatus.okay;
  }

  private pagesOf(handle: number): GrantorPages | undefined {
    const grantor = this.grantorOf(handle);
    return grantor === undefined ? undefined : this.pages(grantor);
  }

  /** The domain that a handle's page belongs to; undefined when it has ended. */
  grantorOf(handle: number): Grantor | undefined {
    const grantor = this.grantor(this.track.domid(handle));
    return grantor !== undefined && this.track.isOf(handle, grantor.generation) ? grantor : undefined;
  }

  /** File offset, in the granting domain's memory, of the page behind a live handle. */
  offset(handle: number): number {
    return this.track.frame(handle) * PAGE_SIZE;
  }

  /** What is mapped, of one domain or of all: what a domain whose process was started again finds. */
  listMaps(domid?: number): GrantMap[] {
    const { track } = this;
    const maps: GrantMap[] = [];
    for (let handle = 0; handle < MAPTRACK_ENTRIES; handle++) {
      if (!track.isLive(handle) || (domid !== undefined && track.domid(handle) !== domid)) continue;
      const [of, ref, readOnly] = [track.domid(handle), track.ref(handle), track.readOnly(handle)];
      maps.push({ handle, domid: of, ref, offset: this.offset(handle), readOnly });
    }
    return maps;
  }

  /** Unmaps everything of one domain, or of all; the number of mappings there were. */
  releaseAll(domid?: number): number {
    let released = 0;
    for (let handle = 0; handle < MAPTRACK_ENTRIES; handle++) {
      if (!this.track.isLive(handle) || (domid !== undefined && this.track.domid(handle) !== domid)) continue;
      if (this.unmap(handle) === GrantStatus.okay) released++;
    }
    return released;
  }
}
