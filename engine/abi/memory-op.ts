import { defineStruct } from "./struct.ts";

/** Sub-operations of memory_op (xen/include/public/memory.h); the command's upper bits are the start extent. */
export const MemoryOp = {
  increase_reservation: 0,
  decrease_reservation: 1,
  maximum_ram_page: 2,
  current_reservation: 3,
  maximum_reservation: 4,
  machphys_mfn_list: 5,
  populate_physmap: 6,
  add_to_physmap: 7,
  memory_map: 9,
  machine_memory_map: 10,
  exchange: 11,
  machphys_mapping: 12,
  set_memory_map: 13,
  maximum_gpfn: 14,
  remove_from_physmap: 15,
  add_to_physmap_batch: 23,
  get_vnumainfo: 26,
  acquire_resource: 28,
} as const;
export const MEMOP_EXTENT_SHIFT = 6;
export const MEMOP_CMD_MASK = (1 << MEMOP_EXTENT_SHIFT) - 1;

/** Address spaces of add_to_physmap (XENMAPSPACE_*). */
export const MapSpace = {
  shared_info: 0,
  grant_table: 1,
  gmfn: 2,
  gmfn_range: 3,
  gmfn_foreign: 4,
  dev_mmio: 5,
} as const;
/** Index bit that selects the status frames of a version 2 grant table. */
export const GRANT_TABLE_STATUS_BIT = 1n << 63n;

/** struct xen_memory_reservation { xen_pfn_t *extent_start; unsigned long nr_extents; unsigned extent_order, mem_flags; domid_t domid; }; */
export const memoryReservation = defineStruct({
  extentStart: "ulong",
  nrExtents: "ulong",
  extentOrder: "u32",
  memFlags: "u32",
  domid: "u16",
});

/** struct xen_add_to_physmap { domid_t domid; uint16_t size; unsigned space; unsigned long idx; xen_pfn_t gpfn; }; */
export const addToPhysmap = defineStruct({ domid: "u16", size: "u16", space: "u32", idx: "ulong", gpfn: "ulong" });

/**
 * struct xen_add_to_physmap_batch { domid_t domid; uint16_t space, size; union { uint16_t res0; domid_t foreign_domid; } u;
 *   xen_ulong_t *idxs; xen_pfn_t *gpfns; int *errs; };
 */
export const addToPhysmapBatch = defineStruct({
  domid: "u16",
  space: "u16",
  size: "u16",
  foreignDomid: "u16",
  idxs: "ulong",
  gpfns: "ulong",
  errs: "ulong",
});

/** struct xen_remove_from_physmap { domid_t domid; xen_pfn_t gpfn; }; */
export const removeFromPhysmap = defineStruct({ domid: "u16", gpfn: "ulong" });

/** struct xen_memory_map { unsigned nr_entries; void *buffer; }; */
export const memoryMap = defineStruct({ nrEntries: "u32", buffer: "ulong" });

/** struct e820entry { uint64_t addr, size; uint32_t type; } packed: 20 bytes an entry. */
export const E820_ENTRY_SIZE = 20;
export const E820_RAM = 1;
export const E820_RESERVED = 2;
