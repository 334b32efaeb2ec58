/** Bytes of a WebAssembly binary (WebAssembly core specification, chapter 5). */

/** Opcodes of instructions without operand bytes, by name. */
const PLAIN: Readonly<Record<string, number>> = {
  unreachable: 0x00,
  else: 0x05,
  end: 0x0b,
  return: 0x0f,
  drop: 0x1a,
  "i32.eqz": 0x45,
  "i32.eq": 0x46,
  "i32.ne": 0x47,
  "i32.lt_s": 0x48,
  "i32.lt_u": 0x49,
  "i32.gt_s": 0x4a,
  "i32.gt_u": 0x4b,
  "i32.le_s": 0x4c,
  "i32.le_u": 0x4d,
  "i32.ge_s": 0x4e,
  "i32.ge_u": 0x4f,
  "i64.eqz": 0x50,
  "i64.eq": 0x51,
  "i64.ne": 0x52,
  "i64.lt_s": 0x53,
  "i64.lt_u": 0x54,
  "i64.gt_s": 0x55,
  "i64.gt_u": 0x56,
  "i64.le_s": 0x57,
  "i64.le_u": 0x58,
  "i64.ge_s": 0x59,
  "i64.ge_u": 0x5a,
  "i32.clz": 0x67,
  "i32.ctz": 0x68,
  "i32.popcnt": 0x69,
  "i32.add": 0x6a,
  "i32.sub": 0x6b,
  "i32.mul": 0x6c,
  "i32.and": 0x71,
  "i32.or": 0x72,
  "i32.xor": 0x73,
  "i32.shl": 0x74,
  "i32.shr_s": 0x75,
  "i32.shr_u": 0x76,
  "i32.rotl": 0x77,
  "i32.rotr": 0x78,
  "i64.clz": 0x79,
  "i64.ctz": 0x7a,
  "i64.popcnt": 0x7b,
  "i64.add": 0x7c,
  "i64.sub": 0x7d,
  "i64.mul": 0x7e,
  "i64.and": 0x83,
  "i64.or": 0x84,
  "i64.xor": 0x85,
  "i64.shl": 0x86,
  "i64.shr_s": 0x87,
  "i64.shr_u": 0x88,
  "i64.rotl": 0x89,
  "i64.rotr": 0x8a,
  "i32.wrap_i64": 0xa7,
  "i64.extend_i32_s": 0xac,
  "i64.extend_i32_u": 0xad,
  "i32.extend8_s": 0xc0,
  "i32.extend16_s": 0xc1,
};

/** Opcode and alignment (log2) of loads and stores by access. */
const LOADS: Readonly<Record<string, readonly [number, number]>> = {
  u8: [0x2d, 0],
  i8: [0x2c, 0],
  u16: [0x2f, 0],
  i16: [0x2e, 0],
  u32: [0x28, 0],
  u64: [0x29, 0],
};
const STORES: Readonly<Record<string, readonly [number, number]>> = {
  u8: [0x3a, 0],
  u16: [0x3b, 0],
  u32: [0x36, 0],
  u64: [0x37, 0],
};

/** Accesses of 1, 2, 4 or 8 bytes from and to an i64. */
const WIDE_LOADS: Readonly<Record<number, number>> = { 1: 0x31, 2: 0x33, 4: 0x35, 8: 0x29 };
const WIDE_STORES: Readonly<Record<number, number>> = { 1: 0x3c, 2: 0x3d, 4: 0x3e, 8: 0x37 };

/** Atomic read-modify-write by operation, then by access; they need natural alignment. */
const ATOMICS: Readonly<Record<string, Readonly<Record<string, readonly [number, number]>>>> = {
  load: { u8: [0x12, 0], u16: [0x13, 1], u32: [0x10, 2], u64: [0x11, 3] },
  add: { u8: [0x20, 0], u16: [0x21, 1], u32: [0x1e, 2], u64: [0x1f, 3] },
  xchg: { u8: [0x43, 0], u16: [0x44, 1], u32: [0x41, 2], u64: [0x42, 3] },
  cmpxchg: { u8: [0x4a, 0], u16: [0x4b, 1], u32: [0x48, 2], u64: [0x49, 3] },
};

export const I32 = 0x7f;
export const I64 = 0x7e;
export const EMPTY = 0x40;

export class Encoder {
  private buffer: Uint8Array;
  length = 0;

  constructor(capacity = 1024) {
    this.buffer = new Uint8Array(capacity);
  }

  bytes(): Uint8Array {
    return this.buffer.subarray(0, this.length);
  }

  private room(count: number): void {
    if (this.length + count <= this.buffer.length) return;
    const larger = new Uint8Array(Math.max(this.buffer.length * 2, this.length + count));
    larger.set(this.buffer);
    this.buffer = larger;
  }

  byte(value: number): void {
    this.room(1);
    this.buffer[this.length++] = value;
  }

  append(bytes: Uint8Array): void {
    this.room(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  /** Unsigned LEB128 of up to 32 bits. */
  unsigned(value: number): void {
    let rest = value >>> 0;
    while (rest >= 0x80) {
      this.byte((rest & 0x7f) | 0x80);
      rest >>>= 7;
    }
    this.byte(rest);
  }

  private signed32(value: number): void {
    let rest = value | 0;
    for (;;) {
      const low = rest & 0x7f;
      rest >>= 7;
      if ((rest === 0 && (low & 0x40) === 0) || (rest === -1 && (low & 0x40) !== 0)) {
        this.byte(low);
        return;
      }
      this.byte(low | 0x80);
    }
  }

  private signed64(value: bigint): void {
    let rest = BigInt.asIntN(64, value);
    for (;;) {
      const low = Number(rest & 0x7fn);
      rest >>= 7n;
      if ((rest === 0n && (low & 0x40) === 0) || (rest === -1n && (low & 0x40) !== 0)) {
        this.byte(low);
        return;
      }
      this.byte(low | 0x80);
    }
  }

  text(value: string): void {
    const bytes = new TextEncoder().encode(value);
    this.unsigned(bytes.length);
    this.append(bytes);
  }

  /** A section: number, length, content. */
  section(id: number, content: Encoder): void {
    this.byte(id);
    this.unsigned(content.length);
    this.append(content.bytes());
  }

  // --- instructions -------------------------------------------------------------------------------------------------

  /** An instruction without operand bytes. @throws Error for an unknown name (a bug) */
  op(name: string): void {
    const code = PLAIN[name];
    if (code === undefined) throw new Error(`WebAssembly has no instruction ${name} here`);
    this.byte(code);
  }

  i32(value: number): void {
    this.byte(0x41);
    this.signed32(value);
  }

  i64(value: bigint): void {
    this.byte(0x42);
    if (value >= -0x80000000n && value <= 0x7fffffffn) this.signed32(Number(value));
    else this.signed64(value);
  }

  get(local: number): void {
    this.byte(0x20);
    this.unsigned(local);
  }

  set(local: number): void {
    this.byte(0x21);
    this.unsigned(local);
  }

  tee(local: number): void {
    this.byte(0x22);
    this.unsigned(local);
  }

  private memory(code: number, alignment: number, offset: number): void {
    this.byte(code);
    this.byte(alignment);
    this.unsigned(offset);
  }

  load(access: string, offset: number): void {
    const [code, alignment] = LOADS[access] ?? [0, 0];
    this.memory(code, alignment, offset);
  }

  store(access: string, offset: number): void {
    const [code, alignment] = STORES[access] ?? [0, 0];
    this.memory(code, alignment, offset);
  }

  /** Loads 1, 2, 4 or 8 bytes, zero-extended to an i64. */
  loadWide(bytes: number, offset: number): void {
    this.memory(WIDE_LOADS[bytes] ?? 0, 0, offset);
  }

  /** Stores the low 1, 2, 4 or 8 bytes of an i64. */
  storeWide(bytes: number, offset: number): void {
    this.memory(WIDE_STORES[bytes] ?? 0, 0, offset);
  }

  /** `name` is that of ir.ts: "cmpxchg.u32". */
  atomic(name: string): void {
    const [operation = "", access = ""] = name.split(".");
    const [code, alignment] = ATOMICS[operation]?.[access] ?? [0, 0];
    this.byte(0xfe);
    this.memory(code, alignment, 0);
  }

  fence(): void {
    this.byte(0xfe);
    this.byte(0x03);
    this.byte(0x00);
  }

  /** if, block or loop; `type` is I32, I64 or EMPTY. */
  block(kind: "block" | "loop" | "if", type: number): void {
    this.byte(kind === "block" ? 0x02 : kind === "loop" ? 0x03 : 0x04);
    this.byte(type);
  }

  branch(depth: number): void {
    this.byte(0x0c);
    this.unsigned(depth);
  }

  branchIf(depth: number): void {
    this.byte(0x0d);
    this.unsigned(depth);
  }

  call(index: number): void {
    this.byte(0x10);
    this.unsigned(index);
  }

  callIndirect(type: number): void {
    this.byte(0x11);
    this.unsigned(type);
    this.byte(0);
  }

  returnCall(index: number): void {
    this.byte(0x12);
    this.unsigned(index);
  }

  returnCallIndirect(type: number): void {
    this.byte(0x13);
    this.unsigned(type);
    this.byte(0);
  }
}
