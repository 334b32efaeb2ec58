/**
 * Dispatch of hypercalls: number → handler (xen/include/public/xen.h).
 *
 * 64-bit convention: RAX number; RDI RSI RDX R10 R8 arguments; RAX result. In 32-bit code: EAX; EBX ECX EDX ESI EDI;
 * EAX, and structures behind pointers have their 32-bit layout.
 */
import { Errno } from "../abi/errors.ts";
import { Hypercall, hypercallName } from "../abi/hypercalls.ts";
import { multicallEntry } from "../abi/xen.ts";
import { low32 } from "./arguments.ts";
import { consoleIo } from "./console-io.ts";
import { eventChannelOp } from "./event-channel-op.ts";
import { grantTableOp } from "./grant-table.ts";
import { R8, R10, RAX, RBX, RCX, RDI, RDX, RSI } from "./guest-cpu.ts";
import { hvmOp } from "./hvm-op.ts";
import { memoryOp } from "./memory-op.ts";
import { schedOp } from "./sched-op.ts";
import type { VcpuContext } from "./vcpu.ts";
import { setTimerOp, vcpuOp } from "./vcpu-op.ts";
import { xenVersion } from "./version.ts";

export type HypercallArguments = readonly [bigint, bigint, bigint, bigint, bigint];

/** Answers the result, or a negated Errno. Arguments are as the guest gave them: unchecked. */
export type HypercallHandler = (vcpu: VcpuContext, args: HypercallArguments) => number;

const LONG_ARGUMENTS = [RDI, RSI, RDX, R10, R8] as const;
const SHORT_ARGUMENTS = [RBX, RCX, RDX, RSI, RDI] as const;
/** Calls of one multicall at most; Xen would preempt and continue a longer one. */
const MAX_MULTICALL = 1024;

/** HYPERVISOR_multicall: a list of calls, each with its own result. No nesting. */
const multicall: HypercallHandler = (vcpu, [list, count]) => {
  if (low32(count) > MAX_MULTICALL) return -Errno.EINVAL;
  const { size } = vcpu.copy.layout(multicallEntry);
  for (let i = 0; i < low32(count); i++) {
    const pointer = list + BigInt(i * size);
    const entry = vcpu.copy.readStruct(pointer, multicallEntry);
    if (entry === undefined) return -Errno.EFAULT;
    const [a = 0n, b = 0n, c = 0n, d = 0n, e = 0n] = entry.args;
    const nested = entry.op === BigInt(Hypercall.multicall);
    const result = BigInt(nested ? -Errno.EINVAL : callNumber(vcpu, entry.op, [a, b, c, d, e]));
    if (!vcpu.copy.writeStruct(pointer, multicallEntry, { ...entry, result })) return -Errno.EFAULT;
  }
  return 0;
};

/** vm_assist and physdev_op answer ENOSYS by absence, without a log line: every Linux tries them. */
const QUIET: ReadonlySet<number> = new Set([Hypercall.vm_assist, Hypercall.physdev_op]);

const HANDLERS = new Map<number, HypercallHandler>([
  [Hypercall.memory_op, memoryOp],
  [Hypercall.multicall, multicall],
  [Hypercall.set_timer_op, setTimerOp],
  [Hypercall.xen_version, xenVersion],
  [Hypercall.console_io, consoleIo],
  [Hypercall.grant_table_op, grantTableOp],
  [Hypercall.vcpu_op, vcpuOp],
  [Hypercall.sched_op, schedOp],
  [Hypercall.event_channel_op, eventChannelOp],
  [Hypercall.hvm_op, hvmOp],
]);

function describe(args: HypercallArguments): string {
  return args.map((arg) => `0x${arg.toString(16)}`).join(", ");
}

function callNumber(vcpu: VcpuContext, number: bigint, args: HypercallArguments): number {
  const known = Number(number);
  const handler = HANDLERS.get(known);
  const result = handler?.(vcpu, args) ?? -Errno.ENOSYS;
  if (result === -Errno.ENOSYS && !QUIET.has(known)) {
    const key = handler === undefined ? `${known}` : `${known}:${args[0]}`;
    vcpu.domain.logOnce(key, `${hypercallName(known)}(${describe(args)}) is not implemented`);
  }
  return result;
}

/** Performs the hypercall that the registers of `vcpu` ask for and stores its result. */
export function hypercall(vcpu: VcpuContext): void {
  const { cpu } = vcpu;
  const width = cpu.longMode ? 64 : 32;
  const register = (number: number): bigint => BigInt.asUintN(width, cpu.getRegister(number));
  let result: number = -Errno.EPERM;
  if (cpu.cpl === 0) {
    const [a, b, c, d, e] = cpu.longMode ? LONG_ARGUMENTS : SHORT_ARGUMENTS;
    result = callNumber(vcpu, register(RAX), [register(a), register(b), register(c), register(d), register(e)]);
  }
  cpu.setRegister(RAX, BigInt.asUintN(width, BigInt(result)));
}
