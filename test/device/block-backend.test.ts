import { describe, expect, it } from "vitest";
import { decodeProbe, LegacyOperation } from "../../engine/device/block/legacy-protocol.ts";
import {
  blockProtocol,
  LEGACY_PROTOCOL,
  BlockOperation as Op,
  BlockStatus as Status,
  X86_32_PROTOCOL,
  X86_64_PROTOCOL,
} from "../../engine/device/block/protocol.ts";
import type { BlockTarget } from "../../engine/device/block/ring-service.ts";
import { FakeStore, Harness, PAGE, wholePages } from "./block-backend-harness.ts";

const SECTORS = 2048;

/** A store whose sector i holds i's low byte. */
function numbered(options: { sectorSize?: number; later?: boolean } = {}): FakeStore {
  const store = new FakeStore(SECTORS * 512, options);
  for (let i = 0; i < store.data.length; i++) store.data[i] = (i >>> 9) & 0xff;
  return store;
}

describe("the tables", () => {
  // Offsets by hand from blkif.h: on x86_64 a u64 is aligned to 8 bytes, on x86_32 to 4.
  it("of x86_64", () => {
    const { request, discard, indirect, response } = X86_64_PROTOCOL;
    expect(request.size).toBe(112);
    expect(request.offsets).toEqual({ operation: 0, nrSegments: 1, handle: 2, id: 8, sectorNumber: 16, segments: 24 });
    expect(discard.offsets).toEqual({ operation: 0, flag: 1, handle: 2, id: 8, sectorNumber: 16, nrSectors: 24 });
    expect(indirect.size).toBe(64);
    expect(indirect.offsets.handle).toBe(24);
    expect(indirect.offsets.indirectGrefs).toBe(28);
    expect(response.size).toBe(16);
    expect(response.offsets).toEqual({ id: 0, operation: 8, status: 10 });
  });
  it("of x86_32", () => {
    const { request, discard, indirect, response } = X86_32_PROTOCOL;
    expect(request.size).toBe(108);
    expect(request.offsets).toEqual({ operation: 0, nrSegments: 1, handle: 2, id: 4, sectorNumber: 12, segments: 20 });
    expect(discard.offsets.nrSectors).toBe(20);
    expect(indirect.offsets.handle).toBe(20);
    expect(indirect.offsets.indirectGrefs).toBe(24);
    expect(response.size).toBe(12);
  });
  it("by name", () => {
    expect(blockProtocol(undefined)).toBe(X86_64_PROTOCOL);
    expect(blockProtocol("x86_32-abi")).toBe(X86_32_PROTOCOL);
    expect(blockProtocol("domlab-xen-2.0")).toBe(LEGACY_PROTOCOL);
    expect(blockProtocol("arm-abi")).toBeUndefined();
  });
});

describe.each([X86_64_PROTOCOL, X86_32_PROTOCOL])("a synchronous store, $name", (protocol) => {
  it("reads and writes at the segments' places", () => {
    const harness = new Harness({ protocol, store: numbered() });
    harness.page(0).fill(0xee);
    harness.put(Op.read, 5, 100, [
      { ref: 100, first: 2, last: 3 },
      { ref: 101, first: 7, last: 7 },
    ]);
    expect(harness.status()).toBe(Status.okay);
    expect([0, 2, 3, 4].map((sector) => harness.page(0)[sector * 512])).toEqual([0xee, 100, 101, 0xee]);
    expect(harness.page(1)[7 * 512]).toBe(102);
    harness.page(3).fill(0x55);
    harness.put(Op.write, 6, 200, [{ ref: 103, first: 0, last: 1 }]);
    expect(harness.status()).toBe(Status.okay);
    expect([199, 200, 201, 202].map((sector) => harness.store.data[sector * 512])).toEqual([199, 0x55, 0x55, 202]);
    expect(harness.grants.live).toBe(0);
  });

  it("tells the peer's CPUs of what was read, and only of that", () => {
    const harness = new Harness({ protocol, store: numbered() });
    harness.put(Op.read, 1, 0, [{ ref: 104, first: 1, last: 2 }]);
    harness.put(Op.write, 2, 8, wholePages(5));
    harness.serve();
    expect(harness.grants.writes).toEqual([{ address: harness.dataStart + 4 * PAGE + 512, length: 1024 }]);
  });

  it("answers id and operation, with nothing of ours in the padding", () => {
    const harness = new Harness({ protocol });
    harness.slot.fill(-1);
    harness.put(Op.write, 2 ** 52 + 3, 8, wholePages(0));
    harness.serve();
    const word = 16;
    const words = harness.memory.words;
    const id = (2n ** 52n + 3n) & 0xffff_ffffn;
    expect([words[word], words[word + 1], words[word + 2]]).toEqual([Number(id), 2 ** 20, Op.write]);
    if (protocol.responseWords === 4) expect(words[word + 3]).toBe(0);
    expect(harness.answers()).toEqual([{ id: 2 ** 52 + 3, operation: Op.write, status: Status.okay }]);
  });

  it("serves indirect requests and names what they carry", () => {
    const harness = new Harness({ protocol, store: numbered(), dataPages: 256 });
    const segments = wholePages(...Array.from({ length: 256 }, (_, i) => i));
    harness.putIndirect(Op.read, 9, 0, segments, 0);
    harness.serve();
    expect(harness.answers()).toEqual([{ id: 9, operation: Op.read, status: Status.okay }]);
    expect(harness.page(255).every((byte, i) => byte === ((255 * 8 + (i >>> 9)) & 0xff))).toBe(true);
    // 256 pages in a row are one piece.
    expect(harness.store.calls).toEqual([{ kind: "read", offset: 0, length: 1 << 20, pieces: 1 }]);
    expect(harness.counters.read()).toMatchObject({ indirect_req: 1, rd_req: 1, rd_sect: 2048, grants_mapped: 0 });
    expect(harness.counters.read().grants_total).toBe(257);
  });

  it("discards", () => {
    const harness = new Harness({ protocol, store: numbered() });
    harness.putDiscard(1, 8, 16n);
    expect(harness.status()).toBe(Status.okay);
    expect([7, 8, 23, 24].map((sector) => harness.store.data[sector * 512])).toEqual([7, 0, 0, 24]);
    harness.putDiscard(2, 8, 2n ** 63n);
    expect(harness.status()).toBe(Status.error);
    harness.putDiscard(3, SECTORS - 8, 9n);
    expect(harness.status()).toBe(Status.error);
    harness.putDiscard(4, 8, 8n, 1);
    expect(harness.status()).toBe(Status.eopnotsupp);
  });
});

describe("merging", () => {
  it("joins adjoining requests of a batch, each answered", () => {
    const harness = new Harness({ store: numbered() });
    harness.put(Op.read, 1, 0, wholePages(0));
    harness.put(Op.read, 2, 8, wholePages(1));
    harness.put(Op.read, 3, 16, wholePages(3));
    harness.put(Op.write, 4, 24, wholePages(4));
    harness.put(Op.write, 5, 40, wholePages(5));
    harness.serve();
    expect(harness.store.calls).toEqual([
      { kind: "read", offset: 0, length: 3 * PAGE, pieces: 2 },
      { kind: "write", offset: 24 * 512, length: PAGE, pieces: 1 },
      { kind: "write", offset: 40 * 512, length: PAGE, pieces: 1 },
    ]);
    expect(harness.answers().map((answer) => answer.id)).toEqual([1, 2, 3, 4, 5]);
    expect(harness.counters.read()).toMatchObject({ merged: 2, rd_req: 3, wr_req: 2, rd_sect: 24, wr_sect: 16 });
  });

  it("stops at 1 MiB", () => {
    const harness = new Harness({ ringPages: 4, dataPages: 256 });
    for (let i = 0; i < 40; i++) harness.put(Op.read, i, i * 48, wholePages(0, 2, 4, 6, 8, 10));
    harness.serve();
    expect(harness.store.calls.every((call) => call.length <= 1 << 20)).toBe(true);
    expect(harness.store.calls.reduce((sum, call) => sum + call.length, 0)).toBe(40 * 6 * PAGE);
    expect(harness.answers()).toHaveLength(40);
  });

  it("fails only the request that must fail", () => {
    const harness = new Harness({ store: numbered() });
    harness.store.bad.add(20);
    for (let i = 0; i < 4; i++) harness.put(Op.read, i, i * 8, wholePages(i));
    harness.serve();
    expect(harness.answers().map((answer) => answer.status)).toEqual([0, 0, Status.error, 0]);
    expect(harness.page(3)[0]).toBe(24);
    expect(harness.counters.read()).toMatchObject({ errors: 1, refused: 0, rd_sect: 24 });
  });

  it("a request with a bad grant leaves its neighbours alone", () => {
    const harness = new Harness({ store: numbered() });
    harness.put(Op.read, 1, 0, [{ ref: 100, first: 0, last: 3 }]);
    harness.put(Op.read, 2, 4, [
      { ref: 100, first: 4, last: 7 },
      { ref: 99, first: 0, last: 7 },
    ]);
    harness.put(Op.read, 3, 4, wholePages(2));
    harness.serve();
    const answers = harness.answers().map(({ id, status }) => [id, status]);
    expect(answers).toEqual([
      [2, Status.error],
      [1, 0],
      [3, 0],
    ]);
    expect(harness.page(0)[4 * 512]).toBe(0);
    expect(harness.page(2)[0]).toBe(4);
    expect(harness.grants.live).toBe(0);
  });
});

describe("flush and barrier", () => {
  it("a flush waits for what is before it, and lets pass what is behind", () => {
    const store = numbered({ later: true });
    const harness = new Harness({ store });
    harness.put(Op.write, 1, 0, wholePages(0));
    harness.put(Op.write, 2, 100, wholePages(1));
    harness.put(Op.flush_diskcache, 3, 0);
    harness.put(Op.read, 4, 200, wholePages(2));
    harness.serve();
    expect(store.calls.map((call) => call.kind)).toEqual(["write", "write", "read"]);
    store.complete(2);
    store.complete(1);
    expect(harness.answers().map((answer) => answer.id)).toEqual([4, 2]);
    expect(store.calls).toHaveLength(3);
    store.complete(0);
    expect(store.calls.map((call) => call.kind)).toEqual(["write", "write", "read", "flush"]);
    expect(harness.answers().map((answer) => answer.id)).toEqual([1]);
    store.complete(0);
    expect(harness.answers()).toEqual([{ id: 3, operation: Op.flush_diskcache, status: 0 }]);
  });

  it("a second flush waits for the first", () => {
    const store = numbered({ later: true });
    const harness = new Harness({ store });
    harness.put(Op.write, 1, 0, wholePages(0));
    harness.put(Op.flush_diskcache, 2, 0);
    harness.put(Op.flush_diskcache, 3, 0);
    harness.serve();
    store.complete();
    expect(store.pending).toHaveLength(1);
    store.complete();
    expect(store.pending).toHaveLength(1);
    store.complete();
    expect(harness.answers().map((answer) => answer.id)).toEqual([1, 2, 3]);
    expect(harness.service.idle).toBe(true);
  });

  it("a barrier drains, flushes, writes, flushes, and holds what is behind", () => {
    const store = numbered({ later: true });
    const harness = new Harness({ store });
    harness.put(Op.write, 1, 0, wholePages(0));
    harness.put(Op.write_barrier, 2, 8, wholePages(1));
    harness.put(Op.write, 3, 16, wholePages(2));
    harness.serve();
    const kinds = () => store.calls.map((call) => call.kind);
    expect(kinds()).toEqual(["write"]);
    store.complete();
    expect(kinds()).toEqual(["write", "flush"]);
    store.complete();
    expect(kinds()).toEqual(["write", "flush", "write"]);
    store.complete();
    expect(kinds()).toEqual(["write", "flush", "write", "flush"]);
    expect(harness.answers().map((answer) => answer.id)).toEqual([1]);
    store.complete();
    expect(kinds()).toEqual(["write", "flush", "write", "flush", "write"]);
    expect(harness.answers()).toEqual([{ id: 2, operation: Op.write_barrier, status: 0 }]);
    store.complete();
    expect(harness.answers().map((answer) => answer.id)).toEqual([3]);
    expect(harness.counters.read()).toMatchObject({ wb_req: 1, oo_req: 1, wr_req: 2 });
    expect(harness.grants.live).toBe(0);
  });

  it("an empty barrier, and a flush that carries data, with a synchronous store", () => {
    const harness = new Harness();
    harness.put(Op.write_barrier, 1, 0);
    harness.page(0).fill(9);
    harness.put(Op.flush_diskcache, 2, 0, wholePages(0));
    harness.put(Op.read, 3, 0, wholePages(1));
    harness.serve();
    expect(harness.answers().map(({ id, status }) => [id, status])).toEqual([
      [1, 0],
      [2, 0],
      [3, 0],
    ]);
    expect(harness.store.calls.map((call) => call.kind)).toEqual(["flush", "flush", "write", "flush", "read"]);
    expect(harness.page(1)[0]).toBe(9);
  });

  it("a flush that fails is an error", () => {
    const harness = new Harness();
    harness.store.flushFails = true;
    harness.put(Op.flush_diskcache, 1, 0);
    expect(harness.status()).toBe(Status.error);
    harness.put(Op.write_barrier, 2, 0, wholePages(0));
    expect(harness.status()).toBe(Status.error);
    expect(harness.store.calls.some((call) => call.kind === "write")).toBe(false);
    expect(harness.grants.live).toBe(0);
  });

  it.each([
    [Op.flush_diskcache, { flush: false }],
    [Op.write_barrier, { barrier: false }],
    [Op.discard, { discard: false }],
    [Op.indirect, { maxIndirectSegments: 0 }],
    [4, {}],
    [255, {}],
  ])("operation %i that was not offered", (operation, features) => {
    const harness = new Harness({ features });
    harness.put(operation, 1, 0);
    expect(harness.status()).toBe(operation === Op.indirect ? Status.error : Status.eopnotsupp);
  });
});

describe("persistent grants", () => {
  it("are mapped once, kept up to the cap, and the least recently used goes", () => {
    const harness = new Harness({ features: { persistent: true }, persistentGrants: 4 });
    const use = (...pages: number[]) => {
      harness.put(Op.write, 1, 0, wholePages(...pages));
      expect(harness.status()).toBe(0);
    };
    for (let i = 0; i < 10; i++) use(0, 1);
    expect(harness.grants.mappings).toBe(2);
    use(2, 3);
    use(0);
    use(4);
    // Page 1 was the oldest; 0 stayed.
    expect(harness.grants.mappings).toBe(5);
    use(0, 2, 3, 4);
    expect(harness.grants.mappings).toBe(5);
    use(1);
    expect(harness.grants.mappings).toBe(6);
    expect(harness.grants.live).toBe(4);
    expect(harness.counters.read()).toMatchObject({ grants_mapped: 4, grants_persistent: 4, grants_total: 6 });
  });

  it("one request beyond the cap maps the rest for itself", async () => {
    const harness = new Harness({ features: { persistent: true }, persistentGrants: 2, store: numbered() });
    harness.put(Op.read, 1, 0, wholePages(0, 1, 2, 3, 2));
    expect(harness.status()).toBe(0);
    expect(harness.page(3)[0]).toBe(24);
    expect(harness.page(2)[0]).toBe(32);
    expect(harness.grants.live).toBe(2);
    await harness.service.close();
    expect(harness.grants.live).toBe(0);
    expect(harness.counters.read()).toMatchObject({ grants_mapped: 0, grants_persistent: 0 });
  });

  it("a grant for reading only still does for a write", () => {
    const harness = new Harness({ features: { persistent: true } });
    harness.put(Op.write, 1, 0, [{ ref: 10_003, first: 0, last: 7 }]);
    expect(harness.status()).toBe(0);
    harness.put(Op.read, 2, 0, [{ ref: 10_003, first: 0, last: 7 }]);
    expect(harness.status()).toBe(Status.error);
    expect(harness.grants.live).toBe(0);
  });
});

describe("close", () => {
  it("waits for the store, answers nothing more and unmaps all", async () => {
    const store = numbered({ later: true });
    const harness = new Harness({ store });
    harness.put(Op.read, 1, 0, wholePages(0));
    harness.put(Op.flush_diskcache, 2, 0);
    harness.put(Op.write_barrier, 3, 8, wholePages(1));
    harness.serve();
    expect(harness.grants.live).toBe(2);
    let closed = false;
    const closing = harness.service.close().then(() => {
      closed = true;
    });
    await Promise.resolve();
    expect(closed).toBe(false);
    store.complete();
    await closing;
    expect(harness.grants.live).toBe(0);
    expect(harness.answers()).toEqual([]);
    harness.put(Op.read, 4, 0, wholePages(0));
    expect(harness.service.service()).toBe(false);
    expect(store.pending).toEqual([]);
  });
});

describe("notifications", () => {
  it("one for a batch, none while the frontend does not ask", () => {
    const harness = new Harness();
    for (let i = 0; i < 32; i++) harness.put(Op.read, i, i * 16, wholePages(i));
    harness.serve();
    expect(harness.notified).toBe(1);
    harness.answers();
    for (let i = 0; i < 8; i++) harness.put(Op.read, i, i * 16, wholePages(i));
    harness.serve();
    expect(harness.notified).toBe(1);
    expect(harness.counters.read()).toMatchObject({ notifications_sent: 1, notifications_suppressed: 1 });
  });
});

describe("the message set of Xen 2.0", () => {
  function legacy(count = 2) {
    const disks = Array.from({ length: count }, (_, i): BlockTarget & { store: FakeStore } => ({
      store: numbered(),
      readOnly: i === 1,
    }));
    return new Harness({
      protocol: LEGACY_PROTOCOL,
      legacy: {
        listVbds: () =>
          disks.map((disk, i) => ({ device: 0xca00 + 16 * i, info: disk.readOnly ? 4 : 0, sectors: SECTORS })),
        storeOf: (device) => disks[(device - 0xca00) / 16],
      },
    });
  }

  it("PROBE lists the disks", () => {
    const harness = legacy();
    harness.page(0).fill(0xee);
    harness.put(LegacyOperation.probe, 1, 0, [{ ref: 100, first: 1, last: 7 }]);
    expect(harness.status()).toBe(2);
    const list = harness.page(0).subarray(512);
    expect([...list.subarray(0, 24)]).toEqual([
      2, 0, 0, 0, 0, 0, 0, 0, 0, 0xca, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0,
    ]);
    expect(list[40]).toBe(0xee);
    expect(harness.page(0)[511]).toBe(0xee);
    expect(decodeProbe(list)).toEqual([
      { device: 0xca00, info: 0, sectors: SECTORS },
      { device: 0xca10, info: 4, sectors: SECTORS },
    ]);
    expect(harness.grants.writes).toEqual([{ address: harness.dataStart + 512, length: 40 }]);
    expect(harness.grants.live).toBe(0);
  });

  it("PROBE writes what fits", () => {
    const harness = legacy(40);
    harness.put(LegacyOperation.probe, 1, 0, [{ ref: 100, first: 7, last: 7 }]);
    expect(harness.status()).toBe(31);
    expect(harness.memory.view.getUint32(harness.dataStart + 7 * 512, true)).toBe(40);
  });

  it.each([
    ["no segment", []],
    ["two segments", wholePages(0, 1)],
    ["a segment beyond the page", [{ ref: 100, first: 1, last: 8 }]],
    ["a bad reference", [{ ref: 1, first: 0, last: 7 }]],
    ["a page for reading only", [{ ref: 10_000, first: 0, last: 7 }]],
  ])("PROBE with %s is refused", (_, segments) => {
    const harness = legacy();
    harness.put(LegacyOperation.probe, 1, 0, segments);
    expect(harness.status()).toBe(Status.error);
    expect(harness.grants.live).toBe(0);
  });

  it("one ring serves all disks", () => {
    const harness = legacy();
    harness.page(0).fill(0x77);
    harness.put(Op.write, 1, 0, wholePages(0), 0xca00);
    harness.put(Op.read, 2, 8, wholePages(1), 0xca10);
    harness.put(Op.write, 3, 0, wholePages(0), 0xca10);
    harness.put(Op.read, 4, 0, wholePages(2), 0xca20);
    harness.put(Op.read, 5, 0, wholePages(3), 0xca00);
    harness.put(3, 6, 0, [], 0xca00);
    harness.serve();
    expect(harness.answers().map((answer) => [answer.id, answer.status])).toEqual(
      expect.arrayContaining([
        [1, 0],
        [2, 0],
        [3, Status.error],
        [4, Status.error],
        [5, 0],
        [6, Status.eopnotsupp],
      ]),
    );
    expect(harness.page(3)[0]).toBe(0x77);
    expect(harness.page(1)[0]).toBe(8);
  });
});
