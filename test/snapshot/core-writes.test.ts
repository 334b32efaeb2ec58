/** What the CPU core marks as written. */
import { expect, it } from "vitest";
import { CODE_FLAG, DIRTY_FLAG, FRAMES, PHYSMAP } from "../../engine/cpu/assembly/layout.ts";
import { createVcpu, loadCore, type Vcpu } from "../../engine/cpu/vcpu.ts";
import { createCpuMemory } from "../../engine/memory/cpu-memory.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import { createGuestMemory, defaultMemoryKind } from "../../engine/memory/guest-memory.ts";
import { MemoryCapture } from "../../engine/snapshot/capture.ts";
import { CODE, DATA, describeModes, HLT, LOAD, Machine, mov, P, RW, STORE } from "../cpu/privileged/machine.ts";

const PAGE = 0x1000;
const RAM = 0x400000;
const RSI = 6;
const RDI = 7;

const isDirty = ({ ram }: Machine, at: number): boolean =>
  new Uint8Array(ram.buffer)[DIRTY_FLAG + (FRAMES + at) / PAGE] !== 0;

function clear({ ram, cpu }: Machine): void {
  new Uint8Array(ram.buffer).fill(0, DIRTY_FLAG, DIRTY_FLAG + 0x100000);
  cpu.flushTlb();
}

describeModes("the dirty byte of a page", () => {
  it("is set by a write to the page, and not by reading it or running it", () => {
    const machine = new Machine();
    machine.kernel([...mov(RSI, DATA), ...LOAD, ...mov(RDI, DATA + PAGE), ...STORE, HLT]);
    clear(machine);
    machine.run();
    expect([CODE, DATA, DATA + PAGE].map((at) => isDirty(machine, at & -PAGE))).toEqual([false, false, true]);
  });

  it("is set by a write to a page that was read before", () => {
    const machine = new Machine();
    machine.kernel([...mov(RSI, DATA), ...LOAD, ...mov(RDI, DATA), ...STORE, HLT]);
    clear(machine);
    machine.steps(2);
    expect(isDirty(machine, DATA)).toBe(false);
    machine.run();
    expect(isDirty(machine, DATA)).toBe(true);
  });

  it("is set of both pages by a write across their border", () => {
    const machine = new Machine();
    machine.kernel([...mov(RDI, DATA + PAGE - 3), ...STORE, HLT]);
    clear(machine);
    machine.run();
    expect([DATA - PAGE, DATA, DATA + PAGE, DATA + 2 * PAGE].map((at) => isDirty(machine, at))).toEqual([
      false,
      true,
      true,
      false,
    ]);
  });

  it("is set anew after it was cleared and the TLB flushed", () => {
    const machine = new Machine();
    machine.kernel([...mov(RDI, DATA), ...STORE, ...STORE, ...STORE, HLT]);
    machine.steps(2);
    clear(machine);
    expect(isDirty(machine, DATA)).toBe(false);
    machine.steps(1);
    expect(isDirty(machine, DATA)).toBe(true);
  });

  it("is set of page tables in which accessed and dirty bits are set", () => {
    const machine = new Machine();
    const linear = 0x40000000n;
    const leaf = machine.map(linear, BigInt(DATA), P | RW);
    machine.kernel([...mov(RSI, linear), ...LOAD, HLT]);
    clear(machine);
    machine.run();
    expect(isDirty(machine, leaf & -PAGE)).toBe(true);
    clear(machine);
    machine.kernel([...mov(RDI, linear), ...STORE, HLT]);
    clear(machine);
    machine.run();
    expect(isDirty(machine, leaf & -PAGE)).toBe(true);
    // Both bits are set now: nothing is written there again.
    clear(machine);
    machine.kernel([...mov(RDI, linear), ...STORE, HLT]);
    clear(machine);
    machine.run();
    expect(isDirty(machine, leaf & -PAGE)).toBe(false);
  });

  it("is set by REP STOS, by a locked exchange, and by the hypervisor's translation for writing", () => {
    const machine = new Machine();
    machine.kernel([...mov(RDI, DATA), ...mov(1, 0x2000), 0xf3, 0xaa, HLT]);
    clear(machine);
    machine.run();
    expect([DATA, DATA + PAGE, DATA + 2 * PAGE].map((at) => isDirty(machine, at))).toEqual([true, true, false]);
    machine.kernel([...mov(RDI, DATA), 0xf0, 0x48, 0x0f, 0xc1, 0x07, HLT]);
    clear(machine);
    machine.run();
    expect(isDirty(machine, DATA)).toBe(true);
    clear(machine);
    machine.cpu.translate(BigInt(DATA), false);
    expect(isDirty(machine, DATA)).toBe(false);
    machine.cpu.translate(BigInt(DATA), true);
    expect(isDirty(machine, DATA)).toBe(true);
  });

  it("is set of a page whose code is overwritten", () => {
    const machine = new Machine();
    const code = CODE + 4 * PAGE;
    machine.put(code, [0xc3]);
    const call = [0xe8, ...new Uint8Array(Int32Array.of(code - CODE - 5).buffer)];
    machine.kernel([...call, ...mov(RDI, code + 64), ...STORE, HLT]);
    clear(machine);
    machine.steps(3);
    expect(isDirty(machine, code)).toBe(false);
    machine.run();
    expect(isDirty(machine, code)).toBe(true);
  });
});

const WRITES_AT = 0x200000;
/** Xorshift in RAX; its low bits choose where in 1 MiB from RBX on it is stored; for ever. */
const RANDOM_WRITES = [
  ...mov(0, 88172645463325252n),
  ...mov(3, WRITES_AT),
  ...[0x48, 0x89, 0xc1, 0x48, 0xc1, 0xe1, 13, 0x48, 0x31, 0xc8],
  ...[0x48, 0x89, 0xc1, 0x48, 0xc1, 0xe9, 7, 0x48, 0x31, 0xc8],
  ...[0x48, 0x89, 0xc1, 0x48, 0xc1, 0xe1, 17, 0x48, 0x31, 0xc8],
  ...[0x89, 0xc7, 0x81, 0xe7, 0xf8, 0xff, 0x0f, 0x00, 0x48, 0x01, 0xdf, 0x48, 0x89, 0x07],
  ...[0xeb, 0xd2],
];

/** A vCPU in a domain's own memory, with the machine's tables around it. */
function domainWithCpu(): { cpu: Vcpu; capture: MemoryCapture; close: () => void } {
  const machine = new Machine();
  for (let at = WRITES_AT; at < WRITES_AT + (1 << 20); at += PAGE) machine.map(BigInt(at), BigInt(at), P | RW);
  machine.kernel(RANDOM_WRITES);
  const guest = createGuestMemory(planFrames(RAM), FRAMES, "mapped");
  const places = { frames: FRAMES, physmap: PHYSMAP, codeFlags: CODE_FLAG, dirtyFlags: DIRTY_FLAG };
  const { mapping } = createCpuMemory(guest, places);
  mapping.bytes.set(new Uint8Array(machine.ram.buffer, FRAMES, RAM), FRAMES);
  const { memory } = mapping;
  const cpu = createVcpu({ memory, core: loadCore(), nanoseconds: () => 0, compiler: { threshold: 1, batch: 1 } });
  cpu.state = machine.cpu.state;
  const capture = new MemoryCapture(guest, guest.attach());
  return {
    cpu,
    capture,
    close() {
      capture.close();
      guest.close();
    },
  };
}

it.skipIf(defaultMemoryKind() !== "mapped")("the memory of a vCPU is captured as it was at the stop", async () => {
  const { cpu, capture, close } = domainWithCpu();
  cpu.run(3000);
  for (let round = 0; round < 4; round++) {
    const written = capture.prepare();
    if (round > 0) expect(written).toBeGreaterThan(0);
    cpu.run(500);
    cpu.flushTlb();
    let copied = false;
    const copy = capture.precopy().then(() => {
      copied = true;
    });
    while (!copied) {
      cpu.run(500);
      await new Promise((go) => setImmediate(go));
    }
    await copy;
    cpu.run(500);
  }
  const { bytes } = capture.finish();
  // What it writes to all the time and the special frames, not what else is touched.
  expect(bytes).toBeLessThan(2 << 20);
  expect(capture.verify()).toEqual([]);
  close();
});

it.skipIf(defaultMemoryKind() !== "mapped")("without the flush of the TLB writes would be lost", async () => {
  const { cpu, capture, close } = domainWithCpu();
  cpu.run(100_000);
  capture.prepare();
  await capture.precopy();
  cpu.run(1000);
  capture.finish();
  expect(capture.verify().length).toBeGreaterThan(0);
  close();
});
