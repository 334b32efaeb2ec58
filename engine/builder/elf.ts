/** ELF executables of both classes as kernels: program headers and the PVH note. Source: System V gABI, chapters 4 and 5. */

import { ELFNOTE_OWNER, ELFNOTE_PHYS32_ENTRY } from "../abi/pvh.ts";
import { BuildError } from "./errors.ts";

/** What to do about a kernel that cannot start as a PVH guest. */
export const PVH_REMEDY = "use a kernel built with CONFIG_PVH, as Debian's for amd64 and 686-pae are";

const CLASS_32 = 1;
const CLASS_64 = 2;
const LITTLE_ENDIAN = 1;
const EM_386 = 3;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_NOTE = 4;
/** Offsets and sizes in the file header and the program headers; a word is an address, offset or size. */
interface ElfLayout {
  readonly headerSize: number;
  /** Of e_phoff, e_phentsize, e_phnum. */
  readonly table: number;
  readonly entrySize: number;
  readonly count: number;
  /** Of a program header, and in it: p_offset, p_paddr, p_filesz, p_memsz, p_align. */
  readonly programHeader: number;
  readonly fields: readonly [offset: number, address: number, fileSize: number, memorySize: number, align: number];
  readonly word: (view: DataView, at: number) => number;
}

const LAYOUT_32: ElfLayout = {
  headerSize: 52,
  table: 28,
  entrySize: 42,
  count: 44,
  programHeader: 32,
  fields: [4, 12, 16, 20, 28],
  word: (view, at) => view.getUint32(at, true),
};
const LAYOUT_64: ElfLayout = {
  headerSize: 64,
  table: 32,
  entrySize: 54,
  count: 56,
  programHeader: 56,
  fields: [8, 24, 32, 40, 48],
  word: readWord,
};
/** A kernel has about five; more than this is a damaged or hostile file. */
const MOST_PROGRAM_HEADERS = 256;

const MACHINES: Readonly<Record<number, string>> = {
  20: "PowerPC",
  21: "PowerPC 64",
  22: "S/390",
  40: "32-bit ARM",
  183: "ARM64",
  243: "RISC-V",
  258: "LoongArch",
};

/** A PT_LOAD: `fileSize` bytes at `offset` of the file go to physical `address`; up to `memorySize` is zero. */
export interface Segment {
  readonly offset: number;
  readonly fileSize: number;
  readonly address: number;
  readonly memorySize: number;
}

/** What the builder needs of a kernel. */
export interface KernelElf {
  /** In ascending order of address, not overlapping, file ranges inside the file; empty ones are left out. */
  readonly segments: readonly Segment[];
  /** Physical address of the 32-bit PVH entry point, inside one of the segments. */
  readonly pvhEntry: number;
}

/** True if the bytes begin like an ELF file. */
export function isElf(bytes: Uint8Array): boolean {
  return bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46;
}

function truncated(what: string): BuildError {
  return new BuildError("truncated-image", `the kernel is truncated: ${what}`, "fetch or copy it again");
}

function corrupt(what: string): BuildError {
  return new BuildError("corrupt-image", `the kernel is damaged: ${what}`, "fetch or copy it again");
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** A 64-bit field as a number; beyond 2^53 it is only "too large", which every bounds check refuses. */
function readWord(view: DataView, at: number): number {
  return Number(view.getBigUint64(at, true));
}

/**
 * Checks that the file is for x86 and answers its layout. The PVH entry is 32-bit code whatever the kernel's word size, so
 * 32-bit files are welcome, and so are those with 64-bit code inside (some kernels are wrapped that way).
 */
function checkIdentity(bytes: Uint8Array, view: DataView): ElfLayout {
  if (!isElf(bytes)) throw new BuildError("not-a-kernel", "the kernel is not an ELF file", "name a Linux kernel");
  if (bytes.length < LAYOUT_32.headerSize) throw truncated("its ELF header is incomplete");
  const machine = view.getUint16(18, bytes[5] === LITTLE_ENDIAN);
  const x86 = machine === EM_X86_64 || (machine === EM_386 && bytes[4] === CLASS_32);
  if (bytes[5] !== LITTLE_ENDIAN || !x86) {
    const name = MACHINES[machine] ?? `machine number ${machine}`;
    throw new BuildError("wrong-machine", `the kernel is built for ${name}`, "use an x86-64 (amd64) kernel");
  }
  if (bytes[4] !== CLASS_32 && bytes[4] !== CLASS_64) throw corrupt(`its ELF class is ${bytes[4]}`);
  const layout = bytes[4] === CLASS_32 ? LAYOUT_32 : LAYOUT_64;
  if (bytes.length < layout.headerSize) throw truncated("its ELF header is incomplete");
  return layout;
}

interface ProgramHeader extends Segment {
  readonly type: number;
  readonly align: number;
}

function programHeaders(bytes: Uint8Array, view: DataView, layout: ElfLayout): ProgramHeader[] {
  const { word, programHeader: size } = layout;
  const table = word(view, layout.table);
  const entrySize = view.getUint16(layout.entrySize, true);
  const count = view.getUint16(layout.count, true);
  if (count === 0) throw corrupt("it has no program headers");
  if (entrySize !== size) throw corrupt(`its program headers have ${entrySize} bytes instead of ${size}`);
  if (count > MOST_PROGRAM_HEADERS) throw corrupt(`it claims ${count} program headers`);
  if (!(table + count * size <= bytes.length)) throw truncated("its program headers lie past the end of the file");
  const headers: ProgramHeader[] = [];
  const [offset, address, fileSize, memorySize, align] = layout.fields;
  for (let at = table; at < table + count * size; at += size) {
    headers.push({
      type: view.getUint32(at, true),
      offset: word(view, at + offset),
      address: word(view, at + address),
      fileSize: word(view, at + fileSize),
      memorySize: word(view, at + memorySize),
      align: word(view, at + align),
    });
  }
  return headers;
}

function loadSegments(bytes: Uint8Array, headers: readonly ProgramHeader[]): Segment[] {
  const loads = headers.filter((header) => header.type === PT_LOAD && header.memorySize > 0);
  if (loads.length === 0) throw corrupt("it has nothing to load");
  for (const load of loads) {
    if (load.fileSize > load.memorySize) throw corrupt("a segment is larger in the file than in memory");
    if (!(load.offset + load.fileSize <= bytes.length)) throw truncated("a segment lies past the end of the file");
  }
  loads.sort((a, b) => a.address - b.address);
  for (const [index, load] of loads.entries()) {
    const next = loads[index + 1];
    if (next !== undefined && load.address + load.memorySize > next.address) throw corrupt("its segments overlap");
  }
  return loads.map(({ offset, fileSize, address, memorySize }) => ({ offset, fileSize, address, memorySize }));
}

const roundUp = (value: number, to: number): number => Math.ceil(value / to) * to;

/** Finds the PVH entry in one note segment: { namesz, descsz, type, name, desc }, name and desc padded. */
function pvhEntryIn(bytes: Uint8Array, view: DataView, note: ProgramHeader): number | undefined {
  const end = note.offset + note.fileSize;
  if (!(end <= bytes.length)) throw truncated("its notes lie past the end of the file");
  const padding = note.align === 8 ? 8 : 4;
  let at = note.offset;
  while (at + 12 <= end) {
    const nameSize = view.getUint32(at, true);
    const descSize = view.getUint32(at + 4, true);
    const type = view.getUint32(at + 8, true);
    const nameAt = at + 12;
    const descAt = at + roundUp(12 + nameSize, padding);
    if (descAt + descSize > end) return undefined;
    const name = Buffer.from(bytes.buffer, bytes.byteOffset + nameAt, nameSize).toString("latin1");
    if (type === ELFNOTE_PHYS32_ENTRY && name === `${ELFNOTE_OWNER}\0`) {
      if (descSize >= 8) return readWord(view, descAt);
      if (descSize >= 4) return view.getUint32(descAt, true);
    }
    at = descAt + roundUp(descSize, padding);
  }
  return undefined;
}

/**
 * Reads a kernel's program headers and its PVH entry point.
 *
 * @throws BuildError `not-a-kernel`, `truncated-image`, `corrupt-image`, `wrong-machine` or `no-pvh-note`
 */
export function parseKernelElf(bytes: Uint8Array): KernelElf {
  const view = viewOf(bytes);
  const layout = checkIdentity(bytes, view);
  const headers = programHeaders(bytes, view, layout);
  const segments = loadSegments(bytes, headers);
  let pvhEntry: number | undefined;
  for (const header of headers) {
    if (header.type === PT_NOTE) pvhEntry ??= pvhEntryIn(bytes, view, header);
  }
  if (pvhEntry === undefined) {
    throw new BuildError("no-pvh-note", "the kernel has no PVH entry point (ELF note Xen, type 18)", PVH_REMEDY);
  }
  const entry = pvhEntry;
  if (!segments.some((s) => entry >= s.address && entry < s.address + s.memorySize) || entry > 0xffff_ffff) {
    throw corrupt("its PVH entry point lies outside what it loads");
  }
  return { segments, pvhEntry };
}
