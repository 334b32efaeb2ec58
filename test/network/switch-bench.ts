/** A switch for tests: interfaces that keep what they get, and time that stands still. */
import { type DeliveryFailure, Frame, type FramePort } from "../../engine/device/net/frame.ts";
import { type MacAddress, parseMac } from "../../engine/network/address.ts";
import type { PortOptions, SwitchPort } from "../../engine/network/port.ts";
import { type SwitchOptions, VirtualSwitch } from "../../engine/network/switch.ts";
import type { Clock } from "../../engine/network/types.ts";
import { bytesOf, type EthernetFields, ethernet, ipv4, MAC_A, MAC_B, MAC_C, udp } from "./headers-frames.ts";

/** An address that no interface has as its own. */
export const STRANGER = parseMac("52:54:00:00:00:01");

/** An interface that keeps what it gets. */
export class Sink implements FramePort {
  readonly frames: Uint8Array[] = [];
  flushes = 0;
  failure: DeliveryFailure | undefined;
  answer: (() => void) | undefined;

  deliver(frame: Frame): DeliveryFailure | undefined {
    if (this.failure !== undefined) return this.failure;
    this.frames.push(bytesOf(frame));
    this.answer?.();
    return undefined;
  }

  flush(): void {
    this.flushes++;
  }
}

/** Time that a test sets, in nanoseconds. */
export class FakeClock implements Clock {
  time = 0;

  now(): number {
    return this.time;
  }

  after(): never {
    throw new Error("nobody waits here");
  }
}

export interface Guest {
  readonly sink: Sink;
  readonly port: SwitchPort;
  send(bytes: Uint8Array): void;
}

/** A switch, and interfaces on it. */
export class Bench {
  readonly clock = new FakeClock();
  readonly network: VirtualSwitch;

  constructor(options: Partial<SwitchOptions> = {}) {
    this.network = new VirtualSwitch({ name: "lab0", clock: this.clock, ...options });
  }

  add(name: string, options: Partial<PortOptions> = {}): Guest {
    const sink = new Sink();
    const port = this.network.addPort({ name, port: sink, ...options });
    return { sink, port, send: (bytes) => port.receive(Frame.of(bytes)) };
  }

  guest(name: string, mac: MacAddress, options: Partial<PortOptions> = {}): Guest {
    return this.add(name, { rules: { mac }, ...options });
  }
}

/** A UDP packet over IPv4 from port 1 to port 2. */
export function packet(from: MacAddress, to: MacAddress, fields: EthernetFields = {}, size = 1): Uint8Array {
  return ethernet(0x800, ipv4(udp(1, 2, new Uint8Array(size))), { from, to, ...fields });
}

/** A switch with three guests. */
export function three(options: Partial<SwitchOptions> = {}): { bench: Bench; a: Guest; b: Guest; c: Guest } {
  const bench = new Bench(options);
  const a = bench.guest("vif1.0", MAC_A);
  const b = bench.guest("vif2.0", MAC_B);
  return { bench, a, b, c: bench.guest("vif3.0", MAC_C) };
}

/** How many frames each has got. */
export const received = (...guests: Guest[]): number[] => guests.map((guest) => guest.sink.frames.length);
