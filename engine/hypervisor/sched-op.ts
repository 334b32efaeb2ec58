/** HYPERVISOR_sched_op (xen/include/public/sched.h). */

import { Errno } from "../abi/errors.ts";
import * as abi from "../abi/sched-op.ts";
import { low32 } from "./arguments.ts";
import type { Shutdown } from "./domain.ts";
import type { HypercallHandler } from "./hypercall.ts";
import { checkSelf } from "./target-domain.ts";
import type { VcpuContext } from "./vcpu.ts";
import { WATCHDOG_FIRED } from "./watchdog.ts";

/** What each reason means for the domain. */
const SHUTDOWNS = new Map<number, Shutdown>([
  [abi.ShutdownReason.poweroff, { reason: "poweroff" }],
  [abi.ShutdownReason.reboot, { reason: "reboot" }],
  [abi.ShutdownReason.crash, { reason: "crash", cause: "the guest's kernel reported a crash" }],
  [abi.ShutdownReason.watchdog, WATCHDOG_FIRED],
]);

/** What SCHEDOP_shutdown(suspend) returns to a guest that goes on in the same domain (sched.h). */
const SUSPEND_CANCELLED = 1;

/** What a reason given by the guest means. */
function meaning(reason: number): Shutdown {
  const cause = `the guest stopped itself for an unknown reason, ${reason}`;
  return SHUTDOWNS.get(reason) ?? { reason: "crash", cause };
}

function shutdown(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.schedShutdown);
  if (args === undefined) return -Errno.EFAULT;
  if (args.reason === abi.ShutdownReason.suspend) {
    // Snapshots need no suspend. A guest is asked for one to look at the clock again, and goes on in the same domain.
    vcpu.domain.suspended?.();
    return SUSPEND_CANCELLED;
  }
  vcpu.domain.shutdown = vcpu.domain.announcedShutdown ?? meaning(args.reason);
  return 0;
}

/** The guest says why it is about to stop, which then counts more than the way in which it stops. The first word stands. */
function shutdownCode(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.schedShutdown);
  if (args === undefined) return -Errno.EFAULT;
  vcpu.domain.announcedShutdown ??= meaning(args.reason);
  return 0;
}

/** Another domain's end is not a guest's to decide, and for its own there is another operation. */
function remoteShutdown(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.remoteShutdown);
  if (args === undefined) return -Errno.EFAULT;
  return checkSelf(vcpu.domain, args.domainId) || -Errno.EPERM;
}

function watchdog(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.schedWatchdog);
  if (args === undefined) return -Errno.EFAULT;
  return vcpu.domain.watchdogs.set(args.id, args.timeout, vcpu.domain.clock());
}

function poll(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.schedPoll);
  if (args === undefined) return -Errno.EFAULT;
  if (args.nrPorts > abi.MAX_POLL_PORTS) return -Errno.EINVAL;
  const list = vcpu.copy.read(args.ports, args.nrPorts * 4);
  if (list === undefined) return -Errno.EFAULT;
  const ports = [...new Uint32Array(list.buffer)];
  if (ports.some((port) => port >= vcpu.domain.delivery.channels)) return -Errno.EINVAL;
  if (ports.some((port) => vcpu.domain.delivery.isPending(port))) return 0;
  vcpu.wait = { kind: "poll", ports, ...(args.timeout !== 0n && { deadline: Number(args.timeout) }) };
  return 0;
}

export const schedOp: HypercallHandler = (vcpu, [operation, pointer]) => {
  switch (low32(operation)) {
    case abi.SchedOp.yield:
      return 0;
    case abi.SchedOp.block:
      vcpu.wait = { kind: "block" };
      return 0;
    case abi.SchedOp.shutdown:
      return shutdown(vcpu, pointer);
    case abi.SchedOp.poll:
      return poll(vcpu, pointer);
    case abi.SchedOp.remote_shutdown:
      return remoteShutdown(vcpu, pointer);
    case abi.SchedOp.shutdown_code:
      return shutdownCode(vcpu, pointer);
    case abi.SchedOp.watchdog:
      return watchdog(vcpu, pointer);
    case abi.SchedOp.pin_override:
      return -Errno.EPERM; // for the hardware domain
    default:
      return -Errno.ENOSYS;
  }
};
