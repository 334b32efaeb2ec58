/**
 * A frontend that knows what must come of its requests, over a backend that may be killed between any two stores to shared
 * memory, held, moved to another disk, or made anew over the ring that it served.
 */
import fc from "fast-check";
import { expect } from "vitest";
import { InFlightRegion } from "../../engine/device/block/in-flight.ts";
import { BlockOperation as Op } from "../../engine/device/block/protocol.ts";
import { BackRing } from "../../engine/device/ring/back.ts";
import { FakeStore, Harness } from "./block-backend-harness.ts";

export const DISK_SECTORS = 64;

export class Killed extends Error {}

/** Counts the moments at which a process can die, and dies at the one it is told. */
export class Fate {
  left = Number.POSITIVE_INFINITY;
  steps = 0;
  readonly step = (): void => {
    this.steps++;
    if (--this.left < 0) throw new Killed();
  };
}

export class MortalRegion extends InFlightRegion {
  fate: Fate | undefined;
  protected override step(): void {
    this.fate?.step();
  }
}

export class MortalRing extends BackRing {
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

export class Model {
  readonly fate = new Fate();
  readonly harness: Harness;
  store: FakeStore;
  readonly sent = new Map<number, Sent>();
  /** For each sector: the stamps written to it, in order. */
  readonly history: number[][] = Array.from({ length: DISK_SECTORS }, () => [0]);
  readonly durable: Uint32Array;
  readonly pages: number[] = Array.from({ length: 32 }, (_, i) => i);
  readonly frozen: { readonly disk: FakeStore; readonly content: Uint8Array }[] = [];
  /** Which service was told to hold, and how things stood when it had come to rest. */
  private holding: Harness["service"] | undefined;
  private atRest: { readonly calls: number; readonly answers: number } | undefined;
  answered = 0;
  restarts = 0;
  rests = 0;
  anews = 0;
  private next = 1;

  constructor(later: boolean, persistent: boolean) {
    this.store = new FakeStore(DISK_SECTORS * 512, { later });
    this.durable = new Uint32Array(DISK_SECTORS);
    this.harness = new Harness({ store: this.store, features: { persistent }, persistentGrants: 5 });
    this.useStore(this.store);
    this.embody();
    this.harness.service.start();
  }

  private useStore(store: FakeStore): void {
    this.store = store;
    this.harness.store = store;
    store.onStep = this.fate.step;
    store.onFlush = () => {
      for (let sector = 0; sector < DISK_SECTORS; sector++) this.durable[sector] = this.onDisk(sector);
    };
  }

  /** Puts a copy of the disk in its place; the old one is not to be touched again. */
  private changeDisk(): void {
    const old = this.store;
    expect(old.pending.length).toBe(0);
    const next = new FakeStore(old.data.length, { later: !old.synchronous });
    next.data.set(old.data);
    old.onStep = () => {
      throw new Error("a disk is used that was replaced");
    };
    this.frozen.push({ disk: old, content: old.data.slice() });
    this.useStore(next);
  }

  hold(): void {
    if (this.holding) return;
    this.run(() => {
      const { service } = this.harness;
      this.holding = service;
      void service.hold().then(() => {
        if (this.holding !== service) return;
        this.atRest = { calls: this.store.calls.length, answers: this.harness.ring.publishedResponses() };
        this.rests++;
      });
    });
  }

  /** While the backend rests nothing is taken and nothing answered. */
  checkRest(): void {
    if (!this.atRest || this.fate.left < 0) return;
    expect(this.store.calls.length).toBe(this.atRest.calls);
    expect(this.harness.ring.publishedResponses()).toBe(this.atRest.answers);
    expect(this.harness.ring.requestConsumer).toBe(this.atRest.answers);
    expect(this.store.pending.length).toBe(0);
  }

  release(swap: boolean): void {
    if (!this.holding) return;
    this.checkRest();
    const swapped = swap && this.atRest !== undefined;
    if (swapped) this.changeDisk();
    this.free();
    this.run(() => {
      this.harness.service.release(swapped ? { store: this.store, readOnly: false } : undefined);
      this.harness.serve();
    });
  }

  private free(): void {
    this.holding = undefined;
    this.atRest = undefined;
  }

  /** The guest is restored: another backend, which has nothing but the guest's memory and a copy of the disk. */
  anew(): void {
    if (!this.atRest) return;
    this.checkRest();
    this.changeDisk();
    this.free();
    this.anews++;
    this.harness.own.bytes.fill(0);
    this.embody();
    const { harness } = this;
    const before = harness.notified;
    this.run(() => {
      expect(harness.service.start()).toBe(true);
      expect(harness.notified).toBe(before + (harness.ring.publishedResponses() === 0 ? 0 : 1));
      harness.serve();
    });
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
    this.free();
    this.fate.left = this.nextLife();
    this.embody();
    const before = this.harness.notified;
    this.run(() => {
      // A backend that died before it had begun with the ring begins again.
      if (!this.harness.service.recover()) {
        expect(this.harness.service.start()).toBe(true);
      } else expect(this.harness.notified).toBe(before + 1);
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
    this.release(false);
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
    for (const { disk, content } of this.frozen) expect(Buffer.compare(disk.data, content)).toBe(0);
  }
}

const operation = fc.oneof(
  { weight: 5, arbitrary: fc.constant<number>(Op.write) },
  { weight: 4, arbitrary: fc.constant<number>(Op.read) },
  fc.constantFrom<number>(Op.flush_diskcache, Op.write_barrier, Op.discard, Op.indirect),
);
export type Event =
  | { kind: "send"; operation: number; sector: number; sectors: number }
  | { kind: "serve" }
  | { kind: "receive" }
  | { kind: "complete"; which: number };
export const event: fc.Arbitrary<Event> = fc.oneof(
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

/** One event of the frontend, or of its disk. */
export function step(model: Model, event: Event): void {
  if (event.kind === "send") model.send(event.operation, event.sector, event.sectors);
  else if (event.kind === "serve") model.run(() => model.harness.serve());
  else if (event.kind === "receive") model.receive();
  else if (model.store.pending.length > 0) {
    model.run(() => model.store.complete(event.which % model.store.pending.length));
  }
}

export function play(model: Model, events: readonly Event[], lives: readonly number[]): void {
  model.begin(lives);
  for (const event of events) step(model, event);
  model.finish();
}
