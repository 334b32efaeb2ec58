/**
 * A tap device of Linux as an uplink: the switch is joined with the host's network stack, or through a bridge with a
 * real network. Needs root, or a device that root has made for this user. Checksums and segmentation that are still to be
 * done travel as they are, both ways.
 */
import { constants } from "node:os";
import { type DeliveryFailure, FRAME_HEAD, FRAME_MOST, Frame } from "../../device/net/frame.ts";
import { checksumOf, sumBytes } from "../checksum.ts";
import { Headers } from "../headers.ts";
import { countIn, type DropCounters, droppedDown, droppedFull, sendCounted, zeroCounters } from "./counting.ts";
import { openTap, type TapDevice, type TapOptions } from "./tap-device.ts";
import { HEADER_BYTES, readTapHeader, type TapHeader, writeTapHeader } from "./tap-header.ts";
import type { Uplink, UplinkContext } from "./types.ts";

export type { TapOptions } from "./tap-device.ts";

const { EAGAIN, EIO, ENOBUFS } = constants.errno;
const SHORTEST = 14;
/** Frames that are read in one turn of the event loop. */
const BATCH = 128;

/** A descriptor that is being watched, as TypescriptDomain.onInterrupt() does it. */
export interface Watch {
  /** Dealt with: the handler may be called again. */
  eoi(): void;
  close(): void;
}

/** Calls `handler` on the event loop when the descriptor is readable, and then not again before eoi(). */
export type OnReadable = (descriptor: number, handler: () => void) => Watch;

/** Counters besides those of every uplink. */
export interface TapCounters extends DropCounters {
  /** Frames to the host that were dropped, since the frame is no good. */
  malformed: number;
  /** Frames of the host that were skipped: too long, too short, of a kind that was not asked for. */
  skipped: number;
}

export class TapUplink implements Uplink {
  readonly kind = "tap";
  readonly counters: TapCounters = {
    ...zeroCounters(),
    droppedDown: 0,
    droppedFull: 0,
    malformed: 0,
    skipped: 0,
  };
  private readonly context: UplinkContext;
  private readonly options: TapOptions;
  private readonly onReadable: OnReadable;
  private readonly headers = new Headers();
  /** Header and frame, one behind the other: to be written, and as read. */
  private readonly outgoing = new Uint8Array(HEADER_BYTES + FRAME_MOST);
  private readonly outgoingView = new DataView(this.outgoing.buffer);
  private readonly incoming = new Uint8Array(HEADER_BYTES + FRAME_MOST + 1);
  private readonly incomingView = new DataView(this.incoming.buffer);
  private readonly frame = new Frame();
  private device: TapDevice | undefined;
  private watch: Watch | undefined;

  constructor(context: UplinkContext, options: TapOptions, onReadable: OnReadable) {
    this.context = context;
    this.options = options;
    this.onReadable = onReadable;
  }

  /** @throws UplinkError */
  start(): Promise<void> {
    return new Promise((resolve) => {
      const device = openTap(this.options);
      this.device = device;
      this.watch = this.onReadable(device.descriptor, () => this.readable());
      resolve();
    });
  }

  deliver(frame: Frame): DeliveryFailure | undefined {
    countIn(this.counters, frame);
    const { device, headers } = this;
    if (device === undefined) return droppedDown(this.counters);
    if (frame.length > FRAME_MOST) return "too-long";
    frame.copyTo(this.outgoing, HEADER_BYTES);
    const error = headers.parse(frame);
    const isPlain = frame.checksum !== "blank" && frame.segmentation === "none";
    if (!isPlain && error !== undefined) {
      this.counters.malformed++;
      return undefined;
    }
    if (!writeTapHeader(this.outgoing, this.outgoingView, frame, headers)) {
      this.counters.malformed++;
      return undefined;
    }
    // The kernel sums up to the end: padding must not be there.
    const length = HEADER_BYTES + (isPlain ? frame.length : headers.l3End);
    const status = device.write(this.outgoing, length);
    if (status === length) return undefined;
    return this.undelivered(-status);
  }

  close(): Promise<void> {
    this.watch?.close();
    this.watch = undefined;
    this.device?.close();
    this.device = undefined;
    return Promise.resolve();
  }

  describe(): Record<string, unknown> {
    const { bridge, mtu } = this.options;
    return {
      kind: this.kind,
      ...(this.device === undefined ? { state: "closed" } : { state: "open", device: this.device.name }),
      ...(bridge === undefined ? {} : { bridge }),
      ...(mtu === undefined ? {} : { mtu }),
    };
  }

  private undelivered(errno: number): DeliveryFailure | undefined {
    if (errno === EAGAIN || errno === ENOBUFS) return droppedFull(this.counters);
    if (errno === EIO) return droppedDown(this.counters);
    // EINVAL: the kernel did not like what the header says of the frame.
    this.counters.malformed++;
    return undefined;
  }

  /** Reads what there is, at most a batch; the rest in the loop's next turn, so that others have theirs. */
  private readable(): void {
    const { device } = this;
    if (device === undefined) return;
    let count = 0;
    for (; count < BATCH; count++) {
      const length = device.read(this.incoming);
      if (length === 0) break;
      if (length < 0) {
        this.failed(device.name, -length);
        return;
      }
      this.receive(length - HEADER_BYTES);
    }
    if (count > 0) this.context.batchEnd?.();
    if (count === BATCH) setImmediate(() => this.readable());
    else this.watch?.eoi();
  }

  /** The device is gone, or was taken down for good: silent from now on, and still to be closed. */
  private failed(name: string, errno: number): void {
    this.watch?.close();
    this.watch = undefined;
    this.context.log(`tap ${name}: reading has failed (errno ${errno}); the uplink is down`);
  }

  private receive(length: number): void {
    const header = length < SHORTEST || length > FRAME_MOST ? undefined : readTapHeader(this.incomingView);
    if (header === undefined) {
      this.counters.skipped++;
      return;
    }
    const { frame, incoming } = this;
    this.fillHead(length);
    const finished = header.checksum === "blank" && this.finishOdd(header, length);
    if (finished) this.fillHead(length);
    if (length > FRAME_HEAD) frame.add(incoming, HEADER_BYTES + FRAME_HEAD, length - FRAME_HEAD);
    frame.checksum = finished ? "complete" : header.checksum;
    frame.segmentation = header.segmentation;
    frame.segmentSize = header.segmentSize;
    sendCounted(this.context, this.counters, frame);
  }

  /**
   * Finishes a checksum that is not simply TCP's or UDP's, but a tunnel's inner one, since a frame can only say "blank"
   * of these two. @returns whether it was such a one
   */
  private finishOdd({ checksumStart, checksumOffset }: TapHeader, length: number): boolean {
    const isUsual = checksumOffset === 16 || checksumOffset === 6;
    const { frame, headers, incoming } = this;
    if (headers.parse(frame) === undefined && headers.l4Offset === checksumStart && isUsual) return false;
    if (checksumStart + checksumOffset + 2 > length) return true;
    const sum = checksumOf(sumBytes(incoming, HEADER_BYTES + checksumStart, length - checksumStart));
    this.incomingView.setUint16(HEADER_BYTES + checksumStart + checksumOffset, sum === 0 ? 0xffff : sum);
    return true;
  }

  private fillHead(length: number): void {
    const { frame, incoming } = this;
    frame.reset(length);
    frame.headLength = Math.min(length, FRAME_HEAD);
    frame.head.set(incoming.subarray(HEADER_BYTES, HEADER_BYTES + frame.headLength));
  }
}
