import { describe, expect, it } from "vitest";
import { type Pollable, PollLoop } from "../../engine/domain/driver/network-poll.ts";

/** A clock and an event loop that stand still unless told. */
class World {
  now = 0;
  readonly turns: (() => void)[] = [];
  readonly timers: { at: number; call: () => void }[] = [];
  readonly clock = {
    now: () => this.now,
    after: (ns: number, call: () => void) => {
      const timer = { at: this.now + ns, call };
      this.timers.push(timer);
      return { cancel: () => void (this.timers.includes(timer) && this.timers.splice(this.timers.indexOf(timer), 1)) };
    },
  };

  /** Lets turns pass, each of so many ns, until the loop sleeps. @returns how many it took */
  run(nsPerTurn = 1000): number {
    let count = 0;
    for (let turn = this.turns.shift(); turn !== undefined; turn = this.turns.shift()) {
      this.now += nsPerTurn;
      turn();
      if (++count > 10_000) throw new Error("it never sleeps");
    }
    return count;
  }

  /** Lets the next timer come. */
  fire(): void {
    const [timer] = this.timers.splice(0, 1);
    if (timer === undefined) throw new Error("no timer");
    this.now = timer.at;
    timer.call();
  }
}

class Ring implements Pollable {
  waiting = 0;
  polled = 0;
  most = 0;
  armed = false;
  due = Number.POSITIVE_INFINITY;
  /** Comes between the last poll and the arming. */
  late = 0;

  poll(budget: number): number {
    this.polled++;
    this.armed = false;
    const taken = Math.min(budget, this.waiting);
    this.most = Math.max(this.most, taken);
    this.waiting -= taken;
    return taken;
  }

  arm(): boolean {
    this.armed = true;
    this.waiting += this.late;
    this.late = 0;
    return this.waiting > 0;
  }

  service(now: number): number {
    if (now >= this.due) this.due = Number.POSITIVE_INFINITY;
    return this.due;
  }
}

function start(...rings: Ring[]) {
  const world = new World();
  const loop = new PollLoop({ clock: world.clock, next: (call) => void world.turns.push(call) });
  for (const ring of rings) loop.add(ring);
  loop.start();
  world.run();
  return { world, loop };
}

describe("the poll loop", () => {
  it("does nothing before it is started", () => {
    const ring = new Ring();
    const world = new World();
    const loop = new PollLoop({ clock: world.clock, next: (call) => void world.turns.push(call) });
    loop.add(ring);
    loop.kick();
    expect(world.turns).toEqual([]);
    loop.start();
    expect(world.run()).toBeGreaterThan(0);
    expect(ring.armed).toBe(true);
  });

  it("takes all there is, a bounded number at a time, and sleeps with all rings armed", () => {
    const [flood, quiet] = [new Ring(), new Ring()];
    const { world, loop } = start(flood, quiet);
    flood.waiting = 10_000;
    quiet.waiting = 1;
    const before = quiet.polled;
    loop.kick();
    world.turns.shift()?.();
    // The quiet one had its turn beside the first batch of the flood.
    expect(quiet.waiting).toBe(0);
    expect(quiet.polled).toBe(before + 1);
    expect(flood.waiting).toBeGreaterThan(9000);
    world.run();
    expect([flood.waiting, flood.armed, quiet.armed]).toEqual([0, true, true]);
    expect(flood.most).toBeLessThanOrEqual(64);
    expect([world.turns, world.timers]).toEqual([[], []]);
  });

  it("misses nothing that comes while it arms", () => {
    const ring = new Ring();
    const { world, loop } = start(ring);
    ring.late = 5;
    loop.kick();
    world.run();
    expect([ring.waiting, ring.armed]).toEqual([0, true]);
  });

  it("looks on for a moment after work, and the longer the sooner more came last time", () => {
    const ring = new Ring();
    const { world, loop } = start(ring);
    const turns = () => {
      ring.waiting = 1;
      loop.kick();
      return world.run();
    };
    // Events that come soon after it fell asleep.
    const lengths = Array.from({ length: 8 }, () => {
      world.now += 12_000;
      return turns();
    });
    expect(lengths.at(-1)).toBeGreaterThan(lengths[0] ?? 0);
    for (let n = 0; n < 20; n++) {
      world.now += 1e9;
      turns();
    }
    world.now += 1e9;
    expect(turns()).toBeLessThanOrEqual(lengths[0] ?? 0);
  });

  it("is there when the clock asks, and looks for what is due sooner than a timer can tell", () => {
    const ring = new Ring();
    const { world, loop } = start(ring);
    ring.due = world.now + 50e6;
    loop.kick();
    world.run();
    expect(world.timers.length).toBe(1);
    world.fire();
    world.run();
    expect([ring.due, world.timers.length]).toEqual([Number.POSITIVE_INFINITY, 0]);
    ring.due = world.now + 500_000;
    loop.kick();
    expect(world.run(10_000)).toBeGreaterThan(40);
    expect(world.timers).toEqual([]);
  });

  it("forgets members, and all of them when it is closed", () => {
    const [one, other] = [new Ring(), new Ring()];
    const { world, loop } = start(one, other);
    loop.remove(one);
    const before = one.polled;
    one.waiting = 1;
    other.waiting = 1;
    loop.kick();
    world.run();
    expect([one.polled, other.waiting]).toEqual([before, 0]);
    other.waiting = 1;
    loop.kick();
    loop.close();
    world.run();
    loop.kick();
    expect([other.waiting, world.turns]).toEqual([1, []]);
  });
});
