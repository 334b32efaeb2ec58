/**
 * From the grant references of a request to addresses in the peer's memory. A reference that cannot be mapped undoes
 * what the request had mapped, and is told of as a value: a bad grant is the frontend's mistake, not a bug (XSA-362).
 */
import type { GrantMapper } from "../domain-interface.ts";
import { BlockCounter, type BlockCounters } from "./counters.ts";
import type { Operation } from "./operation.ts";
import type { PersistentGrants } from "./persistent-grants.ts";
import { LAST_SECTOR_OF_PAGE, SECTOR, SEGMENTS_PER_INDIRECT_PAGE } from "./protocol.ts";
import type { ParsedRequest } from "./request.ts";

const PAGE_SIZE = (LAST_SECTOR_OF_PAGE + 1) * SECTOR;

/** Adds segment `i`, whose page lies at `address`. */
function addPiece({ pieces }: Operation, request: ParsedRequest, i: number, address: number): void {
  const first = request.first[i]!;
  pieces.add(address + first * SECTOR, (request.last[i]! - first + 1) * SECTOR);
}

export class SegmentMapper {
  private readonly grants: GrantMapper;
  private readonly persistent: PersistentGrants | undefined;
  private readonly counters: BlockCounters;
  /** Address of the page that map() has mapped last. */
  address = 0;
  /** What release() wants for it: a handle, or ~slot of a persistent grant. */
  grant = 0;

  constructor(grants: GrantMapper, persistent: PersistentGrants | undefined, counters: BlockCounters) {
    this.grants = grants;
    this.persistent = persistent;
    this.counters = counters;
  }

  /** Maps a page and leaves its `address` and `grant`. @returns 0, or a negative GrantStatus */
  map(ref: number, readOnly: boolean): number {
    const slot = this.persistent?.acquire(ref);
    if (this.persistent && slot !== undefined && slot >= 0) {
      this.address = this.persistent.address(slot);
      this.grant = ~slot;
      return 0;
    }
    // Not kept: there is no room, or the grant is for reading only, which suffices here.
    if (slot !== undefined && !readOnly) return slot;
    const handle = this.grants.map(ref, readOnly);
    if (handle < 0) return handle;
    this.address = this.grants.address(handle);
    this.grant = handle;
    this.counters.add(BlockCounter.grants_mapped);
    this.counters.add(BlockCounter.grants_total);
    return 0;
  }

  /** Gives back what map() left in `grant`. */
  release(grant: number): void {
    if (grant < 0) {
      this.persistent?.release(~grant);
      return;
    }
    this.grants.unmap(grant);
    this.counters.add(BlockCounter.grants_mapped, -1);
  }

  /** Maps all segments of a checked request and appends them to the operation. @returns undefined, or what is wrong */
  append(operation: Operation, request: ParsedRequest): string | undefined {
    const before = operation.grantCount;
    const readOnly = operation.kind === "write";
    const batch = !this.persistent && this.grants.mapMany !== undefined;
    const mapped = batch ? this.mapAll(operation, request, readOnly) : this.mapEach(operation, request, readOnly);
    if (mapped === request.segments) return undefined;
    const status = operation.grants[operation.grantCount]!;
    this.releaseFrom(operation, before);
    operation.pieces.cut(operation.length);
    return `grant ${request.refs[mapped]} of segment ${mapped}: status ${status}`;
  }

  /**
   * The segments' pages by mapMany(), for grants that are not kept.
   * @returns how many could be mapped; behind their grants stands the status of the first that could not
   */
  private mapAll(operation: Operation, request: ParsedRequest, readOnly: boolean): number {
    const { grants, counters } = this;
    const before = operation.grantCount;
    const mapped = grants.mapMany!(request.refs, request.segments, readOnly, operation.grants, before);
    operation.grantCount += mapped;
    counters.add(BlockCounter.grants_mapped, mapped);
    counters.add(BlockCounter.grants_total, mapped);
    for (let i = 0; i < mapped; i++) addPiece(operation, request, i, grants.address(operation.grants[before + i]!));
    return mapped;
  }

  /** The same one by one, as it must be where grants are kept. */
  private mapEach(operation: Operation, request: ParsedRequest, readOnly: boolean): number {
    for (let i = 0; i < request.segments; i++) {
      const status = this.map(request.refs[i]!, readOnly);
      operation.grants[operation.grantCount] = status < 0 ? status : this.grant;
      if (status < 0) return i;
      operation.grantCount++;
      addPiece(operation, request, i, this.address);
    }
    return request.segments;
  }

  /** Copies the segments of an indirect request out of their pages. @returns undefined, or what is wrong */
  loadIndirect(request: ParsedRequest): string | undefined {
    const words = this.grants.memory.words;
    for (let page = 0; page < request.indirectPages; page++) {
      const ref = request.indirectRefs[page]!;
      const status = this.map(ref, true);
      if (status < 0) return `grant ${ref} of indirect page ${page}: status ${status}`;
      const from = page * SEGMENTS_PER_INDIRECT_PAGE;
      const count = Math.min(request.segments - from, SEGMENTS_PER_INDIRECT_PAGE);
      request.readSegments(words, this.address / 4, from, count);
      this.release(this.grant);
    }
    return undefined;
  }

  /** Puts bytes into a granted page. @returns 0, or a negative GrantStatus */
  put(ref: number, offset: number, bytes: Uint8Array): number {
    if (offset + bytes.length > PAGE_SIZE) throw new RangeError(`${bytes.length} bytes at ${offset} of a page`);
    const status = this.map(ref, false);
    if (status < 0) return status;
    this.grants.memory.bytes.set(bytes, this.address + offset);
    this.grants.written(this.address + offset, bytes.length);
    this.release(this.grant);
    return 0;
  }

  /** After a read: CPUs of the peer forget code that they decoded from the pages. */
  written(operation: Operation): void {
    const { addresses, lengths, count } = operation.pieces;
    for (let i = 0; i < count; i++) this.grants.written(addresses[i]!, lengths[i]!);
  }

  /** Gives back the operation's grants from number `first` on. */
  releaseFrom(operation: Operation, first: number): void {
    const { grants, grantCount } = operation;
    operation.grantCount = first;
    if (!this.persistent && this.grants.unmapMany) {
      this.grants.unmapMany(grants, first, grantCount);
      this.counters.add(BlockCounter.grants_mapped, first - grantCount);
      return;
    }
    for (let i = first; i < grantCount; i++) this.release(grants[i]!);
  }
}
