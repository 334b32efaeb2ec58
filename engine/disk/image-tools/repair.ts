/**
 * Checking and mending qcow2 images. Leaks are taken back in place; wrong refcounts are counted anew, in place where the
 * blocks are sound, else in new tables that one write of the header puts in the place of the old ones. A process killed on the
 * way leaves an image that can be mended again.
 */
import { INCOMPATIBLE } from "../qcow2/header.ts";
import {
  COPIED_HIGH,
  compressedLength,
  compressedOffset,
  entryOffset,
  isCompressed,
  isCopied,
  largestRefcount,
  refcountsPerBlock,
  setRefcount,
} from "../qcow2/tables.ts";
import type { ImageFile, Task } from "./files.ts";
import { readTable, viewOf } from "./qcow2-file.ts";
import { writeRefcountTables } from "./refcount-tables.ts";
import { type EntryPlace, forEachEntry, type Problem, Scan } from "./scan.ts";
import { recoverSession } from "./session-recovery.ts";

/** What a check has found. */
export interface CheckReport {
  readonly path: string;
  readonly format: "qcow2";
  /** clean: nothing; leaks: only lost space; errors: what can damage data. */
  readonly state: "clean" | "leaks" | "errors";
  /** Clusters that are marked as used and are not. */
  readonly leaks: number;
  readonly errors: number;
  /** The first of them, at most 1000. */
  readonly problems: readonly Problem[];
  /** The image says of itself that its refcounts are to be counted, or that its tables are damaged. */
  readonly dirty: boolean;
  readonly corrupt: boolean;
  /** Clusters of the disk: all, those that this image holds, the compressed ones among them. */
  readonly totalClusters: number;
  readonly allocatedClusters: number;
  readonly compressedClusters: number;
}

export interface RepairReport {
  readonly before: CheckReport;
  readonly after: CheckReport;
  /** Entries that were dropped: what they pointed to is lost, and reads as the backing image or zero. */
  readonly dropped: number;
}

/** leaks: harmless. errors: refcounts and flags too. all: also drop entries that point to nowhere. */
export type RepairMode = "leaks" | "errors" | "all";

export function reportOf(scan: Scan): CheckReport {
  const { header } = scan;
  return {
    path: scan.file.path,
    format: "qcow2",
    state: scan.errors > 0 ? "errors" : scan.leaks > 0 ? "leaks" : "clean",
    leaks: scan.leaks,
    errors: scan.errors,
    problems: scan.problems,
    dirty: scan.dirty,
    corrupt: scan.corrupt,
    totalClusters: Math.ceil(header.size / header.clusterSize),
    allocatedClusters: scan.allocated + scan.compressed,
    compressedClusters: scan.compressed,
  };
}

/** One pass mends what it sees; dropped entries make leaks, which the next one takes back. */
const MOST_PASSES = 4;

/**
 * Mends an image that nobody else uses.
 * @param file open for writing
 * @throws DiskError "cancelled", "no-space", or when the file cannot be read or written
 */
export async function repairFile(file: ImageFile, mode: RepairMode, task: Task = {}): Promise<RepairReport> {
  let scan = await new Scan(file).run(task);
  const before = reportOf(scan);
  if (scan.dirty && !scan.corrupt && replayed(file, mode)) scan = await new Scan(file).run(task);
  let dropped = 0;
  for (let pass = 0; pass < MOST_PASSES && (!scan.clean || scan.dirty || scan.corrupt); pass++) {
    dropped += await mend(scan, mode, task);
    await file.sync();
    scan = await new Scan(file).run(task);
  }
  return { before, after: reportOf(scan), dropped };
}

/**
 * An image that our own block store had open when its process was killed has a journal (disk/qcow2/journal.ts) of what was
 * written last. It counts before anything else is mended.
 * @throws DiskError when it cannot be used, unless the caller wants more than leaks mended: then what it held is given up
 */
function replayed(file: ImageFile, mode: RepairMode): boolean {
  try {
    recoverSession(file);
    return true;
  } catch (error) {
    if (mode === "leaks") throw error;
    return false;
  }
}

async function mend(scan: Scan, mode: RepairMode, task: Task): Promise<number> {
  if (mode === "leaks" && scan.errors > 0 && !scan.dirty) {
    // What a bad entry no longer names looks like a leak, and may be all that is left of the data.
    if (scan.badEntries.length === 0) takeBackLeaks(scan);
    return 0;
  }
  if (scan.errors === 0) {
    takeBackLeaks(scan);
    await scan.file.sync();
    setFlags(scan, 0);
    return 0;
  }
  const dropped = mode === "leaks" ? 0 : mendEntries(scan, mode);
  // What was dropped has references no more: the next pass counts.
  if (dropped > 0) return dropped;
  await clearCopied(scan, task);
  await scan.file.sync();
  if (inPlace(scan)) writeRefcounts(scan, () => true);
  else if (!pointsBehindEnd(scan)) await rebuildRefcounts(scan);
  await scan.file.sync();
  await setCopied(scan, task);
  return 0;
}

/** New tables at the end of the file would be what entries behind the end point to. */
const pointsBehindEnd = (scan: Scan): boolean => scan.badEntries.some(({ why }) => why === "outside");

/** Whether every cluster that is in use has a place for its refcount in a sound block. */
function inPlace(scan: Scan): boolean {
  if (!scan.refcountsUsable) return false;
  const perBlock = refcountsPerBlock(scan.header.clusterBits, scan.header.refcountOrder);
  return scan.references.every((count, cluster) => count === 0 || scan.blocks[Math.floor(cluster / perBlock)] !== 0);
}

function takeBackLeaks(scan: Scan): void {
  if (scan.refcountsUsable) writeRefcounts(scan, (wanted, found) => found > wanted);
}

/** Writes the counted references over the refcounts that `which` picks. */
function writeRefcounts(scan: Scan, which: (wanted: number, found: number) => boolean): void {
  const { file, header } = scan;
  const perBlock = refcountsPerBlock(header.clusterBits, header.refcountOrder);
  const most = largestRefcount(header.refcountOrder);
  for (let index = 0; index * perBlock < scan.clusters; index++) {
    const offset = scan.blocks[index] ?? 0;
    if (offset === 0) continue;
    const block = readTable(file, offset, header.clusterSize);
    let changed = false;
    for (let n = 0; n < perBlock && index * perBlock + n < scan.clusters; n++) {
      const wanted = scan.references[index * perBlock + n]!;
      const found = scan.refcounts[index * perBlock + n]!;
      if (wanted === found || !which(wanted, found)) continue;
      setRefcount(block, n, header.refcountOrder, Math.min(wanted, most));
      changed = true;
    }
    if (changed) file.writeSync(new Uint8Array(block.buffer), offset);
  }
}

/** Masks away bits that mean nothing; drops entries that point to nowhere if that is wished. @returns how many were dropped */
function mendEntries(scan: Scan, mode: RepairMode): number {
  const wrong = mode === "all" ? overlapping(scan) : [];
  // Of an L2 table that overlaps, nobody knows yet whether its entries are any.
  const own = scan.badEntries.filter(({ at, level }) => level === "l1" || !scan.overlaps(at));
  let dropped = 0;
  for (const entry of [...own, ...wrong]) {
    if (entry.maskable) maskReserved(scan, entry);
    else if (mode === "all") {
      scan.file.writeSync(new Uint8Array(8), entry.at);
      dropped++;
    }
  }
  return dropped;
}

function maskReserved(scan: Scan, { at, level }: EntryPlace): void {
  const entry = readTable(scan.file, at, 8);
  const zero = level === "l2" && scan.header.version === 3 ? entry.getUint32(4) & 1 : 0;
  const copied = level === "l1" && entryOffset(entry.getUint32(0), entry.getUint32(4)) === 0 ? 0 : COPIED_HIGH;
  entry.setUint32(0, (entry.getUint32(0) & (copied | 0x00ff_ffff)) >>> 0);
  entry.setUint32(4, ((entry.getUint32(4) & 0xffff_fe00) | zero) >>> 0);
  scan.file.writeSync(new Uint8Array(entry.buffer), at);
}

/**
 * Entries whose cluster is metadata as well. Of an L2 table that overlaps, the entry that names it is the wrong one when the
 * table's content is none: then the other owner's bytes were read as a table, and must not be touched.
 */
function overlapping(scan: Scan): EntryPlace[] {
  const { file, header } = scan;
  const { clusterSize, l1Offset, l1Size } = header;
  const found: EntryPlace[] = [];
  const end = scan.clusters * clusterSize;
  const l1 = readTable(file, l1Offset, l1Size * 8);
  const place = (at: number, level: "l1" | "l2"): EntryPlace => ({ at, level, why: "overlap", maskable: false });
  for (let index = 0; index < l1Size; index++) {
    const offset = entryOffset(l1.getUint32(index * 8), l1.getUint32(index * 8 + 4));
    if (offset === 0 || offset % clusterSize !== 0 || offset >= end || !scan.overlaps(offset)) continue;
    const bad = scan.badEntries.some(({ at }) => at >= offset && at < offset + clusterSize);
    if (bad) found.push(place(l1Offset + index * 8, "l1"));
  }
  if (found.length > 0) return found;
  for (let index = 0; index < l1Size; index++) {
    const offset = entryOffset(l1.getUint32(index * 8), l1.getUint32(index * 8 + 4));
    if (offset === 0 || offset % clusterSize !== 0 || offset >= end) continue;
    const table = readTable(file, offset, clusterSize);
    for (let byte = 0; byte < clusterSize; byte += 8) {
      const [high, low] = [table.getUint32(byte), table.getUint32(byte + 4)];
      if (dataClusters(scan, high, low).some((cluster) => scan.overlaps(cluster)))
        found.push(place(offset + byte, "l2"));
    }
  }
  return found;
}

/** Offsets of the clusters in the file that the data of an L2 entry lies in; compressed data may lie in two. */
function dataClusters({ header, clusters }: Scan, high: number, low: number): number[] {
  const { clusterSize, clusterBits } = header;
  const packed = isCompressed(high);
  const start = packed ? compressedOffset(high, low, clusterBits) : entryOffset(high, low);
  if (start === 0 && !packed) return [];
  const end = start + (packed ? compressedLength(high, low, clusterBits) : clusterSize);
  const found: number[] = [];
  for (let at = start - (start % clusterSize); at < Math.min(end, clusters * clusterSize); at += clusterSize)
    found.push(at);
  return found;
}

async function setEntries(scan: Scan, task: Task, copied: (offset: number) => boolean | undefined): Promise<void> {
  const changes: { at: number; high: number }[] = [];
  await forEachEntry(scan, task, (at, high, low, level) => {
    // Bytes that may be somebody's data are not touched.
    if (level === "l2" && scan.overlaps(at)) return;
    const packed = level === "l2" && isCompressed(high);
    const wanted = packed ? false : copied(entryOffset(high, low));
    if (wanted === undefined || wanted === isCopied(high)) return;
    changes.push({ at, high: (wanted ? high | COPIED_HIGH : high & ~COPIED_HIGH) >>> 0 });
  });
  const half = new Uint8Array(4);
  for (const { at, high } of changes) {
    viewOf(half).setUint32(0, high);
    scan.file.writeSync(half, at);
  }
}

/** First the flags that would let shared clusters be overwritten, … */
async function clearCopied(scan: Scan, task: Task): Promise<void> {
  await setEntries(scan, task, (offset) => (count(scan, offset) === 1 ? undefined : false));
}

/** … and, once the refcounts say so too, those of clusters with one owner. */
async function setCopied(scan: Scan, task: Task): Promise<void> {
  await setEntries(scan, task, (offset) => (count(scan, offset) === 1 ? true : undefined));
}

function count(scan: Scan, offset: number): number {
  const { clusterSize } = scan.header;
  return offset !== 0 && offset % clusterSize === 0 ? (scan.references[offset / clusterSize] ?? 0) : 0;
}

/** New blocks and a new table behind everything else; one write to the header makes them valid. */
async function rebuildRefcounts(scan: Scan): Promise<void> {
  const { file, header } = scan;
  const references = withoutOldRefcounts(scan);
  const table = writeRefcountTables(file, header, scan.clusters, (cluster) => references[cluster]!);
  await file.sync();
  const fields = new DataView(new ArrayBuffer(12));
  fields.setBigUint64(0, BigInt(table.refcountTableOffset));
  fields.setUint32(8, table.refcountTableClusters);
  file.writeSync(new Uint8Array(fields.buffer), 48);
}

function withoutOldRefcounts(scan: Scan): Uint32Array {
  const { clusterSize, refcountTableOffset, refcountTableClusters } = scan.header;
  const references = scan.references.slice();
  const drop = (offset: number) => {
    const cluster = offset / clusterSize;
    if (cluster < references.length && references[cluster]! > 0) references[cluster]!--;
  };
  if (refcountTableOffset + refcountTableClusters * clusterSize <= scan.clusters * clusterSize) {
    for (let n = 0; n < refcountTableClusters; n++) drop(refcountTableOffset + n * clusterSize);
  }
  for (const offset of scan.blocks) if (offset !== 0) drop(offset);
  return references;
}

/** Writes the incompatible features; 8 bytes, which no crash tears apart. */
function setFlags(scan: Scan, flags: number): void {
  const { file, header } = scan;
  if (header.version === 2 || (!scan.dirty && !scan.corrupt)) return;
  const kept = header.incompatible.low & ~(INCOMPATIBLE.dirty | INCOMPATIBLE.corrupt);
  const bytes = new Uint8Array(4);
  viewOf(bytes).setUint32(0, (kept | flags) >>> 0);
  file.writeSync(bytes, 76);
}
