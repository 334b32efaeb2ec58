import { defineStruct } from "./struct.ts";

/** Sub-operations of grant_table_op (xen/include/public/grant_table.h). */
export const GrantTableOp = {
  map_grant_ref: 0,
  unmap_grant_ref: 1,
  setup_table: 2,
  dump_table: 3,
  transfer: 4,
  copy: 5,
  query_size: 6,
  unmap_and_replace: 7,
  set_version: 8,
  get_status_frames: 9,
  get_version: 10,
  swap_grant_ref: 11,
  cache_flush: 12,
} as const;

/** Grant table frames of a domain: 32 frames of 512 version 1 entries. */
export const GRANT_TABLE_FRAMES = 32;
/** struct grant_entry_v1 { uint16_t flags; domid_t domid; uint32_t frame; }; */
export const grantEntryV1 = defineStruct({ flags: "u16", domid: "u16", frame: "u32" });
export const GRANTS_PER_FRAME_V1 = 512;
/** Types of an entry, in the low bits of its flags. */
export const GTF_PERMIT_ACCESS = 1;
export const GTF_ACCEPT_TRANSFER = 2;
export const GTF_TYPE_MASK = 3;
/** Of a permit_access entry: the peer may not write; the peer has it mapped for reading, or writing. */
export const GTF_READONLY = 1 << 2;
export const GTF_READING = 1 << 3;
export const GTF_WRITING = 1 << 4;
/** Only a part of the page is offered, for copies (version 2). */
export const GTF_SUB_PAGE = 1 << 8;
/** Of an accept_transfer entry: a page is on its way, and has arrived. */
export const GTF_TRANSFER_COMMITTED = 1 << 2;
export const GTF_TRANSFER_COMPLETED = 1 << 3;
/** The first references are the toolstack's. */
export const GNTTAB_NR_RESERVED_ENTRIES = 8;
/** Grant references that the toolstack fills before the guest starts. */
export const GRANT_REF_CONSOLE = 0;
export const GRANT_REF_XENSTORE = 1;

/** Statuses (GNTST_*). */
export const GrantStatus = {
  okay: 0,
  general_error: -1,
  bad_domain: -2,
  bad_gntref: -3,
  bad_handle: -4,
  bad_virt_addr: -5,
  bad_dev_addr: -6,
  no_device_space: -7,
  permission_denied: -8,
  bad_page: -9,
  bad_copy_arg: -10,
  address_too_big: -11,
  eagain: -12,
  no_space: -13,
} as const;

/** Flags of map_grant_ref. */
export const GNTMAP_DEVICE_MAP = 1 << 0;
export const GNTMAP_HOST_MAP = 1 << 1;
export const GNTMAP_READONLY = 1 << 2;
/** Flags of copy: what of source and dest is a reference rather than a frame of one's own. */
export const GNTCOPY_SOURCE_GREF = 1 << 0;
export const GNTCOPY_DEST_GREF = 1 << 1;
/** Operations of cache_flush. */
export const GNTTAB_CACHE_CLEAN = 1 << 0;
export const GNTTAB_CACHE_INVAL = 1 << 1;
export const GNTTAB_CACHE_SOURCE_GREF = 2 ** 31;

/** struct gnttab_map_grant_ref { uint64_t host_addr; uint32_t flags, ref; domid_t dom; int16_t status; uint32_t handle; uint64_t dev_bus_addr; }; */
export const mapGrantRef = defineStruct({
  hostAddr: "u64",
  flags: "u32",
  ref: "u32",
  dom: "u16",
  status: "i16",
  handle: "u32",
  devBusAddr: "u64",
});
/** struct gnttab_unmap_grant_ref { uint64_t host_addr, dev_bus_addr; uint32_t handle; int16_t status; }; */
export const unmapGrantRef = defineStruct({ hostAddr: "u64", devBusAddr: "u64", handle: "u32", status: "i16" });
/** struct gnttab_setup_table { domid_t dom; uint32_t nr_frames; int16_t status; xen_pfn_t *frame_list; }; */
export const setupTable = defineStruct({ dom: "u16", nrFrames: "u32", status: "i16", frameList: "ulong" });
/** struct gnttab_transfer { xen_pfn_t mfn; domid_t domid; uint32_t ref; int16_t status; }; */
export const transferGrant = defineStruct({ mfn: "ulong", domid: "u16", ref: "u32", status: "i16" });
/** struct gnttab_copy { struct { union { uint32_t ref; xen_pfn_t gmfn; } u; domid_t domid; uint16_t offset; } source, dest; uint16_t len, flags; int16_t status; }; */
export const grantCopy = defineStruct({
  sourceRef: "ulong",
  sourceDomid: "u16",
  sourceOffset: "u16",
  destRef: "ulong",
  destDomid: "u16",
  destOffset: "u16",
  /** Takes no room: the two inner structs end where a long could begin. */
  destEnd: ["ulong", 0],
  len: "u16",
  flags: "u16",
  status: "i16",
});
/** struct gnttab_query_size { domid_t dom; uint32_t nr_frames, max_nr_frames; int16_t status; }; */
export const querySize = defineStruct({ dom: "u16", nrFrames: "u32", maxNrFrames: "u32", status: "i16" });
/** struct gnttab_set_version { uint32_t version; }; */
export const setVersion = defineStruct({ version: "u32" });
/** struct gnttab_get_version { domid_t dom; uint16_t pad; uint32_t version; }; */
export const getVersion = defineStruct({ dom: "u16", pad: "u16", version: "u32" });
/** struct gnttab_unmap_and_replace { uint64_t host_addr, new_addr; uint32_t handle; int16_t status; }; */
export const unmapAndReplace = defineStruct({ hostAddr: "u64", newAddr: "u64", handle: "u32", status: "i16" });
/** struct gnttab_get_status_frames { uint32_t nr_frames; domid_t dom; int16_t status; uint64_t *frame_list; }; */
export const getStatusFrames = defineStruct({ nrFrames: "u32", dom: "u16", status: "i16", frameList: "ulong" });
/** struct gnttab_swap_grant_ref { uint32_t ref_a, ref_b; int16_t status; }; */
export const swapGrantRef = defineStruct({ refA: "u32", refB: "u32", status: "i16" });
/** struct gnttab_cache_flush { union { uint64_t dev_bus_addr; uint32_t ref; } a; uint16_t offset, length; uint32_t op; }; */
export const cacheFlush = defineStruct({ address: "u64", offset: "u16", length: "u16", op: "u32" });
