/** Frames for tests, built field by field, and addresses that they use. */
import { Frame } from "../../engine/device/net/frame.ts";
import { type MacAddress, parseIpv4, parseIpv6, parseMac, writeMac } from "../../engine/network/address.ts";
import {
  checksumOf,
  ipv4HeaderChecksum,
  pseudoHeader4,
  pseudoHeader6,
  sumBytes,
} from "../../engine/network/checksum.ts";

export const MAC_A = parseMac("00:16:3e:00:00:0a");
export const MAC_B = parseMac("00:16:3e:00:00:0b");
export const MAC_C = parseMac("00:16:3e:00:00:0c");
export const BROADCAST = parseMac("ff:ff:ff:ff:ff:ff");

/** Bytes out of hexadecimal text; blanks are ignored. */
export function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text.replace(/\s+/g, ""), "hex"));
}

export function concat(...parts: (Uint8Array | readonly number[])[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

function two(value: number): number[] {
  return [(value >> 8) & 255, value & 255];
}

function four(value: number): number[] {
  return [...two(value >>> 16), ...two(value)];
}

export function mac(address: MacAddress): Uint8Array {
  const bytes = new Uint8Array(6);
  writeMac(address, bytes);
  return bytes;
}

export interface EthernetFields {
  readonly to?: MacAddress;
  readonly from?: MacAddress;
  /** Tags, outermost first: TPID and TCI. */
  readonly tags?: readonly (readonly [number, number])[];
}

export function ethernet(type: number, payload: Uint8Array, fields: EthernetFields = {}): Uint8Array {
  const tags = (fields.tags ?? []).flatMap(([tpid, tci]) => [...two(tpid), ...two(tci)]);
  return concat(mac(fields.to ?? MAC_B), mac(fields.from ?? MAC_A), tags, two(type), payload);
}

export interface Ipv4Fields {
  readonly from?: string;
  readonly to?: string;
  readonly protocol?: number;
  readonly id?: number;
  /** Flags and offset as in the header: 0x2000 says that more follow, the low 13 bits count eights. */
  readonly fragment?: number;
  readonly options?: Uint8Array;
}

export function ipv4(payload: Uint8Array, fields: Ipv4Fields = {}): Uint8Array {
  const options = fields.options ?? new Uint8Array(0);
  const size = 20 + options.length;
  const header = concat(
    [0x40 | (size / 4), 0],
    two(size + payload.length),
    two(fields.id ?? 0x1234),
    two(fields.fragment ?? 0),
    [64, fields.protocol ?? 17, 0, 0],
    four(parseIpv4(fields.from ?? "10.0.0.1")),
    four(parseIpv4(fields.to ?? "10.0.0.2")),
    options,
  );
  header.set(two(ipv4HeaderChecksum(header, 0, size)), 10);
  return concat(header, payload);
}

export interface Ipv6Fields {
  readonly from?: string;
  readonly to?: string;
  readonly next?: number;
}

export function ipv6(payload: Uint8Array, fields: Ipv6Fields = {}): Uint8Array {
  const addresses = concat(parseIpv6(fields.from ?? "fd00::1"), parseIpv6(fields.to ?? "fd00::2"));
  return concat([0x60, 0, 0, 0], two(payload.length), [fields.next ?? 17, 255], addresses, payload);
}

export function udp(sourcePort: number, destinationPort: number, data: Uint8Array): Uint8Array {
  return concat(two(sourcePort), two(destinationPort), two(8 + data.length), [0, 0], data);
}

export interface TcpFields {
  readonly sequence?: number;
  readonly acknowledgement?: number;
  readonly flags?: number;
  readonly options?: Uint8Array;
}

/** Ports 40000 and 80, checksum zero. */
export function tcp(data: Uint8Array, fields: TcpFields = {}): Uint8Array {
  const options = fields.options ?? new Uint8Array(0);
  const size = 20 + options.length;
  return concat(
    two(40_000),
    two(80),
    four(fields.sequence ?? 1000),
    four(fields.acknowledgement ?? 2000),
    [(size / 4) << 4, fields.flags ?? 0x10],
    two(512),
    [0, 0, 0, 0],
    options,
    data,
  );
}

/** Writes the checksum of a transport packet at `field`, over IPv4. */
export function sealed4(packet: Uint8Array, field: number, protocol: number, from = "10.0.0.1", to = "10.0.0.2") {
  const pseudo = pseudoHeader4(parseIpv4(from), parseIpv4(to), protocol, packet.length);
  const out = Uint8Array.from(packet);
  out.set(two(checksumOf(sumBytes(packet, 0, packet.length, pseudo))), field);
  return out;
}

/** The same over IPv6. */
export function sealed6(packet: Uint8Array, field: number, protocol: number, from = "fd00::1", to = "fd00::2") {
  const addresses = concat(parseIpv6(from), parseIpv6(to));
  const out = Uint8Array.from(packet);
  const pseudo = pseudoHeader6(addresses, 0, protocol, packet.length);
  out.set(two(checksumOf(sumBytes(packet, 0, packet.length, pseudo))), field);
  return out;
}

export interface ArpFields {
  readonly operation?: number;
  readonly hardware?: MacAddress;
  readonly address?: string;
  readonly target?: string;
}

export function arp(fields: ArpFields = {}): Uint8Array {
  return concat(
    [0, 1, 8, 0, 6, 4],
    two(fields.operation ?? 1),
    mac(fields.hardware ?? MAC_A),
    four(parseIpv4(fields.address ?? "10.0.0.1")),
    new Uint8Array(6),
    four(parseIpv4(fields.target ?? "10.0.0.2")),
  );
}

/** A neighbour discovery message with a target, and one link-layer option (1: source, 2: target). */
export function neighbour(type: number, target: string, option?: readonly [number, MacAddress]): Uint8Array {
  const options = option === undefined ? [] : [option[0], 1, ...mac(option[1])];
  return concat([type, 0, 0, 0, 0, 0, 0, 0], parseIpv6(target), options);
}

/** A frame whose head is the first `head` bytes, and whose rest lies in pieces of the given sizes at odd places. */
export function inPieces(bytes: Uint8Array, head: number, sizes: readonly number[]): Frame {
  const frame = new Frame();
  frame.reset(bytes.length);
  frame.headLength = Math.min(head, bytes.length);
  frame.head.set(bytes.subarray(0, frame.headLength));
  let at = frame.headLength;
  for (let n = 0; at < bytes.length; n++) {
    const size = n === sizes.length ? bytes.length - at : Math.min(sizes[n]!, bytes.length - at);
    const memory = new Uint8Array(size + 7).fill(0xee);
    memory.set(bytes.subarray(at, at + size), 3);
    if (size > 0) frame.add(memory, 3, size);
    at += size;
  }
  return frame;
}

/** All bytes of a frame. */
export function bytesOf(frame: Frame): Uint8Array {
  const bytes = new Uint8Array(frame.length);
  frame.copyTo(bytes, 0);
  return bytes;
}
