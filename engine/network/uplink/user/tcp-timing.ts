/**
 * How long to wait for an acknowledgement and how much to send without one.
 *
 * Sources: RFC 6298 (retransmission timer), RFC 5681 and 6928 (slow start, congestion avoidance, initial window), RFC 6582
 * (NewReno), RFC 5827 (fewer duplicates do where few segments are under way).
 */
import { before, distance } from "./tcp-sequence.ts";

/** Milliseconds. The least is Linux's, below the second of RFC 6298, as a guest is never far away. */
const LEAST_TIMEOUT = 200;
const FIRST_TIMEOUT = 1000;
const MOST_TIMEOUT = 30_000;
/** Segments that may be sent at once to a guest that nothing is known of. */
const INITIAL_SEGMENTS = 10;
const MOST_WINDOW = 4_194_304;

/** Estimates the round trip and from it the retransmission timeout, in milliseconds. */
export class RetransmissionTimeout {
  private smoothed = -1;
  private variation = 0;
  private backoff = 1;

  /** One measured round trip; never of something that was sent twice (Karn). */
  sample(roundTrip: number): void {
    if (this.smoothed < 0) {
      this.smoothed = roundTrip;
      this.variation = roundTrip / 2;
    } else {
      this.variation += (Math.abs(this.smoothed - roundTrip) - this.variation) / 4;
      this.smoothed += (roundTrip - this.smoothed) / 8;
    }
    this.backoff = 1;
  }

  /** Nothing came: wait twice as long from now on. */
  back(): void {
    this.backoff = Math.min(this.backoff * 2, 1024);
  }

  /** Something new was acknowledged. */
  progress(): void {
    this.backoff = 1;
  }

  get milliseconds(): number {
    const base = this.smoothed < 0 ? FIRST_TIMEOUT : Math.max(LEAST_TIMEOUT, this.smoothed + 4 * this.variation);
    return Math.min(base * this.backoff, MOST_TIMEOUT);
  }
}

/** NewReno's congestion window, in bytes. */
export class CongestionWindow {
  bytes: number;
  private threshold = MOST_WINDOW;
  private readonly mss: number;
  private duplicates = 0;
  private recovering = false;
  /** What was sent when the last loss was noticed; acknowledgements up to here are not news of another. */
  private recoverUntil = -1;

  constructor(mss: number) {
    this.mss = mss;
    this.bytes = INITIAL_SEGMENTS * mss;
  }

  /**
   * New data was acknowledged, up to `una`.
   * @returns whether the segment at `una` is missing too and is to be sent again now
   */
  acknowledged(count: number, una: number): boolean {
    this.duplicates = 0;
    const isOver = this.recoverUntil >= 0 && !before(una, this.recoverUntil);
    if (isOver) this.recoverUntil = -1;
    if (this.recovering) {
      if (!isOver) {
        this.bytes = Math.max(this.bytes - count + this.mss, this.mss);
        return true;
      }
      this.recovering = false;
      this.bytes = Math.max(this.threshold, 2 * this.mss);
      return false;
    }
    const slowStart = this.bytes < this.threshold;
    const growth = slowStart ? count : Math.max(1, (this.mss * count) / this.bytes);
    this.bytes = Math.min(this.bytes + growth, MOST_WINDOW);
    return false;
  }

  /**
   * A duplicate acknowledgement of `una` came while bytes up to `sent` were under way in `frames` frames.
   * @returns whether that means a loss: send the first segment again
   */
  duplicate(una: number, sent: number, frames: number): boolean {
    this.duplicates++;
    if (this.recovering) {
      this.bytes = Math.min(this.bytes + this.mss, MOST_WINDOW);
      return false;
    }
    const enough = frames < 2 ? 3 : Math.min(3, frames - 1);
    if (this.duplicates < enough) return false;
    if (this.recoverUntil >= 0 && before(una, this.recoverUntil)) return false;
    this.recovering = true;
    this.recoverUntil = sent;
    this.threshold = Math.max(distance(una, sent) / 2, 2 * this.mss);
    this.bytes = this.threshold + this.duplicates * this.mss;
    return true;
  }

  /** The retransmission timer went off with bytes from `una` to `sent` under way. */
  timedOut(una: number, sent: number): void {
    this.threshold = Math.max(distance(una, sent) / 2, 2 * this.mss);
    this.bytes = this.mss;
    this.duplicates = 0;
    this.recovering = false;
    this.recoverUntil = sent;
  }
}
