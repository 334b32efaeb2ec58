/** The vector files' byte format (see README.md): a writer for the generator, a reader for the replay. */
import { brotliCompressSync, brotliDecompressSync, constants } from "node:zlib";
import type { Form } from "./derive.ts";

/** Raised whenever derivation or format change, so that stale files are refused. */
export const FORMAT_VERSION = 1;
/** Outcome of a case that ended normally, where others have an exception vector. */
export const COMPLETED = 255;

export const FLAG_COMPAT = 1;
/** No flag is undefined in this case although the form has undefined ones (shift by zero). */
export const FLAG_ALL_DEFINED = 2;
/** OF is defined in this case although it is not in general (shift by one). */
export const FLAG_OF_DEFINED = 4;
export const FLAG_FX_DIFFERS = 8;
export const FLAG_MEMORY_DIFFERS = 16;

export interface VectorHeader {
  readonly version: number;
  /** Seed of the file's pseudo-random stream. */
  readonly stream: number;
  readonly forms: readonly Form[];
}

/** A changed stretch of bytes. */
export interface Run {
  /** Memory: address; FXSAVE image: offset. */
  readonly at: number;
  readonly bytes: Uint8Array;
}

/** What is stored about a case: its code, and how its final state differs from the derived initial one. */
export interface CaseRecord {
  code: Uint8Array;
  flags: number;
  modrmAt: number;
  /** Exception vector, or COMPLETED. */
  outcome: number;
  /** Final RIP. */
  rip: bigint;
  error: number;
  cr2: bigint;
  eflags: number;
  /** Changed registers by number. */
  registers: Map<number, bigint>;
  fx: Run[];
  memory: Run[];
}

/** Whether an exception pushes an error code (SDM volume 3, table 6-1). */
export function hasErrorCode(vector: number): boolean {
  return vector === 8 || (vector >= 10 && vector <= 14) || vector === 17;
}

const MAX_LENGTH = 1 << 20;

export class VectorWriter {
  private bytes = new Uint8Array(MAX_LENGTH);
  private view = new DataView(this.bytes.buffer);
  private used = 0;

  private reserve(size: number): void {
    if (this.used + size <= this.bytes.length) return;
    const bigger = new Uint8Array(this.bytes.length * 2);
    bigger.set(this.bytes);
    this.bytes = bigger;
    this.view = new DataView(bigger.buffer);
  }

  private byte(value: number): void {
    this.bytes[this.used++] = value;
  }

  private unsigned(value: number): void {
    let rest = value;
    for (; rest > 127; rest = Math.floor(rest / 128)) this.byte((rest & 127) | 128);
    this.byte(rest);
  }

  private signed(value: number): void {
    this.unsigned(value < 0 ? -2 * value - 1 : 2 * value);
  }

  private word(value: bigint): void {
    this.view.setBigUint64(this.used, BigInt.asUintN(64, value), true);
    this.used += 8;
  }

  private raw(bytes: Uint8Array): void {
    this.reserve(bytes.length + 64);
    this.bytes.set(bytes, this.used);
    this.used += bytes.length;
  }

  /** A register: its value or its difference to the old one, whichever is shorter, without leading zero bytes. */
  private register(before: bigint, after: bigint): void {
    const difference = before ^ after;
    const short = difference < after ? difference : after;
    const length = Math.ceil(short.toString(16).length / 2);
    this.byte(length | (short === after ? 0 : 16));
    this.word(short);
    this.used += length - 8;
  }

  /**
   * Appends one case.
   * @param start address of its code @param target address memory runs are relative to
   * @param initial general registers before the case
   */
  add(record: CaseRecord, start: number, target: number, eflags: number, initial: BigUint64Array): void {
    this.reserve(1024 + record.code.length);
    let { flags } = record;
    if (record.fx.length > 0) flags |= FLAG_FX_DIFFERS;
    if (record.memory.length > 0) flags |= FLAG_MEMORY_DIFFERS;
    this.unsigned(record.code.length);
    this.byte(flags);
    this.byte(record.modrmAt);
    this.raw(record.code);
    this.byte(record.outcome);
    this.signed(Number(record.rip) - start - (record.outcome === COMPLETED ? record.code.length : 0));
    if (hasErrorCode(record.outcome)) this.unsigned(record.error);
    if (record.outcome === 14) this.word(record.cr2);
    this.unsigned((eflags ^ record.eflags) >>> 0);
    let mask = 0;
    for (const number of record.registers.keys()) mask |= 1 << number;
    this.unsigned(mask);
    for (let number = 0; number < 16; number++) {
      const value = record.registers.get(number);
      if (value !== undefined) this.register(initial[number] ?? 0n, value);
    }
    if (record.fx.length > 0) this.runs(record.fx, 0);
    if (record.memory.length > 0) this.runs(record.memory, target);
  }

  private runs(runs: readonly Run[], origin: number): void {
    this.unsigned(runs.length);
    for (const run of runs) {
      this.signed(run.at - origin);
      this.unsigned(run.bytes.length);
      this.raw(run.bytes);
    }
  }

  /** @returns the compressed file */
  finish(header: VectorHeader): Buffer {
    const text = new TextEncoder().encode(JSON.stringify(header));
    const file = new Uint8Array(4 + text.length + this.used);
    new DataView(file.buffer).setUint32(0, text.length, true);
    file.set(text, 4);
    file.set(this.bytes.subarray(0, this.used), 4 + text.length);
    const params = { [constants.BROTLI_PARAM_QUALITY]: 10, [constants.BROTLI_PARAM_LGWIN]: 22 };
    return brotliCompressSync(file, { params });
  }
}

/** Reads a vector file case by case into one reused record. */
export class VectorReader {
  readonly header: VectorHeader;
  readonly record: CaseRecord = {
    code: new Uint8Array(0),
    flags: 0,
    modrmAt: 0,
    outcome: 0,
    rip: 0n,
    error: 0,
    cr2: 0n,
    eflags: 0,
    registers: new Map(),
    fx: [],
    memory: [],
  };
  private readonly bytes: Uint8Array;
  private readonly view: DataView;
  private at: number;

  /** @throws Error when the file is of another format version */
  constructor(file: Uint8Array) {
    this.bytes = brotliDecompressSync(file);
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length);
    const length = this.view.getUint32(0, true);
    this.header = JSON.parse(new TextDecoder().decode(this.bytes.subarray(4, 4 + length))) as VectorHeader;
    if (this.header.version !== FORMAT_VERSION) throw new Error("vector file of another format: regenerate");
    this.at = 4 + length;
  }

  private byte(): number {
    return this.bytes[this.at++] ?? 0;
  }

  private unsigned(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.byte();
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }

  private signed(): number {
    const value = this.unsigned();
    return value % 2 === 1 ? -(value + 1) / 2 : value / 2;
  }

  /** Reads what is known before the initial state is derived: code, flags and ModRM offset. */
  readCode(): CaseRecord {
    const { record } = this;
    const length = this.unsigned();
    record.flags = this.byte();
    record.modrmAt = this.byte();
    record.code = this.bytes.subarray(this.at, this.at + length);
    this.at += length;
    return record;
  }

  /** Reads the final state; the arguments are those the writer had. */
  readResult(start: number, target: number, eflags: number, initial: BigUint64Array): CaseRecord {
    const { record } = this;
    record.outcome = this.byte();
    const from = start + (record.outcome === COMPLETED ? record.code.length : 0);
    record.rip = BigInt.asUintN(64, BigInt(from + this.signed()));
    record.error = hasErrorCode(record.outcome) ? this.unsigned() : 0;
    record.cr2 = 0n;
    if (record.outcome === 14) {
      record.cr2 = this.view.getBigUint64(this.at, true);
      this.at += 8;
    }
    record.eflags = (eflags ^ this.unsigned()) >>> 0;
    record.registers.clear();
    const mask = this.unsigned();
    for (let number = 0; number < 16; number++) {
      if ((mask >> number) & 1) record.registers.set(number, this.register(initial[number] ?? 0n));
    }
    record.fx = record.flags & FLAG_FX_DIFFERS ? this.runs(0) : [];
    record.memory = record.flags & FLAG_MEMORY_DIFFERS ? this.runs(target) : [];
    return record;
  }

  private register(before: bigint): bigint {
    const head = this.byte();
    const length = head & 15;
    let value = 0n;
    for (let i = length - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.bytes[this.at + i] ?? 0);
    this.at += length;
    return head & 16 ? before ^ value : value;
  }

  private runs(origin: number): Run[] {
    const runs: Run[] = [];
    const count = this.unsigned();
    for (let i = 0; i < count; i++) {
      const at = origin + this.signed();
      const length = this.unsigned();
      runs.push({ at, bytes: this.bytes.subarray(this.at, this.at + length) });
      this.at += length;
    }
    return runs;
  }
}
