/**
 * Compiles one decoded block into one WebAssembly function (record) → next record.
 *
 * Hot blocks that it leads to become part of the function (plan.ts, flow.ts).
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
  R_LENGTH,
  R_OFFSET,
  R_OP,
  R_SIZE,
  RECORD,
  SLOT_TEMP,
} from "../assembly/layout.ts";
import { EMPTY, Encoder } from "./encoder.ts";
import { depthOf, MEMORY, type Operand } from "./flags.ts";
import { Flow, type ModuleFrame } from "./flow.ts";
import { fold, isConstant, isRegister, type Node } from "./fold.ts";
import { type Extent, GuestMemory } from "./guest-memory.ts";
import type { Access, Expression, Statement, Wasm } from "./ir.ts";
import type { FunctionCode } from "./module-writer.ts";
import { TracePlan } from "./plan.ts";
import type { DecodedBlock, DecodedRecord } from "./records.ts";
import { assigned, CHANGING, PENDING, SETTING, touchesFlags, writesRegisters } from "./texts.ts";
import { type RegisterCache, Values } from "./values.ts";

/** Flag states that wait below one another at most. */
const DEEPEST = 3;
const RSP = 32;

export class BlockEmitter {
  private readonly frame: ModuleFrame;
  private readonly block: DecodedBlock;
  private readonly values: Values;
  private readonly memory: GuestMemory;
  private readonly code: Encoder;
  private variables = new Map<string, Node>();
  private assigned: ReadonlySet<string> = new Set();
  private lazyA: Operand | undefined;
  private lazyB: Operand | undefined;
  private readonly flow: Flow;

  private constructor(frame: ModuleFrame, block: DecodedBlock, plan: TracePlan, extents?: Extent[]) {
    this.frame = frame;
    this.block = block;
    this.values = new Values(frame.imported);
    this.code = this.values.code;
    this.memory = new GuestMemory(this.values, () => this.flow.leaveHere(), extents);
    this.flow = new Flow({ frame, block, plan, values: this.values, memory: this.memory });
  }

  /** Compiles a block: once to see how far its memory accesses reach, and once to keep. */
  static compile(frame: ModuleFrame, block: DecodedBlock): FunctionCode {
    const plan = new TracePlan(frame.records, frame.pages);
    const first = new BlockEmitter(frame, block, plan);
    first.emit();
    plan.settle(first.flow.sides.length);
    return new BlockEmitter(frame, block, plan, first.memory.extents).emit();
  }

  private emit(): FunctionCode {
    // Everything stands in a loop, for blocks that jump to their own start, and in a block for each side, whose code is behind it.
    this.trace(this.block);
    for (let n = 0; n < this.flow.sides.length; n++) this.trace(this.flow.beginSide(n));
    return this.finish();
  }

  /** The records of a block, and of those that it goes on with. */
  private trace(first: DecodedBlock): void {
    let block: DecodedBlock | undefined = first;
    while (block !== undefined) {
      this.flow.following = undefined;
      this.flow.ended = false;
      for (const record of block.records) {
        this.operation(record);
        if (this.flow.ended) break;
      }
      if (!this.flow.ended) this.flow.leaveTo((block.records.at(-1)?.at ?? block.head) + RECORD);
      block = this.flow.following;
    }
  }

  private finish(): FunctionCode {
    const start = new Encoder(64);
    this.values.writePrologue(start);
    if (this.flow.loops) start.block("loop", EMPTY);
    for (let n = 0; n < this.flow.sides.length; n++) start.block("block", EMPTY);
    const offset = start.length;
    start.append(this.code.bytes());
    if (this.flow.loops) start.op("end");
    start.op("unreachable");
    start.op("end");
    return { body: start.bytes(), hints: this.values.hints.map(([at, likely]) => [at + offset, likely]) };
  }

  private fold(expression: Expression): Node {
    return fold(expression, this.flow.at, this.frame.records, this.variables);
  }

  // --- statements -------------------------------------------------------------------------------------------------

  private statements(list: readonly Statement[]): void {
    for (const statement of list) {
      if (this.flow.ended) return;
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
        this.flow.leaveTo(this.flow.at);
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
        this.flow.take();
        return;
      case "jump":
        this.flow.jump(this.fold(statement[1]));
        return;
      case "done":
        throw new Error(`operation ${this.flow.name}: "done" stands in handlers only`);
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
      throw new Error(`operation ${this.flow.name}: flags that are not known`);
    }
    this.values.pending = { kind: "lazy", op: word[1] & 0xff, shift: word[1] >>> 8, a, b };
  }

  private branch(condition: Node, then: readonly Statement[], otherwise: readonly Statement[]): void {
    const { code } = this;
    if (condition[0] === "i32") {
      this.statements(condition[1] !== 0 ? then : otherwise);
      return;
    }
    if (otherwise.length === 0 && then.length === 1 && then[0]?.[0] === "take" && this.flow.leaveToSide(condition))
      return;
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
    this.flow.ended = first === undefined && second === undefined;
    this.values.cache = both(first, second) ?? before;
  }

  /** One way of a branch. @returns what is in locals at its end, undefined where it does not come back */
  private arm(list: readonly Statement[], settles: boolean): RegisterCache | undefined {
    const { dirty } = this.values;
    this.statements(list);
    if (this.flow.ended) {
      this.flow.ended = false;
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

  // --- operations -------------------------------------------------------------------------------------------------

  private operation(record: DecodedRecord): void {
    this.flow.at = record.at;
    this.flow.name = record.name;
    this.variables = new Map();
    const condition = /^jcc_(\d+)$/.exec(record.name);
    const body = this.frame.table.bodies[record.name];
    if (condition !== null) {
      const holds: Expression = ["call", "getCond", ["i32", Number(condition[1])]];
      this.statements([["if", holds, [["take"]], []]]);
    } else if (record.name === "cold" || record.name === "cold_jump") {
      this.cold(record.name === "cold_jump");
    } else if (body === undefined) {
      this.flow.leaveTo(record.at);
    } else {
      this.assigned = assigned(body, new Set());
      this.statements(body);
    }
    this.values.release(this.memory.locals());
  }

  /** An operation that is a function of the core: made from its template where it has one, else called. */
  private cold(jumps: boolean): void {
    const { frame } = this;
    const { at } = this.flow;
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
    } else if (name === "clearInterrupts") {
      this.whereRefused("disableInterrupts", []);
    } else if (name === "setInterrupts") {
      this.setInterrupts();
    } else if (name !== "sse_ordering") {
      this.callHandler(jumps);
    }
  }

  /** Has the core do the operation; where it does not the interpreter does. */
  private whereRefused(name: string, operands: readonly number[]): void {
    for (const operand of operands) this.code.i32(operand);
    this.values.callCore(name);
    this.code.op("i32.eqz");
    this.values.unlikely(() => this.flow.leaveHere());
  }

  /** STI. A block ends with it, as interrupts may wait: as a rule none does. */
  private setInterrupts(): void {
    const { records } = this.frame;
    const { at, count } = this.flow;
    this.whereRefused("enableInterrupts", [count]);
    this.flow.goOn(Number(records.field(at, "u16", R_OFFSET)) + Number(records.field(at, "u8", R_LENGTH)));
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
      this.values.unlikely(() => this.flow.leaveHere());
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
  private callHandler(jumps: boolean): void {
    const { code, frame } = this;
    const { at } = this.flow;
    this.values.settle();
    this.values.writeBack();
    this.flow.pay();
    code.i32(0);
    code.i32(at);
    code.store("u32", CUR);
    code.i32(at);
    code.i32(frame.records.handler(at));
    code.call(frame.imported("handle"));
    this.flow.forgetCalls();
    this.values.cache.fill(0);
    this.memory.clear();
    if (!jumps) {
      this.checkResync();
      return;
    }
    code.i32(at);
    this.values.callCore("afterJump");
    code.op("return");
    this.flow.ended = true;
  }

  /** A handler may have written over code: the next record says whether to go on. */
  private checkResync(): void {
    const { code } = this;
    const { at } = this.flow;
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
