import { defineStruct } from "./struct.ts";

/** Sub-operations of sched_op (xen/include/public/sched.h). */
export const SchedOp = {
  yield: 0,
  block: 1,
  shutdown: 2,
  poll: 3,
  remote_shutdown: 4,
  shutdown_code: 5,
  watchdog: 6,
  pin_override: 7,
} as const;

/** Shutdown reasons (SHUTDOWN_*). */
export const ShutdownReason = { poweroff: 0, reboot: 1, suspend: 2, crash: 3, watchdog: 4, soft_reset: 5 } as const;

/** struct sched_shutdown { unsigned int reason; }; */
export const schedShutdown = defineStruct({ reason: "u32" });
/** struct sched_remote_shutdown { domid_t domain_id; unsigned int reason; }; */
export const remoteShutdown = defineStruct({ domainId: "u16", reason: "u32" });
/** struct sched_watchdog { uint32_t id, timeout; }; timeout in seconds, 0 stops it */
export const schedWatchdog = defineStruct({ id: "u32", timeout: "u32" });
/** struct sched_poll { evtchn_port_t *ports; unsigned int nr_ports; uint64_t timeout; }; timeout: system time, 0 = none */
export const schedPoll = defineStruct({ ports: "ulong", nrPorts: "u32", timeout: "u64" });
/** Ports one poll may name. */
export const MAX_POLL_PORTS = 128;
