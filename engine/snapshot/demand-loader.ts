/**
 * Loading windows of a restored guest's memory at the moment they are needed, by the thread that needs them: the vCPU's. A
 * BackgroundLoader in another process loads the others meanwhile; who loads what is settled by Arrivals.
 */
import { closeSync, fstatSync, openSync, readSync, writeSync } from "node:fs";
import { PAGE_SIZE } from "../abi/xen.ts";
import { Arrivals, windowOf } from "../memory/arrival.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import type { Codec } from "./codec.ts";
import { damaged } from "./errors.ts";
import {
  type Chunk,
  checkChunk,
  damagedChunk,
  decodePreamble,
  decodeTable,
  ENTRY_BYTES,
  PREAMBLE_BYTES,
  pageCount,
} from "./file-format.ts";
import { codecFor, readFailure } from "./file-reader.ts";
import { placementsOf } from "./placement.ts";

export interface DemandLoaderOptions {
  /** The snapshot file (SnapshotFile.lasting). */
  readonly path: string;
  /** What messages call it, if not by its path. */
  readonly name?: string;
  /** The domain's memory, as the thread has it. */
  readonly mapping: Mapping;
  /** The memory file, which is written. */
  readonly descriptor: number;
}

/** @throws SnapshotError damaged-snapshot where the file ends too early; the system's error */
function readWhole(file: number, path: string, position: number, length: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let done = 0; done < length; ) {
    const count = readSync(file, bytes, done, length - done, position + done);
    if (count === 0) throw damaged(path, "it is cut off");
    done += count;
  }
  return bytes;
}

export class DemandLoader {
  private readonly path: string;
  private readonly file: number;
  private readonly descriptor: number;
  private readonly codec: Codec;
  private readonly arrivals: Arrivals;
  private readonly chunks: ReadonlyMap<number, Chunk>;

  private constructor(options: DemandLoaderOptions, file: number, codec: Codec, chunks: readonly Chunk[]) {
    this.path = options.name ?? options.path;
    this.file = file;
    this.descriptor = options.descriptor;
    this.codec = codec;
    this.arrivals = new Arrivals(options.mapping);
    this.chunks = new Map(chunks.map((chunk) => [chunk.window, chunk]));
  }

  /** Opens the file once more. @throws SnapshotError as openSnapshot() */
  static async open(options: DemandLoaderOptions): Promise<DemandLoader> {
    const path = options.name ?? options.path;
    try {
      const file = openSync(options.path, "r");
      try {
        const first = readWhole(file, path, 0, PREAMBLE_BYTES);
        const preamble = decodePreamble(first, fstatSync(file).size, path);
        const table = readWhole(file, path, preamble.tableAt, preamble.entries * ENTRY_BYTES);
        const chunks = decodeTable(table, preamble, path);
        return new DemandLoader(options, file, await codecFor(preamble, path), chunks);
      } catch (error) {
        closeSync(file);
        throw error;
      }
    } catch (error) {
      throw readFailure(error, path);
    }
  }

  /**
   * Has the window of a file offset loaded: by this thread unless somebody else is at it.
   * @throws SnapshotError when the file is not what it was when it was verified, for this thread or for the other loader
   */
  fetch(offset: number): void {
    const window = windowOf(offset);
    if (this.arrivals.isPresent(window)) return;
    if (this.arrivals.claim(window)) this.load(window);
    else if (!this.arrivals.wait(window, () => true)) throw damaged(this.path, "its pages could not be loaded");
  }

  private load(window: number): void {
    const chunk = this.chunks.get(window);
    if (chunk === undefined) throw new Error(`window ${window} is expected but not stored`);
    try {
      this.place(chunk);
    } catch (error) {
      throw readFailure(error, this.path);
    }
    this.arrivals.settle(window);
  }

  private place(chunk: Chunk): void {
    const stored = readWhole(this.file, this.path, chunk.at, chunk.stored);
    checkChunk(chunk, stored, this.path);
    const whole = chunk.raw ? stored : this.codec.decompressSync(stored, pageCount(chunk.pages) * PAGE_SIZE);
    if (whole === undefined) throw damagedChunk(chunk, this.path);
    for (const { at, bytes } of placementsOf(chunk, whole)) {
      for (let done = 0; done < bytes.length; ) {
        done += writeSync(this.descriptor, bytes, done, bytes.length - done, at + done);
      }
    }
  }

  /** Closes the file: everything is there. */
  close(): void {
    closeSync(this.file);
  }
}
