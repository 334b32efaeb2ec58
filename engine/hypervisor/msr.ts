/** The MSRs that the hypervisor answers; the CPU core keeps the architectural ones. Everything else gets #GP. */
import { MSR_HYPERCALL_PAGE } from "../abi/cpuid.ts";
import { Hypercall } from "../abi/hypercalls.ts";
import { PAGE_SHIFT, PAGE_SIZE } from "../abi/xen.ts";
import { markWritten } from "../memory/dirty-log.ts";
import { LocalApic } from "./local-apic.ts";
import type { VcpuContext } from "./vcpu.ts";

const STUB_SIZE = 32;

/** The page of stubs that older guests call through: `mov eax, n; vmmcall; ret` every 32 bytes. */
export function hypercallPage(): Uint8Array {
  const page = new Uint8Array(PAGE_SIZE).fill(0x90);
  for (let number = 0; number < PAGE_SIZE / STUB_SIZE; number++) {
    const stub =
      number === Hypercall.iret
        ? [0x0f, 0x0b] // ud2: a hardware-virtualised guest has the instruction itself
        : [0xb8, number, 0, 0, 0, 0x0f, 0x01, 0xd9, 0xc3];
    page.set(stub, number * STUB_SIZE);
  }
  return page;
}

/** Value of an MSR, or undefined: #GP. */
export function readMsr(vcpu: VcpuContext, index: number): bigint | undefined {
  if (LocalApic.covers(index)) return vcpu.apic.read(index);
  vcpu.domain.logOnce(`rdmsr${index}`, `read of MSR 0x${index.toString(16)} gets #GP`);
  return undefined;
}

/** False: #GP. A write to the hypercall page MSR names a guest-physical page, its low bits the page's index (only 0). */
export function writeMsr(vcpu: VcpuContext, index: number, value: bigint): boolean {
  if (LocalApic.covers(index)) return vcpu.apic.write(index, value);
  const { domain } = vcpu;
  if (index !== MSR_HYPERCALL_PAGE) {
    domain.logOnce(`wrmsr${index}`, `write of 0x${value.toString(16)} to MSR 0x${index.toString(16)} gets #GP`);
    return false;
  }
  const frame = domain.physmap.get(Number(value >> BigInt(PAGE_SHIFT)));
  if (frame === undefined || frame.readOnly || (value & BigInt(PAGE_SIZE - 1)) !== 0n) return false;
  domain.mapping.bytes.set(hypercallPage(), domain.mapping.base + frame.offset);
  markWritten(domain.mapping, frame.offset, PAGE_SIZE);
  vcpu.cpu.flushCode();
  domain.latchLayout(vcpu.copy.narrow);
  return true;
}

/** Port reads see an empty bus: all ones in `size` bytes. Writes go nowhere. */
export function readPort(size: number): number {
  return size >= 4 ? 0xffffffff : 2 ** (8 * size) - 1;
}
