/**
 * Mapping other domains' grants (GNTTABOP_map_grant_ref, version 1 tables), the mapping side. Whose guest does it by
 * hypercall and a TypeScript domain that does it by itself use the same code, each on threads of its own.
 *
 * The granting guest writes its table at any moment. So the right to the page is checked in the compare-and-exchange that
 * sets the in-use bits: either the guest's revocation sees the bits or we see the revocation. And the frame is looked up
 * again after it was pinned: whoever gives a frame away takes it out of the physmap first and then looks at its pins.
 */
import * as abi from "../abi/grant-table.ts";
import { DOMID_SELF, PAGE_SIZE } from "../abi/xen.ts";
import { GRANT_REFS, MAPTRACK_ENTRIES } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import type { Peers } from "../memory/peers.ts";
import { physmapOffset } from "../memory/physmap.ts";
import { codeWritten } from "./code-shootdown.ts";
import * as pins from "./grant-pins.ts";
import { Maptrack } from "./maptrack.ts";

const { GrantStatus } = abi;

/** How often the guest may change an entry under our hands before we give up; as Xen. */
const ATTEMPTS = 5;

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

/** Gives back what a mapping of `ref` pinned. With the granting domain's memory. */
export function releasePins(mapping: Mapping, ref: number, frame: number, readOnly: boolean): void {
  const counts = pins.withoutOne(pins.seizeGrant(mapping, ref), readOnly);
  pins.unpinFrame(mapping, frame);
  pins.clearUnused(mapping, ref, counts);
  pins.unlockGrant(mapping, ref, counts);
}

/** File offset of a granted frame, or -1: RAM of the domain itself, its console page or its XenStore page. */
function grantableOffset(mapping: Mapping, frame: number, write: boolean): number {
  const offset = physmapOffset(mapping, frame, write);
  const { plan } = mapping;
  return (offset >= 0 && offset < plan.ramBytes) || offset === plan.console || offset === plan.xenstore ? offset : -1;
}

export class GrantMaps {
  readonly track: Maptrack;
  private readonly peers: Peers;
  private readonly self: Grantor;

  /** `mapping` and `id` are the mapping domain's. One object a thread. */
  constructor(mapping: Mapping, id: number, peers: Peers) {
    this.track = new Maptrack(mapping);
    this.peers = peers;
    this.self = { id, generation: 0, mapping };
  }

  /** The living domain of that number, DOMID_SELF and one's own included. */
  grantor(domid: number): Grantor | undefined {
    return this.isSelf(domid) ? this.self : this.peers.get(domid);
  }

  isSelf(domid: number): boolean {
    return domid === DOMID_SELF || domid === this.self.id;
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
    if (!this.lives(grantor)) return GrantStatus.bad_domain;
    if (!Number.isInteger(ref) || ref < 0 || ref >= GRANT_REFS) return GrantStatus.bad_gntref;
    const handle = this.track.reserve(grantor.id, grantor.generation, ref, readOnly);
    if (handle < 0) return GrantStatus.no_space;
    const status = this.pin(grantor, ref, readOnly, handle);
    if (status !== GrantStatus.okay) {
      this.track.free(handle);
      return status;
    }
    this.track.commit(handle);
    return handle;
  }

  /** Whether an entry's first word gives us the page. */
  private permits(grantor: Grantor, word: number, readOnly: boolean): boolean {
    const domid = word >>> 16;
    if ((word & (abi.GTF_TYPE_MASK | abi.GTF_SUB_PAGE)) !== abi.GTF_PERMIT_ACCESS) return false;
    if (domid !== this.self.id && !(grantor === this.self && domid === DOMID_SELF)) return false;
    return readOnly || (word & abi.GTF_READONLY) === 0;
  }

  /** Sets the in-use bits of an entry, provided that it still gives us the page. */
  private claim(grantor: Grantor, entry: number, readOnly: boolean): boolean {
    const { words } = grantor.mapping;
    let seen = Atomics.load(words, entry);
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (!this.permits(grantor, seen, readOnly)) return false;
      const used = seen | abi.GTF_READING | (readOnly ? 0 : abi.GTF_WRITING);
      const found = Atomics.compareExchange(words, entry, seen, used);
      if (found === seen) return true;
      seen = found;
    }
    return false;
  }

  private pin(grantor: Grantor, ref: number, readOnly: boolean, handle: number): number {
    const { mapping } = grantor;
    const counts = pins.lockGrant(mapping, ref);
    if (counts < 0) return GrantStatus.general_error;
    const status = this.pinLocked(grantor, ref, readOnly, handle, counts);
    const one = readOnly ? pins.ONE_READER : pins.ONE_WRITER;
    pins.unlockGrant(mapping, ref, status === GrantStatus.okay ? counts + one : counts);
    return status;
  }

  private pinLocked(grantor: Grantor, ref: number, readOnly: boolean, handle: number, counts: number): number {
    const { mapping } = grantor;
    const { words } = mapping;
    const entry = pins.entryWord(mapping, ref);
    if (!pins.hasRoom(counts)) return GrantStatus.general_error;
    if (!this.permits(grantor, Atomics.load(words, entry), readOnly)) return GrantStatus.general_error;
    const guestFrame = Atomics.load(words, entry + 1) >>> 0;
    const offset = grantableOffset(mapping, guestFrame, !readOnly);
    if (offset < 0) return GrantStatus.bad_page;
    const frame = offset / PAGE_SIZE;
    this.track.setFrame(handle, frame);
    pins.pinFrame(mapping, frame);
    if (!this.claim(grantor, entry, readOnly)) {
      pins.unpinFrame(mapping, frame);
      return GrantStatus.general_error;
    }
    if (grantableOffset(mapping, guestFrame, !readOnly) === offset) return GrantStatus.okay;
    pins.unpinFrame(mapping, frame);
    pins.clearUnused(mapping, ref, counts);
    return GrantStatus.bad_page;
  }

  /** Unmaps. The granting domain may have ended. @returns GrantStatus.okay or bad_handle */
  unmap(handle: number): number {
    if (!this.track.begin(handle)) return GrantStatus.bad_handle;
    const grantor = this.grantorOf(handle);
    if (grantor !== undefined) {
      releasePins(grantor.mapping, this.track.ref(handle), this.track.frame(handle), this.track.readOnly(handle));
    }
    this.track.free(handle);
    return GrantStatus.okay;
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
