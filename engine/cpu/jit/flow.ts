/**
 * How compiled code leaves a block, or goes on with another one that has become part of its function (plan.ts).
 *
 * A trace is the code of blocks one behind the other: an unconditional jump goes on with its target in place. A conditional one
 * leads to a side, a trace behind the rest, where all that is known at the jump still holds.
 */
import { GPR, JUMP_RECORD, JUMP_TAG, LEFT, R_IMM, SLOT_PAGE } from "../assembly/layout.ts";
import { type CodePages, jumpEntry, jumpTag } from "./code-pages.ts";
import { EMPTY, type Encoder } from "./encoder.ts";
import { push as pushOperand } from "./flags.ts";
import type { Node } from "./fold.ts";
import type { GuestMemory } from "./guest-memory.ts";
import type { OperationTable } from "./ir.ts";
import type { FarBlock, Place, Position, Return, Side, TracePlan } from "./plan.ts";
import type { DecodedBlock, RecordReader } from "./records.ts";
import type { Values } from "./values.ts";

/** What a block's function needs to know of the module that it becomes part of. */
export interface ModuleFrame {
  readonly table: OperationTable;
  readonly records: RecordReader;
  readonly pages: CodePages;
  /** Number of the record operation that the interpreter executes where code has changed. */
  readonly resync: number;
  /** Function index of an imported function. */
  imported(name: string): number;
  /** Function index of a block of this module by its head. */
  local(head: number): number | undefined;
  /** Names of the core's handlers by function table index. */
  readonly handlers: ReadonlyMap<number, string>;
}

/** What a function is made with. */
export interface FlowParts {
  readonly frame: ModuleFrame;
  /** The block that the function is of. */
  readonly block: DecodedBlock;
  readonly plan: TracePlan;
  readonly values: Values;
  readonly memory: GuestMemory;
}

/** Calls under way that are kept in mind at most. */
const MOST_CALLS = 8;

export class Flow {
  /** The record at hand. */
  at = 0;
  name = "";
  /** Whether the code after what is emitted cannot be reached. */
  ended = false;
  /** Whether the function jumps to its own start. */
  loops = false;
  /** Where the trace at hand goes on. */
  following: DecodedBlock | undefined;
  /** Sides so far, in the order of their code. */
  readonly sides: Side[] = [];
  private readonly frame: ModuleFrame;
  private readonly block: DecodedBlock;
  private readonly plan: TracePlan;
  private readonly values: Values;
  private readonly memory: GuestMemory;
  private readonly code: Encoder;
  /** WebAssembly blocks that are open around the code of the trace at hand. */
  private level: number;
  /** Heads of the blocks of the trace at hand, which are not joined again. */
  private path: readonly number[];
  /** Where the trace at hand runs. */
  private place: Place;
  /** Calls of the trace at hand that have not returned. */
  private returns: readonly Return[] = [];
  /** Instructions of the trace's blocks before the one at hand, which are not off the budget yet. */
  private spent = 0;

  constructor({ frame, block, plan, values, memory }: FlowParts) {
    this.frame = frame;
    this.block = block;
    this.plan = plan;
    this.values = values;
    this.memory = memory;
    this.code = values.code;
    this.path = [block.head];
    this.place = { page: block.page };
    this.level = 1 + plan.sides;
    values.depth = this.level;
  }

  /** A conditional jump to a block that becomes part of the function. @returns false where it does not */
  leaveToSide(condition: Node): boolean {
    if (this.values.depth !== this.level) return false;
    const block = this.join();
    if (block === undefined) return false;
    const { code, values } = this;
    values.push(condition);
    code.block("if", EMPTY);
    // Out of this if, the blocks of earlier sides that are still open, and its own.
    code.branch(values.depth + this.sides.length - this.plan.sides);
    code.op("end");
    this.sides.push({
      block,
      values: values.state,
      known: this.memory.state,
      from: this.at,
      position: { ...this.position, spent: this.count, path: [...this.path, block.head] },
    });
    return true;
  }

  /** The block that the record's jump leads to, if it is to become part of the function here. */
  private join(): DecodedBlock | undefined {
    return this.plan.join(this.place.page, this.frame.records.target(this.at), this.path, this.sides.length);
  }

  private get position(): Position {
    const { place, path, returns, spent } = this;
    return { place, path, returns, spent };
  }

  private set position({ place, path, returns, spent }: Position) {
    this.place = place;
    this.path = path;
    this.returns = returns;
    this.spent = spent;
  }

  /** Begins the code of a side. @returns its block */
  beginSide(n: number): DecodedBlock {
    const side = this.sides[n] as Side;
    this.code.op("end");
    this.level--;
    this.values.depth = this.level;
    this.values.state = side.values;
    this.memory.state = side.known;
    this.values.release(this.memory.locals());
    this.position = side.position;
    this.stopWhenSpent(side.from);
    return side.block;
  }

  /** Returns a record to whoever runs the block: the interpreter goes on there. */
  leaveTo(record: number): void {
    this.payBefore();
    this.values.storeAll();
    this.code.i32(record);
    this.code.op("return");
    this.ended = true;
  }

  /** Leaves at the operation at hand, on a way that is seldom taken. */
  leaveHere(): void {
    this.leaveTo(this.at);
    this.ended = false;
  }

  /** Takes the instructions of the trace's earlier blocks off the budget, for who looks at it knowing the block at hand only. */
  private payBefore(): void {
    if (this.spent === 0) return;
    const { code } = this;
    code.i32(0);
    code.i32(0);
    code.load("u32", LEFT);
    code.i32(this.spent);
    code.op("i32.sub");
    code.store("u32", LEFT);
  }

  /** At a jump within the function, whose instructions are counted in `spent`: stops where the budget does not suffice. */
  private stopWhenSpent(jump: number): void {
    const { code, frame, values } = this;
    code.i32(0);
    code.load("u32", LEFT);
    code.i32(this.spent);
    code.op("i32.lt_s");
    values.unlikely(() => {
      values.storeAll();
      this.payBefore();
      code.i32(jump);
      code.returnCall(frame.imported("farJump"));
    });
  }

  /** Instructions of the trace up to this record. */
  get count(): number {
    return this.spent + this.frame.records.count(this.at);
  }

  /** Takes the instructions up to this record off the budget; leaves whether it is used up on the stack. */
  private spend(): void {
    const { code } = this;
    const left = this.values.local("i32");
    code.i32(0);
    code.i32(0);
    code.load("u32", LEFT);
    code.i32(this.count);
    code.op("i32.sub");
    code.tee(left);
    code.store("u32", LEFT);
    code.get(left);
    code.i32(0);
    code.op("i32.lt_s");
  }

  /** The direct jump that the record names. */
  take(): void {
    const { code, frame, block, at } = this;
    if (this.values.depth === this.level) {
      const following = this.join();
      if (following !== undefined) {
        this.spent = this.count;
        this.stopWhenSpent(at);
        this.noteCall();
        this.follow(following);
        return;
      }
      const far = this.plan.joinFar(this.place, frame.records.target(at), this.path, this.sides.length);
      if (far !== undefined) {
        this.takeFar(far);
        return;
      }
    }
    const target = frame.records.target(at);
    if (target < 0 || target > 0xfff) {
      this.jumpTo(this.inPage(target));
    } else {
      this.values.storeAll();
      this.spend();
      this.values.unlikely(() => {
        code.i32(at);
        code.returnCall(frame.imported("farJump"));
      });
      const head = frame.records.find(this.place.page, target);
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

  /** Linear address of an offset from the start of the page that runs. */
  private inPage(offset: number): Node {
    return ["op", "i64.add", ["register", "u64", SLOT_PAGE], ["i64", BigInt(offset)]];
  }

  /** An indirect jump. */
  jump(target: Node): void {
    if (this.name === "ret" && this.values.depth === this.level && this.returnTo(target)) return;
    this.returns = [];
    this.jumpTo(target);
  }

  /** Leaves the block for a linear address. */
  private jumpTo(target: Node): void {
    const { code, frame } = this;
    const linear = this.values.operand(target, "i64");
    this.values.storeAll();
    pushOperand(code, linear);
    code.i32(this.count);
    code.returnCall(frame.imported("jump"));
    this.ended = true;
  }

  // --- going on with other blocks -----------------------------------------------------------------------------------

  /** Goes on with a block in place. */
  private follow(block: DecodedBlock): void {
    this.path = [...this.path, block.head];
    this.following = block;
    this.ended = true;
  }

  /** The record at hand jumps within the function: if it is a call, to where that returns. */
  private noteCall(): void {
    if (this.name !== "call") return;
    const offset = Number(this.frame.records.field(this.at, "u32", R_IMM));
    const { place, path } = this;
    this.returns = [...this.returns.slice(1 - MOST_CALLS), { place, offset, path }];
  }

  /**
   * Goes on with a block of another page, if the jump cache says that it is what runs there now: the cache is emptied with every
   * change of translations or of code.
   */
  private takeFar({ block, base, linear }: FarBlock): void {
    const { code, values } = this;
    const entry = jumpEntry(linear);
    const target = this.inPage(this.frame.records.target(this.at));
    const elsewhere = (): void => {
      values.push(["register", "u64", SLOT_PAGE]);
      code.i64(BigInt.asIntN(64, base));
      code.op("i64.ne");
    };
    const otherBlock = (): void => {
      code.i32(0);
      code.load("u32", entry + JUMP_RECORD);
      code.i32(block.head);
      code.op("i32.ne");
    };
    const otherTag = (): void => {
      code.i32(0);
      code.load("u64", entry);
      code.i32(0);
      code.load("u64", JUMP_TAG);
      code.op("i64.xor");
      code.i64(BigInt.asIntN(64, jumpTag(linear)));
      code.op("i64.ne");
    };
    const conditions = [() => this.pushSpent(), otherBlock, otherTag];
    this.leaveIf(this.place.linear === undefined ? [elsewhere, ...conditions] : conditions, target);
    // What has returned by here, or will return, runs in pages whose addresses are known.
    this.place = { ...this.place, linear: base };
    this.returns = this.returns.map((each) => ({ ...each, place: { linear: base, ...each.place } }));
    this.noteCall();
    this.spent = this.count;
    this.enterPage({ page: block.page, linear: linear & ~0xfffn });
    this.follow(block);
  }

  /** Goes on behind the call that a return belongs to. @returns false where that is not part of the function */
  private returnTo(target: Node): boolean {
    const last = this.returns.at(-1);
    if (last === undefined) return false;
    const { place, offset, path } = last;
    const block = this.plan.join(place.page, offset, path, this.sides.length);
    if (block === undefined) return false;
    const { code, values } = this;
    const linear = values.operand(target, "i64");
    const to: Node = "local" in linear ? ["local", linear.local, "i64"] : target;
    const { linear: base } = place;
    const elsewhere = (): void => {
      values.push(to);
      if (base === undefined) values.push(this.inPage(offset));
      else code.i64(BigInt.asIntN(64, base + BigInt(offset)));
      code.op("i64.ne");
    };
    this.leaveIf([elsewhere, () => this.pushSpent()], to);
    this.returns = this.returns.slice(0, -1);
    this.spent = this.count;
    if (this.place.linear !== place.linear) this.enterPage(place);
    this.path = path;
    this.follow(block);
    return true;
  }

  /** Jumps to a linear address, out of the function, if one of some conditions holds; each leaves an i32 on the stack. */
  private leaveIf(conditions: readonly (() => void)[], target: Node): void {
    const { code, values } = this;
    code.block("block", EMPTY);
    code.block("block", EMPTY);
    values.depth += 2;
    for (const [n, condition] of conditions.entries()) {
      condition();
      const last = n === conditions.length - 1;
      if (last) code.op("i32.eqz");
      values.hints.push([code.length, last]);
      code.branchIf(last ? 1 : 0);
    }
    code.op("end");
    values.depth--;
    const before = values.cache.slice();
    this.jumpTo(target);
    values.cache = before;
    this.ended = false;
    code.op("end");
    values.depth--;
  }

  /** Whether the budget does not reach as far as the record at hand. */
  private pushSpent(): void {
    const { code } = this;
    code.i32(0);
    code.load("u32", LEFT);
    code.i32(this.count);
    code.op("i32.lt_s");
  }

  /** The code goes on in another page, whose linear address is known. */
  private enterPage(place: Place): void {
    const { code, values } = this;
    const { linear = 0n } = place;
    const local = values.local("i64");
    code.i64(BigInt.asIntN(64, linear));
    code.set(local);
    code.i32(0);
    code.get(local);
    code.store("u64", GPR + SLOT_PAGE);
    values.cache[SLOT_PAGE >> 3] = local;
    this.place = place;
  }

  /** Goes on at an offset from the start of the page that runs. */
  goOn(offset: number): void {
    const following = this.plan.join(this.place.page, offset, this.path, this.sides.length);
    if (following === undefined) {
      this.jumpTo(this.inPage(offset));
      return;
    }
    this.spent = this.count;
    this.follow(following);
  }

  /** Before a handler, which takes part in counting. */
  pay(): void {
    this.payBefore();
    this.spent = 0;
  }

  /** After a handler: it may have changed where the code that a call is to return to stands. */
  forgetCalls(): void {
    this.returns = [];
  }
}
