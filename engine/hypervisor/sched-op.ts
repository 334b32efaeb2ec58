/** HYPERVISOR_sched_op (xen/include/public/sched.h). */

import { Errno } from "../abi/errors.ts";
import { NR_EVENT_CHANNELS_2L } from "../abi/event-channel.ts";
import * as abi from "../abi/sched-op.ts";
import type { HypercallHandler } from "./hypercall.ts";
import type { VcpuContext } from "./vcpu.ts";

function shutdown(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.schedShutdown);
  if (args === undefined) return -Errno.EFAULT;
  switch (args.reason) {
    case abi.ShutdownReason.poweroff:
      vcpu.domain.shutdown = { reason: "poweroff" };
      return 0;
    case abi.ShutdownReason.reboot:
      vcpu.domain.shutdown = { reason: "reboot" };
      return 0;
    case abi.ShutdownReason.crash:
      vcpu.domain.shutdown = { reason: "crash", cause: "the guest's kernel reported a crash" };
      return 0;
    case abi.ShutdownReason.watchdog:
      vcpu.domain.shutdown = { reason: "crash", cause: "the guest's watchdog fired" };
      return 0;
    default:
      return -Errno.EINVAL;
  }
}

function poll(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.schedPoll);
  if (args === undefined) return -Errno.EFAULT;
  if (args.nrPorts > abi.MAX_POLL_PORTS) return -Errno.EINVAL;
  const list = vcpu.copy.read(args.ports, args.nrPorts * 4);
  if (list === undefined) return -Errno.EFAULT;
  const ports = [...new Uint32Array(list.buffer)];
  if (ports.some((port) => port >= NR_EVENT_CHANNELS_2L)) return -Errno.EINVAL;
  if (ports.some((port) => vcpu.domain.delivery.isPending(port))) return 0;
  const deadline = args.timeout === 0n ? Number.POSITIVE_INFINITY : Number(args.timeout);
  vcpu.wait = { kind: "poll", ports, deadline };
  return 0;
}

export const schedOp: HypercallHandler = (vcpu, [operation, pointer]) => {
  switch (Number(operation)) {
    case abi.SchedOp.yield:
      return 0;
    case abi.SchedOp.block:
      vcpu.wait = { kind: "block" };
      return 0;
    case abi.SchedOp.shutdown:
      return shutdown(vcpu, pointer);
    case abi.SchedOp.poll:
      return poll(vcpu, pointer);
    default:
      return -Errno.ENOSYS;
  }
};
