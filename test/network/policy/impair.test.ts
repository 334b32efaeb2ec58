import { describe, expect, test } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { hasRightChecksums } from "../../../engine/network/offload.ts";
import { Impairment } from "../../../engine/network/policy/impair.ts";
import { formatImpairment, NO_IMPAIRMENT, parseImpairment } from "../../../engine/network/policy/impair-spec.ts";
import { Random } from "../../../engine/network/policy/random.ts";
import type { Verdict } from "../../../engine/network/types.ts";
import { ACK, errorOf, ManualClock, must, parsedHeaders, tcpFrame, udpFrame, VIF1 } from "./policy-bench.ts";

const MS = 1e6;

/** An impaired interface, and what came out of it: mark and time of each frame. */
class Line {
  readonly clock = new ManualClock();
  readonly out: { mark: number; at: number; frame: Frame }[] = [];
  readonly impairment: Impairment;
  batches = 0;
  #mark = 0;

  constructor(text: string) {
    this.impairment = new Impairment(must(parseImpairment(text)), {
      clock: this.clock,
      release: (port, frame) => {
        expect(port).toBe(VIF1);
        this.#arrived(frame);
      },
      batchEnd: () => void this.batches++,
    });
  }

  /** Sends a UDP frame whose last two bytes are its number. */
  send(size = 100): Verdict {
    const bytes = udpFrame({}, size);
    bytes[bytes.length - 2] = this.#mark >> 8;
    bytes[bytes.length - 1] = this.#mark++ & 255;
    return this.sendFrame(Frame.of(bytes));
  }

  sendFrame(frame: Frame): Verdict {
    const verdict = this.impairment.hook(frame, parsedHeaders(frame), VIF1);
    if (verdict === "accept") this.#arrived(frame);
    // The frame was only lent.
    else frame.head.fill(0);
    return verdict;
  }

  get marks(): number[] {
    return this.out.map(({ mark }) => mark);
  }

  #arrived(frame: Frame): void {
    const { head, length } = frame;
    this.out.push({ mark: ((head[length - 2] ?? 0) << 8) | (head[length - 1] ?? 0), at: this.clock.time, frame });
  }
}

describe("text", () => {
  test.each([
    ["delay=50ms,jitter=10ms,loss=1%,duplicate=0.1%,reorder=5%", undefined],
    ["delay=200us", undefined],
    [" delay = 1s , loss = 100% ", "delay=1s,loss=100%"],
    ["delay=50ms,jitter=5ms,distribution=normal", undefined],
    ["rate=10Mb/s", "rate=10000000b/s"],
    [
      "rate=1MB/s,reorder=1%,gap=5,limit=50,bytes=100000,seed=7,corrupt=2.5%",
      "reorder=1%,gap=5,corrupt=2.5%,rate=8000000b/s,limit=50,bytes=100000,seed=7",
    ],
    ["none", undefined],
    ["", "none"],
  ])("%s", (text, printed) => {
    const spec = must(parseImpairment(text));
    expect(formatImpairment(spec)).toBe(printed ?? text);
    expect(must(parseImpairment(formatImpairment(spec)))).toEqual(spec);
  });

  test.each([
    ["delay=50ms,los=1%", "los", "did you mean loss?"],
    ["delay=50", "50", '"50" is no time'],
    ["delay=61s", "61s", "time too long"],
    ["loss=1", "1", "write 1%"],
    ["loss=101%", "101%", "is no share"],
    ["loss=-1%", "-1%", "is no share"],
    ["loss", "loss", "loss without a value"],
    ["loss=1%,loss=2%", "loss", "given twice"],
    ["jitter=10ms", "jitter", "jitter without delay"],
    ["reorder=5%", "reorder", "reorder without delay or rate"],
    ["delay=5ms,gap=3", "gap", "gap without reorder"],
    ["delay=5ms,distribution=normal", "distribution", "distribution without jitter"],
    ["delay=5ms,jitter=1ms,distribution=pareto", "pareto", "uniform or normal"],
    ["rate=fast", "fast", "is no rate"],
    ["limit=0", "0", "out of range"],
    ["delay=5ms,,loss=1%", "", "unknown impairment"],
  ])("%s is refused", (text, word, what) => {
    const error = errorOf(parseImpairment(text));
    expect(error.message).toContain(what);
    if (word !== "") expect(text.slice(error.offset, error.offset + error.span)).toBe(word);
  });
});

describe("what becomes of frames", () => {
  test("delay: all of them, in order, that much later, as they were", () => {
    const line = new Line("delay=50ms");
    const start = line.clock.time;
    for (let n = 0; n < 5; n++) {
      expect(line.send()).toBe("taken");
      line.clock.advance(MS);
    }
    line.clock.advance(44 * MS);
    expect(line.out).toEqual([]);
    line.clock.advance(100 * MS);
    expect(line.marks).toEqual([0, 1, 2, 3, 4]);
    expect(line.out.map(({ at }) => at - start)).toEqual([50, 51, 52, 53, 54].map((ms) => ms * MS));
    expect(line.batches).toBe(5);
    expect(line.impairment.counters).toMatchObject({ offered: 5, waitingFrames: 0, waitingBytes: 0 });
    expect(line.clock.pending).toBe(0);
  });

  test.each(["uniform", "normal"])("jitter (%s) spreads times around the delay and keeps the order", (distribution) => {
    const line = new Line(`delay=50ms,jitter=5ms,distribution=${distribution},seed=3,limit=100000`);
    const sent: number[] = [];
    // Far enough apart that no frame waits for the one before it.
    for (let n = 0; n < 2000; n++) {
      sent.push(line.clock.time);
      line.send();
      line.clock.advance(30 * MS);
    }
    line.clock.advance(1000 * MS);
    expect(line.marks).toEqual(sent.map((_, n) => n));
    const delays = line.out.map(({ at }, n) => (at - (sent[n] ?? 0)) / MS);
    const mean = delays.reduce((sum, one) => sum + one, 0) / delays.length;
    const deviation = Math.sqrt(delays.reduce((sum, one) => sum + (one - mean) ** 2, 0) / delays.length);
    expect(mean).toBeGreaterThan(49.5);
    expect(mean).toBeLessThan(50.5);
    // A uniform spread of ± 5 has a deviation of 5 / √3.
    const expected = distribution === "normal" ? 5 : 5 / Math.sqrt(3);
    expect(Math.abs(deviation - expected)).toBeLessThan(0.3);
  });

  test("jitter does not reorder frames that follow each other closely", () => {
    const line = new Line("delay=50ms,jitter=40ms,seed=5");
    for (let n = 0; n < 500; n++) {
      line.send();
      line.clock.advance(0.1 * MS);
    }
    line.clock.advance(1000 * MS);
    expect(line.marks).toEqual(Array.from({ length: 500 }, (_, n) => n));
  });

  test("loss and duplication, by a seed that repeats them", () => {
    const run = (seed: number) => {
      const line = new Line(`loss=10%,duplicate=5%,seed=${seed}`);
      for (let n = 0; n < 10_000; n++) {
        line.send();
        line.clock.advance(MS);
      }
      return line;
    };
    const line = run(1);
    const { lost, duplicated } = line.impairment.counters;
    expect(Math.abs(lost - 950)).toBeLessThan(100);
    expect(Math.abs(duplicated - 450)).toBeLessThan(75);
    expect(line.out.length).toBe(10_000 - lost + duplicated);
    const { marks } = line;
    expect(marks.every((mark, n) => n === 0 || mark >= (marks[n - 1] ?? 0))).toBe(true);
    expect(run(1).marks).toEqual(marks);
    expect(run(2).marks).not.toEqual(marks);
  });

  test("reordering: about that share overtakes, and what waits keeps its order", () => {
    const line = new Line("delay=10ms,reorder=20%,seed=9,limit=100000");
    for (let n = 0; n < 2000; n++) {
      line.send();
      line.clock.advance(MS);
    }
    line.clock.advance(100 * MS);
    const { reordered } = line.impairment.counters;
    expect(Math.abs(reordered - 400)).toBeLessThan(70);
    const late = line.out.filter(({ mark, at }) => at - (1000 + mark * MS) > 0).map(({ mark }) => mark);
    expect(late.length).toBe(2000 - reordered);
    expect(late).toEqual([...late].sort((a, b) => a - b));
    expect(line.marks).not.toEqual([...line.marks].sort((a, b) => a - b));
  });

  test("gap: only every fifth frame overtakes", () => {
    const line = new Line("delay=10ms,reorder=100%,gap=5");
    const verdicts = Array.from({ length: 15 }, () => line.send());
    expect(verdicts.flatMap((verdict, n) => (verdict === "accept" ? [n] : []))).toEqual([4, 9, 14]);
  });

  test("bandwidth: frames leave one after the other", () => {
    const line = new Line("rate=1MB/s");
    const start = line.clock.time;
    for (let n = 0; n < 4; n++) line.send(1000 - 42);
    line.clock.advance(10 * MS);
    expect(line.out.map(({ at }) => Math.round((at - start) / 1000))).toEqual([1000, 2000, 3000, 4000]);
  });

  test("the queue is bounded by frames and by bytes; what comes too much is counted", () => {
    const frames = new Line("delay=50ms,limit=10");
    for (let n = 0; n < 25; n++) frames.send();
    expect(frames.impairment.counters).toMatchObject({ overflowed: 15, waitingFrames: 10 });
    const bytes = new Line("delay=50ms,bytes=65536");
    for (let n = 0; n < 100; n++) bytes.send(1000 - 42);
    expect(bytes.impairment.counters).toMatchObject({ overflowed: 35, waitingFrames: 65, waitingBytes: 65_000 });
    bytes.clock.advance(51 * MS);
    expect(bytes.out).toHaveLength(65);
  });

  test("corruption turns one bit, which the checksum shows even where it was blank", () => {
    const line = new Line("corrupt=100%,seed=4");
    for (let n = 0; n < 50; n++) {
      const frame = Frame.of(tcpFrame(ACK, {}, new Uint8Array(100)));
      frame.checksum = n % 2 === 0 ? "blank" : "validated";
      line.sendFrame(frame);
    }
    line.clock.advance(MS);
    expect(line.out).toHaveLength(50);
    const clean = tcpFrame(ACK, {}, new Uint8Array(100));
    for (const { frame } of line.out) {
      expect(frame.checksum).toBe("complete");
      const turned = [...frame.head].reduce((sum, byte, n) => sum + bits(byte ^ (clean[n] ?? 0)), 0);
      expect(turned).toBe(1);
    }
  });

  test("a frame with segmentation becomes segments, of which one is hit", () => {
    const line = new Line("corrupt=100%,seed=4");
    const frame = Frame.of(tcpFrame(ACK, {}, new Uint8Array(3500)));
    frame.checksum = "blank";
    frame.segmentation = "tcpv4";
    frame.segmentSize = 1000;
    line.sendFrame(frame);
    line.clock.advance(MS);
    expect(line.out.map((one) => one.frame.length)).toEqual([1054, 1054, 1054, 554]);
    const wrong = line.out.filter((one) => !isRight(one.frame));
    expect(wrong).toHaveLength(1);
  });

  test("none costs nothing; what waits is still delivered in order when impairments end", () => {
    const line = new Line("delay=50ms");
    line.send();
    line.impairment.set(NO_IMPAIRMENT);
    expect(line.send()).toBe("taken");
    line.clock.advance(60 * MS);
    expect(line.marks).toEqual([0, 1]);
    expect(line.send()).toBe("accept");
    expect(line.impairment.counters.offered).toBe(2);
  });

  test("after close nothing comes any more", () => {
    const line = new Line("delay=50ms");
    line.send();
    line.impairment.close();
    expect(line.clock.pending).toBe(0);
    line.clock.advance(100 * MS);
    expect(line.out).toEqual([]);
    expect(line.impairment.counters).toMatchObject({ waitingFrames: 0, waitingBytes: 0 });
  });
});

function bits(byte: number): number {
  return [...byte.toString(2)].filter((digit) => digit === "1").length;
}

/** Whether headers and checksums are sound: a bit turned in a length makes the headers malformed. */
function isRight(frame: Frame): boolean {
  try {
    return hasRightChecksums(frame, parsedHeaders(frame));
  } catch {
    return false;
  }
}

test("the dice are even", () => {
  const random = new Random(42);
  const buckets = new Array<number>(16).fill(0);
  for (let n = 0; n < 16_000; n++) {
    const at = Math.floor(random.uniform() * 16);
    buckets[at] = (buckets[at] ?? 0) + 1;
  }
  for (const count of buckets) expect(Math.abs(count - 1000)).toBeLessThan(150);
  const same = new Random(42);
  const again = new Random(42);
  expect(Array.from({ length: 8 }, () => same.word())).toEqual(Array.from({ length: 8 }, () => again.word()));
});
