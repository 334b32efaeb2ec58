/**
 * A machine's console as its watchers see it: a stream of bytes that is numbered from the first one of the log on, of which
 * the last ones are kept. Nobody who watches can hold the guest up: a watcher that is slow is sent no more than a window
 * before it acknowledges, and when what it wants is no longer kept its stream goes on later, with a gap that its offsets show.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";

/** Bytes that are kept for watchers; the log file holds more. */
export const SCROLLBACK_BYTES = 1 << 20;
/** Bytes of the log that a lab starts with. */
const PRELOAD_BYTES = 128 * 1024;
/** Most bytes of one piece that a watcher is sent. */
const PIECE = 32 * 1024;

/** Keeps the last bytes of a stream; offsets count from the stream's start. */
export class Scrollback {
  private readonly limit: number;
  private pieces: Uint8Array[] = [];
  /** Offset of the first byte that is kept. */
  start: number;
  /** Offset behind the last one. */
  end: number;

  constructor(start = 0, limit = SCROLLBACK_BYTES) {
    this.start = start;
    this.end = start;
    this.limit = limit;
  }

  push(bytes: Uint8Array): void {
    if (bytes.length === 0) return;
    const kept = bytes.length > this.limit ? bytes.subarray(bytes.length - this.limit) : bytes;
    if (kept.length < bytes.length) {
      this.pieces = [];
      this.start = this.end + bytes.length - kept.length;
    }
    // Copied: the piece may be a view of a buffer that is used again.
    this.pieces.push(Uint8Array.from(kept));
    this.end += bytes.length;
    while (this.end - this.start > this.limit) {
      const [first] = this.pieces;
      const drop = Math.min(first!.length, this.end - this.start - this.limit);
      if (drop === first!.length) this.pieces.shift();
      else this.pieces[0] = first!.subarray(drop);
      this.start += drop;
    }
    // Single characters come as pieces of their own: joined, so that reading does not walk a million of them.
    if (this.pieces.length > 4096) this.pieces = [Buffer.concat(this.pieces)];
  }

  /** At most `most` bytes from `offset` on, or from the first byte that is kept when that is later. */
  read(offset: number, most: number): { readonly offset: number; readonly bytes: Buffer } {
    const from = Math.min(Math.max(offset, this.start), this.end);
    // From the end, where those who watch read.
    let index = this.pieces.length;
    let at = this.end;
    while (at > from) at -= this.pieces[--index]!.length;
    const found: Uint8Array[] = [];
    let left = Math.min(most, this.end - from);
    for (let skip = from - at; left > 0; skip = 0) {
      const part = this.pieces[index++]!.subarray(skip, skip + left);
      found.push(part);
      left -= part.length;
    }
    return { offset: from, bytes: Buffer.concat(found) };
  }
}

/** The last bytes of a file, and its size; nothing of one that cannot be read. */
function tailOf(path: string, most: number): { bytes: Buffer; size: number } {
  let descriptor: number;
  try {
    descriptor = openSync(path, "r");
  } catch {
    return { bytes: Buffer.alloc(0), size: 0 };
  }
  try {
    const { size } = fstatSync(descriptor);
    const bytes = Buffer.alloc(Math.min(size, most));
    const read = readSync(descriptor, bytes, 0, bytes.length, size - bytes.length);
    return { bytes: bytes.subarray(0, read), size };
  } finally {
    closeSync(descriptor);
  }
}

export interface Watcher {
  /** Takes a piece of output; `offset` is that of its first byte. */
  output(offset: number, bytes: Buffer): void;
  /** The machine's state changed when that much had been printed. */
  state?(offset: number, state: string): void;
}

export interface Attachment {
  /** Offset of the first byte that it is sent. */
  readonly offset: number;
  acknowledge(offset: number): void;
  detach(): void;
}

/** One who watches: where he is, and what he has acknowledged. */
class Viewer implements Attachment {
  readonly offset: number;
  readonly watcher: Watcher;
  private readonly scrollback: Scrollback;
  private readonly window: number;
  private sent: number;
  private acknowledged: number;
  private attached = true;
  private readonly leave: (viewer: Viewer) => void;

  constructor(scrollback: Scrollback, at: number, window: number, watcher: Watcher, leave: (viewer: Viewer) => void) {
    this.scrollback = scrollback;
    this.window = window;
    this.watcher = watcher;
    this.leave = leave;
    this.offset = Math.min(Math.max(at, scrollback.start), scrollback.end);
    this.sent = this.offset;
    this.acknowledged = this.offset;
  }

  /** Sends what there is while the window is open. */
  pump(): void {
    while (this.attached && this.sent < this.scrollback.end && this.sent - this.acknowledged < this.window) {
      const room = this.window - (this.sent - this.acknowledged);
      const { offset, bytes } = this.scrollback.read(this.sent, Math.min(PIECE, room));
      // What fell out of the scrollback was never sent and needs no acknowledgement.
      if (offset > this.sent) this.acknowledged += offset - this.sent;
      this.sent = offset + bytes.length;
      this.watcher.output(offset, bytes);
    }
  }

  acknowledge(offset: number): void {
    // Nobody can acknowledge what was not sent: the window would grow.
    this.acknowledged = Math.max(this.acknowledged, Math.min(offset, this.sent));
    this.pump();
  }

  detach(): void {
    this.attached = false;
    this.leave(this);
  }
}

export class MachineConsole {
  readonly scrollback: Scrollback;
  private readonly viewers = new Set<Viewer>();
  private readonly taps = new Set<(bytes: Uint8Array) => void>();
  private input: ((bytes: Uint8Array) => Promise<void>) | undefined;
  /** The size that a watcher's terminal last had. */
  size: { readonly columns: number; readonly rows: number } | undefined;
  /** Offset at which the present (or last) run of the guest began. */
  runStart = 0;

  /** @param log the console log that the machine's domains append to; what it holds comes first */
  constructor(log?: string) {
    const now = log === undefined ? { bytes: Buffer.alloc(0), size: 0 } : tailOf(log, PRELOAD_BYTES);
    const before = log === undefined ? 0 : tailOf(`${log}.1`, 0).size;
    this.scrollback = new Scrollback(before + now.size - now.bytes.length);
    this.scrollback.push(now.bytes);
    this.runStart = this.scrollback.end;
  }

  get end(): number {
    return this.scrollback.end;
  }

  /** A guest begins to run; `input` takes what is typed. */
  begin(input: (bytes: Uint8Array) => Promise<void>): void {
    this.runStart = this.end;
    this.input = input;
  }

  /** The guest has ended. */
  finish(): void {
    this.input = undefined;
  }

  /** Takes output of the guest. */
  push(bytes: Uint8Array): void {
    this.scrollback.push(bytes);
    for (const tap of [...this.taps]) tap(bytes);
    for (const viewer of [...this.viewers]) viewer.pump();
  }

  /** Types bytes. @returns false when no guest runs */
  async write(bytes: Uint8Array): Promise<boolean> {
    if (this.input === undefined) return false;
    await this.input(bytes);
    return true;
  }

  /**
   * Sends output from `offset` on to a watcher, which must acknowledge it.
   * @param window bytes that may be unacknowledged
   */
  attach(offset: number, window: number, watcher: Watcher): Attachment {
    const viewer = new Viewer(this.scrollback, offset, window, watcher, (gone) => this.viewers.delete(gone));
    this.viewers.add(viewer);
    // Not before the caller has the attachment: what is sent names it.
    queueMicrotask(() => viewer.pump());
    return viewer;
  }

  /** Tells watchers of a change of state. */
  announce(state: string): void {
    for (const viewer of [...this.viewers]) viewer.watcher.state?.(this.end, state);
  }

  /**
   * Whether the guest prints `text`, or has printed it since it started.
   * @returns a promise of true, or false when `signal` was raised first
   */
  waitForText(text: string, signal: AbortSignal): Promise<boolean> {
    const wanted = Buffer.from(text);
    let tail = this.scrollback.read(this.runStart, SCROLLBACK_BYTES).bytes;
    if (tail.includes(wanted)) return Promise.resolve(true);
    return new Promise((resolve) => {
      const finish = (found: boolean) => {
        this.taps.delete(tap);
        signal.removeEventListener("abort", stop);
        resolve(found);
      };
      const stop = () => finish(false);
      const tap = (bytes: Uint8Array) => {
        tail = Buffer.concat([tail.subarray(-wanted.length), bytes]);
        if (tail.includes(wanted)) finish(true);
      };
      if (signal.aborted) return stop();
      this.taps.add(tap);
      signal.addEventListener("abort", stop);
    });
  }
}
