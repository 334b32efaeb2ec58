/** HYPERVISOR_vcpu_op (xen/include/public/vcpu.h). */
import { Errno } from "../abi/errors.ts";
import * as abi from "../abi/vcpu-op.ts";
import { PAGE_SIZE, VCPU_INFO_SIZE } from "../abi/xen.ts";
import { low32 } from "./arguments.ts";
import type { HypercallHandler } from "./hypercall.ts";
import type { VcpuContext } from "./vcpu.ts";

type SubOperation = (caller: VcpuContext, target: VcpuContext, pointer: bigint) => number;

function registerVcpuInfo(caller: VcpuContext, target: VcpuContext, pointer: bigint): number {
  const args = caller.copy.readStruct(pointer, abi.registerVcpuInfo);
  if (args === undefined) return -Errno.EFAULT;
  if (target.infoRegistered || args.offset % 8 !== 0 || args.offset > PAGE_SIZE - VCPU_INFO_SIZE) return -Errno.EINVAL;
  const { domain } = target;
  const frame = domain.physmap.get(Number(args.mfn));
  if (frame === undefined || !domain.ram.isRam(frame.offset)) return -Errno.EINVAL;
  const { mapping, delivery } = domain;
  const old = mapping.base + delivery.vcpuInfo(target.id);
  const info = frame.offset + args.offset;
  mapping.bytes.copyWithin(mapping.base + info, old, old + VCPU_INFO_SIZE);
  delivery.setVcpuInfo(target.id, info);
  target.infoRegistered = true;
  target.updateInterruptLine();
  target.updateTime();
  delivery.markEverything(target.id);
  return 0;
}

function registerTimeArea(caller: VcpuContext, target: VcpuContext, pointer: bigint): number {
  const args = caller.copy.readStruct(pointer, abi.registerMemoryArea);
  if (args === undefined) return -Errno.EFAULT;
  const before = target.timeArea;
  target.timeArea = args.address;
  if (target.writeTimeArea()) return 0;
  target.timeArea = before;
  return -Errno.EFAULT;
}

function registerRunstateArea(caller: VcpuContext, target: VcpuContext, pointer: bigint): number {
  const args = caller.copy.readStruct(pointer, abi.registerMemoryArea);
  if (args === undefined) return -Errno.EFAULT;
  const before = target.runstateArea;
  target.runstateArea = { address: args.address, narrow: caller.copy.narrow };
  if (target.writeRunstateArea()) return 0;
  target.runstateArea = before;
  return -Errno.EFAULT;
}

function getRunstate(caller: VcpuContext, target: VcpuContext, pointer: bigint): number {
  const info = target.runstate.encode(target.domain.clock(), caller.copy.narrow);
  return caller.copy.write(pointer, info) ? 0 : -Errno.EFAULT;
}

function setSingleshot(caller: VcpuContext, target: VcpuContext, pointer: bigint): number {
  if (caller !== target) return -Errno.EINVAL;
  const args = caller.copy.readStruct(pointer, abi.setSingleshotTimer);
  if (args === undefined) return -Errno.EFAULT;
  const deadline = Number(args.timeoutAbsNs);
  if ((args.flags & abi.SINGLESHOT_FUTURE) !== 0 && deadline < target.domain.clock()) return -Errno.ETIME;
  target.timers.setSingleshot(deadline);
  return 0;
}

function setPeriodic(caller: VcpuContext, target: VcpuContext, pointer: bigint): number {
  const args = caller.copy.readStruct(pointer, abi.setPeriodicTimer);
  if (args === undefined) return -Errno.EFAULT;
  const period = Number(args.periodNs);
  if (period < abi.MINIMUM_PERIOD_NS || !Number.isSafeInteger(period)) return -Errno.EINVAL;
  target.timers.setPeriodic(period, target.domain.clock());
  return 0;
}

function stopPeriodic(_caller: VcpuContext, target: VcpuContext): number {
  target.timers.stopPeriodic();
  return 0;
}

function stopSingleshot(_caller: VcpuContext, target: VcpuContext): number {
  target.timers.stopSingleshot();
  return 0;
}

/** The last vCPU that goes down takes the domain with it. */
function down(_caller: VcpuContext, target: VcpuContext): number {
  target.domain.shutdown = target.domain.announcedShutdown ?? { reason: "poweroff" };
  return 0;
}

const SUB_OPERATIONS = new Map<number, SubOperation>([
  [abi.VcpuOp.initialise, () => -Errno.EEXIST], // every vCPU of a domain is initialised and up from the start
  [abi.VcpuOp.is_up, () => 1],
  [abi.VcpuOp.up, () => 0],
  [abi.VcpuOp.down, down],
  [abi.VcpuOp.get_physid, () => -Errno.EINVAL], // for the hardware domain
  [abi.VcpuOp.get_runstate_info, getRunstate],
  [abi.VcpuOp.register_runstate_memory_area, registerRunstateArea],
  [abi.VcpuOp.set_periodic_timer, setPeriodic],
  [abi.VcpuOp.stop_periodic_timer, stopPeriodic],
  [abi.VcpuOp.set_singleshot_timer, setSingleshot],
  [abi.VcpuOp.stop_singleshot_timer, stopSingleshot],
  [abi.VcpuOp.register_vcpu_info, registerVcpuInfo],
  [abi.VcpuOp.register_vcpu_time_memory_area, registerTimeArea],
]);

export const vcpuOp: HypercallHandler = (vcpu, [operation, id, pointer]) => {
  const target = vcpu.domain.vcpus[low32(id)];
  if (target === undefined) return -Errno.ENOENT;
  return SUB_OPERATIONS.get(low32(operation))?.(vcpu, target, pointer) ?? -Errno.ENOSYS;
};

/**
 * HYPERVISOR_set_timer_op: the singleshot timer by another name; 0 stops it. A 32-bit caller passes the lower and the
 * upper half of the time.
 */
export const setTimerOp: HypercallHandler = (vcpu, [first, upper]) => {
  const timeout = vcpu.copy.narrow ? (upper << 32n) | first : first;
  if (timeout === 0n) vcpu.timers.stopSingleshot();
  else vcpu.timers.setSingleshot(Number(timeout));
  return 0;
};
