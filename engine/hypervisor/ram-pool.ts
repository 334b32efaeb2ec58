import { PAGE_SIZE } from "../abi/xen.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import { type FileOffset, fileOffset } from "../memory/types.ts";

/** The RAM frames of a domain that no guest frame maps: what a balloon driver gave back. */
export class RamPool {
  readonly frames: number;
  private readonly mapping: Mapping;
  private readonly free = new Set<number>();

  constructor(mapping: Mapping, frames: number) {
    this.mapping = mapping;
    this.frames = frames;
  }

  /** Frames the guest owns now. */
  get used(): number {
    return this.frames - this.free.size;
  }

  /** True if a file offset is RAM rather than a special frame. */
  isRam(offset: FileOffset): boolean {
    return offset < this.frames * PAGE_SIZE;
  }

  /** Takes a zeroed frame, the one that started at `preferred` if that is free; undefined when none is left. */
  take(preferred: number): FileOffset | undefined {
    const frame = this.free.has(preferred) ? preferred : this.free.values().next().value;
    if (frame === undefined) return undefined;
    this.free.delete(frame);
    return fileOffset(frame * PAGE_SIZE);
  }

  /** Gives a frame back to the host: its memory is released and reads as zero when it is taken again. */
  release(offset: FileOffset): void {
    this.free.add(offset / PAGE_SIZE);
    this.mapping.discard(offset, PAGE_SIZE);
  }
}
