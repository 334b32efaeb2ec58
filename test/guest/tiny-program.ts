/** Static Linux programs of a few bytes: machine code made here. */

const BASE = 0x400000;
/** Where the code begins, behind the headers. */
const CODE = 0x80;
/** Where a reader keeps what it is told, and its path. */
const OUT = 0x800;
const PATH = 0xf00;

const word = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff);

/** ELF header and one program header, which maps the whole file to be read, written and executed. */
function elf(size: number, fill: number): Buffer {
  const image = Buffer.alloc(size, fill);
  image.fill(0, 0, CODE);
  Buffer.from("7f454c46020101", "hex").copy(image);
  image.writeUInt16LE(2, 16);
  image.writeUInt16LE(62, 18);
  image.writeUInt32LE(1, 20);
  image.writeBigUInt64LE(BigInt(BASE + CODE), 24);
  image.writeBigUInt64LE(64n, 32);
  image.writeUInt16LE(64, 52);
  image.writeUInt16LE(56, 54);
  image.writeUInt16LE(1, 56);
  image.writeUInt32LE(1, 64);
  image.writeUInt32LE(7, 68);
  for (const field of [80, 88]) image.writeBigUInt64LE(BigInt(BASE), field);
  for (const field of [96, 104]) image.writeBigUInt64LE(BigInt(size), field);
  image.writeBigUInt64LE(4096n, 112);
  return image;
}

/**
 * A program of 16 KiB, all of it executed: write(1, its letter and a line feed), then exit(status). Of two such programs every
 * page differs.
 */
export function letterProgram(letter: string, status: number): Uint8Array {
  const size = 16384;
  const image = elf(size, 0x90);
  for (let page = 0; page < size; page += 4096) image.set([0xb3, letter.charCodeAt(0)], page + 0x100); // mov bl
  const tail = [
    ...[0x68, ...word(0x0a00), 0x88, 0x1c, 0x24], // push 0x0a00; mov [rsp], bl
    ...[0xb8, ...word(1), 0xbf, ...word(1), 0x48, 0x89, 0xe6, 0xba, ...word(2), 0x0f, 0x05], // write(1, rsp, 2)
    ...[0xb8, ...word(60), 0xbf, ...word(status), 0x0f, 0x05], // exit(status)
  ];
  image.set(tail, size - 64);
  return new Uint8Array(image);
}

/** A page of code: a function that returns the letter. */
export function letterPage(letter: string): Uint8Array {
  const page = new Uint8Array(4096).fill(0x90);
  page.set([0xb0, letter.charCodeAt(0), 0xc3], 0x200); // mov al; ret
  return page;
}

/**
 * A program that reads the first `pages` pages of a disk one after the other, again and again, directly (O_DIRECT) into one
 * page of its own, which it calls each time. Writes the `rounds` letters that those functions returned; exits with 1 when
 * a read fails.
 */
export function directCaller(path: string, pages: number, rounds: number): Uint8Array {
  const image = elf(4096, 0);
  const code: number[] = [];
  const emit = (...bytes: readonly number[]) => void code.push(...bytes);
  emit(0xb8, ...word(2), 0xbf, ...word(BASE + PATH), 0xbe, ...word(0x4000), 0x31, 0xd2, 0x0f, 0x05); // open
  emit(0x41, 0x89, 0xc5); // mov r13d, eax
  emit(0xb8, ...word(9), 0x31, 0xff, 0xbe, ...word(4096), 0xba, ...word(7), 0x41, 0xba, ...word(0x22));
  emit(0x49, 0xc7, 0xc0, ...word(-1), 0x45, 0x31, 0xc9, 0x0f, 0x05); // mmap(0, 4096, rwx, private | anonymous, -1, 0)
  emit(0x49, 0x89, 0xc6, 0x45, 0x31, 0xe4, 0x45, 0x31, 0xff); // mov r14, rax; r12 = r15 = 0
  const loop = code.length;
  emit(0xb8, ...word(17), 0x44, 0x89, 0xef, 0x4c, 0x89, 0xf6, 0xba, ...word(4096), 0x4d, 0x89, 0xfa, 0x0f, 0x05);
  emit(0x3d, ...word(4096), 0x75); // pread64(r13, r14, 4096, r15) == 4096?
  const failed = code.length;
  emit(0, 0x41, 0xff, 0xd6, 0x41, 0x88, 0x84, 0x24, ...word(BASE + OUT)); // call r14; mov [r12 + out], al
  emit(0x49, 0x81, 0xc7, ...word(4096), 0x49, 0x81, 0xff, ...word(pages * 4096), 0x75, 3, 0x45, 0x31, 0xff);
  emit(0x41, 0xff, 0xc4, 0x41, 0x81, 0xfc, ...word(rounds)); // inc r12d; cmp r12d, rounds
  emit(0x72, (loop - (code.length + 2)) & 0xff);
  emit(0xb8, ...word(1), 0xbf, ...word(1), 0xbe, ...word(BASE + OUT), 0xba, ...word(rounds), 0x0f, 0x05);
  emit(0x31, 0xff, 0xb8, ...word(60), 0x0f, 0x05);
  code[failed] = code.length - (failed + 1);
  emit(0xbf, ...word(1), 0xb8, ...word(60), 0x0f, 0x05);
  image.set(code, CODE);
  image.write(path, PATH);
  return new Uint8Array(image);
}
