/**
 * Decoder of the LZ4 legacy frame, the only LZ4 form that Linux uses for kernels and initrds.
 * Source: lz4_Frame_format.md ("Legacy frame") and lz4_Block_format.md of the LZ4 project.
 */

/** First four bytes of a legacy frame, little endian. */
export const LZ4_LEGACY_MAGIC = 0x184c2102;
/** Every block but the last holds exactly this much, uncompressed. */
const BLOCK_SIZE = 8 * 1024 * 1024;
/** A compressed block cannot be longer; a larger "size" is the first word of whatever follows the frame. */
const LONGEST_BLOCK = BLOCK_SIZE + Math.floor(BLOCK_SIZE / 255) + 16;
const SHORTEST_MATCH = 4;

/** Why a frame could not be decoded. */
export type Lz4Failure = "truncated" | "corrupt" | "too-large";

export type Lz4Result =
  | { readonly ok: true; readonly data: Uint8Array; readonly end: number }
  | { readonly ok: false; readonly failure: Lz4Failure };

/** Decodes one block into `out`; returns the number of bytes written, or -1 if the block is damaged. */
export function decodeLz4Block(input: Uint8Array, start: number, end: number, out: Uint8Array): number {
  let from = start;
  let to = 0;
  const room = out.length;
  while (from < end) {
    const token = input[from++] as number;
    let literals = token >>> 4;
    if (literals === 15) {
      let more = 255;
      while (more === 255) {
        if (from >= end) return -1;
        more = input[from++] as number;
        literals += more;
      }
    }
    if (from + literals > end || to + literals > room) return -1;
    if (literals <= 16) {
      for (let i = 0; i < literals; i++) out[to + i] = input[from + i] as number;
    } else {
      out.set(input.subarray(from, from + literals), to);
    }
    from += literals;
    to += literals;
    // The last sequence of a block has literals only.
    if (from === end) return to;
    if (from + 2 > end) return -1;
    const distance = (input[from] as number) | ((input[from + 1] as number) << 8);
    from += 2;
    if (distance === 0 || distance > to) return -1;
    let length = (token & 15) + SHORTEST_MATCH;
    if (length === 15 + SHORTEST_MATCH) {
      let more = 255;
      while (more === 255) {
        if (from >= end) return -1;
        more = input[from++] as number;
        length += more;
      }
    }
    if (to + length > room) return -1;
    if (distance >= length && length > 32) {
      out.copyWithin(to, to - distance, to - distance + length);
    } else {
      // Byte by byte: an overlapping match repeats what it has just written.
      for (let i = 0; i < length; i++) out[to + i] = out[to - distance + i] as number;
    }
    to += length;
  }
  return to;
}

interface Block {
  readonly start: number;
  readonly end: number;
}

/** Finds the blocks of the frames from `start` on, and the position behind them; undefined if one is cut. */
function findBlocks(input: Uint8Array, start: number): { blocks: Block[]; end: number } | undefined {
  const view = new DataView(input.buffer, input.byteOffset, input.byteLength);
  const blocks: Block[] = [];
  let at = start + 4;
  while (at + 4 <= input.length) {
    const size = view.getUint32(at, true);
    if (size !== LZ4_LEGACY_MAGIC && (size === 0 || size > LONGEST_BLOCK)) break;
    at += 4;
    if (size === LZ4_LEGACY_MAGIC) continue;
    if (at + size > input.length) return undefined;
    blocks.push({ start: at, end: at + size });
    at += size;
  }
  return { blocks, end: at };
}

/** No block grows beyond this: 8 MiB, or 255 bytes for each of its own. */
const roomFor = ({ start, end }: Block): number => Math.min(BLOCK_SIZE, (end - start) * 255);

/**
 * Decodes the legacy frame at `start`, and frames that follow it directly.
 *
 * @param limit greatest accepted output in bytes
 * @returns the output, and the position behind the last block
 */
export function decodeLz4Legacy(input: Uint8Array, start: number, limit: number): Lz4Result {
  const found = findBlocks(input, start);
  if (found === undefined) return { ok: false, failure: "truncated" };
  const room = found.blocks.reduce((sum, block) => sum + roomFor(block), 0);
  // Never more than the limit and one block, so that a small file cannot ask for gigabytes.
  const out = new Uint8Array(Math.min(room, limit + BLOCK_SIZE));
  let total = 0;
  for (const block of found.blocks) {
    const written = decodeLz4Block(input, block.start, block.end, out.subarray(total, total + roomFor(block)));
    if (written < 0) return { ok: false, failure: "corrupt" };
    total += written;
    if (total > limit) return { ok: false, failure: "too-large" };
  }
  return { ok: true, data: out.subarray(0, total), end: found.end };
}
