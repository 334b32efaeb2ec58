/**
 * Refcounts of an image that is written: looked up, changed, and searched for free clusters.
 *
 * Changes go to the file at once, so a cluster that anything refers to has its refcount in the file before the reference.
 * Data clusters are taken in batches: a batch is counted as used with one write and handed out from memory; what is left of it
 * is given back when the image is closed. Results are numbers, negative ones negated errnos.
 */
import { constants } from "node:os";
import type { MemoryView } from "../../device/domain-interface.ts";
import type { ClusterSet } from "./cluster-set.ts";
import { LIMITS, type Qcow2Header } from "./header.ts";
import { hostBuffer } from "./host-buffer.ts";
import type { ImageFile } from "./image-file.ts";
import { DAMAGED } from "./status.ts";
import { type CachedTable, TableCache } from "./table-cache.ts";
import { entryHigh, entryLow, entryOffset, getRefcount, refcountsPerBlock, setRefcount } from "./tables.ts";

const { EFBIG } = constants.errno;
/** Bytes of clusters taken at once. */
const BATCH = 4 << 20;
const MOST_CACHED = 16 << 20;
/** Bytes behind the end of the file that may be counted as used: batches of writers that were killed. */
const SLACK = 64 << 20;

/** Where a new refcount table lies, for the header. */
export interface RefcountTablePlace {
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
}

export class Refcounts {
  /** Clusters that the last allocate() handed out. */
  granted = 0;
  readonly #file: ImageFile;
  readonly #metadata: ClusterSet;
  readonly #moveTable: (place: RefcountTablePlace) => number;
  readonly #clusterSize: number;
  readonly #order: number;
  readonly #perBlock: number;
  readonly #cache: TableCache;
  #table: MemoryView;
  #tableOffset: number;
  #tableClusters: number;
  /** No cluster below is free. */
  #hint = 0;
  /** Clusters counted as used and not handed out. */
  #reserved = 0;
  #reservedEnd = 0;

  /**
   * @param table contents of the refcount table
   * @param metadata clusters of tables; kept up to date here for refcount blocks and the refcount table
   * @param moveTable writes the place of a larger refcount table into the header, durably
   */
  constructor(
    file: ImageFile,
    header: Qcow2Header,
    table: MemoryView,
    metadata: ClusterSet,
    moveTable: (place: RefcountTablePlace) => number,
  ) {
    this.#file = file;
    this.#metadata = metadata;
    this.#moveTable = moveTable;
    this.#clusterSize = header.clusterSize;
    this.#order = header.refcountOrder;
    this.#perBlock = refcountsPerBlock(header.clusterBits, header.refcountOrder);
    this.#cache = new TableCache(Math.max(4, MOST_CACHED / header.clusterSize), header.clusterSize);
    this.#table = table;
    this.#tableOffset = header.refcountTableOffset;
    this.#tableClusters = header.refcountTableClusters;
  }

  get #tableEntries(): number {
    return (this.#tableClusters * this.#clusterSize) / 8;
  }

  get(cluster: number): number {
    const index = Math.floor(cluster / this.#perBlock);
    const block = this.#block(index);
    if (typeof block === "number") return block;
    return block ? getRefcount(block.memory.view, cluster - index * this.#perBlock, this.#order) : 0;
  }

  /** Sets the refcounts of clusters whose blocks are there. */
  setRange(first: number, count: number, value: number): number {
    for (let cluster = first; cluster < first + count; ) {
      const index = Math.floor(cluster / this.#perBlock);
      const start = index * this.#perBlock;
      const stop = Math.min(first + count, start + this.#perBlock);
      const block = this.#block(index);
      if (typeof block === "number") return block;
      if (!block) return DAMAGED;
      for (let i = cluster; i < stop; i++) setRefcount(block.memory.view, i - start, this.#order, value);
      const from = ((cluster - start) << this.#order) >>> 3;
      const to = (((stop - start) << this.#order) + 7) >>> 3;
      const status = this.#file.writeBytes(block.offset + from, block.memory, from, to - from);
      if (status < 0) {
        // What is in the file counts, whatever of it was written.
        this.#cache.drop(index);
        return status;
      }
      cluster = stop;
    }
    if (value === 0) this.#hint = Math.min(this.#hint, first);
    return 0;
  }

  /** Takes one reference away. @returns the refcount now; DAMAGED: there was none */
  drop(cluster: number): number {
    const before = this.get(cluster);
    if (before <= 0) return before === 0 ? DAMAGED : before;
    const status = this.setRange(cluster, 1, before - 1);
    return status < 0 ? status : before - 1;
  }

  /** Takes up to `most` neighbouring clusters for data; their number is in `granted`. @returns the first */
  allocate(most: number): number {
    if (this.#reserved === this.#reservedEnd) {
      const status = this.#reserve(Math.max(most, Math.floor(BATCH / this.#clusterSize)));
      if (status < 0) return status;
    }
    const first = this.#reserved;
    this.granted = Math.min(most, this.#reservedEnd - first);
    this.#reserved += this.granted;
    return first;
  }

  /** Gives back clusters of the last allocate(), to which nothing refers. */
  giveBack(first: number, count: number): void {
    if (first + count === this.#reserved) this.#reserved = first;
    // When the file cannot even take this, the clusters are leaked until the image is checked.
    else this.setRange(first, count, 0);
  }

  /** Gives back what is reserved and not in use. */
  releaseReserved(): number {
    const first = this.#reserved;
    const count = this.#reservedEnd - first;
    this.#reserved = this.#reservedEnd;
    return count === 0 ? 0 : this.setRange(first, count, 0);
  }

  /** Takes exactly `count` neighbouring clusters for a table. @returns the first */
  allocateExactly(count: number): number {
    if (count === 1) return this.allocate(1);
    const run = this.#findRun(count, count, false);
    if (run < 0) return run;
    if (run > 0) {
      const status = this.setRange(run, count, 1);
      return status < 0 ? status : run;
    }
    return this.#append(count);
  }

  #reserve(most: number): number {
    const first = this.#findRun(1, most, true);
    if (first < 0) return first;
    if (this.#isFarOut(first)) return DAMAGED;
    const status = this.setRange(first, this.granted, 1);
    if (status < 0) return status;
    this.#reserved = first;
    this.#reservedEnd = first + this.granted;
    this.#hint = this.#reservedEnd;
    return 0;
  }

  /**
   * Finds at least `least` free neighbours, up to `most` (in `granted`).
   * @param grow whether blocks are made for parts of the file that have none; 0 is answered when there is no run without
   */
  #findRun(least: number, most: number, grow: boolean): number {
    let first = -1;
    let count = 0;
    for (let cluster = this.#hint; count < most; cluster++) {
      const index = Math.floor(cluster / this.#perBlock);
      const block = this.#block(index);
      if (typeof block === "number") return block;
      if (!block) {
        if (count >= least) break;
        if (!grow) return 0;
        const status = this.#makeBlock(index);
        if (status < 0) return status;
        first = -1;
        count = 0;
        // Its own cluster, the first of those that it counts, is in use by now; making it may have freed others.
        cluster = Math.min(index * this.#perBlock, this.#hint) - 1;
        continue;
      }
      if (getRefcount(block.memory.view, cluster - index * this.#perBlock, this.#order) !== 0) {
        if (count >= least) break;
        count = 0;
        first = -1;
        continue;
      }
      // A table in a cluster that counts as free: writing there would destroy it.
      if (this.#metadata.has(cluster) || cluster === 0) return DAMAGED;
      if (first < 0) first = cluster;
      count++;
    }
    this.granted = count;
    return first;
  }

  #block(index: number): CachedTable | undefined | number {
    const cached = this.#cache.get(index);
    if (cached) return cached;
    if (index >= this.#tableEntries) return undefined;
    const high = this.#table.view.getUint32(index * 8);
    const low = this.#table.view.getUint32(index * 8 + 4);
    const offset = entryOffset(high, low);
    if (high === 0 && low === 0) return undefined;
    if (offset === 0 || offset % this.#clusterSize !== 0 || offset >= this.#file.end || low & 511) return DAMAGED;
    const block = this.#cache.room(() => 0);
    if (typeof block === "number") return block;
    const status = this.#file.readBytes(offset, block.memory, 0, this.#clusterSize);
    if (status < 0) {
      this.#cache.giveBack(block);
      return status;
    }
    this.#cache.put(block, index, offset);
    return block;
  }

  /** A block for a part of the file that has none lies in that part's first cluster: it counts itself. */
  #makeBlock(index: number): number {
    while (index >= this.#tableEntries) {
      const status = this.#growTable(index + 1);
      if (status < 0) return status;
    }
    const at = index * 8;
    if (this.#table.view.getUint32(at) !== 0 || this.#table.view.getUint32(at + 4) !== 0) return 0;
    const status = this.#writeBlocks(index, 1, 0);
    return status < 0 ? status : this.#enterBlocks(index, 1);
  }

  /** Writes `blocks` refcount blocks at the first cluster that they count, and counts `more` clusters behind them. */
  #writeBlocks(index: number, blocks: number, more: number): number {
    const first = index * this.#perBlock;
    const used = blocks + more;
    if (this.#metadata.hasAny(first, used)) return DAMAGED;
    const memory = hostBuffer(blocks * this.#clusterSize);
    for (let i = 0; i < used; i++) setRefcount(memory.view, i, this.#order, 1);
    return this.#file.writeBytes(first * this.#clusterSize, memory, 0, blocks * this.#clusterSize);
  }

  /** Enters blocks that #writeBlocks() has written into the table. */
  #enterBlocks(index: number, blocks: number): number {
    const durable = this.#file.sync();
    if (durable < 0) return durable;
    this.#nameBlocks(this.#table, index, blocks);
    const status = this.#file.writeBytes(this.#tableOffset + index * 8, this.#table, index * 8, blocks * 8);
    if (status < 0) {
      this.#table.bytes.fill(0, index * 8, (index + blocks) * 8);
      return status;
    }
    this.#metadata.add(index * this.#perBlock, blocks);
    return 0;
  }

  #nameBlocks(table: MemoryView, index: number, blocks: number): void {
    for (let i = 0; i < blocks; i++) {
      const offset = (index * this.#perBlock + i) * this.#clusterSize;
      table.view.setUint32((index + i) * 8, entryHigh(offset, false));
      table.view.setUint32((index + i) * 8 + 4, entryLow(offset));
    }
  }

  /** First block number behind all that exist. */
  #behindAll(): number {
    let index = this.#tableEntries;
    while (index > 0 && this.#table.words[index * 2 - 2] === 0 && this.#table.words[index * 2 - 1] === 0) index--;
    return index;
  }

  /** No writer has come this far behind the end of the file: the refcounts are made up. */
  #isFarOut(cluster: number): boolean {
    return cluster * this.#clusterSize > this.#file.end + SLACK + 2 * this.#perBlock * this.#clusterSize;
  }

  #blocksFor(payload: number): number {
    let blocks = 1;
    while (blocks * this.#perBlock < blocks + payload) blocks = Math.ceil((blocks + payload) / this.#perBlock);
    return blocks;
  }

  /** Takes `count` clusters behind all that are counted so far, with blocks of their own. */
  #append(count: number): number {
    const blocks = this.#blocksFor(count);
    while (this.#behindAll() + blocks > this.#tableEntries) {
      const status = this.#growTable(this.#behindAll() + blocks);
      if (status < 0) return status;
    }
    const index = this.#behindAll();
    if (this.#isFarOut(index * this.#perBlock)) return DAMAGED;
    const status = this.#writeBlocks(index, blocks, count);
    if (status < 0) return status;
    const entered = this.#enterBlocks(index, blocks);
    return entered < 0 ? entered : index * this.#perBlock + blocks;
  }

  /** A larger refcount table, behind all that is counted so far, with the blocks that count it. */
  #growTable(entries: number): number {
    const index = this.#behindAll();
    if (this.#isFarOut(index * this.#perBlock)) return DAMAGED;
    // Its own blocks, and half as much again, so that growing stays rare.
    let clusters = Math.ceil(((entries + 2) * 12) / this.#clusterSize);
    clusters = Math.max(clusters, this.#tableClusters + 1);
    while ((clusters * this.#clusterSize) / 8 < Math.max(entries, index + this.#blocksFor(clusters))) clusters++;
    if (clusters * this.#clusterSize > LIMITS.refcountTable) return -EFBIG;
    const blocks = this.#blocksFor(clusters);
    const table = hostBuffer(clusters * this.#clusterSize);
    table.bytes.set(this.#table.bytes.subarray(0, this.#tableClusters * this.#clusterSize));
    this.#nameBlocks(table, index, blocks);
    const first = index * this.#perBlock;
    const offset = (first + blocks) * this.#clusterSize;
    let status = this.#writeBlocks(index, blocks, clusters);
    if (status >= 0) status = this.#file.writeBytes(offset, table, 0, clusters * this.#clusterSize);
    if (status >= 0) status = this.#file.sync();
    if (status >= 0) status = this.#moveTable({ refcountTableOffset: offset, refcountTableClusters: clusters });
    if (status < 0) return status;
    this.#metadata.add(first, blocks + clusters);
    const old = this.#tableOffset / this.#clusterSize;
    const oldClusters = this.#tableClusters;
    this.#table = table;
    this.#tableOffset = offset;
    this.#tableClusters = clusters;
    this.#metadata.delete(old, oldClusters);
    return this.setRange(old, oldClusters, 0);
  }
}
