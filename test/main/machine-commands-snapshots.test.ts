/** `domlab snapshot`: the tree, and what the lab is asked. */
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { SnapshotRow } from "../../main/lab/machine-api.ts";
import { snapshotTree } from "../../main/machine-commands/snapshot-tree.ts";
import { FakeLab } from "./machine-commands-lab.ts";

function row(name: string, hour: number, parent: string | null, more: Partial<SnapshotRow> = {}): SnapshotRow {
  return {
    id: name,
    name,
    note: "",
    date: `2026-11-21T${String(hour).padStart(2, "0")}:00:00.000Z`,
    parent,
    kind: "disk",
    current: false,
    memoryBytes: 0,
    diskBytes: 1024,
    ...more,
  };
}

/** The left column alone. */
const labels = (snapshots: readonly SnapshotRow[]) =>
  snapshotTree(snapshots)
    .split("\n")
    .slice(1, -1)
    .map((line) => line.replace(/ {2,}\d{4}-.*$/, "").trimEnd());

describe("the tree", () => {
  it("shows branches in the order of their dates, and the place of the machine", () => {
    const snapshots = [
      row("late", 5, "base"),
      row("base", 1, null),
      row("mid", 2, "base", { kind: "running", memoryBytes: 2048 }),
      row("leaf", 3, "mid", { current: true }),
      row("other root", 4, null),
    ];
    expect(labels(snapshots)).toEqual(["base", "├─ mid", "│  └─ leaf", "│     └─ (now)", "└─ late", "other root"]);
    expect(snapshotTree(snapshots)).toMatch(/├─ mid +2026-11-\d\d \d\d:\d\d:\d\d +running +3 KiB\n/);
  });

  it("of no snapshot is the machine alone", () => {
    expect(labels([])).toEqual(["(now)"]);
  });

  it("has a place for a snapshot whose parent is not listed", () => {
    expect(labels([row("orphan", 1, "gone", { current: true })])).toEqual(["orphan", "└─ (now)"]);
  });

  it("keeps control characters off the terminal", () => {
    const text = snapshotTree([row("a\x1b[2Jb", 1, null, { note: "c\x07d" })]);
    expect(text).not.toContain("\x1b");
    expect(text).not.toContain("\x07");
  });
});

describe("the lab", () => {
  let lab: FakeLab;
  beforeEach(() => {
    lab = new FakeLab();
  });
  afterEach(() => lab.close());

  it("is asked for what the words say", async () => {
    await lab.serve({
      snapshotTake: () => ({ id: "1", name: "s", kind: "disk", pausedMs: 0 }),
      snapshotList: () => [row("s", 1, null, { current: true })],
      snapshotRestore: () => ({ state: "running", notes: ["web was destroyed"] }),
      snapshotDelete: () => ({ deferred: true }),
      snapshotEdit: () => ({}),
      snapshotClone: () => ({ id: "2", name: "web2", notes: [] }),
    });
    expect((await lab.command("snapshot", "take", "web", "--disk-only")).printed).toBe("s is taken (disks)\n");
    expect((await lab.command("snapshot", "list", "web")).printed).toMatch(/\ns .*\n└─ \(now\)\n/);
    expect(JSON.parse((await lab.command("snapshot", "list", "web", "--json")).printed)).toMatchObject([{ name: "s" }]);
    expect(await lab.command("snapshot", "restore", "web", "s", "--force", "--no-start")).toMatchObject({
      printed: "web is at s again, and running\n",
      told: ["web was destroyed"],
    });
    expect((await lab.command("snapshot", "delete", "web", "s")).told.join()).toMatch(/when web stops/);
    await lab.command("snapshot", "rename", "web", "s", "t");
    await lab.command("snapshot", "note", "web", "s", "two", "words");
    await lab.command("snapshot", "note", "web", "s");
    await lab.command("snapshot", "clone", "web", "s", "web2", "--bridge", "lan");
    await lab.command("snapshot", "clone", "web", "s", "web2", "--full");
    expect(lab.calls.map(({ method, parameters }) => [method, parameters])).toEqual([
      ["snapshotTake", { machine: "web", diskOnly: true }],
      ["snapshotList", { machine: "web" }],
      ["snapshotList", { machine: "web" }],
      ["snapshotRestore", { machine: "web", snapshot: "s", force: true, start: false }],
      ["snapshotDelete", { machine: "web", snapshot: "s" }],
      ["snapshotEdit", { machine: "web", snapshot: "s", name: "t" }],
      ["snapshotEdit", { machine: "web", snapshot: "s", note: "two words" }],
      ["snapshotEdit", { machine: "web", snapshot: "s", note: "" }],
      ["snapshotClone", { machine: "web", snapshot: "s", name: "web2", linked: true, bridge: "lan" }],
      ["snapshotClone", { machine: "web", snapshot: "s", name: "web2", linked: false }],
    ]);
  });
});
