/**
 * The snapshot file's parts, byte for byte.
 *
 *     preamble, PREAMBLE_BYTES:
 *       0  char[8] magic          8  u32 version       12  u32 codec            16  u64 length of the file
 *      24  u64 guest bytes       32  u64 RAM bytes     40  u64 place of the table
 *      48  u32 table entries     52  u32 table CRC     56  u32 pages stored     60  u32 header's length, compressed
 *      64  u32 header's length   68  u32 header's CRC  72  zero                 92  u32 CRC of bytes 0 … 91
 *     chunks, one behind the other in the table's order
 *     table, an entry of ENTRY_BYTES a chunk:
 *       u32 window, u32 pages, u32 length | CHUNK_RAW, u32 CRC of the chunk's bytes
 *     header: JSON, raw DEFLATE
 *
 * A window is WINDOW_PAGES pages of the domain's memory file; bit n of `pages` is set when its page n is stored. A chunk is the
 * stored pages of one window, compressed together; pages that are not stored are zero. Windows ascend and chunks follow each
 * other without gaps, so neither can overlap, whatever a table says. Little endian; CRC-32 as in zlib.
 */
import { crc32 } from "node:zlib";
import { PAGE_SIZE } from "../abi/xen.ts";
import { type FramePlan, planFrames, WINDOW_BYTES, WINDOW_PAGES } from "../memory/frame-plan.ts";
import { damaged, SnapshotError } from "./errors.ts";

const MAGIC = Buffer.from("DOMLABSN", "latin1");
/** To be raised with every change of this format, and of what lies where in front of FramePlan.control. */
export const VERSION = 1;
export const PREAMBLE_BYTES = 96;
const PREAMBLE_CRC = 92;
export const ENTRY_BYTES = 16;
/** In an entry's length: the chunk is not compressed. */
const CHUNK_RAW = 2 ** 31;
/** Longest header, not compressed. */
export const MAX_HEADER_BYTES = 64 * 2 ** 20;

export interface Preamble {
  readonly codec: number;
  /** Length of the whole file. */
  readonly fileBytes: number;
  /** Bytes of the domain's memory file that the snapshot covers: all pages a guest can reach. */
  readonly guestBytes: number;
  readonly ramBytes: number;
  readonly tableAt: number;
  readonly entries: number;
  readonly tableCrc: number;
  /** Pages stored in all chunks. */
  readonly pages: number;
  readonly headerStored: number;
  readonly headerBytes: number;
  readonly headerCrc: number;
}

export interface Chunk {
  readonly window: number;
  /** Bit n: page n of the window is stored. */
  readonly pages: number;
  /** Length of the chunk in the file, and its place there. */
  readonly stored: number;
  readonly at: number;
  readonly raw: boolean;
  readonly crc: number;
}

/** Bytes of the memory file that a snapshot of a domain covers: RAM and the special frames that guests see. */
export function guestBytesOf(plan: FramePlan): number {
  return plan.control;
}

/** Set bits of a 32-bit number. */
export function pageCount(pages: number): number {
  let count = 0;
  for (let rest = pages; rest !== 0; rest &= rest - 1) count++;
  return count;
}

export function encodePreamble(preamble: Preamble): Buffer {
  const bytes = Buffer.alloc(PREAMBLE_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(VERSION, 8);
  bytes.writeUInt32LE(preamble.codec, 12);
  bytes.writeBigUInt64LE(BigInt(preamble.fileBytes), 16);
  bytes.writeBigUInt64LE(BigInt(preamble.guestBytes), 24);
  bytes.writeBigUInt64LE(BigInt(preamble.ramBytes), 32);
  bytes.writeBigUInt64LE(BigInt(preamble.tableAt), 40);
  bytes.writeUInt32LE(preamble.entries, 48);
  bytes.writeUInt32LE(preamble.tableCrc, 52);
  bytes.writeUInt32LE(preamble.pages, 56);
  bytes.writeUInt32LE(preamble.headerStored, 60);
  bytes.writeUInt32LE(preamble.headerBytes, 64);
  bytes.writeUInt32LE(preamble.headerCrc, 68);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, PREAMBLE_CRC)), PREAMBLE_CRC);
  return bytes;
}

function notOne(path: string): SnapshotError {
  return new SnapshotError("not-a-snapshot", `${path} is no snapshot`, "name a file that domlab made of a machine");
}

/** Refuses what is no snapshot, or one that this version cannot know. */
function checkIdentity(bytes: Buffer, path: string): void {
  if (bytes.length < MAGIC.length || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) throw notOne(path);
  if (bytes.length < PREAMBLE_BYTES) throw damaged(path, "it ends in its first bytes");
  const version = bytes.readUInt32LE(8);
  if (version > VERSION) {
    const what = `the snapshot ${path} was made by a later version of domlab (format ${version}, known ${VERSION})`;
    throw new SnapshotError("later-version", what, "update domlab");
  }
  const crc = bytes.readUInt32LE(PREAMBLE_CRC);
  if (version < 1 || crc !== crc32(bytes.subarray(0, PREAMBLE_CRC))) throw damaged(path, "its first bytes are wrong");
}

/** Bytes that a domain with so much RAM has for its guest; undefined when there is no such domain. */
function guestBytesFor(ramBytes: number): number | undefined {
  try {
    return guestBytesOf(planFrames(ramBytes));
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

/**
 * Reads the first PREAMBLE_BYTES of a file of `fileBytes`, and checks that what they say fits together.
 * @throws SnapshotError not-a-snapshot, later-version, damaged-snapshot
 */
export function decodePreamble(bytes: Buffer, fileBytes: number, path: string): Preamble {
  checkIdentity(bytes, path);
  const preamble: Preamble = {
    codec: bytes.readUInt32LE(12),
    fileBytes: Number(bytes.readBigUInt64LE(16)),
    guestBytes: Number(bytes.readBigUInt64LE(24)),
    ramBytes: Number(bytes.readBigUInt64LE(32)),
    tableAt: Number(bytes.readBigUInt64LE(40)),
    entries: bytes.readUInt32LE(48),
    tableCrc: bytes.readUInt32LE(52),
    pages: bytes.readUInt32LE(56),
    headerStored: bytes.readUInt32LE(60),
    headerBytes: bytes.readUInt32LE(64),
    headerCrc: bytes.readUInt32LE(68),
  };
  const { tableAt, entries, headerStored } = preamble;
  if (preamble.fileBytes !== fileBytes) {
    const what = `it has ${fileBytes} bytes where ${preamble.fileBytes} were written`;
    throw damaged(path, what);
  }
  const fits = tableAt >= PREAMBLE_BYTES && tableAt + entries * ENTRY_BYTES + headerStored === fileBytes;
  const known = preamble.guestBytes === guestBytesFor(preamble.ramBytes);
  const windows = Math.ceil(preamble.guestBytes / WINDOW_BYTES);
  if (!known || !fits || entries > windows || preamble.headerBytes > MAX_HEADER_BYTES) {
    throw damaged(path, "its parts do not fit together");
  }
  return preamble;
}

/** The error of a chunk that is not what was written. */
export function damagedChunk({ window }: Chunk, path: string): SnapshotError {
  return damaged(path, `the pages from ${window * WINDOW_PAGES} on are wrong`);
}

/** Compares the checksum of a chunk as it is in the file. @throws SnapshotError damaged-snapshot */
export function checkChunk(chunk: Chunk, stored: Uint8Array, path: string): void {
  if (crc32(stored) !== chunk.crc) throw damagedChunk(chunk, path);
}

/** One entry of the table. */
export function encodeEntry(chunk: Omit<Chunk, "at">, to: Buffer, at: number): void {
  to.writeUInt32LE(chunk.window, at);
  to.writeUInt32LE(chunk.pages >>> 0, at + 4);
  to.writeUInt32LE(chunk.stored + (chunk.raw ? CHUNK_RAW : 0), at + 8);
  to.writeUInt32LE(chunk.crc, at + 12);
}

/**
 * Reads a table whose length the preamble gave.
 * @throws SnapshotError damaged-snapshot unless every chunk lies behind the one before, in the file and in memory
 */
export function decodeTable(bytes: Buffer, preamble: Preamble, path: string): Chunk[] {
  if (crc32(bytes) !== preamble.tableCrc) throw damaged(path, "its table is wrong");
  const chunks: Chunk[] = [];
  const lastPage = preamble.guestBytes / PAGE_SIZE - 1;
  let at = PREAMBLE_BYTES;
  let next = 0;
  let total = 0;
  for (let n = 0; n < preamble.entries; n++) {
    const window = bytes.readUInt32LE(n * ENTRY_BYTES);
    const pages = bytes.readUInt32LE(n * ENTRY_BYTES + 4);
    const length = bytes.readUInt32LE(n * ENTRY_BYTES + 8);
    const raw = length >= CHUNK_RAW;
    const stored = raw ? length - CHUNK_RAW : length;
    const whole = pageCount(pages) * PAGE_SIZE;
    const highest = window * WINDOW_PAGES + 31 - Math.clz32(pages);
    const sound = raw ? stored === whole : stored > 0 && stored < whole;
    if (window < next || pages === 0 || highest > lastPage || !sound) throw damaged(path, `chunk ${n} is impossible`);
    chunks.push({ window, pages, stored, at, raw, crc: bytes.readUInt32LE(n * ENTRY_BYTES + 12) });
    next = window + 1;
    at += stored;
    total += pageCount(pages);
  }
  if (at !== preamble.tableAt || total !== preamble.pages) throw damaged(path, "its chunks do not fit together");
  return chunks;
}
