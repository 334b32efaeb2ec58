import { describe, expect, it } from "vitest";
import { BlockOperation as Op, BlockStatus as Status } from "../../engine/device/block/protocol.ts";
import { FakeStore, Harness, type Segment, wholePages } from "./block-backend-harness.ts";

const SECTORS = 2048;

describe("bad requests", () => {
  const bad: [string, (harness: Harness) => void][] = [
    ["no segments", (h) => h.put(Op.read, 1, 0)],
    ["12 segments", (h) => twist(h, 1, 12)],
    ["255 segments", (h) => twist(h, 1, 255)],
    ["first beyond last", (h) => h.put(Op.read, 1, 0, [{ ref: 100, first: 3, last: 2 }])],
    ["last beyond the page", (h) => h.put(Op.read, 1, 0, [{ ref: 100, first: 0, last: 8 }])],
    ["bounds of 255", (h) => h.put(Op.read, 1, 0, [{ ref: 100, first: 255, last: 255 }])],
    ["the end exceeded by one", (h) => h.put(Op.read, 1, SECTORS - 7, wholePages(0))],
    ["a sector beyond the end", (h) => h.put(Op.write, 1, SECTORS, wholePages(0))],
    ["sector 2^53", (h) => h.put(Op.read, 1, 2 ** 53, wholePages(0))],
    ["sector 2^64 - 8", (h) => raw64(h, 2n ** 64n - 8n)],
    ["sector 2^55, whose byte offset is 2^64", (h) => raw64(h, 2n ** 55n)],
    ["indirect with 0 segments", (h) => h.putIndirect(Op.read, 1, 0, [], 0)],
    ["indirect with 257 segments", (h) => h.putIndirect(Op.read, 1, 0, Array(257).fill(wholePages(0)[0]), 0)],
    ["indirect barrier", (h) => h.putIndirect(Op.write_barrier, 1, 0, wholePages(0), 0)],
    ["indirect in indirect", (h) => h.putIndirect(Op.indirect, 1, 0, wholePages(0), 0)],
    ["an indirect page that is not granted", (h) => h.putIndirect(Op.read, 1, 0, wholePages(0), 5000)],
    ["a page for reading only", (h) => h.put(Op.read, 1, 0, [{ ref: 10_000, first: 0, last: 7 }])],
  ];

  function twist(harness: Harness, byte: number, value: number): void {
    harness.slot.fill(0);
    harness.slotView.setUint8(byte, value);
    harness.push();
  }
  function raw64(harness: Harness, sector: bigint): void {
    harness.slot.fill(0);
    const segments = [100, 7 << 8];
    harness.protocol.request.write(harness.slotView, 0, {
      operation: 0,
      nrSegments: 1,
      sectorNumber: sector,
      segments,
    });
    harness.push();
  }

  it.each(bad)("%s", (_, put) => {
    const harness = new Harness({ dataPages: 300 });
    const before = harness.page(0).slice();
    put(harness);
    expect(harness.status()).toBe(Status.error);
    expect(harness.store.calls).toEqual([]);
    expect(harness.grants.live).toBe(0);
    expect(harness.page(0)).toEqual(before);
    expect(harness.counters.read()).toMatchObject({ errors: 1, refused: 1 });
    // And the ring still works.
    harness.put(Op.write, 2, SECTORS - 8, wholePages(0));
    expect(harness.status()).toBe(Status.okay);
  });

  it("writes to a read-only disk", () => {
    const harness = new Harness({ readOnly: true });
    harness.put(Op.write, 1, 0, wholePages(0));
    expect(harness.status()).toBe(Status.error);
    harness.put(Op.write_barrier, 1, 0, wholePages(0));
    expect(harness.status()).toBe(Status.error);
    harness.putDiscard(1, 0, 8n);
    expect(harness.status()).toBe(Status.error);
    expect(harness.store.calls).toEqual([]);
    harness.put(Op.read, 1, 0, wholePages(0));
    expect(harness.status()).toBe(Status.okay);
  });

  it.each([
    ["sector 4", 4, { ref: 100, first: 0, last: 7 }, Status.error],
    ["half a sector", 8, { ref: 100, first: 0, last: 3 }, Status.error],
    ["a whole one", 8, { ref: 100, first: 0, last: 7 }, Status.okay],
  ])("%s of a disk with 4096-byte sectors", (_, sector, segment, status) => {
    const harness = new Harness({ store: new FakeStore(1 << 20, { sectorSize: 4096 }) });
    harness.put(Op.read, 1, sector, [segment]);
    expect(harness.status()).toBe(status);
  });

  it.each([false, true])("a bad reference in every position, persistent %s (XSA-362)", (persistent) => {
    for (let position = 0; position < 11; position++) {
      const harness = new Harness({ features: { persistent } });
      const segments = wholePages(...Array.from({ length: 11 }, (_, i) => i));
      segments[position] = { ref: 0xffff_ffff, first: 0, last: 7 };
      harness.put(Op.write, 1, 0, segments);
      expect(harness.status()).toBe(Status.error);
      expect(harness.store.calls).toEqual([]);
      expect(harness.grants.live).toBe(persistent ? position : 0);
    }
    for (let position = 0; position < 256; position += 15) {
      const harness = new Harness({ dataPages: 256, features: { persistent } });
      const segments: Segment[] = wholePages(...Array.from({ length: 256 }, (_, i) => i));
      segments[position] = { ref: 0, first: 0, last: 7 };
      harness.putIndirect(Op.read, 1, 0, segments, 0);
      expect(harness.status()).toBe(Status.error);
      expect(harness.store.calls).toEqual([]);
      expect(harness.grants.live).toBe(persistent ? position : 0);
    }
  });
});

describe("the ring's indexes", () => {
  it.each([33, 2 ** 31, 2 ** 32 - 1])("a producer of %i ends the service of this ring (XSA-39)", (producer) => {
    const harness = new Harness();
    harness.memory.words[harness.shared.header] = producer | 0;
    harness.serve();
    expect(harness.service.broken).toBe(true);
    expect(harness.memory.words[harness.shared.header + 2]).toBe(0);
    harness.memory.words[harness.shared.header] = 1;
    harness.serve();
    expect(harness.store.calls).toEqual([]);
    expect(harness.log).toHaveLength(1);
  });

  it("a public response index that the frontend overwrites changes nothing", () => {
    const harness = new Harness();
    for (let i = 0; i < 100; i++) {
      harness.memory.words[harness.shared.header + 2] = (i * 0x1234_5677) | 0;
      harness.memory.words[harness.shared.header] = i + 1;
      harness.serve();
      expect(harness.memory.words[harness.shared.header + 2]).toBe(i + 1);
    }
    expect(harness.service.broken).toBe(false);
  });

  it("one more request than slots while none is answered", () => {
    const store = new FakeStore(1 << 20, { later: true });
    const harness = new Harness({ store });
    for (let i = 0; i < 32; i++) harness.put(Op.read, i, i * 16, wholePages(i));
    harness.serve();
    for (let i = 0; i < 8; i++) store.complete();
    expect(harness.answers()).toHaveLength(8);
    for (let i = 0; i < 8; i++) harness.put(Op.read, 32 + i, i * 16, wholePages(i));
    harness.serve();
    expect(store.pending).toHaveLength(32);
    expect(harness.service.broken).toBe(false);
    harness.memory.words[harness.shared.header] = 41;
    harness.serve();
    expect(harness.service.broken).toBe(true);
  });
});

describe("the frontend changes a request while it is looked at (XSA-155)", () => {
  it("direct: only the copy counts", () => {
    const harness = new Harness();
    harness.put(Op.write, 7, 16, [
      { ref: 100, first: 0, last: 7 },
      { ref: 101, first: 0, last: 7 },
    ]);
    // From the first map on the request's slot is full of nonsense.
    harness.grants.onMap = () => harness.memory.words.fill(-1, harness.shared.header + 16, harness.shared.header + 44);
    harness.serve();
    expect(harness.store.calls).toEqual([{ kind: "write", offset: 8192, length: 8192, pieces: 1 }]);
    expect(harness.answers()).toEqual([{ id: 7, operation: Op.write, status: 0 }]);
  });

  it("indirect: segments are copied before they are checked", () => {
    const harness = new Harness({ dataPages: 256 });
    const segments = wholePages(...Array.from({ length: 100 }, (_, i) => i));
    harness.putIndirect(Op.write, 7, 0, segments, 0);
    harness.grants.onMap = (ref) => {
      if (ref < 10_000) harness.memory.words.fill(-1, harness.indirectStart / 4, harness.indirectStart / 4 + 1024);
    };
    harness.serve();
    expect(harness.store.calls).toEqual([{ kind: "write", offset: 0, length: 100 * 4096, pieces: 1 }]);
    expect(harness.answers()[0]?.status).toBe(0);
  });

  it("each shared word is read once", () => {
    const harness = new Harness({ dataPages: 256 });
    const reads = new Map<number, number>();
    // Every read of shared memory goes through these arrays: count them, and give another value at each further read.
    const counted = new Proxy(harness.memory.words, {
      get(target, key) {
        const index = typeof key === "string" ? Number(key) : Number.NaN;
        if (!Number.isInteger(index)) {
          const value: unknown = Reflect.get(target, key, target);
          return typeof value === "function" ? value.bind(target) : value;
        }
        const times = (reads.get(index) ?? 0) + 1;
        reads.set(index, times);
        return times === 1 ? target[index] : -1;
      },
    });
    const header = harness.shared.header;
    harness.putIndirect(Op.read, 1, 0, wholePages(0, 1, 2), 0);
    harness.put(Op.read, 2, 800, wholePages(4, 5));
    // Atomics do not take a proxy, so the indexes keep the plain array; slots and indirect pages get the counting one.
    const { shared } = harness;
    const copyOut = shared.copyOut;
    shared.copyOut = (index, into, at, count) =>
      copyOut.call({ __proto__: shared, words: counted } as unknown as typeof shared, index, into, at, count);
    const memory = { ...harness.memory, words: counted };
    Object.defineProperty(harness.grants, "memory", { value: memory });
    harness.serve();
    shared.copyOut = copyOut;
    expect(harness.answers().map((answer) => answer.status)).toEqual([0, 0]);
    expect(Math.max(...reads.values())).toBe(1);
    expect(reads.get(header + 16)).toBe(1);
    expect(reads.get(header + 16 + 28)).toBe(1);
    expect(reads.get(harness.indirectStart / 4 + 5)).toBe(1);
  });
});

describe("endurance", () => {
  it("a hundred thousand bad requests leave nothing behind", () => {
    const harness = new Harness({ features: { persistent: true }, persistentGrants: 16 });
    harness.store.record = false;
    let seed = 1;
    const random = () => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fff_ffff;
      return seed >>> 8;
    };
    const copy = new Int32Array(4);
    const batch = () => {
      for (let i = 0; i < 32; i++) {
        for (let word = 0; word < harness.slot.length; word++) harness.slot[word] = random() * 257;
        harness.slot[0] = (random() % 8) | ((random() % 14) << 8) | (random() << 16);
        // Half of them get further: a small sector, and references of which some exist.
        if (random() % 2) {
          harness.slot[4] = random() % 4096;
          harness.slot[5] = 0;
          for (let word = 6; word < 28; word += 2) harness.slot[word] = 90 + (random() % 80);
          for (let word = 7; word < 28; word += 2) harness.slot[word] = (random() % 4) | ((random() % 9) << 8);
        }
        harness.push();
      }
      harness.serve();
      const available = harness.front.unconsumedResponses();
      expect(available).toBe(32);
      for (let i = 0; i < 32; i++) harness.front.copyResponse(copy, 0, 4);
    };
    for (let i = 0; i < 400; i++) batch();
    const lines = harness.log.length;
    const before = process.memoryUsage().heapUsed;
    for (let i = 0; i < 3200; i++) batch();
    const growth = process.memoryUsage().heapUsed - before;
    expect(growth).toBeLessThan(40 * 2 ** 20);
    expect(harness.service.idle).toBe(true);
    expect(harness.grants.live).toBeLessThanOrEqual(16);
    expect(harness.grants.mapped.length).toBeLessThan(64);
    expect(harness.log.length - lines).toBeLessThan(8);
    expect(harness.counters.read().errors).toBeGreaterThan(50_000);
  });
});
