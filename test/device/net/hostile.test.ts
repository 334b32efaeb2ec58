/** What a hostile frontend can put into its rings: it gets errors, everything else goes on, and nothing stays mapped. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { NetCounterName } from "../../../engine/device/net/counters.ts";
import { ExtraType, GsoType, NET_RING_SLOTS, NetStatus, TransmitFlag } from "../../../engine/device/net/protocol.ts";
import { RING_REQ_PROD } from "../../../engine/device/ring/layout.ts";
import { type Extra, Harness, makeFrame, PAGE, REF, type Slot } from "./net-harness.ts";

const { moreData, extraInfo } = TransmitFlag;

/** After the packet a good one is sent: it must get through. */
function answerTo(harness: Harness, items: readonly (Slot | Extra)[]): [number, number][] {
  harness.put(items);
  harness.vif.poll(64);
  expect(harness.taken).toEqual([]);
  expect(harness.mapped).toBe(0);
  const answers = harness.answers();
  expect(answers).toHaveLength(items.length);
  harness.put([{ size: 60, id: 77 }]);
  harness.vif.poll(64);
  expect(harness.answers()).toEqual([[77, NetStatus.okay]]);
  expect(harness.taken).toHaveLength(1);
  return answers;
}

const fragments = (count: number, size = 10): Slot[] =>
  Array.from({ length: count }, (_, n) => ({
    size: n === 0 ? count * size : size,
    flags: n + 1 < count ? moreData : 0,
    id: n,
  }));

describe("a bad packet", () => {
  const gso = (type: number, size: number): (Slot | Extra)[] => [
    { size: 3000, flags: extraInfo },
    { type: ExtraType.gso, size, gso: type },
  ];
  const cases: [string, (Slot | Extra)[], NetCounterName][] = [
    ["of 0 bytes", [{ size: 0 }], "tx_bad_size"],
    ["of 13 bytes", [{ size: 13 }], "tx_bad_size"],
    ["beyond its page", [{ size: 100, offset: PAGE - 99 }], "tx_bad_fragment"],
    ["with an offset beyond its page", [{ size: 60, offset: 0xffff }], "tx_bad_fragment"],
    ["of 65535 bytes in one slot", [{ size: 65535 }], "tx_bad_fragment"],
    ["of 19 fragments", fragments(19), "tx_too_many_slots"],
    ["of 255 fragments", fragments(255), "tx_too_many_slots"],
    ["with a fragment larger than the whole", [{ size: 60, flags: moreData }, { size: 61 }], "tx_bad_fragment"],
    [
      "with fragments larger than the whole in sum",
      [{ size: 60, flags: moreData }, { size: 40, flags: moreData }, { size: 40 }],
      "tx_bad_fragment",
    ],
    [
      "with a fragment beyond its page",
      [
        { size: 200, flags: moreData },
        { size: 100, offset: 4000 },
      ],
      "tx_bad_fragment",
    ],
    ["with data past the ring's end", [{ size: 60, flags: moreData }], "tx_bad_fragment"],
    ["with extra information past the ring's end", [{ size: 60, flags: extraInfo }], "tx_bad_extra"],
    [
      "with more extra information past the ring's end",
      [
        { size: 60, flags: extraInfo },
        { type: ExtraType.hash, more: true },
      ],
      "tx_bad_extra",
    ],
    ["with extra information of type 0", [{ size: 60, flags: extraInfo }, { type: 0 }], "tx_bad_extra"],
    ["with extra information of type 5", [{ size: 60, flags: extraInfo }, { type: 5 }], "tx_bad_extra"],
    ["with extra information of type 255", [{ size: 60, flags: extraInfo }, { type: 255 }], "tx_bad_extra"],
    [
      "with extra information without end",
      [
        { size: 60, flags: extraInfo },
        ...Array.from({ length: 100 }, (_, n) => ({ type: ExtraType.hash, more: n < 99 })),
      ],
      "tx_bad_extra",
    ],
    ["with segments of 0 bytes", gso(GsoType.tcpv4, 0), "tx_bad_gso"],
    ["with segments of 1 byte", gso(GsoType.tcpv4, 1), "tx_bad_gso"],
    ["with segmentation of type 0", gso(GsoType.none, 1448), "tx_bad_gso"],
    ["with segmentation of type 3", gso(3, 1448), "tx_bad_gso"],
    ["with a grant that is not there", [{ size: 60, ref: 5 }], "tx_bad_grant"],
    ["with a grant out of all bounds", [{ size: 60, ref: 0xffff_ffff }], "tx_bad_grant"],
    [
      "with its last fragment's grant missing",
      [
        { size: 5000, flags: moreData },
        { size: 2000, ref: 5 },
      ],
      "tx_bad_grant",
    ],
  ];
  it.each(cases)("%s is refused", (_name, items, counter) => {
    const harness = new Harness();
    const answers = answerTo(harness, items);
    for (const [n, item] of items.entries()) {
      expect(answers[n]?.[1]).toBe("type" in item ? NetStatus.none : NetStatus.error);
      if (!("type" in item)) expect(answers[n]?.[0]).toBe(item.id ?? 0);
    }
    expect(harness.count("tx_errors")).toBe(1);
    expect(harness.count(counter)).toBe(1);
  });

  it("that says IPv6 and is IPv4 is refused", () => {
    const harness = new Harness();
    harness.send(makeFrame(3000), [3000], 0, [{ type: ExtraType.gso, size: 1448, gso: GsoType.tcpv6 }]);
    harness.vif.poll(64);
    expect(harness.answers()[0]?.[1]).toBe(NetStatus.error);
    expect(harness.taken).toEqual([]);
  });

  it("whose segments are larger than it is gets no exemption from the MTU", () => {
    const harness = new Harness();
    harness.send(makeFrame(3000), [3000], 0, [{ type: ExtraType.gso, size: 65535, gso: GsoType.tcpv4 }]);
    harness.vif.poll(64);
    expect(harness.taken[0]?.segmentation).toBe("none");
  });
});

it("takes 18 fragments, wherever the first 60 bytes are cut, with empty ones anywhere", () => {
  const bytes = makeFrame(300);
  for (let count = 2; count <= 18; count++) {
    for (let cut = 1; cut <= 3; cut++) {
      for (let empty = 0; empty < count; empty++) {
        const harness = new Harness();
        const sizes: number[] = Array.from({ length: count - 1 }, (_, n) => (n === empty ? 0 : cut));
        sizes.push(300 - sizes.reduce((sum, size) => sum + size, 0));
        harness.send(bytes, sizes);
        harness.vif.poll(64);
        expect(Buffer.compare(harness.taken[0]?.bytes ?? bytes.subarray(1), bytes)).toBe(0);
        expect(harness.answers().every(([, status]) => status === NetStatus.okay)).toBe(true);
        expect(harness.mapped).toBe(0);
      }
    }
  }
});

it("reads the head once: what the guest changes meanwhile is not seen", () => {
  const harness = new Harness();
  const bytes = makeFrame(1000);
  harness.onFrame = () => harness.page(0).fill(0xee);
  harness.send(bytes, [1000]);
  harness.vif.poll(64);
  expect(harness.taken[0]?.bytes.subarray(0, 256)).toEqual(bytes.subarray(0, 256));
});

it.each([NET_RING_SLOTS + 1, 1 << 20, 0x8000_0000, -1])("an index %d ahead stops that ring only", (ahead) => {
  const harness = new Harness();
  harness.sharedTransmit[0]!.store(RING_REQ_PROD, ahead >>> 0);
  expect(harness.vif.poll(64)).toBe(0);
  expect(harness.vif.poll(64)).toBe(0);
  expect(harness.vif.arm()).toBe(false);
  expect(harness.log).toHaveLength(1);
  expect(harness.vif.broken).toBe(true);
  harness.give([0]);
  expect(harness.deliver(makeFrame(60))).toBeUndefined();
  expect(harness.received()).toHaveLength(1);

  harness.sharedReceive[0]!.store(RING_REQ_PROD, (ahead + 1) >>> 0);
  expect(harness.deliver(makeFrame(60))).toBe("down");
  expect(harness.deliver(makeFrame(60))).toBe("down");
  expect(harness.log).toHaveLength(2);
  expect(harness.count("broken_rings")).toBe(2);
});

it("an index that breaks while a packet waits for admission ends the wait", () => {
  const harness = new Harness();
  harness.vif.setAdmission(() => 1000);
  harness.put([{ size: 60 }]);
  harness.vif.poll(64);
  harness.sharedTransmit[0]!.store(RING_REQ_PROD, 5000);
  harness.vif.poll(64);
  expect(harness.vif.broken).toBe(true);
  expect(harness.vif.service(harness.clock)).toBe(Number.POSITIVE_INFINITY);
});

describe("receive buffers", () => {
  it("that cannot be mapped cost their frame, in every position", () => {
    for (let bad = 0; bad < 3; bad++) {
      const harness = new Harness();
      harness.grants.pages.delete(REF + bad);
      harness.give([0, 1, 2, 3]);
      expect(harness.deliver(makeFrame(3 * PAGE))).toBeUndefined();
      expect(harness.received().map(({ id, status, flags }) => [id, status, flags])).toEqual([
        [0, NetStatus.error, 0],
        [1, NetStatus.error, 0],
        [2, NetStatus.error, 0],
      ]);
      expect(harness.mapped).toBe(0);
      expect(harness.count("rx_bad_grant")).toBe(1);
      expect(harness.deliver(makeFrame(60))).toBeUndefined();
      expect(harness.received()).toMatchObject([{ id: 3, status: 60 }]);
    }
  });

  it("that are read-only are no buffers", () => {
    const harness = new Harness();
    harness.grants.pages.set(REF, { address: harness.dataStart, readOnly: true });
    const before = harness.page(0).slice();
    harness.give([0]);
    harness.deliver(makeFrame(60));
    expect(harness.received()).toMatchObject([{ status: NetStatus.error }]);
    expect(harness.page(0)).toEqual(before);
  });

  it("given twice are filled twice", () => {
    const harness = new Harness();
    harness.give([5, 5, 5]);
    harness.deliver(makeFrame(2 * PAGE));
    harness.deliver(makeFrame(60));
    expect(harness.received().map(({ status }) => status)).toEqual([PAGE, PAGE, 60]);
    expect(harness.mapped).toBe(0);
  });

  it("that never come cost no more than the cap, for a frame of any size", () => {
    const harness = new Harness();
    harness.vif.setBacklog({ bytes: 256 * 1024, age: 1e9 });
    for (let n = 0; n < 5000; n++) harness.deliver(makeFrame(60));
    const small = harness.vif.waiting;
    expect(small).toBe(512);
    harness.clock += 1e9;
    harness.vif.service(harness.clock);
    for (let n = 0; n < 100; n++) harness.deliver(makeFrame(60_000));
    expect(harness.vif.waiting).toBe(4);
    harness.vif.setLink(false);
    expect(harness.vif.waiting).toBe(0);
  });
});

it("bounds the multicast list", () => {
  const harness = new Harness({ multicastControl: true });
  let refused = 0;
  for (let n = 0; n < 100; n++) {
    harness.put([
      { size: 0, flags: extraInfo },
      { type: ExtraType.multicastAdd, mac: [1, 0, 0x5e, 0, 0, n] },
    ]);
    harness.vif.poll(64);
    if (harness.answers()[0]?.[1] === NetStatus.error) refused++;
  }
  expect(refused).toBe(36);
});

it("writes nothing but what is said into responses", () => {
  const harness = new Harness();
  harness.give([1, 2]);
  harness.deliver(makeFrame(60), (frame) => {
    frame.segmentation = "tcpv6";
    frame.segmentSize = 0x1234;
  });
  expect(harness.received().map(({ words }) => words)).toEqual([
    [1, 8 | (60 << 16)],
    [ExtraType.gso | (0x1234 << 16), GsoType.tcpv6],
  ]);
});

it("survives any slots: each is answered once, in order, and good packets get through", () => {
  const size = fc.oneof(fc.integer({ min: 0, max: 200 }), fc.integer({ min: 0, max: 65535 }));
  const slot = fc.record({
    ref: fc.oneof(fc.integer({ min: REF, max: REF + 9 }), fc.integer({ min: 0, max: 0xffff_ffff })),
    offset: fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 65535 })),
    size,
    flags: fc.integer({ min: 0, max: 31 }),
    id: fc.integer({ min: 0, max: 65535 }),
  });
  const extra = fc.record({
    type: fc.integer({ min: 0, max: 7 }),
    more: fc.boolean(),
    size: fc.integer({ min: 0, max: 65535 }),
    gso: fc.integer({ min: 0, max: 3 }),
  });
  fc.assert(
    fc.property(fc.array(fc.oneof(slot, extra), { minLength: 1, maxLength: 200 }), (items) => {
      const harness = new Harness();
      harness.put(items);
      while (harness.vif.poll(7) > 0) expect(harness.mapped).toBe(0);
      expect(harness.answers()).toHaveLength(items.length);
      harness.taken.length = 0;
      harness.put([{ size: 60, id: 1 }]);
      harness.vif.poll(1);
      expect(harness.taken).toHaveLength(1);
      expect(harness.mapped).toBe(0);
    }),
    { numRuns: 300 },
  );
});
