/** HYPERVISOR_hvm_op and the HVM parameters (xen/include/public/hvm/params.h). */
import { Errno } from "../abi/errors.ts";
import * as abi from "../abi/hvm.ts";
import type { HypercallHandler } from "./hypercall.ts";
import { checkSelf } from "./target-domain.ts";
import { nanoseconds } from "./time.ts";
import type { VcpuContext } from "./vcpu.ts";

/** Parameters a guest may set, and those it may read besides. */
const GUEST_WRITABLE: ReadonlySet<number> = new Set([
  abi.HvmParam.callback_irq,
  abi.HvmParam.vm86_tss,
  abi.HvmParam.vm86_tss_sized,
  abi.HvmParam.acpi_ioports_location,
  abi.HvmParam.vm_generation_id_addr,
  abi.HvmParam.x87_fip_width,
]);
const GUEST_READABLE: ReadonlySet<number> = new Set([
  ...GUEST_WRITABLE,
  abi.HvmParam.store_pfn,
  abi.HvmParam.store_evtchn,
  abi.HvmParam.console_pfn,
  abi.HvmParam.console_evtchn,
]);

export interface InitialParams {
  readonly storePfn: number;
  readonly storePort: number;
  readonly consolePfn: number;
  readonly consolePort: number;
}

export class HvmParams {
  private readonly values = new BigUint64Array(abi.HVM_NR_PARAMS);

  initialise(params: InitialParams): void {
    this.values[abi.HvmParam.store_pfn] = BigInt(params.storePfn);
    this.values[abi.HvmParam.store_evtchn] = BigInt(params.storePort);
    this.values[abi.HvmParam.console_pfn] = BigInt(params.consolePfn);
    this.values[abi.HvmParam.console_evtchn] = BigInt(params.consolePort);
    this.values[abi.HvmParam.pae_enabled] = 1n;
  }

  /** All parameters, by index. */
  save(): bigint[] {
    return [...this.values];
  }

  restore(values: readonly bigint[]): void {
    this.values.set(values.slice(0, this.values.length));
  }

  get(index: number): bigint | undefined {
    return this.values[index];
  }

  set(index: number, value: bigint): void {
    this.values[index] = value;
  }

  /** Vector of the callback interrupt, or 0 while the guest has not chosen one. */
  get callbackVector(): number {
    const value = this.values[abi.HvmParam.callback_irq] ?? 0n;
    return Number(value >> 56n) === abi.CALLBACK_TYPE_VECTOR ? Number(value & 0xffn) : 0;
  }
}

function setParam(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.hvmParam);
  if (args === undefined) return -Errno.EFAULT;
  if (args.index >= abi.HVM_NR_PARAMS) return -Errno.EINVAL;
  const refused = checkSelf(vcpu.domain, args.domid);
  if (refused !== 0) return refused;
  if (!GUEST_WRITABLE.has(args.index)) return -Errno.EPERM;
  vcpu.domain.params.set(args.index, args.value);
  if (args.index === abi.HvmParam.callback_irq) {
    vcpu.domain.latchLayout(vcpu.copy.narrow);
    for (const each of vcpu.domain.vcpus) each.updateInterruptLine();
  }
  return 0;
}

function getParam(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.hvmParam);
  if (args === undefined) return -Errno.EFAULT;
  if (args.index >= abi.HVM_NR_PARAMS) return -Errno.EINVAL;
  const refused = checkSelf(vcpu.domain, args.domid);
  if (refused !== 0) return refused;
  const value = GUEST_READABLE.has(args.index) ? vcpu.domain.params.get(args.index) : undefined;
  if (value === undefined) return -Errno.EPERM;
  return vcpu.copy.writeStruct(pointer, abi.hvmParam, { ...args, value }) ? 0 : -Errno.EFAULT;
}

function setUpcallVector(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.evtchnUpcallVector);
  if (args === undefined) return -Errno.EFAULT;
  if (args.vector < 0x10) return -Errno.EINVAL;
  const target = vcpu.domain.vcpus[args.vcpu];
  if (target === undefined) return -Errno.ENOENT;
  target.upcallVector = args.vector;
  target.updateInterruptLine();
  return 0;
}

function getTime(vcpu: VcpuContext, pointer: bigint): number {
  const now = nanoseconds(vcpu.domain.clock());
  return vcpu.copy.writeStruct(pointer, abi.hvmGetTime, { now }) ? 0 : -Errno.EFAULT;
}

/** A kernel that reads another's memory after a crash asks which frames are RAM. */
function getMemType(vcpu: VcpuContext, pointer: bigint): number {
  const args = vcpu.copy.readStruct(pointer, abi.hvmGetMemType);
  if (args === undefined) return -Errno.EFAULT;
  const refused = checkSelf(vcpu.domain, args.domid);
  if (refused !== 0) return refused;
  const frame = vcpu.domain.physmap.get(Number(args.pfn));
  const present = frame?.readOnly ? abi.HvmMemType.ram_ro : abi.HvmMemType.ram_rw;
  const memType = frame === undefined ? abi.HvmMemType.mmio_dm : present;
  return vcpu.copy.writeStruct(pointer, abi.hvmGetMemType, { ...args, memType }) ? 0 : -Errno.EFAULT;
}

export const hvmOp: HypercallHandler = (vcpu, [operation, pointer]) => {
  switch (Number(operation)) {
    case abi.HvmOp.set_param:
      return setParam(vcpu, pointer);
    case abi.HvmOp.get_param:
      return getParam(vcpu, pointer);
    case abi.HvmOp.set_evtchn_upcall_vector:
      return setUpcallVector(vcpu, pointer);
    case abi.HvmOp.get_time:
      return getTime(vcpu, pointer);
    case abi.HvmOp.get_mem_type:
      return getMemType(vcpu, pointer);
    case abi.HvmOp.flush_tlbs:
      if (pointer !== 0n) return -Errno.EINVAL;
      vcpu.cpu.flushTlb();
      return 0;
    default:
      return -Errno.ENOSYS; // pagetable_dying among them: no shadow page tables
  }
};
