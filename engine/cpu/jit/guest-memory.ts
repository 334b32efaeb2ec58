/**
 * Accesses to the guest's memory within a block. One look-up in the TLB serves all accesses near it through the same
 * register: a first pass over the block measures how far they reach, and the look-up then covers them all, which must lie in
 * one page. Where the TLB does not know them the block is left, and the interpreter makes the access.
 */
import { TLB_ADDEND, TLB_MASK, TLB_W } from "../assembly/layout.ts";
import { push as pushOperand } from "./flags.ts";
import type { Node } from "./fold.ts";
import type { Origin, Values } from "./values.ts";

/** A stretch of guest memory that has been looked up: bytes low … high - 1 from a value. */
interface Translation {
  readonly check: number;
  readonly write: boolean;
  /** Local with the address in this memory of the byte at `low`. */
  readonly host: number;
  readonly low: bigint;
  readonly high: bigint;
}

/** What one look-up of a block covers. */
export interface Extent {
  low: bigint;
  high: bigint;
}

/** Where an accessed byte is in this memory: a local plus a constant. */
export interface Place {
  readonly host: number;
  readonly offset: number;
}

/** What is known at a point of the block; by the number of the value that addresses are relative to, the oldest first. */
export type Known = ReadonlyMap<number, Translation>;

/** Farthest apart that accesses of one look-up may be. */
const SPAN = 256n;
/** Look-ups kept at a time. */
const MOST = 6;
const PAGE = ~0xfffn;

export class GuestMemory {
  /** Extent of each look-up in order. */
  readonly extents: Extent[];
  private readonly measuring: boolean;
  private readonly values: Values;
  private readonly leave: () => void;
  private known = new Map<number, Translation>();
  private checks = 0;

  /**
   * @param leave leaves the block at the operation at hand
   * @param extents what a first pass over the same block has found; without it, this is the first
   */
  constructor(values: Values, leave: () => void, extents?: Extent[]) {
    this.values = values;
    this.leave = leave;
    this.extents = extents ?? [];
    this.measuring = extents === undefined;
  }

  /** Locals that are in use here. */
  *locals(): Iterable<number> {
    for (const { host } of this.known.values()) yield host;
  }

  get state(): Known {
    return new Map(this.known);
  }

  set state(known: Known) {
    this.known = new Map(known);
  }

  /** Forgets all look-ups: translations may have changed. */
  clear(): void {
    this.known.clear();
  }

  /** Where the `size` bytes at a linear address are, looked up unless they are known. */
  place(address: Node, size: number, write: boolean): Place {
    const { origin, local } = this.address(address);
    const low = origin.offset;
    const wanted = { low, high: low + BigInt(size) };
    const found = this.find(origin.id, wanted, write) ?? this.look(origin, local, wanted, write);
    return { host: found.host, offset: Number(low - found.low) };
  }

  /** A look-up that serves; in a first pass, one that can grow to do so. */
  private find(id: number, wanted: Extent, write: boolean): Translation | undefined {
    const known = this.known.get(id);
    if (known === undefined || (write && !known.write)) return undefined;
    if (wanted.low >= known.low && wanted.high <= known.high) return known;
    // What the look-up has grown to, also on a way of a branch that is over.
    const extent = this.extents[known.check];
    if (!this.measuring || extent === undefined) return undefined;
    const low = wanted.low < extent.low ? wanted.low : extent.low;
    const high = wanted.high > extent.high ? wanted.high : extent.high;
    if (high - low > SPAN) return undefined;
    Object.assign(extent, { low, high });
    const grown = { ...known, low, high };
    this.known.set(id, grown);
    return grown;
  }

  private look(origin: Origin, local: () => number, wanted: Extent, write: boolean): Translation {
    const check = this.checks++;
    if (this.measuring) this.extents.push(wanted);
    const { low, high } = this.extents[check] ?? wanted;
    const host = this.lookUp(local(), low - origin.offset, Number(high - low), write);
    const found = { check, write, host, low, high };
    this.known.delete(origin.id);
    this.known.set(origin.id, found);
    const [oldest] = this.known.keys();
    if (this.known.size > MOST && oldest !== undefined) this.known.delete(oldest);
    return found;
  }

  /** An address' origin, and a local with the address itself. */
  address(address: Node): { origin: Origin; local: () => number } {
    const { values } = this;
    const evaluate = (): number => {
      const operand = values.operand(address, "i64");
      if ("local" in operand) return operand.local;
      const local = values.local("i64");
      pushOperand(values.code, operand);
      values.code.set(local);
      return local;
    };
    const origin = values.originOf(address);
    if (origin !== undefined) return { origin, local: evaluate };
    const local = evaluate();
    return { origin: values.origin(local), local: () => local };
  }

  /** Emits the look-up of `length` bytes from (local + offset). @returns the local with their address in this memory */
  private lookUp(local: number, offset: bigint, length: number, write: boolean): number {
    const { values } = this;
    const { code } = values;
    const entry = values.local("i32");
    const host = values.local("i32");
    const pushFirst = (more: bigint): void => {
      code.get(local);
      if (offset + more === 0n) return;
      code.i64(offset + more);
      code.op("i64.add");
    };
    values.pushTlb();
    pushFirst(0n);
    code.i64(7n);
    code.op("i64.shr_u");
    code.op("i32.wrap_i64");
    code.i32(TLB_MASK);
    code.op("i32.and");
    code.op("i32.add");
    code.tee(entry);
    code.load("u64", write ? TLB_W : 0);
    pushFirst(BigInt(length - 1));
    code.i64(PAGE);
    code.op("i64.and");
    code.op("i64.ne");
    values.unlikely(() => this.leave());
    pushFirst(0n);
    code.op("i32.wrap_i64");
    code.get(entry);
    code.load("u32", TLB_ADDEND);
    code.op("i32.add");
    code.set(host);
    return host;
  }
}
