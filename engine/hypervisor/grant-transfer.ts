/**
 * GNTTABOP_transfer: a page of the caller becomes a page of the domain that made an accept_transfer entry for it.
 *
 * Every domain's RAM is a file of its own, so the page's contents move rather than the page: into a free frame of the
 * receiver, which appears at the guest frame that the entry names. What both guests can observe is as in Xen for translated
 * guests: the frame is gone from the sender and counts for the receiver, who must have given one back before (room below its
 * maximum); the entry goes through transfer_committed and transfer_completed.
 */
import * as abi from "../abi/grant-table.ts";
import { PAGE_SIZE } from "../abi/xen.ts";
import { markWritten } from "../memory/dirty-log.ts";
import { GRANT_REFS } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import { physmapPlaceable, placeInPhysmap } from "../memory/physmap.ts";
import { type FileOffset, gfn } from "../memory/types.ts";
import { entryWord } from "./grant-pins.ts";
import { returnFreeFrame, takeFreeFrame } from "./ram-pool.ts";
import type { VcpuContext } from "./vcpu.ts";

const { GrantStatus } = abi;

type TransferArgs = ReturnType<typeof abi.transferGrant.read>;

/** Commits the receiver's entry to this transfer; undefined where it does not offer one to us. Else its guest frame. */
function commit(receiver: Mapping, entry: number, sender: number): number | undefined {
  const offered = (sender << 16) | abi.GTF_ACCEPT_TRANSFER;
  const frame = Atomics.load(receiver.words, entry + 1) >>> 0;
  if (Atomics.load(receiver.words, entry) !== offered || !physmapPlaceable(receiver, frame)) return undefined;
  const committed = offered | abi.GTF_TRANSFER_COMMITTED;
  return Atomics.compareExchange(receiver.words, entry, offered, committed) === offered ? frame : undefined;
}

/**
 * A free frame of the receiver: that of the same number as the guest frame which the entry names, if it is free. So a domain
 * whose guest frames are its RAM frames one to one stays so.
 */
function roomFor(receiver: Mapping, entry: number): FileOffset | undefined {
  return takeFreeFrame(receiver, Atomics.load(receiver.words, entry + 1) >>> 0);
}

/**
 * The receiver's part of a transfer, for a sender that has taken the page out of its own hands already: its contents become a
 * page of the receiver.
 * @param sender number of the sending domain
 * @param page its page's bytes
 * @returns false when the entry offers no transfer to the sender, or the receiver has no room: nothing has happened
 */
export function transferContents(receiver: Mapping, ref: number, sender: number, page: Uint8Array): boolean {
  if (!Number.isInteger(ref) || ref < 0 || ref >= GRANT_REFS) return false;
  const at = entryWord(receiver, ref);
  const room = roomFor(receiver, at);
  if (room === undefined) return false;
  const target = commit(receiver, at, sender);
  if (target === undefined) {
    returnFreeFrame(receiver, room);
    return false;
  }
  receiver.bytes.set(page, receiver.base + room);
  markWritten(receiver, room, PAGE_SIZE);
  complete(receiver, at, target, room);
  return true;
}

/** Whether the entry's transfer has been completed. */
export function isTransferred(receiver: Mapping, ref: number): boolean {
  if (!Number.isInteger(ref) || ref < 0 || ref >= GRANT_REFS) return false;
  const flags = Atomics.load(receiver.words, entryWord(receiver, ref));
  return (flags & abi.GTF_TYPE_MASK) === abi.GTF_ACCEPT_TRANSFER && (flags & abi.GTF_TRANSFER_COMPLETED) !== 0;
}

/** Puts the filled frame `room` at the guest frame that a committed entry names. */
function complete(receiver: Mapping, at: number, target: number, room: FileOffset): void {
  if (!placeInPhysmap(receiver, target, room)) {
    // The receiver put something else there meanwhile: it loses the contents, not the frame.
    receiver.bytes.fill(0, receiver.base + room, receiver.base + room + PAGE_SIZE);
    markWritten(receiver, room, PAGE_SIZE);
    returnFreeFrame(receiver, room);
  }
  Atomics.or(receiver.words, at, abi.GTF_TRANSFER_COMPLETED);
}

/** Copies the page at `offset` of our RAM, which no guest frame shows any more, to a free frame of the receiver. */
function copyPage(vcpu: VcpuContext, offset: FileOffset, receiver: Mapping, room: FileOffset): void {
  const { mapping } = vcpu.domain;
  const start = mapping.base + offset;
  receiver.bytes.set(mapping.bytes.subarray(start, start + PAGE_SIZE), receiver.base + room);
  markWritten(receiver, room, PAGE_SIZE);
}

/**
 * Gives a page away. The sender itself cannot be the receiver.
 * @returns a GrantStatus: bad_page (no RAM of ours, or somebody has it mapped), bad_domain, bad_gntref (the entry offers no
 *   transfer to us, or a guest frame that is not empty), general_error (the receiver has no room)
 */
export function transferGrant(vcpu: VcpuContext, args: TransferArgs): number {
  const { domain } = vcpu;
  const entry = domain.physmap.get(Number(args.mfn));
  if (entry === undefined || !domain.ram.isRam(entry.offset)) return GrantStatus.bad_page;
  const receiver = domain.grantMaps.isSelf(args.domid) ? undefined : domain.peers.get(args.domid)?.mapping;
  if (receiver === undefined) return GrantStatus.bad_domain;
  if (args.ref >= GRANT_REFS) return GrantStatus.bad_gntref;
  const at = entryWord(receiver, args.ref);
  const room = roomFor(receiver, at);
  if (room === undefined) return GrantStatus.general_error;
  const frame = gfn(Number(args.mfn));
  // First out of our physmap, then held: from here on nobody can map it, so nothing after the commitment can fail.
  domain.physmap.unmap(frame);
  const held = domain.ram.hold(entry.offset);
  const target = held ? commit(receiver, at, domain.id) : undefined;
  if (target === undefined) {
    if (held) domain.ram.unhold(entry.offset);
    domain.physmap.map(frame, entry.offset, entry.readOnly);
    returnFreeFrame(receiver, room);
    return held ? GrantStatus.bad_gntref : GrantStatus.bad_page;
  }
  copyPage(vcpu, entry.offset, receiver, room);
  domain.ram.releaseHeld(entry.offset);
  vcpu.cpu.flushCode();
  complete(receiver, at, target, room);
  return GrantStatus.okay;
}
