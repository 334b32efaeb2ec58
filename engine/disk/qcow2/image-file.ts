/** The open file of one image. Results are 0 or a negated errno. */
import { closeSync } from "node:fs";
import { constants } from "node:os";
import type { Scatter } from "../../device/block/store.ts";
import type { MemoryView } from "../../device/domain-interface.ts";
import type { HostIo } from "../host-io.ts";
import { fill, hostBuffer, Span, SubScatter, totalLength } from "./host-buffer.ts";

const { EIO } = constants.errno;

export class ImageFile {
  readonly path: string;
  readonly descriptor: number;
  readonly #io: HostIo;
  readonly #span: Span;
  readonly #part: SubScatter;
  #end: number;
  /** Something was written that no sync has made durable. */
  #unsynced = false;
  #punches = true;
  #open = true;

  /** @param end bytes in the file now */
  constructor(path: string, descriptor: number, end: number, io: HostIo) {
    this.path = path;
    this.descriptor = descriptor;
    this.#io = io;
    this.#end = end;
    const memory = hostBuffer(8);
    this.#span = new Span(memory);
    this.#part = new SubScatter(memory);
  }

  /** Where the file ends: at or behind the last byte ever written. What lies behind reads as zero. */
  get end(): number {
    return this.#end;
  }

  /** Reads bytes [skip, skip + length) of the pieces from `offset`; what lies behind the end is zero. */
  read(offset: number, into: Scatter, skip: number, length: number): number {
    return this.#move(false, offset, into, skip, length);
  }

  write(offset: number, from: Scatter, skip: number, length: number): number {
    return this.#move(true, offset, from, skip, length);
  }

  readBytes(offset: number, memory: MemoryView, at: number, length: number): number {
    return this.#move(false, offset, this.#span.set(memory, at, length), 0, length);
  }

  writeBytes(offset: number, memory: MemoryView, at: number, length: number): number {
    return this.#move(true, offset, this.#span.set(memory, at, length), 0, length);
  }

  /** Makes what was written durable; costs nothing when that is so already. */
  sync(): number {
    if (!this.#unsynced) return 0;
    const status = this.#io.flush(this.descriptor);
    if (status < 0) return status;
    this.#unsynced = false;
    return 0;
  }

  /** Gives a range back to the file system. @returns whether it reads as zero now */
  punch(offset: number, length: number): boolean {
    if (offset >= this.#end) return true;
    if (!this.#punches) return false;
    this.#unsynced = true;
    this.#punches = this.#io.punchHole(this.descriptor, offset, length) === 0;
    return this.#punches;
  }

  close(): void {
    if (this.#open) closeSync(this.descriptor);
    this.#open = false;
  }

  #move(writing: boolean, offset: number, scatter: Scatter, skip: number, length: number): number {
    let pieces = scatter;
    let moved = skip;
    // HostIo moves up to the last piece's end: a range that ends earlier gets pieces of its own.
    if (totalLength(scatter) !== skip + length) {
      pieces = this.#part.cut(scatter, skip, length);
      moved = 0;
    }
    const start = moved;
    const stop = moved + length;
    while (moved < stop) {
      const at = offset + moved - start;
      const count = this.#io.transfer(writing, this.descriptor, at, pieces, moved);
      if (writing) {
        this.#unsynced = true;
        if (count > 0 && at + count > this.#end) this.#end = at + count;
      }
      if (count < 0) return count;
      if (count === 0) {
        if (writing) return -EIO;
        fill(pieces, moved, stop - moved);
        return 0;
      }
      moved += count;
    }
    return 0;
  }
}
