/** The store as all connections share it: the committed tree, the books about it, and who is told of changes. */
import { type Path, pathText, SPECIAL_NODES } from "./path.ts";
import { keepEntries, ownerOf, type Permissions } from "./permissions.ts";
import { Accounts } from "./quota.ts";
import { Transaction } from "./transaction.ts";
import { type Node, Tree } from "./tree.ts";

/** A change that watches may want to know of. */
export interface StoreEvent {
  readonly path: string;
  /** Only watches on that very path. */
  readonly exact: boolean;
  /** Permissions of the node before and after, and of its parent: one that lets a domain read lets it know. */
  readonly permissions: readonly Permissions[];
}

/** May a domain's account grow to this? */
export type RoomCheck = (owner: number, usage: { readonly nodes: number; readonly bytes: number }) => boolean;

export class Store {
  tree = Tree.of(["/", ...SPECIAL_NODES]);
  readonly accounts = new Accounts();
  private generation = 0;
  private readonly onEvents: (events: readonly StoreEvent[]) => void;

  /** `onEvents` is called after each commit that changed something. */
  constructor(onEvents: (events: readonly StoreEvent[]) => void) {
    this.onEvents = onEvents;
    for (const [path, node] of this.tree.walk()) this.accounts.count(path, node, 1);
  }

  /** Stamp of the latest change. */
  get latest(): number {
    return this.generation;
  }

  /** Makes later stamps larger than `stamp`: whoever remembers one of a restored store must not meet it again. */
  passStamp(stamp: number): void {
    this.generation = Math.max(this.generation, stamp);
  }

  /** Starts a transaction; `tracking` as in Transaction. */
  begin(tracking: boolean): Transaction {
    return new Transaction(this.tree, () => ++this.generation, tracking);
  }

  /** Makes a transaction's changes the store's. A refused commit changes nothing. */
  commit(transaction: Transaction, room: RoomCheck): "EAGAIN" | "ENOSPC" | undefined {
    if (transaction.conflictsWith(this.tree)) return "EAGAIN";
    const final = transaction.base === this.tree ? transaction : transaction.rebase(this.tree);
    for (const [owner, { nodes, bytes }] of final.delta.entries()) {
      const now = this.accounts.of(owner);
      const grows = nodes > 0 || bytes > 0;
      if (grows && !room(owner, { nodes: now.nodes + nodes, bytes: now.bytes + bytes })) return "ENOSPC";
    }
    for (const [owner, usage] of final.delta.entries()) this.accounts.add(owner, usage);
    const before = this.tree;
    this.tree = final.tree;
    const events = [...final.events].map(([path, exact]) => describe(path, exact, before, final.tree));
    if (events.length > 0) this.onEvents(events);
    return undefined;
  }

  /** Removes a domain's nodes with all that is below them, its home, and its entries in the permissions of others. */
  forget(domain: number, home: Path): void {
    const transaction = this.begin(false);
    if (transaction.tree.get(home) !== undefined) transaction.remove(home);
    for (const [path, { permissions }] of [...transaction.tree.walk()]) {
      const node = transaction.tree.get(path);
      if (node === undefined) continue;
      if (ownerOf(permissions) === domain && path.length > 1) transaction.remove(path);
      else if (permissions.some((entry) => entry.domain === domain)) {
        const owned: Permissions =
          ownerOf(permissions) === domain ? [{ domain: 0, read: false, write: false }] : permissions;
        transaction.put(
          path,
          node.value,
          keepEntries(owned, (other) => other !== domain),
        );
      }
    }
    this.commit(transaction, () => true);
  }

  /** The accounts as a count of the whole tree finds them. */
  recount(): Accounts {
    const counted = new Accounts();
    for (const [path, node] of this.tree.walk()) counted.count(path, node, 1);
    return counted;
  }
}

function describe(text: string, exact: boolean, before: Tree, after: Tree): StoreEvent {
  const path = text.startsWith("/") ? ["/", ...text.slice(1).split("/").filter(Boolean)] : [text];
  const parent = path.slice(0, -1);
  const nodes: (Node | undefined)[] = [before.get(path), after.get(path)];
  if (parent.length > 0) nodes.push(after.get(parent) ?? before.get(parent));
  return {
    path: pathText(path),
    exact,
    permissions: nodes.flatMap((node) => (node === undefined ? [] : [node.permissions])),
  };
}
