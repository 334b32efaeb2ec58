/**
 * The metadata of an image that is being written, and the order in which it reaches the disk.
 *
 * In memory: changed entries of L1 and L2 tables, and clusters that were given up. In the file at once: refcounts (before any
 * reference), new L2 tables without entries, and in the journal what the tables lack. A flush makes all of that durable, then
 * writes the tables and makes them durable, then drops the refcounts of what was given up. So at any moment
 * - a power failure leaves tables that name only durable data with durable refcounts,
 * - the end of this process loses nothing that was written: the next one finds it through the journal,
 * - in both cases refcounts can only be too high, and the dirty bit says so: opening counts again.
 * Images of version 2 have neither dirty bit nor journal: each allocation is flushed.
 */
import { constants } from "node:os";
import type { ClusterMap } from "./cluster-map.ts";
import type { ClusterSet } from "./cluster-set.ts";
import { encodeHeader, INCOMPATIBLE, type Qcow2Header } from "./header.ts";
import { hostBuffer } from "./host-buffer.ts";
import type { ImageFile } from "./image-file.ts";
import { bootIdentity, JOURNAL_EXTENSION, JOURNAL_LENGTH, Journal, journalExtension, setEntries } from "./journal.ts";
import type { Refcounts } from "./refcounts.ts";
import { DAMAGED } from "./status.ts";
import type { CachedTable } from "./table-cache.ts";
import { entryHigh, entryLow, isCopied } from "./tables.ts";

const { EFBIG } = constants.errno;
/** Clusters given up, in bytes, after which a flush gives them back without being asked for. */
const MOST_FREED = 256 << 20;

/** The header without the marks of an image in use, for a clean end. */
function cleanHeader(header: Qcow2Header): Qcow2Header {
  const { high, low } = header.incompatible;
  return {
    ...header,
    incompatible: { high, low: (low & ~INCOMPATIBLE.dirty) >>> 0 },
    extensions: header.extensions.filter(({ type }) => type !== JOURNAL_EXTENSION),
  };
}

/** Writes a header in place; 0 or a negated errno. */
export function writeHeader(file: ImageFile, header: Qcow2Header): number {
  const bytes = encodeHeader(header);
  if (!bytes) return -EFBIG;
  const memory = hostBuffer(bytes.length);
  memory.bytes.set(bytes);
  return file.writeBytes(0, memory, 0, bytes.length);
}

/** Takes the marks of an image in use out of the header, durably. */
export function markClean(file: ImageFile, header: Qcow2Header): Qcow2Header | number {
  const clean = cleanHeader(header);
  const durable = file.sync();
  if (durable < 0) return durable;
  const status = writeHeader(file, clean);
  if (status < 0) return status;
  const synced = file.sync();
  return synced < 0 ? synced : clean;
}

export interface SessionParts {
  readonly file: ImageFile;
  readonly map: ClusterMap;
  readonly metadata: ClusterSet;
  readonly header: Qcow2Header;
  readonly log: (line: string) => void;
  /** Made once the session is there to move the refcount table in the header. */
  readonly refcounts: (move: (place: Partial<Qcow2Header>) => number) => Refcounts;
  /** Called when room of compressed clusters has been given up. */
  readonly forgetCompressed: () => void;
  /** Identity of the host's boot; undefined: no journal. */
  readonly boot?: Uint8Array | undefined;
}

export class WriteSession {
  readonly file: ImageFile;
  readonly map: ClusterMap;
  readonly metadata: ClusterSet;
  readonly refcounts: Refcounts;
  readonly forgetCompressed: () => void;
  readonly #clusterSize: number;
  readonly #log: (line: string) => void;
  readonly #boot: Uint8Array | undefined;
  readonly #changed = new Set<CachedTable>();
  /** Bytes of the L1 table that differ from the file. */
  #l1From = Number.POSITIVE_INFINITY;
  #l1To = 0;
  #header: Qcow2Header;
  #journal: Journal | undefined;
  /** The header says, or may say, that the image is in use. */
  #marked = false;
  #begun = false;
  #corrupt = false;
  /** Pairs of first cluster and count whose references are gone from the tables in memory. */
  #freed: number[] = [];
  #freedClusters = 0;

  constructor(parts: SessionParts) {
    this.file = parts.file;
    this.map = parts.map;
    this.metadata = parts.metadata;
    this.#header = parts.header;
    this.#clusterSize = parts.header.clusterSize;
    this.#log = parts.log;
    this.#boot = "boot" in parts ? parts.boot : bootIdentity();
    this.forgetCompressed = parts.forgetCompressed;
    parts.map.clean = () => this.flush();
    this.refcounts = parts.refcounts((place) => this.changeHeader(place));
  }

  get header(): Qcow2Header {
    return this.#header;
  }

  get corrupt(): boolean {
    return this.#corrupt;
  }

  /** Says that the image's tables contradict each other. Nothing is written any more. @returns DAMAGED */
  corrupted(what: string): number {
    if (!this.#corrupt) {
      this.#log(`disk image ${this.file.path} is damaged (${what}) and takes no more writes; repair it`);
    }
    this.#corrupt = true;
    return DAMAGED;
  }

  /** Before the first change: says in the header that the image is in use. */
  begin(): number {
    if (this.#corrupt) return DAMAGED;
    if (this.#begun) return 0;
    this.#marked = true;
    const { version, incompatible } = this.#header;
    if (version === 3) {
      const { high, low } = incompatible;
      const status = this.changeHeader({
        incompatible: { high, low: (low | INCOMPATIBLE.dirty) >>> 0 },
        // Of features that others may ignore but not keep valid we know none.
        autoclear: { high: 0, low: 0 },
      });
      if (status < 0) return status;
      const journal = this.#boot ? this.#makeJournal(this.#boot) : 0;
      if (journal < 0) return journal === DAMAGED ? this.corrupted("refcounts") : journal;
    }
    this.#begun = true;
    return 0;
  }

  #makeJournal(boot: Uint8Array): number {
    const clusters = Math.ceil(JOURNAL_LENGTH / this.#clusterSize);
    const first = this.refcounts.allocateExactly(clusters);
    if (first < 0) return first;
    const offset = first * this.#clusterSize;
    const extensions = [...cleanHeader(this.#header).extensions, journalExtension(offset)];
    const journal = new Journal(this.file, offset, boot);
    let status = encodeHeader({ ...this.#header, extensions }) ? journal.create() : -EFBIG;
    if (status >= 0) status = this.changeHeader({ extensions });
    if (status < 0) {
      this.refcounts.giveBack(first, clusters);
      // A header without room for one more extension: every allocation is flushed.
      return status === -EFBIG ? 0 : status;
    }
    this.#journal = journal;
    this.metadata.add(first, clusters);
    return 0;
  }

  /** Writes changed fields of the header, durably. */
  changeHeader(fields: Partial<Qcow2Header>): number {
    const header = { ...this.#header, ...fields };
    const durable = this.file.sync();
    if (durable < 0) return durable;
    let status = writeHeader(this.file, header);
    if (status >= 0) status = this.file.sync();
    if (status >= 0) this.#header = header;
    // What the caller is told has failed must not come true later.
    else writeHeader(this.file, this.#header);
    return status;
  }

  /** The L2 table of L1 entry `index`, made or copied so that it may be changed. */
  table(index: number): CachedTable | number {
    const table = this.map.table(index);
    if (typeof table === "number") return table === DAMAGED ? this.corrupted("an L1 entry") : table;
    if (table && isCopied(this.map.l1.view.getUint32(index * 8))) return table;
    return this.#newTable(index, table);
  }

  #newTable(index: number, shared: CachedTable | undefined): CachedTable | number {
    const cluster = this.refcounts.allocate(1);
    if (cluster < 0) return cluster === DAMAGED ? this.corrupted("refcounts") : cluster;
    const offset = cluster * this.#clusterSize;
    const contents = shared?.memory ?? hostBuffer(this.#clusterSize);
    let status = this.file.writeBytes(offset, contents, 0, this.#clusterSize);
    if (status >= 0) status = this.#enterTable(index, offset);
    if (status < 0) {
      this.refcounts.giveBack(cluster, 1);
      return status;
    }
    const old = shared?.offset;
    this.map.forget(index);
    this.metadata.add(cluster, 1);
    if (old !== undefined) this.free(old / this.#clusterSize, 1);
    const table = this.map.table(index);
    return table ?? this.corrupted("an L1 entry");
  }

  /** Names a new L2 table in the L1 table. */
  #enterTable(index: number, offset: number): number {
    const at = index * 8;
    const high = entryHigh(offset, true);
    const low = entryLow(offset);
    const noted = this.#note(this.#header.l1Offset + at, 1, high, low, 0);
    if (noted < 0) return noted;
    setEntries(this.map.l1.view, at, 1, high, low, 0);
    this.#l1From = Math.min(this.#l1From, at);
    this.#l1To = Math.max(this.#l1To, at + 8);
    return 0;
  }

  /** Notes entries in the journal, so that they outlive this process. */
  #note(entryOffset: number, count: number, high: number, low: number, step: number): number {
    if (this.#journal?.full) {
      const status = this.flush();
      if (status < 0) return status;
    }
    return this.#journal?.append(entryOffset, count, high, low, step) ?? 0;
  }

  /** Sets `count` entries of a table from byte `at`, the first to high/low, each `step` above the one before. */
  setEntries(table: CachedTable, at: number, count: number, high: number, low: number, step: number): number {
    const noted = this.#note(table.offset + at, count, high, low, step);
    if (noted < 0) return noted;
    setEntries(table.memory.view, at, count, high, low, step);
    table.soil(at, at + count * 8);
    this.#changed.add(table);
    return 0;
  }

  /** After an operation: what no journal holds is made durable at once. */
  settle(): number {
    const hasChanges = this.#changed.size > 0 || this.#l1To > 0;
    if (this.#begun && !this.#journal && hasChanges) return this.flush();
    return this.#freedClusters * this.#clusterSize > MOST_FREED ? this.flush() : 0;
  }

  /** Notes that a reference to clusters is gone; their refcounts follow when that is durable. */
  free(first: number, count: number): void {
    const freed = this.#freed;
    const last = freed.length - 2;
    if (last >= 0 && freed[last]! + freed[last + 1]! === first) freed[last + 1]! += count;
    else freed.push(first, count);
    this.#freedClusters += count;
  }

  /** Makes everything that was written durable, with the tables that name it. */
  flush(): number {
    const durable = this.file.sync();
    if (durable < 0 || this.#corrupt) return durable;
    for (const table of this.#changed) {
      const { dirtyFrom, dirtyTo } = table;
      const status = this.file.writeBytes(table.offset + dirtyFrom, table.memory, dirtyFrom, dirtyTo - dirtyFrom);
      if (status < 0) return status;
    }
    if (this.#l1To > 0) {
      const { l1 } = this.map;
      const from = this.#l1From;
      const status = this.file.writeBytes(this.#header.l1Offset + from, l1, from, this.#l1To - from);
      if (status < 0) return status;
    }
    const named = this.file.sync();
    if (named < 0) return named;
    for (const table of this.#changed) table.clean();
    this.#changed.clear();
    this.#l1From = Number.POSITIVE_INFINITY;
    this.#l1To = 0;
    if (this.#journal && !this.#journal.empty) {
      const status = this.#journal.restart();
      if (status < 0) return status;
    }
    return this.#dropFreed();
  }

  #dropFreed(): number {
    const freed = this.#freed;
    this.#freed = [];
    this.#freedClusters = 0;
    for (let i = 0; i < freed.length; i += 2) {
      const status = this.#dropRange(freed[i]!, freed[i + 1]!);
      if (status >= 0) continue;
      // The rest waits for the next flush. What is left of this run may be a leak: an image of a disk in trouble.
      for (let rest = i + 2; rest < freed.length; rest += 2) this.free(freed[rest]!, freed[rest + 1]!);
      return status;
    }
    return 0;
  }

  #dropRange(first: number, count: number): number {
    const stop = first + count;
    for (let cluster = first; cluster < stop; ) {
      let run = cluster;
      while (run < stop && this.refcounts.get(run) === 1) run++;
      if (run > cluster) {
        const status = this.refcounts.setRange(cluster, run - cluster, 0);
        if (status < 0) return status;
        this.metadata.delete(cluster, run - cluster);
        this.file.punch(cluster * this.#clusterSize, (run - cluster) * this.#clusterSize);
        cluster = run;
        continue;
      }
      const left = this.refcounts.drop(cluster);
      if (left === DAMAGED) return this.corrupted("a cluster in use with refcount 0");
      if (left < 0) return left;
      cluster++;
    }
    return 0;
  }

  /** Leaves the image as if nobody had it open: nothing counted that is not in use, no marks. */
  finish(): number {
    if (!this.#marked || this.#corrupt) return 0;
    let status = this.flush();
    if (status >= 0) status = this.refcounts.releaseReserved();
    const journal = this.#journal;
    if (status >= 0 && journal) {
      const first = journal.offset / this.#clusterSize;
      status = this.refcounts.setRange(first, Math.ceil(JOURNAL_LENGTH / this.#clusterSize), 0);
    }
    if (status < 0) return status;
    const header = markClean(this.file, this.#header);
    if (typeof header === "number") return header;
    this.#header = header;
    this.#begun = false;
    this.#marked = false;
    if (journal) {
      this.#journal = undefined;
      const clusters = Math.ceil(JOURNAL_LENGTH / this.#clusterSize);
      this.metadata.delete(journal.offset / this.#clusterSize, clusters);
      this.file.punch(journal.offset, clusters * this.#clusterSize);
    }
    return 0;
  }
}
