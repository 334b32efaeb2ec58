import { defineStruct } from "./struct.ts";

/** Guest page size on x86. */
export const PAGE_SIZE = 4096;
export const PAGE_SHIFT = 12;

/** Reserved domain ids (xen/include/public/xen.h). */
export const DOMID_SELF = 0x7ff0;
export const DOMID_IO = 0x7ff1;
export const DOMID_XEN = 0x7ff2;
export const DOMID_INVALID = 0x7ff4;
export const DOMID_FIRST_RESERVED = 0x7ff0;

/** Virtual interrupts (xen.h VIRQ_*). */
export const Virq = {
  timer: 0,
  debug: 1,
  console: 2,
  dom_exc: 3,
  tbuf: 4,
  debugger: 6,
  xenoprof: 7,
  con_ring: 8,
  pcpu_state: 9,
  mem_event: 10,
  argo: 11,
  enomem: 12,
  xenpmu: 13,
} as const;
export const NR_VIRQS = 24;
/** VIRQs of which every vCPU has its own; the others are global and live on vCPU 0. */
export const PER_VCPU_VIRQS: ReadonlySet<number> = new Set([Virq.timer, Virq.debug, Virq.xenoprof, Virq.xenpmu]);

/**
 * struct vcpu_time_info { uint32_t version, pad0; uint64_t tsc_timestamp, system_time; uint32_t tsc_to_system_mul;
 *   int8_t tsc_shift; uint8_t flags, pad1[2]; };
 */
export const vcpuTimeInfo = defineStruct({
  version: "u32",
  pad0: "u32",
  tscTimestamp: "u64",
  systemTime: "u64",
  tscToSystemMul: "u32",
  tscShift: "i8",
  flags: "u8",
  pad1: ["u8", 2],
});
/** vcpu_time_info.flags: readings are consistent between vCPUs. */
export const PVCLOCK_TSC_STABLE = 1;
/** Not in Xen's header: bit 1 as Linux knows it from any hypervisor (arch/x86/include/asm/pvclock-abi.h). */
export const PVCLOCK_GUEST_STOPPED = 2;

/**
 * struct vcpu_info { uint8_t evtchn_upcall_pending, evtchn_upcall_mask; unsigned long evtchn_pending_sel;
 *   struct { unsigned long cr2, pad; } arch; struct vcpu_time_info time; };   64 bytes
 */
export const vcpuInfo = defineStruct({
  upcallPending: "u8",
  upcallMask: "u8",
  pendingSelector: "ulong",
  cr2: "ulong",
  archPad: "ulong",
  time: ["u8", 32],
});
/** Bytes of a vcpu_info in either layout: for 32-bit guests arch.pad has five longs, so that `time` lies at 32 too. */
export const VCPU_INFO_SIZE = 64;

/**
 * struct shared_info { struct vcpu_info vcpu_info[32]; unsigned long evtchn_pending[64], evtchn_mask[64];
 *   uint32_t wc_version, wc_sec, wc_nsec, wc_sec_hi; struct arch_shared_info arch; };   64-bit guests
 */
export const sharedInfo = defineStruct({
  vcpuInfo: ["u8", 2048],
  evtchnPending: ["u64", 64],
  evtchnMask: ["u64", 64],
  wcVersion: "u32",
  wcSec: "u32",
  wcNsec: "u32",
  wcSecHi: "u32",
  maxPfn: "u64",
});
/**
 * The same of a 32-bit guest: 32 longs of 32 bits in each bitmap, and the seconds' upper half at the end of
 * struct arch_shared_info { unsigned long max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr,
 *   p2m_generation; uint32_t wc_sec_hi; };
 */
export const sharedInfoCompat = defineStruct({
  vcpuInfo: ["u8", 2048],
  evtchnPending: ["u32", 32],
  evtchnMask: ["u32", 32],
  wcVersion: "u32",
  wcSec: "u32",
  wcNsec: "u32",
  arch: ["u32", 6],
  wcSecHi: "u32",
});
export const LEGACY_MAX_VCPUS = 32;

/** struct multicall_entry { unsigned long op, result, args[6]; }; */
export const multicallEntry = defineStruct({ op: "ulong", result: "long", args: ["ulong", 6] });
