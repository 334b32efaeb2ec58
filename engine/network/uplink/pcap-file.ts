/**
 * A capture file as an uplink: what the switch sends out is written to a pcapng file, and the frames of another, pcapng
 * or pcap, are played into the switch. Either may be left out.
 */
import { type DeliveryFailure, FRAME_MOST, Frame } from "../../device/net/frame.ts";
import { oneLine } from "../../errors/input-error.ts";
import { messageOf } from "../../errors/message.ts";
import { Capture } from "../capture/capture.ts";
import { openCaptureFile } from "../capture/file.ts";
import { LINK_ETHERNET } from "../capture/pcapng.ts";
import { type CapturedPacket, type CaptureRecord, readCapture } from "../capture/reader.ts";
import { countIn, type DropCounters, droppedDown, droppedFull, sendCounted, zeroCounters } from "./counting.ts";
import { type Uplink, type UplinkContext, UplinkError } from "./types.ts";

const SHORTEST = 14;
/** Frames played in one turn of the event loop. */
const BATCH = 64;

export interface PcapFileUplinkOptions {
  /** The file that is written. */
  readonly write?: string;
  /** The file that is played. */
  readonly play?: string;
  /** With the pauses that were recorded (default), or as fast as it goes. */
  readonly timing?: "recorded" | "fast";
  /** How often the file is played, 1 unless told; 0: again and again. */
  readonly times?: number;
}

/** Counters besides those of every uplink. */
export interface PcapFileCounters extends DropCounters {
  /** Packets that were not played: not Ethernet, or not whole. */
  skipped: number;
}

type PlayState = "none" | "playing" | "done" | "failed";

export class PcapFileUplink implements Uplink {
  readonly kind = "pcap";
  readonly counters: PcapFileCounters = {
    ...zeroCounters(),
    droppedFull: 0,
    droppedDown: 0,
    skipped: 0,
  };
  private readonly context: UplinkContext;
  private readonly options: PcapFileUplinkOptions;
  private readonly port = { name: "uplink", id: 0 };
  private capture: Capture | undefined;
  private playing: Promise<void> = Promise.resolve();
  private playState: PlayState = "none";
  private closed = false;
  /** Ends the pause that playing is in. */
  private wake: (() => void) | undefined;

  constructor(context: UplinkContext, options: PcapFileUplinkOptions) {
    this.context = context;
    this.options = options;
  }

  /** @throws UplinkError, CaptureError for files that cannot be used */
  async start(): Promise<void> {
    const { write, play, times = 1 } = this.options;
    if (write === undefined && play === undefined) {
      throw new UplinkError("a pcap uplink without a file does nothing", "name a file to write or to play");
    }
    if (!Number.isInteger(times) || times < 0)
      throw new UplinkError(`times=${times} is no count`, "write 1, or 0 for ever");
    if (write !== undefined && write === play) {
      throw new UplinkError(`pcap uplink: ${oneLine(write)} would be written while it is played`, "name two files");
    }
    // The file to be played first: a wrong one must not cost what is at the other path.
    const first = play === undefined ? undefined : await this.begin(play);
    if (write !== undefined) {
      try {
        await this.record(write);
      } catch (error) {
        await first?.records.return();
        throw error;
      }
    }
    if (first === undefined || play === undefined) return;
    this.playState = "playing";
    this.playing = this.playAll(play, first.records, first.record).catch((error: unknown) => {
      this.playState = "failed";
      this.context.log(`pcap ${oneLine(play)}: ${messageOf(error)}`);
    });
  }

  deliver(frame: Frame): DeliveryFailure | undefined {
    countIn(this.counters, frame);
    if (this.capture === undefined) {
      // A file that is only played is a wire on which nobody listens.
      if (this.options.write === undefined) return undefined;
      return droppedDown(this.counters);
    }
    const before = this.capture.dropped;
    this.capture.tap(frame, this.port, "out");
    return this.capture.dropped === before ? undefined : droppedFull(this.counters);
  }

  async close(): Promise<void> {
    this.closed = true;
    this.wake?.();
    await this.playing;
    await this.capture?.close();
    this.capture = undefined;
  }

  describe(): Record<string, unknown> {
    const { write, play, timing = "recorded", times = 1 } = this.options;
    return {
      kind: this.kind,
      ...(write === undefined ? {} : { write, writing: this.capture !== undefined }),
      ...(play === undefined ? {} : { play, timing, times, state: this.playState }),
    };
  }

  private async record(path: string): Promise<void> {
    const capture = new Capture({ sink: await openCaptureFile(path), clock: this.context.clock });
    this.capture = capture;
    void capture.ended.then(({ error }) => {
      this.capture = undefined;
      if (error !== undefined) this.context.log(error.message);
    });
  }

  private async begin(
    path: string,
  ): Promise<{ records: AsyncGenerator<CaptureRecord, void>; record: CaptureRecord[] }> {
    const records = readCapture(path);
    const { value } = await records.next();
    return { records, record: value === undefined ? [] : [value] };
  }

  private async playAll(
    path: string,
    opened: AsyncGenerator<CaptureRecord, void>,
    read: CaptureRecord[],
  ): Promise<void> {
    const { times = 1 } = this.options;
    await this.playOnce(opened, read);
    for (let n = 1; (times === 0 || n < times) && !this.closed; n++) {
      // A file without a frame must not keep the loop busy for ever.
      if (this.counters.framesOut === 0) break;
      await this.pause(0);
      await this.playOnce(readCapture(path), []);
    }
    this.playState = "done";
  }

  private async playOnce(records: AsyncGenerator<CaptureRecord, void>, read: CaptureRecord[]): Promise<void> {
    const { clock } = this.context;
    const began = clock.now();
    let first: bigint | undefined;
    let batch = 0;
    try {
      for (const record of read) if (record.kind === "packet") this.play(record);
      for await (const record of records) {
        if (this.closed) return;
        if (record.kind !== "packet") continue;
        first ??= record.time;
        const due = this.options.timing === "fast" ? 0 : began + Number(record.time - first) - clock.now();
        if (due > 0 || ++batch >= BATCH) {
          if (batch > 0) this.context.batchEnd?.();
          batch = 0;
          await this.pause(Math.max(0, due));
          if (this.closed) return;
        }
        this.play(record);
      }
    } finally {
      this.context.batchEnd?.();
    }
  }

  private play(packet: CapturedPacket): void {
    const { data, length, linkType } = packet;
    if (linkType !== LINK_ETHERNET || data.length !== length || length < SHORTEST || length > FRAME_MOST) {
      this.counters.skipped++;
      return;
    }
    sendCounted(this.context, this.counters, Frame.of(data));
  }

  private pause(ns: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.context.clock.after(ns, resolve);
      this.wake = () => {
        timer.cancel();
        resolve();
      };
    });
  }
}
