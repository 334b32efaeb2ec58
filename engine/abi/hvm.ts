import { defineStruct } from "./struct.ts";

/** Sub-operations of hvm_op (xen/include/public/hvm/hvm_op.h). */
export const HvmOp = {
  set_param: 0,
  get_param: 1,
  set_pci_intx_level: 2,
  set_isa_irq_level: 3,
  set_pci_link_route: 4,
  flush_tlbs: 5,
  track_dirty_vram: 6,
  pagetable_dying: 9,
  get_time: 10,
  get_mem_type: 15,
  set_evtchn_upcall_vector: 23,
} as const;

/** HVM parameters (xen/include/public/hvm/params.h). */
export const HvmParam = {
  callback_irq: 0,
  store_pfn: 1,
  store_evtchn: 2,
  pae_enabled: 4,
  ioreq_pfn: 5,
  bufioreq_pfn: 6,
  viridian: 9,
  timer_mode: 10,
  hpet_enabled: 11,
  ident_pt: 12,
  vm86_tss: 15,
  vpt_align: 16,
  console_pfn: 17,
  console_evtchn: 18,
  acpi_ioports_location: 19,
  vm_generation_id_addr: 34,
  x87_fip_width: 36,
  vm86_tss_sized: 37,
} as const;
export const HVM_NR_PARAMS = 39;

/** Way of delivery in bits 63…56 of HvmParam.callback_irq: an interrupt vector. */
export const CALLBACK_TYPE_VECTOR = 2;

/** struct xen_hvm_param { domid_t domid; uint16_t pad; uint32_t index; uint64_t value; }; */
export const hvmParam = defineStruct({ domid: "u16", pad: "u16", index: "u32", value: "u64" });
/** struct xen_hvm_get_time { uint64_t now; }; ns since the domain started */
export const hvmGetTime = defineStruct({ now: "u64" });
/** struct xen_hvm_get_mem_type { domid_t domid; uint16_t mem_type, pad[2]; uint64_t pfn; }; */
export const hvmGetMemType = defineStruct({ domid: "u16", memType: "u16", pad: ["u16", 2], pfn: "u64" });
/** hvmmem_type_t */
export const HvmMemType = { ram_rw: 0, ram_ro: 1, mmio_dm: 2 } as const;
/** struct xen_hvm_evtchn_upcall_vector { uint32_t vcpu; uint8_t vector; }; */
export const evtchnUpcallVector = defineStruct({ vcpu: "u32", vector: "u8" });
