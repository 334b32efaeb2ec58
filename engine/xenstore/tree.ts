/**
 * The tree of nodes, immutable: a change makes new nodes along one path and shares the rest, so that a transaction's
 * snapshot costs nothing.
 */
import type { Path } from "./path.ts";
import { type Permissions, PRIVILEGED_ONLY } from "./permissions.ts";

export interface Node {
  readonly value: Uint8Array;
  readonly permissions: Permissions;
  readonly children: ReadonlyMap<string, Node>;
  /** Stamp of the last change of value or permissions, or of the node's creation. No stamp is used twice. */
  readonly generation: number;
  /** Stamp of the last time that a child came or went. */
  readonly listGeneration: number;
}

const EMPTY = new Uint8Array(0);
const NO_CHILDREN: ReadonlyMap<string, Node> = new Map();

function emptyNode(children: ReadonlyMap<string, Node> = NO_CHILDREN): Node {
  return { value: EMPTY, permissions: PRIVILEGED_ONLY, children, generation: 0, listGeneration: 0 };
}

/** A node whose children are still being added. */
export interface NodeDraft extends Node {
  readonly children: Map<string, NodeDraft>;
}

export class Tree {
  private readonly top: Node;

  private constructor(top: Node) {
    this.top = top;
  }

  /** A tree of empty nodes with these names at its top. */
  static of(names: readonly string[]): Tree {
    return new Tree(emptyNode(new Map(names.map((name) => [name, emptyNode()]))));
  }

  /** The node at a path, or undefined. */
  get(path: Path): Node | undefined {
    let node: Node | undefined = this.top;
    for (const name of path) node = node?.children.get(name);
    return node;
  }

  /** A tree with that value and those permissions at the path, whose parent exists. @throws Error if it does not */
  with(path: Path, value: Uint8Array, permissions: Permissions, stamp: number): Tree {
    const place = (parent: Node, name: string): Node => {
      const old = parent.children.get(name);
      const node: Node = {
        value,
        permissions,
        children: old?.children ?? NO_CHILDREN,
        generation: stamp,
        listGeneration: old?.listGeneration ?? stamp,
      };
      const children = new Map(parent.children).set(name, node);
      return { ...parent, children, listGeneration: old === undefined ? stamp : parent.listGeneration };
    };
    return new Tree(changeParent(this.top, path, 0, place));
  }

  /** A tree with that node and what is below it at the path, whose parent exists. @throws Error if it does not */
  grafted(path: Path, node: Node, stamp: number): Tree {
    const place = (parent: Node, name: string): Node => {
      const children = new Map(parent.children).set(name, node);
      return { ...parent, children, listGeneration: stamp };
    };
    return new Tree(changeParent(this.top, path, 0, place));
  }

  /** A tree without the path and what is below it. */
  without(path: Path, stamp: number): Tree {
    if (this.get(path) === undefined) return this;
    const drop = (parent: Node, name: string): Node => {
      const children = new Map(parent.children);
      children.delete(name);
      return { ...parent, children, listGeneration: stamp };
    };
    return new Tree(changeParent(this.top, path, 0, drop));
  }

  /** Every node at and below a path, parents first. */
  *walk(path: Path = []): Generator<readonly [Path, Node]> {
    const start = this.get(path);
    if (start === undefined) return;
    const pending: [Path, Node][] = [[path, start]];
    for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
      const [at, node] = next;
      if (at.length > 0) yield next;
      for (const [name, child] of [...node.children].reverse()) pending.push([[...at, name], child]);
    }
  }
}

function changeParent(node: Node, path: Path, level: number, change: (parent: Node, name: string) => Node): Node {
  const name = path[level];
  if (name === undefined) throw new Error("the empty path cannot be changed");
  if (level === path.length - 1) return change(node, name);
  const child = node.children.get(name);
  if (child === undefined) throw new Error(`node ${path.join("/")} has no parent`);
  const children = new Map(node.children).set(name, changeParent(child, path, level + 1, change));
  return { ...node, children };
}
