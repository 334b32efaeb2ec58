import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BackRing } from "../../engine/device/ring/back.ts";
import { FrontRing } from "../../engine/device/ring/front.ts";
import { initialiseSharedRing, ringSize, SharedRing } from "../../engine/device/ring/layout.ts";
import { memoryView, PAGE } from "./block-backend-harness.ts";

const SLOT = 112;

function makeRing(pages: number[], slot = SLOT, index = 0) {
  const memory = memoryView(8);
  // What is not written by us shows.
  memory.bytes.fill(0xaa);
  const shared = new SharedRing(memory, pages, slot);
  initialiseSharedRing(shared);
  const at = (pages[0] ?? 0) / 4;
  if (index !== 0) {
    memory.words[at] = index;
    memory.words[at + 1] = index + 1;
    memory.words[at + 2] = index;
    memory.words[at + 3] = index + 1;
  }
  const front = new FrontRing(shared, index);
  const back = new BackRing(shared, { requestConsumer: index, responseProducer: index });
  return { memory, shared, front, back, view: memory.view };
}

function message(value: number, words = SLOT / 4): Int32Array {
  return Int32Array.from({ length: words }, (_, i) => value * 1000 + i);
}

describe("shared ring layout", () => {
  // Each by hand: the greatest power of two not above (pages * 4096 - 64) / slot.
  it.each([
    [1, 112, 32],
    [2, 112, 64],
    [4, 112, 128],
    [16, 112, 512],
    [1, 108, 32],
    [1, 12, 256],
    [1, 8, 256],
    [1, 4033, 0],
  ])("%i pages of %i-byte slots hold %i", (pages, slot, size) => {
    expect(ringSize(pages, slot)).toBe(size);
  });

  it("initialises as SHARED_RING_INIT does", () => {
    const { memory } = makeRing([PAGE]);
    const header = memory.bytes.subarray(PAGE, PAGE + 64);
    expect([...header.subarray(0, 16)]).toEqual([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    expect(header.subarray(16).every((byte) => byte === 0)).toBe(true);
    expect(memory.bytes[PAGE + 64]).toBe(0xaa);
    expect(memory.bytes[PAGE - 1]).toBe(0xaa);
  });

  it("puts requests, responses and indexes where ring.h has them", () => {
    const { front, back, view, memory } = makeRing([0]);
    front.putRequest(message(1));
    front.putRequest(message(2));
    expect(view.getUint32(0, true)).toBe(0);
    expect(front.pushRequestsAndCheckNotify()).toBe(true);
    expect(view.getUint32(0, true)).toBe(2);
    expect(view.getInt32(64, true)).toBe(1000);
    expect(view.getInt32(64 + 108, true)).toBe(1027);
    expect(view.getInt32(64 + 112, true)).toBe(2000);

    const copy = new Int32Array(40);
    expect(back.unconsumedRequests()).toBe(2);
    back.copyRequest(copy, 5);
    expect([...copy.subarray(5, 33)]).toEqual([...message(1)]);
    back.putResponse(Int32Array.of(7, 8, 9, 10), 0, 4);
    expect(view.getUint32(8, true)).toBe(0);
    expect(back.pushResponsesAndCheckNotify()).toBe(true);
    expect(view.getUint32(8, true)).toBe(1);
    expect([16, 17, 18, 19, 20].map((word) => memory.words[word])).toEqual([7, 8, 9, 10, 1004]);

    // One request is left, so no event index moves.
    expect(back.finalCheckForRequests()).toBe(true);
    expect(view.getUint32(4, true)).toBe(1);
    back.copyRequest(copy, 0);
    expect(back.finalCheckForRequests()).toBe(false);
    expect(view.getUint32(4, true)).toBe(3);
    front.copyResponse(copy, 0, 4);
    expect(front.finalCheckForResponses()).toBe(false);
    expect(view.getUint32(12, true)).toBe(2);
  });

  it("lays slots over pages that are anywhere", () => {
    // Second page below the first. Slot 36 of 112 bytes begins the second page; slot 72 straddles into the third.
    const pages = [4 * PAGE, PAGE, 6 * PAGE, 3 * PAGE];
    const { front, view, shared } = makeRing(pages);
    expect(shared.size).toBe(128);
    for (let i = 0; i < 128; i++) front.putRequest(message(i));
    expect(view.getInt32(PAGE, true)).toBe(36_000);
    // 64 + 72 * 112 = 8128: 64 bytes in the second page, 48 in the third.
    expect(view.getInt32(PAGE + 4032, true)).toBe(72_000);
    expect(view.getInt32(PAGE + 4092, true)).toBe(72_015);
    expect(view.getInt32(6 * PAGE, true)).toBe(72_016);
    expect(view.getInt32(6 * PAGE + 44, true)).toBe(72_027);
    expect(view.getInt32(6 * PAGE + 48, true)).toBe(73_000);
    const copy = new Int32Array(28);
    shared.copyOut(72, copy, 0, 28);
    expect([...copy]).toEqual([...message(72)]);
    shared.copyOut(72 + 128, copy, 0, 4);
    expect([...copy.subarray(0, 4)]).toEqual([72_000, 72_001, 72_002, 72_003]);
  });

  it("refuses impossible places", () => {
    const memory = memoryView(2);
    expect(() => new SharedRing(memory, [2 * PAGE], SLOT)).toThrow(RangeError);
    expect(() => new SharedRing(memory, [4], SLOT)).toThrow(RangeError);
    expect(() => new SharedRing(memory, [], SLOT)).toThrow(RangeError);
    expect(() => new SharedRing(memory, [0], 110)).toThrow(RangeError);
  });
});

describe("indexes", () => {
  it("run over 2^32", () => {
    const start = 0xffff_fff0;
    const { front, back, view } = makeRing([0], SLOT, start);
    const copy = new Int32Array(28);
    for (let i = 0; i < 100; i++) {
      expect(front.putRequest(message(i))).toBe(true);
      expect(front.pushRequestsAndCheckNotify()).toBe(true);
      expect(back.unconsumedRequests()).toBe(1);
      back.copyRequest(copy, 0);
      expect(copy[0]).toBe(i * 1000);
      back.putResponse(Int32Array.of(i), 0, 1);
      expect(back.pushResponsesAndCheckNotify()).toBe(true);
      expect(back.finalCheckForRequests()).toBe(false);
      expect(front.unconsumedResponses()).toBe(1);
      front.copyResponse(copy, 0, 1);
      expect(copy[0]).toBe(i);
      expect(front.finalCheckForResponses()).toBe(false);
    }
    expect(view.getUint32(0, true)).toBe((start + 100) >>> 0);
  });

  it.each([33, 34, 1000, 2 ** 31, 2 ** 32 - 1])("a request producer %i ahead of the responses is broken", (ahead) => {
    const { back, memory } = makeRing([0]);
    memory.words[0] = ahead | 0;
    expect(back.unconsumedRequests()).toBe("broken");
    expect(back.finalCheckForRequests()).toBe("broken");
  });

  it("a request producer that goes back behind what was consumed is broken", () => {
    const { back, memory } = makeRing([0]);
    memory.words[0] = 4;
    for (let i = 0; i < 4; i++) back.copyRequest(new Int32Array(28), 0);
    memory.words[0] = 3;
    expect(back.unconsumedRequests()).toBe("broken");
  });

  it("exactly a ring full of requests is taken, one more is not", () => {
    const { back, memory } = makeRing([0]);
    memory.words[0] = 32;
    expect(back.unconsumedRequests()).toBe(32);
    for (let i = 0; i < 32; i++) back.copyRequest(new Int32Array(28), 0);
    memory.words[0] = 33;
    expect(back.unconsumedRequests()).toBe("broken");
    back.putResponse(message(0), 0, 4);
    expect(back.unconsumedRequests()).toBe(1);
  });

  it.each([1, 3, 2 ** 31, 2 ** 32 - 1])(
    "a response producer at %i with fewer requests pushed is broken",
    (producer) => {
      const { front, memory } = makeRing([0]);
      // One request is pushed less than there are responses; one that is put but not pushed does not count.
      if (producer === 3) {
        front.putRequest(message(0));
        front.putRequest(message(1));
        front.pushRequestsAndCheckNotify();
        front.putRequest(message(2));
      }
      memory.words[2] = producer | 0;
      expect(front.unconsumedResponses()).toBe("broken");
      expect(front.finalCheckForResponses()).toBe("broken");
    },
  );

  it("a full ring takes no request", () => {
    const { front } = makeRing([0]);
    for (let i = 0; i < 32; i++) expect(front.putRequest(message(i))).toBe(true);
    expect(front.free).toBe(0);
    expect(front.putRequest(message(99))).toBe(false);
    expect(front.outstanding).toBe(32);
  });
});

describe("hold-off", () => {
  it("a batch costs one event", () => {
    const { front, back } = makeRing([0]);
    for (let i = 0; i < 16; i++) front.putRequest(message(i));
    expect(front.pushRequestsAndCheckNotify()).toBe(true);
    expect(front.finalCheckForResponses(16)).toBe(false);
    const copy = new Int32Array(28);
    const events = [];
    for (let i = 0; i < 16; i++) {
      back.copyRequest(copy, 0);
      back.putResponse(copy, 0, 4);
      events.push(back.pushResponsesAndCheckNotify());
    }
    expect(events.indexOf(true)).toBe(15);
  });

  it("is cut down to what can come", () => {
    const { front, back } = makeRing([0]);
    front.putRequest(message(0));
    front.pushRequestsAndCheckNotify();
    expect(front.finalCheckForResponses(20)).toBe(false);
    back.copyRequest(new Int32Array(28), 0);
    back.putResponse(message(0), 0, 4);
    expect(back.pushResponsesAndCheckNotify()).toBe(true);
  });

  it("no event for requests while the backend is still at work", () => {
    const { front } = makeRing([0]);
    front.putRequest(message(0));
    expect(front.pushRequestsAndCheckNotify()).toBe(true);
    // The backend has not asked again since.
    front.putRequest(message(1));
    expect(front.pushRequestsAndCheckNotify()).toBe(false);
  });
});

describe("both ends together", () => {
  type Step = "put" | "push" | "take" | "answer" | "publish" | "read";
  const steps = fc.array(fc.constantFrom<Step>("put", "push", "take", "answer", "publish", "read"), { maxLength: 400 });

  it("lose, double and reorder nothing, whatever the interleaving, and no end sleeps for ever", () => {
    fc.assert(
      fc.property(steps, fc.nat(0xffff_ffff), fc.integer({ min: 1, max: 40 }), (program, index, holdOff) => {
        const { front, back } = makeRing([3 * PAGE, 0], SLOT, index);
        let next = 0;
        let expected = 0;
        let read = 0;
        const taken: number[] = [];
        const copy = new Int32Array(28);
        // Awake ends look; sleeping ones wait for an event, as a driver does.
        let backAwake = false;
        let frontAwake = false;
        const run = (step: Step) => {
          if (step === "put") {
            if (front.putRequest(message(next))) next++;
          } else if (step === "push") backAwake = front.pushRequestsAndCheckNotify() || backAwake;
          else if (step === "take" && backAwake) {
            const available = back.unconsumedRequests();
            if (available === "broken") throw new Error("broken");
            if (available === 0) {
              backAwake = back.finalCheckForRequests() === true;
              return;
            }
            back.copyRequest(copy, 0);
            expect([...copy]).toEqual([...message(expected)]);
            taken.push(expected++);
          } else if (step === "answer") {
            const answer = taken.shift();
            if (answer !== undefined) back.putResponse(Int32Array.of(answer, ~answer), 0, 2);
          } else if (step === "publish") frontAwake = back.pushResponsesAndCheckNotify() || frontAwake;
          else if (step === "read" && frontAwake) {
            const available = front.unconsumedResponses();
            if (available === "broken") throw new Error("broken");
            if (available === 0) {
              frontAwake = front.finalCheckForResponses(holdOff) === true;
              return;
            }
            front.copyResponse(copy, 0, 2);
            expect([copy[0], copy[1]]).toEqual([read, ~read]);
            read++;
          }
        };
        for (const step of program) run(step);
        // Drain: everything arrives by events alone.
        for (let i = 0; i < 1000 && read < next; i++) {
          for (const step of ["push", "take", "answer", "publish", "read"] as const) run(step);
        }
        expect(read).toBe(next);
      }),
      { numRuns: 300 },
    );
  });
});
