/**
 * The PVH boot ABI: what a guest finds in EBX at its 32-bit entry point.
 * Source: xen/include/public/arch-x86/hvm/start_info.h and docs/misc/pvh.pandoc.
 */

import { defineStruct } from "./struct.ts";

/** `XEN_HVM_START_MAGIC_VALUE` */
export const START_INFO_MAGIC = 0x336ec578;
/** Version 1 adds the memory map. */
export const START_INFO_VERSION = 1;
/** `XEN_ELFNOTE_PHYS32_ENTRY` of elfnote.h: the physical address of the 32-bit entry point. */
export const ELFNOTE_PHYS32_ENTRY = 18;
/** Owner name of Xen's ELF notes. */
export const ELFNOTE_OWNER = "Xen";

/** `XEN_HVM_MEMMAP_TYPE_*`, equal to the types of e820. */
export const MemmapType = { ram: 1, reserved: 2, acpi: 3, nvs: 4, unusable: 5, disabled: 6, pmem: 7 } as const;
export type MemmapType = (typeof MemmapType)[keyof typeof MemmapType];

/*
 * struct hvm_start_info {
 *     uint32_t magic, version, flags, nr_modules;
 *     uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr;
 *     uint64_t memmap_paddr; uint32_t memmap_entries; uint32_t reserved;   // version 1 and later
 * };
 */
export const startInfoStruct = defineStruct({
  magic: "u32",
  version: "u32",
  flags: "u32",
  nrModules: "u32",
  modlistPaddr: "u64",
  cmdlinePaddr: "u64",
  rsdpPaddr: "u64",
  memmapPaddr: "u64",
  memmapEntries: "u32",
  reserved: "u32",
});

/* struct hvm_modlist_entry { uint64_t paddr, size, cmdline_paddr, reserved; }; */
export const modlistEntry = defineStruct({ paddr: "u64", size: "u64", cmdlinePaddr: "u64", reserved: "u64" });

/* struct hvm_memmap_table_entry { uint64_t addr, size; uint32_t type, reserved; }; */
export const memmapEntry = defineStruct({ addr: "u64", size: "u64", type: "u32", reserved: "u32" });
