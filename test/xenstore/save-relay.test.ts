/** A guest's XenStore page and relay, brought to rest at any point, saved, and gone on with elsewhere. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  XS_CONNECTION,
  XS_ERROR,
  XS_REQUEST_CONS,
  XS_REQUEST_PROD,
  XS_RESPONSE_CONS,
  XS_RESPONSE_PROD,
  XsType,
} from "../../engine/abi/xs-wire.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import { createGuestMemory } from "../../engine/memory/guest-memory.ts";
import { Xenstored } from "../../engine/xenstore/daemon.ts";
import { decodeText, encodeMessage, encodeText, MessageParser } from "../../engine/xenstore/protocol.ts";
import { DaemonRelay, type RelayMessage, RingRelay, savedRingSchema, WINDOW } from "../../engine/xenstore/relay.ts";
import { XenstoreRing } from "../../engine/xenstore/ring.ts";
import { parseSavedStore } from "../../engine/xenstore/saved-state.ts";
import { introduce } from "./harness.ts";

const PLAN = planFrames(1 << 20);

/** What is anew when a guest is restored: memory, processes, daemon. */
class Host {
  readonly mapping = createGuestMemory(PLAN, 0, "threads").attach();
  readonly daemon = new Xenstored();
  readonly toMain: RelayMessage[] = [];
  readonly toDomain: RelayMessage[] = [];
  readonly id: number;
  near: RingRelay;
  readonly far: DaemonRelay;
  events = 0;

  constructor(id: number) {
    this.id = id;
    introduce(this.daemon, id);
    this.near = new RingRelay(new XenstoreRing(this.mapping), this.post, this.notify);
    this.far = new DaemonRelay(this.daemon, id, (message) => this.toDomain.push(message));
  }

  private readonly post = (message: RelayMessage) => void this.toMain.push(message);
  private readonly notify = () => void this.events++;

  get page(): Uint8Array {
    const start = this.mapping.base + this.mapping.plan.xenstore;
    return this.mapping.bytes.subarray(start, start + 4096);
  }

  /** Delivers so many messages in each direction. */
  deliver(count = Number.POSITIVE_INFINITY): void {
    for (let i = 0; i < count && this.toMain.length + this.toDomain.length > 0; i++) {
      const up = this.toMain.shift();
      if (up !== undefined) this.far.receive(structuredClone(up));
      const down = this.toDomain.shift();
      if (down !== undefined) this.near.receive(structuredClone(down));
    }
  }

  async quiesce(): Promise<void> {
    const rest = this.near.quiesce();
    expect(this.near.quiesce()).toBe(rest);
    const page = this.page.slice();
    this.deliver();
    await rest;
    expect(Buffer.compare(this.page, page)).toBe(0);
  }

  /** Saves everything at rest and makes a host of it that goes on as domain `id`; `meanwhile` comes between the parts. */
  moved(id: number, meanwhile: () => void = () => {}): Host {
    const page = this.page.slice();
    const ring = savedRingSchema.parse(JSON.parse(JSON.stringify(this.near.save())));
    meanwhile();
    const store = parseSavedStore(JSON.parse(JSON.stringify(this.daemon.saveDomain(this.id))));
    // What still happens here concerns the heir no more, and the relay stays away from the page.
    this.daemon.toolstack.write(`/local/domain/${this.id}/data/late`, "x");
    this.deliver();
    expect(Buffer.compare(this.page, page)).toBe(0);
    const host = new Host(id);
    host.page.set(page);
    host.near = RingRelay.restore(host.mapping, ring, host.post, host.notify);
    host.daemon.restoreDomain(id, store);
    host.far.restore();
    expect(host.daemon.check()).toEqual([]);
    expect(host.near.save()).toEqual(ring);
    expect(host.daemon.saveDomain(id).connection).toEqual(store.connection);
    host.deliver();
    expect(Buffer.compare(host.page, page)).toBe(0);
    return host;
  }
}

/** The guest's own end of its page: what it knows moves with its memory. */
class Guest {
  host = new Host(7);
  produced = 0;
  private readonly unsent: number[] = [];
  private readonly parser = new MessageParser();
  private nextRequest = 1;
  readonly replies: string[] = [];
  readonly happenings: string[] = [];

  private word(field: number): number {
    return this.host.mapping.view.getUint32(this.host.mapping.base + PLAN.xenstore + field, true);
  }

  setWord(field: number, value: number): void {
    this.host.mapping.view.setUint32(this.host.mapping.base + PLAN.xenstore + field, value, true);
  }

  get error(): number {
    return this.word(XS_ERROR);
  }

  get connection(): number {
    return this.word(XS_CONNECTION);
  }

  ask(type: number, payload: string): void {
    const requestId = this.nextRequest++;
    this.unsent.push(...encodeMessage({ type, requestId, transactionId: 0, payload: encodeText(payload) }));
  }

  /** Writes at most so many bytes of its requests. */
  write(limit: number): void {
    const room = 1024 - ((this.produced - this.word(XS_REQUEST_CONS)) >>> 0);
    const bytes = this.unsent.splice(0, Math.min(limit, room));
    for (const byte of bytes) this.host.page[this.produced++ % 1024] = byte;
    this.setWord(XS_REQUEST_PROD, this.produced);
  }

  /** Writes, and tells of it. */
  push(limit: number): void {
    this.write(limit);
    this.host.near.handleEvent();
  }

  /** Reads at most so many bytes of what came and tells of the room. */
  pull(limit: number): void {
    let consumed = this.word(XS_RESPONSE_CONS);
    const bytes: number[] = [];
    while (consumed !== this.word(XS_RESPONSE_PROD) && bytes.length < limit) {
      bytes.push(this.host.page[1024 + (consumed++ % 1024)] ?? 0);
    }
    this.setWord(XS_RESPONSE_CONS, consumed);
    this.parser.push(Uint8Array.from(bytes));
    for (let next = this.parser.next(); typeof next === "object"; next = this.parser.next()) {
      const text = decodeText(next.payload).replaceAll("\0", "|");
      if (next.type === XsType.WATCH_EVENT) this.happenings.push(text);
      else this.replies.push(`${next.requestId} ${next.type} ${text}`);
    }
    this.host.near.handleEvent();
  }

  /** Goes on until nothing moves any more. */
  settle(): void {
    for (let still = 0; still < 3; still++) {
      const before = [this.produced, this.replies.length, this.happenings.length, this.word(XS_RESPONSE_CONS)].join();
      this.push(1024);
      this.host.deliver();
      this.pull(1024);
      this.host.deliver();
      const after = [this.produced, this.replies.length, this.happenings.length, this.word(XS_RESPONSE_CONS)].join();
      if (before !== after) still = -1;
    }
  }
}

interface Request {
  do: "write" | "read" | "list";
  key: number;
  size: number;
  home: string;
}

interface Move {
  do: "change" | "push" | "pull" | "deliver";
  count: number;
}

type Step = Request | Move;

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    do: fc.constantFrom("write" as const, "read" as const, "list" as const),
    key: fc.integer({ min: 0, max: 5 }),
    size: fc.integer({ min: 0, max: 2000 }),
    home: fc.constantFrom("", "/local/domain/7/"),
  }),
  fc.record({
    do: fc.constantFrom("change" as const, "push" as const, "pull" as const, "deliver" as const),
    count: fc.oneof(fc.integer({ min: 1, max: 5 }), fc.integer({ min: 1, max: 1500 })),
  }),
);

function perform(guest: Guest, one: Step, index: number): void {
  const { host } = guest;
  if (one.do === "write") guest.ask(XsType.WRITE, `${one.home}data/k${one.key}\0${"v".repeat(one.size)}`);
  else if (one.do === "read") guest.ask(XsType.READ, `${one.home}data/k${one.key}\0`);
  else if (one.do === "list") guest.ask(XsType.DIRECTORY, `${one.home}data\0`);
  else if (one.do === "push") guest.push(one.count);
  else if (one.do === "pull") guest.pull(one.count);
  else if (one.do === "deliver") host.deliver(one.count);
  else if (one.do === "change") {
    // Each event is of a path of its own, so that none stands for another.
    for (let i = 0; i < Math.min(one.count, 20); i++) {
      host.daemon.toolstack.write(`/local/domain/${host.id}/attr/e${index}-${i}`, "");
    }
  }
}

type Run = "undisturbed" | "rested" | "moved";

/** Runs the steps; at those of `cuts` something changes, while the guest is at rest or moved if `how` says so. */
async function run(steps: readonly Step[], cuts: ReadonlySet<number>, how: Run): Promise<Guest> {
  const guest = new Guest();
  guest.ask(XsType.WATCH, "attr\0relative\0");
  guest.ask(XsType.WATCH, "/local/domain/7/attr\0absolute\0");
  guest.settle();
  for (const [index, one] of steps.entries()) {
    perform(guest, one, index);
    if (!cuts.has(index)) continue;
    const { host } = guest;
    const change = () => host.daemon.toolstack.write(`/local/domain/${host.id}/attr/cut${index}`, "");
    if (how !== "undisturbed") await host.quiesce();
    if (how === "moved") guest.host = host.moved(host.id + 2, change);
    else change();
    guest.host.near.resume();
  }
  guest.settle();
  return guest;
}

const steps = fc.array(step, { minLength: 1, maxLength: 60 });
const cutPoints = fc.array(fc.integer({ min: 0, max: 59 }), { minLength: 1, maxLength: 4 });

describe("a relay that is saved and restored", () => {
  it("loses nothing and doubles nothing, wherever it is cut", async () => {
    await fc.assert(
      fc.asyncProperty(steps, cutPoints, async (script, points) => {
        const cuts = new Set(points.map((point) => point % script.length));
        const moved = await run(script, cuts, "moved");
        const rested = await run(script, cuts, "rested");
        expect(moved.happenings).toEqual(rested.happenings);
        expect(moved.replies).toEqual(rested.replies);
        const undisturbed = await run(script, cuts, "undisturbed");
        expect(moved.happenings).toEqual(undisturbed.happenings);
        expect(moved.replies).toEqual(undisturbed.replies);
      }),
      { numRuns: 100 },
    );
  });

  it("says so if it is not at rest, and is not stuck by a rest that is ended early", async () => {
    const guest = new Guest();
    const { host } = guest;
    expect(() => host.near.save()).toThrow("not at rest");
    const early = host.near.quiesce();
    expect(() => host.near.save()).toThrow("not at rest");
    host.near.resume();
    await early;
    const next = host.near.quiesce();
    // The answer to the first rest comes now; only that to the second one counts.
    host.far.receive(host.toMain.shift() ?? { resume: true });
    host.near.receive(host.toDomain.shift() ?? { resume: true });
    expect(() => host.near.save()).toThrow("not at rest");
    host.deliver();
    await next;
    expect(host.near.save()).toMatchObject({ state: "connected", inFlight: 0, output: "" });
    host.near.resume();
    guest.ask(XsType.READ, "name\0");
    guest.settle();
    expect(guest.replies).toEqual(["1 2 guest7"]);
  });

  it("hands over first what the guest has written, even if no event tells of it", async () => {
    const guest = new Guest();
    guest.ask(XsType.WRITE, "data/k\0v");
    guest.write(100);
    await guest.host.quiesce();
    expect(guest.host.daemon.toolstack.read("/local/domain/7/data/k")).toBe("v");
    guest.host = guest.host.moved(9);
    guest.host.near.resume();
    guest.settle();
    expect(guest.replies).toEqual(["1 11 OK|"]);
  });

  it("leaves the ring alone while it rests, and sees afterwards what the guest has written", async () => {
    const guest = new Guest();
    await guest.host.quiesce();
    const page = guest.host.page.slice();
    guest.host.daemon.toolstack.write("/local/domain/7/data/k", "");
    guest.host.deliver();
    expect(Buffer.compare(guest.host.page, page)).toBe(0);
    guest.ask(XsType.READ, "name\0");
    guest.push(100);
    guest.host.deliver();
    expect(guest.replies).toEqual([]);
    guest.host.near.resume();
    guest.settle();
    expect(guest.replies).toEqual(["1 2 guest7"]);
  });

  it("keeps a guest waiting that had its window full, and goes on when it reads", async () => {
    const guest = new Guest();
    guest.host.daemon.toolstack.write("/local/domain/7/data/k", "x".repeat(900));
    for (let i = 0; i < 100; i++) guest.ask(XsType.READ, "data/k\0");
    for (let i = 0; i < 60; i++) guest.ask(XsType.WRITE, `data/k\0${"x".repeat(900)}`);
    for (let i = 0; i < 200; i++) {
      guest.push(1024);
      guest.host.deliver();
    }
    await guest.host.quiesce();
    const saved = guest.host.near.save();
    expect(Buffer.from(saved.output, "base64").length).toBeGreaterThan(200);
    expect(saved.inFlight).toBe(WINDOW);
    guest.host = guest.host.moved(9);
    guest.host.near.resume();
    guest.settle();
    expect(guest.replies).toHaveLength(160);
  });

  it("leaves in the ring what is beyond the window, and takes it up again", async () => {
    const guest = new Guest();
    for (let i = 0; i < 30; i++) guest.ask(XsType.WRITE, `data/k${i}\0${"x".repeat(500)}`);
    for (let i = 0; i < 10; i++) guest.push(1024);
    await guest.host.quiesce();
    expect(guest.host.daemon.toolstack.directory("/local/domain/7/data")?.length).toBeLessThan(20);
    guest.host = guest.host.moved(9);
    guest.host.near.resume();
    guest.settle();
    expect(guest.replies).toHaveLength(30);
    expect(guest.host.daemon.toolstack.directory("/local/domain/9/data")).toHaveLength(30);
  });

  it("reconnects if the guest asks for it just then", async () => {
    const guest = new Guest();
    guest.ask(XsType.WATCH, "data\0t\0");
    guest.settle();
    await guest.host.quiesce();
    guest.setWord(XS_CONNECTION, 1);
    guest.host = guest.host.moved(9);
    expect(guest.connection).toBe(1);
    expect(guest.host.daemon.usage(9)?.watches).toBe(1);
    guest.host.near.resume();
    guest.host.deliver();
    guest.produced = 0;
    expect(guest.connection).toBe(0);
    expect(guest.host.daemon.usage(9)?.watches).toBe(0);
    guest.ask(XsType.READ, "/local/domain/7/name\0");
    guest.settle();
    expect(guest.replies.at(-1)).toBe("2 2 guest9");
  });

  it("is over if it was, until the guest reconnects", async () => {
    const guest = new Guest();
    guest.setWord(XS_REQUEST_PROD, 5000);
    guest.host.near.handleEvent();
    guest.host.deliver();
    await guest.host.quiesce();
    expect(guest.host.near.save().state).toBe("failed");
    guest.host = guest.host.moved(9);
    expect(guest.error).toBe(2);
    guest.host.near.resume();
    guest.settle();
    expect(guest.replies).toEqual([]);
    guest.setWord(XS_CONNECTION, 1);
    guest.host.near.handleEvent();
    guest.host.deliver();
    guest.produced = 0;
    guest.ask(XsType.READ, "name\0");
    guest.settle();
    expect(guest.replies).toEqual(["1 2 guest9"]);
  });

  it("is not harmed by positions that cannot be", () => {
    for (const saved of [
      { state: "connected" as const, requestConsumer: 99_999, responseProducer: 0, inFlight: 0, output: "" },
      { state: "connected" as const, requestConsumer: 0, responseProducer: 99_999, inFlight: WINDOW, output: "AAAA" },
    ]) {
      const host = new Host(7);
      host.near = RingRelay.restore(
        host.mapping,
        savedRingSchema.parse(saved),
        (message) => host.toMain.push(message),
        () => {},
      );
      host.near.resume();
      host.deliver();
      expect(host.daemon.find(7)?.connections.size).toBe(0);
    }
  });
});
