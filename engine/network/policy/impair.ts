/**
 * Impairments of one direction of one interface: delay, jitter, loss, duplication, reordering, corruption, bandwidth.
 *
 * Frames keep their order: jitter moves a frame's time, but never past the frame before it. Only `reorder` lets frames
 * overtake, by sending them at once while others wait (as netem does). Frames that wait are private copies in a queue
 * bounded by frames and bytes; what finds it full is dropped.
 */
import { randomInt } from "node:crypto";
import type { Frame } from "../../device/net/frame.ts";
import type { Headers } from "../headers.ts";
import { finishChecksum, segmentTcp } from "../offload.ts";
import type { Clock, FrameHook, PortFacts, Verdict } from "../types.ts";
import { TimedQueue } from "./frame-queue.ts";
import { type ImpairmentSpec, isNoImpairment } from "./impair-spec.ts";
import { Random } from "./random.ts";

export interface ImpairmentContext {
  readonly clock: Clock;
  /**
   * Sends on a frame that was held back: VirtualSwitch.forward for frames from an interface (ingress hook),
   * VirtualSwitch.deliver for frames to it (egress hook).
   */
  release(port: PortFacts, frame: Frame): void;
  /** Several frames were released (VirtualSwitch.batchEnd). */
  batchEnd?(): void;
}

/** Frames, by what became of them; and what waits now. */
export interface ImpairmentCounters {
  offered: number;
  lost: number;
  duplicated: number;
  reordered: number;
  corrupted: number;
  /** Dropped because too many waited. */
  overflowed: number;
  waitingFrames: number;
  waitingBytes: number;
}

export class Impairment {
  readonly #clock: Clock;
  readonly #queue: TimedQueue;
  #spec: ImpairmentSpec;
  #random: Random;
  /** When the last frame will have left a link of the bandwidth given. */
  #linkFree = 0;
  #sinceReorder = 0;
  readonly #counters = { offered: 0, lost: 0, duplicated: 0, reordered: 0, corrupted: 0, overflowed: 0 };

  constructor(spec: ImpairmentSpec, context: ImpairmentContext) {
    this.#spec = spec;
    this.#clock = context.clock;
    this.#random = new Random(spec.seed ?? randomInt(2 ** 32));
    const release = (port: PortFacts, frame: Frame) => context.release(port, frame);
    this.#queue = new TimedQueue(context.clock, release, () => context.batchEnd?.());
  }

  get spec(): ImpairmentSpec {
    return this.#spec;
  }

  get counters(): ImpairmentCounters {
    return { ...this.#counters, waitingFrames: this.#queue.length, waitingBytes: this.#queue.bytes };
  }

  /** Other impairments from now on; what waits already keeps its time. */
  set(spec: ImpairmentSpec): void {
    this.#spec = spec;
    this.#random = new Random(spec.seed ?? randomInt(2 ** 32));
    this.#sinceReorder = 0;
  }

  /** Drops what waits: the interface is gone. */
  close(): void {
    this.#queue.clear();
  }

  /** For PortHooks. */
  readonly hook: FrameHook = (frame, headers, port) => this.offer(frame, headers, port);

  /** Decides about a frame: it goes on at once ("accept"), is lost ("drop"), or is released later ("taken"). */
  offer(frame: Frame, headers: Headers, port: PortFacts): Verdict {
    const spec = this.#spec;
    if (this.#queue.length === 0 && isNoImpairment(spec)) return "accept";
    this.#counters.offered++;
    const copies = this.#copies(spec);
    if (copies === 0) return "drop";
    if (spec.corrupt > 0 && this.#random.uniform() < spec.corrupt) {
      this.#corrupt(frame, headers, port, copies);
      return "taken";
    }
    const overtakes = this.#overtakes(spec);
    const due = overtakes ? this.#clock.now() : this.#dueOf(frame.length);
    const goesNow = overtakes || (this.#queue.length === 0 && due <= this.#clock.now());
    // The second of a pair follows the first, which keeps its place or goes at once.
    for (let n = goesNow ? 1 : 0; n < copies; n++) this.#hold(frame.clone(), port, due);
    return goesNow ? "accept" : "taken";
  }

  /** 0: lost; 2: duplicated. Both dice are thrown, as in netem, so a frame that is both passes once. */
  #copies(spec: ImpairmentSpec): number {
    let copies = 1;
    if (spec.duplicate > 0 && this.#random.uniform() < spec.duplicate) copies++;
    if (spec.loss > 0 && this.#random.uniform() < spec.loss) copies--;
    if (copies === 0) this.#counters.lost++;
    if (copies === 2) this.#counters.duplicated++;
    return copies;
  }

  #overtakes(spec: ImpairmentSpec): boolean {
    if (spec.reorder === 0) return false;
    this.#sinceReorder++;
    if (this.#sinceReorder < spec.gap || this.#random.uniform() >= spec.reorder) return false;
    this.#sinceReorder = 0;
    this.#counters.reordered++;
    return true;
  }

  /** When a frame leaves: after those before it on the link, then the delay. */
  #dueOf(length: number): number {
    const { delayNs, jitterNs, distribution, bytesPerSecond } = this.#spec;
    const now = this.#clock.now();
    let at = now;
    if (bytesPerSecond > 0) {
      at = Math.max(now, this.#linkFree) + (length * 1e9) / bytesPerSecond;
      this.#linkFree = at;
    }
    if (jitterNs === 0) return at + delayNs;
    const dice = distribution === "normal" ? this.#random.normal() : this.#random.uniform() * 2 - 1;
    return Math.max(at, at + delayNs + dice * jitterNs);
  }

  #hold(frame: Frame, port: PortFacts, due: number): void {
    const { frames, bytes } = this.#spec;
    if (this.#queue.length >= frames || this.#queue.bytes + frame.length > bytes) {
      this.#counters.overflowed++;
      return;
    }
    this.#queue.push(frame, port, due);
  }

  /**
   * Turns one bit behind the Ethernet header. The checksum is finished before, so that the receiver can see the damage;
   * a frame with segmentation becomes its segments, of which one is hit, as on a wire.
   */
  #corrupt(frame: Frame, headers: Headers, port: PortFacts, copies: number): void {
    const segments = frame.segmentation === "none" ? [finishChecksum(frame).clone()] : segmentTcp(frame, headers);
    const victim = segments[this.#random.word() % Math.max(1, segments.length)];
    if (victim !== undefined && victim.length > headers.l3Offset) {
      const at = headers.l3Offset + (this.#random.word() % (victim.length - headers.l3Offset));
      victim.head[at] = victim.head[at]! ^ (1 << (this.#random.word() & 7));
      // "Validated" was said of other bytes.
      victim.checksum = "complete";
      this.#counters.corrupted++;
    }
    for (let n = 0; n < copies; n++) {
      for (const segment of segments)
        this.#hold(n === 0 ? segment : segment.clone(), port, this.#dueOf(segment.length));
    }
  }
}
