/**
 * A Unix stream socket as an uplink: joins a switch with another lab's, or with a QEMU guest
 * (`-netdev stream,id=n,server=off,addr.type=unix,addr.path=…`). One side listens, the other connects; whichever comes
 * first waits for the other, and after a loss they find each other again.
 */
import { chmodSync, existsSync, lstatSync, unlinkSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { dirname } from "node:path";
import type { DeliveryFailure, Frame } from "../../device/net/frame.ts";
import { oneLine } from "../../errors/input-error.ts";
import { messageOf } from "../../errors/message.ts";
import { Backoff } from "./backoff.ts";
import { countIn, type DropCounters, droppedDown, droppedFull, sendCounted, zeroCounters } from "./counting.ts";
import { FrameStream, QUEUE_DEFAULT } from "./socket-stream.ts";
import { type Uplink, type UplinkContext, UplinkError } from "./types.ts";

/** Longest path that sockaddr_un has room for, with its NUL. */
const PATH_MOST = process.platform === "linux" ? 107 : 103;
const RETRY_FIRST_NS = 200_000_000;
const RETRY_MOST_NS = 5_000_000_000;

export interface SocketUplinkOptions {
  readonly path: string;
  readonly mode: "listen" | "connect";
  /** Bytes that may wait for a slow peer; frames beyond are dropped ("full"). */
  readonly queueBytes?: number;
}

/** Counters of a socket uplink besides those of every one. */
export interface SocketCounters extends DropCounters {
  /** Connections that were made, and lost. */
  connected: number;
  lost: number;
  /** Peers that were turned away because one is there already. */
  refused: number;
  /** Frames of the peer that were skipped for their length. */
  short: number;
  long: number;
}

function codeOf(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : String(error);
}

export class SocketUplink implements Uplink {
  readonly kind = "socket";
  readonly counters: SocketCounters = {
    ...zeroCounters(),
    connected: 0,
    lost: 0,
    refused: 0,
    droppedDown: 0,
    droppedFull: 0,
    short: 0,
    long: 0,
  };
  private readonly context: UplinkContext;
  private readonly options: SocketUplinkOptions;
  private server: Server | undefined;
  private stream: FrameStream | undefined;
  private connecting: Socket | undefined;
  private readonly backoff: Backoff;
  private waitingSaid = false;
  private closed = false;
  /** The path, fit for a line of text. */
  private readonly shown: string;

  constructor(context: UplinkContext, options: SocketUplinkOptions) {
    this.context = context;
    this.backoff = new Backoff(context.clock, RETRY_FIRST_NS, RETRY_MOST_NS);
    this.options = options;
    this.shown = oneLine(options.path);
  }

  /** Listens, or tries to connect for the first time; that nobody is there yet is no error. @throws UplinkError */
  async start(): Promise<void> {
    const { path, mode } = this.options;
    if (path === "" || path.includes("\0") || Buffer.byteLength(path) > PATH_MOST) {
      throw new UplinkError(`socket "${this.shown}" is no path for a socket`, `use up to ${PATH_MOST} bytes`);
    }
    if (mode === "listen") await this.listen();
    else await this.connect();
  }

  deliver(frame: Frame): DeliveryFailure | undefined {
    countIn(this.counters, frame);
    if (this.stream === undefined) return droppedDown(this.counters);
    return this.stream.write(frame) ? undefined : droppedFull(this.counters);
  }

  flush(): void {
    this.stream?.flush();
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.backoff.cancel();
    this.connecting?.destroy();
    this.leave();
    const { server } = this;
    // Also removes the path.
    if (server?.listening) await new Promise<void>((resolve) => server.close(() => resolve()));
  }

  describe(): Record<string, unknown> {
    const waiting = this.options.mode === "listen" ? "listening" : "connecting";
    const state = this.closed ? "closed" : this.stream === undefined ? waiting : "connected";
    return { kind: this.kind, path: this.options.path, mode: this.options.mode, state };
  }

  private async listen(): Promise<void> {
    try {
      await this.bind();
    } catch (error) {
      if (codeOf(error) !== "EADDRINUSE") throw this.unusable(error);
      await this.removeStale();
      await this.bind().catch((again: unknown) => {
        throw this.unusable(again);
      });
    }
  }

  private bind(): Promise<void> {
    const { path } = this.options;
    const server = createServer((socket) => this.accept(socket));
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(path, () => {
        server.off("error", reject);
        server.on("error", (error) => this.context.log(`socket ${this.shown}: ${error.message}`));
        // The guests' traffic is not for every user of the host.
        chmodSync(path, 0o600);
        this.server = server;
        resolve();
      });
    });
  }

  /** Removes the path if it is a socket that nobody listens on any more: its owner died. @throws UplinkError */
  private async removeStale(): Promise<void> {
    const { path } = this.options;
    const answer = await new Promise<string>((resolve) => {
      const probe = createConnection(path);
      probe.once("connect", () => {
        probe.destroy();
        resolve("connected");
      });
      probe.once("error", (error) => resolve(codeOf(error)));
    });
    if (answer === "connected") {
      throw new UplinkError(
        `socket ${this.shown}: somebody listens there already`,
        "choose another path, or mode connect",
      );
    }
    try {
      if (!lstatSync(path).isSocket()) {
        throw new UplinkError(`socket ${this.shown}: there is something else at this path`, "choose another path");
      }
      if (answer === "ECONNREFUSED") unlinkSync(path);
    } catch (error) {
      if (error instanceof UplinkError) throw error;
      throw this.unusable(error);
    }
  }

  private unusable(error: unknown): UplinkError {
    const { path } = this.options;
    // libuv says EACCES for a directory that is not there.
    const code = existsSync(dirname(path)) ? codeOf(error) : "ENOENT";
    switch (code) {
      case "ENOENT":
        return new UplinkError(`socket ${this.shown}: there is no such directory`, "make it, or check the path", error);
      case "EACCES":
      case "EPERM":
        return new UplinkError(
          `socket ${this.shown}: permission denied`,
          "choose a path that this user may use",
          error,
        );
      default:
        return new UplinkError(`socket ${this.shown}: cannot be used (${code})`, "choose another path", error);
    }
  }

  private accept(socket: Socket): void {
    if (this.stream !== undefined || this.closed) {
      this.counters.refused++;
      socket.on("error", () => {});
      socket.destroy();
      return;
    }
    this.join(socket);
  }

  /** One attempt. Settles when it is decided; only what a later attempt cannot change is an error. */
  private connect(): Promise<void> {
    const { path } = this.options;
    const socket = createConnection(path);
    this.connecting = socket;
    return new Promise((resolve, reject) => {
      const fail = (error: Error): void => {
        this.connecting = undefined;
        const code = codeOf(error);
        if (code === "EACCES" || code === "EPERM" || code === "ENOTSOCK") {
          reject(this.unusable(error));
          return;
        }
        if (!this.waitingSaid) this.context.log(`socket ${this.shown}: nobody listens there yet; trying again`);
        this.waitingSaid = true;
        this.retry();
        resolve();
      };
      socket.once("error", fail);
      socket.once("close", () => resolve());
      socket.once("connect", () => {
        socket.off("error", fail);
        this.connecting = undefined;
        this.backoff.reset();
        this.waitingSaid = false;
        if (this.closed) socket.destroy();
        else this.join(socket);
        resolve();
      });
    });
  }

  private retry(): void {
    if (this.closed || this.options.mode !== "connect") return;
    this.backoff.again(() => {
      this.connect().catch((error: unknown) => {
        this.context.log(messageOf(error));
        this.retry();
      });
    });
  }

  private join(socket: Socket): void {
    const { queueBytes = QUEUE_DEFAULT } = this.options;
    this.counters.connected++;
    this.context.log(`socket ${this.shown}: connected`);
    const events = {
      frame: (frame: Frame) => sendCounted(this.context, this.counters, frame),
      batchEnd: () => this.context.batchEnd?.(),
      ended: (reason: string) => {
        this.leave();
        this.counters.lost++;
        this.context.log(`socket ${this.shown}: connection lost, ${reason}`);
        this.retry();
      },
    };
    this.stream = new FrameStream(socket, events, this.counters, queueBytes);
  }

  private leave(): void {
    const { stream } = this;
    if (stream === undefined) return;
    this.stream = undefined;
    stream.close();
  }
}
