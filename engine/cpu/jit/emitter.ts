/**
 * Compiles one decoded block into one WebAssembly function (record) → next record.
 *
 * The function does what the interpreter does with the same records: registers are written to memory at once, so that memory
 * is right wherever a fault can leave; values that were read or written stay in locals for later reads. Flags are left
 * pending (flags.ts). Where the interpreter would go on elsewhere the function calls what runs there as its last
 * act, or returns the record when that is nothing compiled.
 */
import {
  CUR,
  FLAG_RF,
  FLAG_VM,
  GPR,
  LAZY_A,
  LAZY_B,
  LAZY_KIND,
  LEFT,
  R_OP,
  R_SIZE,
  RECORD,
  SLOT_GS,
  SLOT_PAGE,
  SLOT_TEMP,
  TLB,
  TLB_ADDEND,
  TLB_MASK,
  TLB_W,
} from "../assembly/layout.ts";
import { EMPTY, Encoder, I32, I64 } from "./encoder.ts";
import {
  type FlagCode,
  MEMORY,
  type Operand,
  type Pending,
  pushCondition,
  push as pushOperand,
  storeFlags,
} from "./flags.ts";
import { fold, isConstant, isRegister, type Node } from "./fold.ts";
import type { Access, Expression, OperationTable, Statement, Wasm } from "./ir.ts";
import type { DecodedBlock, DecodedRecord, RecordReader } from "./records.ts";

/** Functions of a module besides the blocks; all answer the next record. */
export interface Helpers {
  /** (i64 linear address, i32 instructions): goes on there, if the budget is enough for those up to here. */
  readonly jump: number;
  /** (i32 head): what runs that block. */
  readonly enter: number;
  /** (i32 record): the record's direct jump, by its link if there is one by now. */
  readonly link: number;
  /** (i32 record): the record's direct jump, by the core. */
  readonly far: number;
}

/** What a block's function needs to know of the module that it becomes part of. */
export interface ModuleFrame {
  readonly table: OperationTable;
  readonly records: RecordReader;
  /** Number of the record operation that the interpreter executes where code has changed. */
  readonly resync: number;
  /** Function index of an imported function of the core. */
  core(name: string): number;
  /** Function index of a block of this module by its head. */
  local(head: number): number | undefined;
  /** Function indexes of what blocks share (module.ts). */
  readonly helpers: Helpers;
  /** Names of the core's handlers by function table index. */
  readonly handlers: ReadonlyMap<number, string>;
  /** Type index of (i32) → nothing. */
  readonly handlerType: number;
}

/** A compiled function. */
export interface FunctionCode {
  /** Locals and instructions: the body of an entry in the code section. */
  readonly body: Uint8Array;
  /** Branch hints: offset of the instruction in `body`, and whether it is likely taken. */
  readonly hints: readonly (readonly [offset: number, likely: boolean])[];
}

/** Register slots of 8 bytes that are looked after. */
const SLOTS = (SLOT_GS >> 3) + 1;

/** Calls that give all flags, and such that change some of those in memory. */
const SETTING: ReadonlySet<string> = new Set(["setCarried", "shldFlags", "shrdFlags"]);
const CHANGING: ReadonlySet<string> = new Set([
  "setScanFlags",
  "rolFlags",
  "rorFlags",
  "rclFlags",
  "rcrFlags",
  "setCarryOverflow",
]);
const READING: ReadonlySet<string> = new Set(["rclValue", "rcrValue"]);
const PENDING: ReadonlySet<string> = new Set(["setCounted", "setResult", "setCarry"]);
const DEEPEST = 3;
/** Handlers that change flags and nothing else. */
const FLAGS_ONLY: ReadonlySet<string> = new Set(["clearInterrupts"]);
const RSP = 32;

const depthOf = (pending: Pending): number =>
  pending.kind === "counted" || pending.kind === "carry" ? 1 + depthOf(pending.below) : 0;

function touchesFlags(statements: readonly Statement[]): boolean {
  return statements.some((statement) => {
    switch (statement[0]) {
      case "store":
        return statement[2][0] === "i32" && [LAZY_A, LAZY_B, LAZY_KIND].includes(statement[2][1] + statement[3]);
      case "if":
        return touchesFlags(statement[2]) || touchesFlags(statement[3]);
      case "do":
        return touchesFlags(statement[1]);
      case "call":
        return PENDING.has(statement[1]) || SETTING.has(statement[1]) || CHANGING.has(statement[1]);
      default:
        return false;
    }
  });
}

function assigned(statements: readonly Statement[], into: Set<string>): Set<string> {
  for (const statement of statements) {
    if (statement[0] === "set") into.add(statement[1]);
    else if (statement[0] === "do") assigned(statement[1], into);
    else if (statement[0] === "if") assigned(statement[3], assigned(statement[2], into));
  }
  return into;
}

/** Where a value comes from: another one, known by a number, plus a constant. */
interface Origin {
  readonly id: number;
  readonly offset: bigint;
}

/** A stretch of guest memory whose translation has been looked up: bytes low … high - 1 from a value. */
interface Translation {
  readonly check: number;
  readonly write: boolean;
  /** Local with the address in this memory of the byte at `low`. */
  readonly host: number;
  readonly low: bigint;
  readonly high: bigint;
}

/** Bounds of what a block accesses through one look-up, found in a first pass over the block. */
export interface Extent {
  low: bigint;
  high: bigint;
}

/** Farthest apart that accesses of one look-up may be: all lie in one page, or the interpreter makes them. */
const SPAN = 256n;
/** Look-ups kept at a time. */
const TRANSLATIONS = 6;
const PAGE = ~0xfffn;

export class BlockEmitter implements FlagCode {
  readonly code = new Encoder();
  private readonly frame: ModuleFrame;
  private readonly block: DecodedBlock;
  private readonly hints: [number, boolean][] = [];
  /** Types of the locals; local 0 is the parameter. */
  private readonly types: number[] = [I32];
  private free: number[] = [];
  /** Local with the value of each register slot, or 0. */
  private cache = new Int16Array(SLOTS);
  private pending: Pending = MEMORY;
  private variables = new Map<string, Node>();
  /** Where the values of locals come from. */
  private readonly origins = new Map<number, Origin>();
  private values = 0;
  /** What has been looked up, by the number of the value; the oldest first. */
  private translations = new Map<number, Translation>();
  private checks = 0;
  /** Extent of each look-up in order. */
  readonly extents: Extent[];
  private readonly measuring: boolean;
  private assigned: ReadonlySet<string> = new Set();
  /** The record at hand. */
  private at = 0;
  private name = "";
  private lazyA: Operand | undefined;
  private lazyB: Operand | undefined;
  private readonly tlb: number;
  private usesTlb = false;
  /** Blocks that are open, and whether code after the last one can be reached. */
  private depth = 0;
  private ended = false;
  private loops = false;

  /** @param extents what a first pass over the same block has found */
  private constructor(frame: ModuleFrame, block: DecodedBlock, extents?: Extent[]) {
    this.frame = frame;
    this.block = block;
    this.extents = extents ?? [];
    this.measuring = extents === undefined;
    this.tlb = this.local("i32");
  }

  /** Compiles a block: once to see how far its memory accesses reach, and once to keep. */
  static compile(frame: ModuleFrame, block: DecodedBlock): FunctionCode {
    const first = new BlockEmitter(frame, block);
    first.emit();
    return new BlockEmitter(frame, block, first.extents).emit();
  }

  private emit(): FunctionCode {
    // Everything stands in a loop, for blocks that jump to their own start.
    this.depth = 1;
    const { records } = this.block;
    for (const record of records) {
      this.operation(record);
      if (this.ended) break;
    }
    if (!this.ended) this.leaveTo((records.at(-1)?.at ?? this.block.head) + RECORD);
    return this.finish();
  }

  private finish(): FunctionCode {
    const start = new Encoder(64);
    start.unsigned(this.types.length - 1);
    for (const type of this.types.slice(1)) {
      start.byte(1);
      start.byte(type);
    }
    if (this.usesTlb) {
      start.i32(0);
      start.load("u32", TLB);
      start.set(this.tlb);
    }
    if (this.loops) start.block("loop", EMPTY);
    const offset = start.length;
    start.append(this.code.bytes());
    if (this.loops) start.op("end");
    start.op("unreachable");
    start.op("end");
    return { body: start.bytes(), hints: this.hints.map(([at, likely]) => [at + offset, likely]) };
  }

  // --- locals -----------------------------------------------------------------------------------------------------

  private local(wasm: Wasm): number {
    const type = wasm === "i64" ? I64 : I32;
    const reused = this.free.findIndex((each) => this.types[each] === type);
    if (reused >= 0) {
      const local = this.free.splice(reused, 1)[0] ?? 0;
      this.origins.delete(local);
      return local;
    }
    return this.types.push(type) - 1;
  }

  /** After an operation: locals that nothing refers to any more can be used again. */
  private release(): void {
    const live = new Set<number>([
      0,
      this.tlb,
      ...this.cache,
      ...[...this.translations.values()].map(({ host }) => host),
    ]);
    const note = (operand: Operand): void => {
      if ("local" in operand) live.add(operand.local);
    };
    for (let pending: Pending = this.pending; pending.kind !== "memory"; ) {
      if (pending.kind === "lazy") {
        note(pending.a);
        note(pending.b);
        break;
      }
      if (pending.kind === "result") {
        note(pending.value);
        note(pending.rest);
        break;
      }
      note(pending.kind === "counted" ? pending.x : pending.carry);
      pending = pending.below;
    }
    this.free = [];
    for (let n = 1; n < this.types.length; n++) if (!live.has(n)) this.free.push(n);
  }

  // --- expressions ------------------------------------------------------------------------------------------------

  private fold(expression: Expression): Node {
    return fold(expression, this.at, this.frame.records, this.variables);
  }

  callCore(name: string): void {
    this.code.call(this.frame.core(name));
  }

  /** An if with a value: the condition is on the stack. */
  otherwise(type: "i32" | "i64", then: () => void, or: () => void): void {
    const { code } = this;
    code.block("if", type === "i64" ? I64 : I32);
    this.depth++;
    const before = this.cache.slice();
    const translations = new Map(this.translations);
    then();
    code.op("else");
    this.cache = before.slice();
    this.translations = new Map(translations);
    or();
    this.cache = before;
    this.translations = translations;
    code.op("end");
    this.depth--;
  }

  private push(node: Node): void {
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
        this.usesTlb = true;
        code.get(this.tlb);
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
  private slotLocal(slot: number): number {
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
  private operand(node: Node, wasm: Wasm): Operand {
    if (isConstant(node)) return { constant: BigInt(node[1]), wasm };
    if (node[0] === "local") return { local: node[1], wasm };
    if (node[0] === "register" && node[1] === "u64") return { local: this.slotLocal(node[2]), wasm };
    const local = this.local(wasm);
    this.push(node);
    this.code.set(local);
    return { local, wasm };
  }

  // --- statements -------------------------------------------------------------------------------------------------

  private statements(list: readonly Statement[]): void {
    for (const statement of list) {
      if (this.ended) return;
      this.statement(statement);
    }
  }

  private statement(statement: Statement): void {
    switch (statement[0]) {
      case "let":
        this.declare(statement[1], statement[2], this.fold(statement[3]));
        return;
      case "set": {
        const variable = this.variables.get(statement[1]);
        this.push(this.fold(statement[2]));
        if (variable?.[0] === "local") this.code.set(variable[1]);
        return;
      }
      case "store":
        this.store(statement[1], this.fold(statement[2]), statement[3], this.fold(statement[4]));
        return;
      case "read": {
        const local = this.local("i64");
        const { host, low, origin } = this.translate(this.fold(statement[3]), statement[2], false);
        this.code.get(host);
        this.code.loadWide(statement[2], Number(origin.offset - low));
        this.code.set(local);
        this.variables.set(statement[1], ["local", local, "i64"]);
        return;
      }
      case "write": {
        const { host, low, origin } = this.translate(this.fold(statement[2]), statement[1], true);
        this.code.get(host);
        this.push(this.fold(statement[3]));
        this.code.storeWide(statement[1], Number(origin.offset - low));
        return;
      }
      case "if":
        this.branch(this.fold(statement[1]), statement[2], statement[3]);
        return;
      case "fault":
        this.leaveTo(this.at);
        return;
      case "do":
        this.repeat(statement[1], statement[2]);
        return;
      case "call":
        this.effect(
          statement[1],
          (statement.slice(2) as Expression[]).map((each) => this.fold(each)),
        );
        return;
      case "take":
        this.take();
        return;
      case "jump":
        this.jump(this.fold(statement[1]));
        return;
      case "done":
        throw new Error(`operation ${this.name}: "done" stands in handlers only`);
    }
  }

  private declare(name: string, wasm: Wasm, value: Node): void {
    if (!this.assigned.has(name)) {
      if (isConstant(value) || value[0] === "local") {
        this.variables.set(name, value);
        return;
      }
      if (value[0] === "register" && value[1] === "u64") {
        this.variables.set(name, ["local", this.slotLocal(value[2]), "i64"]);
        return;
      }
    }
    const local = this.local(wasm);
    this.push(value);
    this.code.set(local);
    this.variables.set(name, ["local", local, wasm]);
    const origin = this.originOf(value);
    if (origin !== undefined && !this.assigned.has(name)) this.origins.set(local, origin);
  }

  // --- the guest's memory -----------------------------------------------------------------------------------------

  /** Where a value comes from, if it is a local's plus a constant. */
  private originOf(node: Node): Origin | undefined {
    if (node[0] === "local" && node[2] === "i64") return this.origin(node[1]);
    if (node[0] === "register" && node[1] === "u64") return this.origin(this.slotLocal(node[2]));
    if (node[0] !== "op" || node[3]?.[0] !== "i64" || node[2] === undefined) return undefined;
    const by = node[3][1];
    if (node[1] !== "i64.add" && node[1] !== "i64.sub") return undefined;
    const from = this.originOf(node[2]);
    return from && { id: from.id, offset: node[1] === "i64.add" ? from.offset + by : from.offset - by };
  }

  private origin(local: number): Origin {
    const known = this.origins.get(local);
    if (known !== undefined) return known;
    const fresh = { id: ++this.values, offset: 0n };
    this.origins.set(local, fresh);
    return fresh;
  }

  /**
   * Looks a linear address up in the TLB, or finds that it has been looked up; the block is left where the TLB does not know it.
   * In a first pass look-ups grow to what is accessed through them.
   */
  private translate(address: Node, size: number, write: boolean): Translation & { readonly origin: Origin } {
    const { origin, local } = this.addressLocal(address);
    const low = origin.offset;
    const high = low + BigInt(size);
    const known = this.translations.get(origin.id);
    if (known !== undefined && (known.write || !write)) {
      const extent = this.extents[known.check];
      if (low >= known.low && high <= known.high) return { ...known, origin };
      if (this.measuring && extent !== undefined) {
        const wider = { low: low < known.low ? low : known.low, high: high > known.high ? high : known.high };
        if (wider.high - wider.low <= SPAN) {
          Object.assign(extent, wider);
          const grown = { ...known, ...wider };
          this.translations.set(origin.id, grown);
          return { ...grown, origin };
        }
      }
    }
    const check = this.checks++;
    if (this.measuring) this.extents.push({ low, high });
    const extent = this.extents[check] ?? { low, high };
    const host = this.lookUp(local(), extent.low - origin.offset, Number(extent.high - extent.low), write);
    const found = { check, write, host, low: extent.low, high: extent.high };
    this.translations.delete(origin.id);
    this.translations.set(origin.id, found);
    const [oldest] = this.translations.keys();
    if (this.translations.size > TRANSLATIONS && oldest !== undefined) this.translations.delete(oldest);
    return { ...found, origin };
  }

  /** An address' origin, and a local with the address itself. */
  private addressLocal(address: Node): { origin: Origin; local: () => number } {
    const evaluate = (): number => {
      const operand = this.operand(address, "i64");
      if ("local" in operand) return operand.local;
      const local = this.local("i64");
      pushOperand(this.code, operand);
      this.code.set(local);
      return local;
    };
    const origin = this.originOf(address);
    if (origin !== undefined) return { origin, local: evaluate };
    const local = evaluate();
    return { origin: this.origin(local), local: () => local };
  }

  /** Emits the look-up of `length` bytes from (local + offset). @returns the local with their address in this memory */
  private lookUp(local: number, offset: bigint, length: number, write: boolean): number {
    const { code } = this;
    const entry = this.local("i32");
    const host = this.local("i32");
    const pushFirst = (more: bigint): void => {
      code.get(local);
      if (offset + more === 0n) return;
      code.i64(offset + more);
      code.op("i64.add");
    };
    this.usesTlb = true;
    code.get(this.tlb);
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
    this.unlikely(() => {
      this.leaveTo(this.at);
      this.ended = false;
    });
    pushFirst(0n);
    code.op("i32.wrap_i64");
    code.get(entry);
    code.load("u32", TLB_ADDEND);
    code.op("i32.add");
    code.set(host);
    return host;
  }

  private store(access: Access, address: Node, offset: number, value: Node): void {
    const { code } = this;
    if (address[0] !== "i32") {
      this.push(address);
      this.push(value);
      code.store(access, offset);
      return;
    }
    const absolute = address[1] + offset;
    if (isRegister(absolute)) {
      this.setRegister(access, absolute - GPR, value);
    } else if (absolute === LAZY_A) {
      this.lazyA = this.operand(value, "i64");
    } else if (absolute === LAZY_B) {
      this.lazyB = this.operand(value, "i64");
    } else if (absolute === LAZY_KIND) {
      this.setLazy(value);
    } else {
      code.i32(0);
      this.push(value);
      code.store(access, absolute);
    }
  }

  private setLazy(word: Node): void {
    const { lazyA: a, lazyB: b } = this;
    if (word[0] !== "i32" || a === undefined || b === undefined) {
      throw new Error(`operation ${this.name}: flags that are not known`);
    }
    this.pending = { kind: "lazy", op: word[1] & 0xff, shift: word[1] >>> 8, a, b };
  }

  private setRegister(access: Access, slot: number, value: Node): void {
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
    if (origin !== undefined) this.origins.set(local, origin);
    code.i32(0);
    code.get(local);
    code.store("u64", GPR + (n << 3));
    this.cache[n] = local;
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

  private branch(condition: Node, then: readonly Statement[], otherwise: readonly Statement[]): void {
    const { code } = this;
    if (condition[0] === "i32") {
      this.statements(condition[1] !== 0 ? then : otherwise);
      return;
    }
    const settles = touchesFlags(then) || touchesFlags(otherwise);
    if (settles) this.settle();
    this.push(condition);
    if (then[0]?.[0] === "fault") this.hints.push([code.length, false]);
    code.block("if", EMPTY);
    this.depth++;
    const before = this.cache.slice();
    const translations = new Map(this.translations);
    const first = this.arm(then, settles);
    let second: Int16Array<ArrayBuffer> | undefined = before;
    this.translations = new Map(translations);
    if (otherwise.length > 0) {
      code.op("else");
      this.cache = before.slice();
      second = this.arm(otherwise, settles);
      this.translations = translations;
    }
    code.op("end");
    this.depth--;
    this.ended = first === undefined && second === undefined;
    this.cache = both(first, second) ?? before;
  }

  /** One way of a branch. @returns what is in locals at its end, undefined where it does not come back */
  private arm(list: readonly Statement[], settles: boolean): Int16Array<ArrayBuffer> | undefined {
    this.statements(list);
    if (this.ended) {
      this.ended = false;
      return undefined;
    }
    if (settles) this.settle();
    return this.cache;
  }

  private repeat(body: readonly Statement[], condition: Expression): void {
    const { code } = this;
    code.block("loop", EMPTY);
    this.depth++;
    this.statements(body);
    this.push(this.fold(condition));
    code.block("if", EMPTY);
    code.branch(1);
    code.op("end");
    code.op("end");
    this.depth--;
  }

  private effect(name: string, operands: readonly Node[]): void {
    const [first, second, third] = operands;
    if (PENDING.has(name) && first !== undefined) {
      if (depthOf(this.pending) >= DEEPEST) this.settle();
      if (name === "setCarry") {
        this.pending = { kind: "carry", carry: this.operand(first, "i32"), below: this.pending };
        return;
      }
      if (name === "setCounted" && first[0] === "i32" && second !== undefined && third?.[0] === "i32") {
        const x = this.operand(second, "i64");
        this.pending = { kind: "counted", op: first[1], x, shift: third[1], below: this.pending };
        return;
      }
      if (name === "setResult" && second?.[0] === "i32" && third !== undefined) {
        const value = this.operand(first, "i64");
        this.pending = { kind: "result", value, shift: second[1], rest: this.operand(third, "i32") };
        return;
      }
    }
    if (CHANGING.has(name)) this.settle();
    for (const operand of operands) this.push(operand);
    this.callCore(name);
    if (SETTING.has(name)) this.pending = MEMORY;
    if (name === "addressNarrow") this.cache[SLOT_TEMP >> 3] = 0;
  }

  /** Writes pending flags to memory; from here on memory is right. */
  private settle(): void {
    storeFlags(this, this.pending);
    this.pending = MEMORY;
  }

  // --- leaving the block ------------------------------------------------------------------------------------------

  /** Returns a record to whoever runs the block: the interpreter goes on there. */
  private leaveTo(record: number): void {
    storeFlags(this, this.pending);
    this.code.i32(record);
    this.code.op("return");
    this.ended = true;
  }

  /** Takes the instructions up to this record off the budget; leaves whether it is used up on the stack. */
  private spend(): void {
    const { code, at } = this;
    const left = this.local("i32");
    code.i32(0);
    code.i32(0);
    code.load("u32", LEFT);
    code.i32(this.frame.records.count(at));
    code.op("i32.sub");
    code.tee(left);
    code.store("u32", LEFT);
    code.get(left);
    code.i32(0);
    code.op("i32.lt_s");
  }

  private unlikely(then: () => void): void {
    this.hints.push([this.code.length, false]);
    this.code.block("if", EMPTY);
    this.depth++;
    then();
    this.code.op("end");
    this.depth--;
  }

  /** The direct jump that the record names. */
  private take(): void {
    const { code, frame, block, at } = this;
    storeFlags(this, this.pending);
    const target = frame.records.target(at);
    if (target < 0 || target > 0xfff) {
      this.push(["op", "i64.add", ["register", "u64", SLOT_PAGE], ["i64", BigInt(target)]]);
      code.i32(frame.records.count(at));
      code.returnCall(frame.helpers.jump);
    } else {
      this.spend();
      this.unlikely(() => {
        code.i32(at);
        code.returnCall(frame.helpers.far);
      });
      const head = frame.records.find(block.page, target);
      if (head === block.head) {
        this.loops = true;
        code.branch(this.depth - 1);
      } else if (head !== undefined) {
        code.i32(head);
        code.returnCall(frame.local(head) ?? frame.helpers.enter);
      } else {
        code.i32(at);
        code.returnCall(frame.helpers.link);
      }
    }
    this.ended = true;
  }

  /** An indirect jump. */
  private jump(target: Node): void {
    const { code, frame } = this;
    const linear = this.operand(target, "i64");
    storeFlags(this, this.pending);
    pushOperand(code, linear);
    code.i32(frame.records.count(this.at));
    code.returnCall(frame.helpers.jump);
    this.ended = true;
  }

  // --- operations -------------------------------------------------------------------------------------------------

  private operation(record: DecodedRecord): void {
    this.at = record.at;
    this.name = record.name;
    this.variables = new Map();
    const condition = /^jcc_(\d+)$/.exec(record.name);
    const body = this.frame.table.bodies[record.name];
    if (condition !== null) {
      const holds: Expression = ["call", "getCond", ["i32", Number(condition[1])]];
      this.statements([["if", holds, [["take"]], []]]);
    } else if (record.name === "cold" || record.name === "cold_jump") {
      this.cold(record.name === "cold_jump");
    } else if (body === undefined) {
      this.leaveTo(record.at);
    } else {
      this.assigned = assigned(body, new Set());
      this.statements(body);
    }
    this.release();
  }

  /** An operation that is a function of the core: made from its template where it has one, else called. */
  private cold(jumps: boolean): void {
    const { frame, at } = this;
    const name = frame.handlers.get(frame.records.handler(at)) ?? "";
    const template = jumps ? undefined : frame.table.templates[name];
    if (template !== undefined) {
      this.assigned = assigned(template, new Set());
      const [first] = template;
      if (first?.[0] === "let" && first[3][0] === "call" && first[3][1] === "lockAddress") this.locked(template);
      else this.statements(template);
    } else if (name === "pushFlags" && frame.records.field(at, "u8", R_SIZE) === 3) {
      this.pushFlags();
    } else if (name === "memoryFence") {
      this.code.fence();
    } else if (name !== "sse_ordering") {
      this.callHandler(name, jumps);
    }
  }

  /**
   * A read-modify-write with LOCK: the template asks for the address to do it atomically. Where there is none (not aligned,
   * not in the TLB) the interpreter does the operation.
   */
  private locked([lookup, atomically]: readonly Statement[]): void {
    if (lookup?.[0] !== "let" || lookup[3][0] !== "call" || atomically?.[0] !== "if") return;
    const [, , linear, bytes] = lookup[3];
    const size = bytes?.[0] === "i32" ? bytes[1] : 0;
    if (linear === undefined || size === 0) return;
    const { code } = this;
    const { local } = this.addressLocal(this.fold(linear));
    const address = local();
    if (size > 1) {
      code.get(address);
      code.op("i32.wrap_i64");
      code.i32(size - 1);
      code.op("i32.and");
      this.unlikely(() => {
        this.leaveTo(this.at);
        this.ended = false;
      });
    }
    const { host, low, origin } = this.translate(["local", address, "i64"], size, true);
    const exact = this.local("i32");
    code.get(host);
    code.i32(Number(origin.offset - low));
    code.op("i32.add");
    code.set(exact);
    this.variables.set(lookup[1], ["local", exact, "i32"]);
    this.statements(atomically[2].filter((each) => each[0] !== "done"));
  }

  /** PUSHF in 64-bit mode. */
  private pushFlags(): void {
    const { code } = this;
    const top: Node = ["op", "i64.sub", ["register", "u64", RSP], ["i64", 8n]];
    const { host, low, origin } = this.translate(top, 8, true);
    this.settle();
    code.get(host);
    this.callCore("getFlags");
    code.i32(~(FLAG_RF | FLAG_VM));
    code.op("i32.and");
    code.op("i64.extend_i32_u");
    code.storeWide(8, Number(origin.offset - low));
    this.setRegister("u64", RSP, top);
  }

  /** A handler of the core: it may change every register and, unless it is known, write memory. */
  private callHandler(name: string, jumps: boolean): void {
    const { code, at, frame } = this;
    this.settle();
    code.i32(0);
    code.i32(at);
    code.store("u32", CUR);
    code.i32(at);
    code.i32(frame.records.handler(at));
    code.callIndirect(frame.handlerType);
    if (FLAGS_ONLY.has(name)) return;
    this.cache.fill(0);
    this.translations.clear();
    if (!jumps) {
      this.checkResync();
      return;
    }
    code.i32(at);
    this.callCore("afterJump");
    code.op("return");
    this.ended = true;
  }

  /** A handler may have written over code: the next record says whether to go on. */
  private checkResync(): void {
    const { code, at } = this;
    const next = at + RECORD;
    code.i32(0);
    code.load("u16", next + R_OP);
    code.i32(this.frame.resync);
    code.op("i32.eq");
    this.unlikely(() => {
      code.i32(next);
      code.op("return");
    });
  }
}

/** What is in the same local whichever way was taken. */
function both(
  first: Int16Array<ArrayBuffer> | undefined,
  second: Int16Array<ArrayBuffer> | undefined,
): Int16Array<ArrayBuffer> | undefined {
  if (first === undefined || second === undefined) return first ?? second;
  return first.map((local, n) => (local === second[n] ? local : 0));
}
