/**
 * A running capture: frames that pass by become the blocks of a pcapng file.
 *
 * Whoever moves frames never waits for it. Blocks go into one half of a bounded buffer while the other half is being
 * written; a frame that finds no room is dropped and counted, and the file's end says how many those were. What has been
 * written is a valid file at every moment, so it can be looked at live.
 *
 * Frames are captured as they are: a frame with segmentation still to be done is one long frame, and a blank checksum is
 * in the file as the sender's partial sum.
 */
import { FRAME_MOST, type Frame } from "../../device/net/frame.ts";
import { Headers } from "../headers.ts";
import type { Clock, FrameTap, PortFacts } from "../types.ts";
import type { CaptureFilter } from "./filter.ts";
import {
  type InterfaceStatistics,
  interfaceDescription,
  interfaceStatistics,
  PacketFlags,
  packetBlockBytes,
  sectionHeader,
  type Timestamp,
  writePacketBlock,
} from "./pcapng.ts";

/** Snap length that leaves no frame out. */
export const SNAP_MOST = FRAME_MOST;
export const BUFFER_DEFAULT = 4 << 20;
/** A half must have room for the longest frame and for what describes its interface. */
export const BUFFER_LEAST = 4 * (FRAME_MOST + 1024);

/** Where the file's bytes go. */
export interface CaptureSink {
  /** Writes all of `bytes`. They are the caller's again when the promise is fulfilled. Rejects when nothing more can be written. */
  write(bytes: Uint8Array): Promise<void>;
  /** Called once, after the last write has ended. */
  close(): Promise<void>;
}

export interface CaptureOptions {
  readonly sink: CaptureSink;
  /** Gives the frames' times. */
  readonly clock: Clock;
  readonly filter?: CaptureFilter;
  /** Most bytes of a frame that are kept, 1 to SNAP_MOST (default). */
  readonly snapLength?: number;
  /** Bytes of memory for what is not written yet: BUFFER_LEAST or more, BUFFER_DEFAULT unless told. */
  readonly bufferBytes?: number;
  /** The capture ends by itself after so many frames. */
  readonly frameLimit?: number;
  /** Frames of one direction only: "in" is from an interface into the switch. */
  readonly direction?: "in" | "out";
  /** The program that the file names. */
  readonly application?: string;
  /** Nanoseconds since 1970 that the clock's zero stands for; without it, what the host's clock says now. */
  readonly epoch?: bigint;
}

/** How a capture has ended. */
export interface CaptureEnd {
  /** "closed" by its owner, "complete" when the frame limit was reached, "failed" when the sink was. */
  readonly reason: "closed" | "complete" | "failed";
  readonly error?: Error;
}

class CapturedInterface implements InterfaceStatistics {
  readonly name: string;
  /** Its number in the file, -1 while its description is not written. */
  number = -1;
  received = 0;
  accepted = 0;
  captured = 0;
  dropped = 0;

  constructor(name: string) {
    this.name = name;
  }
}

/** One half of the buffer. */
interface Half {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  used: number;
}

function half(length: number): Half {
  const bytes = new Uint8Array(length);
  return { bytes, view: new DataView(bytes.buffer), used: 0 };
}

export class Capture {
  /** To be given to ports and switches: sees a frame, keeps nothing of it. Does nothing once the capture has ended. */
  readonly tap: FrameTap = (frame, port, direction) => this.see(frame, port, direction);
  /** Fulfilled when the last byte is written, or nothing more can be. Never rejects. */
  readonly ended: Promise<CaptureEnd>;
  private readonly options: CaptureOptions;
  private readonly snapLength: number;
  private readonly headers = new Headers();
  private readonly interfaces = new Map<string, CapturedInterface>();
  private described = 0;
  private captured = 0;
  private missed = 0;
  private filling: Half;
  private draining: Half;
  private writing: Promise<void> | undefined;
  private scheduled = false;
  private open = true;
  private failure: Error | undefined;
  private readonly epochHigh: number;
  private readonly epochLow: number;
  private readonly began: Timestamp;
  private readonly time: Timestamp = { high: 0, low: 0 };
  private end: (end: CaptureEnd) => void = () => {};

  /** @throws RangeError for lengths out of their bounds (the command line has checked them) */
  constructor(options: CaptureOptions) {
    const { snapLength = SNAP_MOST, bufferBytes = BUFFER_DEFAULT } = options;
    if (!Number.isInteger(snapLength) || snapLength < 1 || snapLength > SNAP_MOST)
      throw new RangeError(`capture: snap length ${snapLength}`);
    if (!Number.isInteger(bufferBytes) || bufferBytes < BUFFER_LEAST)
      throw new RangeError(`capture: buffer of ${bufferBytes} bytes`);
    this.options = options;
    this.snapLength = snapLength;
    this.filling = half(bufferBytes >> 1);
    this.draining = half(bufferBytes >> 1);
    const epoch = options.epoch ?? BigInt(Date.now()) * 1_000_000n - BigInt(Math.floor(options.clock.now()));
    this.epochHigh = Number(epoch >> 32n);
    this.epochLow = Number(epoch & 0xffff_ffffn);
    this.began = this.stamp({ high: 0, low: 0 });
    this.ended = new Promise((resolve) => {
      this.end = resolve;
    });
    this.append(sectionHeader(options.application ?? "Domlab"));
  }

  /** Names an interface that nothing may have been heard of yet, so that it is in the file in any case. */
  addInterface(name: string): void {
    this.describe(this.known(name));
  }

  /** Frames so far, by interface, in the order in which they were first heard of. */
  statistics(): { name: string; received: number; accepted: number; captured: number; dropped: number }[] {
    return [...this.interfaces.values()].map(({ name, received, accepted, captured, dropped }) => {
      return { name, received, accepted, captured, dropped };
    });
  }

  /** Frames of all interfaces that should be in the file and are not. */
  get dropped(): number {
    return this.missed;
  }

  /** Ends the capture: what is in the buffer, then the statistics. Fulfilled like `ended`; may be called twice. */
  close(): Promise<CaptureEnd> {
    void this.finish("closed");
    return this.ended;
  }

  private see(frame: Frame, port: PortFacts, direction: "in" | "out"): void {
    if (!this.open) return;
    const { filter, frameLimit } = this.options;
    if (this.options.direction !== undefined && direction !== this.options.direction) return;
    const facts = this.known(port.name);
    facts.received++;
    if (filter !== undefined) {
      // A malformed frame is matched by as much of it as makes sense: whoever looks for the fault wants to see it.
      this.headers.parse(frame);
      if (!filter.matches(frame, this.headers)) return;
    }
    facts.accepted++;
    if (!this.keep(frame, facts, direction)) {
      facts.dropped++;
      this.missed++;
      return;
    }
    facts.captured++;
    if (++this.captured === frameLimit) void this.finish("complete");
  }

  private keep(frame: Frame, facts: CapturedInterface, direction: "in" | "out"): boolean {
    if (!this.describe(facts)) return false;
    const captured = Math.min(frame.length, this.snapLength);
    if (!this.room(packetBlockBytes(captured))) return false;
    const { bytes, view, used } = this.filling;
    const flags = direction === "in" ? PacketFlags.inbound : PacketFlags.outbound;
    const time = this.stamp(this.time);
    this.filling.used = writePacketBlock(bytes, view, used, facts.number, time, frame, captured, flags);
    this.schedule();
    return true;
  }

  private known(name: string): CapturedInterface {
    let facts = this.interfaces.get(name);
    if (facts === undefined) {
      facts = new CapturedInterface(name);
      this.interfaces.set(name, facts);
    }
    return facts;
  }

  /** Writes the description of an interface once. False: there is no room for it at the moment. */
  private describe(facts: CapturedInterface): boolean {
    if (facts.number >= 0) return true;
    if (!this.append(interfaceDescription(facts.name, this.snapLength, this.options.filter?.text))) return false;
    facts.number = this.described++;
    return true;
  }

  private append(block: Uint8Array): boolean {
    if (!this.room(block.length)) return false;
    this.filling.bytes.set(block, this.filling.used);
    this.filling.used += block.length;
    this.schedule();
    return true;
  }

  /** Makes room in the half that is being filled, if the other one is free by handing this one over. */
  private room(length: number): boolean {
    if (this.failure !== undefined) return false;
    if (this.filling.used + length > this.filling.bytes.length) this.drain();
    return this.filling.used + length <= this.filling.bytes.length;
  }

  /** The first frame of a quiet time is written in the loop's next turn; under load, writes grow by themselves. */
  private schedule(): void {
    if (this.scheduled || this.writing !== undefined) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      this.drain();
    });
  }

  private drain(): void {
    if (this.writing !== undefined || this.filling.used === 0 || this.failure !== undefined) return;
    const full = this.filling;
    this.filling = this.draining;
    this.draining = full;
    this.writing = this.options.sink.write(full.bytes.subarray(0, full.used)).then(
      () => this.drained(),
      (error: unknown) => this.drained(error instanceof Error ? error : new Error(String(error))),
    );
  }

  private drained(error?: Error): void {
    this.writing = undefined;
    this.draining.used = 0;
    if (error === undefined) {
      this.drain();
      return;
    }
    this.failure = error;
    void this.finish("closed");
  }

  private async finish(reason: "closed" | "complete"): Promise<void> {
    if (!this.open) return;
    this.open = false;
    await this.flush();
    for (const facts of this.interfaces.values()) {
      if (this.failure !== undefined) break;
      this.describe(facts);
      const to = this.stamp(this.time);
      this.append(interfaceStatistics(facts.number, this.began, to, facts));
      await this.flush();
    }
    try {
      await this.options.sink.close();
    } catch (error) {
      this.failure ??= error instanceof Error ? error : new Error(String(error));
    }
    this.end(this.failure === undefined ? { reason } : { reason: "failed", error: this.failure });
  }

  /** Until the buffer is empty, or the sink has failed. */
  private async flush(): Promise<void> {
    this.drain();
    while (this.writing !== undefined) await this.writing;
  }

  /** The time now. Sums stay below 2^53 for a hundred days of the clock. */
  private stamp(into: Timestamp): Timestamp {
    const sum = this.epochLow + Math.floor(this.options.clock.now());
    into.high = this.epochHigh + Math.floor(sum / 2 ** 32);
    into.low = sum >>> 0;
    return into;
  }
}
