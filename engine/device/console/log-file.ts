/** A domain's console log: at most two files of `limit` bytes, the older one with `.1` behind its name (XSA-180). */
import { closeSync, fstatSync, openSync, renameSync, writeSync } from "node:fs";
import { LOG_LIMIT } from "./protocol.ts";

export class LogFile {
  private readonly path: string;
  private readonly limit: number;
  private descriptor: number;
  private size: number;
  /** First write error; the log is silent from then on, the guest keeps running. */
  failure: unknown;

  /** Appends to the file. @throws the error of open(2) */
  constructor(path: string, limit = LOG_LIMIT) {
    this.path = path;
    this.limit = limit;
    this.descriptor = openSync(path, "a", 0o600);
    this.size = fstatSync(this.descriptor).size;
  }

  write(bytes: Uint8Array): void {
    if (this.failure !== undefined) return;
    try {
      for (let done = 0; done < bytes.length; ) {
        if (this.size >= this.limit) this.rotate();
        const piece = bytes.subarray(done, done + Math.min(bytes.length - done, this.limit - this.size));
        const written = writeSync(this.descriptor, piece);
        done += written;
        this.size += written;
      }
    } catch (error) {
      this.failure = error;
    }
  }

  private rotate(): void {
    closeSync(this.descriptor);
    renameSync(this.path, `${this.path}.1`);
    this.descriptor = openSync(this.path, "w", 0o600);
    this.size = 0;
  }

  close(): void {
    closeSync(this.descriptor);
  }
}
