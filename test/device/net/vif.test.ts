import { describe, expect, it } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { ExtraType, GsoType, NetStatus, ReceiveFlag, TransmitFlag } from "../../../engine/device/net/protocol.ts";
import { RING_REQ_EVENT } from "../../../engine/device/ring/layout.ts";
import { ALL, Harness, makeFrame, PAGE, REF } from "./net-harness.ts";

const BUDGET = 64;

describe("transmit", () => {
  it.each([14, 60, 256, 257, 1514, 4000])("hands on a frame of %d bytes in one slot", (length) => {
    const harness = new Harness();
    const bytes = makeFrame(length);
    harness.send(bytes, [length]);
    let mapped = -1;
    harness.onFrame = () => {
      mapped = harness.mapped;
    };
    expect(harness.vif.poll(BUDGET)).toBe(1);
    expect(harness.taken[0]?.bytes).toEqual(bytes);
    // Small frames are in the head; others are lent in the guest's pages, for as long as the call lasts.
    expect(mapped).toBe(length > 256 ? 1 : 0);
    expect(harness.taken[0]?.segments).toBe(length > 256 ? 1 : 0);
    expect(harness.mapped).toBe(0);
    expect(harness.answers()).toEqual([[0, NetStatus.okay]]);
    expect(harness.batches).toBe(1);
  });

  it("puts fragments together, whatever the head is cut into", () => {
    const harness = new Harness();
    const bytes = makeFrame(5000);
    const sizes = [3, 1, 50, 0, 300, 4000, 646];
    harness.send(bytes, sizes);
    harness.vif.poll(BUDGET);
    expect(harness.taken[0]?.bytes).toEqual(bytes);
    expect(harness.answers().map(([id]) => id)).toEqual([0, 1, 2, 3, 4, 5, 6]);
  });

  it("answers in the ring's order, extra information with NULL, after the batch", () => {
    const harness = new Harness();
    const bytes = makeFrame(6000, 1);
    harness.onFrame = () => expect(harness.answers()).toEqual([]);
    harness.send(bytes, [4000, 2000], TransmitFlag.csumBlank, [
      { type: ExtraType.gso, size: 1448, gso: GsoType.tcpv4 },
    ]);
    harness.vif.poll(BUDGET);
    expect(harness.taken[0]).toMatchObject({ checksum: "blank", segmentation: "tcpv4", segmentSize: 1448 });
    expect(harness.answers()).toEqual([
      [0, NetStatus.okay],
      [0, NetStatus.none],
      [1, NetStatus.okay],
    ]);
    expect(harness.count("tx_gso")).toBe(1);
  });

  it("takes no more than its budget, and goes on where it was", () => {
    const harness = new Harness();
    for (let n = 0; n < 10; n++) harness.put([{ size: 60, id: n }]);
    expect(harness.vif.poll(4)).toBe(4);
    expect(harness.vif.poll(4)).toBe(4);
    expect(harness.vif.poll(4)).toBe(2);
    expect(harness.vif.poll(4)).toBe(0);
    expect(harness.answers().map(([id]) => id)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  });

  it("tells checksums apart", () => {
    const harness = new Harness();
    for (const flags of [0, TransmitFlag.dataValidated, TransmitFlag.csumBlank | TransmitFlag.dataValidated]) {
      harness.put([{ size: 60, flags }]);
    }
    harness.vif.poll(BUDGET);
    expect(harness.taken.map((frame) => frame.checksum)).toEqual(["complete", "validated", "blank"]);
  });

  it("asks for an event only before sleeping", () => {
    const harness = new Harness();
    const ring = harness.sharedTransmit[0]!;
    harness.put([{ size: 60 }]);
    expect(harness.vif.arm()).toBe(true);
    harness.vif.poll(BUDGET);
    expect(ring.load(RING_REQ_EVENT)).toBe(1);
    expect(harness.vif.arm()).toBe(false);
    expect(ring.load(RING_REQ_EVENT)).toBe(2);
  });

  it("waits for admission without losing or reordering, and accounts once", () => {
    const harness = new Harness();
    let credit = 100;
    const admitted: number[] = [];
    harness.vif.setAdmission((bytes) => {
      if (bytes > credit) return 500;
      credit -= bytes;
      admitted.push(bytes);
      return 0;
    });
    for (const size of [60, 61, 62]) harness.put([{ size, id: size }]);
    expect(harness.vif.poll(BUDGET)).toBe(1);
    expect(harness.vif.arm()).toBe(false);
    expect(harness.vif.service(harness.clock)).toBe(harness.clock + 500);
    expect(harness.vif.poll(BUDGET)).toBe(0);
    credit = 1000;
    expect(harness.vif.poll(BUDGET)).toBe(2);
    expect(admitted).toEqual([60, 61, 62]);
    expect(harness.answers().map(([id]) => id)).toEqual([60, 61, 62]);
    expect(harness.count("tx_throttled")).toBe(1);
    expect(harness.vif.service(harness.clock)).toBe(Number.POSITIVE_INFINITY);
  });

  it("drops and answers while the link is down", () => {
    const harness = new Harness();
    harness.vif.setLink(false);
    harness.put([{ size: 60 }]);
    harness.vif.poll(BUDGET);
    expect(harness.taken).toEqual([]);
    expect(harness.answers()).toHaveLength(1);
    expect(harness.count("tx_down")).toBe(1);
    expect(harness.deliver(makeFrame(60))).toBe("down");
  });
});

describe("receive", () => {
  it("copies into the guest's buffer and says how much", () => {
    const harness = new Harness();
    harness.give([3, 4]);
    const bytes = makeFrame(1000);
    expect(harness.deliver(bytes)).toBeUndefined();
    expect(harness.received()).toMatchObject([{ id: 3, offset: 0, flags: 0, status: 1000 }]);
    expect(harness.page(3).subarray(0, 1000)).toEqual(bytes);
    expect(harness.grants.writes).toEqual([{ address: harness.dataStart + 3 * PAGE, length: 1000 }]);
    expect(harness.mapped).toBe(0);
  });

  it("spreads over buffers, with the segmentation behind the first", () => {
    const harness = new Harness();
    harness.give([0, 1, 2, 3]);
    const bytes = makeFrame(9000);
    harness.deliver(bytes, (frame) => {
      frame.checksum = "blank";
      frame.segmentation = "tcpv4";
      frame.segmentSize = 1448;
    });
    const [first, extra, second, third] = harness.received();
    const { moreData, extraInfo, csumBlank, dataValidated } = ReceiveFlag;
    expect(first).toMatchObject({ id: 0, status: PAGE, flags: moreData | extraInfo | csumBlank | dataValidated });
    expect(extra?.words).toEqual([ExtraType.gso | (1448 << 16), GsoType.tcpv4]);
    expect(second).toMatchObject({ id: 2, status: PAGE, flags: moreData });
    expect(third).toMatchObject({ id: 3, status: 9000 - 2 * PAGE, flags: 0 });
    const joined = [0, 2, 3].flatMap((page) => [...harness.page(page)]).slice(0, 9000);
    expect(Uint8Array.from(joined)).toEqual(bytes);
  });

  it("begins a frame where most of its bytes keep their place in a word", () => {
    const harness = new Harness();
    harness.give([0, 1, 2, 3, 4]);
    const bytes = makeFrame(8000);
    const memory = new Uint8Array(16_384);
    memory.set(bytes.subarray(66), 4096);
    const frame = new Frame();
    frame.reset(8000);
    frame.head.set(bytes.subarray(0, 66));
    frame.headLength = 66;
    frame.add(memory, 4096, 8000 - 66);
    for (const one of [frame, frame.clone()]) {
      harness.vif.deliver(one);
      harness.vif.flush();
      const [first, second] = harness.received();
      expect(first).toMatchObject({ offset: 6, status: PAGE - 6 });
      expect(second).toMatchObject({ offset: 0, status: 8000 - PAGE + 6 });
      const [head, rest] = [harness.page(first!.id), harness.page(second!.id)];
      expect(Uint8Array.from([...head.subarray(6), ...rest.subarray(0, second!.status)])).toEqual(bytes);
    }
    // Not where that would take one buffer more.
    frame.reset(PAGE);
    frame.headLength = 66;
    frame.add(memory, 4096, PAGE - 66);
    harness.vif.deliver(frame);
    harness.vif.flush();
    expect(harness.received()).toMatchObject([{ offset: 0, status: PAGE }]);
  });

  it("has frames wait for buffers in order, up to the cap, and not for ever", () => {
    const harness = new Harness();
    harness.vif.setBacklog({ bytes: 3 * 1000, age: 1000 });
    const results = [1, 2, 3, 4].map((seed) => harness.deliver(makeFrame(1000, seed)));
    expect(results).toEqual([undefined, undefined, undefined, "no-buffer"]);
    expect(harness.count("rx_no_buffer")).toBe(1);
    expect(harness.vif.waiting).toBe(3);
    // The guest is asked to tell when it gives a buffer.
    expect(harness.give([0, 1])).toBe(true);
    harness.vif.poll(BUDGET);
    expect(harness.received().map(({ id }) => id)).toEqual([0, 1]);
    expect([harness.page(0)[5], harness.page(1)[5]]).toEqual([1, 2]);
    expect(harness.vif.service(harness.clock)).toBe(harness.clock + 1000);
    harness.clock += 1000;
    expect(harness.vif.service(harness.clock)).toBe(Number.POSITIVE_INFINITY);
    expect(harness.count("rx_expired")).toBe(1);
    expect(harness.vif.waiting).toBe(0);
  });

  it("asks for as many buffers as the waiting frame needs", () => {
    const harness = new Harness();
    harness.give([0]);
    harness.deliver(makeFrame(3 * PAGE));
    expect(harness.give([1])).toBe(false);
    expect(harness.vif.arm()).toBe(false);
    expect(harness.give([2])).toBe(true);
    expect(harness.vif.arm()).toBe(true);
    harness.vif.poll(BUDGET);
    expect(harness.received()).toHaveLength(3);
  });

  it("keeps nothing for a frontend that does not tell of its buffers", () => {
    const harness = new Harness({ tells: false });
    expect(harness.deliver(makeFrame(60))).toBe("no-buffer");
    expect(harness.vif.waiting).toBe(0);
  });

  it("prepares what the frontend does not take", () => {
    const asked: string[] = [];
    const harness = new Harness({
      accepts: { sg: false, gso4: false, gso6: false, csum4: false, csum6: true },
      prepare: (frame, accepts) => {
        asked.push(`${frame.segmentation} ${frame.checksum} ${accepts.sg}`);
        return frame.segmentation === "none"
          ? [Frame.of(makeFrame(70))]
          : [Frame.of(makeFrame(71)), Frame.of(makeFrame(72))];
      },
    });
    harness.give([0, 1, 2, 3, 4]);
    harness.deliver(makeFrame(3000), (frame) => {
      frame.segmentation = "tcpv4";
      frame.checksum = "blank";
    });
    harness.deliver(makeFrame(60), (frame) => {
      frame.checksum = "blank";
    });
    harness.deliver(makeFrame(61, 1, 0x86dd), (frame) => {
      frame.checksum = "blank";
    });
    expect(asked).toEqual(["tcpv4 blank false", "none blank false"]);
    expect(harness.received().map(({ status }) => status)).toEqual([71, 72, 70, 61]);
    expect(harness.deliver(makeFrame(PAGE + 1))).toBe("too-long");
  });

  it("filters multicast by the guest's list", () => {
    const harness = new Harness({ multicastControl: true });
    const group = [0x01, 0x00, 0x5e, 0, 0, 0xfb];
    const toGroup = makeFrame(60);
    toGroup.set(group);
    const broadcast = makeFrame(60).fill(0xff, 0, 6);
    harness.give([0, 1, 2, 3]);
    for (const bytes of [toGroup, broadcast, makeFrame(60)]) expect(harness.deliver(bytes)).toBeUndefined();
    expect(harness.received()).toHaveLength(2);
    expect(harness.count("rx_filtered")).toBe(1);
    const extra = (type: number) => [
      { size: 0, flags: TransmitFlag.extraInfo, id: 9 },
      { type, mac: group },
    ];
    harness.put(extra(ExtraType.multicastAdd));
    harness.vif.poll(BUDGET);
    expect(harness.answers()).toEqual([
      [9, NetStatus.okay],
      [0, NetStatus.none],
    ]);
    expect(harness.taken).toEqual([]);
    harness.deliver(toGroup);
    harness.put(extra(ExtraType.multicastDelete));
    harness.vif.poll(BUDGET);
    harness.deliver(toGroup);
    expect(harness.received()).toHaveLength(1);
    harness.vif.setMulticastControl(false);
    harness.deliver(toGroup);
    expect(harness.received()).toHaveLength(1);
  });

  it("spreads flows over queues, each in order", () => {
    const harness = new Harness({ queues: 3 });
    for (let queue = 0; queue < 3; queue++) harness.give([10 * queue, 10 * queue + 1, 10 * queue + 2], queue);
    const used = new Set<number>();
    for (let port = 0; port < 40; port++) {
      const bytes = makeFrame(60);
      bytes.set([0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17], 14);
      bytes.set([port >> 8, port, 0, 53], 34);
      for (let again = 0; again < 2; again++) harness.vif.deliver(Frame.of(bytes));
      harness.vif.flush();
      const got = [0, 1, 2].map((queue) => harness.received(queue).length);
      // Both of a flow on the same queue.
      expect(Math.max(...got)).toBe(2);
      const queue = got.indexOf(2);
      used.add(queue);
      harness.give([10 * queue, 10 * queue + 1], queue);
    }
    expect(used.size).toBe(3);
  });

  it("takes from its queues in turn", () => {
    const harness = new Harness({ queues: 2 });
    for (let n = 0; n < 20; n++) harness.put([{ size: 60, ref: REF }], 0);
    harness.put([{ size: 61, ref: REF }], 1);
    harness.vif.poll(8);
    expect(harness.taken.map(({ bytes }) => bytes.length)).toContain(61);
  });
});

describe("notifications", () => {
  it("go out once a batch by default, where the guest wants them", () => {
    const harness = new Harness();
    harness.give([0, 1, 2, 3]);
    for (let n = 0; n < 3; n++) harness.vif.deliver(Frame.of(makeFrame(60)));
    expect(harness.receiveEvents).toBe(0);
    harness.vif.flush();
    expect(harness.receiveEvents).toBe(1);
    // The guest has not asked for another.
    harness.deliver(makeFrame(60));
    expect(harness.receiveEvents).toBe(1);
    expect(harness.count("notifications_suppressed")).toBe(1);
  });

  it("wait for so many messages or so long, whichever comes first", () => {
    const harness = new Harness();
    harness.vif.setNotification({ messages: 3, delay: 1000 });
    harness.give([0, 1, 2, 3, 4, 5, 6, 7]);
    harness.deliver(makeFrame(60));
    expect(harness.received()).toHaveLength(1);
    expect(harness.receiveEvents).toBe(0);
    expect(harness.vif.service(harness.clock)).toBe(harness.clock + 1000);
    harness.clock += 999;
    harness.vif.service(harness.clock);
    expect(harness.receiveEvents).toBe(0);
    harness.clock += 1;
    expect(harness.vif.service(harness.clock)).toBe(Number.POSITIVE_INFINITY);
    expect(harness.receiveEvents).toBe(1);
    harness.receive[0]!.finalCheckForResponses();
    for (let n = 0; n < 3; n++) {
      expect(harness.receiveEvents).toBe(1);
      harness.deliver(makeFrame(60));
    }
    expect(harness.receiveEvents).toBe(2);
  });

  it("use one channel for both rings where the guest has one", () => {
    const harness = new Harness({ shared: true, accepts: ALL });
    harness.give([0]);
    harness.put([{ size: 60 }]);
    harness.vif.poll(BUDGET);
    harness.deliver(makeFrame(60));
    expect(harness.transmitEvents).toBe(2);
  });
});
