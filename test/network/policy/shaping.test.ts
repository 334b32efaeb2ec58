import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { describeRate, formatRateNode, parseRate, parseRateNode } from "../../../engine/network/policy/rate.ts";
import { FairQueue, RateLimiter } from "../../../engine/network/policy/shaping.ts";
import { errorOf, must, SECOND } from "./policy-bench.ts";

describe("xl's rate", () => {
  test.each([
    ["10Mb/s", 62_500, 50_000],
    ["10Mb/s@50ms", 62_500, 50_000],
    ["250KB/s", 12_500, 50_000],
    ["1MB/s@20ms", 20_000, 20_000],
    ["1GB/s@100us", 100_000, 100],
    ["8000b/s@1s", 1000, 1_000_000],
    ["20", 1, 50_000],
    ["1000B", 50, 50_000],
  ])("%s", (text, bytes, intervalUs) => {
    const rate = must(parseRate(text));
    expect(rate).toEqual({ bytes, intervalUs });
    expect(parseRateNode(formatRateNode(rate))).toEqual(rate);
  });

  test.each([
    ["", '"" is no rate'],
    ["fast", '"fast" is no rate'],
    ["10mb/s", "is no rate"],
    ["-1Mb/s", "is no rate"],
    ["10M/s", "rate without b or B"],
    ["0Mb/s", "rate of 0"],
    ["19B/s", "less than a byte an interval"],
    ["10Mb/s@", "is no interval"],
    ["10Mb/s@50", "interval without a unit"],
    ["10Mb/s@0ms", "interval out of range"],
    ["10Mb/s@5000s", "interval out of range"],
    ["9999999999GB/s", "rate too high"],
  ])("%s is refused", (text, what) => {
    expect(errorOf(parseRate(text)).message).toContain(what);
  });

  test.each(["", "1", "1,", "0,50000", "10,0", "-1,5", "1,2,3", "4294967296,1", "1e3,5"])(
    "node %j is refused",
    (node) => {
      expect(parseRateNode(node)).toBeUndefined();
    },
  );

  test("for people", () => {
    expect(describeRate(must(parseRate("10Mb/s")))).toBe("10.00 Mbit/s every 50 ms");
  });
});

/** Bytes that pass in ten seconds of a sender that always has more and waits as long as it is told. */
function sendFor(limiter: RateLimiter, seconds: number, length: (n: number) => number): number {
  let now = 5 * SECOND;
  const end = now + seconds * SECOND;
  let sent = 0;
  for (let n = 0; now < end; n++) {
    const wait = limiter.allow(length(n), now);
    if (wait === 0) sent += length(n);
    else now += wait;
  }
  return sent;
}

describe("RateLimiter", () => {
  test.each([
    ["frames of Ethernet", () => 1514],
    ["small frames", () => 60],
    ["segmentation, longer than the bucket", () => 65_000],
    ["mixed", (n: number) => (n % 3 === 0 ? 60 : n % 3 === 1 ? 1514 : 40_000)],
  ])("10 Mb/s lets 10 ± 1 through: %s", (_name, length) => {
    const sent = sendFor(new RateLimiter(must(parseRate("10Mb/s"))), 10, length);
    const megabits = (sent * 8) / 10 / 1e6;
    expect(megabits).toBeGreaterThan(9);
    expect(megabits).toBeLessThan(11);
  });

  test("an idle sender saves one interval's credit and no more", () => {
    const limiter = new RateLimiter({ bytes: 10_000, intervalUs: 50_000 });
    expect(limiter.allow(10_000, 0)).toBe(0);
    expect(limiter.allow(1, 0)).toBeGreaterThan(0);
    expect(limiter.allow(10_000, 3600 * SECOND)).toBe(0);
    expect(limiter.allow(5000, 3600 * SECOND)).toBe(25e6);
    // A clock that goes back gives nothing.
    expect(limiter.allow(5000, 0)).toBe(25e6);
  });

  test("a debt is paid before the next frame", () => {
    const limiter = new RateLimiter({ bytes: 10_000, intervalUs: 50_000 });
    expect(limiter.allow(60_000, 0)).toBe(0);
    expect(limiter.allow(1000, 0)).toBe(255e6);
    limiter.set({ bytes: 100_000, intervalUs: 50_000 });
    expect(limiter.allow(1000, 0)).toBe(25.5e6);
  });

  test("waiting as long as was said is enough", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1e7 }),
        fc.integer({ min: 1, max: 1e7 }),
        fc.array(fc.integer({ min: 1, max: 65_553 }), { minLength: 1, maxLength: 50 }),
        (bytes, intervalUs, lengths) => {
          const limiter = new RateLimiter({ bytes, intervalUs });
          let now = 0;
          for (const length of lengths) {
            const wait = limiter.allow(length, now);
            now += wait;
            if (wait > 0) expect(limiter.allow(length, now)).toBe(0);
          }
        },
      ),
    );
  });
});

function frame(length: number, mark = 0): Frame {
  const bytes = new Uint8Array(length);
  bytes[0] = mark;
  return Frame.of(bytes);
}

describe("FairQueue", () => {
  test("shares bytes, not frames", () => {
    const queue = new FairQueue({ bytesPerSender: 1e9, framesPerSender: 1e6 });
    for (let n = 0; n < 20_000; n++) queue.offer(1, frame(64));
    for (let n = 0; n < 1000; n++) queue.offer(2, frame(1514));
    for (let n = 0; n < 30; n++) queue.offer(3, frame(60_000));
    let bytes = 0;
    while (bytes < 1_500_000) bytes += queue.take()?.length ?? Number.NaN;
    const shares = queue.counters().map((one) => one.bytes / bytes);
    for (const share of shares) expect(share).toBeCloseTo(1 / 3, 1);
    expect(Math.max(...shares) - Math.min(...shares)).toBeLessThan(0.06);
  });

  test("weights", () => {
    const queue = new FairQueue();
    queue.setWeight(1, 3);
    for (let n = 0; n < 300; n++) for (const sender of [1, 2]) queue.offer(sender, frame(1000));
    for (let n = 0; n < 200; n++) queue.take();
    const [one, two] = queue.counters();
    expect((one?.bytes ?? 0) / (two?.bytes ?? 1)).toBeGreaterThan(2.7);
    expect((one?.bytes ?? 0) / (two?.bytes ?? 1)).toBeLessThan(3.3);
  });

  test("a full queue drops its sender's frames, counted; others are not touched", () => {
    const queue = new FairQueue({ bytesPerSender: 10_000, framesPerSender: 50 });
    for (let n = 0; n < 100; n++) queue.offer(1, frame(1000));
    for (let n = 0; n < 100; n++) queue.offer(2, frame(1));
    expect(queue.offer(3, frame(1000))).toBe(true);
    const [one, two, three] = queue.counters();
    expect(one).toMatchObject({ waitingFrames: 9, waitingBytes: 9000, droppedFrames: 91, droppedBytes: 91_000 });
    expect(two).toMatchObject({ waitingFrames: 50, droppedFrames: 50 });
    expect(three).toMatchObject({ waitingFrames: 1, droppedFrames: 0 });
  });

  test("frames are copies, each sender's in order, and peekLength tells the next one's", () => {
    const operation = fc.oneof(
      fc.record({ sender: fc.integer({ min: 1, max: 4 }), length: fc.integer({ min: 1, max: 5000 }) }),
      fc.constant("take" as const),
      fc.record({ remove: fc.integer({ min: 1, max: 4 }) }),
    );
    fc.assert(
      fc.property(fc.array(operation, { maxLength: 300 }), (operations) => {
        const queue = new FairQueue({ quantum: 500 });
        const model = new Map<number, number[]>();
        let mark = 0;
        for (const one of operations) {
          if (one === "take") {
            const length = queue.peekLength();
            const taken = queue.take();
            expect(taken?.length ?? 0).toBe(length);
            if (taken === undefined) expect(queue.length).toBe(0);
            else
              expect(
                [...model.values()].some((marks) => marks[0] === taken.head[0] && marks.shift() !== undefined),
              ).toBe(true);
          } else if ("remove" in one) {
            queue.remove(one.remove);
            model.delete(one.remove);
          } else {
            mark = (mark + 1) & 255;
            const sent = frame(one.length, mark);
            if (queue.offer(one.sender, sent)) model.set(one.sender, [...(model.get(one.sender) ?? []), mark]);
            sent.head[0] = 0;
          }
          expect(queue.length).toBe([...model.values()].reduce((sum, marks) => sum + marks.length, 0));
        }
      }),
    );
  });
});
