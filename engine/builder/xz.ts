/**
 * XZ streams as Linux uses them: any number of blocks of LZMA2, alone or behind the x86 branch filter, with a CRC32,
 * CRC64 or SHA-256 check. Source: "The .xz File Format" 1.2.
 *
 * The LZMA2 decoder is a library that knows neither the x86 filter (which kernels are packed with) nor SHA-256, and
 * does not say where a stream ends. So the container is read here: the LZMA2 chunks are walked (their headers
 * hold all sizes), each block is handed over repacked as a plain stream, and filter and check are applied after.
 */

import { createHash } from "node:crypto";
import { crc32 } from "node:zlib";
import xzDecompress from "xz-decompress";
import { undoX86Filter } from "./x86-filter.ts";

const HEADER_SIZE = 12;
const FILTER_LZMA2 = 0x21;
const FILTER_X86 = 0x04;
const CHECK_SIZES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64] as const;
const CHECK_CRC32 = 1;
const CHECK_CRC64 = 4;
const CHECK_SHA256 = 10;

/** Why a stream could not be decoded. */
export type XzFailure = "truncated" | "corrupt" | "unsupported" | "too-large";

/** Thrown inside this module's callers' try blocks only; `decompress.ts` turns it into a BuildError. */
export class XzError extends Error {
  readonly failure: XzFailure;

  constructor(failure: XzFailure) {
    super(`xz: ${failure}`);
    this.failure = failure;
  }
}

interface Block {
  readonly dictionary: number;
  /** Start offset of the x86 filter, or undefined when the block does not use it. */
  readonly x86Start: number | undefined;
  readonly chunksAt: number;
  readonly chunksEnd: number;
  readonly size: number;
  readonly checkAt: number;
}

interface Stream {
  readonly check: number;
  readonly blocks: readonly Block[];
  readonly end: number;
}

/** Reads bytes with the failure "truncated" past the end. */
class Cursor {
  at: number;
  private readonly bytes: Uint8Array;

  constructor(bytes: Uint8Array, at: number) {
    this.bytes = bytes;
    this.at = at;
  }

  byte(): number {
    const value = this.bytes[this.at];
    if (value === undefined) throw new XzError("truncated");
    this.at++;
    return value;
  }

  skip(count: number): void {
    if (this.at + count > this.bytes.length) throw new XzError("truncated");
    this.at += count;
  }

  /** A "multibyte integer": seven bits a byte, least significant first, at most nine bytes. */
  number(): number {
    let value = 0;
    let scale = 1;
    for (let i = 0; i < 9; i++) {
      const byte = this.byte();
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
      scale *= 128;
    }
    throw new XzError("corrupt");
  }

  /** Checks the CRC32 stored here over the bytes from `start` to here. */
  crc(start: number): void {
    const end = this.at;
    this.skip(4);
    const stored = new DataView(this.bytes.buffer, this.bytes.byteOffset + end, 4).getUint32(0, true);
    if (crc32(this.bytes.subarray(start, end)) !== stored) throw new XzError("corrupt");
  }
}

/** Walks the LZMA2 chunks from the cursor to their end marker; returns the uncompressed size. */
function walkChunks(cursor: Cursor): number {
  let size = 0;
  for (;;) {
    const control = cursor.byte();
    if (control === 0) return size;
    if (control >= 0x80) {
      size += ((control & 0x1f) << 16) + (cursor.byte() << 8) + cursor.byte() + 1;
      const packed = (cursor.byte() << 8) + cursor.byte() + 1;
      cursor.skip(packed + (control >= 0xc0 ? 1 : 0));
    } else if (control <= 2) {
      const stored = (cursor.byte() << 8) + cursor.byte() + 1;
      size += stored;
      cursor.skip(stored);
    } else {
      throw new XzError("corrupt");
    }
  }
}

function readFilters(bytes: Uint8Array, cursor: Cursor, count: number): { dictionary: number; x86Start?: number } {
  let x86Start: number | undefined;
  for (let i = 0; i < count; i++) {
    const id = cursor.number();
    const propertySize = cursor.number();
    const properties = cursor.at;
    cursor.skip(propertySize);
    if (id === FILTER_LZMA2 && i === count - 1 && propertySize === 1) {
      const dictionary = bytes[properties] as number;
      return x86Start === undefined ? { dictionary } : { dictionary, x86Start };
    }
    if (id !== FILTER_X86 || i !== 0 || (propertySize !== 0 && propertySize !== 4)) break;
    x86Start = propertySize === 0 ? 0 : new DataView(bytes.buffer, bytes.byteOffset + properties, 4).getUint32(0, true);
  }
  throw new XzError("unsupported");
}

function readBlock(bytes: Uint8Array, cursor: Cursor, streamStart: number, checkSize: number): Block {
  const start = cursor.at;
  const headerSize = (cursor.byte() + 1) * 4;
  const flags = cursor.byte();
  if ((flags & 0x3c) !== 0) throw new XzError("unsupported");
  if ((flags & 0x40) !== 0) cursor.number();
  if ((flags & 0x80) !== 0) cursor.number();
  const { dictionary, x86Start } = readFilters(bytes, cursor, (flags & 3) + 1);
  if (cursor.at > start + headerSize - 4) throw new XzError("corrupt");
  cursor.at = start + headerSize - 4;
  cursor.crc(start);
  const chunksAt = cursor.at;
  const size = walkChunks(cursor);
  const chunksEnd = cursor.at;
  cursor.skip((4 - ((cursor.at - streamStart) & 3)) & 3);
  const checkAt = cursor.at;
  cursor.skip(checkSize);
  return { dictionary, x86Start, chunksAt, chunksEnd, size, checkAt };
}

/** Reads the structure of the stream at `start` without decompressing anything. */
function readStream(bytes: Uint8Array, start: number): Stream {
  const cursor = new Cursor(bytes, start);
  cursor.skip(HEADER_SIZE);
  const check = (bytes[start + 7] as number) & 15;
  const blocks: Block[] = [];
  for (;;) {
    if (cursor.at >= bytes.length) throw new XzError("truncated");
    if (bytes[cursor.at] === 0) break;
    blocks.push(readBlock(bytes, cursor, start, CHECK_SIZES[check] as number));
  }
  const index = cursor.at;
  cursor.byte();
  if (cursor.number() !== blocks.length) throw new XzError("corrupt");
  for (const block of blocks) {
    cursor.number();
    if (cursor.number() !== block.size) throw new XzError("corrupt");
  }
  cursor.skip((4 - ((cursor.at - index) & 3)) & 3);
  cursor.crc(index);
  cursor.skip(HEADER_SIZE);
  return { check, blocks, end: cursor.at };
}

function multibyte(value: number): number[] {
  const out: number[] = [];
  let rest = value;
  while (rest >= 128) {
    out.push((rest % 128) | 128);
    rest = Math.floor(rest / 128);
  }
  out.push(rest);
  return out;
}

function withCrc(bytes: readonly number[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(bytes.length + 4);
  out.set(bytes);
  new DataView(out.buffer).setUint32(bytes.length, crc32(out.subarray(0, bytes.length)), true);
  return out;
}

/** A complete stream around one block's LZMA2 chunks: no filter, no check. */
function repack(bytes: Uint8Array, block: Block): Blob {
  const chunks = Uint8Array.from(bytes.subarray(block.chunksAt, block.chunksEnd));
  const flags = withCrc([0, 0]);
  const blockHeader = withCrc([2, 0, FILTER_LZMA2, 1, block.dictionary, 0, 0, 0]);
  const records = [0, 1, ...multibyte(blockHeader.length + chunks.length), ...multibyte(block.size)];
  while ((records.length & 3) !== 0) records.push(0);
  const index = withCrc(records);
  const backward = index.length / 4 - 1;
  // Footer: CRC32 first, then backward size and stream flags.
  const footer = withCrc([backward & 255, (backward >>> 8) & 255, backward >>> 16, 0, 0, 0]);
  return new Blob([
    new Uint8Array([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0]),
    flags,
    blockHeader,
    chunks,
    new Uint8Array((4 - (chunks.length & 3)) & 3),
    index,
    footer.slice(6),
    footer.slice(0, 6),
    new Uint8Array([0x59, 0x5a]),
  ]);
}

async function decodeBlock(bytes: Uint8Array, block: Block, out: Uint8Array): Promise<void> {
  if (block.size === 0) return;
  let to = 0;
  try {
    for await (const chunk of new xzDecompress.XzReadableStream(repack(bytes, block).stream())) {
      if (to + chunk.length > out.length) throw new XzError("corrupt");
      out.set(chunk, to);
      to += chunk.length;
    }
  } catch {
    throw new XzError("corrupt");
  }
  if (to !== out.length) throw new XzError("corrupt");
  if (block.x86Start !== undefined) undoX86Filter(out, block.x86Start);
}

/** Table of CRC64 (ECMA-182, reflected): low and high words interleaved, so that no 64-bit arithmetic is needed. */
function makeCrc64Table(): Uint32Array {
  const table = new Uint32Array(512);
  for (let byte = 0; byte < 256; byte++) {
    let low = byte;
    let high = 0;
    for (let bit = 0; bit < 8; bit++) {
      const carry = low & 1;
      low = ((low >>> 1) | (high << 31)) >>> 0;
      high >>>= 1;
      if (carry !== 0) {
        low = (low ^ 0xd7870f42) >>> 0;
        high = (high ^ 0xc96c5795) >>> 0;
      }
    }
    table[2 * byte] = low;
    table[2 * byte + 1] = high;
  }
  return table;
}

let crc64Table: Uint32Array | undefined;

function crc64(bytes: Uint8Array): { low: number; high: number } {
  crc64Table ??= makeCrc64Table();
  let low = -1;
  let high = -1;
  for (let i = 0; i < bytes.length; i++) {
    const entry = 2 * ((low ^ (bytes[i] as number)) & 255);
    low = ((low >>> 8) | (high << 24)) ^ (crc64Table[entry] as number);
    high = (high >>> 8) ^ (crc64Table[entry + 1] as number);
  }
  return { low: ~low >>> 0, high: ~high >>> 0 };
}

function checkMatches(check: number, bytes: Uint8Array, at: number, data: Uint8Array): boolean {
  const stored = new DataView(bytes.buffer, bytes.byteOffset + at);
  switch (check) {
    case CHECK_CRC32:
      return stored.getUint32(0, true) === crc32(data);
    case CHECK_CRC64: {
      const { low, high } = crc64(data);
      return stored.getUint32(0, true) === low && stored.getUint32(4, true) === high;
    }
    case CHECK_SHA256:
      return createHash("sha256")
        .update(data)
        .digest()
        .equals(bytes.subarray(at, at + 32));
    default:
      return true;
  }
}

/**
 * Decompresses the XZ stream at `start`.
 *
 * @param limit greatest accepted output in bytes; known before anything is decompressed
 * @returns the data, and the position behind the stream
 * @throws XzError
 */
export async function decodeXz(
  bytes: Uint8Array,
  start: number,
  limit: number,
): Promise<{ data: Uint8Array; end: number }> {
  const stream = readStream(bytes, start);
  const total = stream.blocks.reduce((sum, block) => sum + block.size, 0);
  if (total > limit) throw new XzError("too-large");
  const data = new Uint8Array(total);
  let to = 0;
  for (const block of stream.blocks) {
    const part = data.subarray(to, to + block.size);
    await decodeBlock(bytes, block, part);
    if (!checkMatches(stream.check, bytes, block.checkAt, part)) throw new XzError("corrupt");
    to += block.size;
  }
  return { data, end: stream.end };
}
