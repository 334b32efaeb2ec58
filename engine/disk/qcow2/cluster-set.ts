/** A set of cluster numbers, in bit maps for the parts of the file where there are any. */

const PAGE_BITS = 16;
const PAGE = 2 ** PAGE_BITS;

export class ClusterSet {
  readonly #pages = new Map<number, Uint32Array>();
  #lastNumber = -1;
  #last: Uint32Array | undefined;

  has(cluster: number): boolean {
    const number = Math.floor(cluster / PAGE);
    if (number !== this.#lastNumber) {
      this.#lastNumber = number;
      this.#last = this.#pages.get(number);
    }
    if (!this.#last) return false;
    const bit = cluster - number * PAGE;
    return ((this.#last[bit >>> 5]! >>> (bit & 31)) & 1) !== 0;
  }

  hasAny(first: number, count: number): boolean {
    for (let i = 0; i < count; i++) if (this.has(first + i)) return true;
    return false;
  }

  /** @returns false when one of them was in the set before */
  add(first: number, count: number): boolean {
    let fresh = true;
    for (let cluster = first; cluster < first + count; cluster++) {
      if (this.has(cluster)) fresh = false;
      const number = Math.floor(cluster / PAGE);
      let page = this.#pages.get(number);
      if (!page) {
        page = new Uint32Array(PAGE / 32);
        this.#pages.set(number, page);
        this.#lastNumber = -1;
      }
      const bit = cluster - number * PAGE;
      page[bit >>> 5]! |= 1 << (bit & 31);
    }
    return fresh;
  }

  delete(first: number, count: number): void {
    for (let cluster = first; cluster < first + count; cluster++) {
      const number = Math.floor(cluster / PAGE);
      const bit = cluster - number * PAGE;
      const page = this.#pages.get(number);
      if (page) page[bit >>> 5]! &= ~(1 << (bit & 31));
    }
  }
}
