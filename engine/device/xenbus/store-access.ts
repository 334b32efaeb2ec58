/**
 * The XenStore as a driver uses it. The client of engine/xenstore satisfies these; paths without a leading slash are
 * relative to the caller's own /local/domain/<id>.
 */

/** Reads and writes: of the store itself, or inside a transaction. */
export interface StoreAccess {
  /** @returns undefined when the node does not exist */
  read(path: string): Promise<string | undefined>;
  write(path: string, value: string): Promise<void>;
  mkdir(path: string): Promise<void>;
  /** No error when the node is absent. */
  remove(path: string): Promise<void>;
  /** Names of the children; undefined when the node does not exist. */
  directory(path: string): Promise<string[] | undefined>;
  setPermissions(path: string, permissions: readonly string[]): Promise<void>;
}

export interface StoreWatch {
  close(): Promise<void>;
}

export interface XenbusStore extends StoreAccess {
  /** Runs `body` until it commits without conflict. */
  transaction<T>(body: (store: StoreAccess) => Promise<T>): Promise<T>;
  /** The listener is called once at once, then for every change at or below the path. */
  watch(path: string, listener: (path: string) => void): Promise<StoreWatch>;
}

const lastTransaction = new WeakMap<XenbusStore, Promise<unknown>>();

/**
 * Runs a transaction after those that other devices of the same domain have begun: a domain may have only few at a time
 * (Xen's default quota is 10), and a driver domain has many devices.
 */
export function inTurn<T>(store: XenbusStore, body: (transaction: StoreAccess) => Promise<T>): Promise<T> {
  const before = lastTransaction.get(store) ?? Promise.resolve();
  const run = (): Promise<T> => store.transaction(body);
  const result = before.then(run, run);
  lastTransaction.set(store, result);
  return result;
}
