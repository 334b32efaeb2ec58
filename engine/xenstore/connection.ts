/**
 * One guest's connection: requests in, replies and watch events out (docs/misc/xenstore.txt).
 *
 * The guest reads and watches its own subtree and writes the parts of it that belong to a guest. Quotas are Xen's
 * defaults. A transaction works on a snapshot; its commit fails with EAGAIN if the store has changed meanwhile.
 */
import type { ErrnoName } from "../abi/errors.ts";
import { XS_PAYLOAD_MAX, XsType } from "../abi/xs-wire.ts";
import { decodeText, encodeMessage, encodeStrings, errorReply, type Message, strings, watchEvent } from "./protocol.ts";
import type { Store } from "./store.ts";
import { MAX_NODE_SIZE, splitPath, type Tree } from "./tree.ts";

const MAX_WATCHES = 128;
const MAX_TRANSACTIONS = 10;
const MAX_NODES = 1000;
/** Watch events that may wait for a guest that does not read; one waiting event stands for later ones like it. */
const MAX_WAITING_EVENTS = 1000;

/** What a guest may write below its home. */
const GUEST_WRITABLE =
  /^(control\/(feature-[a-z0-9-]+|shutdown|sysrq)|(device|data|drivers|feature|attr|error|suspend|hvmloader)(\/.*)?)$/;

interface Watch {
  readonly path: string;
  readonly token: string;
  /** The path as the guest gave it: a relative one is answered with relative paths. */
  readonly relative: boolean;
}

interface Transaction {
  readonly base: Tree;
  tree: Tree;
  readonly changed: Set<string>;
}

/** Payload of a successful reply, or the name of an error. */
type Reply = Uint8Array | ErrnoName;
type Handler = (connection: Connection, request: Message) => Reply;

const OK = encodeStrings(["OK"]);

export class Connection {
  private readonly store: Store;
  private readonly domain: number;
  private readonly home: string;
  private readonly watches: Watch[] = [];
  private readonly transactions = new Map<number, Transaction>();
  private nextTransaction = 1;
  private readonly replies: Uint8Array[] = [];
  private readonly events = new Map<string, Uint8Array>();
  private readonly stopListening: () => void;

  /** `wake` is called when there is output although the guest has sent nothing: a watch has fired. */
  constructor(store: Store, domain: number, wake: () => void) {
    this.store = store;
    this.domain = domain;
    this.home = `/local/domain/${domain}`;
    this.stopListening = store.onChange((path) => {
      if (this.fire(path)) wake();
    });
  }

  close(): void {
    this.stopListening();
  }

  /** Performs a request; its reply is in take() afterwards. */
  handle(request: Message): void {
    const handler = HANDLERS.get(request.type);
    const reply = handler === undefined ? "ENOSYS" : handler(this, request);
    this.replies.push(
      encodeMessage(typeof reply === "string" ? errorReply(request, reply) : { ...request, payload: reply }),
    );
    if (request.type === XsType.WATCH && typeof reply !== "string") this.fireLatest();
  }

  /** The next message for the guest, or undefined. */
  take(): Uint8Array | undefined {
    const reply = this.replies.shift();
    if (reply !== undefined) return reply;
    const first = this.events.entries().next().value;
    if (first === undefined) return undefined;
    this.events.delete(first[0]);
    return first[1];
  }

  /** True while replies wait that the guest has not made room for. */
  get backlogged(): boolean {
    return this.replies.length > 0;
  }

  private queueEvent(path: string, token: string): boolean {
    const key = `${path}\0${token}`;
    if (this.events.has(key) || this.events.size >= MAX_WAITING_EVENTS) return false;
    this.events.set(key, encodeMessage(watchEvent(path, token)));
    return true;
  }

  private visible(watch: Watch, path: string): string {
    return watch.relative && path.startsWith(`${this.home}/`) ? path.slice(this.home.length + 1) : path;
  }

  private fire(path: string): boolean {
    let any = false;
    for (const watch of this.watches) {
      const covers = path === watch.path || path.startsWith(watch.path === "/" ? "/" : `${watch.path}/`);
      if (covers && this.mayRead(path)) any = this.queueEvent(this.visible(watch, path), watch.token) || any;
    }
    return any;
  }

  /** A new watch fires once at once. */
  private fireLatest(): void {
    const watch = this.watches.at(-1);
    if (watch !== undefined) this.queueEvent(this.visible(watch, watch.path), watch.token);
  }

  private mayRead(path: string): boolean {
    return path === this.home || path.startsWith(`${this.home}/`) || path.startsWith("@");
  }

  private mayWrite(path: string): boolean {
    return path.startsWith(`${this.home}/`) && GUEST_WRITABLE.test(path.slice(this.home.length + 1));
  }

  private absolute(path: string): string {
    return path.startsWith("/") || path.startsWith("@") ? path : `${this.home}/${path}`;
  }

  /** The transaction of a request: undefined outside of one, an error name for an unknown number. */
  private transaction(request: Message): Transaction | undefined | "ENOENT" {
    if (request.transactionId === 0) return undefined;
    return this.transactions.get(request.transactionId) ?? "ENOENT";
  }

  /** Reads the node that the first string of the payload names. */
  lookup(request: Message, use: (node: NonNullable<ReturnType<Tree["get"]>>) => Reply): Reply {
    const transaction = this.transaction(request);
    if (transaction === "ENOENT") return transaction;
    const path = this.absolute(strings(request.payload)[0] ?? "");
    const parts = splitPath(path);
    if (parts === undefined) return "EINVAL";
    if (!this.mayRead(path)) return "EACCES";
    const node = (transaction?.tree ?? this.store.tree).get(parts);
    return node === undefined ? "ENOENT" : use(node);
  }

  /** Changes the tree at a path the guest may write, within its quota. */
  change(request: Message, path: string, apply: (tree: Tree, parts: readonly string[]) => Tree | ErrnoName): Reply {
    const transaction = this.transaction(request);
    if (transaction === "ENOENT") return transaction;
    const full = this.absolute(path);
    const parts = splitPath(full);
    if (parts === undefined) return "EINVAL";
    if (!this.mayWrite(full)) return "EACCES";
    const before = transaction?.tree ?? this.store.tree;
    const after = apply(before, parts);
    if (typeof after === "string") return after;
    if (after.count(parts) > before.count(parts) && after.count(parts.slice(0, 3)) > MAX_NODES) return "ENOSPC";
    if (transaction === undefined) {
      this.store.commit(after, [full]);
    } else {
      transaction.tree = after;
      transaction.changed.add(full);
    }
    return OK;
  }

  startTransaction(request: Message): Reply {
    if (request.transactionId !== 0) return "EBUSY";
    if (this.transactions.size >= MAX_TRANSACTIONS) return "ENOSPC";
    while (this.transactions.has(this.nextTransaction)) this.nextTransaction = (this.nextTransaction % 0xffffffff) + 1;
    const id = this.nextTransaction;
    this.nextTransaction = (id % 0xffffffff) + 1;
    this.transactions.set(id, { base: this.store.tree, tree: this.store.tree, changed: new Set() });
    return encodeStrings([String(id)]);
  }

  endTransaction(request: Message): Reply {
    const transaction = this.transactions.get(request.transactionId);
    const [answer] = strings(request.payload);
    if (transaction === undefined) return "ENOENT";
    if (answer !== "T" && answer !== "F") return "EINVAL";
    this.transactions.delete(request.transactionId);
    if (answer === "F") return OK;
    if (transaction.base !== this.store.tree) return "EAGAIN";
    this.store.commit(transaction.tree, transaction.changed);
    return OK;
  }

  watch(request: Message): Reply {
    const [path, token] = strings(request.payload);
    if (path === undefined || token === undefined) return "EINVAL";
    const full = this.absolute(path);
    if (splitPath(full) === undefined && !full.startsWith("@")) return "EINVAL";
    if (this.watches.some((watch) => watch.path === full && watch.token === token)) return "EEXIST";
    if (this.watches.length >= MAX_WATCHES) return "E2BIG";
    this.watches.push({ path: full, token, relative: full !== path });
    return OK;
  }

  unwatch(request: Message): Reply {
    const [path = "", token] = strings(request.payload);
    const full = this.absolute(path);
    const index = this.watches.findIndex((watch) => watch.path === full && watch.token === token);
    if (index < 0) return "ENOENT";
    this.watches.splice(index, 1);
    return OK;
  }

  resetWatches(): Reply {
    this.watches.length = 0;
    this.events.clear();
    this.transactions.clear();
    return OK;
  }

  domainPath(request: Message): Reply {
    const [text = ""] = strings(request.payload);
    return /^[0-9]{1,5}$/.test(text) ? encodeStrings([`/local/domain/${Number(text)}`]) : "EINVAL";
  }

  permissions(): Uint8Array {
    return encodeStrings([`n${this.domain}`]);
  }
}

/** WRITE: the path and its NUL, then the value without one. */
function write(connection: Connection, request: Message): Reply {
  const end = request.payload.indexOf(0);
  if (end < 0) return "EINVAL";
  const value = request.payload.slice(end + 1);
  if (value.length > MAX_NODE_SIZE) return "ENOSPC";
  return connection.change(request, decodeText(request.payload.subarray(0, end)), (tree, parts) =>
    tree.with(parts, value),
  );
}

function directory(connection: Connection, request: Message): Reply {
  return connection.lookup(request, (node) => {
    const names = encodeStrings([...node.children.keys()]);
    return names.length > XS_PAYLOAD_MAX ? "E2BIG" : names;
  });
}

function remove(connection: Connection, request: Message): Reply {
  const [path = ""] = strings(request.payload);
  return connection.change(request, path, (tree, parts) =>
    tree.get(parts) === undefined && tree.get(parts.slice(0, -1)) === undefined ? "ENOENT" : tree.without(parts),
  );
}

/** Types that are not here answer ENOSYS. */
const HANDLERS = new Map<number, Handler>([
  [XsType.READ, (connection, request) => connection.lookup(request, (node) => node.value)],
  [XsType.WRITE, write],
  [XsType.DIRECTORY, directory],
  [
    XsType.MKDIR,
    (connection, request) =>
      connection.change(request, strings(request.payload)[0] ?? "", (tree, parts) => tree.withNode(parts)),
  ],
  [XsType.RM, remove],
  [XsType.GET_PERMS, (connection, request) => connection.lookup(request, () => connection.permissions())],
  [XsType.WATCH, (connection, request) => connection.watch(request)],
  [XsType.UNWATCH, (connection, request) => connection.unwatch(request)],
  [XsType.RESET_WATCHES, (connection) => connection.resetWatches()],
  [XsType.TRANSACTION_START, (connection, request) => connection.startTransaction(request)],
  [XsType.TRANSACTION_END, (connection, request) => connection.endTransaction(request)],
  [XsType.GET_DOMAIN_PATH, (connection, request) => connection.domainPath(request)],
]);
