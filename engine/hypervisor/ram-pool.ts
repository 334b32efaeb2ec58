import { PAGE_SIZE } from "../abi/xen.ts";
import { markWritten } from "../memory/dirty-log.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import { type FileOffset, fileOffset } from "../memory/types.ts";
import { FRAME_ALLOCATED, FRAME_FREE, isMarked, markFrame, replaceMark, unmarkFrame } from "./grant-pins.ts";

/**
 * The RAM frames of a domain that no guest frame maps: what a balloon driver gave back. Each is marked in shared memory too,
 * because another domain may take one: to put a page there that it transfers.
 */
export class RamPool {
  readonly frames: number;
  private readonly mapping: Mapping;
  /** Where to look first: frames given back. Others may have taken some since, and put them back. */
  private readonly free = new Set<number>();

  constructor(mapping: Mapping, frames: number) {
    this.mapping = mapping;
    this.frames = frames;
  }

  /** Frames the guest owns now. */
  get used(): number {
    let used = 0;
    for (let frame = 0; frame < this.frames; frame++) if (!isMarked(this.mapping, frame, FRAME_FREE)) used++;
    return used;
  }

  /** True if a file offset is RAM rather than a special frame or another domain's page. */
  isRam(offset: FileOffset): boolean {
    return offset < this.frames * PAGE_SIZE;
  }

  /** Takes a zeroed frame, the one that started at `preferred` if that is free; undefined when none is left. */
  take(preferred: number): FileOffset | undefined {
    if (this.free.delete(preferred) && unmarkFrame(this.mapping, preferred, FRAME_FREE)) {
      return fileOffset(preferred * PAGE_SIZE);
    }
    for (const frame of this.free) {
      this.free.delete(frame);
      if (unmarkFrame(this.mapping, frame, FRAME_FREE)) return fileOffset(frame * PAGE_SIZE);
    }
    return takeFreeFrame(this.mapping);
  }

  /** Adds a zeroed frame that no guest frame maps. */
  add(frame: number): void {
    if (markFrame(this.mapping, frame, FRAME_FREE)) this.free.add(frame);
  }

  /** Keeps a frame that is out of the physmap from being mapped by grants; false if it is mapped. Until unhold(). */
  hold(offset: FileOffset): boolean {
    return markFrame(this.mapping, offset / PAGE_SIZE, FRAME_ALLOCATED);
  }

  unhold(offset: FileOffset): void {
    unmarkFrame(this.mapping, offset / PAGE_SIZE, FRAME_ALLOCATED);
  }

  /**
   * Gives a frame back to the host: its memory is released and reads as zero when it is taken again. The frame must be out
   * of the physmap. False for a frame that another domain has mapped: it stays in use.
   */
  release(offset: FileOffset): boolean {
    if (!this.hold(offset)) return false;
    this.releaseHeld(offset);
    return true;
  }

  /** The same for a frame that hold() keeps. */
  releaseHeld(offset: FileOffset): void {
    const frame = offset / PAGE_SIZE;
    this.mapping.discard(offset, PAGE_SIZE);
    markWritten(this.mapping, offset, PAGE_SIZE);
    // Free only now that it is zero: from here on another domain may put a page there.
    replaceMark(this.mapping, frame, FRAME_ALLOCATED, FRAME_FREE);
    this.free.add(frame);
  }
}

/**
 * Takes a frame from the pool of another domain, whose memory is `mapping`; undefined when none is to be had.
 * @param preferred taken if it is free
 */
export function takeFreeFrame(mapping: Mapping, preferred = -1): FileOffset | undefined {
  const isFrame = preferred >= 0 && preferred < mapping.plan.ramBytes / PAGE_SIZE;
  if (isFrame && unmarkFrame(mapping, preferred, FRAME_FREE)) return fileOffset(preferred * PAGE_SIZE);
  for (let frame = 0; frame < mapping.plan.ramBytes / PAGE_SIZE; frame++) {
    if (isMarked(mapping, frame, FRAME_FREE) && unmarkFrame(mapping, frame, FRAME_FREE)) {
      return fileOffset(frame * PAGE_SIZE);
    }
  }
  return undefined;
}

/** Puts a zero frame back that takeFreeFrame took. */
export function returnFreeFrame(mapping: Mapping, offset: FileOffset): void {
  replaceMark(mapping, offset / PAGE_SIZE, 0, FRAME_FREE);
}
