/** Snapshots of a machine as a tree. */
import { oneLine } from "../../engine/errors/input-error.ts";
import { showSize } from "../image-commands.ts";
import type { SnapshotRow } from "../lab/machine-api.ts";
import { table } from "../table.ts";
import { showDate } from "./show.ts";

/** What stands where the machine is now. */
const PRESENT = "(now)";

interface TreeLine {
  readonly label: string;
  readonly snapshot: SnapshotRow | undefined;
}

/** Depth first, older siblings first; the present state is the last child of the snapshot that it descends from. */
function treeLines(snapshots: readonly SnapshotRow[]): TreeLine[] {
  const ids = new Set(snapshots.map(({ id }) => id));
  const byDate = [...snapshots].sort((a, b) => (a.date < b.date ? -1 : 1));
  const lines: TreeLine[] = [];
  const add = (parent: string | null, indent: string, atRoot: boolean, hasPresent: boolean): void => {
    // One whose parent is not listed stands at the root rather than nowhere.
    const children = byDate.filter((each) =>
      parent === null ? each.parent === null || !ids.has(each.parent) : each.parent === parent,
    );
    const nodes: (SnapshotRow | undefined)[] = hasPresent ? [...children, undefined] : children;
    for (const [index, node] of nodes.entries()) {
      const last = index === nodes.length - 1;
      const branch = atRoot ? "" : last ? "└─ " : "├─ ";
      lines.push({ label: `${indent}${branch}${node === undefined ? PRESENT : oneLine(node.name)}`, snapshot: node });
      if (node !== undefined) add(node.id, atRoot ? "" : `${indent}${last ? "   " : "│  "}`, false, node.current);
    }
  };
  add(null, "", true, !snapshots.some(({ current }) => current));
  return lines;
}

/** The tree on the left, what is known of each on the right. */
export function snapshotTree(snapshots: readonly SnapshotRow[]): string {
  const lines = treeLines(snapshots);
  const facts = lines.map(({ snapshot }) =>
    snapshot === undefined
      ? ["", "", "", ""]
      : [showDate(snapshot.date), snapshot.kind, showSize(snapshot.memoryBytes + snapshot.diskBytes), snapshot.note],
  );
  const right = table([["Taken", "Kind", "Size", "Note"], ...facts]).split("\n");
  const left = ["Snapshot", ...lines.map(({ label }) => label)];
  const width = Math.max(...left.map((label) => label.length));
  return left.map((label, index) => `${`${label.padEnd(width)}  ${right[index] ?? ""}`.trimEnd()}\n`).join("");
}
