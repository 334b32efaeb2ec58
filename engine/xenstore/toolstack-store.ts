/**
 * The store as the toolstack uses it, in the daemon's own process: privileged, synchronous, without quota. Paths are
 * the program's own, so a malformed one is a bug and throws RangeError. Values are UTF-8 text.
 */
import { XS_ABSOLUTE_PATH_MAX } from "../abi/xs-wire.ts";
import { depthBelow, type Path, parsePath, SPECIAL_NODES } from "./path.ts";
import { formatPermission, inherit, parsePermissions } from "./permissions.ts";
import { decodeValue, encodeValue } from "./protocol.ts";
import type { Store, StoreEvent } from "./store.ts";
import type { Transaction } from "./transaction.ts";

/** A node to write. */
export interface StoreNode {
  readonly path: string;
  /** Text, or bytes that are none. */
  readonly value: string | Uint8Array;
  /** As SET_PERMS takes them ("n0", "r7"); without them a new node gets its parent's. */
  readonly permissions?: readonly string[];
}

function pathOf(text: string): Path {
  const path = SPECIAL_NODES.includes(text) ? [text] : parsePath(text, XS_ABSOLUTE_PATH_MAX);
  if (path === undefined) throw new RangeError(`malformed XenStore path ${text}`);
  return path;
}

/** Reads and changes of one atomic step. */
export class ToolstackTransaction {
  private readonly transaction: Transaction;

  constructor(transaction: Transaction) {
    this.transaction = transaction;
  }

  /** Value of a node, undefined if there is none. */
  read(path: string): string | undefined {
    const value = this.transaction.get(pathOf(path))?.value;
    return value && decodeValue(value);
  }

  /** Names of the children, undefined if there is no such node. */
  directory(path: string): string[] | undefined {
    const children = this.transaction.get(pathOf(path))?.children;
    return children && [...children.keys()];
  }

  getPermissions(path: string): string[] | undefined {
    return this.transaction.get(pathOf(path))?.permissions.map(formatPermission);
  }

  /** Writes a value; missing ancestors are made, each with its parent's permissions. */
  write(path: string, value: string | Uint8Array): void {
    this.put(pathOf(path), typeof value === "string" ? encodeValue(value) : value);
  }

  /** Makes sure that the node exists. */
  mkdir(path: string): void {
    const parts = pathOf(path);
    if (this.transaction.get(parts) === undefined) this.put(parts, new Uint8Array(0));
  }

  private put(path: Path, value: Uint8Array): void {
    const old = this.transaction.get(path);
    for (let length = 2; old === undefined && length < path.length; length++) {
      const above = path.slice(0, length);
      if (this.transaction.get(above) === undefined) this.place(above, new Uint8Array(0));
    }
    this.place(path, value);
    this.transaction.event(path);
  }

  private place(path: Path, value: Uint8Array): void {
    const permissions = this.transaction.get(path)?.permissions ?? this.transaction.get(path.slice(0, -1))?.permissions;
    if (permissions === undefined) throw new RangeError("a special node cannot be made");
    const actor = { domain: 0, privileged: true, target: undefined };
    this.transaction.put(path, value, inherit(actor, permissions));
  }

  /** Removes a node and what is below it; nothing happens if there is none. */
  remove(path: string): void {
    const parts = pathOf(path);
    if (parts.length > 1 && this.transaction.get(parts) !== undefined) this.transaction.remove(parts);
  }

  /** @throws RangeError for a missing node or malformed permissions */
  setPermissions(path: string, texts: readonly string[]): void {
    const parts = pathOf(path);
    const node = this.transaction.get(parts);
    const permissions = parsePermissions(texts);
    if (node === undefined || permissions === undefined)
      throw new RangeError(`cannot set ${texts.join(" ")} on ${path}`);
    this.transaction.put(parts, node.value, permissions);
    this.transaction.event(parts);
  }

  /** Writes many nodes, in order. */
  writeNodes(nodes: Iterable<StoreNode>): void {
    for (const { path, value, permissions } of nodes) {
      this.write(path, value);
      if (permissions !== undefined) this.setPermissions(path, permissions);
    }
  }
}

export class ToolstackStore {
  private readonly store: Store;
  private readonly listen: (listener: (events: readonly StoreEvent[]) => void) => () => void;

  /** Made by Xenstored; `listen` registers for the events of commits and returns how to stop that. */
  constructor(store: Store, listen: (listener: (events: readonly StoreEvent[]) => void) => () => void) {
    this.store = store;
    this.listen = listen;
  }

  /** Runs `body` as one atomic step: everything it changes is there at once, or nothing if it throws. */
  transaction<T>(body: (store: ToolstackTransaction) => T): T {
    const transaction = this.store.begin(false);
    const result = body(new ToolstackTransaction(transaction));
    const error = transaction.base === this.store.tree ? this.store.commit(transaction, () => true) : "EAGAIN";
    if (error !== undefined) throw new Error("a toolstack transaction must not change the store by other ways");
    return result;
  }

  read(path: string): string | undefined {
    return this.transaction((store) => store.read(path));
  }

  directory(path: string): string[] | undefined {
    return this.transaction((store) => store.directory(path));
  }

  getPermissions(path: string): string[] | undefined {
    return this.transaction((store) => store.getPermissions(path));
  }

  write(path: string, value: string): void {
    this.transaction((store) => store.write(path, value));
  }

  mkdir(path: string): void {
    this.transaction((store) => store.mkdir(path));
  }

  remove(path: string): void {
    this.transaction((store) => store.remove(path));
  }

  setPermissions(path: string, texts: readonly string[]): void {
    this.transaction((store) => store.setPermissions(path, texts));
  }

  writeNodes(nodes: Iterable<StoreNode>): void {
    this.transaction((store) => store.writeNodes(nodes));
  }

  /**
   * Calls `listener` with the path of each change at or below `path`, after its commit, and once at once with `path`
   * itself. @returns how to stop it
   */
  watch(path: string, listener: (path: string) => void): () => void {
    pathOf(path.startsWith("@") ? (path.split("/")[0] ?? path) : path);
    const stop = this.listen((events) => {
      for (const event of events) {
        const depth = depthBelow(path, event.path);
        if (event.exact ? depth === 0 : depth !== undefined) listener(event.path);
      }
    });
    listener(path);
    return stop;
  }

  /**
   * Waits until `predicate` holds for the node's value (undefined while there is none); it is asked at once and after
   * each change at or below `path`, so it may look at more of the store than that. @returns false after `timeoutMs`
   */
  waitFor(path: string, predicate: (value: string | undefined) => boolean, timeoutMs: number): Promise<boolean> {
    return new Promise((resolve, reject) => {
      let stop: (() => void) | undefined;
      let over = false;
      const finish = (settle: () => void) => {
        over = true;
        clearTimeout(timer);
        stop?.();
        settle();
      };
      const timer = setTimeout(() => finish(() => resolve(false)), timeoutMs);
      stop = this.watch(path, () => {
        if (over) return;
        try {
          if (predicate(this.read(path))) finish(() => resolve(true));
        } catch (error) {
          // The change that this is told of is another's: a faulty predicate is for who waits.
          finish(() => reject(error));
        }
      });
      // The first call comes before there is something to stop.
      if (over) stop();
    });
  }
}
