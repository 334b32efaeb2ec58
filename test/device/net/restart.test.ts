/**
 * The backend is killed between any two stores to shared memory, or in the midst of a map or of handing a frame on, and a
 * new one takes over: every request is answered exactly once and in order, no transmitted packet is lost, and no received
 * frame is torn.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { type NetQueueChannel, type NetQueueParts, netQueueParts } from "../../../engine/device/net/netback-queue.ts";
import type { PageExchange } from "../../../engine/device/net/page-exchange.ts";
import { ExtraType, GsoType, NetStatus, ReceiveFlag, TransmitFlag } from "../../../engine/device/net/protocol.ts";
import { BackRing } from "../../../engine/device/ring/back.ts";
import { memoryView } from "../block-backend-harness.ts";
import { Harness, makeFrame, PAGE, REF } from "./net-harness.ts";

class Killed extends Error {}

/** Counts the moments at which a process can die, and dies at the one it is told. */
class Fate {
  left = Number.POSITIVE_INFINITY;
  readonly step = (): void => {
    if (--this.left < 0) throw new Killed();
  };
}

function mortal(fate: Fate): (channel: NetQueueChannel) => NetQueueParts {
  class MortalRing extends BackRing {
    override putResponse(from: Int32Array, at: number, count: number): void {
      // Death in the midst of a response leaves part of it.
      this.shared.copyIn(this.responseProducer, from, at, 1);
      fate.step();
      super.putResponse(from, at, count);
    }
  }
  return (channel) => {
    const plain = netQueueParts(channel);
    for (const journal of [plain.transmitJournal, plain.receiveJournal]) {
      Reflect.set(journal, "step", fate.step);
    }
    return { ...plain, transmitRing: new MortalRing(channel.transmit), receiveRing: new MortalRing(channel.receive) };
  };
}

/** Runs `body`; dies at moment `at`. @returns whether it died */
function dies(fate: Fate, at: number, body: () => void): boolean {
  fate.left = at;
  try {
    body();
    return false;
  } catch (error) {
    if (error instanceof Killed) return true;
    throw error;
  } finally {
    fate.left = Number.POSITIVE_INFINITY;
  }
}

/** A new process: nothing but shared memory is left of the old one, and its maps have been undone. */
function reborn(harness: Harness, fate: Fate): void {
  harness.grants.mapped.length = 0;
  Reflect.set(harness.grants, "free", []);
  harness.grants.onMap = fate.step;
  harness.vif = harness.makeVif(true);
}

/** Dies at every pair of moments: once in life, then in the life after. `life` says when there is none left. */
function everyDeath(run: (first: number, second: number) => { died: boolean; diedAgain: boolean }): void {
  for (let first = 0; ; first++) {
    let result = { died: true, diedAgain: true };
    for (let second = 0; result.diedAgain; second += 3) result = run(first, second);
    if (!result.died) return;
  }
}

describe("transmit", () => {
  const packets = [makeFrame(60, 1), makeFrame(5000, 2), makeFrame(700, 3)];

  it("loses no packet, and answers each slot once", () => {
    everyDeath((first, second) => {
      const fate = new Fate();
      const harness = new Harness({ parts: mortal(fate) });
      harness.onFrame = fate.step;
      harness.grants.onMap = fate.step;
      const { moreData, extraInfo } = TransmitFlag;
      harness.page(0).set(packets[0]!);
      harness.page(1).set(packets[1]!.subarray(0, 4000));
      harness.page(2).set(packets[1]!.subarray(4000));
      harness.page(3).set(packets[2]!);
      harness.put([
        { ref: REF, size: 60, id: 10 },
        { ref: REF + 1, size: 5000, id: 11, flags: moreData | extraInfo },
        { type: ExtraType.gso, size: 1448, gso: GsoType.tcpv4 },
        { ref: REF + 2, size: 1000, id: 12 },
        { ref: REF + 3, size: 700, id: 13 },
      ]);
      const life = (): void => {
        while (harness.vif.poll(2) > 0);
      };
      const died = dies(fate, first, life);
      let diedAgain = false;
      if (died) {
        diedAgain = dies(fate, second, () => {
          reborn(harness, fate);
          life();
        });
        if (diedAgain) {
          reborn(harness, fate);
          life();
        }
      }
      expect(harness.answers()).toEqual([
        [10, NetStatus.okay],
        [11, NetStatus.okay],
        [0, NetStatus.none],
        [12, NetStatus.okay],
        [13, NetStatus.okay],
      ]);
      // Handed on at least once, whole; a later life repeats a batch from its beginning.
      const seen = harness.taken.map(({ bytes }) => packets.findIndex((packet) => Buffer.compare(packet, bytes) === 0));
      expect(new Set(seen)).toEqual(new Set([0, 1, 2]));
      expect(seen.at(-1)).toBe(2);
      expect(harness.log).toEqual([]);
      return { died, diedAgain };
    });
  });
});

describe("a full ring", () => {
  // The guest goes on between the two lives: it takes what is published and uses those slots anew.
  it("loses no packet that is transmitted", () => {
    for (let moment = 0, died = true; died; moment += 1) {
      const fate = new Fate();
      const harness = new Harness({ parts: mortal(fate) });
      harness.onFrame = fate.step;
      let put = 0;
      const fill = (): void => {
        for (; harness.transmit[0]!.free > 0; put++) {
          const [page, offset] = [put >> 6, (put & 63) * 64];
          harness.page(page).set(makeFrame(60), offset);
          harness.page(page).set([put & 0xff, put >> 8], offset + 20);
          harness.put([{ ref: REF + page, offset, size: 60, id: put & 0xff }]);
        }
      };
      fill();
      const life = (): void => {
        while (harness.vif.poll(200) > 0);
      };
      died = dies(fate, moment, life);
      const answered = harness.answers();
      fill();
      if (died) reborn(harness, fate);
      life();
      answered.push(...harness.answers());
      expect(answered).toEqual(Array.from({ length: put }, (_, n) => [n & 0xff, NetStatus.okay]));
      const seen = new Set(harness.taken.map(({ bytes }) => bytes[20]! | (bytes[21]! << 8)));
      expect(seen.size).toBe(put);
    }
  });

  it("answers each receive buffer once, with whole frames", () => {
    for (let moment = 0, died = true; died; moment += 1) {
      const fate = new Fate();
      const harness = new Harness({ parts: mortal(fate), dataPages: 400 });
      let given = 0;
      const fill = (): void => {
        for (; harness.receive[0]!.free > 0; given++) harness.give([given % 400]);
      };
      fill();
      const sizes = [60, 9000, 500, 4096, 12_000, 70];
      died = dies(fate, moment, () => {
        for (const size of sizes) {
          harness.vif.deliver(Frame.of(makeFrame(size, size)));
          if (size === 500) harness.vif.flush();
        }
        harness.vif.flush();
      });
      const before = assemble(harness, (id) => harness.page(id), 0);
      fill();
      if (died) reborn(harness, fate);
      // Every buffer is good for one more small frame.
      for (let n = 0; harness.vif.waiting === 0; n++) harness.deliver(makeFrame(80, n));
      const after = assemble(harness, (id) => harness.page(id), before.next);
      expect(after.next).toBe(given);
      const all = [...before.frames, ...after.frames];
      const first = all.findIndex((bytes) => bytes.length === 80);
      expect(all.slice(0, first).map((bytes) => bytes.length)).toEqual(sizes.slice(0, first));
      for (const [n, bytes] of all.slice(0, first).entries()) {
        expect(Buffer.compare(bytes, makeFrame(sizes[n]!, sizes[n]!))).toBe(0);
      }
      for (const [n, bytes] of all.slice(first).entries()) expect(Buffer.compare(bytes, makeFrame(80, n))).toBe(0);
    }
  });
});

it("a packet is answered to its sender only when its receiver can have it", () => {
  for (let moment = 0, died = true; died; moment++) {
    const fate = new Fate();
    const [sender, receiver] = [new Harness({ parts: mortal(fate) }), new Harness({ parts: mortal(fate) })];
    sender.onFrame = (frame) => {
      fate.step();
      receiver.vif.deliver(frame);
    };
    sender.onBatchEnd = () => {
      fate.step();
      receiver.vif.flush();
    };
    receiver.give(Array.from({ length: 64 }, (_, n) => n));
    for (let n = 0; n < 10; n++) {
      sender.page(n).set(makeFrame(60, n));
      sender.put([{ ref: REF + n, size: 60, id: n }]);
    }
    died = dies(fate, moment, () => {
      while (sender.vif.poll(4) > 0);
    });
    // What a sender has been told is out is with its receiver, even if nobody lives on.
    const got = new Set(assemble(receiver, (id) => receiver.page(id), 0).frames.map((bytes) => bytes[5]));
    const told = sender.answers();
    for (const [id] of told) expect(got).toContain(id);
    if (!died) expect(told).toHaveLength(10);
  }
});

/** Puts what the guest has received together. @returns frames, or for an error the number of its slots as a negative number */
function assemble(
  harness: Harness,
  page: (id: number) => Uint8Array,
  next: number,
): { frames: Uint8Array[]; next: number } {
  const frames: Uint8Array[] = [];
  let parts: Uint8Array[] = [];
  let extra = false;
  let index = next;
  for (const response of harness.received()) {
    if (extra) {
      extra = false;
      index++;
      continue;
    }
    // Responses stand where their requests stood.
    expect(response.id).toBe(index);
    index++;
    if (response.status === NetStatus.error) continue;
    parts.push(page(response.id).slice(response.offset, response.offset + response.status));
    extra = (response.flags & ReceiveFlag.extraInfo) !== 0;
    if ((response.flags & ReceiveFlag.moreData) !== 0) continue;
    frames.push(Buffer.concat(parts));
    parts = [];
  }
  expect(parts).toEqual([]);
  return { frames, next: index };
}

function segmented(bytes: Uint8Array): Frame {
  const frame = Frame.of(bytes);
  frame.segmentation = "tcpv4";
  frame.segmentSize = 1448;
  return frame;
}

describe("receive", () => {
  const sent = [makeFrame(60, 1), makeFrame(9000, 2), makeFrame(500, 3), makeFrame(61, 4)];
  const frames = (): Frame[] => [Frame.of(sent[0]!), segmented(sent[1]!), Frame.of(sent[2]!)];

  it("delivers whole frames in order, and uses every buffer", () => {
    everyDeath((first, second) => {
      const fate = new Fate();
      const harness = new Harness({ parts: mortal(fate) });
      harness.grants.onMap = fate.step;
      harness.give([0, 1, 2, 3, 4, 5, 6, 7, 8]);
      const died = dies(fate, first, () => {
        for (const frame of frames()) harness.vif.deliver(frame);
        harness.vif.flush();
      });
      let diedAgain = false;
      if (died) {
        diedAgain = dies(fate, second, () => reborn(harness, fate));
        if (diedAgain) reborn(harness, fate);
        expect(harness.receiveEvents).toBeGreaterThan(0);
      }
      harness.deliver(sent[3]!);
      const { frames: got, next } = assemble(harness, (id) => harness.page(id), 0);
      const order = got.map((bytes) => sent.findIndex((frame) => Buffer.compare(frame, bytes) === 0));
      // A beginning of what was delivered, and what the new life delivered.
      expect(order).toEqual([...[0, 1, 2].slice(0, order.length - 1), 3]);
      if (!died) expect(order).toEqual([0, 1, 2, 3]);
      // The rest of the buffers is still good.
      for (let index = next; index < 9; index++) expect(harness.deliver(makeFrame(100, index))).toBeUndefined();
      const rest = assemble(harness, (id) => harness.page(id), next);
      expect(rest.next).toBe(9);
      expect(rest.frames).toHaveLength(9 - next);
      return { died, diedAgain };
    });
  });

  it("answers every exchange of pages once", () => {
    everyDeath((first, second) => {
      const fate = new Fate();
      const pool = new FakeExchange(fate);
      const harness = new Harness({ parts: mortal(fate), exchange: pool });
      harness.give([0, 1, 2, 3, 4, 5, 6, 7, 8]);
      const died = dies(fate, first, () => {
        for (const frame of frames()) harness.vif.deliver(frame);
        harness.vif.flush();
      });
      let diedAgain = false;
      if (died) {
        diedAgain = dies(fate, second, () => reborn(harness, fate));
        if (diedAgain) reborn(harness, fate);
      }
      while (harness.deliver(sent[3]!) === undefined && harness.vif.waiting === 0);
      const { frames: got, next } = assemble(harness, (id) => pool.given.get(REF + id) ?? new Uint8Array(0), 0);
      expect(next).toBe(9);
      const order = got.map((bytes) => sent.findIndex((frame) => Buffer.compare(frame, bytes) === 0));
      const before = order.filter((n) => n < 3);
      expect(before).toEqual([0, 1, 2].slice(0, before.length));
      expect(order.slice(before.length).every((n) => n === 3)).toBe(true);
      return { died, diedAgain };
    });
  });

  it("remembers the multicast addresses", () => {
    const fate = new Fate();
    const harness = new Harness({ parts: mortal(fate), multicastControl: true });
    harness.put([
      { size: 0, flags: TransmitFlag.extraInfo },
      { type: ExtraType.multicastAdd, mac: [1, 2, 3, 4, 5, 6] },
    ]);
    harness.vif.poll(1);
    reborn(harness, fate);
    harness.give([0, 1]);
    harness.deliver(makeFrame(60).fill(1, 0, 1));
    const wanted = makeFrame(60);
    wanted.set([1, 2, 3, 4, 5, 6]);
    harness.deliver(wanted);
    expect(harness.received()).toHaveLength(1);
    // A backend that cannot know of it, over the same rings: the guest will not say it again, so it hears everything.
    harness.vif = harness.makeVif(false);
    harness.deliver(makeFrame(60).fill(1, 0, 1));
    expect(harness.received()).toHaveLength(1);
  });

  it("goes on with a ring that another backend has served, at its public index", () => {
    const harness = new Harness();
    for (let n = 0; n < 100; n++) harness.put([{ size: 60, id: n }]);
    harness.vif.poll(1000);
    harness.answers();
    harness.own.bytes.fill(0);
    harness.vif = harness.makeVif(true);
    harness.put([{ size: 60, id: 500 }]);
    expect(harness.vif.poll(10)).toBe(1);
    expect(harness.answers()).toEqual([[500, NetStatus.okay]]);
  });

  it("is not confused by indexes that the guest writes", () => {
    fc.assert(
      fc.property(fc.nat(), fc.nat(), (first, second) => {
        const harness = new Harness();
        harness.give([0, 1, 2]);
        harness.deliver(makeFrame(60));
        harness.sharedReceive[0]!.store(8, first);
        harness.sharedTransmit[0]!.store(8, second);
        harness.vif = harness.makeVif(true);
        harness.deliver(makeFrame(70));
        // What the backend publishes is what it has answered, whatever the guest wrote there.
        expect(harness.sharedReceive[0]!.load(8)).toBe(2);
        expect(harness.sharedTransmit[0]!.load(8)).toBe(0);
      }),
    );
  });
});

/** A pool of pages, and the guest's offers: a reference takes one page, for good. */
class FakeExchange implements PageExchange {
  readonly memory = memoryView(64);
  readonly given = new Map<number, Uint8Array>();
  private readonly free = Array.from({ length: 64 }, (_, n) => n * PAGE);
  private readonly fate: Fate;

  constructor(fate: Fate) {
    this.fate = fate;
  }
  take(): number | undefined {
    const page = this.free.pop();
    if (page !== undefined) this.memory.bytes.fill(0, page, page + PAGE);
    return page;
  }
  give(page: number): void {
    this.free.push(page);
  }
  transfer(ref: number, page: number): boolean {
    this.fate.step();
    if (this.given.has(ref)) return false;
    this.given.set(ref, this.memory.bytes.slice(page, page + PAGE));
    // Room for another: the pool is refilled.
    this.free.push(page);
    this.fate.step();
    return true;
  }
}
