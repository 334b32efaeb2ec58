/** Where a chunk's pages go in a memory file: as few writes as are sensible. */
import { PAGE_SIZE } from "../abi/xen.ts";
import { WINDOW_BYTES, WINDOW_PAGES } from "../memory/frame-plan.ts";
import type { Chunk } from "./file-format.ts";

/** A window whose pages lie in more pieces than this is written whole, zeros and all: calls cost more than zeros. */
const MOST_PIECES = 4;

interface Piece {
  readonly first: number;
  readonly count: number;
}

/** Bytes for a place of the memory file. */
export interface Placement {
  readonly at: number;
  readonly bytes: Uint8Array;
}

/** The set bits of a 32-bit number as runs. */
function piecesOf(pages: number): Piece[] {
  const pieces: Piece[] = [];
  for (let n = 0; n < WINDOW_PAGES; ) {
    if (((pages >>> n) & 1) === 0) {
      n++;
      continue;
    }
    const first = n;
    while (n < WINDOW_PAGES && ((pages >>> n) & 1) !== 0) n++;
    pieces.push({ first, count: n - first });
  }
  return pieces;
}

/** What has to be written for a window's stored pages, `bytes`, which lie one behind the other. Nobody uses the window yet. */
export function placementsOf({ window, pages }: Chunk, bytes: Uint8Array): Placement[] {
  const start = window * WINDOW_BYTES;
  const pieces = piecesOf(pages);
  const [first, last] = [pieces[0], pieces.at(-1)];
  if (first === undefined || last === undefined) return [];
  const placements: Placement[] = [];
  let from = 0;
  for (const piece of pieces) {
    const part = bytes.subarray(from, from + piece.count * PAGE_SIZE);
    from += part.length;
    placements.push({ at: start + piece.first * PAGE_SIZE, bytes: part });
  }
  if (placements.length <= MOST_PIECES) return placements;
  const spread = new Uint8Array((last.first + last.count - first.first) * PAGE_SIZE);
  const at = start + first.first * PAGE_SIZE;
  for (const placement of placements) spread.set(placement.bytes, placement.at - at);
  return [{ at, bytes: spread }];
}
