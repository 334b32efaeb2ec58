/** Memory that is loaded while it is in use already. */
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { afterEach, describe, expect, it } from "vitest";
import { GrantStatus, GTF_PERMIT_ACCESS as PERMIT } from "../../engine/abi/grant-table.ts";
import { CODE_FLAG, DIRTY_FLAG, FRAMES, PHYSMAP } from "../../engine/cpu/assembly/layout.ts";
import { createVcpu, loadCore } from "../../engine/cpu/vcpu.ts";
import { GuestLoad } from "../../engine/domain/guest-load.ts";
import type { OpenGuest } from "../../engine/domain/guest-restore.ts";
import { RamPool } from "../../engine/hypervisor/ram-pool.ts";
import { Arrivals, windowOf } from "../../engine/memory/arrival.ts";
import { createCpuMemory } from "../../engine/memory/cpu-memory.ts";
import { CONTROL_PHYSMAP_BASE, CONTROL_WANTED, planFrames, WINDOW_BYTES } from "../../engine/memory/frame-plan.ts";
import { createGuestMemory, defaultMemoryKind, type Mapping } from "../../engine/memory/guest-memory.ts";
import { Physmap } from "../../engine/memory/physmap.ts";
import { fileOffset, gfn } from "../../engine/memory/types.ts";
import { BackgroundLoader } from "../../engine/snapshot/background-loader.ts";
import { DemandLoader } from "../../engine/snapshot/demand-loader.ts";
import { SnapshotError } from "../../engine/snapshot/errors.ts";
import { openSnapshot, type SnapshotFile } from "../../engine/snapshot/file-reader.ts";
import { writeSnapshot } from "../../engine/snapshot/file-writer.ts";
import { LOAD, Machine, mov, P, RW } from "../cpu/privileged/machine.ts";
import { GrantLab, type Service, writeEntry } from "../hypervisor/grant-domains.ts";
import { guestBytes, type MemoryDomain, memoryDomain, PAGE, withFolder } from "./memory-domain.ts";

const RAM = 4 << 20;
const WINDOWS = RAM / WINDOW_BYTES;
/** Without contents. */
const EMPTY_WINDOW = 7;

const mapped = defaultMemoryKind() === "mapped";
const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});

/** Memory in which every window but one has contents of its own, with gaps. */
function source(): MemoryDomain {
  const domain = memoryDomain(RAM);
  closers.push(() => domain.guest.close());
  const { words, base } = domain.mapping;
  for (let frame = 0; frame < RAM / PAGE; frame++) {
    if (windowOf(frame * PAGE) === EMPTY_WINDOW || frame % 5 === 3) continue;
    for (let n = 0; n < PAGE; n += 4) words[(base + frame * PAGE + n) >>> 2] = Math.imul(frame * PAGE + n, 0x9e3779b1);
  }
  return domain;
}

async function saved(folder: string, from: MemoryDomain): Promise<string> {
  const path = join(folder, "a.dsnap");
  await writeSnapshot(path, from.descriptor, from.guest.plan, {});
  return path;
}

/** A new domain's memory, on its way from a file. */
async function arriving(path: string) {
  const target = memoryDomain(RAM);
  const file = await openSnapshot(path);
  const mapping = target.guest.attach();
  const background = new BackgroundLoader(file, mapping, target.descriptor);
  background.begin();
  const demand = await DemandLoader.open({ path: file.lasting, mapping, descriptor: target.descriptor });
  closers.push(
    () => target.guest.close(),
    () => file.close(),
    () => demand.close(),
  );
  return { target, file, background, demand, arrivals: new Arrivals(mapping) };
}

/** Whether somebody has taken a window and not brought it yet: 2 is its state byte then. */
function isLoading({ mapping }: MemoryDomain, window: number): boolean {
  return Atomics.load(mapping.bytes, mapping.base + mapping.plan.arrivals + window) === 2;
}

/** Turns a bit of the chunk of a window round. */
function damage(path: string, file: SnapshotFile, window: number): void {
  const chunk = file.chunks.find((each) => each.window === window);
  if (chunk === undefined) throw new Error(`window ${window} is not stored`);
  const at = chunk.at + (chunk.stored >> 1);
  const descriptor = openSync(path, "r+");
  writeSync(descriptor, Uint8Array.of((readFileSync(path)[at] ?? 0) ^ 4), 0, 1, at);
  closeSync(descriptor);
}

describe.skipIf(!mapped)("memory on its way", () => {
  it("is what it was, whoever loads which part", async () => {
    await withFolder(async (folder) => {
      const from = source();
      const { target, background, demand, arrivals } = await arriving(await saved(folder, from));
      const all = Array.from({ length: WINDOWS }, (_, window) => window);
      expect(all.filter((window) => arrivals.isPresent(window))).toEqual([EMPTY_WINDOW]);
      demand.fetch(3 * WINDOW_BYTES + 5);
      expect(all.filter((window) => arrivals.isPresent(window))).toEqual([3, EMPTY_WINDOW]);
      const there = (offset: number) => Atomics.load(target.mapping.words, (target.mapping.base + offset) >>> 2);
      const rest = background.loadRest();
      // From the end, between the loader's steps: each window is right at the moment at which it is there.
      for (let window = WINDOWS - 1; window >= 0; window--) {
        // The background loader is at work on this thread: what it has taken only it can bring.
        while (isLoading(target, window)) await new Promise((go) => setImmediate(go));
        demand.fetch(window * WINDOW_BYTES);
        const expected = window === EMPTY_WINDOW ? 0 : Math.imul(window * WINDOW_BYTES + 4, 0x9e3779b1);
        if (((window * WINDOW_BYTES) / PAGE) % 5 !== 3) expect(there(window * WINDOW_BYTES + 4)).toBe(expected);
        if (window % 4 === 0) await new Promise((go) => setImmediate(go));
      }
      await rest;
      expect(all.every((window) => arrivals.isPresent(window))).toBe(true);
      expect(Buffer.compare(guestBytes(target), guestBytes(from))).toBe(0);
    });
  });

  it("keeps what was written to a window that is there", async () => {
    await withFolder(async (folder) => {
      const { target, background, demand } = await arriving(await saved(folder, source()));
      const { words, base } = target.mapping;
      demand.fetch(0);
      words[base >>> 2] = 0x600d;
      await background.loadRest();
      expect(words[base >>> 2]).toBe(0x600d);
    });
  });

  it("is loaded first where somebody waits for it", async () => {
    await withFolder(async (folder) => {
      const { target, background, arrivals } = await arriving(await saved(folder, source()));
      const { words, base, plan } = target.mapping;
      Atomics.store(words, (base + plan.control + CONTROL_WANTED) >>> 2, WINDOWS);
      const abort = new AbortController();
      const order: number[] = [];
      const settle = Arrivals.prototype.settle;
      Arrivals.prototype.settle = function (this: Arrivals, window: number) {
        order.push(window);
        settle.call(this, window);
      };
      try {
        await background.loadRest({ signal: abort.signal });
      } finally {
        Arrivals.prototype.settle = settle;
      }
      expect(order.indexOf(WINDOWS - 1)).toBeLessThan(3);
      expect(order).toHaveLength(WINDOWS - 1);
      expect(arrivals.takeWanted()).toBeUndefined();
    });
  });

  it("is refused by its checksums before anything runs, and by each loader when it was damaged later", async () => {
    await withFolder(async (folder) => {
      const path = await saved(folder, source());
      const { file, background, demand, arrivals } = await arriving(path);
      await file.verify();
      damage(path, file, 20);
      await expect(file.verify()).rejects.toMatchObject({ code: "damaged-snapshot" });
      demand.fetch(19 * WINDOW_BYTES);
      expect(() => demand.fetch(20 * WINDOW_BYTES)).toThrow(SnapshotError);
      expect(arrivals.isPresent(20)).toBe(false);
      damage(path, file, 22);
      await expect(background.loadRest()).rejects.toMatchObject({ code: "damaged-snapshot" });
    });
  });

  it("that somebody else has taken and cannot bring ends the guest, instead of being read as it is", async () => {
    await withFolder(async (folder) => {
      const { demand, arrivals } = await arriving(await saved(folder, source()));
      expect(arrivals.claim(5)).toBe(true);
      arrivals.abandon();
      expect(() => demand.fetch(5 * WINDOW_BYTES)).toThrow(SnapshotError);
      expect(arrivals.isPresent(5)).toBe(false);
    });
  });

  it("of a page given back to the host stays zero", async () => {
    await withFolder(async (folder) => {
      const { target, background, demand } = await arriving(await saved(folder, source()));
      const physmap = new Physmap(target.mapping, PHYSMAP);
      physmap.fetch = (offset) => demand.fetch(offset);
      physmap.mapRun(gfn(0), fileOffset(0), RAM / PAGE, { later: true });
      const ram = new RamPool(target.mapping, RAM / PAGE);
      const { offset } = physmap.get(FRAME) ?? { offset: fileOffset(0) };
      physmap.unmap(gfn(FRAME));
      expect(offset).toBe(FRAME * PAGE);
      expect(ram.release(offset)).toBe(true);
      await background.loadRest();
      physmap.arrived();
      const { bytes, base } = target.mapping;
      expect(bytes.subarray(base + offset, base + offset + PAGE).every((byte) => byte === 0)).toBe(true);
      expect(physmap.get(FRAME + 1)).toEqual({ offset: (FRAME + 1) * PAGE, readOnly: false });
    });
  });

  it("of a guest that ended stays away, and a damaged file lets it not begin", async () => {
    await withFolder(async (folder) => {
      const path = await saved(folder, source());
      const opened = async () => {
        const target = memoryDomain(RAM);
        closers.push(() => target.guest.close());
        const { token } = target.guest;
        const file = await openSnapshot(path);
        const guest = { file, state: { domain: { vcpus: [{ infoOffset: 3 * WINDOW_BYTES }] } } } as OpenGuest;
        const load = new GuestLoad(guest, token.kind === "mapped" ? token.path : "");
        return { file, load, arrivals: new Arrivals(target.mapping) };
      };
      const ended = await opened();
      await ended.load.ready;
      expect(ended.arrivals.isPresent(3)).toBe(true);
      await Promise.all([ended.load.close(), ended.load.close()]);
      expect(ended.arrivals.isPresent(WINDOWS - 1) || !ended.arrivals.wait(WINDOWS - 1, () => true)).toBe(true);
      const bad = await opened();
      damage(path, bad.file, 20);
      await expect(bad.load.ready).rejects.toMatchObject({ code: "damaged-snapshot" });
      await expect(bad.load.during(new Promise(() => {}))).rejects.toMatchObject({ code: "damaged-snapshot" });
      expect(bad.arrivals.wait(20, () => true)).toBe(false);
      await bad.load.close();
    });
  });

  it("stops arriving when it is told to", async () => {
    await withFolder(async (folder) => {
      const { background, arrivals } = await arriving(await saved(folder, source()));
      const abort = new AbortController();
      abort.abort();
      await expect(background.loadRest({ signal: abort.signal })).rejects.toMatchObject({ code: "cancelled" });
      expect(arrivals.isPresent(0)).toBe(false);
    });
  });

  it("is refused as a file that is not there when the file cannot be opened again", async () => {
    await withFolder(async (folder) => {
      const { target } = await arriving(await saved(folder, source()));
      const gone = { path: join(folder, "gone"), mapping: target.mapping, descriptor: target.descriptor };
      await expect(DemandLoader.open(gone)).rejects.toMatchObject({ code: "missing-snapshot" });
      writeFileSync(join(folder, "text"), "no snapshot at all ".repeat(20));
      await expect(DemandLoader.open({ ...gone, path: join(folder, "text") })).rejects.toMatchObject({
        code: "not-a-snapshot",
      });
    });
  });
});

const FRONT = 5;
const BACK = 2;
const REF = 20;
const FRAME = 40;
/** Bit 2 of a physmap entry (memory/physmap.ts). */
const LATER = 4;
/** Loads the window of FRAME, which it is given as indexes into the words of the shared memory, once it is asked for. */
const LOADER = `
  const { workerData: { buffer, wanted, state, page, arrivals } } = require("node:worker_threads");
  const words = new Int32Array(buffer);
  for (let asked = 0; asked === 0; asked = Atomics.exchange(words, wanted, 0)) Atomics.wait(words, page, 0, 1);
  Atomics.store(words, page, 0xc0de);
  Atomics.store(new Uint8Array(buffer), state, 0);
  Atomics.add(words, arrivals, 1);
`;

describe.skipIf(!mapped)("a grant of a page on its way", () => {
  function domains(): { lab: GrantLab; front: Service; back: Service } {
    const lab = new GrantLab();
    closers.push(() => lab.close());
    const [front, back] = [lab.service(FRONT), lab.service(BACK)];
    const { words, base, plan } = front.mapping;
    Atomics.or(words, ((base + plan.physmap) >>> 2) + FRAME, LATER);
    new Arrivals(front.mapping).expect(windowOf(FRAME * PAGE));
    writeEntry(front, REF, PERMIT, BACK, FRAME);
    return { lab, front, back };
  }

  it("is mapped when the page is there, for which its loader is asked", async () => {
    const { front, back } = domains();
    const { memory, base, plan } = front.mapping;
    const worker = new Worker(LOADER, {
      eval: true,
      workerData: {
        buffer: memory.buffer,
        wanted: (base + plan.control + CONTROL_WANTED) >>> 2,
        arrivals: (base + plan.control + CONTROL_WANTED + 4) >>> 2,
        state: base + plan.arrivals + windowOf(FRAME * PAGE),
        page: (base + FRAME * PAGE) >>> 2,
      },
    });
    closers.push(() => worker.terminate());
    const handle = back.maps.map(FRONT, REF, false);
    expect(handle).toBeGreaterThanOrEqual(0);
    const { mapping } = back.peers.get(FRONT) ?? front;
    expect(mapping.view.getInt32(mapping.base + back.maps.offset(handle), true)).toBe(0xc0de);
    expect(back.maps.unmap(handle)).toBe(GrantStatus.okay);
  });

  it("is not mapped, and does not wait for ever, when the domain ends first", () => {
    const { lab, front, back } = domains();
    // It is there when the grant is looked up, and gone when the wait begins.
    back.peers.get(FRONT);
    const wait = Arrivals.prototype.wait;
    Arrivals.prototype.wait = function (this: Arrivals, window: number, lives: () => boolean) {
      lab.end(front);
      return wait.call(this, window, lives);
    };
    try {
      expect(back.maps.map(FRONT, REF, false)).toBe(GrantStatus.bad_domain);
    } finally {
      Arrivals.prototype.wait = wait;
    }
    expect(back.maps.listMaps()).toEqual([]);
  });

  it("is not mapped, and does not wait for ever, when its loader gives up", () => {
    const { front, back } = domains();
    new Arrivals(front.mapping).abandon();
    expect(back.maps.map(FRONT, REF, false)).toBe(GrantStatus.bad_domain);
    expect(back.maps.listMaps()).toEqual([]);
  });

  it("is refused when the guest names another page on its way again and again", () => {
    const { front, back } = domains();
    const { words, base, plan } = front.mapping;
    const frames = Array.from({ length: 10 }, (_, n) => FRAME + n * (WINDOW_BYTES / PAGE));
    const arrivals = new Arrivals(front.mapping);
    for (const frame of frames) {
      Atomics.or(words, ((base + plan.physmap) >>> 2) + frame, LATER);
      arrivals.expect(windowOf(frame * PAGE));
    }
    let waits = 0;
    const wait = Arrivals.prototype.wait;
    Arrivals.prototype.wait = () => {
      waits++;
      writeEntry(front, REF, PERMIT, BACK, frames[waits] ?? 0);
      return true;
    };
    try {
      expect(back.maps.map(FRONT, REF, false)).toBe(GrantStatus.general_error);
    } finally {
      Arrivals.prototype.wait = wait;
    }
    expect(waits).toBe(5);
    expect(back.maps.listMaps()).toEqual([]);
  });

  it("is mapped at once when the mark is all that is left", () => {
    const { front, back } = domains();
    const arrivals = new Arrivals(front.mapping);
    arrivals.claim(windowOf(FRAME * PAGE));
    arrivals.settle(windowOf(FRAME * PAGE));
    expect(back.maps.map(FRONT, REF, true)).toBeGreaterThanOrEqual(0);
  });
});

const WRITES_AT = 0x200000;
/** Reads at RSI, then stores xorshift numbers at places of 1 MiB that they choose, for ever. */
const PROGRAM = [
  ...mov(6, WRITES_AT),
  ...LOAD,
  ...mov(0, 88172645463325252n),
  ...mov(3, WRITES_AT),
  ...[0x48, 0x89, 0xc1, 0x48, 0xc1, 0xe1, 13, 0x48, 0x31, 0xc8],
  ...[0x48, 0x89, 0xc1, 0x48, 0xc1, 0xe9, 7, 0x48, 0x31, 0xc8],
  ...[0x48, 0x89, 0xc1, 0x48, 0xc1, 0xe1, 17, 0x48, 0x31, 0xc8],
  ...[0x89, 0xc7, 0x81, 0xe7, 0xf8, 0xff, 0x0f, 0x00, 0x48, 0x01, 0xdf, 0x48, 0x03, 0x07, 0x48, 0x89, 0x07],
  ...[0xeb, 0xcf],
];

function cpuDomain() {
  const guest = createGuestMemory(planFrames(RAM), FRAMES, "mapped");
  closers.push(() => guest.close());
  const places = { frames: FRAMES, physmap: PHYSMAP, codeFlags: CODE_FLAG, dirtyFlags: DIRTY_FLAG };
  return { guest, ...createCpuMemory(guest, places) };
}

const bytesOf = ({ bytes, base, plan }: Mapping) => bytes.slice(base, base + plan.ramBytes);

describe.skipIf(!mapped)("a vCPU whose memory is on its way", () => {
  it.each([
    ["interpreted", undefined],
    ["compiled", { threshold: 1, batch: 1 }],
  ])("runs as if all were there, %s, and asks once for each page that it touches", async (_, compiler) => {
    const machine = new Machine();
    for (let at = WRITES_AT; at < WRITES_AT + (1 << 20); at += PAGE) machine.map(BigInt(at), BigInt(at), P | RW);
    machine.kernel(PROGRAM);
    const options = { core: loadCore(), nanoseconds: () => 0, ...(compiler && { compiler }) };
    const reference = cpuDomain();
    reference.mapping.bytes.set(new Uint8Array(machine.ram.buffer, FRAMES, RAM), FRAMES);
    for (let at = WRITES_AT; at < WRITES_AT + (1 << 20); at += 8) reference.mapping.words[(FRAMES + at) >>> 2] = at;
    await withFolder(async (folder) => {
      const path = join(folder, "a.dsnap");
      const { token } = reference.guest;
      if (token.kind !== "mapped") throw new Error("mapped memory expected");
      await writeSnapshot(path, token.descriptor, token.plan, {});
      const { guest, mapping, physmap } = cpuDomain();
      const file = await openSnapshot(path);
      const descriptor = guest.token.kind === "mapped" ? guest.token.descriptor : -1;
      const background = new BackgroundLoader(file, mapping, descriptor);
      background.begin();
      const demand = await DemandLoader.open({ path, mapping, descriptor });
      closers.push(
        () => file.close(),
        () => demand.close(),
      );
      physmap.fetch = (offset) => demand.fetch(offset);
      physmap.mapRun(gfn(0), fileOffset(0), RAM / PAGE, { later: true });
      const asked: number[] = [];
      const arrive = (frame: number): void => {
        asked.push(frame);
        physmap.arrive(frame);
      };
      const cpu = createVcpu({ memory: mapping.memory, ...options, arrive });
      const other = createVcpu({ memory: reference.mapping.memory, ...options });
      for (const each of [cpu, other]) each.state = machine.cpu.state;
      cpu.run(60);
      other.run(60);
      const arrivals = new Arrivals(mapping);
      const present = () => Array.from({ length: WINDOWS }, (_, n) => n).filter((n) => arrivals.isPresent(n)).length;
      // Most windows are empty, which is there from the start: the program and a part of its megabyte are not.
      expect(present()).toBeLessThan(WINDOWS);
      for (let round = 0; round < 20; round++) {
        cpu.run(2000);
        other.run(2000);
      }
      expect(new Set(asked).size).toBe(asked.length);
      expect(asked.length).toBeGreaterThan((1 << 20) / PAGE / 2);
      await background.loadRest();
      physmap.arrived();
      expect(cpu.instructions).toBe(other.instructions);
      expect(Buffer.compare(bytesOf(mapping), bytesOf(reference.mapping))).toBe(0);
      expect(mapping.view.getUint32(mapping.base + mapping.plan.control + CONTROL_PHYSMAP_BASE, true)).toBe(FRAMES);
      expect(physmap.get(5)).toEqual({ offset: 5 * PAGE, readOnly: false });
    });
  });
});
