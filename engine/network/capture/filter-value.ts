/**
 * The arithmetic of capture filters: numbers, `len`, bytes of headers like tcp[tcpflags], and what can be done with them.
 * Numbers are unsigned with 32 bits, as in pcap-filter(7).
 */
import type { Frame } from "../../device/net/frame.ts";
import { EtherType, type Headers, Protocol } from "../headers.ts";
import { own } from "./filter-words.ts";

/** A number of a frame; NaN where the frame has no such thing, which no comparison is true of. */
export type FrameValue = (frame: Frame, headers: Headers) => number;
export type FrameTest = (frame: Frame, headers: Headers) => boolean;

/** Names for numbers, with the values that they have in the headers. */
export const NAMED_NUMBERS: Readonly<Record<string, number>> = {
  tcpflags: 13,
  "tcp-fin": 0x01,
  "tcp-syn": 0x02,
  "tcp-rst": 0x04,
  "tcp-push": 0x08,
  "tcp-ack": 0x10,
  "tcp-urg": 0x20,
  "tcp-ece": 0x40,
  "tcp-cwr": 0x80,
  icmptype: 0,
  icmpcode: 1,
  "icmp-echoreply": 0,
  "icmp-unreach": 3,
  "icmp-redirect": 5,
  "icmp-echo": 8,
  "icmp-timxceed": 11,
  "icmp-paramprob": 12,
  icmp6type: 0,
  icmp6code: 1,
  "icmp6-destinationrunreach": 1,
  "icmp6-packettoobig": 2,
  "icmp6-timeexceeded": 3,
  "icmp6-echo": 128,
  "icmp6-echoreply": 129,
  "icmp6-routersolicit": 133,
  "icmp6-routeradvert": 134,
  "icmp6-neighborsolicit": 135,
  "icmp6-neighboradvert": 136,
};

/** Where the header of a protocol begins, -1 if the frame has none. */
export const HEADER_AT: Readonly<Record<string, FrameValue>> = {
  ether: () => 0,
  ip: (_, headers) => (headers.ipVersion === 4 ? headers.l3Offset : -1),
  ip6: (_, headers) => (headers.ipVersion === 6 ? headers.l3Offset : -1),
  arp: (_, headers) => (headers.etherType === EtherType.arp ? headers.l3Offset : -1),
  rarp: (_, headers) => (headers.etherType === EtherType.reverseArp ? headers.l3Offset : -1),
  tcp: (_, headers) => transport(headers, Protocol.tcp),
  udp: (_, headers) => transport(headers, Protocol.udp),
  icmp: (_, headers) => transport(headers, Protocol.icmp),
  icmp6: (_, headers) => transport(headers, Protocol.icmp6),
};

function transport(headers: Headers, protocol: number): number {
  return headers.protocol === protocol && headers.l4Offset !== 0 ? headers.l4Offset : -1;
}

const scratch = new Uint8Array(4);

/** `size` bytes (1, 2 or 4), big-endian, at an offset in a protocol's header. */
export function headerBytes(start: FrameValue, offset: FrameValue, size: number): FrameValue {
  return (frame, headers) => {
    const base = start(frame, headers);
    const index = offset(frame, headers);
    // NaN, too, is none of these.
    if (!(base >= 0 && index >= 0 && base + index + size <= frame.length)) return Number.NaN;
    frame.copyTo(scratch, 0, base + index, size);
    let value = 0;
    for (let n = 0; n < size; n++) value = value * 256 + (scratch[n] ?? 0);
    return value;
  };
}

export const frameLength: FrameValue = (frame) => frame.length;

export function constant(value: number): FrameValue {
  return () => value;
}

/** Operators by precedence, those that bind least first. */
export const OPERATORS: readonly Readonly<Record<string, (left: number, right: number) => number>>[] = [
  { "|": (left, right) => (left | right) >>> 0 },
  { "^": (left, right) => (left ^ right) >>> 0 },
  { "&": (left, right) => (left & right) >>> 0 },
  {
    "<<": (left, right) => (right > 31 ? 0 : (left << right) >>> 0),
    ">>": (left, right) => (right > 31 ? 0 : left >>> right),
  },
  { "+": (left, right) => (left + right) >>> 0, "-": (left, right) => (left - right) >>> 0 },
  {
    "*": (left, right) => Math.imul(left, right) >>> 0,
    // A frame for which the divisor is 0 has no quotient, and matches nothing.
    "/": (left, right) => (right === 0 ? Number.NaN : Math.floor(left / right)),
    "%": (left, right) => (right === 0 ? Number.NaN : left % right),
  },
];

/** The operator's value of two others; NaN if one of them is. */
export function combine(
  apply: (left: number, right: number) => number,
  left: FrameValue,
  right: FrameValue,
): FrameValue {
  return (frame, headers) => {
    const first = left(frame, headers);
    const second = right(frame, headers);
    return Number.isNaN(first) || Number.isNaN(second) ? Number.NaN : apply(first, second);
  };
}

const COMPARISONS: Readonly<Record<string, (left: number, right: number) => boolean>> = {
  "=": (left, right) => left === right,
  "==": (left, right) => left === right,
  "!=": (left, right) => left !== right,
  "<": (left, right) => left < right,
  ">": (left, right) => left > right,
  "<=": (left, right) => left <= right,
  ">=": (left, right) => left >= right,
};

export function isComparison(sign: string): boolean {
  return Object.hasOwn(COMPARISONS, sign);
}

/** True where both values exist and compare so. @param sign one that isComparison() knows */
export function compare(sign: string, left: FrameValue, right: FrameValue): FrameTest {
  const holds = own(COMPARISONS, sign);
  if (holds === undefined) throw new RangeError(`filter: comparison ${sign}`);
  return (frame, headers) => {
    const first = left(frame, headers);
    const second = right(frame, headers);
    return !Number.isNaN(first) && !Number.isNaN(second) && holds(first, second);
  };
}
