/**
 * What a switch's way out of the lab is to the switch and to whoever starts it: one more port, with a life of its own.
 */
import type { Frame, FramePort } from "../../device/net/frame.ts";
import { InputError } from "../../errors/input-error.ts";
import type { Clock } from "../types.ts";

/** Counts of an uplink, by name; those of every uplink come first, each kind adds its own. */
export interface UplinkCounters {
  /** Frames and bytes that came from the switch. */
  framesIn: number;
  bytesIn: number;
  /** Frames and bytes that were handed to the switch. */
  framesOut: number;
  bytesOut: number;
  [reason: string]: number;
}

/** What an uplink is constructed with. */
export interface UplinkContext {
  /** Hands a frame to the switch, which copies what it keeps before the call returns. Never called from deliver(). */
  send(frame: Frame): void;
  /** A batch of send() is over: whoever was delivered to may be told. */
  batchEnd?(): void;
  /** One line for the network's log. */
  log(line: string): void;
  readonly clock: Clock;
}

/** A way from a switch to somewhere outside the lab. */
export interface Uplink extends FramePort {
  /** "user", "tap", "socket", "pcap", "passt". */
  readonly kind: string;
  /** Opens what it needs of the host. @throws an error of one line, "what; remedy", when it cannot */
  start(): Promise<void>;
  /** Gives everything back; after that no send() and no timer. Repeating it is harmless. */
  close(): Promise<void>;
  /** Its settings and present state, to be shown: plain values, arrays and objects only. */
  describe(): Record<string, unknown>;
  readonly counters: UplinkCounters;
}

/** A setting or a host that an uplink cannot work with: one line with cause and remedy, fit for a user. */
export class UplinkError extends InputError<"uplink"> {
  constructor(what: string, remedy: string, cause?: unknown) {
    super("uplink", what, remedy, cause);
  }
}
