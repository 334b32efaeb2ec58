import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { compiledPath } from "../../engine/domain/entry.ts";
import { CodeShootdown, codeWritten } from "../../engine/hypervisor/code-shootdown.ts";
import { EventDelivery } from "../../engine/hypervisor/event-delivery.ts";
import { createCpuMemory } from "../../engine/memory/cpu-memory.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import { createGuestMemory, openGuestMemory } from "../../engine/memory/guest-memory.ts";
import type { WriterInput } from "./shootdown-writer.ts";

const PRIVATE = 8 << 20;
const PHYSMAP = 1 << 20;
const CODE_FLAGS = 6 << 20;
const PAGE = 4096;

/** A CPU that runs nothing: its flags are set by hand, and stay, as if it decoded the code anew at once. */
function fakeVcpu(ramBytes = 1 << 20) {
  const guest = createGuestMemory(planFrames(ramBytes), PRIVATE, "mapped");
  const { mapping } = createCpuMemory(guest, { frames: PRIVATE, physmap: PHYSMAP, codeFlags: CODE_FLAGS });
  new EventDelivery(mapping).initialise();
  const dropped: number[] = [];
  const flag = (frame: number) => CODE_FLAGS + PRIVATE / PAGE + frame;
  const vcpu = new CodeShootdown(mapping, 0, (address) => dropped.push((address - mapping.base) / PAGE));
  return {
    guest,
    mapping,
    vcpu,
    dropped,
    backend: openGuestMemory(guest.token).attach(),
    decode: (frame: number) => Atomics.store(mapping.bytes, flag(frame), 1),
  };
}

function writer(vcpu: ReturnType<typeof fakeVcpu>, frame: number, rounds: number, alive: SharedArrayBuffer) {
  const workerData: WriterInput = { memory: vcpu.guest.token, offset: frame * PAGE, rounds, alive };
  return new Worker(compiledPath(import.meta.url, "shootdown-writer.js"), { workerData });
}

function living(): Int32Array<SharedArrayBuffer> {
  return new Int32Array(new SharedArrayBuffer(4)).fill(1);
}

describe.runIf(process.platform === "linux")("code shootdown", () => {
  it("asks nothing of a vCPU for pages without code", () => {
    const { vcpu, backend, decode, dropped } = fakeVcpu();
    vcpu.decodes = true;
    decode(5);
    codeWritten(backend, 4 * PAGE, PAGE, () => true);
    codeWritten(backend, 6 * PAGE, 10 * PAGE, () => true);
    codeWritten(backend, 5 * PAGE, 0, () => true);
    expect(vcpu.wanted).toBe(false);
    vcpu.service();
    expect(dropped).toEqual([]);
  });

  it("drops every page of code that a range touches, even by a byte, and no other", () => {
    const { vcpu, backend, decode, dropped } = fakeVcpu();
    for (const frame of [4, 5, 6, 40, 255]) decode(frame);
    codeWritten(backend, 5 * PAGE - 1, 2 + 35 * PAGE, () => true);
    expect(vcpu.wanted).toBe(true);
    vcpu.service();
    expect(dropped).toEqual([4, 5, 6, 40]);
    expect(vcpu.wanted).toBe(false);
    vcpu.service();
    expect(dropped).toHaveLength(4);
  });

  it("finds pages above 2 GiB", () => {
    const { vcpu, backend, decode, dropped } = fakeVcpu(3 * 2 ** 30);
    const frame = (2.5 * 2 ** 30) / PAGE;
    decode(frame);
    codeWritten(backend, frame * PAGE + 8, PAGE, () => true);
    vcpu.service();
    expect(dropped).toEqual([frame]);
  });

  it("keeps a writer until the vCPU has dropped its code, every time", async () => {
    const fake = fakeVcpu();
    const rounds = 500;
    fake.vcpu.decodes = true;
    fake.decode(9);
    const alive = living();
    const thread = writer(fake, 9, rounds, alive.buffer);
    const exit = once(thread, "exit");
    const { words, base } = fake.mapping;
    const at = (base + 9 * PAGE) >>> 2;
    for (let round = 1; round <= rounds; round++) {
      while (!fake.vcpu.wanted) await new Promise(setImmediate);
      expect(Atomics.load(words, at)).toBe(round);
      expect(Atomics.load(words, at + 1)).toBe(round - 1);
      fake.vcpu.service();
    }
    await exit;
    expect(fake.dropped).toHaveLength(rounds);
  });

  it.each(["stops decoding", "dies"])("lets a writer go when the vCPU %s", async (how) => {
    const fake = fakeVcpu();
    fake.vcpu.decodes = true;
    fake.decode(9);
    const alive = living();
    const thread = writer(fake, 9, 1, alive.buffer);
    const exit = once(thread, "exit");
    while (!fake.vcpu.wanted) await new Promise(setImmediate);
    expect(Atomics.load(fake.mapping.words, ((fake.mapping.base + 9 * PAGE) >>> 2) + 1)).toBe(0);
    if (how === "dies") Atomics.store(alive, 0, 0);
    else fake.vcpu.decodes = false;
    expect(await exit).toEqual([0]);
    expect(fake.dropped).toEqual([]);
    fake.vcpu.service();
    expect(fake.dropped).toEqual([9]);
  });
});
