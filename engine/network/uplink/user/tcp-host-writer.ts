import type { ReceiveQueue, StagedBuffer } from "./tcp-receive-queue.ts";

/** The host's side of a connection: a socket, as far as the connection cares. */
export interface HostStream {
  /** Takes bytes; `done` is called, never at once, when the memory is free again, also after a failure. */
  write(bytes: Uint8Array, done: () => void): void;
  /** The guest sends no more. */
  end(): void;
  /** No more hostData() for now, and again. Repeating is harmless. */
  pause(): void;
  resume(): void;
  /** Closes at once; by a reset, unless both directions have ended in peace. */
  destroy(reset: boolean): void;
}

/**
 * Hands a guest's bytes to the host's socket, one batch at a time: while the socket is busy they gather in whole buffers, so
 * that a slow host and small segments together hold no more memory than the bytes themselves need.
 */
export class HostWriter {
  readonly host: HostStream;
  private readonly queue: ReceiveQueue;
  private readonly written: () => void;
  private underWay = 0;
  private hasEnded = false;
  private isOver = false;

  /** `written` is called whenever the socket is done with a batch. */
  constructor(host: HostStream, queue: ReceiveQueue, written: () => void) {
    this.host = host;
    this.queue = queue;
    this.written = written;
  }

  /** Whether the guest's last byte and the end of its stream have been handed over. */
  get isDone(): boolean {
    return this.hasEnded;
  }

  /** Gives the socket what waits, and the end of the stream where `isLast` and nothing waits any more. */
  flush(isLast: boolean): void {
    if (this.underWay > 0 || this.isOver) return;
    for (const staged of this.queue.takeStaged()) this.write(staged);
    if (isLast && !this.hasEnded) {
      this.hasEnded = true;
      this.host.end();
    }
  }

  /** Nothing more is written; the socket is closed, unless both directions have ended and it closes by itself. */
  finish(reset: boolean): void {
    this.isOver = true;
    this.queue.clear();
    if (reset || !this.hasEnded) this.host.destroy(reset);
  }

  private write(staged: StagedBuffer): void {
    this.underWay++;
    this.host.write(staged.buffer.subarray(0, staged.length), () => {
      this.underWay--;
      this.queue.giveBack(staged);
      if (this.underWay === 0 && !this.isOver) this.written();
    });
  }
}
