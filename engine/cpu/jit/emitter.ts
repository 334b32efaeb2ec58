/**
 * Compiles one decoded block into one WebAssembly function (record) → next record.
 *
 * The function does what the interpreter does with the same records. Registers that were read or written stay in locals
 * (values.ts), flags are left pending (flags.ts); both are in memory wherever the block is left. Where the interpreter would
 * go on elsewhere the function calls what runs there as its last act, or returns the record when that is nothing compiled.
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
  SLOT_PAGE,
  SLOT_TEMP,
} from "../assembly/layout.ts";
import { EMPTY, Encoder } from "./encoder.ts";
import { depthOf, MEMORY, type Operand, push as pushOperand } from "./flags.ts";
import { fold, isConstant, isRegister, type Node } from "./fold.ts";
import { type Extent, GuestMemory } from "./guest-memory.ts";
import type { Access, Expression, OperationTable, Statement, Wasm } from "./ir.ts";
import type { FunctionCode } from "./module-writer.ts";
import type { DecodedBlock, DecodedRecord, RecordReader } from "./records.ts";
import { assigned, CHANGING, PENDING, SETTING, touchesFlags, writesRegisters } from "./texts.ts";
import { type RegisterCache, Values } from "./values.ts";

/** What a block's function needs to know of the module that it becomes part of. */
export interface ModuleFrame {
  readonly table: OperationTable;
  readonly records: RecordReader;
  /** Number of the record operation that the interpreter executes where code has changed. */
  readonly resync: number;
  /** Function index of an imported function. */
  imported(name: string): number;
  /** Function index of a block of this module by its head. */
  local(head: number): number | undefined;
  /** Names of the core's handlers by function table index. */
  readonly handlers: ReadonlyMap<number, string>;
}

/** Flag states that wait below one another at most. */
const DEEPEST = 3;
/** Handlers that change flags and nothing else. */
const FLAGS_ONLY: ReadonlySet<string> = new Set(["clearInterrupts"]);
const RSP = 32;

export class BlockEmitter {
  private readonly frame: ModuleFrame;
  private readonly block: DecodedBlock;
  private readonly values: Values;
  private readonly memory: GuestMemory;
  private readonly code: Encoder;
  private variables = new Map<string, Node>();
  private assigned: ReadonlySet<string> = new Set();
  /** The record at hand. */
  private at = 0;
  private name = "";
  private lazyA: Operand | undefined;
  private lazyB: Operand | undefined;
  /** Whether the code after what is emitted cannot be reached. */
  private ended = false;
  private loops = false;

  private constructor(frame: ModuleFrame, block: DecodedBlock, extents?: Extent[]) {
    this.frame = frame;
    this.block = block;
    this.values = new Values(frame.imported);
    this.code = this.values.code;
    this.memory = new GuestMemory(this.values, () => this.leaveHere(), extents);
  }

  /** Compiles a block: once to see how far its memory accesses reach, and once to keep. */
  static compile(frame: ModuleFrame, block: DecodedBlock): FunctionCode {
    const first = new BlockEmitter(frame, block);
    first.emit();
    return new BlockEmitter(frame, block, first.memory.extents).emit();
  }

  private emit(): FunctionCode {
    // Everything stands in a loop, for blocks that jump to their own start.
    this.values.depth = 1;
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
    this.values.writePrologue(start);
    if (this.loops) start.block("loop", EMPTY);
    const offset = start.length;
    start.append(this.code.bytes());
    if (this.loops) start.op("end");
    start.op("unreachable");
    start.op("end");
    return { body: start.bytes(), hints: this.values.hints.map(([at, likely]) => [at + offset, likely]) };
  }

  private fold(expression: Expression): Node {
    return fold(expression, this.at, this.frame.records, this.variables);
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
        this.values.push(this.fold(statement[2]));
        if (variable?.[0] === "local") this.code.set(variable[1]);
        return;
      }
      case "store":
        this.store(statement[1], this.fold(statement[2]), statement[3], this.fold(statement[4]));
        return;
      case "read": {
        const local = this.values.local("i64");
        const { host, offset } = this.memory.place(this.fold(statement[3]), statement[2], false);
        this.code.get(host);
        this.code.loadWide(statement[2], offset);
        this.code.set(local);
        this.variables.set(statement[1], ["local", local, "i64"]);
        return;
      }
      case "write": {
        const { host, offset } = this.memory.place(this.fold(statement[2]), statement[1], true);
        this.code.get(host);
        this.values.push(this.fold(statement[3]));
        this.code.storeWide(statement[1], offset);
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
        this.variables.set(name, ["local", this.values.slotLocal(value[2]), "i64"]);
        return;
      }
    }
    const local = this.values.local(wasm);
    this.values.push(value);
    this.code.set(local);
    this.variables.set(name, ["local", local, wasm]);
    if (!this.assigned.has(name)) this.values.derive(local, this.values.originOf(value));
  }

  private store(access: Access, address: Node, offset: number, value: Node): void {
    const { code } = this;
    if (address[0] !== "i32") {
      this.values.push(address);
      this.values.push(value);
      code.store(access, offset);
      return;
    }
    const absolute = address[1] + offset;
    if (isRegister(absolute)) {
      this.values.setRegister(access, absolute - GPR, value);
    } else if (absolute === LAZY_A) {
      this.lazyA = this.values.operand(value, "i64");
    } else if (absolute === LAZY_B) {
      this.lazyB = this.values.operand(value, "i64");
    } else if (absolute === LAZY_KIND) {
      this.setLazy(value);
    } else {
      code.i32(0);
      this.values.push(value);
      code.store(access, absolute);
    }
  }

  private setLazy(word: Node): void {
    const { lazyA: a, lazyB: b } = this;
    if (word[0] !== "i32" || a === undefined || b === undefined) {
      throw new Error(`operation ${this.name}: flags that are not known`);
    }
    this.values.pending = { kind: "lazy", op: word[1] & 0xff, shift: word[1] >>> 8, a, b };
  }

  private branch(condition: Node, then: readonly Statement[], otherwise: readonly Statement[]): void {
    const { code } = this;
    if (condition[0] === "i32") {
      this.statements(condition[1] !== 0 ? then : otherwise);
      return;
    }
    const settles = touchesFlags(then) || touchesFlags(otherwise);
    const writes = writesRegisters(then) || writesRegisters(otherwise);
    if (settles) this.values.settle();
    if (writes) this.values.writeBack();
    this.values.push(condition);
    if (then[0]?.[0] === "fault") this.values.hints.push([code.length, false]);
    code.block("if", EMPTY);
    this.values.depth++;
    const before = this.values.cache.slice();
    const known = this.memory.state;
    const { dirty } = this.values;
    const first = this.arm(then, settles);
    let second: RegisterCache | undefined = before;
    this.memory.state = known;
    this.values.dirty = dirty;
    if (otherwise.length > 0) {
      code.op("else");
      this.values.cache = before.slice();
      second = this.arm(otherwise, settles);
      this.memory.state = known;
      this.values.dirty = dirty;
    }
    code.op("end");
    this.values.depth--;
    this.ended = first === undefined && second === undefined;
    this.values.cache = both(first, second) ?? before;
  }

  /** One way of a branch. @returns what is in locals at its end, undefined where it does not come back */
  private arm(list: readonly Statement[], settles: boolean): RegisterCache | undefined {
    const { dirty } = this.values;
    this.statements(list);
    if (this.ended) {
      this.ended = false;
      return undefined;
    }
    if (settles) this.values.settle();
    if (this.values.dirty !== dirty) this.values.writeBack();
    return this.values.cache;
  }

  private repeat(body: readonly Statement[], condition: Expression): void {
    const { code } = this;
    code.block("loop", EMPTY);
    this.values.depth++;
    this.statements(body);
    this.values.push(this.fold(condition));
    code.block("if", EMPTY);
    code.branch(1);
    code.op("end");
    code.op("end");
    this.values.depth--;
  }

  private effect(name: string, operands: readonly Node[]): void {
    const [first, second, third] = operands;
    if (PENDING.has(name) && first !== undefined) {
      if (depthOf(this.values.pending) >= DEEPEST) this.values.settle();
      if (name === "setCarry") {
        this.values.pending = { kind: "carry", carry: this.values.operand(first, "i32"), below: this.values.pending };
        return;
      }
      if (name === "setCounted" && first[0] === "i32" && second !== undefined && third?.[0] === "i32") {
        const x = this.values.operand(second, "i64");
        this.values.pending = { kind: "counted", op: first[1], x, shift: third[1], below: this.values.pending };
        return;
      }
      if (name === "setResult" && second?.[0] === "i32" && third !== undefined) {
        const value = this.values.operand(first, "i64");
        this.values.pending = { kind: "result", value, shift: second[1], rest: this.values.operand(third, "i32") };
        return;
      }
    }
    if (CHANGING.has(name)) this.values.settle();
    // It reads registers, and writes one.
    if (name === "addressNarrow") this.values.writeBack();
    for (const operand of operands) this.values.push(operand);
    this.values.callCore(name);
    if (SETTING.has(name)) this.values.pending = MEMORY;
    if (name === "addressNarrow") this.values.cache[SLOT_TEMP >> 3] = 0;
  }

  // --- leaving the block ------------------------------------------------------------------------------------------

  /** Returns a record to whoever runs the block: the interpreter goes on there. */
  private leaveTo(record: number): void {
    this.values.storeAll();
    this.code.i32(record);
    this.code.op("return");
    this.ended = true;
  }

  /** Leaves at the operation at hand, on a way that is seldom taken. */
  private leaveHere(): void {
    this.leaveTo(this.at);
    this.ended = false;
  }

  /** Takes the instructions up to this record off the budget; leaves whether it is used up on the stack. */
  private spend(): void {
    const { code, at } = this;
    const left = this.values.local("i32");
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

  /** The direct jump that the record names. */
  private take(): void {
    const { code, frame, block, at } = this;
    this.values.storeAll();
    const target = frame.records.target(at);
    if (target < 0 || target > 0xfff) {
      this.values.push(["op", "i64.add", ["register", "u64", SLOT_PAGE], ["i64", BigInt(target)]]);
      code.i32(frame.records.count(at));
      code.returnCall(frame.imported("jump"));
    } else {
      this.spend();
      this.values.unlikely(() => {
        code.i32(at);
        code.returnCall(frame.imported("farJump"));
      });
      const head = frame.records.find(block.page, target);
      if (head === block.head) {
        this.loops = true;
        code.branch(this.values.depth - 1);
      } else if (head !== undefined) {
        code.i32(head);
        code.returnCall(frame.local(head) ?? frame.imported("enter"));
      } else {
        code.i32(at);
        code.returnCall(frame.imported("link"));
      }
    }
    this.ended = true;
  }

  /** An indirect jump. */
  private jump(target: Node): void {
    const { code, frame } = this;
    const linear = this.values.operand(target, "i64");
    this.values.storeAll();
    pushOperand(code, linear);
    code.i32(frame.records.count(this.at));
    code.returnCall(frame.imported("jump"));
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
    this.values.release(this.memory.locals());
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
    const { local } = this.memory.address(this.fold(linear));
    const address = local();
    if (size > 1) {
      code.get(address);
      code.op("i32.wrap_i64");
      code.i32(size - 1);
      code.op("i32.and");
      this.values.unlikely(() => this.leaveHere());
    }
    const { host, offset } = this.memory.place(["local", address, "i64"], size, true);
    const exact = this.values.local("i32");
    code.get(host);
    code.i32(offset);
    code.op("i32.add");
    code.set(exact);
    this.variables.set(lookup[1], ["local", exact, "i32"]);
    this.statements(atomically[2].filter((each) => each[0] !== "done"));
  }

  /** PUSHF in 64-bit mode. */
  private pushFlags(): void {
    const { code } = this;
    const top: Node = ["op", "i64.sub", ["register", "u64", RSP], ["i64", 8n]];
    const { host, offset } = this.memory.place(top, 8, true);
    this.values.settle();
    code.get(host);
    this.values.callCore("getFlags");
    code.i32(~(FLAG_RF | FLAG_VM));
    code.op("i32.and");
    code.op("i64.extend_i32_u");
    code.storeWide(8, offset);
    this.values.setRegister("u64", RSP, top);
  }

  /** A handler of the core: it may change every register and, unless it is known, write memory. */
  private callHandler(name: string, jumps: boolean): void {
    const { code, at, frame } = this;
    this.values.settle();
    this.values.writeBack();
    code.i32(0);
    code.i32(at);
    code.store("u32", CUR);
    code.i32(at);
    code.i32(frame.records.handler(at));
    code.call(frame.imported("handle"));
    if (FLAGS_ONLY.has(name)) return;
    this.values.cache.fill(0);
    this.memory.clear();
    if (!jumps) {
      this.checkResync();
      return;
    }
    code.i32(at);
    this.values.callCore("afterJump");
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
    this.values.unlikely(() => {
      code.i32(next);
      code.op("return");
    });
  }
}

/** What is in the same local whichever way was taken. */
function both(first: RegisterCache | undefined, second: RegisterCache | undefined): RegisterCache | undefined {
  if (first === undefined || second === undefined) return first ?? second;
  return first.map((local, n) => (local === second[n] ? local : 0));
}
