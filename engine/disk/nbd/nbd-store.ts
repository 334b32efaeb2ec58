/**
 * An NBD export as a block store: requests are pipelined over one connection. When the server goes away the store connects
 * again with growing pauses and sends everything unanswered once more, in the order it was first sent; a request fails with
 * EIO only when its deadline has passed. Writes that were answered but not flushed are the server's to keep.
 */
import { constants } from "node:os";
import { performance } from "node:perf_hooks";
import type { BlockStore, Done, Scatter } from "../../device/block/store.ts";
import { oneLine } from "../../errors/input-error.ts";
import { DiskError, errnoName } from "../errors.ts";
import type { NbdSpec } from "../spec.ts";
import { connectNbd, type ExportInfo, type NbdSession, nbdName } from "./negotiate.ts";
import { Command, type CommandNumber, hostErrno, NBD_ESHUTDOWN, requestHeader } from "./protocol.ts";
import { type Expectation, ReplyParser } from "./reply-parser.ts";

const { EIO, EOPNOTSUPP } = constants.errno;
const DEFAULT_DEADLINE_S = 30;
/** Requests on the wire at a time. */
const MAX_IN_FLIGHT = 64;
/** The most that one TRIM covers; its length is 32 bits wide and has to be whole blocks. */
const MAX_TRIM = 1 << 30;
const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 5000;

/** What the backend asked for: one or more requests on the wire. */
interface Operation {
  readonly verb: string;
  readonly submitted: number;
  readonly memory: Scatter["memory"] | undefined;
  readonly addresses: Float64Array;
  readonly lengths: Uint32Array;
  readonly done: Done;
  /** Requests without an answer. */
  left: number;
  errno: number;
}

/** One request on the wire. `from`: where its data begins within its operation's. */
class Request implements Expectation {
  readonly command: CommandNumber;
  readonly offset: number;
  readonly length: number;
  readonly operation: Operation;
  readonly #from: number;

  constructor(command: CommandNumber, offset: number, length: number, from: number, operation: Operation) {
    this.command = command;
    this.offset = offset;
    this.length = length;
    this.#from = from;
    this.operation = operation;
  }

  get readLength(): number {
    return this.command === Command.read ? this.length : 0;
  }

  data(at: number, bytes: Uint8Array): void {
    let taken = 0;
    this.#pieces(at, bytes.length, (piece) => {
      piece.set(bytes.subarray(taken, taken + piece.length));
      taken += piece.length;
    });
  }

  zeros(at: number, length: number): void {
    this.#pieces(at, length, (piece) => piece.fill(0));
  }

  /** The guest's pages with the data of a write. */
  payload(): Uint8Array[] {
    const pieces: Uint8Array[] = [];
    if (this.command === Command.write) this.#pieces(0, this.length, (piece) => pieces.push(piece));
    return pieces;
  }

  #pieces(at: number, length: number, take: (piece: Uint8Array) => void): void {
    const { memory, addresses, lengths } = this.operation;
    let skip = this.#from + at;
    let left = length;
    for (let i = 0; i < lengths.length && left > 0; i++) {
      const here = lengths[i]!;
      if (skip >= here) {
        skip -= here;
        continue;
      }
      const count = Math.min(here - skip, left);
      const start = addresses[i]! + skip;
      take(memory!.bytes.subarray(start, start + count));
      left -= count;
      skip = 0;
    }
  }
}

const NO_ADDRESSES = new Float64Array(0);
const NO_LENGTHS = new Uint32Array(0);

class NbdStore implements BlockStore {
  readonly synchronous = false;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly discard: BlockStore["discard"];
  readonly #spec: NbdSpec;
  readonly #log: (line: string) => void;
  readonly #deadlineMs: number;
  readonly #listeners: (() => void)[] = [];
  readonly #inFlight = new Map<number, Request>();
  readonly #watchdog: NodeJS.Timeout;
  #queue: Request[] = [];
  #session: NbdSession | undefined;
  #info: ExportInfo;
  #size: number;
  #nextCookie = 1;
  /** When the server last answered a request. Neither a connection nor garbage counts, or they could hold requests forever. */
  #answered = performance.now();
  #pause = FIRST_PAUSE_MS;
  #reconnect: NodeJS.Timeout | undefined;
  #closed = false;

  constructor(spec: NbdSpec, session: NbdSession, sectorSize: number, log: (line: string) => void) {
    const { info } = session;
    this.#spec = spec;
    this.#log = log;
    this.#info = info;
    this.#deadlineMs = (spec.deadlineSeconds ?? DEFAULT_DEADLINE_S) * 1000;
    this.sectorSize = sectorSize;
    this.physicalSectorSize = Math.max(sectorSize, Math.min(info.preferredBlock, 65_536));
    this.readOnly = spec.readOnly;
    this.#size = info.size - (info.size % sectorSize);
    const discards = info.canTrim && !spec.readOnly && spec.discard !== false;
    this.discard = discards
      ? { granularity: Math.max(sectorSize, info.minimumBlock), alignment: 0, secure: false }
      : undefined;
    this.#watchdog = setInterval(() => this.#expire(), Math.min(1000, this.#deadlineMs / 4)).unref();
    this.#adopt(session);
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, into: Scatter, done: Done): void {
    this.#submit("read", Command.read, offset, total(into), this.#info.maximumPayload, into, done);
  }

  write(offset: number, from: Scatter, done: Done): void {
    this.#submit("write", Command.write, offset, total(from), this.#info.maximumPayload, from, done);
  }

  flush(done: Done): void {
    this.#submit("flush", Command.flush, 0, 0, 1, undefined, done);
  }

  discardRange(offset: number, length: number, secure: boolean, done: Done): void {
    if (this.discard && !secure) this.#submit("discard", Command.trim, offset, length, MAX_TRIM, undefined, done);
    else done({ errno: EOPNOTSUPP, message: `${nbdName(this.#spec)}: no such discard` });
  }

  onResize(listener: () => void): void {
    this.#listeners.push(listener);
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#watchdog);
    clearTimeout(this.#reconnect);
    for (const request of [...this.#inFlight.values(), ...this.#queue]) this.#answer(request, EIO);
    this.#inFlight.clear();
    this.#queue = [];
    const socket = this.#session?.socket;
    this.#session = undefined;
    if (!socket || socket.destroyed) return;
    socket.end(requestHeader(Command.disconnect, 0, 0, 0));
    socket.destroySoon();
  }

  #submit(
    verb: string,
    command: CommandNumber,
    offset: number,
    length: number,
    most: number,
    scatter: Scatter | undefined,
    done: Done,
  ): void {
    const operation: Operation = {
      verb,
      submitted: performance.now(),
      memory: scatter?.memory,
      addresses: scatter?.addresses.slice(0, scatter.count) ?? NO_ADDRESSES,
      lengths: scatter?.lengths.slice(0, scatter.count) ?? NO_LENGTHS,
      done,
      left: Math.max(1, Math.ceil(length / most)),
      errno: 0,
    };
    if (this.#closed) {
      done({ errno: EIO, message: `${nbdName(this.#spec)}: closed` });
      return;
    }
    for (let i = 0, requests = operation.left; i < requests; i++) {
      const from = i * most;
      this.#queue.push(new Request(command, offset + from, Math.min(most, length - from), from, operation));
    }
    this.#pump();
  }

  #pump(): void {
    const socket = this.#session?.socket;
    if (!socket) return;
    socket.cork();
    while (this.#queue.length > 0 && this.#inFlight.size < MAX_IN_FLIGHT) {
      const request = this.#queue[0]!;
      // The server's flush covers only what it has answered: what was written before must be answered first.
      if (request.command === Command.flush && this.#changesInFlight()) break;
      this.#queue.shift();
      // A server that does not offer the command has nothing to flush (proto.md, NBD_FLAG_SEND_FLUSH).
      if (request.command === Command.flush && !this.#info.canFlush) {
        this.#answer(request, 0);
        continue;
      }
      const cookie = this.#nextCookie++;
      this.#inFlight.set(cookie, request);
      socket.write(requestHeader(request.command, cookie, request.offset, request.length));
      // Straight from the guest's pages, which stay granted until the operation is done.
      for (const piece of request.payload()) socket.write(piece);
    }
    socket.uncork();
  }

  #changesInFlight(): boolean {
    for (const { command } of this.#inFlight.values()) if (command !== Command.read) return true;
    return false;
  }

  #adopt(session: NbdSession): void {
    this.#session = session;
    const { socket } = session;
    const parser = new ReplyParser({
      find: (cookie) => this.#inFlight.get(cookie),
      finish: (cookie, error) => this.#finish(session, cookie, error),
    });
    socket.on("data", (chunk: Buffer) => {
      if (this.#session !== session) return;
      const problem = parser.push(chunk);
      if (problem !== undefined) this.#lose(session, problem);
      else this.#pump();
    });
    socket.on("error", (error) => this.#lose(session, oneLine(error.message)));
    socket.on("close", () => this.#lose(session, "closed the connection"));
    if (socket.destroyed) {
      this.#lose(session, "closed the connection");
      return;
    }
    socket.resume();
    this.#pump();
  }

  #finish(session: NbdSession, cookie: number, error: number): void {
    const request = this.#inFlight.get(cookie);
    if (!request || this.#session !== session) return;
    if (error === NBD_ESHUTDOWN) {
      this.#lose(session, "is shutting down");
      return;
    }
    this.#inFlight.delete(cookie);
    this.#answered = performance.now();
    this.#pause = FIRST_PAUSE_MS;
    this.#answer(request, error === 0 ? 0 : hostErrno(error));
  }

  #answer({ operation }: Request, errno: number): void {
    operation.errno ||= errno;
    if (--operation.left > 0) return;
    const { errno: result, verb, done } = operation;
    if (result === 0) done();
    else done({ errno: result, message: `${nbdName(this.#spec)}: ${verb} failed with ${errnoName(result)}` });
  }

  #lose(session: NbdSession, why: string): void {
    if (this.#session !== session) return;
    this.#session = undefined;
    session.socket.destroy();
    if (this.#closed) return;
    this.#queue = [...this.#inFlight.values(), ...this.#queue];
    this.#inFlight.clear();
    this.#log(`${nbdName(this.#spec)}: the server ${why}; connecting again`);
    this.#connectLater();
  }

  #connectLater(): void {
    this.#reconnect = setTimeout(() => void this.#connect(), this.#pause);
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE_MS);
  }

  async #connect(): Promise<void> {
    try {
      const session = await connectNbd(this.#spec);
      if (this.#closed) {
        session.socket.destroy();
        return;
      }
      const problem = this.#changed(session.info);
      if (problem === undefined) {
        this.#log(`${nbdName(this.#spec)}: the server is back`);
        this.#info = session.info;
        this.#adopt(session);
        this.#grow(session.info.size);
        return;
      }
      session.socket.destroy();
      this.#log(`${nbdName(this.#spec)}: the server is back with another export, which ${problem}`);
    } catch (error) {
      if (!(error instanceof DiskError)) throw error;
    }
    if (!this.#closed) this.#connectLater();
  }

  /** Why the export that came back cannot stand in for the one that went away. */
  #changed(info: ExportInfo): string | undefined {
    if (info.size < this.#size) return "is smaller";
    if (info.readOnly && !this.readOnly) return "is read-only";
    return info.minimumBlock > this.sectorSize ? "has larger blocks" : undefined;
  }

  #grow(bytes: number): void {
    const size = bytes - (bytes % this.sectorSize);
    if (size === this.#size) return;
    this.#size = size;
    for (const listener of this.#listeners) listener();
  }

  /** Fails what has waited too long: neither handed over lately nor anything answered since. */
  #expire(): void {
    const limit = performance.now() - this.#deadlineMs;
    if (this.#answered > limit) return;
    const old = ({ operation }: Request) => operation.submitted <= limit;
    if (this.#session && [...this.#inFlight.values()].some(old)) this.#lose(this.#session, "does not answer");
    if (this.#session) return;
    const expired = this.#queue.filter(old);
    this.#queue = this.#queue.filter((request) => !old(request));
    for (const request of expired) this.#answer(request, EIO);
  }
}

function total(scatter: Scatter): number {
  let length = 0;
  for (let i = 0; i < scatter.count; i++) length += scatter.lengths[i]!;
  return length;
}

/**
 * Connects to an NBD server.
 * @param log takes a line when the server goes away and when it is back
 * @throws DiskError
 */
export async function openNbdStore(spec: NbdSpec, log: (line: string) => void): Promise<BlockStore> {
  const session = await connectNbd(spec);
  const { info } = session;
  const sectorSize = info.minimumBlock <= 512 ? 512 : 4096;
  let problem: DiskError | undefined;
  if (info.minimumBlock > 4096) {
    problem = new DiskError(
      "nbd-refused",
      `${nbdName(spec)} has blocks of ${info.minimumBlock} bytes`,
      "use at most 4096",
    );
  } else if (info.size < sectorSize) {
    problem = new DiskError("empty-image", `${nbdName(spec)} is empty`, "check what the server exports");
  } else if (info.readOnly && !spec.readOnly) {
    problem = new DiskError("read-only-image", `${nbdName(spec)} is read-only`, "say access=ro");
  } else if (info.maximumPayload < sectorSize) {
    problem = new DiskError("nbd-refused", `${nbdName(spec)} takes less than a sector at a time`, "check the server");
  }
  if (problem) {
    session.socket.destroy();
    throw problem;
  }
  return new NbdStore(spec, session, sectorSize, log);
}
