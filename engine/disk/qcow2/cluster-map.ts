/**
 * Where the clusters of one image lie: the L1 table, and the L2 tables as they are needed. Everything that stands in them
 * is checked when it is used.
 */
import type { MemoryView } from "../../device/domain-interface.ts";
import { bytesPerL2, type Qcow2Header } from "./header.ts";
import { hostBuffer } from "./host-buffer.ts";
import type { ImageFile } from "./image-file.ts";
import type { JournalRecord } from "./journal.ts";
import { DAMAGED } from "./status.ts";
import { type CachedTable, TableCache } from "./table-cache.ts";
import {
  compressedLength,
  compressedOffset,
  entryOffset,
  hasReservedL1Bits,
  hasReservedL2Bits,
  isCompressed,
  isCopied,
  isZero,
} from "./tables.ts";

const TWO_TO_32 = 2 ** 32;
/** Where data may lie at most, bytes: an entry can say more, but no file is as large, and sums with it would not be exact. */
const MOST_OFFSET = 2 ** 52;

/** How a cluster is stored. */
export const STORED = { nowhere: 0, zero: 1, data: 2, compressed: 3 } as const;
export type Stored = (typeof STORED)[keyof typeof STORED];

/** Disk whose L2 tables are kept in memory, in bytes, as far as the other limit allows it. */
const COVERED = 64 * 2 ** 30;
/** Bytes of L2 tables kept of one image at most, where clusters are small. */
const MOST_CACHED = 32 << 20;

export class ClusterMap {
  readonly file: ImageFile;
  readonly header: Qcow2Header;
  readonly cache: TableCache;
  /** Entries of the L1 table as they stand in the file. */
  l1: MemoryView;
  l1Size: number;
  /** Bytes of the disk. */
  size: number;

  // What locate() found.
  /** How the run is stored. */
  kind: Stored = STORED.nowhere;
  /** Bytes from the offset on that are stored so. */
  run = 0;
  /** Of data: where the run lies in the file. Of compressed data: where it begins. */
  host = 0;
  /** Of compressed data: its length in the file. */
  hostLength = 0;
  /** Of data: nobody else refers to it. */
  copied = false;
  /** Called before a changed table is dropped from memory: the writer's, which makes all of them clean. */
  clean: () => number = () => 0;

  readonly #clusterSize: number;
  readonly #tableBytes: number;
  /** Entries that the file does not have yet (an image read while its last writer was killed), by L2 table's offset. */
  readonly #overrides = new Map<number, JournalRecord[]>();
  #last: CachedTable | undefined;

  constructor(file: ImageFile, header: Qcow2Header, l1: MemoryView) {
    this.file = file;
    this.header = header;
    this.l1 = l1;
    this.l1Size = header.l1Size;
    this.size = header.size;
    this.#clusterSize = header.clusterSize;
    this.#tableBytes = bytesPerL2(header.clusterBits);
    const tables = Math.min(COVERED / this.#tableBytes, MOST_CACHED / header.clusterSize);
    this.cache = new TableCache(Math.max(4, tables), header.clusterSize);
  }

  /** Takes what the journal of an image that is only read holds for the file's. */
  override(records: readonly JournalRecord[]): void {
    for (const record of records) {
      if (record.isWithin(this.header.l1Offset, this.l1Size)) {
        record.apply(this.l1.view, this.header.l1Offset);
        continue;
      }
      const table = record.entryOffset - (record.entryOffset % this.#clusterSize);
      const list = this.#overrides.get(table);
      if (list) list.push(record);
      else this.#overrides.set(table, [record]);
    }
  }

  /** Offset of the L2 table that L1 entry `index` names; 0: none; or DAMAGED. */
  tableOffset(index: number): number {
    const high = this.l1.view.getUint32(index * 8);
    const low = this.l1.view.getUint32(index * 8 + 4);
    if (high === 0 && low === 0) return 0;
    const offset = entryOffset(high, low);
    const fits = offset % this.#clusterSize === 0 && offset < this.file.end;
    return fits && !hasReservedL1Bits(high, low) ? offset : DAMAGED;
  }

  /** The L2 table of L1 entry `index`; undefined: there is none; or a negated errno. */
  table(index: number): CachedTable | undefined | number {
    if (this.#last?.index === index) return this.#last;
    const cached = this.cache.get(index);
    if (cached) {
      this.#last = cached;
      return cached;
    }
    const offset = this.tableOffset(index);
    if (offset <= 0) return offset === 0 ? undefined : offset;
    return this.#load(index, offset);
  }

  /** After the L2 table of L1 entry `index` was replaced by another. */
  forget(index: number): void {
    if (this.#last?.index === index) this.#last = undefined;
    this.cache.drop(index);
  }

  #load(index: number, offset: number): CachedTable | number {
    const table = this.cache.room(this.clean);
    if (typeof table === "number") return table;
    // The room may have been that of the table used last.
    this.#last = undefined;
    const status = this.file.readBytes(offset, table.memory, 0, this.#clusterSize);
    if (status < 0) {
      this.cache.giveBack(table);
      return status;
    }
    for (const record of this.#overrides.get(offset) ?? []) record.apply(table.memory.view, offset);
    this.cache.put(table, index, offset);
    this.#last = table;
    return table;
  }

  /**
   * Finds how the disk is stored from `offset` on, up to `length` bytes or the end of what one L2 table maps; the answer
   * is in kind, run, host, hostLength, copied.
   * @returns 0, DAMAGED (a table that cannot be right), or a negated errno
   */
  locate(offset: number, length: number): number {
    const index = Math.floor(offset / this.#tableBytes);
    const within = offset - index * this.#tableBytes;
    const most = Math.min(length, this.#tableBytes - within);
    const table = this.#last?.index === index ? this.#last : this.table(index);
    if (typeof table === "number") return table;
    if (!table) {
      this.kind = STORED.nowhere;
      this.run = most;
      return 0;
    }
    const cluster = Math.floor(within / this.#clusterSize);
    const skipped = within - cluster * this.#clusterSize;
    return this.#classify(table.memory.view, cluster * 8, skipped, most);
  }

  #classify(view: DataView, at: number, skipped: number, most: number): number {
    const high = view.getUint32(at);
    const low = view.getUint32(at + 4);
    const clusterSize = this.#clusterSize;
    if (isCompressed(high)) {
      this.kind = STORED.compressed;
      this.host = compressedOffset(high, low, this.header.clusterBits);
      this.hostLength = compressedLength(high, low, this.header.clusterBits);
      this.run = Math.min(most, clusterSize - skipped);
      return 0;
    }
    if (hasReservedL2Bits(high, low, this.header.version)) return DAMAGED;
    const offset = entryOffset(high, low);
    if ((low & (clusterSize - 1) & ~1) !== 0) return DAMAGED;
    const isData = offset !== 0 && !isZero(low);
    if (isData && offset > MOST_OFFSET) return DAMAGED;
    this.kind = isData ? STORED.data : isZero(low) ? STORED.zero : STORED.nowhere;
    this.copied = isCopied(high);
    this.host = offset + skipped;
    this.run = Math.min(most, this.#runFrom(view, at, high, low, isData ? clusterSize : 0, most + skipped) - skipped);
    return 0;
  }

  /** Bytes of clusters, from the one at `at`, whose entries go on by `step` each; stops looking at `enough` bytes. */
  #runFrom(view: DataView, at: number, high: number, low: number, step: number, enough: number): number {
    const clusterSize = this.#clusterSize;
    let bytes = clusterSize;
    let nextHigh = high;
    let nextLow = low;
    for (let entry = at + 8; bytes < enough; entry += 8) {
      nextLow += step;
      if (nextLow >= TWO_TO_32) {
        nextLow -= TWO_TO_32;
        nextHigh++;
      }
      if (view.getUint32(entry + 4) !== nextLow || view.getUint32(entry) !== nextHigh) break;
      bytes += clusterSize;
    }
    return bytes;
  }
}

/** Reads the L1 table; a negated errno when that cannot be. */
export function readL1(file: ImageFile, header: Qcow2Header): MemoryView | number {
  const memory = hostBuffer(Math.max(8, header.l1Size * 8));
  const status = file.readBytes(header.l1Offset, memory, 0, header.l1Size * 8);
  return status < 0 ? status : memory;
}
