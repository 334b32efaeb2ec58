/** A machine's snapshots as the rows of a drawn tree. */
import type { SnapshotRow } from "../../../main/lab/machine-api.ts";

export interface TreeRow {
  /** Undefined: the machine's present state. */
  readonly snapshot: SnapshotRow | undefined;
  /** Depth in the tree, 1 for a root, as screen readers are told it. */
  readonly level: number;
  /** Where it is drawn. A line of descent keeps its column; what branches off stands one further to the right. */
  readonly column: number;
  /** A line leads up to its parent in the same column. */
  readonly above: boolean;
  /** A line leads down to its descendants. */
  readonly below: boolean;
  /** A line comes from the column to the left: here a branch begins. */
  readonly branch: boolean;
}

const PRESENT = "";

/**
 * Depth first. Of siblings the one that leads to the present, else the newest, goes on in its parent's column and comes
 * last; the others branch off before it, older ones first. So every column left of a row's own has a line there.
 */
export function treeRows(snapshots: readonly SnapshotRow[]): TreeRow[] {
  const byId = new Map(snapshots.map((each) => [each.id, each]));
  const children = childrenOf(snapshots);
  const current = snapshots.find((each) => each.current);
  const isOnWay = wayTo(current, byId);
  const rows: TreeRow[] = [];

  const drawLine = (first: string, level: number, column: number, branch: boolean): void => {
    let depth = level;
    for (let id: string | undefined = first; id !== undefined; depth++) {
      const all: string[] = id === PRESENT ? [] : (children.get(id) ?? []);
      const main: string | undefined = all.find(isOnWay) ?? all.at(-1);
      rows.push({
        snapshot: byId.get(id),
        level: depth,
        column,
        above: id !== first,
        below: main !== undefined,
        branch: branch && id === first,
      });
      for (const each of all) if (each !== main) drawLine(each, depth + 1, column + 1, true);
      id = main;
    }
  };

  const roots = children.get(null) ?? [];
  const last = roots.find(isOnWay) ?? roots.at(-1);
  for (const root of roots) if (root !== last) drawLine(root, 1, 0, false);
  if (last !== undefined) drawLine(last, 1, 0, false);
  return rows;
}

/** Ids by their parent's, oldest first; the present is a child like any other, the youngest. */
function childrenOf(snapshots: readonly SnapshotRow[]): Map<string | null, string[]> {
  const known = new Set(snapshots.map(({ id }) => id));
  const children = new Map<string | null, string[]>();
  const add = (parent: string | null, id: string) => children.set(parent, [...(children.get(parent) ?? []), id]);
  for (const { id, parent } of [...snapshots].sort((a, b) => Date.parse(a.date) - Date.parse(b.date))) {
    // One whose parent is not listed stands at the root rather than nowhere.
    add(parent !== null && known.has(parent) ? parent : null, id);
  }
  add(snapshots.find((each) => each.current)?.id ?? null, PRESENT);
  return children;
}

/** Whether an id lies between a root and the present, the present itself included. */
function wayTo(current: SnapshotRow | undefined, byId: ReadonlyMap<string, SnapshotRow>): (id: string) => boolean {
  const way = new Set([PRESENT]);
  for (let at = current; at !== undefined && !way.has(at.id); at = byId.get(at.parent ?? PRESENT)) way.add(at.id);
  return (id) => way.has(id);
}

/** How many snapshots descend from one. */
export function descendants(snapshots: readonly SnapshotRow[], id: string): number {
  const found = new Set([id]);
  // Children are younger than their parents, but a clock may have been set: until nothing is added.
  for (let before = 0; before !== found.size; ) {
    before = found.size;
    for (const each of snapshots) if (each.parent !== null && found.has(each.parent)) found.add(each.id);
  }
  return found.size - 1;
}
