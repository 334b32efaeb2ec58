/**
 * Loading a restored guest's memory while the guest runs already. Its own thread takes what it needs before it is here (demand-
 * loader.ts); other domains wait for it, and say so (Arrivals).
 *
 *     begin() → loadNow() → serveWishes() → loadRest() ‖ the guest runs, once the file is verified
 */
import { setTimeout as delay } from "node:timers/promises";
import { Arrivals } from "../memory/arrival.ts";
import { WINDOW_BYTES } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import type { Chunk } from "./file-format.ts";
import { type ChunkVisitor, type LoadOptions, place, type SnapshotFile } from "./file-reader.ts";

/** Groups of chunks under way at a time: the guest, which runs meanwhile, needs processors too. */
const DEPTH = 2;
/** How often serveWishes() looks for one, ms. */
const LOOK_MS = 1;

export class BackgroundLoader {
  private readonly file: SnapshotFile;
  private readonly arrivals: Arrivals;
  private readonly chunks: ReadonlyMap<number, Chunk>;
  private readonly visitor: ChunkVisitor;

  /**
   * @param mapping of the memory of a domain that nobody knows yet, all zero, of the size of the file's
   * @param descriptor its memory file; both must stay until all that was begun has ended
   */
  constructor(file: SnapshotFile, mapping: Mapping, descriptor: number) {
    const arrivals = new Arrivals(mapping);
    const chunks = new Map(file.chunks.map((chunk) => [chunk.window, chunk]));
    this.file = file;
    this.arrivals = arrivals;
    this.chunks = chunks;
    this.visitor = {
      wants: ({ window }) => arrivals.claim(window),
      wish: () => {
        const window = arrivals.takeWanted();
        return window === undefined ? undefined : chunks.get(window);
      },
      async take(chunk, bytes) {
        await place(descriptor, chunk, bytes);
        arrivals.settle(chunk.window);
      },
    };
  }

  /** Says of every window whether it will come. */
  begin(): void {
    for (const window of this.chunks.keys()) this.arrivals.expect(window);
  }

  /** Loads the windows of two file offsets and between. Before the others. @throws as SnapshotFile.loadInto() */
  async loadNow(start: number, end: number): Promise<void> {
    for (let window = Math.floor(start / WINDOW_BYTES); window * WINDOW_BYTES < end; window++) {
      const chunk = this.chunks.get(window);
      if (chunk !== undefined) await this.file.visitOne(chunk, this.visitor);
    }
  }

  /**
   * Loads only what others than the guest's own thread wait for, so that a guest that has just come back has the processors.
   * @param until when this ends
   * @throws as loadNow()
   */
  async serveWishes(until: AbortSignal): Promise<void> {
    while (!until.aborted) {
      const window = this.arrivals.takeWanted();
      const chunk = window === undefined ? undefined : this.chunks.get(window);
      if (chunk !== undefined) await this.file.visitOne(chunk, this.visitor);
      else await delay(LOOK_MS);
    }
  }

  /** Loads whatever nobody has loaded. Windows that the guest's thread is at may come a moment later. @throws as loadNow() */
  async loadRest(options: LoadOptions = {}): Promise<void> {
    await this.file.visit(this.visitor, { ...options, depth: DEPTH });
  }
}
