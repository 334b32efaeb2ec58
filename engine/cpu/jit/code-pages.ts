/**
 * At which linear addresses pages of code run, as far as the jump cache tells. It is a guess: whoever relies on it has the jump
 * cache confirm it when the code runs (trace-links.ts).
 */
import { JUMP_CACHE, JUMP_ENTRIES, JUMP_MASK, JUMP_RECORD, MODE_64, R_PAGE } from "../assembly/layout.ts";

const ENTRY = 16;
const MODE_TAG = BigInt(MODE_64) << 56n;
const USER_TAG = 1n << 62n;
const PAGE = ~0xfffn;
/** High half of the tag of an entry with nothing in it. */
const EMPTY = 0xffff_ffff;

/** Address of the jump cache's entry for a linear address; the same as in assembly/code.ts. */
export function jumpEntry(linear: bigint): number {
  const low = Number((linear ^ (linear >> 13n)) & 0xffff_ffffn);
  return JUMP_CACHE + ((low << 4) & JUMP_MASK);
}

/** The tag of 64-bit code at a linear address (unsigned), before it is xor-ed with JUMP_TAG. */
export const jumpTag = (linear: bigint): bigint => BigInt.asUintN(64, linear ^ MODE_TAG);

/** The linear address that a tag was made from; undefined for none of 64-bit code. */
function linearOf(tag: bigint): bigint | undefined {
  const mixed = tag ^ MODE_TAG;
  const linear = ((mixed >> 62n) & 1n) === mixed >> 63n ? mixed : mixed ^ USER_TAG;
  const sign = BigInt.asIntN(48, linear);
  return BigInt.asUintN(64, sign) === linear ? linear : undefined;
}

export class CodePages {
  private readonly view: DataView;
  /** The jump cache. */
  private readonly words: Uint32Array;
  private readonly linear = new Map<number, bigint>();
  private readonly pages = new Map<bigint, number>();
  private old = true;

  /** @param view the vCPU's memory */
  constructor(view: DataView) {
    this.view = view;
    this.words = new Uint32Array(view.buffer, view.byteOffset + JUMP_CACHE, (JUMP_ENTRIES * ENTRY) / 4);
  }

  /** What the jump cache knows may be new: it is looked at before the next answer. */
  renew(): void {
    this.old = true;
  }

  /** Linear address of a page of the vCPU's memory. */
  linearOf(page: number): bigint | undefined {
    if (this.old) this.look();
    return this.linear.get(page);
  }

  /** Page of the vCPU's memory at a linear address. */
  pageAt(linear: bigint): number | undefined {
    if (this.old) this.look();
    return this.pages.get(linear & PAGE);
  }

  /** Notes what the jump cache knows now. Other threads may write to it meanwhile. */
  private look(): void {
    const { view, words } = this;
    this.old = false;
    for (let n = 0; n < words.length; n += ENTRY / 4) {
      const high = words[n + 1] ?? EMPTY;
      if (high === EMPTY) continue;
      const linear = linearOf((BigInt(high) << 32n) | BigInt(words[n] ?? 0));
      if (linear === undefined) continue;
      const page = view.getUint32((words[n + JUMP_RECORD / 4] ?? 0) + R_PAGE, true);
      this.linear.set(page, linear & PAGE);
      this.pages.set(linear & PAGE, page);
    }
  }
}
