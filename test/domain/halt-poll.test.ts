import { describe, expect, it } from "vitest";
import { HaltPoll } from "../../engine/domain/halt-poll.ts";

const US = 1000;
const MS = 1000 * US;

/** A clock that goes on by `step` at each look at it. */
function surroundings(step = US) {
  const counts = { now: 0, gaveWay: 0 };
  const clock = () => {
    const { now } = counts;
    counts.now += step;
    return now;
  };
  const giveWay = () => {
    counts.gaveWay++;
  };
  return { counts, clock, giveWay };
}

/** A poll that has seen events come after 300 µs. */
function grown(): HaltPoll {
  const poll = new HaltPoll();
  for (let n = 0; n < 10; n++) poll.waited(300 * US);
  return poll;
}

describe("halt polling", () => {
  it("grows until events are found by looking, and no further", () => {
    const poll = new HaltPoll();
    const times = Array.from({ length: 8 }, () => {
      poll.waited(300 * US);
      return poll.time / US;
    });
    expect(times).toEqual([20, 40, 80, 160, 320, 320, 320, 320]);
  });

  it("never looks longer than its limit", () => {
    const poll = new HaltPoll(200 * US);
    for (let n = 0; n < 10; n++) poll.waited(199 * US);
    expect(poll.time).toBe(200 * US);
    poll.waited(200 * US);
    poll.waited(200 * US);
    expect(poll.time).toBe(100 * US);
  });

  it("forgives one long wait among short ones, and gives up where they stay long", () => {
    const poll = grown();
    for (let n = 0; n < 5; n++) {
      poll.waited(4 * MS);
      poll.waited(300 * US);
    }
    expect(poll.time).toBe(320 * US);
    for (let n = 0; n < 20; n++) poll.waited(Number.POSITIVE_INFINITY);
    expect(poll.time).toBe(10 * US);
  });

  it("looks until the event comes, and counts that as a short wait", () => {
    const poll = grown();
    poll.waited(4 * MS);
    const host = surroundings();
    let looks = 0;
    expect(poll.look(host, MS, () => ++looks === 50)).toBe(true);
    expect(looks).toBe(50);
    poll.waited(4 * MS);
    expect(poll.time).toBe(320 * US);
  });

  it("looks no longer than its time or the caller's limit", () => {
    const poll = grown();
    const host = surroundings();
    expect(poll.look(host, MS, () => false)).toBe(false);
    expect(host.counts.now).toBeGreaterThanOrEqual(320 * US);
    expect(host.counts.now).toBeLessThan(325 * US);
    const soon = surroundings();
    expect(poll.look(soon, 40 * US, () => false)).toBe(false);
    expect(soon.counts.now).toBeLessThan(45 * US);
  });

  it("gives way to other threads, but not in the first moment", () => {
    const host = surroundings();
    grown().look(host, MS, () => host.counts.now > 4 * US);
    expect(host.counts.gaveWay).toBe(0);
    grown().look(host, MS, () => false);
    expect(host.counts.gaveWay).toBeGreaterThan(250);
  });

  it("stops looking when the host has run another thread meanwhile", () => {
    const poll = grown();
    let looks = 0;
    expect(poll.look(surroundings(150 * US), MS, () => ++looks > 5)).toBe(false);
    expect(looks).toBe(2);
    expect(poll.time).toBe(10 * US);
  });

  it("is content when that thread was the one that sends the event", () => {
    const poll = grown();
    let looks = 0;
    expect(poll.look(surroundings(150 * US), MS, () => ++looks > 1)).toBe(true);
    expect(poll.time).toBe(320 * US);
  });
});
