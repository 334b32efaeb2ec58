/** Names of snapshots and of their clones, and what is said about them. */
import { describe, expect, it } from "vitest";
import type { LabSnapshotRow, MachineSummary, SnapshotRow } from "../../main/lab/machine-api.ts";
import { cloneName, freeSwitch, switchesOf } from "../../renderer/views/snapshots/clone.ts";
import {
  afterRestore,
  freeSnapshotName,
  isOn,
  keeps,
  keptParts,
  labsText,
  labsWith,
  labTakenText,
  lossText,
  membersOf,
  safetyName,
  sizeText,
  someNames,
  takenText,
} from "../../renderer/views/snapshots/words.ts";

const named = (...names: string[]) => names.map((name) => ({ name }));
const machine = (id: string, name: string) => ({ id, name, state: "stopped" }) as MachineSummary;

describe("names of snapshots", () => {
  it("gets a number when the name is taken", () => {
    expect(freeSnapshotName("a", [])).toBe("a");
    expect(freeSnapshotName("a", named("a", "a 2"))).toBe("a 3");
  });

  it("never is longer than the lab takes, number and all", () => {
    const long = "x".repeat(200);
    const first = freeSnapshotName(long, []);
    const second = freeSnapshotName(long, named(first));
    expect([first.length, second.length]).toEqual([128, 128]);
    expect(second).toMatch(/x 2$/);
  });

  it("says what is kept before going back, and does not pile up", () => {
    expect(safetyName("clean", [])).toBe("before clean");
    expect(safetyName("before clean", named("clean", "before clean"))).toBe("before clean 2");
  });
});

describe("names of clones", () => {
  it("takes only what a machine's name may have", () => {
    expect(cloneName("web", "Clean install (21.11.)")).toBe("web-clean-install-21.11");
    expect(cloneName("web", "ältere & neue")).toBe("web-ltere-neue");
    expect(cloneName("web", "***")).toBe("web-clone");
  });

  it("leaves room for a number and does not end in a hyphen", () => {
    const name = cloneName("w".repeat(50), "nine char and more");
    expect(name.length).toBeLessThanOrEqual(60);
    expect(name).toMatch(/[a-z0-9]$/);
  });
});

describe("switches of a machine", () => {
  it("finds a free name for a new one", () => {
    expect(freeSwitch(["lab0"])).toBe("clones");
    expect(freeSwitch(["clones", "clones2"])).toBe("clones3");
  });

  it("names each once, and none of what is no interface", () => {
    const config = {
      vifs: [{ bridge: "lab0" }, { bridge: "lan" }, { bridge: "lab0" }, { mac: "00:16:3e:00:00:01" }, null],
    };
    expect(switchesOf(config)).toEqual(["lab0", "lan"]);
    expect(switchesOf({})).toEqual([]);
  });
});

describe("what is said", () => {
  const snapshot = { name: "clean", kind: "running" } as SnapshotRow;

  it("tells what was taken and how long the guest stood still", () => {
    expect(takenText("web", { name: "s", kind: "running", pausedMs: 12.4 })).toBe(
      "web: s was taken (disks and memory; the guest stood still for 12 ms).",
    );
    expect(takenText("web", { name: "s", kind: "disk", pausedMs: 0 })).toBe("web: s was taken (disks).");
    expect(labTakenText("lab 1", [{ pausedMs: 0 }, { pausedMs: 1430 }])).toBe(
      "lab 1 was taken of 2 machines; those that run stood still for 1.4 s at most.",
    );
    expect(labTakenText("lab 1", [{ pausedMs: 0 }])).toBe("lab 1 was taken of 1 machine.");
  });

  it("knows what a machine's snapshot can keep", () => {
    expect(
      (["running", "paused", "suspended", "stopped", "crashed"] as const).map((state) => keeps({ state })),
    ).toEqual(["memory", "memory", "suspended", "disks", "disks"]);
    expect([isOn({ domid: 0 }), isOn({})]).toEqual([true, false]);
  });

  it("tells what a restore leads to and what it loses", () => {
    expect(afterRestore({ kind: "disk" }, true)).toContain("off");
    expect(afterRestore(snapshot, true)).toContain("running");
    expect(afterRestore(snapshot, false)).toContain("suspended");
    expect(lossText({ name: "web" }, snapshot)).toContain("since it was at “clean”");
    expect(lossText({ name: "web" }, undefined)).toContain("since it was made");
  });

  it("tells sizes of what there is", () => {
    expect(sizeText({ memoryBytes: 2 << 20, diskBytes: 3 << 10 })).toBe("2 MiB memory, 3 KiB disks");
    expect(sizeText({ memoryBytes: 0, diskBytes: 3 << 10 })).toBe("3 KiB disks");
    expect(sizeText({ memoryBytes: 0, diskBytes: 0 })).toBe("–");
  });

  it("tells what is kept, with memory of an unknown size too", () => {
    expect(keptParts({ kind: "running", memoryBytes: 0, diskBytes: 5 })).toEqual([
      { what: "memory", bytes: 0 },
      { what: "disks", bytes: 5 },
    ]);
    expect(keptParts({ kind: "disk", memoryBytes: 0, diskBytes: 0 })).toEqual([{ what: "disks", bytes: 0 }]);
  });

  it("names some and counts the rest", () => {
    expect(someNames(["a", "b"], 2)).toBe("a, b");
    expect(someNames(["a", "b", "c", "d"], 3)).toBe("a, b and 2 more");
  });
});

describe("members of a lab's snapshot", () => {
  const row: LabSnapshotRow = {
    id: "l",
    name: "lab 1",
    note: "",
    date: "2026-01-01T00:00:00.000Z",
    members: [
      { machine: "m10", name: "web10", snapshot: "s10", present: true },
      { machine: "m2", name: "web2", snapshot: "s2", present: true },
      { machine: "m3", name: "was", snapshot: "s3", present: false },
      { machine: "m4", name: "m4", snapshot: "s4", present: true },
    ],
  };
  const known = new Map([machine("m10", "web10"), machine("m2", "now2"), machine("m3", "other")].map((m) => [m.id, m]));

  it("sorts them by their names of now, and only those that are there can go back", () => {
    const members = membersOf(row, (id) => known.get(id));
    expect(members.map(({ name, machine: found }) => [name, found?.id])).toEqual([
      ["m4", undefined],
      ["now2", "m2"],
      ["other", undefined],
      ["web10", "m10"],
    ]);
  });

  it("is named after them, unless it has their name", () => {
    expect(labsText("a", [])).toBe("");
    expect(labsText("a", named("a"))).toBe("lab snapshot");
    expect(labsText("a", named("b", "c"))).toBe("lab snapshot b and 1 more");
  });

  it("finds the lab's snapshots that one is a part of", () => {
    expect(labsWith("s2", [row]).map(({ id }) => id)).toEqual(["l"]);
    expect(labsWith("s9", [row])).toEqual([]);
  });
});
