/**
 * Values of a block that is being compiled: registers in locals, constants, and where they come from. A register that was
 * written is in memory again wherever somebody else may look: where the block is left, and where a handler is called.
 */
import { GPR, SLOT_GS, TLB } from "../assembly/layout.ts";
import { EMPTY, Encoder, I32, I64 } from "./encoder.ts";
import { type FlagCode, MEMORY, type Operand, operandsOf, type Pending, pushCondition, storeFlags } from "./flags.ts";
import { isConstant, type Node } from "./fold.ts";
import type { Access, Wasm } from "./ir.ts";

/** Register slots of 8 bytes that are looked after. */
const SLOTS = (SLOT_GS >> 3) + 1;
/** Functions that look at the flags in memory. */
const READING: ReadonlySet<string> = new Set(["rclValue", "rcrValue"]);

/** Where a value comes from: another one, known by a number, plus a constant. */
export interface Origin {
  readonly id: number;
  readonly offset: bigint;
}

/** Local with the value of each register slot, or 0. */
export type RegisterCache = Int16Array<ArrayBuffer>;

/** What is known at a point of the code: for a jump to a place that is emitted later. */
export interface ValuesState {
  readonly cache: RegisterCache;
  readonly dirty: ReadonlySet<number>;
  readonly pending: Pending;
  readonly origins: ReadonlyMap<number, Origin>;
}

export class Values implements FlagCode {
  readonly code = new Encoder();
  /** Offset in `code` of each if, and whether it is likely taken. */
  readonly hints: [number, boolean][] = [];
  cache: RegisterCache = new Int16Array(SLOTS);
  /** Slots whose value in memory is old: the one in `cache` counts. */
  dirty: ReadonlySet<number> = new Set();
  pending: Pending = MEMORY;
  /** WebAssembly blocks that are open. */
  depth = 0;
  /** Local with the address of the TLB in use, if anything needs it. */
  readonly tlb: number;
  private usesTlb = false;
  private readonly imported: (name: string) => number;
  /** Types of the locals; local 0 is the parameter. */
  private readonly types: number[] = [I32];
  private free: number[] = [];
  private origins = new Map<number, Origin>();
  private numbered = 0;

  /** @param imported function index of an imported function */
  constructor(imported: (name: string) => number) {
    this.imported = imported;
    this.tlb = this.local("i32");
  }

  get state(): ValuesState {
    const { cache, dirty, pending, origins } = this;
    return { cache: cache.slice(), dirty, pending, origins: new Map(origins) };
  }

  /** The locals that a state names still hold what they did, unless others ran in between. */
  set state({ cache, dirty, pending, origins }: ValuesState) {
    this.cache = cache.slice();
    this.dirty = dirty;
    this.pending = pending;
    this.origins = new Map(origins);
  }

  // --- locals -----------------------------------------------------------------------------------------------------

  /** A local that nothing refers to. */
  local(wasm: Wasm): number {
    const type = wasm === "i64" ? I64 : I32;
    const reused = this.free.findIndex((each) => this.types[each] === type);
    if (reused < 0) return this.types.push(type) - 1;
    const local = this.free.splice(reused, 1)[0] ?? 0;
    this.origins.delete(local);
    return local;
  }

  /** After an operation: locals that nothing refers to any more, nor `others`, can be used again. */
  release(others: Iterable<number>): void {
    const live = new Set<number>([0, this.tlb, ...this.cache, ...others]);
    for (const operand of operandsOf(this.pending)) if ("local" in operand) live.add(operand.local);
    this.free = [];
    for (let n = 1; n < this.types.length; n++) if (!live.has(n)) this.free.push(n);
  }

  /** Writes the declaration of the locals, and what sets those that have to be set first. */
  writePrologue(into: Encoder): void {
    into.unsigned(this.types.length - 1);
    for (const type of this.types.slice(1)) {
      into.byte(1);
      into.byte(type);
    }
    if (!this.usesTlb) return;
    into.i32(0);
    into.load("u32", TLB);
    into.set(this.tlb);
  }

  // --- code -------------------------------------------------------------------------------------------------------

  callCore(name: string): void {
    this.code.call(this.imported(name));
  }

  /** An if with a value: the condition is on the stack. */
  otherwise(type: Wasm, then: () => void, or: () => void): void {
    const { code } = this;
    code.block("if", type === "i64" ? I64 : I32);
    this.depth++;
    const before = this.cache.slice();
    then();
    code.op("else");
    this.cache = before.slice();
    or();
    this.cache = before;
    code.op("end");
    this.depth--;
  }

  /** An if without result that is seldom taken: the condition is on the stack. */
  unlikely(then: () => void): void {
    this.hints.push([this.code.length, false]);
    this.code.block("if", EMPTY);
    this.depth++;
    then();
    this.code.op("end");
    this.depth--;
  }

  /** Writes everything to memory for whoever goes on from here; what is known in the block stays as it is. */
  storeAll(): void {
    for (const n of this.dirty) {
      this.code.i32(0);
      this.code.get(this.cache[n] ?? 0);
      this.code.store("u64", GPR + (n << 3));
    }
    storeFlags(this, this.pending);
  }

  /** Writes all registers to memory; from here on memory is right. */
  writeBack(): void {
    const pending = this.pending;
    this.pending = MEMORY;
    this.storeAll();
    this.pending = pending;
    this.dirty = new Set();
  }

  /** Writes pending flags to memory; from here on memory is right. */
  settle(): void {
    storeFlags(this, this.pending);
    this.pending = MEMORY;
  }

  pushTlb(): void {
    this.usesTlb = true;
    this.code.get(this.tlb);
  }

  /** Evaluates an expression. */
  push(node: Node): void {
    const { code } = this;
    switch (node[0]) {
      case "i32":
        code.i32(node[1]);
        return;
      case "i64":
        code.i64(node[1]);
        return;
      case "local":
        code.get(node[1]);
        return;
      case "tlb":
        this.pushTlb();
        return;
      case "register":
        this.pushRegister(node[1], node[2]);
        return;
      case "load":
        this.push(node[2]);
        code.load(node[1], node[3]);
        return;
      case "op":
        for (const operand of node.slice(2) as Node[]) this.push(operand);
        if (node[1].startsWith("atomic.")) code.atomic(node[1].slice("atomic.".length));
        else code.op(node[1]);
        return;
      case "if":
        this.push(node[2]);
        this.otherwise(
          node[1],
          () => this.push(node[3]),
          () => this.push(node[4]),
        );
        return;
      case "call":
        this.pushCall(node[1], node.slice(2) as Node[]);
        return;
    }
  }

  private pushCall(name: string, operands: readonly Node[]): void {
    const [first] = operands;
    if (name === "getCond" && first?.[0] === "i32") {
      pushCondition(this, this.pending, first[1] & 15);
      return;
    }
    if (name === "getCarry") {
      pushCondition(this, this.pending, 2);
      return;
    }
    if (READING.has(name)) storeFlags(this, this.pending);
    for (const operand of operands) this.push(operand);
    this.callCore(name);
  }

  /** The local that holds all 64 bits of a slot. */
  slotLocal(slot: number): number {
    const n = slot >> 3;
    const known = this.cache[n] ?? 0;
    if (known !== 0) return known;
    const local = this.local("i64");
    this.code.i32(0);
    this.code.load("u64", GPR + (n << 3));
    this.code.set(local);
    this.cache[n] = local;
    return local;
  }

  private pushRegister(access: Access, slot: number): void {
    const { code } = this;
    code.get(this.slotLocal(slot));
    if (access === "u64") return;
    const shift = (slot & 7) * 8;
    if (shift !== 0) {
      code.i64(BigInt(shift));
      code.op("i64.shr_u");
    }
    code.op("i32.wrap_i64");
    if (access === "i8") code.op("i32.extend8_s");
    else if (access === "i16") code.op("i32.extend16_s");
    else if (access !== "u32") {
      code.i32(access === "u8" ? 0xff : 0xffff);
      code.op("i32.and");
    }
  }

  /** A value that stays as it is: in a local, or constant. */
  operand(node: Node, wasm: Wasm): Operand {
    if (isConstant(node)) return { constant: BigInt(node[1]), wasm };
    if (node[0] === "local") return { local: node[1], wasm };
    if (node[0] === "register" && node[1] === "u64") return { local: this.slotLocal(node[2]), wasm };
    const local = this.local(wasm);
    this.push(node);
    this.code.set(local);
    return { local, wasm };
  }

  /** Where a value comes from, if it is a local's plus a constant. */
  originOf(node: Node): Origin | undefined {
    if (node[0] === "local" && node[2] === "i64") return this.origin(node[1]);
    if (node[0] === "register" && node[1] === "u64") return this.origin(this.slotLocal(node[2]));
    if (node[0] !== "op" || node[3]?.[0] !== "i64" || node[2] === undefined) return undefined;
    const by = node[3][1];
    if (node[1] !== "i64.add" && node[1] !== "i64.sub") return undefined;
    const from = this.originOf(node[2]);
    return from && { id: from.id, offset: node[1] === "i64.add" ? from.offset + by : from.offset - by };
  }

  /** The origin of a local's value: itself, unless it is known better. */
  origin(local: number): Origin {
    const known = this.origins.get(local);
    if (known !== undefined) return known;
    const fresh = { id: ++this.numbered, offset: 0n };
    this.origins.set(local, fresh);
    return fresh;
  }

  /** Notes where a local's value comes from. */
  derive(local: number, origin: Origin | undefined): void {
    if (origin !== undefined) this.origins.set(local, origin);
  }

  /** Writes a register slot or a part of one. */
  setRegister(access: Access, slot: number, value: Node): void {
    const { code } = this;
    const n = slot >> 3;
    let local: number;
    const origin = access === "u64" ? this.originOf(value) : undefined;
    if (access === "u64" && value[0] === "local") {
      local = value[1];
    } else if (access === "u64" && value[0] === "register" && value[1] === "u64") {
      local = this.slotLocal(value[2]);
    } else {
      if (access === "u64") this.push(value);
      else this.pushMerged(access, slot, value);
      local = this.local("i64");
      code.set(local);
    }
    this.derive(local, origin);
    this.cache[n] = local;
    this.dirty = new Set(this.dirty).add(n);
  }

  /** The slot's 64 bits with a part of them replaced. */
  private pushMerged(access: Access, slot: number, value: Node): void {
    const { code } = this;
    const shift = BigInt((slot & 7) * 8);
    const mask = access === "u8" ? 0xffn : access === "u16" ? 0xffffn : 0xffffffffn;
    this.push(value);
    code.op("i64.extend_i32_u");
    code.i64(mask);
    code.op("i64.and");
    if (shift !== 0n) {
      code.i64(shift);
      code.op("i64.shl");
    }
    code.get(this.slotLocal(slot));
    code.i64(~(mask << shift));
    code.op("i64.and");
    code.op("i64.or");
  }
}
