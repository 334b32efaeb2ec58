import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { LabLink, type LinkState } from "../../../main/app/lab-link.ts";
import type { LabEvent } from "../../../main/lab/machine-api.ts";
import { FakeLab, until } from "./fake-lab.ts";

const DATE = "2026-11-21T10:00:00.000Z";

describe("LabLink", () => {
  let lab: FakeLab;
  let link: LabLink;
  let states: LinkState[];
  let events: LabEvent[];

  beforeEach(() => {
    lab = new FakeLab({ operationCancel: () => ({ cancelled: true }) });
    states = [];
    events = [];
    link = new LabLink(lab, { state: (state) => states.push(state), event: (event) => events.push(event) });
  });

  afterEach(async () => {
    link.close();
    await lab.close();
  });

  it("lets calls wait for the first connection, and tells of none", async () => {
    link.start();
    const answer = await link.call("operationCancel", { operation: "x" });
    expect(answer).toEqual({ ok: true, result: { cancelled: true } });
    expect(states).toEqual([]);
  });

  it("passes on what the lab refuses, with its line", async () => {
    link.start();
    expect(await link.call("operationCancel", { operation: 7 })).toMatchObject({ ok: false, status: 2 });
    expect(await link.call("machineList", {})).toMatchObject({ ok: false });
  });

  it("passes on events", async () => {
    link.start();
    await link.call("subscribe", { topics: ["log"] });
    lab.session?.send({ kind: "log", date: DATE, line: "hello" });
    await until("the event", () => events.length > 0);
    expect(events).toEqual([{ kind: "log", date: DATE, line: "hello" }]);
  });

  it("starts a lab again that was killed, and tells of both", async () => {
    link.start();
    await link.call("subscribe", { topics: [] });
    await lab.end(false);
    await until("the second start", () => states.length === 2);
    expect(states.map(({ state }) => state)).toEqual(["down", "up"]);
    expect(states[0]).toMatchObject({ ended: false, line: expect.stringContaining("started again") });
    expect(lab.starts).toBe(2);
    expect(await link.call("operationCancel", { operation: "x" })).toMatchObject({ ok: true });
  });

  it("leaves a lab alone that was ended on purpose, until it is wanted back", async () => {
    link.start();
    await link.call("subscribe", { topics: [] });
    await lab.end(true);
    await until("the end", () => states.some((state) => state.state === "down" && state.ended));
    expect(await link.call("operationCancel", { operation: "x" })).toMatchObject({
      ok: false,
      line: expect.stringContaining("was ended"),
    });
    expect(lab.starts).toBe(1);
    link.start();
    expect(await link.call("operationCancel", { operation: "x" })).toMatchObject({ ok: true });
    expect(states.at(-1)).toEqual({ state: "up" });
    expect(lab.starts).toBe(2);
  });

  it("says why a lab does not start, goes on trying, and is there when it does", async () => {
    lab.broken = true;
    link.start();
    expect(await link.call("operationCancel", { operation: "x" })).toEqual({
      ok: false,
      line: "the lab's disk is full; free some space",
      status: 2,
    });
    lab.broken = false;
    await until("the lab", () => link.up);
    expect(states.map(({ state }) => state)).toEqual(["down", "up"]);
  });

  it("answers a call that the end of the lab cut off", async () => {
    let reached = () => {};
    const under = new Promise<void>((resolve) => {
      reached = resolve;
    });
    const stuck = new FakeLab({
      operationCancel: () => {
        reached();
        return new Promise(() => {});
      },
    });
    const other = new LabLink(stuck, { state: () => {}, event: () => {} });
    try {
      other.start();
      const answer = other.call("operationCancel", { operation: "x" });
      await under;
      await stuck.end(true);
      expect(await answer).toMatchObject({ ok: false, line: expect.stringContaining("ended meanwhile") });
    } finally {
      other.close();
      await stuck.close();
    }
  });

  it("ends its connection when it is closed, and makes no other", async () => {
    link.start();
    await link.call("subscribe", { topics: [] });
    expect(lab.clients).toBe(1);
    link.close();
    await until("the end of the connection", () => lab.clients === 0);
    link.start();
    expect(await link.call("operationCancel", { operation: "x" })).toMatchObject({ ok: false });
    expect(lab.clients).toBe(0);
    expect(states).toEqual([]);
  });
});
