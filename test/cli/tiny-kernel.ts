/** Kernels of a few bytes, for what a real kernel does not do on request. */

/** Where the code lies and starts, in guest-physical memory. */
const LOAD_ADDRESS = 0x100000;
const ELF_HEADER = 64;
const PROGRAM_HEADER = 56;
const NOTE_OFFSET = ELF_HEADER + 2 * PROGRAM_HEADER;
/** Note header, "Xen\0" and a 4-byte entry address. */
const NOTE_SIZE = 12 + 4 + 4;
/** XEN_ELFNOTE_PHYS32_ENTRY of xen/include/public/elfnote.h. */
const PHYS32_ENTRY = 18;

const PT_LOAD = 1;
const PT_NOTE = 4;

function programHeader(view: DataView, at: number, type: number, offset: number, address: number, size: number): void {
  view.setUint32(at, type, true);
  view.setUint32(at + 4, 7, true);
  view.setBigUint64(at + 8, BigInt(offset), true);
  view.setBigUint64(at + 16, BigInt(address), true);
  view.setBigUint64(at + 24, BigInt(address), true);
  view.setBigUint64(at + 32, BigInt(size), true);
  view.setBigUint64(at + 40, BigInt(size), true);
  view.setBigUint64(at + 48, 4n, true);
}

/** A 64-bit ELF file with one segment of 32-bit code at 1 MiB; with its PVH note unless `note` is false. */
export function tinyKernel(code: readonly number[], note = true): Uint8Array {
  const codeOffset = NOTE_OFFSET + NOTE_SIZE;
  const file = new Uint8Array(codeOffset + code.length);
  const view = new DataView(file.buffer);
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 2, true); // ET_EXEC
  view.setUint16(18, 62, true); // EM_X86_64
  view.setUint32(20, 1, true);
  view.setBigUint64(24, BigInt(LOAD_ADDRESS), true);
  view.setBigUint64(32, BigInt(ELF_HEADER), true);
  view.setUint16(52, ELF_HEADER, true);
  view.setUint16(54, PROGRAM_HEADER, true);
  view.setUint16(56, note ? 2 : 1, true);
  programHeader(view, ELF_HEADER, PT_LOAD, codeOffset, LOAD_ADDRESS, code.length);
  programHeader(view, ELF_HEADER + PROGRAM_HEADER, PT_NOTE, NOTE_OFFSET, 0, NOTE_SIZE);
  view.setUint32(NOTE_OFFSET, 4, true);
  view.setUint32(NOTE_OFFSET + 4, 4, true);
  view.setUint32(NOTE_OFFSET + 8, PHYS32_ENTRY, true);
  file.set([0x58, 0x65, 0x6e, 0], NOTE_OFFSET + 12);
  view.setUint32(NOTE_OFFSET + 16, LOAD_ADDRESS, true);
  file.set(code, codeOffset);
  return file;
}

/** lidt of ten zero bytes behind the code, then int3: no handler can be found, three times over. */
export const tripleFault: readonly number[] = [0x0f, 0x01, 0x1d, 0x08, 0x00, 0x10, 0x00, 0xcc, ...Array(10).fill(0)];
/** mov eax, 0xe0000000; jmp eax: no memory is there. */
export const jumpToNowhere: readonly number[] = [0xb8, 0x00, 0x00, 0x00, 0xe0, 0xff, 0xe0];
/** jmp to itself. */
export const endlessLoop: readonly number[] = [0xeb, 0xfe];
/** cli; hlt; jmp back: asleep for ever. */
export const endlessSleep: readonly number[] = [0xfa, 0xf4, 0xeb, 0xfc];
/** sti; hlt; jmp back to hlt: waits for interrupts, which never come. */
export const idle: readonly number[] = [0xfb, 0xf4, 0xeb, 0xfd];
