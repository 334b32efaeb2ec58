import type { Socket } from "node:net";
import type { HostStream } from "./tcp-host-writer.ts";

/** What a socket tells its connection. */
export interface HostSocketEvents {
  /** The chunk is the receiver's. */
  data(chunk: Uint8Array): void;
  /** The other side sends no more. */
  ended(): void;
  /** The socket broke, or never came to be: an errno name ("ECONNREFUSED"). */
  failed(code: string): void;
}

/** A `node:net` socket as the host's side of a connection. Reads nothing until resume(). */
export class HostSocket implements HostStream {
  readonly socket: Socket;
  private isPaused = true;
  private isOver = false;

  /** The socket must have been made with allowHalfOpen, and not be flowing. */
  constructor(socket: Socket, events: HostSocketEvents) {
    this.socket = socket;
    socket.setNoDelay(true);
    socket.pause();
    socket.on("data", (chunk: Buffer) => {
      if (!this.isOver) events.data(chunk);
    });
    socket.on("end", () => {
      if (!this.isOver) events.ended();
    });
    // The listener stays: an error after destroy() would otherwise end the process.
    socket.on("error", (error: NodeJS.ErrnoException) => {
      if (this.isOver) return;
      this.isOver = true;
      events.failed(error.code ?? "EIO");
    });
  }

  write(bytes: Uint8Array, done: () => void): void {
    this.socket.write(bytes, () => done());
  }

  end(): void {
    if (!this.socket.destroyed) this.socket.end();
  }

  pause(): void {
    if (this.isPaused) return;
    this.isPaused = true;
    this.socket.pause();
  }

  resume(): void {
    if (!this.isPaused || this.isOver) return;
    this.isPaused = false;
    this.socket.resume();
  }

  destroy(reset: boolean): void {
    this.isOver = true;
    // A reset of a socket that still connects would wait for the connection.
    if (reset && !this.socket.connecting && !this.socket.destroyed) this.socket.resetAndDestroy();
    else this.socket.destroy();
  }
}
