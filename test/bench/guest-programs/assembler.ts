/** Just enough of an assembler for small static programs: bytes, 32-bit numbers, and labels that jumps name. */

/** Where the file lies in memory; code starts behind its headers. */
const LOAD_ADDRESS = 0x400000;
const HEADERS = 64 + 56;
const MACHINE_X86_64 = 62;
const READ_WRITE_EXECUTE = 7;

export class Assembler {
  private readonly code: number[] = [];
  private readonly labels = new Map<string, number>();
  private readonly jumps: { readonly at: number; readonly label: string; readonly absolute: boolean }[] = [];

  /** Adds bytes: an instruction, or its beginning. */
  bytes(...bytes: readonly number[]): this {
    this.code.push(...bytes);
    return this;
  }

  /** Adds an opcode and a 32-bit operand. */
  number(opcode: readonly number[], value: number): this {
    return this.bytes(...opcode, value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24);
  }

  label(name: string): this {
    this.labels.set(name, this.code.length);
    return this;
  }

  /** Adds an opcode whose operand is the way to a label (jmp, jcc, call). */
  jump(opcode: readonly number[], label: string): this {
    this.bytes(...opcode);
    this.jumps.push({ at: this.code.length, label, absolute: false });
    return this.number([], 0);
  }

  /** Adds an opcode whose operand is a label's address. */
  address(opcode: readonly number[], label: string): this {
    this.bytes(...opcode);
    this.jumps.push({ at: this.code.length, label, absolute: true });
    return this.number([], 0);
  }

  /** Adds a string with its end mark. */
  text(text: string): this {
    return this.bytes(...Buffer.from(`${text}\0`, "latin1"));
  }

  /** The executable: one segment that holds everything, from the first byte on the entry. @throws for an unknown label */
  executable(): Uint8Array {
    const file = Buffer.alloc(HEADERS + this.code.length);
    file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
    file.writeUInt16LE(2, 16);
    file.writeUInt16LE(MACHINE_X86_64, 18);
    file.writeUInt32LE(1, 20);
    file.writeBigUInt64LE(BigInt(LOAD_ADDRESS + HEADERS), 24);
    file.writeBigUInt64LE(64n, 32);
    file.writeUInt16LE(64, 52);
    file.writeUInt16LE(56, 54);
    file.writeUInt16LE(1, 56);
    file.writeUInt32LE(1, 64);
    file.writeUInt32LE(READ_WRITE_EXECUTE, 68);
    file.writeBigUInt64LE(BigInt(LOAD_ADDRESS), 80);
    file.writeBigUInt64LE(BigInt(LOAD_ADDRESS), 88);
    file.writeBigUInt64LE(BigInt(file.length), 96);
    file.writeBigUInt64LE(BigInt(file.length), 104);
    file.writeBigUInt64LE(0x1000n, 112);
    file.set(this.code, HEADERS);
    for (const { at, label, absolute } of this.jumps) {
      const target = this.labels.get(label);
      if (target === undefined) throw new RangeError(`label ${label}`);
      file.writeInt32LE(absolute ? LOAD_ADDRESS + HEADERS + target : target - at - 4, HEADERS + at);
    }
    return new Uint8Array(file);
  }
}
