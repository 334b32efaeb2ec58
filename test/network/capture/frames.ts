/** Frames by hand, for tests: what each header needs to be parsed, checksums included where they are cheap. */
import { Frame } from "../../../engine/device/net/frame.ts";
import { parseIpv4, parseIpv6, parseMac, writeMac } from "../../../engine/network/address.ts";

export const MAC_A = "00:16:3e:00:00:0a";
export const MAC_B = "00:16:3e:00:00:0b";

export interface EthernetOptions {
  readonly source?: string;
  readonly destination?: string;
  readonly vlan?: number;
}

function join(...parts: Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function half(value: number): number[] {
  return [value >> 8, value & 0xff];
}

function word(value: number): number[] {
  return [value >>> 24, (value >>> 16) & 0xff, (value >>> 8) & 0xff, value & 0xff];
}

export function ethernet(type: number, payload: Uint8Array, options: EthernetOptions = {}): Uint8Array {
  const { source = MAC_A, destination = MAC_B, vlan } = options;
  const addresses = new Uint8Array(12);
  writeMac(parseMac(destination), addresses, 0);
  writeMac(parseMac(source), addresses, 6);
  const tag = vlan === undefined ? [] : [0x81, 0x00, ...half(vlan)];
  return join(addresses, Uint8Array.from([...tag, ...half(type)]), payload);
}

/** The sum that IP headers and transport checksums are made of. */
export function internetSum(bytes: Uint8Array, start = 0): number {
  let sum = start;
  for (let n = 0; n < bytes.length; n += 2) sum += ((bytes[n] ?? 0) << 8) | (bytes[n + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

export function ipv4(from: string, to: string, protocol: number, payload: Uint8Array, fragment = 0): Uint8Array {
  const header = Uint8Array.from([
    ...[0x45, 0, ...half(20 + payload.length)],
    ...[0, 1, ...half(fragment), 64, protocol, 0, 0],
    ...word(parseIpv4(from)),
    ...word(parseIpv4(to)),
  ]);
  const sum = ~internetSum(header) & 0xffff;
  header.set(half(sum), 10);
  return join(header, payload);
}

export function ipv6(from: string, to: string, protocol: number, payload: Uint8Array): Uint8Array {
  const header = Uint8Array.from([0x60, 0, 0, 0, ...half(payload.length), protocol, 64]);
  return join(header, parseIpv6(from), parseIpv6(to), payload);
}

export function tcp(from: number, to: number, flags: number, payload = new Uint8Array(0)): Uint8Array {
  const header = [...half(from), ...half(to), ...word(1), ...word(0), 0x50, flags, ...half(8192), 0, 0, 0, 0];
  return join(Uint8Array.from(header), payload);
}

export function udp(from: number, to: number, payload = new Uint8Array(0)): Uint8Array {
  return join(Uint8Array.from([...half(from), ...half(to), ...half(8 + payload.length), 0, 0]), payload);
}

export function icmp(type: number, code = 0): Uint8Array {
  const bytes = Uint8Array.from([type, code, 0, 0, 0, 7, 0, 1]);
  bytes.set(half(~internetSum(bytes) & 0xffff), 2);
  return bytes;
}

export function arp(operation: number, sender: string, target: string): Uint8Array {
  const bytes = new Uint8Array(28);
  bytes.set([0, 1, 8, 0, 6, 4, ...half(operation)]);
  writeMac(parseMac(MAC_A), bytes, 8);
  bytes.set(word(parseIpv4(sender)), 14);
  bytes.set(word(parseIpv4(target)), 24);
  return bytes;
}

/** A frame as netback makes them: so many bytes in the head, the rest in somebody's pages. */
export function lent(bytes: Uint8Array, headLength = 256): Frame {
  const frame = new Frame();
  frame.reset(bytes.length);
  frame.headLength = Math.min(headLength, bytes.length);
  frame.head.set(bytes.subarray(0, frame.headLength));
  for (let at = frame.headLength; at < bytes.length; at += 4096) {
    frame.add(bytes, at, Math.min(4096, bytes.length - at));
  }
  return frame;
}
