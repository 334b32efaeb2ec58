/** Zstandard frames: where they end is read here (RFC 8878, section 3.1), the decoding is a library's. */

import { Decompress } from "fzstd";

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
const BLOCK_RLE = 1;
/** The library is fed in steps of this many bytes, so that an oversized output is noticed early. */
const FEED_STEP = 256 * 1024;

/** Position behind the frame that starts at `start`. */
function frameEnd(bytes: Uint8Array, start: number): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = start + MAGIC_SIZE;
  const descriptor = bytes[at++];
  if (descriptor === undefined) throw new ZstdError("truncated");
  const singleSegment = (descriptor & 0x20) !== 0;
  const sizeFlag = descriptor >>> 6;
  at += singleSegment ? 0 : 1;
  at += DICTIONARY_ID_SIZES[descriptor & 3] as number;
  at += singleSegment && sizeFlag === 0 ? 1 : (CONTENT_SIZE_SIZES[sizeFlag] as number);
  let last = false;
  while (!last) {
    if (at + 3 > bytes.length) throw new ZstdError("truncated");
    const header = view.getUint16(at, true) | ((bytes[at + 2] as number) << 16);
    last = (header & 1) !== 0;
    at += 3 + (((header >>> 1) & 3) === BLOCK_RLE ? 1 : header >>> 3);
  }
  at += (descriptor & 4) !== 0 ? 4 : 0;
  if (at > bytes.length) throw new ZstdError("truncated");
  return at;
}

function decodeFrame(frame: Uint8Array, room: number, chunks: Uint8Array[]): number {
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
      const end = frameEnd(bytes, at);
      total += decodeFrame(bytes.subarray(at, end), limit - total, chunks);
      at = end;
    } else {
      break;
    }
  }
  return { data: Buffer.concat(chunks, total), end: at };
}
