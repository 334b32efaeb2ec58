/**
 * Copying a running guest's memory so that it stands still for milliseconds only: what is touched is copied while the guest
 * runs, then, with its vCPU and its backends stopped, what has been written since (memory/dirty-log.ts). The copy, the shadow,
 * is a file in memory with the same places; from it the snapshot is written while the guest goes on.
 *
 *     prepare() → the vCPU flushes its TLB → precopy()     may be repeated, each time for what was written meanwhile
 *     the guest and its backends stop → finish() → the guest goes on → write() → close()
 *
 * For a thread of the guest's process other than the vCPU's. The copies of precopy() are made by Node's pool of threads.
 */
import { PAGE_SIZE } from "../abi/xen.ts";
import { DirtyLog } from "../memory/dirty-log.ts";
import type { FramePlan } from "../memory/frame-plan.ts";
import type { GuestMemory, Mapping } from "../memory/guest-memory.ts";
import { type Extent, type Posix, posix, type SharedFile } from "../memory/posix.ts";
import { SnapshotError, throwIfCancelled } from "./errors.ts";
import { guestBytesOf } from "./file-format.ts";
import { type WriteOptions, type WrittenSnapshot, writeSnapshot } from "./file-writer.ts";

/** Bytes copied in the background at a time: between two, the copy can be cancelled. */
const STEP_BYTES = 4 << 20;
/** Bytes compared at a time. */
const COMPARE_BYTES = 64 * PAGE_SIZE;

export interface PrecopyOptions {
  readonly signal?: AbortSignal | undefined;
  /** Called now and then with bytes copied, of all that are to be in this round. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

/** A copy of pages. */
export interface CopyResult {
  readonly bytes: number;
  /** Milliseconds it took. */
  readonly milliseconds: number;
}

/** What the next precopy() copies: all that is touched, or the frames written during the round before. */
type Pending = "touched" | Uint32Array;

/** Frames as extents of the file. */
function extentsOf(frames: Uint32Array): Extent[] {
  const extents: { start: number; end: number }[] = [];
  for (const frame of frames) {
    const start = frame * PAGE_SIZE;
    const last = extents.at(-1);
    if (last?.end === start) last.end += PAGE_SIZE;
    else extents.push({ start, end: start + PAGE_SIZE });
  }
  return extents;
}

function total(extents: readonly Extent[]): number {
  return extents.reduce((sum, { start, end }) => sum + end - start, 0);
}

export class MemoryCapture {
  private readonly plan: FramePlan;
  private readonly log: DirtyLog;
  private readonly system: Posix;
  /** The domain's own memory file. */
  private readonly descriptor: number;
  private readonly shadow: SharedFile;
  private readonly guestBytes: number;
  /** Native addresses of file offset 0 in the guest's memory and in the shadow. */
  private readonly live: bigint;
  private readonly copy: bigint;
  private pending: Pending | undefined;
  private rounds = 0;
  private finished = false;
  private closed = false;
  /** Work on other threads that uses the shadow. */
  private underWay = 0;
  private freed = false;

  /**
   * @param memory the domain's memory, of kind "mapped"
   * @param mapping a mapping of it in this process, which must stay
   * @throws SnapshotError unsupported-host for the other kind; SystemCallError when there is no memory for the shadow
   */
  constructor(memory: GuestMemory, mapping: Mapping) {
    if (memory.token.kind !== "mapped") {
      const what = "the memory of a running machine cannot be captured on this host";
      throw new SnapshotError("unsupported-host", what, "shut the machine down and take the snapshot then");
    }
    this.plan = memory.plan;
    this.guestBytes = guestBytesOf(memory.plan);
    this.descriptor = memory.token.descriptor;
    this.log = new DirtyLog(mapping);
    this.system = posix();
    this.live = mapping.nativeAddress + BigInt(mapping.base);
    this.shadow = this.system.createFile(this.guestBytes);
    this.copy = this.system.map(this.guestBytes, this.shadow.descriptor);
  }

  /**
   * Begins a round: forgets what was written until now, after noting it for precopy(). Then the vCPU must flush its TLB, on its
   * thread, before precopy() is called.
   * @returns bytes written during the round before; 0 for the first, which copies all that is touched
   */
  prepare(): number {
    if (this.pending !== undefined || this.finished) throw new Error("the round before was not copied");
    const written = this.log.take();
    this.pending = this.rounds === 0 ? "touched" : written;
    this.rounds++;
    return this.pending === "touched" ? 0 : written.length * PAGE_SIZE;
  }

  /** Copies what the round is about, while the guest runs. @throws SnapshotError cancelled: then nothing but close() is left */
  async precopy(options: PrecopyOptions = {}): Promise<CopyResult> {
    if (this.pending === undefined) throw new Error("no round was prepared");
    const start = performance.now();
    // Looked for only now: a page may have been touched without a mark until the vCPU flushed its TLB.
    const extents = this.pending === "touched" ? this.touched() : extentsOf(this.pending);
    const bytes = total(extents);
    await this.using(() => this.copyAll(extents, bytes, options));
    this.pending = undefined;
    return { bytes, milliseconds: performance.now() - start };
  }

  private async copyAll(extents: readonly Extent[], bytes: number, options: PrecopyOptions): Promise<void> {
    const { signal, onProgress } = options;
    let done = 0;
    for (const extent of extents) {
      for (let at = extent.start; at < extent.end; at += STEP_BYTES) {
        throwIfCancelled(signal);
        if (this.closed) throw new Error("the capture was closed");
        const length = Math.min(STEP_BYTES, extent.end - at);
        const [to, from] = [this.copy + BigInt(at), this.live + BigInt(at)];
        // A hop to another thread costs more than a few pages do.
        if (length < STEP_BYTES / 64) this.system.copy(to, from, length);
        else await this.system.copyInBackground(to, from, length);
        done += length;
        onProgress?.(done, bytes);
      }
    }
  }

  /** Keeps the shadow until `work` has ended. */
  private async using<T>(work: () => Promise<T>): Promise<T> {
    this.underWay++;
    try {
      return await work();
    } finally {
      this.underWay--;
      this.free();
    }
  }

  private touched(): Extent[] {
    return this.system.dataExtents(this.descriptor, 0, this.guestBytes);
  }

  /**
   * With the vCPU and every backend stopped: copies what has been written since the last round, and the special frames. Without
   * any round before: all that is touched. Afterwards the guest may go on.
   */
  finish(): CopyResult {
    if (this.pending !== undefined || this.finished) throw new Error("a round is under way, or all is done");
    const start = performance.now();
    const extents = this.rounds === 0 ? this.touched() : extentsOf(this.log.written());
    for (const { start: at, end } of extents) this.copyNow(at, end);
    const { ramBytes } = this.plan;
    if (this.rounds > 0) this.copyNow(ramBytes, this.guestBytes);
    this.finished = true;
    const bytes = total(extents) + (this.rounds > 0 ? this.guestBytes - ramBytes : 0);
    return { bytes, milliseconds: performance.now() - start };
  }

  private copyNow(start: number, end: number): void {
    this.system.copy(this.copy + BigInt(start), this.live + BigInt(start), end - start);
  }

  /**
   * For tests, after finish() and before the guest goes on: file offsets of the pages in which the shadow differs from the
   * memory, which there should be none of.
   */
  verify(): number[] {
    const different: number[] = [];
    const shadow = this.system.dataExtents(this.shadow.descriptor, 0, this.guestBytes);
    for (const { start, end } of [...this.touched(), ...shadow]) {
      for (let at = start; at < end; at += COMPARE_BYTES)
        this.compare(at, Math.min(end, at + COMPARE_BYTES), different);
    }
    return [...new Set(different)];
  }

  private compare(start: number, end: number, different: number[]): void {
    if (this.isEqual(start, end)) return;
    for (let at = start; at < end; at += PAGE_SIZE) if (!this.isEqual(at, at + PAGE_SIZE)) different.push(at);
  }

  private isEqual(start: number, end: number): boolean {
    return this.system.equal(this.copy + BigInt(start), this.live + BigInt(start), end - start);
  }

  /**
   * Writes the copy to a snapshot file, then lets go of it, whatever comes.
   * @param header the state that goes with the memory: anything that JSON can hold
   * @throws SnapshotError as writeSnapshot()
   */
  async write(path: string, header: unknown, options: WriteOptions = {}): Promise<WrittenSnapshot> {
    if (!this.finished || this.closed) throw new Error("there is no finished copy to write");
    try {
      return await this.using(() => writeSnapshot(path, this.shadow.descriptor, this.plan, header, options));
    } finally {
      this.close();
    }
  }

  /**
   * Gives the copy's memory back, at the latest when what is under way has ended. All that a capture needs which is given up.
   */
  close(): void {
    this.closed = true;
    this.finished = true;
    this.free();
  }

  private free(): void {
    if (!this.closed || this.freed || this.underWay > 0) return;
    this.freed = true;
    this.system.unmap(this.copy, this.guestBytes);
    this.shadow.close();
  }
}
