import { describe, expect, it } from "vitest";
import { FRAMES, PHYSMAP, PHYSMAP_DEVICE } from "../../engine/cpu/assembly/layout.ts";
import { flatProtectedState } from "../../engine/cpu/state.ts";
import { createVcpu, loadCore } from "../../engine/cpu/vcpu.ts";

const DEVICE_FRAME = 0xfee00;
const CODE = 0x1000;

/** A CPU in flat 32-bit mode with two frames of RAM and a device page that logs its accesses. */
function machine(code: readonly number[]) {
  const pages = FRAMES / 65536 + 1;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const physmap = new Uint32Array(memory.buffer, PHYSMAP);
  physmap[0] = FRAMES;
  physmap[1] = FRAMES + 0x1000;
  physmap[DEVICE_FRAME] = PHYSMAP_DEVICE;
  const log: string[] = [];
  const device = {
    read: (offset: number, size: number): number => {
      log.push(`read ${offset.toString(16)} ${size}`);
      return 0xfedcba98;
    },
    write: (offset: number, size: number, value: number): void => {
      log.push(`write ${offset.toString(16)} ${size} ${value.toString(16)}`);
    },
  };
  const cpu = createVcpu({ memory, core: loadCore(), nanoseconds: () => 0, device });
  new Uint8Array(memory.buffer, FRAMES + CODE).set(code);
  cpu.state = flatProtectedState(CODE);
  return { cpu, log };
}

const steps = (cpu: { run(budget: number): unknown }, count: number): void => {
  for (let i = 0; i < count; i++) cpu.run(1);
};

describe("device page", () => {
  it("answers reads and takes writes, each access once, also after the page was seen before", () => {
    // mov eax,[fee00030]; mov [fee000b0],eax; mov eax,[fee00030]
    const { cpu, log } = machine([0xa1, 0x30, 0, 0xe0, 0xfe, 0xa3, 0xb0, 0, 0xe0, 0xfe, 0xa1, 0x30, 0, 0xe0, 0xfe]);
    steps(cpu, 3);
    expect(log).toEqual(["read 30 4", "write b0 4 fedcba98", "read 30 4"]);
    expect(cpu.getRegister(0)).toBe(0xfedcba98n);
  });

  it("serves string instructions element by element", () => {
    // mov esi,fee00000; mov edi,100; mov ecx,2; rep movsd
    const { cpu, log } = machine([0xbe, 0, 0, 0xe0, 0xfe, 0xbf, 0, 1, 0, 0, 0xb9, 2, 0, 0, 0, 0xf3, 0xa5]);
    steps(cpu, 4);
    expect(log).toEqual(["read 0 4", "read 4 4"]);
    expect(new Uint32Array(cpu.memory.buffer, FRAMES + 0x100, 2)).toEqual(new Uint32Array([0xfedcba98, 0xfedcba98]));
  });

  it("is no memory for the hypervisor and for instruction fetches", () => {
    // jmp fee00000
    const { cpu, log } = machine([0xb8, 0, 0, 0xe0, 0xfe, 0xff, 0xe0]);
    expect(cpu.translate(0xfee00000n, false)).toBe(0);
    cpu.run(10);
    expect(log).toEqual([]);
  });

  it("reads as ones where nothing is", () => {
    // mov eax,[fee01000]
    const { cpu } = machine([0xa1, 0, 0x10, 0xe0, 0xfe]);
    steps(cpu, 1);
    expect(cpu.getRegister(0)).toBe(0xffffffffn);
  });
});
