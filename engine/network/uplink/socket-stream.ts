/**
 * Frames over a stream: each with its length before it, four bytes big-endian, as QEMU's `-netdev stream` and
 * `-netdev socket` speak, and passt. Without a virtio-net header: what goes out is ready for a wire.
 */
import type { Duplex } from "node:stream";
import { FRAME_MOST, Frame } from "../../device/net/frame.ts";
import { Headers } from "../headers.ts";
import { segmentTcp } from "../offload.ts";

const PREFIX = 4;
const SHORTEST = 14;
/** QEMU's NET_BUFSIZE: what is longer than this is no length but the middle of something. */
const LONGEST_CLAIM = 4096 + 65_536;
const SLAB = 64 * 1024;
/** Bytes that may wait for the other side. */
export const QUEUE_DEFAULT = 1 << 20;

/** What a decoder found besides frames; its owner's counters. */
export interface StreamFaults {
  /** Frames that were skipped: shorter than an Ethernet header, or longer than any frame here. */
  short: number;
  long: number;
}

/** Takes a stream apart. The peer is anybody: a length that cannot be ends it. */
export class FrameDecoder {
  private readonly faults: StreamFaults;
  private readonly frame = new Frame(FRAME_MOST);
  private readonly prefix = new Uint8Array(PREFIX);
  private inPrefix = 0;
  /** Length of the frame that is being read, and how much of it is there. */
  private claimed = 0;
  private read = 0;

  constructor(faults: StreamFaults) {
    this.faults = faults;
  }

  /**
   * Calls `take` for each frame that is complete; it is lent.
   * @returns false: the stream makes no sense any more
   */
  push(chunk: Uint8Array, take: (frame: Frame) => void): boolean {
    let at = 0;
    while (at < chunk.length) {
      if (this.inPrefix < PREFIX) {
        this.prefix[this.inPrefix++] = chunk[at++] ?? 0;
        if (this.inPrefix < PREFIX) continue;
        this.claimed = new DataView(this.prefix.buffer).getUint32(0);
        this.read = 0;
        if (this.claimed > LONGEST_CLAIM) return false;
      } else {
        const count = Math.min(this.claimed - this.read, chunk.length - at);
        if (this.claimed <= FRAME_MOST) this.frame.head.set(chunk.subarray(at, at + count), this.read);
        this.read += count;
        at += count;
      }
      if (this.read === this.claimed) this.complete(take);
    }
    return true;
  }

  private complete(take: (frame: Frame) => void): void {
    this.inPrefix = 0;
    if (this.claimed < SHORTEST) this.faults.short++;
    else if (this.claimed > FRAME_MOST) this.faults.long++;
    else {
      this.frame.reset(this.claimed);
      this.frame.headLength = this.claimed;
      take(this.frame);
    }
  }
}

export interface FrameStreamEvents {
  /** A frame came; it is lent. */
  frame(frame: Frame): void;
  /** All frames of a chunk came. */
  batchEnd(): void;
  /** The stream is over: the other side's doing, or an error's. Not called after close(). */
  ended(reason: string): void;
}

/** A connected stream with frames on it, both ways. */
export class FrameStream {
  private readonly stream: Duplex;
  private readonly most: number;
  private readonly decoder: FrameDecoder;
  private readonly headers = new Headers();
  private slab: Uint8Array = new Uint8Array(0);
  /** What of the slab is filled, and what of that has been written. */
  private used = 0;
  private written = 0;
  private scheduled = false;
  private over = false;

  /** @param most bytes that may wait in us for a slow peer */
  constructor(stream: Duplex, events: FrameStreamEvents, faults: StreamFaults, most = QUEUE_DEFAULT) {
    this.stream = stream;
    this.most = most;
    this.decoder = new FrameDecoder(faults);
    const end = (reason: string): void => {
      if (this.over) return;
      this.close();
      events.ended(reason);
    };
    const take = (frame: Frame): void => {
      if (!this.over) events.frame(frame);
    };
    stream.on("data", (chunk: Uint8Array) => {
      if (this.over) return;
      const sane = this.decoder.push(chunk, take);
      events.batchEnd();
      if (!sane) end("the other side does not speak in frames with a length of four bytes before each");
    });
    stream.on("error", (error) => end(error.message));
    stream.on("end", () => end("the other side has closed it"));
    stream.on("close", () => end("the other side has closed it"));
  }

  /**
   * Queues a frame, cut into segments and with its checksum finished where that is still to be done.
   * @returns false: there is no room for it, or it makes no sense
   */
  write(frame: Frame): boolean {
    if (this.over || this.stream.writableLength + this.used - this.written + frame.length > this.most) return false;
    if (frame.segmentation === "none" && frame.checksum !== "blank") {
      this.append(frame);
      return true;
    }
    this.headers.parse(frame);
    const ready = segmentTcp(frame, this.headers);
    for (const one of ready) this.append(one);
    return ready.length > 0;
  }

  /** Hands what is queued to the stream. */
  flush(): void {
    if (this.over || this.written === this.used) return;
    this.stream.write(this.slab.subarray(this.written, this.used));
    this.written = this.used;
  }

  /** Ends it without a word. */
  close(): void {
    if (this.over) return;
    this.over = true;
    this.stream.destroy();
  }

  private append(frame: Frame): void {
    const length = PREFIX + frame.length;
    if (this.used + length > this.slab.length) {
      this.flush();
      // A new one: the stream still refers to what was written of the old.
      this.slab = new Uint8Array(Math.max(SLAB, length));
      this.used = 0;
      this.written = 0;
    }
    new DataView(this.slab.buffer).setUint32(this.used, frame.length);
    frame.copyTo(this.slab, this.used + PREFIX);
    this.used += length;
    if (this.scheduled) return;
    // In case that nobody calls flush().
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      this.flush();
    });
  }
}
