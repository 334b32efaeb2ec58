/**
 * One connection: bytes of requests in, bytes of replies and watch events out (docs/misc/xenstore.txt).
 *
 * The peer may be hostile. What waits for one that does not read is bounded: with as many unread replies as its quota
 * allows it is not listened to, events that wait are merged and capped, and all of it counts as the domain's memory.
 */
import type { ErrnoName } from "../abi/errors.ts";
import { XS_ERROR_PROTO } from "../abi/xs-wire.ts";
import type { DomainRecord, Xenstored } from "./daemon.ts";
import type { Scope } from "./operations.ts";
import { depthBelow, type Path } from "./path.ts";
import { type Actor, permits } from "./permissions.ts";
import { encodeMessage, encodeStrings, errorReply, type Message, MessageParser } from "./protocol.ts";
import { exceeds } from "./quota.ts";
import { answer, type Reply, requestPath } from "./requests.ts";
import type { SavedConnection } from "./saved-state.ts";
import type { StoreEvent } from "./store.ts";
import type { Transaction } from "./transaction.ts";
import { EventQueue, makeWatch, matches, shownPath, type Watch, watchBytes, watchKey } from "./watches.ts";

/** Events that may wait for a domain, and for a tool of domain 0. */
export const WAITING_EVENTS = 1000;
const WAITING_EVENTS_PRIVILEGED = 65_536;
/** Bytes that a peer may send ahead of what is performed; a peer that keeps to its window never comes near. */
const INPUT_MAX = 1 << 20;

/** The other end of a connection, as its transport provides it. */
export interface ConnectionLink {
  /** Takes bytes for the peer: whole messages, in order. */
  send(bytes: Uint8Array): void;
  /** So many bytes of input have been used up. */
  consumed?(bytes: number): void;
  /** The daemon has ended the connection; the number is for XS_ERROR of the guest's page. */
  closed?(error: number): void;
}

export interface ConnectionOptions {
  /** May do everything; unless said otherwise, domain 0 may. */
  readonly privileged?: boolean;
  /** Bytes that may be sent and not yet reported by taken(); unlimited by default. At least a whole message. */
  readonly window?: number;
}

interface Sent {
  length: number;
  readonly reply: boolean;
}

export class Connection {
  readonly domain: number;
  readonly record: DomainRecord;
  private readonly daemon: Xenstored;
  private readonly link: ConnectionLink;
  private readonly privileged: boolean;
  private readonly window: number | undefined;
  private readonly parser = new MessageParser();
  private readonly watches = new Map<string, Watch>();
  private readonly transactions = new Map<number, Transaction>();
  private nextTransaction = 1;
  private readonly replies: Uint8Array[] = [];
  private readonly events: EventQueue;
  /** Messages that the peer has not reported as taken. */
  private readonly sent: Sent[] = [];
  private busy = false;
  private open = true;
  private held = false;

  /** Made by Xenstored.connect(). */
  constructor(daemon: Xenstored, record: DomainRecord, link: ConnectionLink, options: ConnectionOptions) {
    this.daemon = daemon;
    this.record = record;
    this.domain = record.id;
    this.link = link;
    this.privileged = options.privileged ?? record.id === 0;
    this.window = options.window;
    this.events = new EventQueue(this.privileged ? WAITING_EVENTS_PRIVILEGED : WAITING_EVENTS);
  }

  get actor(): Actor {
    return { domain: this.domain, privileged: this.privileged, target: this.record.target };
  }

  /** Watches and transactions that are open, and bytes that they and the waiting output take. */
  get usage(): { watches: number; transactions: number; bytes: number } {
    let bytes = this.events.bytes;
    for (const watch of this.watches.values()) bytes += watchBytes(watch);
    for (const transaction of this.transactions.values()) bytes += transaction.bytes;
    for (const reply of this.replies) bytes += reply.length;
    return { watches: this.watches.size, transactions: this.transactions.size, bytes };
  }

  /** Feeds what the peer has sent, cut anywhere. */
  receive(bytes: Uint8Array): void {
    if (!this.open) return;
    this.parser.push(bytes);
    if (this.parser.buffered > INPUT_MAX) this.fail();
    else this.pump();
  }

  /** The peer has taken so many of the bytes that it was sent. */
  taken(bytes: number): void {
    let left = bytes;
    while (left > 0 && this.sent[0] !== undefined) {
      const step = Math.min(left, this.sent[0].length);
      this.sent[0].length -= step;
      left -= step;
      if (this.sent[0].length === 0) this.sent.shift();
    }
    this.flush();
    this.pump();
  }

  /** Ends the connection and drops what belongs to it. */
  close(): void {
    if (!this.open) return;
    this.open = false;
    this.reset();
    this.replies.length = 0;
    this.daemon.forgetConnection(this);
  }

  private fail(): void {
    this.close();
    this.link.closed?.(XS_ERROR_PROTO);
  }

  private get parked(): boolean {
    const unread = this.replies.length + this.sent.filter(({ reply }) => reply).length;
    return !this.privileged && unread > 0 && exceeds(unread + 1, this.record.quotas.outstanding);
  }

  private pump(): void {
    // A reply may come back as the next request before this returns; that one is for the loop that runs already.
    if (this.busy) return;
    this.busy = true;
    while (this.open && !this.held && !this.parked) {
      const before = this.parser.buffered;
      const message = this.parser.next();
      if (message === undefined) break;
      if (message === "too-long") {
        const header = { type: 0, requestId: 0, transactionId: 0, payload: new Uint8Array(0) };
        this.link.send(encodeMessage(errorReply(header, "E2BIG")));
        this.fail();
        break;
      }
      this.link.consumed?.(before - this.parser.buffered);
      this.handle(message);
      this.flush();
    }
    this.busy = false;
    this.flush();
  }

  private handle(message: Message): void {
    const reply = answer(this.daemon, this, message);
    // A request may have released the very domain that sent it.
    if (!this.open) return;
    const payload = typeof reply === "string" ? errorReply(message, reply) : { ...message, payload: reply };
    this.replies.push(encodeMessage(payload));
  }

  /** Sends what there is room for, replies first. */
  flush(): void {
    while (this.open && !this.held) {
      const next = this.replies[0];
      if (next === undefined && this.events.length === 0) return;
      const inFlight = this.sent.reduce((sum, { length }) => sum + length, 0);
      // Room is asked for a whole message, so that an event need not be looked at before it is taken.
      if (this.window !== undefined && inFlight > 0 && inFlight + (next?.length ?? 0) > this.window) return;
      if (this.window !== undefined && next === undefined && inFlight >= this.window / 2) return;
      const bytes = next === undefined ? this.events.shift() : this.replies.shift();
      if (bytes === undefined) return;
      if (this.window !== undefined) this.sent.push({ length: bytes.length, reply: next !== undefined });
      this.link.send(bytes);
    }
  }

  /** Performs an operation on the tree: in the request's transaction, or in one of its own that is committed. */
  perform(
    message: Message,
    path: string | undefined,
    operation: (scope: Scope, path: Path) => Reply,
    special = false,
  ): Reply {
    if (path === undefined || path === "") return "EINVAL";
    const { daemon, actor, record } = this;
    const at = requestPath(record.aliases.resolveRequest(path).path, record.quotas["path-length"], special);
    if (at === undefined) return "EINVAL";
    const tracked = message.transactionId === 0 ? undefined : this.transactions.get(message.transactionId);
    if (message.transactionId !== 0 && tracked === undefined) return "ENOENT";
    if (tracked !== undefined && !this.privileged) {
      if (exceeds(tracked.size + at.length, record.quotas["transaction-nodes"])) return "ENOSPC";
      if (!daemon.hasMemory(record, tracked.delta.of(record.id).bytes + message.payload.length)) return "ENOMEM";
    }
    const transaction = tracked ?? daemon.store.begin(false);
    const reply = operation(daemon.scope(transaction, actor, record), at);
    if (tracked !== undefined || typeof reply === "string") return reply;
    return daemon.store.commit(transaction, () => true) ?? reply;
  }

  startTransaction({ transactionId }: Message): Reply {
    if (transactionId !== 0) return "EBUSY";
    if (!this.privileged && exceeds(this.daemon.transactionsOf(this.record) + 1, this.record.quotas.transactions)) {
      return "ENOSPC";
    }
    while (this.nextTransaction === 0 || this.transactions.has(this.nextTransaction)) this.advance();
    const id = this.nextTransaction;
    this.advance();
    this.transactions.set(id, this.daemon.store.begin(true));
    return encodeStrings([String(id)]);
  }

  private advance(): void {
    this.nextTransaction = (this.nextTransaction + 1) >>> 0;
  }

  endTransaction(id: number, commit: boolean): ErrnoName | undefined {
    const transaction = this.transactions.get(id);
    if (transaction === undefined) return "ENOENT";
    this.transactions.delete(id);
    if (!commit) return undefined;
    return this.daemon.store.commit(transaction, this.privileged ? () => true : this.daemon.room);
  }

  addWatch(path: string, token: string, depth: number | undefined): ErrnoName | undefined {
    const { quotas, aliases } = this.record;
    const watch = makeWatch(aliases, path, token, depth, quotas["path-length"]);
    if (watch === undefined) return "EINVAL";
    const key = watchKey(watch);
    if (this.watches.has(key)) return "EEXIST";
    if (!this.privileged) {
      if (exceeds(this.daemon.watchesOf(this.record) + 1, quotas.watches)) return "E2BIG";
      if (!this.daemon.hasMemory(this.record, watchBytes(watch))) return "ENOMEM";
    }
    this.watches.set(key, watch);
    this.pushEvent(watch, watch.path);
    return undefined;
  }

  removeWatch(path: string, token: string): ErrnoName | undefined {
    const { path: full } = this.record.aliases.resolveRequest(path);
    return this.watches.delete(watchKey({ path: full, token })) ? undefined : "ENOENT";
  }

  private pushEvent(watch: Watch, path: string): void {
    this.events.push({ path: shownPath(watch, path), token: watch.token });
  }

  /** Drops watches, waiting events and transactions (RESET_WATCHES). */
  reset(): void {
    this.watches.clear();
    this.events.clear();
    this.transactions.clear();
  }

  /** Performs and sends nothing more until release(); what comes meanwhile waits as for a peer that does not read. */
  hold(): void {
    this.held = true;
  }

  release(): void {
    this.held = false;
    this.flush();
    this.pump();
  }

  /** What the connection is made of, for one that takes its place: it is held, and so is the transport's other end. */
  save(): SavedConnection {
    const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64");
    return {
      input: base64(this.parser.rest()),
      sent: this.sent.map(({ length, reply }) => ({ length, reply })),
      replies: this.replies.map(base64),
      events: this.events.list(),
      watches: [...this.watches.values()].map((watch) => ({
        path: shownPath(watch, watch.path),
        token: watch.token,
        ...(watch.depth !== undefined && { depth: watch.depth }),
      })),
      transactions: [...this.transactions.keys()],
      nextTransaction: this.nextTransaction,
    };
  }

  /**
   * Makes this new connection what a saved one was, held; no watch fires. Transactions see the present tree and cannot
   * be committed. What is restored has passed restoreDomain().
   */
  restore(saved: SavedConnection): void {
    const bytes = (base64: string) => Uint8Array.from(Buffer.from(base64, "base64"));
    this.held = true;
    this.parser.push(bytes(saved.input));
    this.sent.push(...saved.sent.map(({ length, reply }) => ({ length, reply })));
    this.replies.push(...saved.replies.map(bytes));
    for (const event of saved.events) this.events.push(event);
    for (const { path, token, depth } of saved.watches) {
      const watch = makeWatch(this.record.aliases, path, token, depth, 0);
      // Two names of the domain's own may mean one node now; the first watch speaks for both.
      if (watch !== undefined && !this.watches.has(watchKey(watch))) this.watches.set(watchKey(watch), watch);
    }
    for (const id of saved.transactions) {
      const transaction = this.daemon.store.begin(true);
      transaction.conflicted = true;
      this.transactions.set(id, transaction);
    }
    this.nextTransaction = saved.nextTransaction;
  }

  /** Queues the events that concern this connection and that it may know of. */
  notice(events: readonly StoreEvent[]): void {
    if (this.watches.size === 0) return;
    const { actor } = this;
    for (const { path, exact, permissions } of events) {
      for (const watch of this.watches.values()) {
        if (!concerns(watch, path, exact) || !permissions.some((list) => permits(actor, list, "read"))) continue;
        if (this.privileged || this.daemon.hasMemory(this.record, path.length)) this.pushEvent(watch, path);
      }
    }
    if (!this.busy) this.flush();
  }
}

/** As matches(), but a special watch that goes one level down hears of the domid only, not of the bare event too. */
function concerns(watch: Watch, path: string, exact: boolean): boolean {
  if (watch.path.startsWith("@") && watch.depth === 1) return depthBelow(watch.path, path) === 1;
  return matches(watch, path, exact);
}
