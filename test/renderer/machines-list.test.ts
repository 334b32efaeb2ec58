/** The list of machines: order, matches; scales of charts. */
import { describe, expect, it } from "vitest";
import type { MachineSummary } from "../../main/lab/machine-api.ts";
import { nearestIndex, niceTop } from "../../renderer/lib/ui/chart-scale.ts";
import { groupsOf, marked, matches } from "../../renderer/views/machines/filter.ts";
import { clicked, isLive, ordered } from "../../renderer/views/machines/list-order.ts";

const machine = (name: string, state: MachineSummary["state"] = "stopped", group = ""): MachineSummary => ({
  id: name,
  name,
  state,
  memoryMiB: 512,
  group,
  autostart: false,
  protected: false,
  created: "",
  changed: "",
  snapshots: 0,
});
const sample = (id: string, cpu: number) => ({
  id,
  cpu,
  mips: 0,
  residentBytes: 0,
  disk: { readBytes: 0, writtenBytes: 0, requests: 0 },
  net: { receivedBytes: 0, sentBytes: 0, frames: 0 },
});

describe("order", () => {
  const machines = [machine("web10"), machine("web2", "running"), machine("db", "running"), machine("old", "crashed")];
  const names = (by: Parameters<typeof ordered>[1]["by"], down: boolean) =>
    ordered(machines, { by, down }, ({ id }) =>
      id === "db" ? sample(id, 0.9) : id === "web2" ? sample(id, 0.1) : undefined,
    ).map(({ name }) => name);

  it("is by names as people count, by state, or by figures", () => {
    expect(names("name", false)).toEqual(["db", "old", "web2", "web10"]);
    expect(names("name", true)).toEqual(["web10", "web2", "old", "db"]);
    expect(names("state", false)).toEqual(["old", "db", "web2", "web10"]);
    expect(names("cpu", true)).toEqual(["db", "web2", "old", "web10"]);
    expect(names("cpu", false)).toEqual(["old", "web10", "web2", "db"]);
  });

  it("turns with a second click, and figures begin with the greatest", () => {
    expect(clicked({ by: "name", down: false }, "name")).toEqual({ by: "name", down: true });
    expect(clicked({ by: "name", down: true }, "cpu")).toEqual({ by: "cpu", down: true });
    expect(clicked({ by: "cpu", down: true }, "state")).toEqual({ by: "state", down: false });
    expect([isLive("cpu"), isLive("name")]).toEqual([true, false]);
  });
});

describe("search", () => {
  it("finds machines that have every word, and marks where", () => {
    expect(matches(machine("web-1", "running", "shop"), "SHOP run")).toBe(true);
    expect(matches(machine("web-1"), "web db")).toBe(false);
    expect(marked("web-web", "eb")).toEqual([
      { text: "w", hit: false },
      { text: "eb", hit: true },
      { text: "-w", hit: false },
      { text: "eb", hit: true },
    ]);
    expect(marked("Web", "")).toEqual([{ text: "Web", hit: false }]);
    expect(marked("Web", "we eb")).toEqual([{ text: "Web", hit: true }]);
  });

  it("keeps the order within groups, those without one last", () => {
    const groups = groupsOf([machine("b"), machine("z", "stopped", "shop"), machine("a", "stopped", "shop")]);
    expect(groups.map(({ name, machines }) => [name, machines.map((each) => each.name)])).toEqual([
      ["shop", ["z", "a"]],
      ["", ["b"]],
    ]);
  });
});

describe("scales", () => {
  it("end at a round number", () => {
    expect([0, 0.3, 1, 1.2, 47, 501, Number.NaN].map(niceTop)).toEqual([1, 0.5, 1, 2, 50, 1000, 1]);
  });

  it("find the nearest time", () => {
    const times = [10, 20, 40];
    expect([-5, 14, 16, 29, 31, 99].map((time) => nearestIndex(times, time))).toEqual([0, 0, 1, 1, 2, 2]);
    expect(nearestIndex([], 3)).toBe(0);
  });
});
