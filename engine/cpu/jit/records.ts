/** Reads decoded blocks out of a vCPU's memory: what they do, instruction by instruction. */
import {
  CODE_GENERATION,
  ENTRY_COUNT,
  ENTRY_HASH,
  HOT_THRESHOLD,
  MODE_64,
  R_COUNT,
  R_GENERATION,
  R_HANDLER,
  R_HEAT,
  R_IMM_HIGH,
  R_OFFSET,
  R_OP,
  R_PAGE,
  R_RECORDS,
  RECORD,
} from "../assembly/layout.ts";
import type { Access } from "./ir.ts";

/** How many slots of the block hash are looked at; the same as in assembly/code.ts. */
const PROBES = 4;

/** One record as the compiler sees it. */
export interface DecodedRecord {
  /** Address of the record. */
  readonly at: number;
  /** Name of its operation; of a sequence, that of the first element. */
  readonly name: string;
}

/** A block: its head's address, and the records behind it. */
export interface DecodedBlock {
  readonly head: number;
  /** Page of its code in the vCPU's memory, and the offset of its first instruction there. */
  readonly page: number;
  readonly offset: number;
  readonly records: readonly DecodedRecord[];
}

export class RecordReader {
  readonly view: DataView<SharedArrayBuffer>;
  private readonly names: readonly string[];

  constructor(memory: WebAssembly.Memory, names: readonly string[]) {
    this.view = new DataView(memory.buffer as unknown as SharedArrayBuffer);
    this.names = names;
  }

  /** The block whose head is at `head`; undefined when its code has changed since it was decoded. */
  block(head: number): DecodedBlock | undefined {
    const { view } = this;
    const page = view.getUint32(head + R_PAGE, true);
    if (!this.current(page, view.getUint32(head + R_GENERATION, true))) return undefined;
    const count = view.getUint16(head + R_RECORDS, true);
    const records = Array.from({ length: count }, (_, n) => {
      const at = head + RECORD * (n + 1);
      return { at, name: this.names[view.getUint16(at + R_OP, true)] ?? "" };
    });
    return { head, page, offset: view.getUint16(head + R_OFFSET, true), records };
  }

  /** Whether a block has run at least half as often as those that are compiled. */
  hot(head: number): boolean {
    const { view } = this;
    // Signed: it goes on counting below 0 until the block is compiled.
    return view.getInt32(head + R_HEAT, true) <= view.getInt32(HOT_THRESHOLD, true) >> 1;
  }

  private current(page: number, generation: number): boolean {
    return this.view.getUint32(CODE_GENERATION + (page >>> 12) * 4, true) === generation;
  }

  /** Head of the block that starts at an offset of a page, if it has been decoded (64-bit code). */
  find(page: number, offset: number): number | undefined {
    const { view } = this;
    const at = page + offset;
    const generation = view.getUint32(CODE_GENERATION + (page >>> 12) * 4, true);
    const first = Math.imul(at, 0x9e3779b1) >>> 14;
    for (let i = 0; i < PROBES; i++) {
      const entry = ENTRY_HASH + ((first + i) & (ENTRY_COUNT - 1)) * 16;
      if (view.getUint32(entry, true) !== at || view.getUint32(entry + 8, true) !== generation) continue;
      if (view.getUint32(entry + 12, true) === MODE_64) return view.getUint32(entry + 4, true);
    }
    return undefined;
  }

  /** A field of a record; u64 and what is signed as it is, the rest zero-extended. */
  field(at: number, access: Access, offset: number): number | bigint {
    const { view } = this;
    const address = at + offset;
    if (access === "u64") return view.getBigInt64(address, true);
    if (access === "u32") return view.getInt32(address, true);
    if (access === "u16") return view.getUint16(address, true);
    if (access === "i16") return view.getInt16(address, true);
    return access === "u8" ? view.getUint8(address) : view.getInt8(address);
  }

  /** Instructions of the block up to and including a record. */
  count(at: number): number {
    return this.view.getUint16(at + R_COUNT, true);
  }

  /** Target of a direct jump: bytes from the start of the code page. */
  target(at: number): number {
    return this.view.getInt32(at + R_IMM_HIGH, true);
  }

  /** Function table index of a cold record's handler. */
  handler(at: number): number {
    return this.view.getUint16(at + R_HANDLER, true);
  }
}
