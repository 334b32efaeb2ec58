/**
 * A backend is held, moved to another disk, or followed by one that knows nothing but the ring: nothing is lost, doubled or
 * out of order past a flush, what was written before the move is on the old disk and only there, what comes after on the new.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BlockOperation as Op } from "../../engine/device/block/protocol.ts";
import { BackRing } from "../../engine/device/ring/back.ts";
import { FrontRing } from "../../engine/device/ring/front.ts";
import { RING_REQ_PROD, RING_RSP_PROD } from "../../engine/device/ring/layout.ts";
import { FakeStore, Harness, wholePages } from "./block-backend-harness.ts";
import { event, Model, step } from "./block-backend-model.ts";

type HoldEvent = { kind: "hold" } | { kind: "release"; swap: boolean } | { kind: "anew" };
const holdEvent: fc.Arbitrary<HoldEvent> = fc.oneof(
  { weight: 3, arbitrary: fc.constant<HoldEvent>({ kind: "hold" }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("release" as const), swap: fc.boolean() }) },
  { weight: 1, arbitrary: fc.constant<HoldEvent>({ kind: "anew" }) },
);

describe("held at any moment", () => {
  it.each([
    ["synchronous", false, false],
    ["synchronous, persistent grants", false, true],
    ["asynchronous", true, false],
  ])(
    "%s store",
    async (_, later, persistent) => {
      const seen = { restarts: 0, rests: 0, anews: 0, swaps: 0 };
      const events = fc.array(fc.oneof({ weight: 4, arbitrary: event }, { weight: 1, arbitrary: holdEvent }), {
        minLength: 20,
        maxLength: 140,
      });
      const lives = fc.array(fc.nat(600), { maxLength: 3 });
      await fc.assert(
        fc.asyncProperty(events, lives, async (all, ends) => {
          const model = new Model(later, persistent);
          model.begin(ends);
          for (const each of all) {
            if (each.kind === "hold") model.hold();
            else if (each.kind === "release") model.release(each.swap);
            else if (each.kind === "anew") model.anew();
            else step(model, each);
            // hold() tells through a promise.
            await Promise.resolve();
            model.checkRest();
          }
          model.finish();
          seen.restarts += model.restarts;
          seen.rests += model.rests;
          seen.anews += model.anews;
          seen.swaps += model.frozen.length - model.anews;
        }),
        { numRuns: 400 },
      );
      for (const count of Object.values(seen)) expect(count).toBeGreaterThan(10);
    },
    60_000,
  );
});

describe("hold", () => {
  it("waits for a barrier that has been taken, and for what is before it", async () => {
    const store = new FakeStore(1 << 20, { later: true });
    const harness = new Harness({ store });
    harness.put(Op.write, 1, 0, wholePages(1));
    harness.put(Op.write_barrier, 2, 8, wholePages(2));
    harness.put(Op.write, 3, 16, wholePages(3));
    harness.serve();
    let rests = false;
    const holding = harness.service.hold().then(() => {
      rests = true;
    });
    // The write, the barrier's flush, its write, its second flush.
    for (let i = 0; i < 4; i++) {
      await Promise.resolve();
      expect(rests).toBe(false);
      expect(store.pending.length).toBe(1);
      store.complete();
    }
    await holding;
    expect(harness.answers().map(({ id }) => id)).toEqual([1, 2]);
    harness.serve();
    expect(store.pending).toEqual([]);
    const next = new FakeStore(1 << 20);
    harness.service.release({ store: next, readOnly: false });
    harness.serve();
    expect(harness.answers().map(({ id }) => id)).toEqual([3]);
    expect(next.calls).toEqual([{ kind: "write", offset: 8192, length: 4096, pieces: 1 }]);
    expect(store.calls.map(({ offset }) => offset)).not.toContain(8192);
  });

  it("does not change the disk under requests in flight", () => {
    const store = new FakeStore(1 << 20, { later: true });
    const harness = new Harness({ store });
    harness.put(Op.write, 1, 0, wholePages(1));
    harness.serve();
    void harness.service.hold();
    expect(() => harness.service.release({ store: new FakeStore(1 << 20), readOnly: false })).toThrow("in flight");
  });

  it("ends when the ring is closed, but not before the store is done", async () => {
    const store = new FakeStore(1 << 20, { later: true });
    const harness = new Harness({ store });
    harness.put(Op.write, 1, 0, wholePages(1));
    harness.serve();
    const closing = harness.service.close();
    let rests = false;
    const holding = harness.service.hold().then(() => {
      rests = true;
    });
    await Promise.resolve();
    expect(rests).toBe(false);
    store.complete();
    await closing;
    await holding;
  });
});

describe("a ring that another backend has served", () => {
  it("is taken over where its responses end, over 2^32", () => {
    const harness = new Harness();
    const start = 0xffff_fffe;
    harness.memory.words.fill(start | 0, harness.shared.header, harness.shared.header + 4);
    harness.front = new FrontRing(harness.shared, start);
    for (let i = 0; i < 32; i++) harness.put(Op.read, i, 8 * i, wholePages(i));
    harness.ring = new BackRing(harness.shared);
    harness.service = harness.makeService();
    expect(harness.service.start()).toBe(true);
    expect(harness.notified).toBe(1);
    harness.serve();
    expect(harness.answers().map(({ id }) => id)).toEqual(Array.from({ length: 32 }, (_, i) => i));
  });

  it.each([33, 0x8000_0000, 0xffff_ffff])("is refused with %d requests", (requests) => {
    const harness = new Harness();
    harness.shared.store(RING_RSP_PROD, 7);
    harness.shared.store(RING_REQ_PROD, 7 + requests);
    const service = harness.makeService();
    expect(service.start()).toBe(false);
    expect(service.broken).toBe(true);
    expect(service.service()).toBe(false);
  });
});
