/** XenStore as rows of a tree: what is shown of the lists that have been loaded. */
import type { XenstoreNode } from "../../../main/lab/xenstore-api.ts";

/** Children of nodes by path, as far as they were loaded. */
export type Lists = ReadonlyMap<string, readonly XenstoreNode[]>;

export interface Row {
  readonly path: string;
  readonly node: XenstoreNode;
  /** Depth, from 1; place among so many siblings that are shown, from 1. */
  readonly level: number;
  readonly place: number;
  readonly siblings: number;
  /** Undefined for a node without children. */
  readonly open: boolean | undefined;
}

export const childPath = (path: string, name: string): string => (path === "/" ? `/${name}` : `${path}/${name}`);

/** The root is its own parent. */
export function parentPath(path: string): string {
  const cut = path.lastIndexOf("/");
  return cut <= 0 ? "/" : path.slice(0, cut);
}

export const nameOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1) || "/";

export const isBelow = (path: string, root: string): boolean =>
  path === root || path.startsWith(root === "/" ? "/" : `${root}/`);

/** The root and everything on the way to a path, the path itself left out. */
export function ancestorsOf(path: string): string[] {
  if (path === "/") return [];
  const parent = parentPath(path);
  return [...ancestorsOf(parent), parent];
}

/** The node itself, or the nearest one above it when the lists say that it is gone. */
export function nearest(path: string, lists: Lists): string {
  const ancestors = ancestorsOf(path);
  for (const [depth, parent] of ancestors.entries()) {
    const nodes = lists.get(parent);
    // Nobody knows yet.
    if (nodes === undefined) return path;
    const step = nameOf(ancestors[depth + 1] ?? path);
    if (!nodes.some(({ name }) => name === step)) return parent;
  }
  return path;
}

/** Names as people sort them: 2 before 10. */
const inOrder = (nodes: readonly XenstoreNode[]): XenstoreNode[] =>
  [...nodes].sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));

/** Paths that match, with all that lie on the way to them. */
function matching(lists: Lists, filter: string): ReadonlySet<string> {
  const wanted = filter.toLowerCase();
  const found = new Set<string>();
  for (const [parent, nodes] of lists) {
    for (const { name, value, encoding } of nodes) {
      const path = childPath(parent, name);
      const matches =
        path.toLowerCase().includes(wanted) || (encoding === "text" && value.toLowerCase().includes(wanted));
      if (matches) for (const each of [...ancestorsOf(path), path]) found.add(each);
    }
  }
  return found;
}

/**
 * The rows that are shown: below open nodes, or with a filter (a part of a path or of a value) all that match and what
 * leads to them.
 */
export function rowsOf(root: XenstoreNode, lists: Lists, open: ReadonlySet<string>, filter: string): Row[] {
  const found = filter === "" ? undefined : matching(lists, filter);
  const rows: Row[] = [];
  const add = (path: string, node: XenstoreNode, level: number, place: number, siblings: number) => {
    const children = inOrder(lists.get(path) ?? []).filter(({ name }) => found?.has(childPath(path, name)) ?? true);
    const isOpen = found === undefined ? open.has(path) : children.length > 0;
    const isExpandable = node.hasChildren || children.length > 0;
    rows.push({ path, node, level, place, siblings, open: isExpandable ? isOpen : undefined });
    if (!isOpen) return;
    for (const [index, child] of children.entries()) {
      add(childPath(path, child.name), child, level + 1, index + 1, children.length);
    }
  };
  add("/", root, 1, 1, 1);
  return rows;
}

/** The lists to load again when something at or below a path has changed. */
export function touchedBy(path: string, lists: Lists): string[] {
  const touched = [...lists.keys()].filter((each) => isBelow(each, path));
  if (path === "/") return touched;
  // The nearest list above has the node itself, or does not know of the way there yet.
  const above = ancestorsOf(path).findLast((each) => lists.has(each));
  if (above === undefined) return touched;
  const step = path.slice(above === "/" ? 1 : above.length + 1).split("/")[0];
  const known = lists.get(above)?.find(({ name }) => name === step);
  const isNews = above === parentPath(path) || known === undefined || !known.hasChildren;
  return isNews ? [above, ...touched] : touched;
}

/** Where an arrow key leads from a row; undefined when it moves nowhere. */
export function moveFrom(rows: readonly Row[], path: string, key: string, page: number): string | undefined {
  const at = rows.findIndex((row) => row.path === path);
  const row = rows[at];
  if (row === undefined) return rows[0]?.path;
  const within = (index: number) => rows[Math.max(0, Math.min(rows.length - 1, index))]?.path;
  switch (key) {
    case "ArrowDown":
      return within(at + 1);
    case "ArrowUp":
      return within(at - 1);
    case "PageDown":
      return within(at + page);
    case "PageUp":
      return within(at - page);
    case "Home":
      return within(0);
    case "End":
      return within(rows.length - 1);
    case "ArrowRight":
      return row.open ? within(at + 1) : undefined;
    case "ArrowLeft":
      return row.open && row.path !== "/" ? undefined : parentPath(path);
    default:
      return undefined;
  }
}
