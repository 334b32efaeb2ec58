/**
 * The store itself: a tree of nodes with byte values.
 *
 * A tree is immutable: a change makes new nodes along one path and shares the rest, so a transaction's snapshot costs
 * nothing, and committing it is one assignment.
 */

export interface Node {
  readonly value: Uint8Array;
  readonly children: ReadonlyMap<string, Node>;
}

const EMPTY = new Uint8Array(0);
const EMPTY_NODE: Node = { value: EMPTY, children: new Map() };

/** Longest absolute path and greatest value in bytes that the default quotas allow. */
export const MAX_NODE_SIZE = 2048;
export const MAX_PATH = 3072;

/** Components of a well-formed absolute path, or undefined. */
export function splitPath(path: string): string[] | undefined {
  if (path === "/") return [];
  if (path.length > MAX_PATH || !/^(\/[A-Za-z0-9\-_@]+)+$/.test(path)) return undefined;
  return path.slice(1).split("/");
}

export class Tree {
  static readonly empty = new Tree(EMPTY_NODE);
  private readonly root: Node;

  private constructor(root: Node) {
    this.root = root;
  }

  /** The node at a path, or undefined. */
  get(path: readonly string[]): Node | undefined {
    let node: Node | undefined = this.root;
    for (const name of path) node = node?.children.get(name);
    return node;
  }

  /** A tree with that value at the path; missing parents are made empty. */
  with(path: readonly string[], value: Uint8Array): Tree {
    return new Tree(replace(this.root, path, (node) => ({ value, children: node?.children ?? new Map() })));
  }

  /** A tree where the path exists, with its present value or an empty one. */
  withNode(path: readonly string[]): Tree {
    return this.get(path) === undefined ? this.with(path, EMPTY) : this;
  }

  /** A tree without the path and what is below it. The root cannot go. */
  without(path: readonly string[]): Tree {
    const parent = path.slice(0, -1);
    const name = path.at(-1);
    if (name === undefined || this.get(path) === undefined) return this;
    const remove = (node: Node | undefined): Node => {
      const children = new Map(node?.children);
      children.delete(name);
      return { value: node?.value ?? EMPTY, children };
    };
    return new Tree(replace(this.root, parent, remove));
  }

  /** Nodes at and below a path. */
  count(path: readonly string[]): number {
    const node = this.get(path);
    return node === undefined ? 0 : countNodes(node);
  }
}

function countNodes(node: Node): number {
  let sum = 1;
  for (const child of node.children.values()) sum += countNodes(child);
  return sum;
}

function replace(node: Node | undefined, path: readonly string[], change: (node: Node | undefined) => Node): Node {
  const [name, ...rest] = path;
  if (name === undefined) return change(node);
  const children = new Map(node?.children);
  children.set(name, replace(children.get(name), rest, change));
  return { value: node?.value ?? EMPTY, children };
}
