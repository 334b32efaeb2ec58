/** HYPERVISOR_event_channel_op: copies the arguments in and out around event-channel.ts. */

import { Errno } from "../abi/errors.ts";
import * as abi from "../abi/event-channel.ts";
import { domId } from "../memory/types.ts";
import { low32 } from "./arguments.ts";
import type { HypercallHandler } from "./hypercall.ts";
import { checkSelf, isSelf } from "./target-domain.ts";
import type { VcpuContext } from "./vcpu.ts";

type SubOperation = (vcpu: VcpuContext, pointer: bigint) => number;

/** Writes an allocated port back; takes it away again when the pointer has gone bad meanwhile. */
function answerPort(vcpu: VcpuContext, port: number, write: (port: number) => boolean): number {
  if (port < 0) return port;
  if (write(port)) return 0;
  vcpu.domain.events.close(port);
  return -Errno.EFAULT;
}

function bindInterdomain(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.bindInterdomain);
  if (args === undefined) return -Errno.EFAULT;
  const remote = isSelf(vcpu.domain, args.remoteDom) ? vcpu.domain.id : args.remoteDom;
  return answerPort(vcpu, vcpu.domain.events.bindInterdomain(domId(remote), args.remotePort), (localPort) =>
    vcpu.copy.writeStruct(pointer, abi.bindInterdomain, { ...args, localPort }),
  );
}

function bindVirq(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.bindVirq);
  if (args === undefined) return -Errno.EFAULT;
  return answerPort(vcpu, vcpu.domain.events.bindVirq(args.virq, args.vcpu), (port) =>
    vcpu.copy.writeStruct(pointer, abi.bindVirq, { ...args, port }),
  );
}

function bindPirq(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.bindPirq);
  if (args === undefined) return -Errno.EFAULT;
  return answerPort(vcpu, vcpu.domain.events.bindPirq(args.pirq), (port) =>
    vcpu.copy.writeStruct(pointer, abi.bindPirq, { ...args, port }),
  );
}

function bindIpi(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.bindIpi);
  if (args === undefined) return -Errno.EFAULT;
  return answerPort(vcpu, vcpu.domain.events.bindIpi(args.vcpu), (port) =>
    vcpu.copy.writeStruct(pointer, abi.bindIpi, { ...args, port }),
  );
}

function allocUnbound(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.allocUnbound);
  if (args === undefined) return -Errno.EFAULT;
  const refused = checkSelf(vcpu.domain, args.dom);
  if (refused !== 0) return refused;
  const remote = isSelf(vcpu.domain, args.remoteDom) ? vcpu.domain.id : args.remoteDom;
  return answerPort(vcpu, vcpu.domain.events.allocUnbound(domId(remote)), (port) =>
    vcpu.copy.writeStruct(pointer, abi.allocUnbound, { ...args, port }),
  );
}

function withPort(action: (vcpu: VcpuContext, port: number) => number): SubOperation {
  return (vcpu, pointer) => {
    const args = vcpu.copy.readStruct(pointer, abi.portOnly);
    return args === undefined ? -Errno.EFAULT : action(vcpu, args.port);
  };
}

function status(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.channelStatus);
  if (args === undefined) return -Errno.EFAULT;
  const refused = checkSelf(vcpu.domain, args.dom);
  if (refused !== 0) return refused;
  const answer = vcpu.domain.events.status(args.port);
  if (answer === undefined) return -Errno.EINVAL;
  const written = vcpu.copy.writeStruct(pointer, abi.channelStatus, { dom: args.dom, port: args.port, ...answer });
  return written ? 0 : -Errno.EFAULT;
}

function bindVcpu(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.bindVcpu);
  return args === undefined ? -Errno.EFAULT : vcpu.domain.events.bindVcpu(args.port, args.vcpu);
}

function reset(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.resetChannels);
  if (args === undefined) return -Errno.EFAULT;
  return checkSelf(vcpu.domain, args.dom) || vcpu.domain.events.reset();
}

/** ENOSYS for init_control makes Linux fall back from the FIFO to the 2-level interface. */
const SUB_OPERATIONS = new Map<number, SubOperation>([
  [abi.EventChannelOp.bind_interdomain, bindInterdomain],
  [abi.EventChannelOp.bind_virq, bindVirq],
  [abi.EventChannelOp.bind_pirq, bindPirq],
  [abi.EventChannelOp.close, withPort((vcpu, port) => vcpu.domain.events.close(port))],
  [abi.EventChannelOp.send, withPort((vcpu, port) => vcpu.domain.events.send(port))],
  [abi.EventChannelOp.status, status],
  [abi.EventChannelOp.alloc_unbound, allocUnbound],
  [abi.EventChannelOp.bind_ipi, bindIpi],
  [abi.EventChannelOp.bind_vcpu, bindVcpu],
  [abi.EventChannelOp.unmask, withPort((vcpu, port) => vcpu.domain.events.unmask(port))],
  [abi.EventChannelOp.reset, reset],
]);

export const eventChannelOp: HypercallHandler = (vcpu, [operation, pointer]) =>
  SUB_OPERATIONS.get(low32(operation))?.(vcpu, pointer) ?? -Errno.ENOSYS;
