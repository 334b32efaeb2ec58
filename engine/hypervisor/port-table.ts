/**
 * What each event channel of a domain is: a table in the domain's control frames that all processes read and change by
 * compare-and-exchange. Both ends of a channel are changed without a lock, so a process that dies in the middle blocks nobody.
 *
 * An entry is one u32: bits 0–2 kind, 3–17 peer domain, 18–29 peer port or number of the interrupt, 30 made by the toolstack.
 */
import { NR_EVENT_CHANNELS_2L } from "../abi/event-channel.ts";
import { NR_VIRQS } from "../abi/xen.ts";
import { CONTROL_PORTS, CONTROL_VIRQS, MAX_VCPUS } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";

export const PortKind = { free: 0, reserved: 1, unbound: 2, interdomain: 3, virq: 4, ipi: 5, pirq: 6 } as const;
export type PortKind = (typeof PortKind)[keyof typeof PortKind];

const DOMAIN_SHIFT = 3;
const DOMAIN_MASK = 0x7fff;
const NUMBER_SHIFT = 18;
const NUMBER_MASK = 0xfff;
const TOOLSTACK = 1 << 30;

/** An entry taken apart. `number`: the peer's port, the VIRQ or the physical interrupt. */
export interface PortEntry {
  readonly kind: PortKind;
  readonly domain: number;
  readonly number: number;
  readonly toolstack: boolean;
}

export function encodePort(kind: PortKind, domain = 0, number = 0, toolstack = false): number {
  return kind | (domain << DOMAIN_SHIFT) | (number << NUMBER_SHIFT) | (toolstack ? TOOLSTACK : 0);
}

export function decodePort(word: number): PortEntry {
  return {
    kind: portKind(word),
    domain: portDomain(word),
    number: portNumber(word),
    toolstack: (word & TOOLSTACK) !== 0,
  };
}

// Without an object, for those who send.
export const portKind = (word: number): PortKind => (word & 7) as PortKind;
export const portDomain = (word: number): number => (word >>> DOMAIN_SHIFT) & DOMAIN_MASK;
export const portNumber = (word: number): number => (word >>> NUMBER_SHIFT) & NUMBER_MASK;

/** Whether a port is anything: neither free, nor about to be bound or freed. */
export const isTaken = (word: number): boolean =>
  portKind(word) !== PortKind.free && portKind(word) !== PortKind.reserved;

export class PortTable {
  private readonly words: Int32Array<SharedArrayBuffer>;
  private readonly start: number;
  private readonly virqs: number;

  constructor(mapping: Mapping) {
    this.words = mapping.words;
    this.start = (mapping.base + mapping.plan.control + CONTROL_PORTS) >>> 2;
    this.virqs = (mapping.base + mapping.plan.control + CONTROL_VIRQS) >>> 2;
  }

  /** The entry of a port; 0 (free) outside the table. */
  load(port: number): number {
    return port > 0 && port < NR_EVENT_CHANNELS_2L ? Atomics.load(this.words, this.start + port) : 0;
  }

  store(port: number, word: number): void {
    Atomics.store(this.words, this.start + port, word);
  }

  /** Changes an entry if it still is `expected`. */
  replace(port: number, expected: number, word: number): boolean {
    return Atomics.compareExchange(this.words, this.start + port, expected, word) === expected;
  }

  /** Reserves an entry, whatever it was, and tells what that was. */
  hold(port: number): number {
    return Atomics.exchange(this.words, this.start + port, PortKind.reserved);
  }

  /** Reserves a free port below `limit`; 0 when there is none. */
  reserve(limit: number): number {
    for (let port = 1; port < limit; port++) {
      if (Atomics.load(this.words, this.start + port) === 0 && this.replace(port, 0, PortKind.reserved)) return port;
    }
    return 0;
  }

  /** The port that a virtual interrupt is bound to, or 0. `key` is vCPU × NR_VIRQS + VIRQ. */
  virqPort(key: number): number {
    return Atomics.load(this.words, this.virqs + key);
  }

  /** Binds a virtual interrupt. False if it is bound already. */
  bindVirq(key: number, port: number): boolean {
    return Atomics.compareExchange(this.words, this.virqs + key, 0, port) === 0;
  }

  unbindVirq(key: number, port: number): void {
    Atomics.compareExchange(this.words, this.virqs + key, port, 0);
  }

  /** Unbinds the virtual interrupts whose port was never made, or is gone. */
  dropLostVirqs(): void {
    for (let key = 0; key < MAX_VCPUS * NR_VIRQS; key++) {
      const port = this.virqPort(key);
      const word = this.load(port);
      const bound = portKind(word) === PortKind.virq && portNumber(word) === key % NR_VIRQS;
      if (port !== 0 && !bound) this.unbindVirq(key, port);
    }
  }
}
