/** The rows of a drawn tree of snapshots. */
import { describe, expect, it } from "vitest";
import type { SnapshotRow } from "../../main/lab/machine-api.ts";
import { descendants, treeRows } from "../../renderer/views/snapshots/tree.ts";

/** Snapshots from "name<parent" in the order in which they were taken; `*` marks the current one. */
function snapshotsOf(...texts: string[]): SnapshotRow[] {
  return texts.map((text, index) => {
    const [name = "", parent = null] = text.replace("*", "").split("<");
    return {
      id: name,
      name,
      note: "",
      date: new Date(Date.UTC(2026, 0, 1, 0, index)).toISOString(),
      parent,
      kind: "disk",
      current: text.endsWith("*"),
      memoryBytes: 0,
      diskBytes: 0,
    };
  });
}

/** A row as text: its column by blanks, "\\" where it branches off, lines up and down, its name, its level. */
const drawn = (snapshots: readonly SnapshotRow[]) =>
  treeRows(snapshots).map(({ snapshot, level, column, above, below, branch }) => {
    const lines = `${branch ? "\\" : ""}${above ? "^" : ""}${below ? "v" : ""}`;
    return `${"|".repeat(column)}${lines} ${snapshot?.name ?? "now"} ${level}`;
  });

describe("rows of a tree of snapshots", () => {
  it("shows the present alone when there are none", () => {
    expect(drawn([])).toEqual([" now 1"]);
  });

  it("keeps a line of descent in one column, the present at its end", () => {
    expect(drawn(snapshotsOf("a", "b<a", "c<b*"))).toEqual(["v a 1", "^v b 2", "^v c 3", "^ now 4"]);
  });

  it("draws what does not lead to the present as branches before what does", () => {
    const rows = drawn(snapshotsOf("a", "b<a*", "c<a", "d<c", "e<a"));
    expect(rows).toEqual(["v a 1", "|\\v c 2", "|^ d 3", "|\\ e 2", "^v b 2", "^ now 3"]);
  });

  it("branches off a branch one column further", () => {
    const rows = drawn(snapshotsOf("a", "b<a", "c<b", "d<b", "e<a*"));
    expect(rows).toEqual(["v a 1", "|\\v b 2", "||\\ c 3", "|^ d 3", "^v e 2", "^ now 3"]);
  });

  it("lets the newest go on where no branch leads to the present", () => {
    // The present is at a; of b's children the newer one continues b's line.
    const rows = drawn(snapshotsOf("a*", "b<a", "d<b", "c<b"));
    expect(rows).toEqual(["v a 1", "|\\v b 2", "||\\ d 3", "|^ c 3", "^ now 2"]);
  });

  it("has every root in the first column, the one of the present last", () => {
    expect(drawn(snapshotsOf("a*", "b"))).toEqual([" b 1", "v a 1", "^ now 2"]);
    expect(drawn(snapshotsOf("a", "b"))).toEqual([" a 1", " b 1", " now 1"]);
  });

  it("puts a snapshot whose parent is not listed at the root", () => {
    expect(drawn(snapshotsOf("b<gone", "c<b*"))).toEqual(["v b 1", "^v c 2", "^ now 3"]);
  });

  it("has every snapshot once, whatever the order of the list, in a deep and wide tree", () => {
    const texts = Array.from({ length: 400 }, (_, index) => (index === 0 ? "0" : `${index}<${(index * 7) % index}`));
    texts.push("last<399*");
    const all = snapshotsOf(...texts);
    const rows = treeRows(all);
    expect(treeRows([...all].reverse())).toEqual(rows);
    expect(rows.length).toBe(402);
    expect(new Set(rows.map(({ snapshot }) => snapshot?.id)).size).toBe(402);
    expect(rows.at(-1)?.snapshot).toBeUndefined();
  });

  it("goes down a line of thousands", () => {
    const texts = Array.from({ length: 5000 }, (_, index) => (index === 0 ? "0" : `${index}<${index - 1}`));
    const rows = treeRows(snapshotsOf(...texts.slice(0, -1), `${texts.at(-1)}*`));
    expect(rows.at(-1)).toMatchObject({ level: 5001, column: 0, above: true, below: false });
  });
});

describe("descendants", () => {
  it("counts all generations, whatever the order of the list", () => {
    const all = snapshotsOf("c<b", "b<a", "a", "x", "d<a*");
    expect(["a", "b", "c", "x"].map((id) => descendants(all, id))).toEqual([3, 1, 0, 0]);
  });
});
