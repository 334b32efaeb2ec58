/**
 * Receiving by exchange of pages ("flipping", netif.h's original receive mode): the guest gives a page back to the
 * hypervisor, offers the place where it was (GTF_accept_transfer), and gets another page, with the frame in it, from the
 * backend's pool. Its page count is the same before and after. The domains' memory operations satisfy these interfaces.
 */
import type { MemoryView } from "../domain-interface.ts";

/** The backend's side: a pool of pages of its own, and the right to give them away (GNTTABOP_transfer). About one peer. */
export interface PageExchange {
  /** The backend's own memory, in which the pool's pages lie. */
  readonly memory: MemoryView;
  /**
   * Takes a page out of the pool, zeroed: what the frame does not cover must not tell anything. Whoever implements this
   * refills the pool by as many pages as were transferred (XENMEM_populate_physmap).
   * @returns its byte offset in `memory`, or undefined when there is none
   */
  take(): number | undefined;
  /** Brings back a page that was not transferred. */
  give(page: number): void;
  /**
   * Gives the page to the peer, at the place that its grant entry offers.
   * @returns true: the page is the peer's. false: nothing has happened (no such offer, one that was taken up before, no
   *   room), the page is still ours
   */
  transfer(ref: number, page: number): boolean;
}

/** The frontend's side. */
export interface PageAcceptor {
  /**
   * Gives the page back to the hypervisor and offers its place to `domain`.
   * @returns the grant reference; undefined when the table is full, and then nothing has happened
   */
  offer(domain: number, page: number): number | undefined;
  /**
   * Ends an offer.
   * @returns byte offset in the domain's memory of the page that came and is the domain's own now; or undefined: none has
   *   come, and the domain has got a page of its own back in that place, which it can have again by allocatePage()
   */
  accept(ref: number): number | undefined;
}
