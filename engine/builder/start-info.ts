/** Lays out the PVH start info with everything it points to, as one block of guest memory. */

import {
  type MemmapType,
  memmapEntry,
  modlistEntry,
  START_INFO_MAGIC,
  START_INFO_VERSION,
  startInfoStruct,
} from "../abi/pvh.ts";

/** A range of guest-physical memory in bytes. */
export interface MemoryRange {
  readonly start: number;
  readonly length: number;
}

export interface MemmapRange extends MemoryRange {
  readonly type: MemmapType;
}

export interface StartInfo {
  /** NUL-terminated when written; must not contain a NUL itself. */
  readonly commandLine: Uint8Array;
  readonly modules: readonly MemoryRange[];
  readonly memmap: readonly MemmapRange[];
  /** Address of the ACPI root pointer, or 0. */
  readonly rsdp: number;
}

const aligned = (value: number): number => Math.ceil(value / 8) * 8;

/** Size in bytes of the block that `layOutStartInfo` makes. */
export function startInfoSize(info: StartInfo): number {
  const tables = info.modules.length * modlistEntry.size + info.memmap.length * memmapEntry.size;
  return aligned(startInfoStruct.size + tables + info.commandLine.length + 1);
}

/**
 * Makes the block for guest-physical address `base` (a multiple of 8): start info, module list, memory map, command
 * line, in this order.
 */
export function layOutStartInfo(info: StartInfo, base: number): Uint8Array {
  const bytes = new Uint8Array(startInfoSize(info));
  const view = new DataView(bytes.buffer);
  const modlist = startInfoStruct.size;
  const memmap = modlist + info.modules.length * modlistEntry.size;
  const commandLine = memmap + info.memmap.length * memmapEntry.size;
  startInfoStruct.write(view, 0, {
    magic: START_INFO_MAGIC,
    version: START_INFO_VERSION,
    nrModules: info.modules.length,
    modlistPaddr: BigInt(info.modules.length === 0 ? 0 : base + modlist),
    cmdlinePaddr: BigInt(base + commandLine),
    rsdpPaddr: BigInt(info.rsdp),
    memmapPaddr: BigInt(base + memmap),
    memmapEntries: info.memmap.length,
  });
  for (const [index, { start, length }] of info.modules.entries()) {
    modlistEntry.write(view, modlist + index * modlistEntry.size, { paddr: BigInt(start), size: BigInt(length) });
  }
  for (const [index, { start, length, type }] of info.memmap.entries()) {
    memmapEntry.write(view, memmap + index * memmapEntry.size, { addr: BigInt(start), size: BigInt(length), type });
  }
  bytes.set(info.commandLine, commandLine);
  return bytes;
}
