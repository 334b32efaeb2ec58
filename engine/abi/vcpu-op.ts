import { defineStruct } from "./struct.ts";

/** Sub-operations of vcpu_op (xen/include/public/vcpu.h). */
export const VcpuOp = {
  initialise: 0,
  up: 1,
  down: 2,
  is_up: 3,
  get_runstate_info: 4,
  register_runstate_memory_area: 5,
  set_periodic_timer: 6,
  stop_periodic_timer: 7,
  set_singleshot_timer: 8,
  stop_singleshot_timer: 9,
  register_vcpu_info: 10,
  send_nmi: 11,
  get_physid: 12,
  register_vcpu_time_memory_area: 13,
} as const;

/** Run states of a vCPU (RUNSTATE_*). */
export const Runstate = { running: 0, runnable: 1, blocked: 2, offline: 3 } as const;
export type RunstateName = keyof typeof Runstate;

/** struct vcpu_runstate_info { int state; uint64_t state_entry_time, time[4]; }; */
export const runstateInfo = defineStruct({ state: "i32", stateEntryTime: "u64", time: ["u64", 4] });
/** struct vcpu_set_periodic_timer { uint64_t period_ns; }; */
export const setPeriodicTimer = defineStruct({ periodNs: "u64" });
/** struct vcpu_set_singleshot_timer { uint64_t timeout_abs_ns; uint32_t flags; }; */
export const setSingleshotTimer = defineStruct({ timeoutAbsNs: "u64", flags: "u32" });
/** Flag: answer -ETIME instead of firing when the timeout lies in the past. */
export const SINGLESHOT_FUTURE = 1;
/** struct vcpu_register_vcpu_info { uint64_t mfn; uint32_t offset, rsvd; }; */
export const registerVcpuInfo = defineStruct({ mfn: "u64", offset: "u32", reserved: "u32" });
/** struct vcpu_register_runstate_memory_area and vcpu_register_time_memory_area: one guest address. */
export const registerMemoryArea = defineStruct({ address: "ulong" });
/** Shortest period that set_periodic_timer accepts, ns. */
export const MINIMUM_PERIOD_NS = 1_000_000;
