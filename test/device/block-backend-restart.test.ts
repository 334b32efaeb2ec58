/**
 * The backend is killed between any two stores to shared memory, or in the midst of a copy or of the store's work, and
 * a new one takes over: every request is answered exactly once, the disk is as if nothing had happened, and a flush
 * that was answered has everything before it on durable storage.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { InFlightRegion } from "../../engine/device/block/in-flight.ts";
import { BlockOperation as Op } from "../../engine/device/block/protocol.ts";
import { BackRing } from "../../engine/device/ring/back.ts";
import { Harness, wholePages } from "./block-backend-harness.ts";
import { type Event, event, Model, play } from "./block-backend-model.ts";

describe("killed at any moment", () => {
  it.each([
    ["synchronous", false, false],
    ["synchronous, persistent grants", false, true],
    ["asynchronous", true, false],
  ])(
    "%s store",
    (_, later, persistent) => {
      let restarts = 0;
      fc.assert(
        fc.property(
          fc.array(event, { minLength: 10, maxLength: 120 }),
          fc.array(fc.oneof(fc.nat(400), fc.nat(20)), { maxLength: 6 }),
          (events, lives) => {
            const model = new Model(later, persistent);
            play(model, events, lives);
            restarts += model.restarts;
          },
        ),
        { numRuns: 600 },
      );
      // The property would hold of a backend that never dies.
      expect(restarts).toBeGreaterThan(200);
    },
    60_000,
  );

  it("at each single step of a fixed run", () => {
    const events: Event[] = [];
    const kinds = [
      Op.write,
      Op.write,
      Op.read,
      Op.flush_diskcache,
      Op.write,
      Op.write_barrier,
      Op.indirect,
      Op.discard,
    ];
    for (let i = 0; i < 24; i++) {
      const at = (i * 5) % 50;
      events.push({ kind: "send", operation: kinds[i % kinds.length]!, sector: at, sectors: 1 + (i % 8) });
      if (i % 6 === 5) events.push({ kind: "serve" });
      if (i % 12 === 11) events.push({ kind: "receive" });
    }
    const whole = new Model(false, false);
    play(whole, events, []);
    const steps = whole.fate.steps;
    expect(steps).toBeGreaterThan(150);
    for (let step = 0; step < steps; step++) {
      const model = new Model(false, false);
      play(model, events, [step]);
      expect([step, model.restarts, model.answered]).toEqual([step, 1, whole.answered]);
      // And a second time soon afterwards, in the recovery itself.
      const again = new Model(false, false);
      play(again, events, [step, step % 13]);
      expect(again.answered).toBe(whole.answered);
    }
  });
});

describe("recovery", () => {
  it("finds nothing in memory that no ring has used", () => {
    const harness = new Harness();
    harness.own.bytes.fill(0);
    expect(harness.makeService().recover()).toBe(false);
  });

  it("finds nothing after close(), nor for a ring of another size", async () => {
    const harness = new Harness();
    await harness.service.close();
    expect(harness.makeService().recover()).toBe(false);
    harness.service = harness.makeService();
    harness.service.start();
    const other = new InFlightRegion(harness.own, 64, 16, harness.protocol.slotSize);
    expect(other.recover(0)).toBeUndefined();
  });

  it("goes on over 2^32", () => {
    const harness = new Harness();
    const start = 0xffff_ffff;
    harness.memory.words.fill(start | 0, harness.shared.header, harness.shared.header + 4);
    harness.ring = new BackRing(harness.shared, { requestConsumer: start, responseProducer: start });
    harness.service = harness.makeService();
    harness.service.start();
    harness.memory.words[harness.shared.header] = 1;
    harness.region.take(harness.ring);
    harness.region.take(harness.ring);
    const recovered = harness.region.recover(start);
    expect(recovered?.indexes).toEqual({ requestConsumer: 1, responseProducer: start });
    expect(recovered?.outstanding).toHaveLength(2);
  });

  it("takes no word of the frontend for what was published", () => {
    const harness = new Harness();
    for (let i = 0; i < 4; i++) harness.put(Op.write, i, i * 8, wholePages(i));
    harness.serve();
    for (const lie of [0, 3, 5, 36, 0xffff_ffff]) {
      expect(harness.region.recover(lie)?.indexes).toEqual({ requestConsumer: 4, responseProducer: 4 });
    }
  });
});
