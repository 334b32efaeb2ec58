/**
 * xenstored: the store, the domains it knows and their connections. It knows nothing of transports: whoever has one
 * connects it here.
 */
import { XS_FEATURE_WATCH_DEPTH, XS_FEATURES } from "../abi/xs-wire.ts";
import { Aliases } from "./aliases.ts";
import { Connection, type ConnectionLink, type ConnectionOptions } from "./connection.ts";
import type { Scope } from "./operations.ts";
import { homeOf, INTRODUCE_DOMAIN, parsePath, RELEASE_DOMAIN } from "./path.ts";
import type { Actor } from "./permissions.ts";
import { DEFAULT_QUOTAS, exceeds, type Quotas } from "./quota.ts";
import { type RestoreOptions, restoreDomain, saveDomain } from "./save.ts";
import type { SavedConnection, SavedStore } from "./saved-state.ts";
import { type RoomCheck, Store, type StoreEvent } from "./store.ts";
import { ToolstackStore } from "./toolstack-store.ts";
import type { Transaction } from "./transaction.ts";

/** What is known of a domain. */
export interface DomainRecord {
  readonly id: number;
  readonly quotas: Quotas;
  readonly connections: Set<Connection>;
  features: number;
  target: number | undefined;
  introduced: boolean;
  /** @releaseDomain has told of its shutdown. */
  shutDown: boolean;
  /** Numbers that it had before it was restored. */
  aliases: Aliases;
  /** Its connection as it was saved, until the relay takes it; null: it had none. */
  restoring: SavedConnection | null | undefined;
}

/** What a domain uses of its quotas. */
export interface DomainUsage {
  readonly nodes: number;
  readonly watches: number;
  readonly transactions: number;
  readonly memory: number;
}

export class Xenstored {
  readonly store = new Store((events) => this.deliver(events));
  /** What a new domain may use up. */
  readonly quotas: Quotas = { ...DEFAULT_QUOTAS };
  /** The store for the process that the daemon lives in: synchronous and privileged. */
  readonly toolstack: ToolstackStore;
  private readonly domains = new Map<number, DomainRecord>();
  private readonly listeners = new Set<(events: readonly StoreEvent[]) => void>();

  constructor() {
    this.toolstack = new ToolstackStore(this.store, (listener) => {
      this.listeners.add(listener);
      return () => this.listeners.delete(listener);
    });
    this.domain(0).introduced = true;
  }

  /** Opens a connection for a domain; domain 0 stands for the tools of the host. */
  connect(domain: number, link: ConnectionLink, options: ConnectionOptions = {}): Connection {
    const record = this.domain(domain);
    const connection = new Connection(this, record, link, options);
    record.connections.add(connection);
    return connection;
  }

  /** The record of a domain, made if there is none. */
  domain(id: number): DomainRecord {
    let record = this.domains.get(id);
    if (record === undefined) {
      record = {
        id,
        quotas: { ...this.quotas },
        connections: new Set(),
        features: XS_FEATURES,
        target: undefined,
        introduced: false,
        shutDown: false,
        aliases: new Aliases(id),
        restoring: undefined,
      };
      this.domains.set(id, record);
    }
    return record;
  }

  find(id: number): DomainRecord | undefined {
    return this.domains.get(id);
  }

  isIntroduced(id: number): boolean {
    return this.domains.get(id)?.introduced ?? false;
  }

  /** Makes a domain known and tells of it. Nothing of an earlier domain of that number is left by then. */
  introduceDomain(id: number): void {
    const record = this.domain(id);
    if (record.introduced) return;
    record.introduced = true;
    this.special(INTRODUCE_DOMAIN, [INTRODUCE_DOMAIN, `${INTRODUCE_DOMAIN}/${id}`]);
  }

  /**
   * Forgets a domain: its connections end, its nodes, its home and all permissions and rights it had are gone.
   * @returns false if it was not known; what the toolstack wrote for it is gone in any case
   */
  releaseDomain(id: number): boolean {
    if (id === 0) return false;
    const record = this.domains.get(id);
    for (const connection of [...(record?.connections ?? [])]) connection.close();
    this.domains.delete(id);
    for (const other of this.domains.values()) if (other.target === id) other.target = undefined;
    this.store.forget(id, parsePath(homeOf(id), 0) ?? []);
    if (record === undefined) return false;
    this.special(RELEASE_DOMAIN, [RELEASE_DOMAIN, `${RELEASE_DOMAIN}/${id}`]);
    return true;
  }

  /**
   * What the store knows of a domain that is at rest (RingRelay.quiesce): its nodes, its connection, its quotas.
   * @throws StoreStateError for more than a saved store may hold
   */
  saveDomain(id: number): SavedStore {
    return saveDomain(this, id);
  }

  /**
   * Gives a domain that has been introduced what another was saved with; nothing is changed if it is refused. Its
   * devices are the toolstack's to make (frontendNodes()); DaemonRelay.restore() then brings the connection back.
   * @throws StoreStateError: one line with cause and remedy
   */
  restoreDomain(id: number, saved: SavedStore, options: RestoreOptions = {}): void {
    restoreDomain(this, id, saved, options);
  }

  /** The domain has shut down or crashed; told once, until it is resumed. */
  shutDownDomain(id: number): void {
    const record = this.domains.get(id);
    if (record === undefined || record.shutDown) return;
    record.shutDown = true;
    this.special(RELEASE_DOMAIN, [RELEASE_DOMAIN, `${RELEASE_DOMAIN}/${id}`]);
  }

  /** @returns false if the domain is not known */
  resumeDomain(id: number): boolean {
    const record = this.domains.get(id);
    if (record === undefined || !record.introduced) return false;
    record.shutDown = false;
    return true;
  }

  private special(name: string, paths: readonly string[]): void {
    const node = this.store.tree.get([name]);
    if (node === undefined) return;
    this.deliver(paths.map((path) => ({ path, exact: false, permissions: [node.permissions] })));
  }

  private deliver(events: readonly StoreEvent[]): void {
    for (const record of [...this.domains.values()]) {
      for (const connection of [...record.connections]) connection.notice(events);
    }
    for (const listener of [...this.listeners]) listener(events);
  }

  forgetConnection(connection: Connection): void {
    connection.record.connections.delete(connection);
  }

  mayUseDepth(connection: Connection): boolean {
    return connection.actor.privileged || (connection.record.features & XS_FEATURE_WATCH_DEPTH) !== 0;
  }

  /** The circumstances of a request. */
  scope(transaction: Transaction, actor: Actor, record: DomainRecord): Scope {
    const { store, room } = this;
    return { store, transaction, actor, quotas: record.quotas, room, exists: (id) => this.isIntroduced(id) };
  }

  /** Whether a domain's nodes may become that many and that large. Domain 0 has no quota. */
  readonly room: RoomCheck = (owner, { nodes, bytes }) => {
    const record = owner === 0 ? undefined : this.domains.get(owner);
    if (record === undefined) return true;
    const grown = bytes + this.heldBytes(record);
    return !exceeds(nodes, record.quotas.nodes) && !exceeds(grown, record.quotas.memory);
  };

  /** Whether the domain may take that many bytes more. */
  hasMemory(record: DomainRecord, bytes: number): boolean {
    return !exceeds(this.store.accounts.of(record.id).bytes + this.heldBytes(record) + bytes, record.quotas.memory);
  }

  /** Bytes of its connections: watches, transactions, waiting output. */
  private heldBytes(record: DomainRecord): number {
    return sum(record, (connection) => connection.usage.bytes);
  }

  watchesOf(record: DomainRecord): number {
    return sum(record, (connection) => connection.usage.watches);
  }

  transactionsOf(record: DomainRecord): number {
    return sum(record, (connection) => connection.usage.transactions);
  }

  /** What a domain uses, or undefined if it is not known. */
  usage(id: number): DomainUsage | undefined {
    const record = this.domains.get(id);
    if (record === undefined) return undefined;
    const { nodes, bytes } = this.store.accounts.of(id);
    const watches = this.watchesOf(record);
    return { nodes, watches, transactions: this.transactionsOf(record), memory: bytes + this.heldBytes(record) };
  }

  /** Compares the accounts with a recount of the tree. @returns a line for each difference */
  check(): string[] {
    const counted = this.store.recount();
    const owners = new Set([...counted.entries(), ...this.store.accounts.entries()].map(([owner]) => owner));
    return [...owners].flatMap((owner) => {
      const right = counted.of(owner);
      const kept = this.store.accounts.of(owner);
      if (right.nodes === kept.nodes && right.bytes === kept.bytes) return [];
      return [`domain ${owner}: ${kept.nodes} nodes, ${kept.bytes} bytes; counted ${right.nodes}, ${right.bytes}`];
    });
  }
}

function sum(record: DomainRecord, count: (connection: Connection) => number): number {
  let total = 0;
  for (const connection of record.connections) total += count(connection);
  return total;
}
