/** Puts a kernel, its initrd and the PVH start info into a new domain's memory. */

import { MemmapType } from "../abi/pvh.ts";
import { MAX_RAM_MIB } from "../memory/frame-plan.ts";
import type { GuestFrames } from "../memory/guest-frames.ts";
import { extractKernel, KERNEL_LIMIT } from "./bzimage.ts";
import { type KernelElf, parseKernelElf } from "./elf.ts";
import { BuildError } from "./errors.ts";
import { readBounded } from "./files.ts";
import { INITRD_LIMIT, joinArchives, unpackInitrd } from "./initrd.ts";
import { layOutStartInfo, type MemmapRange, type MemoryRange, startInfoSize } from "./start-info.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const PAGE_SIZE = 4096;
/** Below: conventional memory. A PC's firmware keeps its data area above, and Linux expects that hole. */
const LOW_MEMORY_END = 0x9f000;
const HIGH_MEMORY_START = MIB;
/** The first page stays unused, so that no valid structure has address 0. */
const LOWEST_START_INFO = PAGE_SIZE;
/** Linux copies no more than COMMAND_LINE_SIZE bytes, the terminating NUL included. */
const COMMAND_LINE_SIZE = 2048;

/** Least memory of a domain in MiB: what a distribution kernel needs to reach its init. */
export const MINIMUM_MEMORY_MIB = 64;
/** Greatest memory of a domain in MiB. */
export const MAXIMUM_MEMORY_MIB = MAX_RAM_MIB;

/** A file of the user's, or bytes made by the caller (always plain cpio archives). */
export type InitrdPart = { readonly path: string } | { readonly bytes: Uint8Array };

/** What a domain is to boot. */
export interface DomainImage {
  readonly kernel: { readonly path: string } | { readonly bytes: Uint8Array };
  /** Archives in the order in which the guest unpacks them; later files replace earlier ones. */
  readonly initrd: readonly InitrdPart[];
  readonly commandLine: string;
}

/** An image read, decompressed and checked, needing only memory. It can be loaded many times. */
export interface PreparedImage {
  readonly elf: Uint8Array;
  readonly kernel: KernelElf;
  /** Uncompressed; empty if there is none. */
  readonly initrd: Uint8Array;
  readonly commandLine: Uint8Array;
}

export interface LoadOptions {
  /** Special pages (console, XenStore, …) to announce as reserved; above RAM or inside it, page aligned. */
  readonly reserved: readonly MemoryRange[];
  /** Address of the ACPI root pointer that the caller writes; none: no ACPI. */
  readonly rsdp?: number;
}

/** Registers that differ from the fixed PVH entry state, and where things were put (for logs and tests). */
export interface EntryState {
  readonly eip: number;
  /** Guest-physical address of hvm_start_info. */
  readonly ebx: number;
  readonly kernelEnd: number;
  readonly initrd: MemoryRange | undefined;
}

const pageDown = (address: number): number => Math.floor(address / PAGE_SIZE) * PAGE_SIZE;
const pageUp = (address: number): number => Math.ceil(address / PAGE_SIZE) * PAGE_SIZE;
const endOf = (range: MemoryRange): number => range.start + range.length;

function encodeCommandLine(text: string): Uint8Array {
  if (/[\0\n\r]/.test(text)) {
    throw new BuildError("bad-command-line", "the kernel command line has a line break or NUL", "write it in one line");
  }
  const bytes = new TextEncoder().encode(text);
  if (bytes.length >= COMMAND_LINE_SIZE) {
    const found = `the kernel command line has ${bytes.length} bytes, more than ${COMMAND_LINE_SIZE - 1}`;
    throw new BuildError("command-line-too-long", found, "shorten --cmdline");
  }
  return bytes;
}

/**
 * Checks the size of a domain's memory.
 *
 * @throws BuildError `memory-too-small` or `memory-too-large`
 */
export function checkMemorySize(mebibytes: number): void {
  if (!(mebibytes >= MINIMUM_MEMORY_MIB)) {
    const found = `${mebibytes} MiB of memory is too small`;
    throw new BuildError("memory-too-small", found, `give at least ${MINIMUM_MEMORY_MIB} MiB (--memory)`);
  }
  if (mebibytes > MAXIMUM_MEMORY_MIB) {
    const found = `${mebibytes} MiB of memory is over the limit`;
    throw new BuildError("memory-too-large", found, `give at most ${MAXIMUM_MEMORY_MIB} MiB (--memory)`);
  }
}

/**
 * Reads and decompresses all parts of an image and checks what can be checked without memory.
 *
 * @throws BuildError
 */
export async function prepareImage(image: DomainImage): Promise<PreparedImage> {
  const commandLine = encodeCommandLine(image.commandLine);
  const file =
    "path" in image.kernel ? await readBounded(image.kernel.path, "kernel", KERNEL_LIMIT) : image.kernel.bytes;
  const elf = await extractKernel(file);
  const kernel = parseKernelElf(elf);
  const parts: Uint8Array[] = [];
  for (const part of image.initrd) {
    const bytes =
      "path" in part ? await unpackInitrd(await readBounded(part.path, "initrd", INITRD_LIMIT)) : part.bytes;
    parts.push(bytes);
  }
  return { elf, kernel, initrd: joinArchives(parts), commandLine };
}

/** Usable RAM in ascending order, without the hole under 1 MiB and without reserved pages. */
function usableRam(ramBytes: number, reserved: readonly MemoryRange[]): MemoryRange[] {
  let ranges: MemoryRange[] = [
    { start: 0, length: Math.min(ramBytes, LOW_MEMORY_END) },
    { start: HIGH_MEMORY_START, length: Math.max(0, ramBytes - HIGH_MEMORY_START) },
  ];
  for (const hole of reserved) {
    ranges = ranges.flatMap((range) => [
      { start: range.start, length: Math.min(endOf(range), hole.start) - range.start },
      { start: Math.max(range.start, endOf(hole)), length: endOf(range) - Math.max(range.start, endOf(hole)) },
    ]);
    ranges = ranges.filter((range) => range.length > 0);
  }
  return ranges.filter((range) => range.length > 0);
}

function contains(ranges: readonly MemoryRange[], start: number, end: number): boolean {
  return ranges.some((range) => start >= range.start && end <= endOf(range));
}

/** Memory in MiB in which this image certainly loads: kernel, initrd twice (packed and unpacked), some to run. */
function neededMemory(image: PreparedImage, kernelEnd: number): number {
  return Math.max(MINIMUM_MEMORY_MIB, Math.ceil((kernelEnd + 2 * image.initrd.length) / MIB) + 32);
}

function checkKernelFits(image: PreparedImage, ram: readonly MemoryRange[], ramBytes: number): number {
  let kernelEnd = 0;
  for (const segment of image.kernel.segments) kernelEnd = Math.max(kernelEnd, segment.address + segment.memorySize);
  for (const segment of image.kernel.segments) {
    if (contains(ram, segment.address, segment.address + segment.memorySize)) continue;
    const given = Math.floor(ramBytes / MIB);
    const needed = neededMemory(image, kernelEnd);
    if (needed > given && needed <= MAXIMUM_MEMORY_MIB) {
      const remedy = `give at least ${needed} MiB (--memory)`;
      throw new BuildError("memory-too-small", `the kernel does not fit into ${given} MiB of memory`, remedy);
    }
    const where = `0x${segment.address.toString(16)}`;
    throw new BuildError("kernel-does-not-fit", `the kernel wants to lie at ${where}, where no RAM is`, "use another");
  }
  return kernelEnd;
}

/** Highest page-aligned place for the initrd that lies in RAM and behind the kernel. */
function placeInitrd(
  image: PreparedImage,
  ram: readonly MemoryRange[],
  kernelEnd: number,
  ramBytes: number,
): MemoryRange {
  const length = image.initrd.length;
  const needed = neededMemory(image, kernelEnd);
  for (const range of ram.toReversed()) {
    const start = pageDown(endOf(range) - length);
    if (start >= Math.max(range.start, HIGH_MEMORY_START, kernelEnd)) return { start, length };
  }
  const sizes = `the initrd (${Math.ceil(length / MIB)} MiB uncompressed) does not fit`;
  const remedy = needed <= MAXIMUM_MEMORY_MIB ? `give at least ${needed} MiB (--memory)` : "use a smaller initrd";
  throw new BuildError("initrd-does-not-fit", `${sizes} into ${Math.floor(ramBytes / MIB)} MiB of memory`, remedy);
}

/**
 * Address for the start info: in conventional memory, or behind the kernel if that lies there. It must stay in the
 * first GiB, which is all that Linux has mapped when it reads the module list and the memory map.
 */
function placeStartInfo(image: PreparedImage, size: number, ram: readonly MemoryRange[], kernelEnd: number): number {
  const taken = (start: number): boolean =>
    image.kernel.segments.some((s) => start < s.address + s.memorySize && s.address < start + size);
  for (const start of [LOWEST_START_INFO, pageUp(Math.max(kernelEnd, HIGH_MEMORY_START))]) {
    if (!taken(start) && contains(ram, start, start + size)) return start;
  }
  throw new BuildError("kernel-does-not-fit", "the kernel leaves no room for the start info", "give more memory");
}

function memoryMap(ram: readonly MemoryRange[], reserved: readonly MemoryRange[]): MemmapRange[] {
  const map: MemmapRange[] = ram.map((range) => ({ ...range, type: MemmapType.ram }));
  for (const range of reserved) map.push({ ...range, type: MemmapType.reserved });
  return map.sort((a, b) => a.start - b.start);
}

/**
 * Loads a prepared image into memory that is zero throughout, and returns how to enter it.
 *
 * The entry state besides EIP and EBX is fixed by docs/misc/pvh.pandoc: 32-bit protected mode, paging off, flat segments.
 *
 * @throws BuildError `memory-too-small`, `memory-too-large`, `kernel-does-not-fit` or `initrd-does-not-fit`; nothing has been
 * written then
 */
export function loadImage(image: PreparedImage, frames: GuestFrames, options: LoadOptions): EntryState {
  checkMemorySize(frames.ramBytes / MIB);
  const ram = usableRam(frames.ramBytes, options.reserved);
  const kernelEnd = checkKernelFits(image, ram, frames.ramBytes);
  const initrd = image.initrd.length === 0 ? undefined : placeInitrd(image, ram, kernelEnd, frames.ramBytes);
  const info = {
    commandLine: image.commandLine,
    modules: initrd === undefined ? [] : [initrd],
    memmap: memoryMap(ram, options.reserved),
    rsdp: options.rsdp ?? 0,
  };
  const infoSize = startInfoSize(info);
  const ebx = placeStartInfo(image, infoSize, ram, kernelEnd);
  if (initrd !== undefined && ebx + infoSize > initrd.start) {
    throw new BuildError("initrd-does-not-fit", "the initrd leaves no room for the start info", "give more memory");
  }
  for (const segment of image.kernel.segments) {
    frames.write(segment.address, image.elf.subarray(segment.offset, segment.offset + segment.fileSize));
    frames.zero(segment.address + segment.fileSize, segment.memorySize - segment.fileSize);
  }
  if (initrd !== undefined) frames.write(initrd.start, image.initrd);
  frames.write(ebx, layOutStartInfo(info, ebx));
  return { eip: image.kernel.pvhEntry, ebx, kernelEnd, initrd };
}
