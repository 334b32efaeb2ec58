import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { createCpuMemory } from "../../engine/memory/cpu-memory.ts";
import { MAX_RAM_BYTES, planFrames } from "../../engine/memory/frame-plan.ts";
import { createGuestFrames } from "../../engine/memory/guest-frames.ts";
import { createGuestMemory, defaultMemoryKind, openGuestMemory } from "../../engine/memory/guest-memory.ts";
import { fileOffset, gfn } from "../../engine/memory/types.ts";

const MIB = 1 << 20;
const kinds = [...new Set([defaultMemoryKind(), "threads" as const])];

describe("frame plan", () => {
  it("puts the special frames behind RAM, apart from each other", () => {
    const plan = planFrames(64 * MIB);
    const places = [plan.sharedInfo, plan.grantTable, plan.console, plan.xenstore, plan.control];
    expect(places).toEqual([...new Set(places)].sort((a, b) => a - b));
    expect(plan.sharedInfo).toBe(64 * MIB);
    expect(plan.length % 65536).toBe(0);
  });

  it.each([0, -4096, 4097, MAX_RAM_BYTES + 4096, Number.NaN])("refuses %d bytes of RAM", (bytes) => {
    expect(() => planFrames(bytes)).toThrow(RangeError);
  });
});

describe.each(kinds)("guest memory, kind %s", (kind) => {
  it("is the same memory for everybody who attaches it", () => {
    const memory = createGuestMemory(planFrames(4 * MIB), MIB, kind);
    const cpu = memory.attach({ privateBytes: MIB });
    const host = openGuestMemory(memory.token).attach();
    cpu.view.setUint32(cpu.base + 0x1234, 0xcafe, true);
    expect(host.view.getUint32(host.base + 0x1234, true)).toBe(0xcafe);
    host.bytes[host.base + host.plan.console] = 9;
    expect(cpu.bytes[cpu.base + cpu.plan.console]).toBe(9);
    cpu.bytes[5] = 1;
    if (host.base === 0) expect(host.bytes[5]).toBe(0);
    memory.close();
  });

  it("gives frames back and reads zero there", () => {
    const mapping = createGuestMemory(planFrames(4 * MIB), 0, kind).attach();
    mapping.bytes.fill(7, mapping.base + 8192, mapping.base + 12288);
    mapping.discard(8192, 4096);
    expect(mapping.bytes.subarray(mapping.base + 8192, mapping.base + 12288).every((byte) => byte === 0)).toBe(true);
  });

  it("does not sleep on a word that has changed, and sleeps no longer than told", () => {
    const mapping = createGuestMemory(planFrames(4 * MIB), 0, kind).attach();
    const before = performance.now();
    mapping.wait(64, 1, 5e9);
    mapping.wait(64, 0, 2e6);
    expect(performance.now() - before).toBeLessThan(2000);
  });

  it("fills the physmap one to one, with the toolstack's pages at their places", () => {
    const guest = createGuestMemory(planFrames(4 * MIB), 8 * MIB, kind);
    const { physmap, mapping } = createCpuMemory(guest, { frames: 8 * MIB, physmap: 65536 });
    expect(mapping.view.getUint32(65536 + 4 * 3, true)).toBe(8 * MIB + 3 * 4096);
    expect(physmap.get(1024)).toBeUndefined();
    expect(physmap.get(0xfefff)?.offset).toBe(guest.plan.console);
    physmap.map(gfn(2000), fileOffset(4096), true);
    expect(physmap.get(2000)).toEqual({ offset: 4096, readOnly: true });
    expect(() => physmap.map(gfn(0x100000), fileOffset(0))).toThrow(RangeError);
    expect(physmap.get(-1)).toBeUndefined();
    expect(physmap.get(Number.MAX_SAFE_INTEGER)).toBeUndefined();
  });
});

describe("guest frames", () => {
  it("checks every range", () => {
    const frames = createGuestFrames(createGuestMemory(planFrames(MIB), 0).attach());
    frames.write(MIB - 4, new Uint8Array(4).fill(1));
    expect([...frames.view(MIB - 4, 4)]).toEqual([1, 1, 1, 1]);
    expect(() => frames.write(MIB - 3, new Uint8Array(4))).toThrow(RangeError);
    expect(() => frames.zero(-1, 1)).toThrow(RangeError);
    expect(() => frames.view(Number.NaN, 1)).toThrow(RangeError);
  });
});

describe.runIf(process.platform === "linux")("the largest guest", () => {
  it("costs nothing that it has not touched", () => {
    const resident = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync("/proc/self/status", "utf8"))?.[1]);
    const before = resident();
    const memory = createGuestMemory(planFrames(MAX_RAM_BYTES), 64 * MIB);
    const mapping = memory.attach({ privateBytes: 64 * MIB });
    mapping.bytes[mapping.base + MAX_RAM_BYTES - 1] = 1;
    expect(mapping.bytes[mapping.base + MAX_RAM_BYTES - 1]).toBe(1);
    expect(resident() - before).toBeLessThan(32 * 1024);
    memory.close();
  });
});
