/**
 * The metadata of a qcow2 image as a whole: every reference to every cluster is counted and compared with the refcounts in
 * the file (QEMU's docs/interop/qcow2.txt, and what qemu-img check calls a leak or an error).
 */
import { AUTOCLEAR, EXTENSION, INCOMPATIBLE, type Qcow2Header, readHeader } from "../qcow2/header.ts";
import {
  compressedLength,
  compressedOffset,
  entryOffset,
  getRefcount,
  hasReservedL1Bits,
  hasReservedL2Bits,
  isCompressed,
  isCopied,
  isZero,
  refcountsPerBlock,
} from "../qcow2/tables.ts";
import type { ImageFile, Task } from "./files.ts";
import { step } from "./files.ts";
import { readTable } from "./qcow2-file.ts";

export type ProblemKind =
  /** The refcount is too high: space that nobody uses. Harmless. */
  | "leak"
  /** The refcount is too low: the next allocation may overwrite data. */
  | "refcount"
  /** The flag that allows writing in place contradicts the refcount. */
  | "copied-flag"
  /** An entry of an L1 table, an L2 table, or the refcount table has bits that no valid one has. */
  | "bad-entry"
  /** Something lies behind the end of the file. */
  | "outside"
  /** A cluster is metadata and something else as well. */
  | "overlap"
  | "bad-snapshot"
  | "bad-bitmap";

export interface Problem {
  readonly kind: ProblemKind;
  /** In the file, bytes. */
  readonly offset: number;
  readonly text: string;
}

/** An entry of a table, by its place in the file. */
export interface EntryPlace {
  /** Bytes from the beginning of the file. */
  readonly at: number;
  readonly level: "l1" | "l2";
  readonly why: "bad-entry" | "outside" | "overlap";
  /** Only reserved bits are wrong: without them the entry is a good one. */
  readonly maskable: boolean;
}

/** More problems than these are counted, not kept. */
const KEPT_PROBLEMS = 1000;
/** QEMU's limits of a snapshot's entry. */
const SNAPSHOT_ENTRY = 40;
const MOST_EXTRA = 1024;
const MOST_SNAPSHOT_BYTES = 64 << 20;
const MOST_BITMAPS = 65_535;

/** What a reference is for: the disk's data, an L2 table (which snapshots share), or a structure with one owner. */
const DATA = 0;
const L2 = 1;
const METADATA = 2;
type Purpose = typeof DATA | typeof L2 | typeof METADATA;

/** One internal snapshot, as far as `info` shows it. */
export interface InternalSnapshot {
  readonly id: string;
  readonly name: string;
  /** Seconds since 1970. */
  readonly date: number;
  readonly vmStateSize: number;
  readonly l1Offset: number;
  readonly l1Size: number;
  /** Whether it records the disk's size of its time, without which the disk must not change its own. */
  readonly hasDiskSize: boolean;
}

/** The snapshot table. @returns undefined when it is damaged; `length` in bytes */
export function readSnapshots(
  file: ImageFile,
  header: Qcow2Header,
): { readonly snapshots: readonly InternalSnapshot[]; readonly length: number } | undefined {
  const snapshots: InternalSnapshot[] = [];
  const text = new TextDecoder();
  let length = 0;
  for (let n = 0; n < header.snapshotCount; n++) {
    const at = header.snapshotsOffset + length;
    if (at + SNAPSHOT_ENTRY > file.size || length > MOST_SNAPSHOT_BYTES) return undefined;
    const fixed = readTable(file, at, SNAPSHOT_ENTRY);
    const [idLength, nameLength, extra] = [fixed.getUint16(12), fixed.getUint16(14), fixed.getUint32(36)];
    if (extra > MOST_EXTRA) return undefined;
    const rest = readTable(file, at + SNAPSHOT_ENTRY, extra + idLength + nameLength);
    const bytes = new Uint8Array(rest.buffer);
    const large = extra >= 8 ? Number(rest.getBigUint64(0)) : 0;
    snapshots.push({
      id: text.decode(bytes.subarray(extra, extra + idLength)),
      name: text.decode(bytes.subarray(extra + idLength)),
      date: fixed.getUint32(16),
      vmStateSize: large || fixed.getUint32(32),
      l1Offset: Number(fixed.getBigUint64(0)),
      l1Size: fixed.getUint32(8),
      hasDiskSize: extra >= 16,
    });
    length = Math.ceil((length + SNAPSHOT_ENTRY + extra + idLength + nameLength) / 8) * 8;
  }
  return { snapshots, length };
}

/** What a scan has found. Cluster numbers count in the file. */
export class Scan {
  readonly file: ImageFile;
  readonly header: Qcow2Header;
  /** Clusters of the file, a partial last one counted whole. */
  readonly clusters: number;
  /** References that the tables make, by cluster. */
  readonly references: Uint32Array;
  /** Refcounts that stand in the file, by cluster; 0 where there is no block for them. */
  readonly refcounts: Float64Array;
  /** Offsets of the refcount blocks, in bytes; 0 for what is missing or unusable. */
  readonly blocks: Float64Array;
  /** The refcount table and its blocks are where they may be, each once, and touch nothing else. */
  refcountsUsable = true;
  readonly problems: Problem[] = [];
  leaks = 0;
  errors = 0;
  readonly badEntries: EntryPlace[] = [];
  snapshots: readonly InternalSnapshot[] = [];
  /** Clusters of the disk that the image itself holds, and those of them that are compressed. */
  allocated = 0;
  compressed = 0;
  /** References by structures with one owner, and by L1 tables to L2 tables: of overlaps they are one party. */
  readonly #metadata: Uint32Array;
  readonly #tables2: Uint32Array;

  constructor(file: ImageFile) {
    this.file = file;
    this.header = readHeader(file.descriptor, file.path);
    const { clusterSize, refcountTableClusters, clusterBits, refcountOrder } = this.header;
    this.clusters = Math.ceil(file.size / clusterSize);
    this.references = new Uint32Array(this.clusters);
    this.#metadata = new Uint32Array(this.clusters);
    this.#tables2 = new Uint32Array(this.clusters);
    this.refcounts = new Float64Array(this.clusters);
    const perBlock = refcountsPerBlock(clusterBits, refcountOrder);
    const entries = (refcountTableClusters * clusterSize) / 8;
    this.blocks = new Float64Array(Math.max(entries, Math.ceil(this.clusters / perBlock)));
  }

  get dirty(): boolean {
    return (this.header.incompatible.low & INCOMPATIBLE.dirty) !== 0;
  }

  get corrupt(): boolean {
    return (this.header.incompatible.low & INCOMPATIBLE.corrupt) !== 0;
  }

  /** All is as it should be: no errors, no leaks. */
  get clean(): boolean {
    return this.errors === 0 && this.leaks === 0;
  }

  problem(kind: ProblemKind, offset: number, text: string): void {
    if (kind === "leak") this.leaks++;
    else this.errors++;
    if (this.problems.length < KEPT_PROBLEMS) this.problems.push({ kind, offset, text });
  }

  /** Counts references to a range of the file. @returns false when it lies behind the end */
  #refer(offset: number, length: number, what: Purpose): boolean {
    const { clusterSize } = this.header;
    const first = Math.floor(offset / clusterSize);
    const last = Math.floor((offset + length - 1) / clusterSize);
    if (length === 0) return true;
    if (last >= this.clusters) return false;
    for (let cluster = first; cluster <= last; cluster++) {
      this.references[cluster]!++;
      if (what === METADATA) this.#metadata[cluster]!++;
      else if (what === L2) this.#tables2[cluster]!++;
    }
    return true;
  }

  /** Whether a cluster is metadata and has references besides that. */
  overlaps(offset: number): boolean {
    const cluster = Math.floor(offset / this.header.clusterSize);
    return this.#overlaps(cluster);
  }

  #overlaps(cluster: number): boolean {
    const references = this.references[cluster]!;
    if (this.#metadata[cluster]! > 0) return references > 1;
    return this.#tables2[cluster]! > 0 && references > this.#tables2[cluster]!;
  }

  /** Everything. @throws DiskError "cancelled", or when the file cannot be read */
  async run(task: Task = {}): Promise<this> {
    const { header } = this;
    this.#refer(0, header.clusterSize, METADATA);
    this.#refcountTable();
    await this.#tables(header.l1Offset, header.l1Size, true, task);
    await this.#snapshotTables(task);
    this.#bitmaps();
    this.#findOverlaps();
    this.#compare();
    await this.#checkCopied(task);
    return this;
  }

  #refcountTable(): void {
    const { clusterSize, refcountTableOffset, refcountTableClusters, clusterBits, refcountOrder } = this.header;
    if (!this.#refer(refcountTableOffset, refcountTableClusters * clusterSize, METADATA)) {
      this.problem("outside", refcountTableOffset, "the refcount table lies behind the end of the file");
      this.refcountsUsable = false;
      return;
    }
    const perBlock = refcountsPerBlock(clusterBits, refcountOrder);
    const table = readTable(this.file, refcountTableOffset, refcountTableClusters * clusterSize);
    for (let index = 0; index < table.byteLength / 8; index++) {
      const offset = this.#block(table, index);
      if (offset === 0) continue;
      this.blocks[index] = offset;
      const block = readTable(this.file, offset, clusterSize);
      const covered = Math.min(perBlock, Math.max(0, this.clusters - index * perBlock));
      for (let n = 0; n < covered; n++) {
        this.refcounts[index * perBlock + n] = getRefcount(block, n, refcountOrder);
      }
    }
  }

  /** Offset of a refcount block; 0 when there is none. */
  #block(table: DataView, index: number): number {
    const { clusterSize, refcountTableOffset } = this.header;
    const [high, low] = [table.getUint32(index * 8), table.getUint32(index * 8 + 4)];
    if (high === 0 && low === 0) return 0;
    const offset = high * 2 ** 32 + low;
    if ((low & 0x1ff) !== 0 || offset % clusterSize !== 0) {
      this.problem("bad-entry", refcountTableOffset + index * 8, `entry ${index} of the refcount table is none`);
    } else if (!this.#refer(offset, clusterSize, METADATA)) {
      this.problem("outside", offset, `refcount block ${index} lies behind the end of the file`);
    } else {
      return offset;
    }
    this.refcountsUsable = false;
    return 0;
  }

  /** References of one L1 table, and of all L2 tables that it names. */
  async #tables(l1Offset: number, l1Size: number, active: boolean, task: Task): Promise<void> {
    const { clusterSize } = this.header;
    if (l1Offset % clusterSize !== 0 || !this.#refer(l1Offset, l1Size * 8, METADATA)) {
      this.problem("outside", l1Offset, "an L1 table lies behind the end of the file");
      return;
    }
    const l1 = readTable(this.file, l1Offset, l1Size * 8);
    for (let index = 0; index < l1Size; index++) {
      const [high, low] = [l1.getUint32(index * 8), l1.getUint32(index * 8 + 4)];
      if (high === 0 && low === 0) continue;
      const at = l1Offset + index * 8;
      const offset = entryOffset(high, low);
      const aligned = offset % clusterSize === 0;
      const inside = offset < this.clusters * clusterSize;
      // Flags without a table: its data is lost.
      if (offset === 0 || hasReservedL1Bits(high, low) || !aligned) {
        const maskable = aligned && inside;
        this.problem("bad-entry", at, `entry ${index} of the L1 table at ${l1Offset} is none`);
        this.badEntries.push({ at, level: "l1", why: "bad-entry", maskable });
        if (!maskable) continue;
      }
      if (offset === 0) continue;
      if (!this.#refer(offset, clusterSize, L2)) {
        this.problem("outside", at, `L2 table ${index} lies behind the end of the file`);
        this.badEntries.push({ at, level: "l1", why: "outside", maskable: false });
        continue;
      }
      this.#entries(offset, active);
      await step(task, index, l1Size);
    }
  }

  #entries(l2Offset: number, active: boolean): void {
    const { clusterSize, clusterBits, version } = this.header;
    const table = readTable(this.file, l2Offset, clusterSize);
    for (let byte = 0; byte < clusterSize; byte += 8) {
      const high = table.getUint32(byte);
      const low = table.getUint32(byte + 4);
      if (high === 0 && low === 0) continue;
      const at = l2Offset + byte;
      if (isCompressed(high)) {
        const offset = compressedOffset(high, low, clusterBits);
        const inside = this.#refer(offset, compressedLength(high, low, clusterBits), DATA);
        if (!inside) this.#outside(at, offset);
        if (active) this.compressed++;
      } else {
        const offset = entryOffset(high, low);
        const aligned = offset % clusterSize === 0;
        const reserved = hasReservedL2Bits(high, low, version);
        if (reserved || !aligned) {
          const maskable = reserved && aligned && offset < this.clusters * clusterSize;
          this.problem("bad-entry", at, `the entry at ${at} of an L2 table is none`);
          this.badEntries.push({ at, level: "l2", why: "bad-entry", maskable });
          if (!maskable) continue;
        }
        if (offset !== 0 && !this.#refer(offset, clusterSize, DATA)) this.#outside(at, offset);
        if (active && offset !== 0 && !isZero(low)) this.allocated++;
      }
    }
  }

  #outside(at: number, offset: number): void {
    this.problem("outside", at, `a cluster at ${offset} lies behind the end of the file`);
    this.badEntries.push({ at, level: "l2", why: "outside", maskable: false });
  }

  async #snapshotTables(task: Task): Promise<void> {
    const { header } = this;
    if (header.snapshotCount === 0) return;
    const found = readSnapshots(this.file, header);
    if (found === undefined || !this.#refer(header.snapshotsOffset, found.length, METADATA)) {
      this.problem("bad-snapshot", header.snapshotsOffset, "the table of snapshots is damaged");
      return;
    }
    this.snapshots = found.snapshots;
    for (const { l1Offset, l1Size } of found.snapshots) await this.#tables(l1Offset, l1Size, false, task);
  }

  /** Bitmaps count as long as whoever wrote the image last has kept them. */
  #bitmaps(): void {
    const { header, file } = this;
    const extension = header.extensions.find(({ type }) => type === EXTENSION.bitmaps)?.data;
    if (extension === undefined || extension.length < 24 || (header.autoclear.low & AUTOCLEAR.bitmaps) === 0) return;
    const view = new DataView(extension.buffer, extension.byteOffset, extension.byteLength);
    const [count, size, offset] = [view.getUint32(0), Number(view.getBigUint64(8)), Number(view.getBigUint64(16))];
    if (count > MOST_BITMAPS || size > MOST_SNAPSHOT_BYTES || !this.#refer(offset, size, METADATA)) {
      this.problem("bad-bitmap", offset, "the directory of bitmaps is damaged");
      return;
    }
    const directory = readTable(file, offset, size);
    for (let n = 0, at = 0; n < count && at + 24 <= size; n++) {
      this.#bitmap(Number(directory.getBigUint64(at)), directory.getUint32(at + 8));
      const names = directory.getUint16(at + 18) + directory.getUint32(at + 20);
      at = Math.ceil((at + 24 + names) / 8) * 8;
    }
  }

  #bitmap(offset: number, entries: number): void {
    const { clusterSize } = this.header;
    if (entries * 8 > MOST_SNAPSHOT_BYTES || !this.#refer(offset, entries * 8, METADATA)) {
      this.problem("bad-bitmap", offset, "the table of a bitmap is damaged");
      return;
    }
    const table = readTable(this.file, offset, entries * 8);
    for (let index = 0; index < entries; index++) {
      const data = entryOffset(table.getUint32(index * 8), table.getUint32(index * 8 + 4));
      if (data !== 0 && !this.#refer(data, clusterSize, METADATA)) {
        this.problem("bad-bitmap", data, "a bitmap lies behind the end of the file");
      }
    }
  }

  #findOverlaps(): void {
    const { clusterSize } = this.header;
    for (let cluster = 0; cluster < this.clusters; cluster++) {
      if (!this.#overlaps(cluster)) continue;
      this.problem("overlap", cluster * clusterSize, `the cluster at ${cluster * clusterSize} is metadata and more`);
    }
    if (this.blocks.some((offset) => offset !== 0 && this.overlaps(offset))) this.refcountsUsable = false;
    const { refcountTableOffset, refcountTableClusters } = this.header;
    for (let n = 0; n < refcountTableClusters; n++) {
      const offset = refcountTableOffset + n * clusterSize;
      if (offset < this.clusters * clusterSize && this.overlaps(offset)) this.refcountsUsable = false;
    }
  }

  #compare(): void {
    const { clusterSize } = this.header;
    for (let cluster = 0; cluster < this.clusters; cluster++) {
      const [wanted, found] = [this.references[cluster]!, this.refcounts[cluster]!];
      if (wanted === found) continue;
      const offset = cluster * clusterSize;
      const text = `the cluster at ${offset} has refcount ${found} and ${wanted} references`;
      this.problem(found > wanted ? "leak" : "refcount", offset, text);
    }
  }

  /** The flags of the disk's own tables; a snapshot's do not count. */
  async #checkCopied(task: Task): Promise<void> {
    const { clusterSize, l1Offset, l1Size } = this.header;
    if (l1Offset + l1Size * 8 > this.file.size) return;
    await forEachEntry(this, task, (at, high, low, level) => {
      if (level === "l2" && isCompressed(high)) {
        if (isCopied(high)) this.problem("copied-flag", at, "a compressed cluster carries the flag of one of its own");
        return;
      }
      const offset = entryOffset(high, low);
      if (offset === 0 || offset % clusterSize !== 0) return;
      const refcount = this.refcounts[offset / clusterSize] ?? 0;
      if ((refcount === 1) === isCopied(high)) return;
      this.problem("copied-flag", at, `the flag of the entry at ${at} contradicts refcount ${refcount}`);
    });
  }
}

/** A table that entries were changed in. */
export type EntryVisitor = (at: number, high: number, low: number, level: "l1" | "l2") => void;

/** Visits the entries of the disk's own L1 and L2 tables that are not 0, by their place in the file. */
export async function forEachEntry(scan: Scan, task: Task, visit: EntryVisitor): Promise<void> {
  const { file, header, clusters } = scan;
  const { l1Offset, l1Size, clusterSize } = header;
  const l1 = readTable(file, l1Offset, l1Size * 8);
  for (let index = 0; index < l1Size; index++) {
    const [high, low] = [l1.getUint32(index * 8), l1.getUint32(index * 8 + 4)];
    if (high === 0 && low === 0) continue;
    visit(l1Offset + index * 8, high, low, "l1");
    const offset = entryOffset(high, low);
    if (offset === 0 || offset % clusterSize !== 0 || offset >= clusters * clusterSize) continue;
    const table = readTable(file, offset, clusterSize);
    for (let byte = 0; byte < clusterSize; byte += 8) {
      const [entryHigh, entryLow] = [table.getUint32(byte), table.getUint32(byte + 4)];
      if (entryHigh !== 0 || entryLow !== 0) visit(offset + byte, entryHigh, entryLow, "l2");
    }
    await step(task, index, l1Size);
  }
}
