/**
 * What a request does to the tree, on behalf of an actor and within the quotas: READ, DIRECTORY, GET_PERMS, WRITE,
 * MKDIR, RM, SET_PERMS (docs/misc/xenstore.txt). Each works on a transaction and answers a result or an error's name;
 * after an error the transaction is as it was, but for the record of what it looked at.
 */
import type { ErrnoName } from "../abi/errors.ts";
import type { Path } from "./path.ts";
import { type Actor, inherit, keepEntries, ownerOf, type Permissions, permits, type Right } from "./permissions.ts";
import { exceeds, nodeBytes, type Quotas } from "./quota.ts";
import type { RoomCheck, Store } from "./store.ts";
import type { Transaction } from "./transaction.ts";
import type { Node } from "./tree.ts";

/** The circumstances of a request. */
export interface Scope {
  readonly store: Store;
  readonly transaction: Transaction;
  readonly actor: Actor;
  readonly quotas: Quotas;
  /** Whether a domain may own that much. */
  readonly room: RoomCheck;
  /** Whether the domain exists: what an unprivileged domain permits to others ends with them (XSA-322). */
  readonly exists: (domain: number) => boolean;
}

const EMPTY = new Uint8Array(0);

/** The node, if the actor has that right to it. A missing node is ENOENT only to who may read or write above it. */
function find({ transaction, actor }: Scope, path: Path, right: Right): Node | ErrnoName {
  const node = transaction.get(path);
  if (node !== undefined) return permits(actor, node.permissions, right) ? node : "EACCES";
  const ancestor = nearest(transaction, path);
  return ancestor !== undefined && permits(actor, ancestor.node.permissions, right) ? "ENOENT" : "EACCES";
}

/** The nearest ancestor that exists. */
function nearest(transaction: Transaction, path: Path): { node: Node; path: Path } | undefined {
  for (let length = path.length - 1; length > 0; length--) {
    const above = path.slice(0, length);
    const node = transaction.get(above);
    if (node !== undefined) return { node, path: above };
  }
  return undefined;
}

/** Whether the owner's account may grow by that much. */
function hasRoom({ store, transaction, room, actor }: Scope, owner: number, nodes: number, bytes: number): boolean {
  if (actor.privileged || (nodes <= 0 && bytes <= 0)) return true;
  const now = store.accounts.of(owner);
  const mine = transaction.delta.of(owner);
  return room(owner, { nodes: now.nodes + mine.nodes + nodes, bytes: now.bytes + mine.bytes + bytes });
}

export function read(scope: Scope, path: Path): Node | ErrnoName {
  return find(scope, path, "read");
}

/** The names of the children, in the order in which they came. */
export function directory(scope: Scope, path: Path): { names: string[]; generation: number } | ErrnoName {
  const node = find(scope, path, "read");
  if (typeof node === "string") return node;
  scope.transaction.listed(path);
  return { names: [...node.children.keys()], generation: Math.max(node.generation, node.listGeneration) };
}

/** Creates the node and its missing ancestors; the last of them gets the value. */
function create(scope: Scope, path: Path, value: Uint8Array): ErrnoName | undefined {
  const { transaction, actor } = scope;
  const above = nearest(transaction, path);
  if (above === undefined) return "EINVAL";
  const permissions = inherit(actor, above.node.permissions);
  const missing = path.slice(above.path.length);
  const bytes = missing.reduce((sum, name) => sum + nodeBytes(name, { value: EMPTY, permissions }), value.length);
  if (!hasRoom(scope, ownerOf(permissions), missing.length, bytes)) return "ENOSPC";
  for (let length = above.path.length + 1; length <= path.length; length++) {
    transaction.put(path.slice(0, length), length === path.length ? value : EMPTY, permissions);
  }
  transaction.event(path);
  return undefined;
}

export function write(scope: Scope, path: Path, value: Uint8Array): ErrnoName | undefined {
  if (!scope.actor.privileged && exceeds(value.length, scope.quotas["node-size"])) return "ENOSPC";
  const node = find(scope, path, "write");
  if (node === "ENOENT") return create(scope, path, value);
  if (typeof node === "string") return node;
  if (!hasRoom(scope, ownerOf(node.permissions), 0, value.length - node.value.length)) return "ENOSPC";
  scope.transaction.put(path, value, node.permissions);
  scope.transaction.event(path);
  return undefined;
}

/** Makes sure that the path exists. */
export function makeDirectory(scope: Scope, path: Path): ErrnoName | undefined {
  const node = find(scope, path, "write");
  if (node === "ENOENT") return create(scope, path, EMPTY);
  return typeof node === "string" ? node : undefined;
}

/** Removes a node with all that is below it. No error if only the node itself is missing. */
export function remove(scope: Scope, path: Path): ErrnoName | undefined {
  if (path.length === 1) return "EINVAL";
  const node = find(scope, path, "write");
  if (node === "ENOENT") return scope.transaction.get(path.slice(0, -1)) === undefined ? "ENOENT" : undefined;
  if (typeof node === "string") return node;
  scope.transaction.remove(path);
  return undefined;
}

/** Only the owner may set permissions, and only a privileged domain may give the node away. */
export function setPermissions(scope: Scope, path: Path, wanted: Permissions): ErrnoName | undefined {
  const { actor, quotas, transaction } = scope;
  if (!actor.privileged && exceeds(wanted.length, quotas.permissions)) return "ENOSPC";
  const node = find(scope, path, "owner");
  if (typeof node === "string") return node;
  const owner = ownerOf(wanted);
  if (!actor.privileged && owner !== ownerOf(node.permissions)) return "EPERM";
  const permissions = actor.privileged ? wanted : keepEntries(wanted, scope.exists);
  const name = path.at(-1) ?? "";
  const growth =
    nodeBytes(name, { value: node.value, permissions }) -
    (owner === ownerOf(node.permissions) ? nodeBytes(name, node) : 0);
  if (!hasRoom(scope, owner, 0, growth)) return "ENOSPC";
  transaction.put(path, node.value, permissions);
  transaction.event(path);
  return undefined;
}
