/** The rows of the control table that are about XenStore: each connection has a client of the daemon, as domain 0. */
import { XsType } from "../../../engine/abi/xs-wire.ts";
import { type StoreAccess, XenstoreClient, XenstoreError } from "../../../engine/xenstore/client.ts";
import type { Xenstored } from "../../../engine/xenstore/daemon.ts";
import type { AppFunctions, ControlSession } from "../control-api.ts";
import { MachineError } from "../machines/errors.ts";
import type { XenstoreNode } from "../xenstore-api.ts";

/** Watches that one connection may have. */
const MOST_WATCHES = 256;
/** Least time between two events of a watch. */
const EVENT_MS = 50;

interface Reader {
  readonly client: XenstoreClient;
  readonly watches: Map<number, { close(): Promise<void> }>;
}

/** A client of the daemon in this process. */
function connectDaemon(daemon: Xenstored): XenstoreClient {
  let receive: (bytes: Uint8Array) => void = () => {};
  let ended: () => void = () => {};
  const connection = daemon.connect(0, { send: (bytes) => receive(bytes), closed: () => ended() });
  return new XenstoreClient({
    send: (bytes) => connection.receive(bytes),
    onReceive: (listener) => {
      receive = listener;
    },
    onClose: (listener) => {
      ended = listener;
    },
    close: () => connection.close(),
  });
}

const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: "there is no such node; look at its parent again",
  EINVAL: "paths hold letters, digits and -_@ between slashes, permissions are like r7",
  EACCES: "choose another path",
  EPERM: "choose another path",
  E2BIG: "write at most 4096 bytes with the path",
  ENOSPC: "write less, or remove nodes of that domain",
  EQUOTA: "remove nodes of that domain first",
  EAGAIN: "try it again",
};

function refusal(error: XenstoreError, path: string): MachineError {
  const remedy = REMEDIES[error.code] ?? "see domlab xenstore ls";
  return new MachineError("failed", `XenStore answers ${error.code} for ${path}`, remedy, error);
}

async function telling<Result>(path: string, action: () => Promise<Result>): Promise<Result> {
  try {
    return await action();
  } catch (error) {
    throw error instanceof XenstoreError ? refusal(error, path) : error;
  }
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Text, unless it would not come back as the same bytes or holds what no text does. */
function contentOf(bytes: Uint8Array): { value: string; encoding: "text" | "base64" } {
  try {
    const text = strict.decode(bytes);
    if (!/[^\P{Cc}\t\n\r]/u.test(text)) return { value: text, encoding: "text" };
  } catch {
    // No UTF-8.
  }
  return { value: Buffer.from(bytes).toString("base64"), encoding: "base64" };
}

const missing = (path: string) => refusal(new XenstoreError("ENOENT", "READ"), path);
const below = (path: string, name: string): string => (path === "/" ? `/${name}` : `${path}/${name}`);

/** A child; undefined when it went away since its parent was listed. */
async function nodeOf(store: XenstoreClient, path: string, name: string): Promise<XenstoreNode | undefined> {
  try {
    const [value, children, permissions] = await Promise.all([
      store.readBytes(path),
      store.directory(path),
      store.getPermissions(path),
    ]);
    if (value === undefined || children === undefined) return undefined;
    return { name, ...contentOf(value), permissions, hasChildren: children.length > 0 };
  } catch (error) {
    if (error instanceof XenstoreError && error.code === "ENOENT") return undefined;
    throw error;
  }
}

/** The path that all of these lie at or below, but never above `root`. */
export function commonPath(root: string, paths: readonly string[]): string {
  const [first = root, ...others] = paths;
  if (!first.startsWith("/")) return root;
  let parts = first.split("/");
  for (const path of others) {
    const own = path.split("/");
    const differs = parts.findIndex((part, at) => part !== own[at]);
    if (differs >= 0) parts = parts.slice(0, differs);
  }
  const common = parts.join("/");
  return common.length >= root.length ? common : root;
}

/** Gathers the changes that a watch tells of. */
class Coalescer {
  private readonly root: string;
  private readonly tell: (path: string) => void;
  private waiting: string[] = [];
  private timer: NodeJS.Timeout | undefined;

  constructor(root: string, tell: (path: string) => void) {
    this.root = root;
    this.tell = tell;
  }

  add(path: string): void {
    // What they have in common says it all, however many there are.
    this.waiting = this.waiting.length === 0 ? [path] : [commonPath(this.root, [...this.waiting, path])];
    if (this.timer === undefined) this.flush();
  }

  private flush(): void {
    const [path] = this.waiting;
    this.timer = undefined;
    if (path === undefined) return;
    this.waiting = [];
    this.timer = setTimeout(() => this.flush(), EVENT_MS);
    this.tell(path);
  }

  close(): void {
    clearTimeout(this.timer);
    this.waiting = [];
  }
}

async function writeBytes(client: XenstoreClient, path: string, bytes: Uint8Array): Promise<void> {
  await client.send(XsType.WRITE, Buffer.concat([Buffer.from(`${path}\0`), bytes]), 0);
}

type XenstoreRows = Extract<keyof AppFunctions, `xenstore${string}`>;

export function xenstoreControl(daemon: Xenstored): Pick<AppFunctions, XenstoreRows> {
  const readers = new WeakMap<ControlSession, Reader>();
  let last = 0;
  const readerOf = (session: ControlSession): Reader => {
    const known = readers.get(session);
    if (known !== undefined) return known;
    const reader: Reader = { client: connectDaemon(daemon), watches: new Map() };
    readers.set(session, reader);
    session.onEnd(() => {
      for (const watch of reader.watches.values()) void watch.close();
      reader.watches.clear();
      reader.client.close();
    });
    return reader;
  };
  const wanted = async <Value>(path: string, value: Promise<Value | undefined>): Promise<Value> => {
    const found = await telling(path, () => value);
    if (found === undefined) throw missing(path);
    return found;
  };

  return {
    xenstoreList: async ({ path }, session) => {
      const { client } = readerOf(session);
      const names = (await wanted(path, client.directory(path))).sort();
      const nodes = await telling(path, () =>
        Promise.all(names.map((each) => nodeOf(client, below(path, each), each))),
      );
      return { children: nodes.filter((node) => node !== undefined) };
    },
    xenstoreRead: async ({ path }, session) => {
      const { client } = readerOf(session);
      const value = await wanted(path, client.readBytes(path));
      const children = await wanted(path, client.directory(path));
      const permissions = await telling(path, () => client.getPermissions(path));
      return { ...contentOf(value), permissions, children: children.length };
    },
    xenstoreWrite: async ({ path, value, encoding }, session) => {
      const bytes = Buffer.from(value, encoding === "base64" ? "base64" : "utf8");
      await telling(path, () => writeBytes(readerOf(session).client, path, bytes));
      return {};
    },
    xenstoreRemove: async ({ path }, session) => {
      const { client } = readerOf(session);
      await wanted(path, client.readBytes(path));
      await telling(path, () => client.remove(path));
      return {};
    },
    xenstoreSetPermissions: async ({ path, permissions }, session) => {
      const store: StoreAccess = readerOf(session).client;
      await telling(path, () => store.setPermissions(path, permissions));
      return {};
    },
    xenstoreWatch: async ({ path }, session) => {
      const { client, watches } = readerOf(session);
      if (watches.size >= MOST_WATCHES) {
        throw new MachineError("busy", `${MOST_WATCHES} watches are set over this connection`, "take one away first");
      }
      const id = ++last;
      const gathered = new Coalescer(path, (at) => session.send({ kind: "xenstore", watch: id, path: at }));
      const watch = await telling(path, () => client.watch(path, (at) => gathered.add(at)));
      watches.set(id, {
        close: async () => {
          gathered.close();
          await watch.close().catch(() => undefined);
        },
      });
      return { watch: id };
    },
    xenstoreUnwatch: async ({ watch }, session) => {
      const { watches } = readerOf(session);
      const found = watches.get(watch);
      if (found === undefined) {
        throw new MachineError("failed", `this connection has no watch ${watch}`, "set it with xenstoreWatch");
      }
      watches.delete(watch);
      await found.close();
      return {};
    },
  };
}
