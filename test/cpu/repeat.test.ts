import { describe, expect, it } from "vitest";
import { EXIT_BUDGET, FRAMES, PHYSMAP } from "../../engine/cpu/assembly/layout.ts";
import { flatProtectedState } from "../../engine/cpu/state.ts";
import { createVcpu, loadCore } from "../../engine/cpu/vcpu.ts";

const CODE = 0x1000;
const RCX = 1;
const RDI = 7;

/** A CPU in flat 32-bit mode with 64 KiB of RAM, at `code`. */
function machine(code: readonly number[]) {
  const pages = FRAMES / 65536 + 1;
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const physmap = new Uint32Array(memory.buffer, PHYSMAP);
  for (let frame = 0; frame < 16; frame++) physmap[frame] = FRAMES + frame * 0x1000;
  const cpu = createVcpu({ memory, core: loadCore(), nanoseconds: () => 0 });
  new Uint8Array(memory.buffer, FRAMES + CODE).set(code);
  cpu.state = flatProtectedState(CODE);
  return cpu;
}

describe("a repeated string instruction", () => {
  it("ends its run in the middle when the count is huge, and is resumed there", () => {
    // rep stosb into frames where nothing is: every step goes the slow way
    const cpu = machine([0xf3, 0xaa]);
    cpu.setRegister(RCX, 0xffffffffn);
    cpu.setRegister(RDI, 0x80000000n);
    expect(cpu.run(50_000).reason).toBe(EXIT_BUDGET);
    const left = cpu.getRegister(RCX);
    expect(left).toBeLessThan(0xffffffffn);
    expect(left).toBeGreaterThan(0xff000000n);
    expect(cpu.getRegister(RDI)).toBe(0x80000000n + 0xffffffffn - left);
    expect(cpu.state.rip).toBe(BigInt(CODE));
    expect(cpu.instructions).toBe(0);
    cpu.run(50_000);
    expect(cpu.getRegister(RCX)).toBeLessThan(left);
  });

  it("counts as one instruction when it is done, however often it was resumed", () => {
    // rep lodsb; inc eax
    const cpu = machine([0xf3, 0xac, 0x40]);
    cpu.setRegister(RCX, 200_000n);
    while (cpu.getRegister(RCX) !== 0n || cpu.state.rip === BigInt(CODE)) cpu.run(1);
    expect(cpu.instructions).toBe(1);
    expect(cpu.state.rip).toBe(BigInt(CODE + 2));
  });
});
