import { homedir } from "node:os";
import { join, resolve } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { issueText } from "../../../main/lab/store/errors.ts";
import { labHome, labPaths } from "../../../main/lab/store/paths.ts";
import { labData, machineRecord, machineSnapshot, memoryFileName } from "../../../main/lab/store/schema.ts";
import { machine } from "./helpers.ts";

const id = (digit: number) => `11111111-2222-4333-8444-${String(digit).padStart(12, "0")}`;
const snapshot = (own: number, parent: number | null) =>
  machineSnapshot.parse({
    id: id(own),
    name: "s",
    date: "2026-01-01T00:00:00.000Z",
    parent: parent === null ? null : id(parent),
    kind: "disk",
    status: "complete",
    disks: [],
    config: { name: "web" },
  });

/** What a record's schema says, or nothing. */
function complaint(over: object): string {
  const result = machineRecord.safeParse({ ...machine({ name: "web" }), ...over });
  return result.success ? "" : issueText(result.error);
}

describe("a machine's record", () => {
  it("takes trees of snapshots", () => {
    const snapshots = [snapshot(3, 2), snapshot(1, null), snapshot(2, 1), snapshot(4, 1), snapshot(5, null)];
    expect(complaint({ snapshots, currentSnapshot: id(4) })).toBe("");
  });

  it("takes a long line of snapshots in any order", () => {
    const line = Array.from({ length: 5000 }, (_, index) => ({
      ...snapshot(index, null),
      parent: index === 0 ? null : id(index - 1),
    }));
    expect(complaint({ snapshots: line })).toBe("");
    expect(complaint({ snapshots: line.reverse() })).toBe("");
  });

  it.each([
    ["a circle", { snapshots: [snapshot(1, 2), snapshot(2, 1)] }, "descends from itself"],
    ["its own parent", { snapshots: [snapshot(1, 1)] }, "descends from itself"],
    ["an unknown parent", { snapshots: [snapshot(1, 9)] }, "the parent of a snapshot is unknown"],
    ["one id twice", { snapshots: [snapshot(1, null), snapshot(1, null)] }, "two snapshots have the same id"],
    ["an unknown current one", { currentSnapshot: id(1) }, "names no snapshot"],
    ["sleep without memory", { state: "suspended" }, "memory: is missing"],
    ["memory without sleep", { memory: "x.dsnap" }, "memory: belongs to no stopped machine"],
    ["deleted at no time", { state: "deleted" }, "deletedAt: is for deleted"],
    ["a time without being deleted", { deletedAt: "2026-01-01T00:00:00.000Z" }, "deletedAt: is for deleted"],
    ["a date that is none", { created: "yesterday" }, "created"],
    ["no id", { id: "../x" }, "id"],
  ])("refuses %s", (_, over, message) => {
    expect(complaint(over)).toContain(message);
  });

  it("refuses a running snapshot without memory once it is complete", () => {
    const running = { ...snapshot(1, null), kind: "running" };
    expect(machineSnapshot.safeParse(running).success).toBe(false);
    expect(machineSnapshot.safeParse({ ...running, status: "pending" }).success).toBe(true);
    expect(machineSnapshot.safeParse({ ...running, memory: "m.dsnap" }).success).toBe(true);
  });

  it.each(["../x", "a/b", "", ".x", "a\0b", "/x", "x".repeat(300)])("refuses the memory file %j", (name) => {
    expect(memoryFileName.safeParse(name).success).toBe(false);
  });
});

describe("the lab's records", () => {
  const lab = labData.parse({
    version: 1,
    id: id(1),
    machines: [machine({ name: "a", disks: [{ vdev: "xvda", source: "/a" }] }, { snapshots: [snapshot(1, null)] })],
    networks: [{ name: "lab0", uplink: { kind: "user" } }],
  });

  it("are checked whatever they are, without a throw", () => {
    const paths: PropertyKey[][] = [];
    const walk = (value: unknown, path: PropertyKey[]) => {
      paths.push(path);
      if (typeof value === "object" && value !== null) {
        for (const [key, inner] of Object.entries(value)) walk(inner, [...path, key]);
      }
    };
    walk(lab, []);
    const damage = fc.tuple(fc.constantFrom(...paths.filter((path) => path.length > 0)), fc.jsonValue());
    fc.assert(
      fc.property(damage, ([path, value]) => {
        const damaged = structuredClone(lab);
        let at: Record<PropertyKey, unknown> = damaged;
        for (const key of path.slice(0, -1)) at = at[key] as Record<PropertyKey, unknown>;
        at[path.at(-1)!] = value;
        const result = labData.safeParse(damaged);
        // What is taken is as it is written again: reading it back changes nothing.
        if (result.success) expect(labData.parse(JSON.parse(JSON.stringify(result.data)))).toEqual(result.data);
        else expect(issueText(result.error)).not.toBe("");
      }),
      { numRuns: 1000 },
    );
  });

  it("are complete with a version and an id", () => {
    expect(labData.parse({ version: 1, id: id(1) })).toEqual({
      version: 1,
      id: id(1),
      revision: 0,
      recoveredAt: null,
      machines: [],
      networks: [],
      labSnapshots: [],
      settings: { suspendOnQuit: true, defaultPlacement: "driver-domain", purgeDays: 7 },
      images: [],
    });
  });
});

describe("the lab's folder", () => {
  it("is where the environment says", () => {
    expect(labHome({ DOMLAB_HOME: "/lab", XDG_DATA_HOME: "/data" })).toBe("/lab");
    expect(labHome({ DOMLAB_HOME: "lab" })).toBe(resolve("lab"));
    expect(labHome({ DOMLAB_HOME: "", XDG_DATA_HOME: "/data" })).toBe("/data/domlab");
    for (const XDG_DATA_HOME of ["", "data"]) {
      expect(labHome({ XDG_DATA_HOME })).toBe(join(homedir(), ".local", "share", "domlab"));
    }
    expect(labPaths("/lab").machineFile("x")).toBe("/lab/machines/x/machine.json");
  });
});
