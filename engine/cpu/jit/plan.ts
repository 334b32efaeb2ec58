/**
 * Which blocks become part of a function besides its own: hot ones that it jumps to, calls, or returns to after such a call. Only hot
 * ones, as everything else takes room in the caches. In the same page, whose translation and generation of code hold for all of
 * them, nothing has to be looked at; another page has to be confirmed when the code runs.
 */
import type { CodePages } from "./code-pages.ts";
import type { Known } from "./guest-memory.ts";
import type { DecodedBlock, RecordReader } from "./records.ts";
import type { ValuesState } from "./values.ts";

/** The page that a part of the function runs in. */
export interface Place {
  /** Its address in the vCPU's memory. */
  readonly page: number;
  /** Its linear address where the code has made sure of that. */
  readonly linear?: bigint;
}

/** Where the function goes on when a call within it returns. */
export interface Return {
  readonly place: Place;
  /** Bytes from the start of the page. */
  readonly offset: number;
  /** Heads of the blocks on the way to the call. */
  readonly path: readonly number[];
}

/** Where the code of a function is: what a jump to a place that is emitted later has to bring along. */
export interface Position {
  readonly place: Place;
  /** Heads of the blocks on the way there, which are not joined again. */
  readonly path: readonly number[];
  /** Calls under way, the last one last. */
  readonly returns: readonly Return[];
  /** Instructions that are not off the budget yet. */
  readonly spent: number;
}

/** A copy of a block that stands behind the rest of the function, and what holds where the function jumps to it. */
export interface Side {
  readonly block: DecodedBlock;
  readonly values: ValuesState;
  readonly known: Known;
  /** The record whose jump leads there. */
  readonly from: number;
  readonly position: Position;
}

/** Records that a function takes in at most, its own block's aside. */
const MOST_RECORDS = 192;
/** Sides of a function at most; their numbers take one byte in the binary. */
const MOST_SIDES = 16;

/**
 * Decisions for one function. It is emitted twice, and hot blocks become more meanwhile: what the first pass has found holds for
 * the second.
 */
export class TracePlan {
  private readonly records: RecordReader;
  private readonly pages: CodePages;
  private readonly blocks = new Map<number, DecodedBlock | undefined>();
  private room = MOST_RECORDS;
  /** Sides of the function; before that is known, as many as there can be. */
  sides = MOST_SIDES;

  constructor(records: RecordReader, pages: CodePages) {
    this.records = records;
    this.pages = pages;
  }

  /** Begins the second pass. */
  settle(sides: number): void {
    this.sides = sides;
    this.room = MOST_RECORDS;
  }

  /**
   * The block at an offset of a page if it is to be joined.
   * @param path heads of the blocks on the way there: a loop is not unrolled
   * @param sides sides that there are already
   */
  join(page: number, offset: number, path: readonly number[], sides: number): DecodedBlock | undefined {
    if (offset < 0 || offset > 0xfff || sides >= MOST_SIDES) return undefined;
    const block = this.hotBlock(page, offset);
    if (block === undefined || path.includes(block.head) || block.records.length > this.room) return undefined;
    this.room -= block.records.length;
    return block;
  }

  /** As join(), for a place in another page: with the linear address that is to be confirmed. */
  joinFar(from: Place, offset: number, path: readonly number[], sides: number): FarBlock | undefined {
    const base = from.linear ?? this.pages.linearOf(from.page);
    if (base === undefined) return undefined;
    const linear = BigInt.asUintN(64, base + BigInt(offset));
    const page = this.pages.pageAt(linear);
    if (page === undefined) return undefined;
    const block = this.join(page, Number(linear & 0xfffn), path, sides);
    return block && { block, base, linear };
  }

  private hotBlock(page: number, offset: number): DecodedBlock | undefined {
    const key = page + offset;
    if (!this.blocks.has(key)) {
      const head = this.records.find(page, offset);
      const hot = head !== undefined && this.records.hot(head);
      this.blocks.set(key, hot ? this.records.block(head) : undefined);
    }
    return this.blocks.get(key);
  }
}

/** A block of another page, its linear address, and that of the page that it is reached from. */
export interface FarBlock {
  readonly block: DecodedBlock;
  readonly base: bigint;
  readonly linear: bigint;
}
