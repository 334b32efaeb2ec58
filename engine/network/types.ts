/**
 * What the parts of the network say to one another: hooks of policies, taps of captures, time.
 */
import type { Frame } from "../device/net/frame.ts";
import { InputError } from "../errors/input-error.ts";
import type { Headers } from "./headers.ts";

/**
 * What a hook decides. "taken": the hook holds a clone and hands it on by itself later (VirtualSwitch.forward after an
 * ingress hook, VirtualSwitch.deliver after a forward or egress hook), or answered it in its own way.
 */
export type Verdict = "accept" | "drop" | "taken";

/** A port of a switch, as policies know it. */
export interface PortFacts {
  /** The interface's name ("vif3.0", "uplink"), unique within its lab. */
  readonly name: string;
  /** A small number, unique within the switch; given to another port only after this one is gone. */
  readonly id: number;
}

/** Looks at a frame that comes in from `port` or is about to go out to `port`. The frame and headers are lent. */
export interface FrameHook {
  // biome-ignore lint/style/useShorthandFunctionType: named like the other contracts, with room for documentation
  (frame: Frame, headers: Headers, port: PortFacts): Verdict;
}

/** Looks at a frame once for each port that it is about to go to: what a FORWARD chain with -i and -o needs. */
export interface ForwardHook {
  // biome-ignore lint/style/useShorthandFunctionType: named like the other contracts, with room for documentation
  (frame: Frame, headers: Headers, from: PortFacts, to: PortFacts): Verdict;
}

/** Sees frames as they are: "in" before anything is checked, "out" just before delivery. Must not keep the frame. */
export interface FrameTap {
  // biome-ignore lint/style/useShorthandFunctionType: named like the other contracts, with room for documentation
  (frame: Frame, port: PortFacts, direction: "in" | "out"): void;
}

/** Time, so that tests can have their own. */
export interface Clock {
  /** Nanoseconds of a clock that never goes back. */
  now(): number;
  /** Calls once, `ns` nanoseconds from now or somewhat later. */
  after(ns: number, call: () => void): { cancel(): void };
}

const NS_PER_MS = 1_000_000;

/** The process's own monotonic clock. Calls come with the event loop's precision, a millisecond. */
export const monotonicClock: Clock = {
  now: () => performance.now() * NS_PER_MS,
  after(ns, call) {
    const timer = setTimeout(call, Math.ceil(Math.max(0, ns) / NS_PER_MS));
    return { cancel: () => clearTimeout(timer) };
  },
};

export type NetworkErrorCode =
  | "bad-address"
  | "bad-name"
  | "bad-vlan"
  | "bad-mtu"
  | "duplicate-mac"
  | "duplicate-name"
  | "unknown-switch"
  | "unknown-port"
  | "switch-in-use"
  | "too-many";

/** A wish of the user that the network cannot grant: cause and remedy in one line. */
export class NetworkError extends InputError<NetworkErrorCode> {}
