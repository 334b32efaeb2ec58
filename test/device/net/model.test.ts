/**
 * Any sequence of a guest's and a network's doings: what the guest transmits comes out in order and as it was, what is
 * delivered is received in order or counted as dropped, and every slot is answered once.
 */
import fc from "fast-check";
import { expect, it } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { ReceiveFlag, TransmitFlag } from "../../../engine/device/net/protocol.ts";
import { Harness, makeFrame, PAGE, REF } from "./net-harness.ts";

const RECEIVE_PAGES = 300;
const TRANSMIT_PAGES = 256;

class Model {
  readonly harness = new Harness({ dataPages: RECEIVE_PAGES + TRANSMIT_PAGES });
  readonly sent: Uint8Array[] = [];
  readonly delivered: Uint8Array[] = [];
  readonly received: Uint8Array[] = [];
  private seed = 0;
  private transmitted = 0;
  private answered = 0;
  private given = 0;
  private returned = 0;
  private parts: Uint8Array[] = [];
  private extra = false;

  /** The guest transmits a frame cut at these places; nothing when the ring is full. */
  transmit(length: number, cuts: readonly number[]): void {
    const bytes = makeFrame(length, this.seed++);
    const places = [...new Set([0, ...cuts.map((cut) => cut % length), length])].sort((a, b) => a - b);
    const pieces = places.slice(1).flatMap((end, n) => {
      const start = places[n] ?? 0;
      const pages = Math.ceil((end - start) / PAGE);
      return Array.from({ length: pages }, (_, page) => [
        start + page * PAGE,
        Math.min(end, start + (page + 1) * PAGE),
      ]);
    });
    if (pieces.length > 18 || (this.harness.transmit[0]?.free ?? 0) < pieces.length) return;
    const slots = pieces.map(([start = 0, end = 0], n) => {
      const id = this.transmitted++ % TRANSMIT_PAGES;
      const offset = (this.seed * 64) % (PAGE - (end - start) + 1);
      this.harness.page(RECEIVE_PAGES + id).set(bytes.subarray(start, end), offset);
      const flags = n + 1 < pieces.length ? TransmitFlag.moreData : 0;
      return { ref: REF + RECEIVE_PAGES + id, offset, size: n === 0 ? length : end - start, flags, id };
    });
    this.harness.put(slots);
    this.sent.push(bytes);
  }

  deliver(length: number, segmented: boolean): void {
    const bytes = makeFrame(length, this.seed++);
    const frame = Frame.of(bytes);
    if (segmented) frame.segmentation = "tcpv4";
    frame.segmentSize = 1448;
    if (this.harness.vif.deliver(frame) === undefined) this.delivered.push(bytes);
  }

  give(count: number): void {
    for (let n = 0; n < count && (this.harness.receive[0]?.free ?? 0) > 0; n++) {
      this.harness.give([this.given++ % RECEIVE_PAGES]);
    }
  }

  collect(): void {
    for (const [id] of this.harness.answers()) expect(id).toBe(this.answered++ % TRANSMIT_PAGES);
    for (const response of this.harness.received()) {
      const page = this.returned++ % RECEIVE_PAGES;
      if (this.extra) {
        this.extra = false;
        continue;
      }
      expect(response.id).toBe(page);
      this.parts.push(this.harness.page(page).slice(response.offset, response.offset + response.status));
      if (this.parts.length === 1) this.extra = (response.flags & ReceiveFlag.extraInfo) !== 0;
      if ((response.flags & ReceiveFlag.moreData) !== 0) continue;
      this.received.push(new Uint8Array(Buffer.concat(this.parts)));
      this.parts = [];
    }
  }

  /** Lets everything come to an end. */
  finish(): void {
    for (let n = 0; n < 20; n++) {
      this.collect();
      this.give(256);
      while (this.harness.vif.poll(64) > 0);
      this.harness.vif.flush();
    }
    this.collect();
    expect(this.answered).toBe(this.transmitted);
  }
}

function expectSame(got: readonly Uint8Array[], wanted: readonly Uint8Array[]): void {
  expect(got.map((bytes) => bytes.length)).toEqual(wanted.map((bytes) => bytes.length));
  expect(Buffer.compare(Buffer.concat(got), Buffer.concat(wanted))).toBe(0);
}

it("keeps order, contents and account", () => {
  const command = fc.oneof(
    fc.record({
      kind: fc.constant("transmit" as const),
      length: fc.oneof(fc.integer({ min: 14, max: 300 }), fc.integer({ min: 14, max: 40_000 })),
      cuts: fc.array(fc.nat(5000), { maxLength: 6 }),
    }),
    fc.record({
      kind: fc.constant("deliver" as const),
      length: fc.oneof(fc.integer({ min: 14, max: 300 }), fc.integer({ min: 14, max: 40_000 })),
      segmented: fc.boolean(),
    }),
    fc.record({ kind: fc.constant("give" as const), count: fc.integer({ min: 1, max: 40 }) }),
    fc.record({ kind: fc.constant("poll" as const), budget: fc.integer({ min: 1, max: 10 }) }),
    fc.record({ kind: fc.constantFrom("flush" as const, "collect" as const, "arm" as const) }),
  );
  fc.assert(
    fc.property(fc.array(command, { maxLength: 120 }), (commands) => {
      const model = new Model();
      const { harness } = model;
      let refused = 0;
      for (const step of commands) {
        const before = model.delivered.length;
        if (step.kind === "transmit") model.transmit(step.length, step.cuts);
        else if (step.kind === "deliver") model.deliver(step.length, step.segmented);
        else if (step.kind === "give") model.give(step.count);
        else if (step.kind === "poll") harness.vif.poll(step.budget);
        else if (step.kind === "flush") harness.vif.flush();
        else if (step.kind === "arm") harness.vif.arm();
        else model.collect();
        if (step.kind === "deliver" && model.delivered.length === before) refused++;
        expect(harness.mapped).toBe(0);
      }
      model.finish();
      expectSame(
        harness.taken.map(({ bytes }) => bytes),
        model.sent,
      );
      expectSame(model.received, model.delivered);
      expect(harness.count("rx_dropped")).toBe(refused);
      expect(harness.count("tx_frames")).toBe(model.sent.length);
      expect(harness.count("tx_errors")).toBe(0);
      expect(harness.log).toEqual([]);
    }),
    { numRuns: 300 },
  );
});
