import { describe, expect, it } from "vitest";
import { parseDecimal, quoteValue } from "../../engine/device/xenbus/keys.ts";
import { LevelTask } from "../../engine/device/xenbus/level-task.ts";
import { backendStep, frontendStep, parseXenbusState, XenbusState } from "../../engine/device/xenbus/state.ts";
import { inTurn, type XenbusStore } from "../../engine/device/xenbus/store-access.ts";
import { settle } from "./xenbus-harness.ts";

const STATES = Object.values(XenbusState);

describe("xenbus states", () => {
  it.each([
    ["1", 1],
    ["8", 8],
    ["0", 0],
    ["9", 0],
    ["", 0],
    ["01", 0],
    ["4\n", 0],
    ["-1", 0],
    ["4294967300", 0],
    [undefined, 0],
  ])("reads %j as %d", (text, state) => {
    expect(parseXenbusState(text)).toBe(state);
  });

  /** blkif.h's diagram, as [backend, frontend, who moves, where to]. */
  it("walks through start-up and shut-down", () => {
    let back: number = 1;
    let front: number = 1;
    const walk: string[] = [];
    const targets: Record<string, number> = {
      publish: 2,
      negotiate: 3,
      connect: 4,
      closing: 5,
      closed: 6,
      close: 6,
      reopen: 2,
      restart: 1,
    };
    const advance = (): boolean => {
      const b = backendStep(back as XenbusState, front as XenbusState);
      if (targets[b]) {
        walk.push(`back ${b}`);
        back = targets[b];
        return true;
      }
      const f = frontendStep(front as XenbusState, back as XenbusState);
      if (!targets[f]) return false;
      walk.push(`front ${f}`);
      front = targets[f];
      return true;
    };
    while (advance());
    expect(walk).toEqual(["back publish", "front negotiate", "back connect", "front connect"]);
    walk.length = 0;
    // The toolstack asks for removal.
    back = 5;
    while (walk.length < 3 && advance());
    expect(walk).toEqual(["front close", "back closed", "front restart"]);
  });

  it("has a step for every pair of states, and 'illegal' only where a peer may not be", () => {
    const steps = new Set<string>();
    for (const own of STATES) {
      for (const peer of STATES) {
        steps.add(backendStep(own, peer));
        steps.add(frontendStep(own, peer));
        if (backendStep(own, peer) === "connect") expect([3, 4]).toContain(peer);
        if (backendStep(own, peer) === "connect") expect([2, 3]).toContain(own);
        if (frontendStep(own, peer) === "connect") expect([own, peer]).toEqual([3, 4]);
        if (frontendStep(own, peer) === "negotiate") expect([2, 3, 4]).toContain(peer);
      }
    }
    expect(steps.has("undefined")).toBe(false);
    expect([3, 4].map((peer) => backendStep(6, peer as XenbusState))).toEqual(["reconnect", "reconnect"]);
    expect(backendStep(2, 2)).toBe("illegal");
    expect(backendStep(4, 7)).toBe("illegal");
    expect(frontendStep(1, 8)).toBe("illegal");
    // A peer that is gone ends the connection, whatever it was.
    for (const own of [1, 2, 3, 4, 5] as const) expect(backendStep(own, 0)).toBe("closed");
  });
});

describe("LevelTask", () => {
  it("runs one at a time, and once for any number of requests", async () => {
    let running = 0;
    let runs = 0;
    const task = new LevelTask(
      async () => {
        expect(++running).toBe(1);
        await settle(2);
        running--;
        runs++;
      },
      () => undefined,
    );
    for (let i = 0; i < 10_000; i++) task.request();
    expect(runs).toBe(0);
    await settle(1);
    for (let i = 0; i < 10_000; i++) task.request();
    await task.idle();
    expect(runs).toBe(2);
    task.request();
    await task.idle();
    expect(runs).toBe(3);
  });

  it("goes on after a failure, and never after close", async () => {
    const errors: unknown[] = [];
    let runs = 0;
    const task = new LevelTask(
      async () => {
        runs++;
        throw new Error("no");
      },
      (error) => errors.push(error),
    );
    task.request();
    await task.idle();
    task.request();
    await task.idle();
    expect(errors.length).toBe(2);
    task.request();
    await task.close();
    task.request();
    await settle(3);
    expect(runs).toBe(2);
  });
});

describe("keys", () => {
  it.each([
    ["0", 0],
    ["51712", 51712],
    ["9007199254740991", 9007199254740991],
    ["9007199254740993", undefined],
    ["99999999999999999", undefined],
    ["-1", undefined],
    ["0x10", undefined],
    ["1.5", undefined],
    ["1e3", undefined],
    [" 1", undefined],
    ["", undefined],
    ["Infinity", undefined],
  ])("parses %j as %j", (text, value) => {
    expect(parseDecimal(text)).toBe(value);
  });

  it("quotes what a hostile peer has written", () => {
    expect(quoteValue("a\u001b[2J\n\u0000b")).toBe('"a?[2J??b"');
    expect(quoteValue("x".repeat(5000)).length).toBeLessThan(50);
  });

  it("runs one transaction at a time for a domain", async () => {
    let open = 0;
    let most = 0;
    const store = {
      async transaction<T>(body: (store: XenbusStore) => Promise<T>): Promise<T> {
        most = Math.max(most, ++open);
        await settle(1);
        const result = await body(store as XenbusStore);
        open--;
        return result;
      },
    } as Pick<XenbusStore, "transaction"> as XenbusStore;
    const results = await Promise.all(Array.from({ length: 20 }, (_, i) => inTurn(store, async () => i)));
    expect(most).toBe(1);
    expect(results).toEqual(Array.from({ length: 20 }, (_, i) => i));
  });
});
