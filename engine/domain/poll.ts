/** poll(2) and pipe(2) through koffi: waiting for descriptors without an event loop. Linux and macOS. */
import { closeSync } from "node:fs";
import koffi from "koffi";
import { SystemCallError } from "../memory/posix.ts";

const linux = process.platform === "linux";
const POLLIN = 1;
const O_CLOEXEC = 0o2000000;
const F_SETFD = 2;
const FD_CLOEXEC = 1;
const EINTR = 4;
/** EAGAIN: the kernel is short of memory at this moment. */
const EAGAIN = linux ? 11 : 35;
/** struct pollfd { int fd; short events, revents; } */
const ENTRY_BYTES = 8;

export interface Pipe {
  readonly read: number;
  readonly write: number;
  close(): void;
}

/** A pipe that child processes do not inherit. @throws SystemCallError */
export function createPipe(): Pipe {
  const libc = koffi.load(null);
  const ends = new Int32Array(2);
  const made = linux
    ? libc.func("pipe2", "int", ["void *", "int"])(ends, O_CLOEXEC)
    : libc.func("pipe", "int", ["void *"])(ends);
  if (made !== 0) throw new SystemCallError("pipe", koffi.errno());
  const [read = -1, write = -1] = ends;
  if (!linux) {
    const fcntl = libc.func("int fcntl(int descriptor, int command, ...)");
    for (const end of ends) fcntl(end, F_SETFD, "int", FD_CLOEXEC);
  }
  return {
    read,
    write,
    close() {
      closeSync(read);
      closeSync(write);
    },
  };
}

/** A list of descriptors to wait for. */
export class PollList {
  private readonly entries: DataView<ArrayBuffer>;
  private readonly poll: (entries: Uint8Array, count: number, timeout: number) => number;
  private readonly bytes: Uint8Array<ArrayBuffer>;
  private count = 0;

  /** @param limit most descriptors in the list */
  constructor(limit: number) {
    this.bytes = new Uint8Array(limit * ENTRY_BYTES);
    this.entries = new DataView(this.bytes.buffer);
    this.poll = koffi.load(null).func("poll", "int", ["void *", linux ? "unsigned long" : "unsigned int", "int"]);
  }

  get length(): number {
    return this.count;
  }

  clear(): void {
    this.count = 0;
  }

  /** @returns the index of the descriptor in the list */
  add(descriptor: number): number {
    const index = this.count++;
    this.entries.setInt32(index * ENTRY_BYTES, descriptor, true);
    this.entries.setInt16(index * ENTRY_BYTES + 4, POLLIN, true);
    this.entries.setInt16(index * ENTRY_BYTES + 6, 0, true);
    return index;
  }

  /**
   * Sleeps until one of them is readable, has hung up, has failed or is none, at most `timeoutMs`.
   * @throws SystemCallError but for interruptions, which look like the timeout
   */
  wait(timeoutMs: number): void {
    if (this.poll(this.bytes, this.count, timeoutMs) >= 0) return;
    const errno = koffi.errno();
    // What the list says of events is from before then.
    for (let index = 0; index < this.count; index++) this.entries.setInt16(index * ENTRY_BYTES + 6, 0, true);
    if (errno !== EINTR && errno !== EAGAIN) throw new SystemCallError("poll", errno);
  }

  /** Whether wait() has found anything about the descriptor at an index. */
  ready(index: number): boolean {
    return this.entries.getInt16(index * ENTRY_BYTES + 6, true) !== 0;
  }
}
