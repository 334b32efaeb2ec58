/** Captures that users have asked for. Each ends when nobody asks about it any more. */
import { randomInt } from "node:crypto";
import { Capture, SNAP_MOST } from "../../network/capture/capture.ts";
import { openCaptureFile } from "../../network/capture/file.ts";
import { compileFilter } from "../../network/capture/filter.ts";
import type { Clock, FrameTap } from "../../network/types.ts";
import type { CaptureCounts } from "../network-calls.ts";
import { LabNetworkError } from "../network-config.ts";

/** A capture that is not asked about for so long has lost its user. */
const LEASE_NS = 15e9;
/** Captures at a time: each costs its buffer and a look at every frame. */
const MOST_CAPTURES = 16;

export interface CaptureWish {
  readonly file: string;
  /** In pcap-filter's language; empty for all frames. */
  readonly filter: string;
  /** Bytes of each frame that are kept; 0 for all. */
  readonly snapLength: number;
  /** Each frame once, where it comes in; not again for every interface that it goes to. */
  readonly once: boolean;
}

interface Running {
  readonly capture: Capture;
  readonly stop: () => void;
  lease: { cancel(): void };
}

function counts(capture: Capture): CaptureCounts {
  const sums = { frames: 0, dropped: 0 };
  for (const { captured, dropped } of capture.statistics()) {
    sums.frames += captured;
    sums.dropped += dropped;
  }
  return sums;
}

export class NetworkCaptures {
  private readonly clock: Clock;
  private readonly running = new Map<number, Running>();

  constructor(clock: Clock) {
    this.clock = clock;
  }

  /**
   * Begins to write what passes a tap.
   * @param tap puts it on, and answers how to take it off
   * @returns a number that names the capture
   * @throws CaptureError for a filter that does not parse or a file that cannot be written
   */
  async start(wish: CaptureWish, tap: (tap: FrameTap) => () => void): Promise<number> {
    if (this.running.size >= MOST_CAPTURES) {
      throw new LabNetworkError(`${MOST_CAPTURES} captures are running`, "end one of them first");
    }
    const filter = compileFilter(wish.filter);
    if (!filter.ok) throw filter.error;
    const capture = new Capture({
      sink: await openCaptureFile(wish.file),
      clock: this.clock,
      ...(wish.once && { direction: "in" as const }),
      ...(filter.value && { filter: filter.value }),
      snapLength: wish.snapLength === 0 ? SNAP_MOST : Math.min(wish.snapLength, SNAP_MOST),
    });
    // Numbers of an earlier process must not mean a capture of this one.
    const id = randomInt(1, 2 ** 31);
    this.running.set(id, { capture, stop: tap(capture.tap), lease: this.lease(id) });
    return id;
  }

  private lease(id: number): { cancel(): void } {
    return this.clock.after(LEASE_NS, () => void this.stop(id).catch(() => {}));
  }

  private known(id: number): Running {
    const found = this.running.get(id);
    if (found !== undefined) return found;
    throw new LabNetworkError("the capture has ended with the network domain", "start it again");
  }

  /** What was captured so far; the capture goes on. */
  async count(id: number): Promise<CaptureCounts> {
    const entry = this.known(id);
    entry.lease.cancel();
    entry.lease = this.lease(id);
    return counts(entry.capture);
  }

  /** Ends a capture: its file is complete then. @throws CaptureError when it could not be written */
  async stop(id: number): Promise<CaptureCounts> {
    const { capture, stop, lease } = this.known(id);
    this.running.delete(id);
    lease.cancel();
    stop();
    const { error } = await capture.close();
    if (error !== undefined) throw error;
    return counts(capture);
  }

  /** Ends all. */
  async close(): Promise<void> {
    await Promise.all([...this.running.keys()].map((id) => this.stop(id).catch(() => undefined)));
  }
}
