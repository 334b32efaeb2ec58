/** Interfaces that are held, and rings that another backend has served: queues of their own, shared and split channels. */
import { describe, expect, it } from "vitest";
import { queueIsSound } from "../../../engine/device/net/netback-queue.ts";
import { queueRegion } from "../../../engine/device/net/vif.ts";
import { RING_REQ_PROD, RING_RSP_PROD } from "../../../engine/device/ring/layout.ts";
import { Harness, type HarnessOptions, makeFrame, REF } from "./net-harness.ts";

const FORMS: readonly HarnessOptions[] = [
  { shared: true },
  { shared: false },
  { shared: false, queues: 3 },
  { shared: true, tells: false },
];

/** A frame of the flow number n. */
function frame(n: number): Uint8Array {
  return makeFrame(200, n);
}

/** Gives each queue buffers from `first` on, `count` each. */
function give(harness: Harness, first: number, count: number): void {
  for (let queue = 0; queue < harness.receive.length; queue++) {
    const from = first + queue * count;
    harness.give(
      Array.from({ length: count }, (_, i) => from + i),
      queue,
    );
  }
}

/** What the guest has received in all queues since the last time: the seeds of the frames. */
function seeds(harness: Harness): number[] {
  return harness.receive.flatMap((_, queue) =>
    harness.received(queue).map(({ id, offset, status }) => {
      expect(status).toBe(200);
      return harness.page(id)[offset + 5] ?? -1;
    }),
  );
}

/** One frame from each queue, with its seed. */
function transmit(harness: Harness, seed: number): void {
  for (let queue = 0; queue < harness.transmit.length; queue++) {
    harness.page(queue).set(frame(seed + queue), 0);
    harness.put([{ ref: REF + queue, size: 200, id: seed + queue }], queue);
  }
}

describe.each(FORMS)("rings that another backend has served, $queues queues, shared $shared, tells $tells", (form) => {
  it("are taken over where their responses end", () => {
    const harness = new Harness(form);
    const queues = harness.transmit.length;
    transmit(harness, 10);
    give(harness, 10, 6);
    while (harness.vif.poll(8) > 0);
    for (let n = 1; n <= 4; n++) harness.deliver(frame(n));
    expect(harness.taken).toHaveLength(queues);
    transmit(harness, 20);
    // Another backend, which has nothing of the first one's memory.
    harness.own.bytes.fill(0);
    const events = harness.transmitEvents + harness.receiveEvents;
    harness.vif = harness.makeVif(false);
    expect(harness.transmitEvents + harness.receiveEvents).toBe(events + (form.shared ? 1 : 2) * queues);
    while (harness.vif.poll(8) > 0);
    expect(harness.taken.map(({ bytes }) => bytes[5]).sort()).toEqual([
      ...Array.from({ length: queues }, (_, i) => 10 + i),
      ...Array.from({ length: queues }, (_, i) => 20 + i),
    ]);
    for (let queue = 0; queue < queues; queue++) {
      expect(harness.answers(queue)).toEqual([
        [10 + queue, 0],
        [20 + queue, 0],
      ]);
    }
    for (let n = 5; n <= 6; n++) harness.deliver(frame(n));
    expect(seeds(harness).sort()).toEqual([1, 2, 3, 4, 5, 6]);
    expect(harness.mapped).toBe(0);
  });

  it("are left alone while the interface is held", () => {
    const harness = new Harness(form);
    transmit(harness, 10);
    give(harness, 10, 6);
    while (harness.vif.poll(8) > 0);
    harness.deliver(frame(1));
    transmit(harness, 20);
    harness.vif.hold();
    const before = harness.memory.bytes.slice();
    const events = harness.transmitEvents + harness.receiveEvents;
    for (let n = 2; n <= 4; n++) expect(harness.deliver(frame(n))).toBeUndefined();
    expect(harness.vif.poll(8)).toBe(0);
    expect(harness.vif.arm()).toBe(false);
    harness.vif.service(harness.clock);
    expect(Buffer.compare(before, harness.memory.bytes)).toBe(0);
    expect(harness.transmitEvents + harness.receiveEvents).toBe(events);
    expect(harness.mapped).toBe(0);
    harness.vif.release();
    while (harness.vif.poll(8) > 0);
    expect(seeds(harness).sort()).toEqual([1, 2, 3, 4]);
    const late = harness.taken.map(({ bytes }) => bytes[5]).slice(-harness.transmit.length);
    expect(late.sort()).toEqual(harness.transmit.map((_, queue) => 20 + queue));
  });
});

describe("a held interface", () => {
  it("drops what has waited too long", () => {
    const harness = new Harness();
    harness.give([0, 1]);
    harness.vif.hold();
    harness.deliver(frame(1));
    harness.clock += 1e9;
    harness.vif.service(harness.clock);
    expect(harness.count("rx_expired")).toBe(1);
    harness.vif.release();
    expect(seeds(harness)).toEqual([]);
  });

  it("keeps a bounded amount", () => {
    const harness = new Harness();
    harness.vif.hold();
    for (let n = 0; n < 2000; n++) harness.deliver(frame(n));
    expect(harness.vif.waiting).toBe(512);
    expect(harness.count("rx_no_buffer")).toBe(2000 - 512);
  });
});

describe("a ring that claims more requests than it holds", () => {
  it.each([
    ["transmit", 257],
    ["receive", 257],
    ["receive", 0xffff_ffff],
  ] as const)("%s, %d requests", (which, requests) => {
    const harness = new Harness();
    const [transmit, receive] = [harness.sharedTransmit[0]!, harness.sharedReceive[0]!];
    const channel = {
      transmit,
      receive,
      notifyTransmit: () => undefined,
      notifyReceive: () => undefined,
      memory: harness.own,
      address: queueRegion(0),
      adopted: false,
    };
    const ring = which === "transmit" ? transmit : receive;
    ring.store(RING_RSP_PROD, 0xffff_fff0);
    ring.store(RING_REQ_PROD, 0xffff_fff0 + 256);
    expect(queueIsSound(channel)).toBe(true);
    ring.store(RING_REQ_PROD, 0xffff_fff0 + requests);
    expect(queueIsSound(channel)).toBe(false);
  });
});
