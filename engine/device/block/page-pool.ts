/**
 * A frontend's own pages, and those that it cannot reuse yet because the backend still has them mapped (a page that is
 * mapped elsewhere must never carry other data: XSA-396, XSA-403).
 */
import type { GrantSource } from "../domain-interface.ts";

interface HeldPage {
  readonly page: number;
  readonly ref: number;
}

interface Waiter {
  readonly count: number;
  readonly resolve: (pages: PoolPage[] | undefined) => void;
}

/** A page of the pool; `ref` is a lasting grant of it, while persistent grants are in effect. */
export interface PoolPage {
  readonly page: number;
  ref?: number;
}

export class PagePool {
  private readonly grants: GrantSource;
  private readonly limit: number;
  /** Last in, first out: with persistent grants the backend keeps the most recent ones mapped. */
  private readonly free: PoolPage[] = [];
  private readonly waiters: Waiter[] = [];
  private held: HeldPage[] = [];
  /** Pages of the pool that exist, in use or free. */
  private total = 0;

  /** @param limit most pages that the pool takes from the domain's RAM */
  constructor(grants: GrantSource, limit: number) {
    this.grants = grants;
    this.limit = limit;
  }

  /** Pages that wait for the backend to let go of them. */
  get heldPages(): number {
    return this.held.length;
  }

  /**
   * Takes pages, when enough of them are free; in the order of the calls.
   * @returns undefined when the domain's RAM does not have that many
   */
  take(count: number): Promise<PoolPage[] | undefined> {
    const pages = this.waiters.length === 0 ? this.tryTake(count) : undefined;
    if (pages) return Promise.resolve(pages);
    // Nobody will bring any back.
    if (this.free.length === this.total) return Promise.resolve(undefined);
    return new Promise((resolve) => this.waiters.push({ count, resolve }));
  }

  /** Brings pages back; held ones (see hold) are not to be among them. */
  give(pages: readonly PoolPage[]): void {
    this.free.push(...pages);
    this.serve();
  }

  /** Pages of the pool were handed to hold(): they count no longer. */
  lost(count: number): void {
    this.total -= count;
    this.serve();
  }

  private serve(): void {
    for (let next = this.waiters[0]; next; next = this.waiters[0]) {
      const pages = this.tryTake(next.count);
      if (!pages && this.free.length < this.total) return;
      this.waiters.shift();
      next.resolve(pages);
    }
  }

  private tryTake(count: number): PoolPage[] | undefined {
    while (this.free.length < count && this.total < this.limit) {
      this.reclaim();
      const page = this.grants.allocatePage();
      if (page === undefined) break;
      this.free.push({ page });
      this.total++;
    }
    return this.free.length < count ? undefined : this.free.splice(this.free.length - count, count);
  }

  /** Takes a grant back and frees the page, now or as soon as the backend lets go of it. */
  dispose(page: number, ref: number): void {
    if (this.grants.endAccess(ref)) this.grants.freePage(page);
    else this.hold(page, ref);
  }

  /** Keeps a page whose grant could not be taken back; it is freed when that succeeds. */
  hold(page: number, ref: number): void {
    this.held.push({ page, ref });
  }

  /** Tries again to take back the grants of held pages. */
  reclaim(): void {
    if (this.held.length === 0) return;
    this.held = this.held.filter(({ page, ref }) => {
      if (!this.grants.endAccess(ref)) return true;
      this.grants.freePage(page);
      return false;
    });
  }

  /** Takes lasting grants back (the backend is another domain now) and frees the pages that are not in use. */
  drain(): void {
    for (const { page, ref } of this.free.splice(0)) {
      this.total--;
      if (ref === undefined) this.grants.freePage(page);
      else this.dispose(page, ref);
    }
    this.serve();
  }
}
