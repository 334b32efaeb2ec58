/** Zstandard frames: where they end is read here (RFC 8878, section 3.1), the decoding is a library's. */

import { Decompress, decompress } from "fzstd";

export type ZstdFailure = "truncated" | "corrupt" | "too-large";

export class ZstdError extends Error {
  readonly failure: ZstdFailure;

  constructor(failure: ZstdFailure) {
    super(`zstd: ${failure}`);
    this.failure = failure;
  }
}

export const ZSTD_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const MAGIC_SIZE = 4;
const DICTIONARY_ID_SIZES = [0, 1, 2, 4] as const;
const CONTENT_SIZE_SIZES = [0, 2, 4, 8] as const;
const BLOCK_HEADER_SIZE = 3;
const BLOCK_RLE = 1;
const BLOCK_COMPRESSED = 2;
const LAST_BLOCK = 1;
/** Greatest output of a compressed block. */
const BLOCK_MAXIMUM = 128 * 1024;
const CHECKSUM_SIZE = 4;
/** The end of a marked frame: a block of as many zeros as a block can have, and an uncompressed one, a single byte 1. */
const WIPE_HEADER = (BLOCK_MAXIMUM << 3) | (BLOCK_RLE << 1);
const MARKER = [
  WIPE_HEADER & 0xff,
  (WIPE_HEADER >>> 8) & 0xff,
  WIPE_HEADER >>> 16,
  0,
  (1 << 3) | LAST_BLOCK,
  0,
  0,
  1,
] as const;
/** The library is fed in steps of this many bytes, so that an oversized output is noticed early. */
const FEED_STEP = 256 * 1024;

interface Frame {
  /** Position behind it. */
  readonly end: number;
  /** Positions of the last block's header and behind that block. */
  readonly lastBlock: number;
  readonly blocksEnd: number;
  /** It certainly decompresses to no more than that many bytes. */
  readonly bound: number;
}

/** Walks over the blocks of the frame that starts at `start`. */
function readFrame(bytes: Uint8Array, start: number): Frame {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = start + MAGIC_SIZE;
  const descriptor = bytes[at++];
  if (descriptor === undefined) throw new ZstdError("truncated");
  const singleSegment = (descriptor & 0x20) !== 0;
  const sizeFlag = descriptor >>> 6;
  at += singleSegment ? 0 : 1;
  at += DICTIONARY_ID_SIZES[descriptor & 3] as number;
  at += singleSegment && sizeFlag === 0 ? 1 : (CONTENT_SIZE_SIZES[sizeFlag] as number);
  let lastBlock = at;
  let bound = 0;
  for (let last = false; !last; ) {
    if (at + BLOCK_HEADER_SIZE > bytes.length) throw new ZstdError("truncated");
    const header = view.getUint16(at, true) | ((bytes[at + 2] as number) << 16);
    const type = (header >>> 1) & 3;
    const size = header >>> 3;
    last = (header & LAST_BLOCK) !== 0;
    lastBlock = at;
    bound += type === BLOCK_COMPRESSED ? BLOCK_MAXIMUM : size;
    at += BLOCK_HEADER_SIZE + (type === BLOCK_RLE ? 1 : size);
  }
  const end = at + ((descriptor & 4) !== 0 ? CHECKSUM_SIZE : 0);
  if (end > bytes.length) throw new ZstdError("truncated");
  return { end, lastBlock, blocksEnd: at, bound };
}

/**
 * Decodes a frame into one buffer. The library's other way moves its window, up to 128 MiB, at every block, which takes
 * ten times as long for a kernel; but this way it does not tell the length. So the frame gets an end that can be found:
 * zeros, over whatever the library left behind its output, and a byte 1, which is then the last one in the buffer.
 */
function decodeWhole(bytes: Uint8Array, start: number, frame: Frame): Uint8Array {
  const marked = new Uint8Array(frame.end - start + MARKER.length);
  const blocks = frame.blocksEnd - start;
  marked.set(bytes.subarray(start, frame.blocksEnd));
  const lastHeader = frame.lastBlock - start;
  marked[lastHeader] = (marked[lastHeader] as number) & ~LAST_BLOCK;
  marked.set(MARKER, blocks);
  marked.set(bytes.subarray(frame.blocksEnd, frame.end), blocks + MARKER.length);
  const buffer = new Uint8Array(frame.bound + BLOCK_MAXIMUM + 1);
  // The library compares its buffer with a number by ==, which would make a text of all its bytes.
  Object.defineProperty(buffer, Symbol.toPrimitive, { value: () => Number.NaN });
  try {
    decompress(marked, buffer);
  } catch {
    throw new ZstdError("corrupt");
  }
  const length = buffer.lastIndexOf(1) - BLOCK_MAXIMUM;
  if (length < 0) throw new ZstdError("corrupt");
  return buffer.subarray(0, length);
}

/** Decodes a frame piece by piece, for one whose bound is beyond what is accepted. */
function decodeStream(frame: Uint8Array, room: number, chunks: Uint8Array[]): number {
  let total = 0;
  const decoder = new Decompress((chunk) => {
    total += chunk.length;
    if (total > room) throw new ZstdError("too-large");
    // The library reuses its window, so the piece is copied.
    chunks.push(chunk.slice());
  });
  try {
    for (let at = 0; at < frame.length; at += FEED_STEP) {
      decoder.push(frame.subarray(at, at + FEED_STEP), at + FEED_STEP >= frame.length);
    }
  } catch (error) {
    throw error instanceof ZstdError ? error : new ZstdError("corrupt");
  }
  return total;
}

/**
 * Decompresses the frame at `start` and the frames that follow it directly.
 *
 * @param limit greatest accepted output in bytes
 * @throws ZstdError
 */
export function decodeZstd(bytes: Uint8Array, start: number, limit: number): { data: Uint8Array; end: number } {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const chunks: Uint8Array[] = [];
  let total = 0;
  let at = start;
  while (at + MAGIC_SIZE <= bytes.length) {
    const magic = view.getUint32(at, true);
    if ((magic & 0xffff_fff0) >>> 0 === SKIPPABLE_MAGIC && at + 8 <= bytes.length) {
      at += 8 + view.getUint32(at + 4, true);
      if (at > bytes.length) throw new ZstdError("truncated");
    } else if (magic === ZSTD_MAGIC) {
      const frame = readFrame(bytes, at);
      if (frame.bound <= limit - total) {
        const data = decodeWhole(bytes, at, frame);
        chunks.push(data);
        total += data.length;
      } else {
        total += decodeStream(bytes.subarray(at, frame.end), limit - total, chunks);
      }
      at = frame.end;
    } else {
      break;
    }
  }
  return { data: Buffer.concat(chunks, total), end: at };
}
