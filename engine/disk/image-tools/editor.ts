/**
 * Changing a qcow2 image that nobody else uses: clusters of the disk are given data, zeros or nothing, in batches that are
 * valid as a whole. The order of writing keeps the image sound at every moment, for a process that is killed as well as for
 * a host that loses power: data, refcounts and new tables first, then, once these are durable, the entries that name them,
 * and only then the refcounts of what nobody names any more. What a crash leaves is leaks.
 */
import { hostIo } from "../host-io.ts";
import { encodeHeader, type Qcow2Header } from "../qcow2/header.ts";
import {
  compressedLength,
  compressedOffset,
  entryHigh,
  entryLow,
  entryOffset,
  isCompressed,
  isCopied,
  largestRefcount,
  refcountsPerBlock,
  setRefcount,
} from "../qcow2/tables.ts";
import type { ImageFile } from "./files.ts";
import { damage, Qcow2File, readTable } from "./qcow2-file.ts";
import type { Scan } from "./scan.ts";

/** An L2 table that has been changed and not yet written. */
interface ChangedTable {
  readonly view: DataView;
  readonly offset: number;
  /** Not named by the L1 table in the file yet. */
  readonly fresh: boolean;
}

/** Largest refcount table, QEMU's limit. */
const MOST_TABLE_BYTES = 8 << 20;

export class Qcow2Editor extends Qcow2File {
  /** By cluster of the file. */
  #refcounts: Float64Array;
  #blocks: number[];
  #hint = 1;
  readonly #dirtyBlocks = new Set<number>();
  readonly #newBlocks = new Set<number>();
  readonly #changed = new Map<number, ChangedTable>();
  /** Cluster numbers that lose a reference once the entries are durable. */
  readonly #freed: number[] = [];
  /** False while a file is being made that has no name yet: there is nothing to keep sound. */
  readonly #durable: boolean;
  readonly #perBlock: number;

  /** @param scan of the same file: without errors */
  constructor(file: ImageFile, scan: Scan, durable = true) {
    super(file);
    const { header } = this;
    this.#durable = durable;
    this.#refcounts = scan.refcounts;
    this.#perBlock = refcountsPerBlock(header.clusterBits, header.refcountOrder);
    const entries = (header.refcountTableClusters * header.clusterSize) / 8;
    this.#blocks = Array.from({ length: entries }, (_, index) => scan.blocks[index] ?? 0);
  }

  /** Gives whole clusters of the disk this content. `bytes` is a multiple of the cluster size. */
  async putData(first: number, bytes: Uint8Array): Promise<void> {
    const { clusterSize } = this;
    const count = bytes.length / clusterSize;
    const host = this.#allocate(count) * clusterSize;
    await this.file.write(bytes, host);
    for (let n = 0; n < count; n++) {
      this.#set(first + n, entryHigh(host + n * clusterSize, true), entryLow(host + n * clusterSize));
    }
  }

  /** Makes a cluster of the disk read as zero. */
  async putZero(index: number): Promise<void> {
    if (this.header.version === 2) await this.putData(index, new Uint8Array(this.clusterSize));
    else this.#set(index, 0, 1);
  }

  /** Leaves a cluster of the disk to the backing image. */
  putAbsent(index: number): void {
    if (this.state(index).kind !== "absent") this.#set(index, 0, 0);
  }

  override l2(l1Index: number): DataView | undefined {
    return this.#changed.get(l1Index)?.view ?? super.l2(l1Index);
  }

  /** Makes everything since the last flush part of the image. */
  async flush(): Promise<void> {
    for (const table of this.#changed.values()) if (table.fresh) this.#writeTable(table);
    await this.#writeRefcounts();
    await this.#sync();
    for (const [l1Index, table] of this.#changed) {
      if (!table.fresh) this.#writeTable(table);
      else
        this.file.writeSync(
          new Uint8Array(this.l1.buffer, this.l1.byteOffset + l1Index * 8, 8),
          this.header.l1Offset + l1Index * 8,
        );
    }
    this.#changed.clear();
    this.forgetTable();
    await this.#release();
  }

  /** Gives the header new fields, in one write. @returns false when its names do not fit into the first cluster */
  async setHeader(changes: Partial<Qcow2Header>): Promise<boolean> {
    const header = { ...this.header, ...changes };
    const bytes = encodeHeader(header);
    if (bytes === undefined) return false;
    await this.#sync();
    await this.#writeHeader(bytes, header.backingFile);
    this.header = header;
    return true;
  }

  /** Room for an L1 table with this many entries; the entries there are stay, the others are zero. */
  async growL1(entries: number, changes: Partial<Qcow2Header>): Promise<void> {
    const { header, clusterSize } = this;
    const had = Math.ceil((header.l1Size * 8) / clusterSize);
    const clusters = Math.ceil((entries * 8) / clusterSize);
    const table = new Uint8Array(clusters * clusterSize);
    table.set(new Uint8Array(this.l1.buffer, this.l1.byteOffset, header.l1Size * 8));
    const moves = clusters > had;
    const l1Offset = moves ? this.#allocate(clusters) * clusterSize : header.l1Offset;
    // In place only the zeros behind its end are new, and they belong to the table as it is.
    this.file.writeSync(table, l1Offset);
    await this.#writeRefcounts();
    await this.setHeader({ ...changes, l1Offset, l1Size: entries });
    this.l1 = readTable(this.file, l1Offset, entries * 8);
    if (!moves) return;
    for (let n = 0; n < had; n++) this.#freed.push(header.l1Offset / clusterSize + n);
    await this.#release();
  }

  /** Writes an entry of the changed table for cluster `index`; what it named before is freed with the next flush. */
  #set(index: number, high: number, low: number): void {
    const l1Index = Math.floor(index / this.entriesPerL2);
    const { view } = this.#tableFor(l1Index);
    const at = (index % this.entriesPerL2) * 8;
    this.#forget(view.getUint32(at), view.getUint32(at + 4));
    view.setUint32(at, high);
    view.setUint32(at + 4, low);
  }

  #forget(high: number, low: number): void {
    const { clusterSize, header } = this;
    let [first, length] = [entryOffset(high, low), clusterSize];
    if (isCompressed(high)) {
      first = compressedOffset(high, low, header.clusterBits);
      length = compressedLength(high, low, header.clusterBits);
    } else if (first === 0) return;
    const last = Math.floor((first + length - 1) / clusterSize);
    for (let cluster = Math.floor(first / clusterSize); cluster <= last; cluster++) this.#freed.push(cluster);
  }

  /** The table of an L1 entry, to be changed: a new one where there is none, or where a snapshot shares it. */
  #tableFor(l1Index: number): ChangedTable {
    const known = this.#changed.get(l1Index);
    if (known) return known;
    const old = this.l2Offset(l1Index);
    const view = super.l2(l1Index) ?? new DataView(new ArrayBuffer(this.clusterSize));
    const own = old !== undefined && isCopied(this.l1.getUint32(l1Index * 8));
    const offset = own ? old : this.#allocate(1) * this.clusterSize;
    if (!own) {
      if (old !== undefined) this.#freed.push(old / this.clusterSize);
      this.l1.setUint32(l1Index * 8, entryHigh(offset, true));
      this.l1.setUint32(l1Index * 8 + 4, entryLow(offset));
    }
    const table = { view, offset, fresh: !own };
    this.#changed.set(l1Index, table);
    return table;
  }

  #writeTable({ view, offset }: ChangedTable): void {
    this.file.writeSync(new Uint8Array(view.buffer, view.byteOffset, view.byteLength), offset);
  }

  /** Neighbouring free clusters of the file, the first from the hint on. @returns the first one's number */
  #allocate(count: number): number {
    let first = this.#hint;
    for (let n = 0; n < count; n++) {
      if (first + n < this.#refcounts.length && this.#refcounts[first + n] !== 0) {
        first += n + 1;
        n = -1;
      }
    }
    for (let n = 0; n < count; n++) this.#count(first + n, 1);
    this.#hint = first + count;
    return first;
  }

  #count(cluster: number, change: number): void {
    if (cluster >= this.#refcounts.length) {
      const longer = new Float64Array(Math.max(cluster + 1, this.#refcounts.length * 2, 1024));
      longer.set(this.#refcounts);
      this.#refcounts = longer;
    }
    const refcount = this.#refcounts[cluster]! + change;
    if (refcount < 0 || refcount > largestRefcount(this.header.refcountOrder)) {
      throw damage(this.file.path, `the refcount of the cluster at ${cluster * this.clusterSize} is wrong`);
    }
    this.#refcounts[cluster] = refcount;
    this.#dirtyBlocks.add(Math.floor(cluster / this.#perBlock));
  }

  /** Writes changed blocks; makes those that are missing, and a larger table when the old one is full. */
  async #writeRefcounts(): Promise<void> {
    let table: { readonly first: number; readonly clusters: number } | undefined;
    // New blocks and a new table need refcounts themselves, which may make further blocks dirty: the set grows under us.
    for (const index of this.#dirtyBlocks) {
      if (index >= this.#blocks.length) table = this.#longerTable(index + 1, table);
      if (this.#blocks[index] !== 0) continue;
      this.#blocks[index] = this.#allocate(1) * this.clusterSize;
      this.#newBlocks.add(index);
    }
    for (const index of this.#dirtyBlocks) this.#writeBlock(index);
    this.#dirtyBlocks.clear();
    if (table) await this.#replaceTable(table);
    else if (this.#newBlocks.size > 0) {
      await this.#sync();
      for (const index of this.#newBlocks) {
        const entry = new DataView(new ArrayBuffer(8));
        entry.setBigUint64(0, BigInt(this.#blocks[index]!));
        this.file.writeSync(new Uint8Array(entry.buffer), this.header.refcountTableOffset + index * 8);
      }
    }
    this.#newBlocks.clear();
  }

  #writeBlock(index: number): void {
    const block = new DataView(new ArrayBuffer(this.clusterSize));
    const first = index * this.#perBlock;
    const covered = Math.min(this.#perBlock, this.#refcounts.length - first);
    for (let n = 0; n < covered; n++) {
      const refcount = this.#refcounts[first + n]!;
      if (refcount !== 0) setRefcount(block, n, this.header.refcountOrder, refcount);
    }
    this.file.writeSync(new Uint8Array(block.buffer), this.#blocks[index]!);
  }

  /** Finds room for a table of at least so many entries; `previous` is one planned a moment ago, too short already. */
  #longerTable(entries: number, previous: { readonly first: number; readonly clusters: number } | undefined) {
    const { clusterSize, header } = this;
    for (let n = 0; n < (previous?.clusters ?? 0); n++) this.#count((previous?.first ?? 0) + n, -1);
    const clusters = Math.max(Math.ceil((entries * 8) / clusterSize), header.refcountTableClusters * 2);
    if (clusters * clusterSize > MOST_TABLE_BYTES) {
      throw damage(this.file.path, "it is too large for the refcounts of its cluster size");
    }
    const first = this.#allocate(clusters);
    while (this.#blocks.length < (clusters * clusterSize) / 8) this.#blocks.push(0);
    return { first, clusters };
  }

  async #replaceTable({ first, clusters }: { readonly first: number; readonly clusters: number }): Promise<void> {
    const { clusterSize, header } = this;
    const table = new DataView(new ArrayBuffer(clusters * clusterSize));
    for (const [index, block] of this.#blocks.entries()) table.setBigUint64(index * 8, BigInt(block));
    this.file.writeSync(new Uint8Array(table.buffer), first * clusterSize);
    for (let n = 0; n < header.refcountTableClusters; n++) {
      this.#freed.push(header.refcountTableOffset / clusterSize + n);
    }
    await this.setHeader({ refcountTableOffset: first * clusterSize, refcountTableClusters: clusters });
  }

  /** Takes back the references of what nobody names any more, and gives its space back to the file system. */
  async #release(): Promise<void> {
    const { clusterSize } = this;
    const io = hostIo();
    while (this.#freed.length > 0) {
      await this.#sync();
      const freed = this.#freed.splice(0);
      for (const cluster of freed) this.#count(cluster, -1);
      await this.#writeRefcounts();
      for (const cluster of freed) {
        if (this.#refcounts[cluster] !== 0) continue;
        // Where holes cannot be made the space is used again later.
        io.punchHole(this.file.descriptor, cluster * clusterSize, clusterSize);
        this.#hint = Math.min(this.#hint, cluster);
      }
    }
  }

  async #sync(): Promise<void> {
    if (this.#durable) await this.file.sync();
  }

  /**
   * A header of one sector is replaced as a whole whatever happens. A long backing name therefore goes first to a place that
   * the old one does not use.
   */
  async #writeHeader(bytes: Uint8Array, name: string | undefined): Promise<void> {
    const nameLength = name === undefined ? 0 : new TextEncoder().encode(name).length;
    const fixed = bytes.length - nameLength;
    if (bytes.length > SECTOR && fixed <= SECTOR && this.clusterSize >= NAME_PLACES.room) {
      const used = Number(readTable(this.file, 8, 8).getBigUint64(0));
      const place = used === NAME_PLACES.first ? NAME_PLACES.second : NAME_PLACES.first;
      this.file.writeSync(bytes.subarray(fixed), place);
      await this.#sync();
      const sector = new Uint8Array(SECTOR);
      sector.set(bytes.subarray(0, fixed));
      new DataView(sector.buffer).setBigUint64(8, BigInt(place));
      this.file.writeSync(sector, 0);
    } else {
      const whole = new Uint8Array(Math.max(SECTOR, bytes.length));
      whole.set(bytes);
      this.file.writeSync(whole, 0);
    }
    await this.#sync();
  }
}

const SECTOR = 512;
/** Two places for a name of up to 1023 bytes in the first 4 KiB: behind the header, and behind each other. */
const NAME_PLACES = { first: 1024, second: 2560, room: 4096 } as const;
