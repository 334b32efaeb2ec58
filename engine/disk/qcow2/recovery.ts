/** What is done with an image whose last writer did not come to its end: see session.ts. */
import type { MemoryView } from "../../device/domain-interface.ts";
import { DiskError, errnoName, unreadable } from "../errors.ts";
import { EXTENSION, INCOMPATIBLE, LIMITS, type Qcow2Header } from "./header.ts";
import { hostBuffer } from "./host-buffer.ts";
import type { ImageFile } from "./image-file.ts";
import { JOURNAL_EXTENSION, type JournalRecord, readJournal } from "./journal.ts";
import { markClean, writeHeader } from "./session.ts";
import { readSnapshotTables, type SnapshotTables } from "./snapshots.ts";
import {
  compressedLength,
  compressedOffset,
  entryOffset,
  getRefcount,
  isCompressed,
  largestRefcount,
  refcountsPerBlock,
  setRefcount,
} from "./tables.ts";

/** Clusters that are counted in memory at most. */
const MOST_CLUSTERS = 2 ** 28;

function needsRepair(path: string, what: string): DiskError {
  return new DiskError(
    "unusable-image",
    `qcow2 image ${path} is damaged: ${what}`,
    "repair it with domlab image repair",
  );
}

function checked(file: ImageFile, status: number): void {
  if (status >= 0) return;
  throw new DiskError(
    "unusable-image",
    `qcow2 image ${file.path} was not closed and cannot be recovered (${errnoName(-status)})`,
    "check the storage it lies on",
  );
}

function checkedRead(file: ImageFile, status: number): void {
  if (status < 0) throw unreadable(file.path, -status);
}

class ReferenceCount {
  readonly counts: Uint32Array;
  readonly #file: ImageFile;
  readonly #header: Qcow2Header;
  readonly #table: MemoryView;

  constructor(file: ImageFile, header: Qcow2Header) {
    this.#file = file;
    this.#header = header;
    this.#table = hostBuffer(header.clusterSize);
    const clusters = Math.ceil(file.end / header.clusterSize);
    if (clusters > MOST_CLUSTERS) throw needsRepair(file.path, "it was not closed and is too large to be recovered");
    this.counts = new Uint32Array(clusters);
  }

  /** Counts the clusters that bytes [offset, offset + length) touch, as far as they lie in the file. */
  add(offset: number, length: number): void {
    const { clusterSize } = this.#header;
    const last = Math.min(this.counts.length - 1, Math.floor((offset + length - 1) / clusterSize));
    for (let cluster = Math.floor(offset / clusterSize); cluster <= last; cluster++) this.counts[cluster]!++;
  }

  /** Counts what an L1 table's `entries` refer to; the table itself is not counted. */
  addL1(l1: MemoryView, entries: number): void {
    const { clusterSize } = this.#header;
    for (let i = 0; i < entries; i++) {
      const offset = entryOffset(l1.view.getUint32(i * 8), l1.view.getUint32(i * 8 + 4));
      if (offset === 0 || offset % clusterSize !== 0 || offset >= this.#file.end) continue;
      this.add(offset, clusterSize);
      checkedRead(this.#file, this.#file.readBytes(offset, this.#table, 0, clusterSize));
      this.#addL2(this.#table.view);
    }
  }

  #addL2(view: DataView): void {
    const { clusterBits, clusterSize } = this.#header;
    for (let at = 0; at < clusterSize; at += 8) {
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if (high === 0 && low <= 1) continue;
      if (isCompressed(high)) {
        this.add(compressedOffset(high, low, clusterBits), compressedLength(high, low, clusterBits));
      } else {
        const offset = entryOffset(high, low);
        if (offset !== 0) this.add(offset, 1);
      }
    }
  }
}

/** Enters what the journal holds into the tables. Records for anything but a table in use are left out. */
function replay(file: ImageFile, header: Qcow2Header, l1: MemoryView, records: readonly JournalRecord[]): void {
  const tables = new Set<number>();
  const addTables = (first: number, count: number): void => {
    for (let i = first; i < first + count; i++) {
      tables.add(entryOffset(l1.view.getUint32(i * 8), l1.view.getUint32(i * 8 + 4)));
    }
    tables.delete(0);
  };
  addTables(0, header.l1Size);
  const entries = hostBuffer(header.clusterSize);
  // The data before the tables that name it, as always.
  checked(file, file.sync());
  for (const record of records) {
    const { entryOffset: at, count } = record;
    const table = at - (at % header.clusterSize);
    if (record.isWithin(header.l1Offset, header.l1Size)) {
      record.apply(l1.view, header.l1Offset);
      addTables((at - header.l1Offset) / 8, count);
    } else if (!tables.has(table) || table >= file.end) continue;
    record.apply(entries.view, at);
    checked(file, file.writeBytes(at, entries, 0, count * 8));
  }
  checked(file, file.sync());
}

function countReferences(
  file: ImageFile,
  header: Qcow2Header,
  l1: MemoryView,
  table: MemoryView,
  snapshots: SnapshotTables,
): Uint32Array {
  const { clusterSize } = header;
  const references = new ReferenceCount(file, header);
  references.add(0, clusterSize);
  references.add(header.l1Offset, Math.max(1, header.l1Size * 8));
  references.add(header.refcountTableOffset, header.refcountTableClusters * clusterSize);
  for (let at = 0; at < header.refcountTableClusters * clusterSize; at += 8) {
    const offset = entryOffset(table.view.getUint32(at), table.view.getUint32(at + 4));
    if (offset !== 0) references.add(offset, 1);
  }
  references.addL1(l1, header.l1Size);
  if (snapshots.length > 0) references.add(header.snapshotsOffset, snapshots.length);
  for (const { offset, entries, l1: inactive } of snapshots.tables) {
    if (entries > 0) references.add(offset, entries * 8);
    references.addL1(inactive, entries);
  }
  return references.counts;
}

/** Sets the refcounts in the blocks that are there to what was counted. */
function correctRefcounts(file: ImageFile, header: Qcow2Header, table: MemoryView, counts: Uint32Array): void {
  const { clusterSize, clusterBits, refcountOrder } = header;
  const perBlock = refcountsPerBlock(clusterBits, refcountOrder);
  const most = largestRefcount(refcountOrder);
  // Clusters of bitmaps are counted by nobody here: what seems too high may be theirs.
  const keep = header.extensions.some(({ type }) => type === EXTENSION.bitmaps);
  const block = hostBuffer(clusterSize);
  const blocks = Math.max((header.refcountTableClusters * clusterSize) / 8, Math.ceil(counts.length / perBlock));
  for (let index = 0; index < blocks; index++) {
    const known = index * 8 < header.refcountTableClusters * clusterSize;
    const offset = known ? entryOffset(table.view.getUint32(index * 8), table.view.getUint32(index * 8 + 4)) : 0;
    if (offset === 0 || offset % clusterSize !== 0 || offset >= file.end) {
      const counted = counts.subarray(index * perBlock, (index + 1) * perBlock);
      if (offset !== 0 || counted.some((count) => count > 0)) throw needsRepair(file.path, "refcounts are missing");
      continue;
    }
    checkedRead(file, file.readBytes(offset, block, 0, clusterSize));
    let changed = false;
    for (let i = 0; i < perBlock; i++) {
      const counted = counts[index * perBlock + i] ?? 0;
      const stored = getRefcount(block.view, i, refcountOrder);
      if (stored === counted || (keep && stored > counted)) continue;
      if (counted > most) throw needsRepair(file.path, "a cluster has more references than can be counted");
      setRefcount(block.view, i, refcountOrder, counted);
      changed = true;
    }
    if (changed) checked(file, file.writeBytes(offset, block, 0, clusterSize));
  }
}

export function readRefcountTable(file: ImageFile, header: Qcow2Header): MemoryView {
  const length = header.refcountTableClusters * header.clusterSize;
  const table = hostBuffer(length);
  checkedRead(file, file.readBytes(header.refcountTableOffset, table, 0, length));
  return table;
}

/** Whether the last writer did not come to its end. */
export function isDirty(header: Qcow2Header): boolean {
  return (header.incompatible.low & INCOMPATIBLE.dirty) !== 0;
}

/**
 * Puts an image in order whose last writer did not come to its end: enters what its journal holds, counts the refcounts
 * again, takes the marks out of the header. May be interrupted at any point and begun again.
 * @param file open for writing
 * @param l1 its L1 table
 * @returns the header as it is now
 * @throws DiskError when it is damaged otherwise, or cannot be read or written
 */
export function recover(file: ImageFile, header: Qcow2Header, l1: MemoryView): Qcow2Header {
  if (header.l1Size * 8 > LIMITS.l1Table) throw needsRepair(file.path, "its L1 table");
  const records = readJournal(file, header);
  if (typeof records === "number") throw unreadable(file.path, -records);
  if (records.length > 0) replay(file, header, l1, records);
  // From here on the journal's clusters are free, so nothing may name them.
  const noJournal = { ...header, extensions: header.extensions.filter(({ type }) => type !== JOURNAL_EXTENSION) };
  if (noJournal.extensions.length !== header.extensions.length) {
    checked(file, writeHeader(file, noJournal));
    checked(file, file.sync());
  }
  const table = readRefcountTable(file, noJournal);
  const snapshots = readSnapshotTables(file, noJournal);
  correctRefcounts(file, noJournal, table, countReferences(file, noJournal, l1, table, snapshots));
  const clean = markClean(file, noJournal);
  if (typeof clean !== "number") return clean;
  checked(file, clean);
  return noJournal;
}
