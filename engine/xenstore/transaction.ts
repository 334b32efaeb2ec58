/**
 * A transaction: a private tree, what it has read and written, and the changes to make at its commit.
 *
 * A commit fails only if somebody else has changed what the transaction has looked at; other changes made meanwhile are
 * kept. A node that was read or written counts as looked at (so does one that was looked for in vain), and its list
 * of children if it was listed or removed. Requests outside of a transaction are one of their own, committed at once.
 */
import { type Path, pathText } from "./path.ts";
import type { Permissions } from "./permissions.ts";
import { Accounts, RECORD_BYTES } from "./quota.ts";
import type { Node, NodeDraft, Tree } from "./tree.ts";

interface Access {
  readonly path: Path;
  node: boolean;
  list: boolean;
}

interface Change {
  readonly path: Path;
  /** Bytes of the value that the transaction keeps for the path. */
  readonly bytes: number;
}

export class Transaction {
  readonly base: Tree;
  tree: Tree;
  /** What the changes so far add to the accounts of the base tree. */
  readonly delta = new Accounts();
  /** Paths whose watches fire at the commit; true: only watches on exactly that path. */
  readonly events = new Map<string, boolean>();
  readonly changes = new Map<string, Change>();
  /** It began in a store that is no more: its commit must fail. */
  conflicted = false;
  /** Bytes of memory that the transaction's own records take. */
  bytes = 0;
  private readonly accesses = new Map<string, Access>();
  private readonly stamp: () => number;
  private readonly tracking: boolean;

  /** `stamp` makes generations; with `tracking` off, the commit follows at once and cannot conflict. */
  constructor(base: Tree, stamp: () => number, tracking: boolean) {
    this.base = base;
    this.tree = base;
    this.stamp = stamp;
    this.tracking = tracking;
  }

  /** Nodes looked at. */
  get size(): number {
    return this.accesses.size;
  }

  /** Reads a node; the commit then depends on it, or on its absence. */
  get(path: Path): Node | undefined {
    this.access(path).node = true;
    return this.tree.get(path);
  }

  /** Says that the commit depends on the node's list of children. */
  listed(path: Path): void {
    this.access(path).list = true;
  }

  private access(path: Path): Access {
    if (!this.tracking) return { path, node: false, list: false };
    const key = pathText(path);
    let access = this.accesses.get(key);
    if (access === undefined) {
      access = { path, node: false, list: false };
      this.accesses.set(key, access);
      this.bytes += RECORD_BYTES + key.length;
    }
    return access;
  }

  private changed(path: Path, bytes: number): void {
    const key = pathText(path);
    const old = this.changes.get(key);
    this.changes.set(key, { path, bytes });
    if (this.tracking) this.bytes += bytes - (old?.bytes ?? -(RECORD_BYTES + key.length));
  }

  /** Fires the watches of the path at the commit. */
  event(path: Path, exact = false): void {
    const key = pathText(path);
    this.events.set(key, exact && (this.events.get(key) ?? true));
  }

  /** Creates or changes a node whose parent exists. */
  put(path: Path, value: Uint8Array, permissions: Permissions): void {
    const old = this.get(path);
    if (old !== undefined) this.delta.count(path, old, -1);
    this.delta.count(path, { value, permissions }, 1);
    this.tree = this.tree.with(path, value, permissions, this.stamp());
    this.changed(path, value.length);
  }

  /** A new node of this transaction, for graft(). */
  draft(value: Uint8Array, permissions: Permissions): NodeDraft {
    const stamp = this.stamp();
    return { value, permissions, children: new Map(), generation: stamp, listGeneration: stamp };
  }

  /**
   * Puts a node with all that is below it in the place of what is there. That costs less than many put(), but is only
   * for transactions that do not track; the caller fires the events.
   */
  graft(path: Path, node: NodeDraft): void {
    if (this.tracking) throw new Error("a transaction that tracks cannot graft");
    for (const [at, old] of this.tree.walk(path)) this.delta.count(at, old, -1);
    this.tree = this.tree.grafted(path, node, this.stamp());
    for (const [at, grown] of this.tree.walk(path)) this.delta.count(at, grown, 1);
  }

  /** Removes a node and what is below it; watches on nodes below fire for themselves. */
  remove(path: Path): void {
    for (const [at, node] of this.tree.walk(path)) {
      this.get(at);
      this.listed(at);
      this.delta.count(at, node, -1);
      this.changed(at, 0);
      this.event(at, at.length > path.length);
    }
    this.tree = this.tree.without(path, this.stamp());
  }

  /** Whether somebody has changed what this transaction has looked at, now that `current` is the store's tree. */
  conflictsWith(current: Tree): boolean {
    if (this.conflicted) return true;
    if (current === this.base) return false;
    for (const { path, node, list } of this.accesses.values()) {
      const before = this.base.get(path);
      const now = current.get(path);
      if (node && before?.generation !== now?.generation) return true;
      if (list && before?.listGeneration !== now?.listGeneration) return true;
    }
    return false;
  }

  /** The same changes on another tree with which there is no conflict. */
  rebase(current: Tree): Transaction {
    const moved = new Transaction(current, this.stamp, false);
    const changes = [...this.changes.values()].sort((a, b) => a.path.length - b.path.length);
    for (const { path } of changes) {
      const node = this.tree.get(path);
      if (node !== undefined) moved.put(path, node.value, node.permissions);
      else if (moved.tree.get(path) !== undefined) moved.remove(path);
    }
    moved.events.clear();
    for (const [path, exact] of this.events) moved.events.set(path, exact);
    return moved;
  }
}
