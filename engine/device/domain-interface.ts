/**
 * What a split driver needs of the domain it runs in: its peer's memory, grants and event channels. The hypervisor's
 * classes satisfy these; the drivers know no more of it.
 */
import type { EventPort } from "../memory/types.ts";

/** A linear memory in which a domain's frames are mapped: one's own, or a peer's. */
export interface MemoryView {
  /** The whole linear memory, the same bytes in three forms. Addresses below are byte offsets into it. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
  readonly words: Int32Array<SharedArrayBuffer>;
  readonly view: DataView<SharedArrayBuffer>;
  /** Native address of bytes[0], for system calls that read and write in place. */
  readonly nativeAddress: bigint;
}

/** The backend's way to a frontend's pages. Everything here is about one peer domain. */
export interface GrantMapper {
  /** The peer's memory; map() answers handles to pages of it. */
  readonly memory: MemoryView;
  /**
   * Maps a granted page (GNTTABOP_map_grant_ref).
   * @returns a handle (≥ 0), or a negative GrantStatus
   */
  map(ref: number, readOnly: boolean): number;
  /** Byte offset in `memory` of the page behind a handle. */
  address(handle: number): number;
  /** @returns GrantStatus.okay or a negative one */
  unmap(handle: number): number;
  /**
   * map() for refs[0…count), in order, up to the first that cannot be mapped: cheaper a page. The handles go to
   * handles[at…]; in the place of one that failed stands its negative GrantStatus.
   * @returns how many were mapped
   */
  mapMany?(refs: Uint32Array, count: number, readOnly: boolean, handles: Int32Array, at: number): number;
  /** unmap() for handles[from…to), in any order. What is no handle of ours is left alone. */
  unmapMany?(handles: Int32Array, from: number, to: number): void;
  /**
   * The backend has written to `length` bytes at `address` of `memory`: a CPU of the peer that has decoded code from there
   * forgets it before this returns. Call it before the peer can learn of the write.
   */
  written(address: number, length: number): void;
}

/** One's own pages, and the right to hand them out. */
export interface GrantSource {
  readonly memory: MemoryView;
  /** Takes a zeroed page of the domain's RAM; undefined when none is left. Its byte offset in `memory`. */
  allocatePage(): number | undefined;
  freePage(address: number): void;
  /** Offers the page to a domain. @returns the grant reference, or undefined when the table is full */
  grantAccess(domain: number, address: number, readOnly: boolean): number | undefined;
  /** Takes a grant back. False while the peer has it mapped: the page must not be reused then. */
  endAccess(ref: number): boolean;
}

/** Event channels as a driver uses them. Errors are negated Errno values. */
export interface EventChannelPort {
  /** Offers a port to a domain. @returns the port, or a negated Errno */
  allocUnbound(remote: number): number;
  /** Binds to a port that `remote` offers to us. @returns our port, or a negated Errno */
  bindInterdomain(remote: number, remotePort: number): number;
  close(port: EventPort): void;
  /** EVTCHNOP_send. */
  notify(port: EventPort): void;
}
