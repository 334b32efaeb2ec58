/**
 * Which pages of a domain have been written: a byte a page of its vCPU's linear memory, in the shared file (plan.dirtyFlags).
 *
 * Set by whoever writes: the CPU core where it lets a page be written (assembly/mmu.ts: no TLB entry permits writes while the
 * byte is 0), and others with markWritten(). Cleared by a snapshot's capture alone, so outside of snapshots every byte is
 * set once and stays; keeping the log costs nothing then.
 *
 * The order by which no write is lost:
 * 1. clear the bytes (DirtyLog.take);
 * 2. the vCPU flushes its TLB, on its own thread: entries from before would let it write without a mark;
 * 3. copy the pages. What was written between 1 and 2 without a mark is in the copy; what is written after 2 sets its mark.
 * Who writes by a grant writes first, marks then, unpins last: a page is either still pinned, and then counts as dirty, or
 * marked after its last write.
 *
 * Never marked, always to be taken for written: the special frames behind RAM, and the vcpu_info pages, into which every
 * sender of an event writes.
 */
import { PAGE_SHIFT, PAGE_SIZE } from "../abi/xen.ts";
import { CONTROL_PHYSMAP_BASE, CONTROL_VCPUS, VCPU_INFO_OFFSET, vcpuControl } from "./frame-plan.ts";
import type { Mapping } from "./guest-memory.ts";

/** Mappings in a frame's pin word (hypervisor/grant-pins.ts keeps its marks above). */
const PIN_COUNT = (1 << 30) - 1;

/** Index into `bytes` of the dirty byte of the page at file offset 0; those of the following pages follow. */
function firstFlag({ words, base, plan }: Mapping): number {
  const linear = Atomics.load(words, (base + plan.control + CONTROL_PHYSMAP_BASE) >>> 2) >>> 0;
  return base + plan.dirtyFlags + (linear >>> PAGE_SHIFT);
}

/** After `length` bytes at file offset `offset` of a domain's RAM were written past its vCPU. */
export function markWritten(mapping: Mapping, offset: number, length: number): void {
  if (length <= 0 || offset >= mapping.plan.ramBytes) return;
  const first = firstFlag(mapping);
  mapping.bytes.fill(1, first + (offset >>> PAGE_SHIFT), first + ((offset + length - 1) >>> PAGE_SHIFT) + 1);
}

/** A domain's dirty bytes for who marks a page at a time in a fast path: where they lie is worked out once. */
export class DirtyMarker {
  private readonly words: Int32Array<SharedArrayBuffer>;
  private readonly bytes: Uint8Array<SharedArrayBuffer>;
  private readonly flags: number;
  private readonly linear: number;

  constructor({ words, bytes, base, plan }: Mapping) {
    this.words = words;
    this.bytes = bytes;
    this.flags = base + plan.dirtyFlags;
    this.linear = (base + plan.control + CONTROL_PHYSMAP_BASE) >>> 2;
  }

  /** Marks a page of RAM. A plain store: the caller's next atomic operation makes it seen. */
  mark(frame: number): void {
    // Read anew each time: a domain whose vCPU has not started has not said yet.
    this.bytes[this.flags + (this.words[this.linear]! >>> PAGE_SHIFT) + frame] = 1;
  }
}

/** The reader's side: the thread that captures a domain's memory. */
export class DirtyLog {
  private readonly mapping: Mapping;
  private readonly frames: number;

  constructor(mapping: Mapping) {
    this.mapping = mapping;
    this.frames = mapping.plan.ramBytes / PAGE_SIZE;
  }

  /** Frames marked since the last take(), and begins anew: the vCPU must flush its TLB before they are copied. */
  take(): Uint32Array {
    const taken = this.marked();
    const first = firstFlag(this.mapping);
    const { bytes, words, base, plan } = this.mapping;
    for (const frame of taken) bytes[first + frame] = 0;
    // A full fence: the copies that follow must not read earlier than the bytes are 0 for everybody.
    Atomics.add(words, (base + plan.control + CONTROL_PHYSMAP_BASE) >>> 2, 0);
    return taken;
  }

  /** Frames marked since the last take(), ascending. */
  marked(): Uint32Array {
    return this.collect((frame, bytes, first) => bytes[first + frame] !== 0);
  }

  /** The same with those that may be written without a mark: mapped by other domains, or holding a vcpu_info. */
  written(): Uint32Array {
    const { words, base, plan } = this.mapping;
    const pins = (base + plan.framePins) >>> 2;
    const infos = this.vcpuInfoFrames();
    // The pins before the byte: who unpins a page has marked it before.
    return this.collect(
      (frame, bytes, first) =>
        (words[pins + frame]! & PIN_COUNT) !== 0 || bytes[first + frame] !== 0 || infos.has(frame),
    );
  }

  private collect(picks: (frame: number, bytes: Uint8Array<SharedArrayBuffer>, first: number) => boolean): Uint32Array {
    const { bytes } = this.mapping;
    const first = firstFlag(this.mapping);
    const found = new Uint32Array(this.frames);
    let count = 0;
    for (let frame = 0; frame < this.frames; frame++) if (picks(frame, bytes, first)) found[count++] = frame;
    return found.slice(0, count);
  }

  private vcpuInfoFrames(): Set<number> {
    const { words, base, plan } = this.mapping;
    const vcpus = Atomics.load(words, (base + plan.control + CONTROL_VCPUS) >>> 2);
    const frames = new Set<number>();
    for (let vcpu = 0; vcpu < vcpus; vcpu++) {
      frames.add(Atomics.load(words, (base + vcpuControl(plan, vcpu) + VCPU_INFO_OFFSET) >>> 2) >>> PAGE_SHIFT);
    }
    return frames;
  }
}
