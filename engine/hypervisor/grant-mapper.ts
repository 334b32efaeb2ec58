/** The pages of one peer, for a backend on one thread of a TypeScript domain. */
import { GrantStatus } from "../abi/grant-table.ts";
import { PAGE_SIZE } from "../abi/xen.ts";
import { MAPTRACK_ENTRIES } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import { type GrantMaps, type Grantor, type GrantorPages, grantWritten } from "./grant-map.ts";

/** A backend's way to the pages of one frontend; satisfies the GrantMapper of engine/device. */
export class PeerGrantMapper {
  readonly memory: Mapping;
  private readonly maps: GrantMaps;
  private readonly grantor: Grantor;
  private readonly pages: GrantorPages;
  /** Address of the peer's first page. */
  private readonly base: number;
  private readonly lives: () => boolean;
  /** 1 for each handle that this object has mapped. */
  private readonly open = new Uint8Array(MAPTRACK_ENTRIES);

  constructor(maps: GrantMaps, grantor: Grantor) {
    this.maps = maps;
    this.grantor = grantor;
    this.pages = maps.pages(grantor);
    this.memory = grantor.mapping;
    this.base = grantor.mapping.base;
    this.lives = () => maps.lives(grantor);
  }

  /** @returns a handle, or a negative GrantStatus (see GrantMaps.map) */
  map(ref: number, readOnly: boolean): number {
    if (!this.maps.lives(this.grantor)) return GrantStatus.bad_domain;
    const handle = this.maps.mapPage(this.pages, ref, readOnly);
    if (handle >= 0) this.open[handle] = 1;
    return handle;
  }

  /** See GrantMapper.mapMany: whether the peer lives is asked once for all. */
  mapMany(refs: Uint32Array, count: number, readOnly: boolean, handles: Int32Array, at: number): number {
    const { maps, pages, open } = this;
    const lives = maps.lives(this.grantor);
    for (let n = 0; n < count; n++) {
      const handle = lives ? maps.mapPage(pages, refs[n]!, readOnly) : GrantStatus.bad_domain;
      handles[at + n] = handle;
      if (handle < 0) return n;
      open[handle] = 1;
    }
    return count;
  }

  /** Takes over a page that was mapped before this process started. False: that handle is none of this peer's pages. */
  adopt(handle: number): boolean {
    if (!this.maps.track.isLive(handle) || this.maps.grantorOf(handle) !== this.grantor) return false;
    this.open[handle] = 1;
    return true;
  }

  address(handle: number): number {
    return this.base + this.maps.track.frame(handle) * PAGE_SIZE;
  }

  /** @returns GrantStatus.okay, or bad_handle for one that is not ours */
  unmap(handle: number): number {
    if (this.open[handle] !== 1) return GrantStatus.bad_handle;
    this.open[handle] = 0;
    return this.maps.unmap(handle, this.maps.lives(this.grantor) ? this.pages : undefined);
  }

  /** See GrantMapper.unmapMany. Backwards, so that the first handle is the next to be used and the others follow. */
  unmapMany(handles: Int32Array, from: number, to: number): void {
    const { maps, open } = this;
    const pages = maps.lives(this.grantor) ? this.pages : undefined;
    for (let n = to - 1; n >= from; n--) {
      const handle = handles[n]!;
      if (open[handle] !== 1) continue;
      open[handle] = 0;
      maps.unmap(handle, pages);
    }
  }

  written(address: number, length: number): void {
    grantWritten(this.memory, address - this.memory.base, length, this.lives);
  }

  /** Unmaps what is still mapped. */
  close(): void {
    for (let handle = this.open.indexOf(1); handle >= 0; handle = this.open.indexOf(1, handle)) this.unmap(handle);
  }
}

/** A mapper for the pages of a living domain; undefined if there is none of that number. */
export function grantMapper(maps: GrantMaps, domid: number): PeerGrantMapper | undefined {
  const grantor = maps.grantor(domid);
  return grantor === undefined ? undefined : new PeerGrantMapper(maps, grantor);
}
