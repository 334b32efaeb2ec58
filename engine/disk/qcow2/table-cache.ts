/** Tables of one cluster each, kept in memory up to a number; what was not used for longest goes first, roughly. */
import type { MemoryView } from "../../device/domain-interface.ts";
import { hostBuffer } from "./host-buffer.ts";

export class CachedTable {
  readonly memory: MemoryView;
  /** Set at each use; cleared when the table is passed over once instead of being dropped. */
  used = true;
  /** Number in the table above: L1 index, or index in the refcount table. */
  index = -1;
  /** Bytes in the file. */
  offset = 0;
  /** Bytes [dirtyFrom, dirtyTo) differ from the file. */
  dirtyFrom = 0;
  dirtyTo = 0;

  constructor(memory: MemoryView) {
    this.memory = memory;
  }

  get dirty(): boolean {
    return this.dirtyTo > this.dirtyFrom;
  }

  soil(from: number, to: number): void {
    if (this.dirty) {
      this.dirtyFrom = Math.min(this.dirtyFrom, from);
      this.dirtyTo = Math.max(this.dirtyTo, to);
    } else {
      this.dirtyFrom = from;
      this.dirtyTo = to;
    }
  }

  clean(): void {
    this.dirtyFrom = 0;
    this.dirtyTo = 0;
  }
}

export class TableCache {
  readonly #tables = new Map<number, CachedTable>();
  readonly #spare: CachedTable[] = [];
  readonly #most: number;
  readonly #clusterSize: number;

  constructor(most: number, clusterSize: number) {
    this.#most = most;
    this.#clusterSize = clusterSize;
  }

  get(index: number): CachedTable | undefined {
    const table = this.#tables.get(index);
    if (table) table.used = true;
    return table;
  }

  all(): IterableIterator<CachedTable> {
    return this.#tables.values();
  }

  /**
   * Takes room for one more table, not in the cache yet (put() enters it).
   * @param clean called when the table to be dropped is dirty; a negated errno keeps it
   */
  room(clean: () => number): CachedTable | number {
    const spare = this.#spare.pop();
    if (spare) return spare;
    if (this.#tables.size < this.#most) return new CachedTable(hostBuffer(this.#clusterSize));
    const victim = this.#victim();
    if (victim.dirty) {
      const status = clean();
      if (status < 0) return status;
    }
    this.#tables.delete(victim.index);
    return victim;
  }

  put(table: CachedTable, index: number, offset: number): void {
    table.index = index;
    table.offset = offset;
    table.used = true;
    table.clean();
    this.#tables.set(index, table);
  }

  /** Room that was taken and not put. */
  giveBack(table: CachedTable): void {
    this.#spare.push(table);
  }

  drop(index: number): void {
    const table = this.#tables.get(index);
    if (!table) return;
    this.#tables.delete(index);
    table.clean();
    this.#spare.push(table);
  }

  #victim(): CachedTable {
    for (;;) {
      // A Map goes through its entries in the order of entry: what is passed over is entered again behind the others.
      const [first] = this.#tables.values();
      if (!first) throw new Error("a table cache without room");
      if (!first.used) return first;
      first.used = false;
      this.#tables.delete(first.index);
      this.#tables.set(first.index, first);
    }
  }
}
