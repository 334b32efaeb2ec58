/**
 * What compiled blocks share, in a module of its own: jumps to other blocks and calls of handlers, both through the core's
 * function table. Only this module and the core import the table: each importer has a copy of it in V8, which costs memory,
 * time for every entry, and cache lines at every jump.
 */
import {
  GPR,
  JUMP_CACHE,
  JUMP_FUNCTION,
  JUMP_MASK,
  JUMP_RECORD,
  JUMP_TAG,
  LEFT,
  MODE_64,
  R_FUNCTION,
  R_LINK,
  SLOT_PAGE,
} from "../assembly/layout.ts";
import { EMPTY, Encoder, I32 } from "./encoder.ts";
import type { Signature } from "./ir.ts";
import { type FunctionCode, type ImportedFunction, Types, writeModule } from "./module-writer.ts";

/** What runs a block: its head → the next record. */
export const BLOCK: Signature = [["i32"], "i32"];
const HANDLER: Signature = [["i32"], null];

/** The functions, in the order of their export numbers. */
export const DISPATCH: Readonly<Record<string, Signature>> = {
  /** (linear address, instructions) → next record: goes on there, if the budget is enough for those up to here. */
  jump: [["i64", "i32"], "i32"],
  /** (head) → next record: what runs that block. */
  enter: BLOCK,
  /** (record) → next record: the record's direct jump, by its link if there is one by now. */
  link: BLOCK,
  /** (record, function table index): a handler of the core. */
  handle: [["i32", "i32"], null],
};

const CORE: readonly ImportedFunction[] = [
  { module: "core", name: "jumpMissed", signature: [["i64"], "i32"] },
  { module: "core", name: "jumpStopped", signature: [["i64"], "i32"] },
  { module: "core", name: "farJump", signature: BLOCK },
];
const [JUMP_MISSED, JUMP_STOPPED, FAR_JUMP] = [0, 1, 2];

/** The binary of the module: imports env.memory, env.table and core.*, exports DISPATCH by number. */
export function buildDispatch(): Uint8Array<ArrayBuffer> {
  const types = new Types();
  const block = types.number(BLOCK);
  const bodies = [jump(block), enter(block), link(block), handle(types.number(HANDLER))];
  const signatures = Object.values(DISPATCH);
  const functions = bodies.map((body, n) => ({ ...body, signature: signatures[n] ?? BLOCK }));
  return writeModule(types, { imports: CORE, table: true, functions });
}

/** A function with some i32 locals besides its parameters. */
function withLocals(count: number, write: (code: Encoder) => void): FunctionCode {
  const code = new Encoder(128);
  code.unsigned(count === 0 ? 0 : 1);
  if (count > 0) {
    code.unsigned(count);
    code.byte(I32);
  }
  write(code);
  code.op("end");
  return { body: code.bytes(), hints: [] };
}

/** Goes on at the block whose head is in local `head`. */
function enterBlock(code: Encoder, head: number, block: number): void {
  code.get(head);
  code.get(head);
  code.load("u32", R_FUNCTION);
  code.returnCallIndirect(block);
}

const enter = (block: number): FunctionCode => withLocals(0, (code) => enterBlock(code, 0, block));

function link(block: number): FunctionCode {
  return withLocals(1, (code) => {
    code.get(0);
    code.load("u32", R_LINK);
    code.tee(1);
    code.block("if", EMPTY);
    enterBlock(code, 1, block);
    code.op("end");
    code.get(0);
    code.returnCall(FAR_JUMP);
  });
}

function handle(handler: number): FunctionCode {
  return withLocals(0, (code) => {
    code.get(0);
    code.get(1);
    code.returnCallIndirect(handler);
  });
}

/** Through the cache of linear addresses, or the core where that does not know. */
function jump(block: number): FunctionCode {
  const [target, count, entry] = [0, 1, 2];
  const hints: [number, boolean][] = [];
  const { body } = withLocals(1, (code) => {
    code.i32(0);
    code.i32(0);
    code.load("u32", LEFT);
    code.get(count);
    code.op("i32.sub");
    code.tee(count);
    code.store("u32", LEFT);
    code.get(count);
    code.i32(0);
    code.op("i32.lt_s");
    hints.push([code.length, false]);
    code.block("if", EMPTY);
    code.get(target);
    code.returnCall(JUMP_STOPPED);
    code.op("end");
    // entry = (target ^ target >> 13) << 4 & JUMP_MASK
    code.get(target);
    code.get(target);
    code.i64(13n);
    code.op("i64.shr_u");
    code.op("i64.xor");
    code.op("i32.wrap_i64");
    code.i32(4);
    code.op("i32.shl");
    code.i32(JUMP_MASK);
    code.op("i32.and");
    code.tee(entry);
    code.load("u64", JUMP_CACHE);
    code.get(target);
    code.i32(0);
    code.load("u64", JUMP_TAG);
    code.op("i64.xor");
    code.i64(BigInt(MODE_64) << 56n);
    code.op("i64.xor");
    code.op("i64.eq");
    hints.push([code.length, true]);
    code.block("if", EMPTY);
    code.i32(0);
    code.get(target);
    code.i64(~0xfffn);
    code.op("i64.and");
    code.store("u64", GPR + SLOT_PAGE);
    code.get(entry);
    code.load("u32", JUMP_CACHE + JUMP_RECORD);
    code.get(entry);
    code.load("u32", JUMP_CACHE + JUMP_FUNCTION);
    code.returnCallIndirect(block);
    code.op("end");
    code.get(target);
    code.returnCall(JUMP_MISSED);
  });
  return { body, hints };
}
