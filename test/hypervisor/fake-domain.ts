import { Domain } from "../../engine/hypervisor/domain.ts";
import type { GuestCpu } from "../../engine/hypervisor/guest-cpu.ts";
import { hypercall } from "../../engine/hypervisor/hypercall.ts";
import type { VcpuContext } from "../../engine/hypervisor/vcpu.ts";
import { type CpuMemory, createCpuMemory } from "../../engine/memory/cpu-memory.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import { createGuestMemory } from "../../engine/memory/guest-memory.ts";
import { domId } from "../../engine/memory/types.ts";

const PRIVATE = 8 << 20;
/** RAM of the fake domain: 256 frames. The table of frames reaches further, for frames above RAM. */
export const RAM_BYTES = 1 << 20;

/** A CPU that runs nothing: linear addresses are guest-physical ones, as the physmap has them. */
export class FakeCpu implements GuestCpu {
  readonly registers = new BigUint64Array(16);
  readonly raised: number[] = [];
  readonly injected: number[] = [];
  cpl = 0;
  interruptsEnabled = true;
  longMode = true;
  tscOffset = 0n;
  line = { address: 0, vector: 0 };
  flushes = 0;
  /** Pages whose code was dropped. */
  readonly dropped: number[] = [];
  readonly memory: WebAssembly.Memory;
  private readonly cpuMemory: CpuMemory;

  constructor(memory: CpuMemory) {
    this.cpuMemory = memory;
    this.memory = memory.mapping.memory;
  }

  getRegister(number: number): bigint {
    return this.registers[number] ?? 0n;
  }

  setRegister(number: number, value: bigint): void {
    this.registers[number] = value;
  }

  translate(linear: bigint, write: boolean): number {
    const entry = linear < 1n << 40n ? this.cpuMemory.physmap.get(Number(linear >> 12n)) : undefined;
    if (entry === undefined || (write && entry.readOnly)) return 0;
    return this.cpuMemory.mapping.base + entry.offset + Number(linear & 0xfffn);
  }

  setInterruptLine(address: number, vector: number): void {
    this.line = { address, vector };
  }

  inject(vector: number): void {
    this.injected.push(vector);
  }

  raise(vector: number): void {
    this.raised.push(vector);
  }

  flushTlb(): void {
    this.flushes++;
  }

  flushCode(): void {
    this.flushes++;
  }

  dropCode(address: number): void {
    this.dropped.push(address);
  }
}

export interface FakeDomain {
  readonly domain: Domain;
  readonly vcpu: VcpuContext;
  readonly cpu: FakeCpu;
  readonly log: string[];
  readonly hostEvents: number[];
  /** Domain time in ns, as the tests set it. */
  readonly time: { now: number };
  readonly console: string[];
  /** Makes a hypercall and answers its signed result. */
  call(number: number, ...args: readonly (number | bigint)[]): number;
  /** Guest-physical memory. */
  readonly ram: DataView;
}

/** A domain of 1 MiB whose CPU runs nothing. */
export function fakeDomain(): FakeDomain {
  const guest = createGuestMemory(planFrames(RAM_BYTES), PRIVATE, "threads");
  const memory = createCpuMemory(guest, { frames: PRIVATE, physmap: 0x10000 });
  const cpu = new FakeCpu(memory);
  const log: string[] = [];
  const hostEvents: number[] = [];
  const console: string[] = [];
  const time = { now: 1000 };
  const domain = new Domain({
    id: domId(7),
    memory,
    clock: () => time.now,
    wallclockNs: 1_700_000_000_123_456_789n,
    log: (line) => log.push(line),
    emergencyConsole: (bytes) => console.push(Buffer.from(bytes).toString("latin1")),
    notifyHost: (port) => hostEvents.push(port),
  });
  const vcpu = domain.addVcpu(cpu);
  const { mapping } = memory;
  const registers = [7, 6, 2, 10, 8];
  return {
    domain,
    vcpu,
    cpu,
    log,
    hostEvents,
    time,
    console,
    ram: new DataView(mapping.memory.buffer, mapping.base, RAM_BYTES),
    call(number, ...args) {
      cpu.setRegister(0, BigInt(number));
      for (const [i, arg] of args.entries()) cpu.setRegister(registers[i] ?? 9, BigInt(arg));
      hypercall(vcpu);
      return Number(BigInt.asIntN(64, cpu.getRegister(0)));
    },
  };
}
