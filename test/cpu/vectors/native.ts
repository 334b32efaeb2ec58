/** Runs cases through the native harness (native/harness.c): writes its case file, reads its result file. */
import { execFileSync } from "node:child_process";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { Run } from "./format.ts";
import type { CaseState } from "./state.ts";

/** How one case ended on the real processor. */
export interface NativeResult {
  /** Exception vector that ended it (3 for the INT3 behind the code). */
  readonly vector: number;
  readonly timeout: boolean;
  readonly error: number;
  readonly rip: bigint;
  readonly cr2: bigint;
  readonly eflags: number;
  readonly registers: BigUint64Array;
  readonly fx: Uint8Array;
  readonly memory: Run[];
}

export interface NativeCase {
  readonly state: CaseState;
  readonly code: Uint8Array;
}

const MAGIC = 0x31434c44;
const VECTOR_TIMEOUT = 0xfe;
const RESULT_SIZE = 672; // struct Result
const CODE_LENGTH_AT = 4;

function writeCases(
  path: string,
  memory: { data: Uint8Array; stack: Uint8Array },
  cases: readonly (() => NativeCase)[],
): void {
  const file = openSync(path, "w");
  const head = new Uint32Array([MAGIC, cases.length]);
  writeSync(file, new Uint8Array(head.buffer));
  writeSync(file, memory.data);
  writeSync(file, memory.stack);
  for (const make of cases) {
    const { state, code } = make();
    const padded = (code.length + 7) & ~7;
    const bytes = new Uint8Array(state.bytes.length + padded);
    bytes.set(state.bytes);
    bytes.set(code, state.bytes.length);
    new DataView(bytes.buffer).setUint16(CODE_LENGTH_AT, code.length, true);
    writeSync(file, bytes);
  }
  closeSync(file);
}

function readResults(bytes: Buffer, count: number): NativeResult[] {
  const results: NativeResult[] = [];
  let at = 0;
  for (let i = 0; i < count; i++) {
    const memory: Run[] = [];
    const runs = bytes.readUInt16LE(at + 2);
    const registers = new BigUint64Array(16);
    for (let register = 0; register < 16; register++)
      registers[register] = bytes.readBigUInt64LE(at + 32 + register * 8);
    const result: NativeResult = {
      vector: bytes.readUInt8(at),
      timeout: bytes.readUInt8(at) === VECTOR_TIMEOUT,
      error: bytes.readUInt32LE(at + 4),
      rip: bytes.readBigUInt64LE(at + 8),
      cr2: bytes.readBigUInt64LE(at + 16),
      eflags: bytes.readUInt32LE(at + 24),
      registers,
      fx: bytes.subarray(at + 160, at + RESULT_SIZE),
      memory,
    };
    at += RESULT_SIZE;
    for (let run = 0; run < runs; run++) {
      const length = bytes.readUInt32LE(at + 4);
      memory.push({ at: bytes.readUInt32LE(at), bytes: bytes.subarray(at + 8, at + 8 + length) });
      at += (8 + length + 7) & ~7;
    }
    results.push(result);
  }
  return results;
}

function describeDifference(cases: readonly (() => NativeCase)[], results: NativeResult[], second: Buffer): string {
  const text = (result: NativeResult | undefined): string =>
    JSON.stringify(result, (_, value: unknown) => (typeof value === "bigint" ? value.toString(16) : value));
  const others = readResults(second, cases.length);
  const at = results.findIndex((result, i) => text({ ...result, registers: result.registers }) !== text(others[i]));
  const code = Buffer.from(cases[at]?.().code ?? []).toString("hex");
  return `case ${at}, code ${code}, vectors ${results[at]?.vector} ${others[at]?.vector}`;
}

/**
 * Runs cases natively, twice, and insists on equal results.
 * @throws Error when the harness fails or a case is not deterministic
 */
export function runNative(
  harness: string,
  directory: string,
  memory: { data: Uint8Array; stack: Uint8Array },
  cases: readonly (() => NativeCase)[],
): NativeResult[] {
  const input = join(directory, "cases");
  writeCases(input, memory, cases);
  const outputs = ["first", "second"].map((name) => {
    const output = join(directory, name);
    execFileSync(harness, [input, output], { stdio: "inherit" });
    return readFileSync(output);
  });
  const [first, second] = outputs;
  if (!first || !second) throw new Error("the harness wrote no results");
  const results = readResults(first, cases.length);
  if (!first.equals(second))
    throw new Error(`different results for equal cases: ${describeDifference(cases, results, second)}`);
  return results;
}
