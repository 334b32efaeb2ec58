/**
 * Exchange of pages between TypeScript domains and their peers (GNTTABOP_transfer), both sides of it.
 *
 * Every domain's RAM is a file of its own, so contents move and not frames (hypervisor/grant-transfer.ts). What a peer can
 * observe is as in Xen: the page is gone from the sender and counts for the receiver; the sender takes another frame from
 * the host for it at once, here the same one, empty.
 */
import * as abi from "../abi/grant-table.ts";
import { PAGE_SIZE } from "../abi/xen.ts";
import type { PageAcceptor, PageExchange } from "../device/net/page-exchange.ts";
import { entryWord, FRAME_ALLOCATED, FRAME_FREE, replaceMark, unmarkFrame } from "../hypervisor/grant-pins.ts";
import type { GrantedPages } from "../hypervisor/grant-source.ts";
import { isTransferred, transferContents } from "../hypervisor/grant-transfer.ts";
import { takeFreeFrame } from "../hypervisor/ram-pool.ts";
import { placeInPhysmap, removeFromPhysmap } from "../memory/physmap.ts";
import { fileOffset } from "../memory/types.ts";
import type { DomainThread } from "./domain-thread.ts";

/** How long a sender may take between committing to a transfer and completing it: it copies a page. */
const COMPLETION_MS = 1000;

/**
 * A backend's side.
 * @param pages its pool
 * @returns undefined when there is no such domain
 */
export function pageExchange(thread: DomainThread, pages: GrantedPages, frontend: number): PageExchange | undefined {
  const receiver = () => thread.peers.get(frontend)?.mapping;
  if (receiver() === undefined) return undefined;
  const { memory } = pages;
  return {
    memory,
    take: () => pages.allocatePage(),
    give: (page) => pages.freePage(page),
    transfer(ref, page) {
      const to = receiver();
      if (to === undefined) return false;
      if (!transferContents(to, ref, thread.id, memory.bytes.subarray(page, page + PAGE_SIZE))) return false;
      pages.freePage(page);
      return true;
    },
  };
}

/** A frontend's side, whose guest frames are its RAM frames one to one. */
export class PageOffers implements PageAcceptor {
  private readonly pages: GrantedPages;

  constructor(pages: GrantedPages) {
    this.pages = pages;
  }

  offer(domain: number, page: number): number | undefined {
    const { memory } = this.pages;
    const frame = (page - memory.base) / PAGE_SIZE;
    const ref = this.pages.acceptTransfer(domain, page);
    if (ref === undefined) return undefined;
    // The sender finds the place taken, and fails, until this is done.
    memory.bytes.fill(0, page, page + PAGE_SIZE);
    // Marked as ours too, all the time: our own allocator must not hand out a frame that a sender has filled.
    replaceMark(memory, frame, 0, FRAME_FREE);
    removeFromPhysmap(memory, frame);
    return ref;
  }

  accept(ref: number): number | undefined {
    const { memory } = this.pages;
    const { words } = memory;
    const at = entryWord(memory, ref);
    const offered = Atomics.load(words, at) & ~(abi.GTF_TRANSFER_COMMITTED | abi.GTF_TRANSFER_COMPLETED);
    if (Atomics.compareExchange(words, at, offered, 0) === offered) {
      this.takeBack();
      return undefined;
    }
    const end = Date.now() + COMPLETION_MS;
    while (!isTransferred(memory, ref)) {
      // A sender that died in between: the place is ours again, the frame it had taken is lost until our end.
      if (Date.now() > end) return undefined;
    }
    const offset = removeFromPhysmap(memory, Atomics.load(words, at + 1) >>> 0);
    Atomics.store(words, at, 0);
    if (offset < 0) return undefined;
    placeInPhysmap(memory, offset / PAGE_SIZE, fileOffset(offset));
    return memory.base + offset;
  }

  /** A frame of our own in the place of one that was given back. */
  private takeBack(): void {
    const { memory } = this.pages;
    const offset = takeFreeFrame(memory);
    if (offset === undefined) return;
    placeInPhysmap(memory, offset / PAGE_SIZE, offset);
    unmarkFrame(memory, offset / PAGE_SIZE, FRAME_ALLOCATED);
  }
}
