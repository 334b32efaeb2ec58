/** Small made-up kernels for the tests: ELF files with a PVH note, and bzImages around them. */

import { ELFNOTE_PHYS32_ENTRY } from "../../engine/abi/pvh.ts";

export interface ElfOptions {
  readonly machine?: number;
  readonly elfClass?: number;
  readonly noteType?: number;
  readonly entry?: number;
  /** Physical addresses and contents of the PT_LOADs. */
  readonly loads?: readonly { readonly address: number; readonly data: Uint8Array; readonly memorySize?: number }[];
}

const TEXT = Uint8Array.from({ length: 64 }, (_, i) => i);

/** An ELF64 executable with the given segments and one Xen note. */
export function makeElf(options: ElfOptions = {}): Buffer {
  const loads = options.loads ?? [{ address: 0x10_0000, data: TEXT, memorySize: 0x2000 }];
  const note = Buffer.alloc(24);
  note.writeUInt32LE(4, 0);
  note.writeUInt32LE(8, 4);
  note.writeUInt32LE(options.noteType ?? ELFNOTE_PHYS32_ENTRY, 8);
  note.write("Xen\0", 12, "latin1");
  note.writeBigUInt64LE(BigInt(options.entry ?? (loads[0]?.address ?? 0) + 16), 16);
  const headers = Buffer.alloc(64 + 56 * (loads.length + 1));
  headers.write("\x7fELF", 0, "latin1");
  headers.set([options.elfClass ?? 2, 1, 1], 4);
  headers.writeUInt16LE(2, 16);
  headers.writeUInt16LE(options.machine ?? 62, 18);
  headers.writeBigUInt64LE(64n, 32);
  headers.writeUInt16LE(56, 54);
  headers.writeUInt16LE(loads.length + 1, 56);
  let offset = headers.length;
  const segment = (index: number, type: number, address: number, data: Uint8Array, memorySize: number): void => {
    const at = 64 + 56 * index;
    headers.writeUInt32LE(type, at);
    headers.writeBigUInt64LE(BigInt(offset), at + 8);
    headers.writeBigUInt64LE(BigInt(address), at + 24);
    headers.writeBigUInt64LE(BigInt(data.length), at + 32);
    headers.writeBigUInt64LE(BigInt(memorySize), at + 40);
    headers.writeBigUInt64LE(4n, at + 48);
    offset += data.length;
  };
  for (const [i, { address, data, memorySize }] of loads.entries()) {
    segment(i, 1, address, data, memorySize ?? data.length);
  }
  segment(loads.length, 4, 0, note, note.length);
  return Buffer.concat([headers, ...loads.map(({ data }) => data), note]);
}

/** An ELF32 executable for i386 with one segment of 64 bytes at 1 MiB and a PVH note of 4 bytes. */
export function makeElf32(): Buffer {
  const address = 0x10_0000;
  const note = Buffer.alloc(20);
  note.writeUInt32LE(4, 0);
  note.writeUInt32LE(4, 4);
  note.writeUInt32LE(ELFNOTE_PHYS32_ENTRY, 8);
  note.write("Xen\0", 12, "latin1");
  note.writeUInt32LE(address + 16, 16);
  const headers = Buffer.alloc(52 + 2 * 32);
  headers.write("\x7fELF", 0, "latin1");
  headers.set([1, 1, 1], 4);
  headers.writeUInt16LE(2, 16);
  headers.writeUInt16LE(3, 18);
  headers.writeUInt32LE(52, 28);
  headers.writeUInt16LE(32, 42);
  headers.writeUInt16LE(2, 44);
  const segment = (index: number, ...fields: readonly number[]): void => {
    for (const [i, field] of fields.entries()) headers.writeUInt32LE(field, 52 + 32 * index + 4 * i);
  };
  // type, offset, virtual and physical address, size in the file and in memory, flags, alignment
  segment(0, 1, headers.length, address, address, TEXT.length, 0x2000, 7, 4);
  segment(1, 4, headers.length + TEXT.length, 0, 0, note.length, note.length, 4, 4);
  return Buffer.concat([headers, TEXT, note]);
}

/** A bzImage whose payload is given in compressed form; `size` is what it decompresses to. */
export function makeBzImage(payload: Uint8Array, size: number, appendSize = true): Buffer {
  const setup = Buffer.alloc(2 * 512);
  setup[0x1f1] = 1;
  setup.writeUInt16LE(0xaa55, 0x1fe);
  setup.write("HdrS", 0x202, "latin1");
  setup.writeUInt16LE(0x020f, 0x206);
  setup.writeUInt32LE(0x20, 0x248);
  setup.writeUInt32LE(payload.length + (appendSize ? 4 : 0), 0x24c);
  const trailer = Buffer.alloc(appendSize ? 4 : 0);
  if (appendSize) trailer.writeUInt32LE(size, 0);
  return Buffer.concat([setup, Buffer.alloc(0x20), payload, trailer, Buffer.alloc(16)]);
}

/** LZ4 legacy frame of literals only: enough for a decoder's framing. */
export function storeLz4(data: Uint8Array): Buffer {
  const lengths: number[] = [];
  let rest = data.length - 15;
  if (rest >= 0) {
    for (; rest >= 255; rest -= 255) lengths.push(255);
    lengths.push(rest);
  }
  const block = Buffer.concat([Buffer.from([Math.min(15, data.length) << 4, ...lengths]), data]);
  const header = Buffer.alloc(8);
  header.writeUInt32LE(0x184c2102, 0);
  header.writeUInt32LE(block.length, 4);
  return Buffer.concat([header, block]);
}

/** Memory in the shape that the builder asks for. */
export function makeFrames(ramBytes: number) {
  const ram = new Uint8Array(ramBytes);
  return {
    ramBytes,
    ram,
    write: (gpa: number, bytes: Uint8Array): void => ram.set(bytes, gpa),
    zero: (gpa: number, length: number): void => void ram.fill(0, gpa, gpa + length),
    view: (gpa: number, length: number): Uint8Array => ram.subarray(gpa, gpa + length),
  };
}
