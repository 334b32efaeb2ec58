/** A XenStore client: promises over any transport that carries the wire protocol (docs/misc/xenstore.txt). */
import { connect } from "node:net";
import { Errno, type ErrnoName } from "../abi/errors.ts";
import { XS_PAYLOAD_MAX, XsType } from "../abi/xs-wire.ts";
import {
  decodeText,
  decodeValue,
  encodeMessage,
  encodeStrings,
  encodeText,
  encodeValue,
  type Message,
  MessageParser,
  strings,
} from "./protocol.ts";

/** Carries bytes to a daemon and back, in order. */
export interface XenstoreTransport {
  send(bytes: Uint8Array): void;
  onReceive(listener: (bytes: Uint8Array) => void): void;
  onClose?(listener: () => void): void;
  /** Ends the transport, if it is the client's to end. */
  close?(): void;
}

/** The daemon's refusal, by the name of its error; ENOTCONN once the connection is gone. */
export class XenstoreError extends Error {
  readonly code: ErrnoName;

  constructor(code: ErrnoName, request: string) {
    super(`XenStore: ${request}: ${code}`);
    this.name = "XenstoreError";
    this.code = code;
  }
}

/** The client itself and a transaction of it. Values are UTF-8 text. */
export interface StoreAccess {
  /** Value of a node; undefined if there is none. */
  read(path: string): Promise<string | undefined>;
  write(path: string, value: string): Promise<void>;
  mkdir(path: string): Promise<void>;
  /** Removes a node and what is below it; no error if there is none. */
  remove(path: string): Promise<void>;
  /** Names of the children; undefined if there is no such node. */
  directory(path: string): Promise<string[] | undefined>;
  /** Entries as "r7", the owner's first. */
  getPermissions(path: string): Promise<string[]>;
  setPermissions(path: string, permissions: readonly string[]): Promise<void>;
}

interface Pending {
  readonly what: string;
  resolve(payload: Uint8Array): void;
  reject(error: XenstoreError): void;
}

/** Attempts after which a transaction that always conflicts is given up with EAGAIN. */
const TRANSACTION_ATTEMPTS = 1000;
const TYPE_NAMES = new Map<number, string>(Object.entries(XsType).map(([name, type]) => [type, name]));

class Requests implements StoreAccess {
  private readonly ask: (type: number, payload: Uint8Array, transaction: number) => Promise<Uint8Array>;
  private readonly transactionId: number;

  constructor(ask: Requests["ask"], transactionId: number) {
    this.ask = ask;
    this.transactionId = transactionId;
  }

  private request(type: number, ...texts: string[]): Promise<Uint8Array> {
    return this.ask(type, encodeStrings(texts), this.transactionId);
  }

  async readBytes(path: string): Promise<Uint8Array | undefined> {
    return orMissing(this.request(XsType.READ, path));
  }

  async read(path: string): Promise<string | undefined> {
    const value = await this.readBytes(path);
    return value && decodeValue(value);
  }

  async write(path: string, value: string): Promise<void> {
    const payload = Buffer.concat([encodeText(`${path}\0`), encodeValue(value)]);
    await this.ask(XsType.WRITE, payload, this.transactionId);
  }

  async mkdir(path: string): Promise<void> {
    await this.request(XsType.MKDIR, path);
  }

  async remove(path: string): Promise<void> {
    await orMissing(this.request(XsType.RM, path));
  }

  async directory(path: string): Promise<string[] | undefined> {
    try {
      const list = await orMissing(this.request(XsType.DIRECTORY, path));
      return list && (strings(list) ?? []);
    } catch (error) {
      if (error instanceof XenstoreError && error.code === "E2BIG") return this.directoryInParts(path);
      throw error;
    }
  }

  /** Reads the list piece by piece, again from the start when it has changed meanwhile. */
  private async directoryInParts(path: string): Promise<string[] | undefined> {
    let names: string[] = [];
    let generation: string | undefined;
    for (let offset = 0; ; ) {
      const part = await orMissing(this.request(XsType.DIRECTORY_PART, path, String(offset)));
      if (part === undefined) return undefined;
      const [stamp, ...found] = strings(part) ?? [];
      if (generation !== undefined && stamp !== generation) {
        names = [];
        generation = undefined;
        offset = 0;
        continue;
      }
      generation = stamp;
      const last = found.at(-1) === "" || found.length === 0;
      const whole = last ? found.slice(0, -1) : found;
      names.push(...whole);
      if (last) return names;
      offset += whole.reduce((sum, name) => sum + name.length + 1, 0);
    }
  }

  async getPermissions(path: string): Promise<string[]> {
    return strings(await this.request(XsType.GET_PERMS, path)) ?? [];
  }

  async setPermissions(path: string, permissions: readonly string[]): Promise<void> {
    await this.request(XsType.SET_PERMS, path, ...permissions);
  }
}

async function orMissing(reply: Promise<Uint8Array>): Promise<Uint8Array | undefined> {
  try {
    return await reply;
  } catch (error) {
    if (error instanceof XenstoreError && error.code === "ENOENT") return undefined;
    throw error;
  }
}

export class XenstoreClient extends Requests {
  private readonly transport: XenstoreTransport;
  private readonly parser = new MessageParser();
  private readonly pending = new Map<number, Pending>();
  private readonly listeners = new Map<string, (path: string) => void>();
  private nextRequest = 1;
  private nextToken = 1;
  private closed = false;
  private tellEnd: () => void = () => {};
  /** Settles when the connection is over, whoever ended it. */
  readonly ended = new Promise<void>((resolve) => {
    this.tellEnd = resolve;
  });

  constructor(transport: XenstoreTransport) {
    super((type, payload, transaction) => this.send(type, payload, transaction), 0);
    this.transport = transport;
    transport.onReceive((bytes) => this.receive(bytes));
    transport.onClose?.(() => this.end());
  }

  /** Sends any request. @throws XenstoreError */
  send(type: number, payload: Uint8Array, transactionId: number): Promise<Uint8Array> {
    const what = TYPE_NAMES.get(type) ?? String(type);
    if (this.closed) return Promise.reject(new XenstoreError("ENOTCONN", what));
    // The daemon would end the connection.
    if (payload.length > XS_PAYLOAD_MAX) return Promise.reject(new XenstoreError("E2BIG", what));
    const requestId = this.nextRequest;
    this.nextRequest = (this.nextRequest % 0xffffffff) + 1;
    return new Promise((resolve, reject) => {
      this.pending.set(requestId, { what, resolve, reject });
      this.transport.send(encodeMessage({ type, requestId, transactionId, payload }));
    });
  }

  /**
   * Runs `body` in a transaction and commits it; again from the start when others have changed what it looked at.
   * If `body` fails, nothing is changed. @throws XenstoreError, and what `body` throws
   */
  async transaction<T>(body: (store: StoreAccess) => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const started = strings(await this.send(XsType.TRANSACTION_START, encodeStrings([""]), 0));
      const id = Number(started?.[0]);
      const end = (answer: "T" | "F") => this.send(XsType.TRANSACTION_END, encodeStrings([answer]), id);
      let result: T;
      try {
        result = await body(new Requests((type, payload, transaction) => this.send(type, payload, transaction), id));
      } catch (error) {
        // The first failure is the one to tell of.
        await end("F").catch(() => undefined);
        throw error;
      }
      try {
        await end("T");
        return result;
      } catch (error) {
        const again = error instanceof XenstoreError && error.code === "EAGAIN" && attempt < TRANSACTION_ATTEMPTS;
        if (!again) throw error;
      }
    }
  }

  /** Calls `listener` with the path of each change at or below `path`, and once at once. Events come in order. */
  async watch(path: string, listener: (path: string) => void): Promise<{ close(): Promise<void> }> {
    const token = String(this.nextToken++);
    const payload = encodeStrings([path, token]);
    this.listeners.set(token, listener);
    try {
      await this.send(XsType.WATCH, payload, 0);
    } catch (error) {
      this.listeners.delete(token);
      throw error;
    }
    return {
      close: async () => {
        if (!this.listeners.delete(token) || this.closed) return;
        await orMissing(this.send(XsType.UNWATCH, payload, 0));
      },
    };
  }

  async getDomainPath(domain: number): Promise<string> {
    const reply = await this.send(XsType.GET_DOMAIN_PATH, encodeStrings([String(domain)]), 0);
    return strings(reply)?.[0] ?? "";
  }

  /** Ends the client: what is asked or under way fails with ENOTCONN, listeners hear no more. */
  close(): void {
    this.end();
    this.transport.close?.();
  }

  private end(): void {
    this.closed = true;
    this.tellEnd();
    this.listeners.clear();
    const pending = [...this.pending.values()];
    this.pending.clear();
    for (const { reject, what } of pending) reject(new XenstoreError("ENOTCONN", what));
  }

  private receive(bytes: Uint8Array): void {
    this.parser.push(Uint8Array.from(bytes));
    while (!this.closed) {
      const message = this.parser.next();
      if (message === undefined) return;
      if (message === "too-long") this.close();
      else if (message.type === XsType.WATCH_EVENT) this.dispatch(message);
      else this.settle(message);
    }
  }

  private dispatch(message: Message): void {
    const [path, token] = strings(message.payload) ?? [];
    if (path !== undefined && token !== undefined) this.listeners.get(token)?.(path);
  }

  private settle(message: Message): void {
    const pending = this.pending.get(message.requestId);
    if (pending === undefined) return;
    this.pending.delete(message.requestId);
    if (message.type !== XsType.ERROR) pending.resolve(message.payload);
    else pending.reject(new XenstoreError(errorName(message.payload), pending.what));
  }
}

function errorName(payload: Uint8Array): ErrnoName {
  const name = decodeText(payload).replace(/\0.*$/s, "");
  return Object.hasOwn(Errno, name) ? (name as ErrnoName) : "EIO";
}

/** Connects to a daemon's socket. @throws the system's error (ENOENT, ECONNREFUSED, …) */
export function connectXenstoreSocket(path: string): Promise<XenstoreClient> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.once("error", reject);
    socket.once("connect", () => {
      socket.off("error", reject);
      // What an error ends is told by "close".
      socket.on("error", () => socket.destroy());
      const client = new XenstoreClient({
        send: (bytes) => socket.write(bytes),
        onReceive: (listener) => socket.on("data", listener),
        onClose: (listener) => socket.on("close", listener),
        close: () => socket.destroy(),
      });
      resolve(client);
    });
  });
}
