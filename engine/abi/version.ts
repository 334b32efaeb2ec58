/** Sub-operations of xen_version (xen/include/public/version.h). */
export const VersionOp = {
  version: 0,
  extraversion: 1,
  compile_info: 2,
  capabilities: 3,
  changeset: 4,
  platform_parameters: 5,
  get_features: 6,
  pagesize: 7,
  guest_handle: 8,
  commandline: 9,
  build_id: 10,
} as const;

/** Lengths of the fixed char arrays those operations fill. */
export const EXTRAVERSION_LENGTH = 16;
export const CAPABILITIES_LENGTH = 1024;
export const CHANGESET_LENGTH = 64;
export const COMPILE_INFO_LENGTHS = [64, 16, 32, 32] as const;
export const COMMANDLINE_LENGTH = 1024;

/** Feature bits of submap 0 (xen/include/public/features.h). */
export const Feature = {
  writable_page_tables: 0,
  writable_descriptor_tables: 1,
  auto_translated_physmap: 2,
  supervisor_mode_kernel: 3,
  pae_pgdir_above_4gb: 4,
  mmu_pt_update_preserve_ad: 5,
  highmem_assist: 6,
  gnttab_map_avail_bits: 7,
  hvm_callback_vector: 8,
  hvm_safe_pvclock: 9,
  hvm_pirqs: 10,
  dom0: 11,
  memory_op_vnode_supported: 13,
  not_direct_mapped: 16,
} as const;
