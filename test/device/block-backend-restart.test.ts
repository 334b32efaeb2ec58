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
import { FakeStore, Harness, wholePages } from "./block-backend-harness.ts";

const DISK_SECTORS = 64;

class Killed extends Error {}

/** Counts the moments at which a process can die, and dies at the one it is told. */
class Fate {
  left = Number.POSITIVE_INFINITY;
  steps = 0;
  readonly step = (): void => {
    this.steps++;
    if (--this.left < 0) throw new Killed();
  };
}

class MortalRegion extends InFlightRegion {
  fate: Fate | undefined;
  protected override step(): void {
    this.fate?.step();
  }
}

class MortalRing extends BackRing {
  fate: Fate | undefined;
  override copyRequest(into: Int32Array, at: number): void {
    // Death in the midst of the copy leaves part of it.
    this.shared.copyOut(this.requestConsumer, into, at, 3);
    this.fate?.step();
    super.copyRequest(into, at);
  }
  override putResponse(from: Int32Array, at: number, count: number): void {
    this.shared.copyIn(this.responseProducer, from, at, 2);
    this.fate?.step();
    super.putResponse(from, at, count);
  }
}

interface Sent {
  readonly operation: number;
  readonly sector: number;
  readonly sectors: number;
  readonly page: number;
  /** For each sector: how many writes were sent before. */
  readonly writesBefore: readonly number[];
}

/** A frontend that knows what must come of its requests. */
class Model {
  readonly fate = new Fate();
  readonly harness: Harness;
  readonly store: FakeStore;
  readonly sent = new Map<number, Sent>();
  /** For each sector: the stamps written to it, in order. */
  readonly history: number[][] = Array.from({ length: DISK_SECTORS }, () => [0]);
  readonly durable: Uint32Array;
  readonly pages: number[] = Array.from({ length: 32 }, (_, i) => i);
  answered = 0;
  restarts = 0;
  private next = 1;

  constructor(later: boolean, persistent: boolean) {
    this.store = new FakeStore(DISK_SECTORS * 512, { later });
    this.durable = new Uint32Array(DISK_SECTORS);
    this.harness = new Harness({ store: this.store, features: { persistent }, persistentGrants: 5 });
    this.store.onStep = this.fate.step;
    this.store.onFlush = () => {
      for (let sector = 0; sector < DISK_SECTORS; sector++) this.durable[sector] = this.onDisk(sector);
    };
    this.embody();
    this.harness.service.start();
  }

  /** A new process: nothing but the shared memory is left of the old one. */
  private embody(): void {
    const { harness } = this;
    const ring = new MortalRing(harness.shared);
    const region = new MortalRegion(harness.own, 64, harness.shared.size, harness.protocol.slotSize);
    ring.fate = this.fate;
    region.fate = this.fate;
    harness.ring = ring;
    harness.region = region;
    harness.grants.mapped.length = 0;
    Reflect.set(harness.grants, "free", []);
    harness.grants.onMap = this.fate.step;
    this.store.pending.length = 0;
    harness.service = harness.makeService();
  }

  onDisk(sector: number): number {
    return new DataView(this.store.data.buffer).getUint32(sector * 512, true);
  }

  private busy(sector: number, sectors: number): boolean {
    return [...this.sent.values()].some(
      (other) => sector < other.sector + other.sectors && other.sector < sector + sectors,
    );
  }

  /**
   * Sends a request, if it can be. With an asynchronous store, none that overlaps one in flight: nobody orders those.
   */
  send(operation: number, sector: number, sectors: number): void {
    const { harness } = this;
    if (harness.front.free === 0 || (!this.store.synchronous && this.busy(sector, sectors))) return;
    const page = this.pages.pop();
    if (page === undefined) return;
    const id = this.next++;
    this.sent.set(id, { operation, sector, sectors, page, writesBefore: this.history.map((stamps) => stamps.length) });
    const view = new DataView(harness.memory.bytes.buffer, harness.dataStart + page * 4096);
    for (let i = 0; i < sectors; i++) view.setUint32(i * 512, id, true);
    const segments = [{ ref: 100 + page, first: 0, last: sectors - 1 }];
    if (operation === Op.flush_diskcache) harness.put(operation, id, 0);
    else if (operation === Op.discard) harness.putDiscard(id, sector, BigInt(sectors));
    else if (operation === Op.indirect) harness.putIndirect(Op.write, id, sector, segments, page);
    else harness.put(operation, id, sector, segments);
    const stamp = operation === Op.discard ? 0 : id;
    if (operation === Op.read || operation === Op.flush_diskcache) return;
    for (let i = sector; i < sector + sectors; i++) this.history[i]!.push(stamp);
  }

  /** Looks at the answers: each to a request that waits for one, each with what it must have done. */
  receive(): void {
    const { harness } = this;
    for (const { id, status, operation } of harness.answers()) {
      const sent = this.sent.get(id);
      if (!sent) throw new Error(`request ${id} is answered again`);
      this.sent.delete(id);
      this.answered++;
      expect(status).toBe(0);
      expect(operation).toBe(sent.operation === Op.indirect ? Op.write : sent.operation);
      if (sent.operation === Op.read) this.checkRead(sent);
      if (sent.operation === Op.flush_diskcache || sent.operation === Op.write_barrier) this.checkFlush(sent);
      // The page is the frontend's again: whoever touches it now shows.
      harness.page(sent.page).fill(0xdd);
      this.pages.push(sent.page);
    }
  }

  private checkRead({ sector, sectors, page, writesBefore }: Sent): void {
    const view = new DataView(this.harness.memory.bytes.buffer, this.harness.dataStart + page * 4096);
    for (let i = 0; i < sectors; i++) {
      // At least what was written before it; perhaps what was in flight together with it.
      const allowed = this.history[sector + i]!.slice(writesBefore[sector + i]! - 1);
      expect(allowed).toContain(view.getUint32(i * 512, true));
    }
  }

  private checkFlush({ writesBefore }: Sent): void {
    for (let sector = 0; sector < DISK_SECTORS; sector++) {
      expect(this.history[sector]!.slice(writesBefore[sector]! - 1)).toContain(this.durable[sector]);
    }
  }

  /** Runs something in the backend's process, which may die of it. */
  run(body: () => void): void {
    try {
      body();
      return;
    } catch (error) {
      if (!(error instanceof Killed)) throw error;
    }
    // The frontend goes on meanwhile; then there is a new process, which may die in its turn.
    this.receive();
    this.restarts++;
    this.fate.left = this.nextLife();
    this.embody();
    const before = this.harness.notified;
    this.run(() => {
      expect(this.harness.service.recover()).toBe(true);
      expect(this.harness.notified).toBe(before + 1);
      this.harness.serve();
    });
  }

  lives: number[] = [];
  private nextLife(): number {
    return this.lives.shift() ?? Number.POSITIVE_INFINITY;
  }
  begin(lives: readonly number[]): void {
    this.lives = [...lives];
    this.fate.left = this.nextLife();
  }

  finish(): void {
    this.fate.left = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 1000 && (this.sent.size > 0 || this.store.pending.length > 0); i++) {
      this.run(() => this.harness.serve());
      if (this.store.pending.length > 0) this.run(() => this.store.complete());
      this.receive();
    }
    expect(this.sent.size).toBe(0);
    for (let sector = 0; sector < DISK_SECTORS; sector++) {
      expect([sector, this.onDisk(sector)]).toEqual([sector, this.history[sector]!.at(-1)]);
    }
    expect(this.harness.service.idle).toBe(true);
    expect(this.harness.region.room).toBe(32);
  }
}

const operation = fc.oneof(
  { weight: 5, arbitrary: fc.constant<number>(Op.write) },
  { weight: 4, arbitrary: fc.constant<number>(Op.read) },
  fc.constantFrom<number>(Op.flush_diskcache, Op.write_barrier, Op.discard, Op.indirect),
);
type Event =
  | { kind: "send"; operation: number; sector: number; sectors: number }
  | { kind: "serve" }
  | { kind: "receive" }
  | { kind: "complete"; which: number };
const event: fc.Arbitrary<Event> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("send" as const),
      operation,
      sector: fc.integer({ min: 0, max: DISK_SECTORS - 8 }),
      sectors: fc.integer({ min: 1, max: 8 }),
    }),
  },
  { weight: 2, arbitrary: fc.constantFrom<Event>({ kind: "serve" }, { kind: "receive" }) },
  { weight: 2, arbitrary: fc.record({ kind: fc.constant("complete" as const), which: fc.nat(31) }) },
);

function play(model: Model, events: readonly Event[], lives: readonly number[]): void {
  model.begin(lives);
  for (const step of events) {
    if (step.kind === "send") model.send(step.operation, step.sector, step.sectors);
    else if (step.kind === "serve") model.run(() => model.harness.serve());
    else if (step.kind === "receive") model.receive();
    else if (model.store.pending.length > 0) {
      model.run(() => model.store.complete(step.which % model.store.pending.length));
    }
  }
  model.finish();
}

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
  }, 60_000);
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
