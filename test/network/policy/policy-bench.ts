/** A switch policy for tests: ports that keep their answers, time that a test moves. */
import { Frame } from "../../../engine/device/net/frame.ts";
import { Headers } from "../../../engine/network/headers.ts";
import type { Parsed, PolicyError } from "../../../engine/network/policy/errors.ts";
import { SwitchPolicy, type SwitchPolicyOptions } from "../../../engine/network/policy/switch-policy.ts";
import type { Clock, PortFacts } from "../../../engine/network/types.ts";
import { concat, ethernet, ipv4, ipv6, sealed4, sealed6, udp } from "../headers-frames.ts";

export const SECOND = 1e9;

/** Time that stands still until `advance`, which calls what has become due, in order. */
export class ManualClock implements Clock {
  time = 1000;
  #waiting: { at: number; call: () => void }[] = [];

  now(): number {
    return this.time;
  }

  after(ns: number, call: () => void): { cancel(): void } {
    const entry = { at: this.time + Math.max(0, ns), call };
    this.#waiting.push(entry);
    return { cancel: () => void this.#drop(entry) };
  }

  /** Calls still to come. */
  get pending(): number {
    return this.#waiting.length;
  }

  advance(ns: number): void {
    const end = this.time + ns;
    for (;;) {
      const next = this.#waiting.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (next === undefined) break;
      this.#drop(next);
      this.time = Math.max(this.time, next.at);
      next.call();
    }
    this.time = end;
  }

  #drop(entry: { at: number; call: () => void }): void {
    this.#waiting = this.#waiting.filter((other) => other !== entry);
  }
}

export const VIF1: PortFacts = { name: "vif1.0", id: 1 };
export const VIF2: PortFacts = { name: "vif2.0", id: 2 };
export const VIF3: PortFacts = { name: "vif3.0", id: 3 };

export const FIN = 1;
export const SYN = 2;
export const RST = 4;
export const ACK = 16;

export interface Ends {
  readonly from?: string;
  readonly to?: string;
  readonly sport?: number;
  readonly dport?: number;
}

function two(value: number): number[] {
  return [value >> 8, value & 255];
}

/** A TCP segment over IPv4 or, with IPv6 addresses, IPv6; its checksum is right. */
export function tcpFrame(flags: number, ends: Ends = {}, data = new Uint8Array(0)): Uint8Array {
  const { from = "10.0.0.1", to = "10.0.0.2", sport = 40_000, dport = 80 } = ends;
  const ports = concat(two(sport), two(dport));
  const segment = concat(ports, [0, 0, 3, 232, 0, 0, 7, 208, 0x50, flags, 2, 0, 0, 0, 0, 0], data);
  return from.includes(":")
    ? ethernet(0x86dd, ipv6(sealed6(segment, 16, 6, from, to), { from, to, next: 6 }))
    : ethernet(0x800, ipv4(sealed4(segment, 16, 6, from, to), { from, to, protocol: 6 }));
}

export function udpFrame(ends: Ends = {}, size = 10): Uint8Array {
  const { from = "10.0.0.1", to = "10.0.0.2", sport = 5000, dport = 53 } = ends;
  return ethernet(0x800, ipv4(udp(sport, dport, new Uint8Array(size)), { from, to }));
}

/** An ICMP message over IPv4. */
export function icmpFrame(type: number, code: number, body: Uint8Array, ends: Ends = {}): Uint8Array {
  const { from = "10.0.0.1", to = "10.0.0.2" } = ends;
  return ethernet(0x800, ipv4(concat([type, code, 0, 0], body), { from, to, protocol: 1 }));
}

export function parsedHeaders(frame: Frame): Headers {
  const headers = new Headers();
  const error = headers.parse(frame);
  if (error !== undefined) throw new Error(`the test's frame is malformed: ${error}`);
  return headers;
}

/** A policy with what came out of it. */
export class PolicyBench {
  readonly clock = new ManualClock();
  readonly answers: { to: PortFacts; frame: Frame }[] = [];
  readonly lines: string[] = [];
  hookChanges = 0;
  readonly policy: SwitchPolicy;

  constructor(options: Partial<SwitchPolicyOptions> = {}) {
    this.policy = new SwitchPolicy({
      clock: this.clock,
      answer: (to, frame) => void this.answers.push({ to, frame }),
      log: (line) => void this.lines.push(line),
      changed: () => void this.hookChanges++,
      ...options,
    });
  }

  /** Sends a frame through the hooks as the switch would. @returns whether it arrives at `to` */
  pass(bytes: Uint8Array, from = VIF1, to = VIF2): boolean {
    const frame = Frame.of(bytes);
    const headers = parsedHeaders(frame);
    const { ingress, forward } = this.policy.hooks;
    if ((ingress?.(frame, headers, from) ?? "accept") !== "accept") return false;
    return (forward?.(frame, headers, from, to) ?? "accept") === "accept";
  }
}

/** The value, or the test fails with the error's message. */
export function must<T>(parsed: Parsed<T>): T {
  if (!parsed.ok) throw parsed.error;
  return parsed.value;
}

/** The error of what must not parse. */
export function errorOf(parsed: Parsed<unknown>): PolicyError {
  if (parsed.ok) throw new Error("this should not have parsed");
  return parsed.error;
}
