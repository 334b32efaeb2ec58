/**
 * The journal of an image that is being written: entries of L1 and L2 tables that are not in the file yet.
 *
 * An entry may only reach the disk after the data it names, so it is kept in memory until the guest flushes. What the
 * guest has been told is written must survive the end of this process, though, for the guest may go on with the next one.
 * So each new entry is noted in the journal, which lies in the host's page cache like the data itself. The journal is not
 * for power failures: the page cache may have reached the disk in any order. It names the host's boot, and one of another
 * boot counts nothing; what it holds was never flushed then.
 *
 * It is clusters of the image that a header extension names, of which other programs know nothing. They find the dirty
 * bit, count refcounts again, drop the journal as a leak and clear the bit: without the bit it counts nothing either.
 */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import type { MemoryView } from "../../device/domain-interface.ts";
import type { HeaderExtension, Qcow2Header } from "./header.ts";
import { hostBuffer } from "./host-buffer.ts";
import type { ImageFile } from "./image-file.ts";

/** "dljn". Data: u64 offset of the journal. */
export const JOURNAL_EXTENSION = 0x646c6a6e;
/** Bytes in use, whatever the size of a cluster. */
export const JOURNAL_LENGTH = 65_536;

const MAGIC_HIGH = 0x446f6d4c;
const MAGIC_LOW = 0x4a6f7572;
const RECORD = 32;
const TWO_TO_32 = 2 ** 32;

/** Entries [entryOffset + 8 i] = value + i × step, for i < count. */
export class JournalRecord {
  readonly entryOffset: number;
  readonly count: number;
  readonly high: number;
  readonly low: number;
  readonly step: number;

  constructor(entryOffset: number, count: number, high: number, low: number, step: number) {
    this.entryOffset = entryOffset;
    this.count = count;
    this.high = high;
    this.low = low;
    this.step = step;
  }

  /** Whether it changes entries of a table of `entries` that lies at `tableOffset`, and no others. */
  isWithin(tableOffset: number, entries: number): boolean {
    return this.entryOffset >= tableOffset && this.entryOffset + this.count * 8 <= tableOffset + entries * 8;
  }

  /** Enters it into a table that lies at `tableOffset` in the file. */
  apply(table: DataView, tableOffset: number): void {
    setEntries(table, this.entryOffset - tableOffset, this.count, this.high, this.low, this.step);
  }
}

/** Sets `count` entries from byte `at` of a table; each is `step` above the one before. */
export function setEntries(table: DataView, at: number, count: number, high: number, low: number, step: number): void {
  let nextHigh = high;
  let nextLow = low;
  for (let i = 0; i < count; i++) {
    table.setUint32(at + i * 8, nextHigh);
    table.setUint32(at + i * 8 + 4, nextLow);
    nextLow += step;
    if (nextLow >= TWO_TO_32) {
      nextLow -= TWO_TO_32;
      nextHigh++;
    }
  }
}

/** 16 bytes that name this run of the host's kernel; undefined when it does not tell. */
export function bootIdentity(): Uint8Array | undefined {
  try {
    const text =
      process.platform === "linux"
        ? readFileSync("/proc/sys/kernel/random/boot_id", "ascii")
        : process.platform === "darwin"
          ? execFileSync("sysctl", ["-n", "kern.bootsessionuuid"], { encoding: "ascii" })
          : "";
    const hex = text.replace(/[^0-9a-fA-F]/g, "");
    return hex.length === 32 ? Uint8Array.from(Buffer.from(hex, "hex")) : undefined;
  } catch {
    return undefined;
  }
}

function checksum(view: DataView, at: number): number {
  let sum = 0x9e3779b9;
  for (let i = 0; i < RECORD - 4; i += 4)
    sum = (Math.imul(sum ^ view.getUint32(at + i), 0x85ebca6b) ^ (sum >>> 15)) >>> 0;
  return sum;
}

export function journalExtension(offset: number): HeaderExtension {
  const data = new Uint8Array(8);
  const view = new DataView(data.buffer);
  view.setUint32(0, Math.floor(offset / TWO_TO_32));
  view.setUint32(4, offset % TWO_TO_32);
  return { type: JOURNAL_EXTENSION, data };
}

export class Journal {
  readonly offset: number;
  readonly #file: ImageFile;
  readonly #boot: Uint8Array;
  readonly #record: MemoryView = hostBuffer(RECORD);
  #generation = 0;
  #next = RECORD;

  /** @param offset of its clusters, which belong to nobody else */
  constructor(file: ImageFile, offset: number, boot: Uint8Array) {
    this.#file = file;
    this.offset = offset;
    this.#boot = boot;
  }

  get full(): boolean {
    return this.#next >= JOURNAL_LENGTH;
  }

  get empty(): boolean {
    return this.#next === RECORD;
  }

  /** Writes an empty journal over whatever its clusters held. */
  create(): number {
    const status = this.#file.writeBytes(this.offset, hostBuffer(JOURNAL_LENGTH), 0, JOURNAL_LENGTH);
    return status < 0 ? status : this.restart();
  }

  /** Everything noted is in the tables: notes from here on belong to a new generation. */
  restart(): number {
    const { bytes, view } = this.#record;
    const generation = this.#generation + 1;
    view.setUint32(0, MAGIC_HIGH);
    view.setUint32(4, MAGIC_LOW);
    bytes.set(this.#boot, 8);
    view.setUint32(24, generation);
    view.setUint32(28, checksum(view, 0));
    const status = this.#file.writeBytes(this.offset, this.#record, 0, RECORD);
    if (status < 0) return status;
    this.#generation = generation;
    this.#next = RECORD;
    return 0;
  }

  /** Notes entries; the caller has looked at `full`. */
  append(entryOffset: number, count: number, high: number, low: number, step: number): number {
    const { view } = this.#record;
    view.setUint32(0, this.#generation);
    view.setUint32(4, count);
    view.setUint32(8, Math.floor(entryOffset / TWO_TO_32));
    view.setUint32(12, entryOffset % TWO_TO_32);
    view.setUint32(16, high);
    view.setUint32(20, low);
    view.setUint32(24, step);
    view.setUint32(28, checksum(view, 0));
    const status = this.#file.writeBytes(this.offset + this.#next, this.#record, 0, RECORD);
    if (status < 0) return status;
    this.#next += RECORD;
    return 0;
  }
}

/**
 * What the last writer of an image noted and did not enter, when it ended during this boot of the host.
 * @returns records in their order, none when the journal does not count; or a negated errno
 */
export function readJournal(file: ImageFile, header: Qcow2Header, boot = bootIdentity()): JournalRecord[] | number {
  const extension = header.extensions.find(({ type }) => type === JOURNAL_EXTENSION);
  if (extension?.data.length !== 8 || !boot) return [];
  const place = new DataView(extension.data.buffer, extension.data.byteOffset, 8);
  const offset = place.getUint32(0) * TWO_TO_32 + place.getUint32(4);
  if (!Number.isSafeInteger(offset) || offset === 0 || offset >= file.end) return [];
  const memory = hostBuffer(JOURNAL_LENGTH);
  const status = file.readBytes(offset, memory, 0, JOURNAL_LENGTH);
  if (status < 0) return status;
  const { bytes, view } = memory;
  if (view.getUint32(0) !== MAGIC_HIGH || view.getUint32(4) !== MAGIC_LOW) return [];
  if (view.getUint32(28) !== checksum(view, 0) || !boot.every((byte, i) => bytes[8 + i] === byte)) return [];
  return parseRecords(view, view.getUint32(24), header.clusterSize);
}

function parseRecords(view: DataView, generation: number, clusterSize: number): JournalRecord[] {
  const records: JournalRecord[] = [];
  for (let at = RECORD; at < JOURNAL_LENGTH; at += RECORD) {
    if (view.getUint32(at) !== generation || view.getUint32(at + 28) !== checksum(view, at)) break;
    const count = view.getUint32(at + 4);
    const entryOffset = view.getUint32(at + 8) * TWO_TO_32 + view.getUint32(at + 12);
    const within = entryOffset % clusterSize;
    // A record changes entries of one table.
    if (!Number.isSafeInteger(entryOffset) || within % 8 !== 0 || count > (clusterSize - within) / 8) break;
    records.push(
      new JournalRecord(entryOffset, count, view.getUint32(at + 16), view.getUint32(at + 20), view.getUint32(at + 24)),
    );
  }
  return records;
}
