/**
 * Addresses as text and as what the data path compares: MAC addresses as two numbers, IPv4 as an unsigned number, IPv6 as
 * sixteen bytes. Parsing is strict; every error is one line, "cause; remedy".
 *
 * Sources: RFC 4291 (IPv6 text), RFC 5952 (the one way to write it), RFC 4632 (prefix lengths).
 */
import { randomBytes } from "node:crypto";
import { NetworkError } from "./types.ts";

/** A MAC address: its first two bytes and its last four as unsigned numbers, as in Headers. */
export interface MacAddress {
  readonly high: number;
  readonly low: number;
}

/** An IPv4 network or, with 32 bits, address; `address` has its host bits. */
export interface Cidr4 {
  readonly version: 4;
  readonly address: number;
  readonly mask: number;
  readonly bits: number;
}

/** An IPv6 network or, with 128 bits, address; `address` has its host bits. */
export interface Cidr6 {
  readonly version: 6;
  readonly address: Uint8Array;
  readonly bits: number;
}

export type Cidr = Cidr4 | Cidr6;

const MAC_EXAMPLE = "write it like 00:16:3e:12:34:56";
const MAC_TEXT = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;
const OCTET = /^(0|[1-9]\d{0,2})$/;
const GROUP = /^[0-9a-f]{1,4}$/i;

function bad(what: string, remedy: string): NetworkError {
  const clean = what.replace(/[^\x20-\x7e]+/g, "?");
  return new NetworkError("bad-address", clean.length > 200 ? `${clean.slice(0, 200)}…` : clean, remedy);
}

/** @throws NetworkError "bad-address" */
export function parseMac(text: string): MacAddress {
  if (!MAC_TEXT.test(text)) throw bad(`"${text}" is no MAC address`, MAC_EXAMPLE);
  const bytes = text.split(":").map((byte) => Number.parseInt(byte, 16));
  return macFromBytes(Uint8Array.from(bytes));
}

/**
 * A MAC address that an interface can have: not a group's and not all zeros.
 * @throws NetworkError "bad-address"
 */
export function parseInterfaceMac(text: string): MacAddress {
  const mac = parseMac(text);
  if ((mac.high & 0x100) !== 0) {
    throw bad(`"${text}" is a multicast address`, "an interface's first byte is even: 00:16:3e:12:34:56");
  }
  if (mac.high === 0 && mac.low === 0) throw bad(`"${text}" is nobody's address`, MAC_EXAMPLE);
  return mac;
}

/** @returns lower case, with colons */
export function formatMac(mac: MacAddress): string {
  const digits = mac.high.toString(16).padStart(4, "0") + mac.low.toString(16).padStart(8, "0");
  return digits.replace(/(..)(?=.)/g, "$1:");
}

/** Six bytes at `at`. */
export function macFromBytes(bytes: Uint8Array, at = 0): MacAddress {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, 6);
  return { high: view.getUint16(0), low: view.getUint32(2) };
}

/** Writes six bytes at `at`. */
export function writeMac(mac: MacAddress, into: Uint8Array, at = 0): void {
  const view = new DataView(into.buffer, into.byteOffset + at, 6);
  view.setUint16(0, mac.high);
  view.setUint32(2, mac.low);
}

/** An address out of Xen's range, 00:16:3e, as libxl makes them: the last three bytes random. */
export function randomMac(): MacAddress {
  const random = randomBytes(3);
  return { high: 0x0016, low: (0x3e00_0000 | random.readUIntBE(0, 3)) >>> 0 };
}

/** @throws NetworkError "bad-address" */
export function parseIpv4(text: string): number {
  const parts = text.split(".");
  const fits = parts.length === 4 && parts.every((part) => OCTET.test(part) && Number(part) < 256);
  if (!fits) throw bad(`"${text}" is no IPv4 address`, "write four numbers up to 255, like 10.0.0.5");
  return parts.reduce((address, part) => address * 256 + Number(part), 0);
}

/** Dotted decimal of an unsigned number. */
export function formatIpv4(address: number): string {
  return `${address >>> 24}.${(address >>> 16) & 255}.${(address >>> 8) & 255}.${address & 255}`;
}

/** The 16-bit groups of one side of "::", or undefined; only the last side may end in an IPv4 address. */
function groupsOf(side: string, mayEndInIpv4: boolean): number[] | undefined {
  if (side === "") return [];
  const groups: number[] = [];
  const parts = side.split(":");
  for (const [n, part] of parts.entries()) {
    if (GROUP.test(part)) {
      groups.push(Number.parseInt(part, 16));
      continue;
    }
    const octets = part.split(".");
    const isIpv4 = octets.length === 4 && octets.every((octet) => OCTET.test(octet) && Number(octet) < 256);
    if (!isIpv4 || !mayEndInIpv4 || n !== parts.length - 1) return undefined;
    groups.push(Number(octets[0]) * 256 + Number(octets[1]), Number(octets[2]) * 256 + Number(octets[3]));
  }
  return groups;
}

function ipv6Groups(text: string): number[] | undefined {
  const sides = text.split("::");
  if (sides.length > 2) return undefined;
  const [left = "", right] = sides;
  const before = groupsOf(left, right === undefined);
  if (before === undefined) return undefined;
  if (right === undefined) return before.length === 8 ? before : undefined;
  const after = groupsOf(right, true);
  // "::" stands for one group of zeros at least.
  if (after === undefined || before.length + after.length > 7) return undefined;
  return [...before, ...new Array<number>(8 - before.length - after.length).fill(0), ...after];
}

/** @returns sixteen bytes @throws NetworkError "bad-address"; zones ("%eth0") are not addresses */
export function parseIpv6(text: string): Uint8Array {
  const groups = ipv6Groups(text);
  if (groups === undefined) throw bad(`"${text}" is no IPv6 address`, "write it like fd00::5");
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  for (const [n, group] of groups.entries()) view.setUint16(n * 2, group);
  return bytes;
}

/** The first of the longest runs of zero groups, two at least: where RFC 5952 writes "::". */
function longestZeros(groups: readonly number[]): { start: number; length: number } {
  let best = { start: -1, length: 1 };
  let length = 0;
  for (const [n, group] of groups.entries()) {
    length = group === 0 ? length + 1 : 0;
    if (length > best.length) best = { start: n - length + 1, length };
  }
  return best;
}

/** RFC 5952 text of the sixteen bytes at `at`; mapped IPv4 addresses in dotted form. */
export function formatIpv6(bytes: Uint8Array, at = 0): string {
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, 16);
  const groups = Array.from({ length: 8 }, (_, n) => view.getUint16(n * 2));
  if (groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff) {
    return `::ffff:${formatIpv4(view.getUint32(12))}`;
  }
  const hex = groups.map((group) => group.toString(16));
  const zeros = longestZeros(groups);
  if (zeros.start < 0) return hex.join(":");
  return `${hex.slice(0, zeros.start).join(":")}::${hex.slice(zeros.start + zeros.length).join(":")}`;
}

/** The mask of a prefix length, 0 to 32, as an unsigned number. */
export function maskOf(bits: number): number {
  return bits === 0 ? 0 : (0xffff_ffff << (32 - bits)) >>> 0;
}

/**
 * An address with or without a prefix length, of either version.
 * @throws NetworkError "bad-address"
 */
export function parseCidr(text: string): Cidr {
  const slash = text.indexOf("/");
  const address = slash < 0 ? text : text.slice(0, slash);
  const isIpv6 = address.includes(":");
  const most = isIpv6 ? 128 : 32;
  const length = slash < 0 ? String(most) : text.slice(slash + 1);
  if (!OCTET.test(length) || Number(length) > most) {
    throw bad(`"${text}" has no prefix length`, `write a number from 0 to ${most} after the slash`);
  }
  const bits = Number(length);
  if (isIpv6) return { version: 6, address: parseIpv6(address), bits };
  return { version: 4, address: parseIpv4(address), mask: maskOf(bits), bits };
}

/** Without the prefix length where it names a single address. */
export function formatCidr(cidr: Cidr): string {
  const text = cidr.version === 4 ? formatIpv4(cidr.address) : formatIpv6(cidr.address);
  return cidr.bits === (cidr.version === 4 ? 32 : 128) ? text : `${text}/${cidr.bits}`;
}

/** Whether an IPv4 address lies in a network. */
export function contains4(cidr: Cidr4, address: number): boolean {
  return ((cidr.address ^ address) & cidr.mask) === 0;
}

/** Whether the IPv6 address at `at` lies in a network. */
export function contains6(cidr: Cidr6, bytes: Uint8Array, at: number): boolean {
  const whole = cidr.bits >> 3;
  for (let n = 0; n < whole; n++) if (cidr.address[n] !== bytes[at + n]) return false;
  const rest = cidr.bits & 7;
  return rest === 0 || ((cidr.address[whole]! ^ bytes[at + whole]!) & (0xff00 >> rest) & 0xff) === 0;
}

/** Whether the sixteen bytes at `at` are this address. */
export function sameIpv6(address: Uint8Array, bytes: Uint8Array, at: number): boolean {
  for (let n = 0; n < 16; n++) if (address[n] !== bytes[at + n]) return false;
  return true;
}

/** Whether the six bytes at `at` are this MAC address. */
export function sameMac(mac: MacAddress, bytes: Uint8Array, at: number): boolean {
  const high = (bytes[at]! << 8) | bytes[at + 1]!;
  const low = ((bytes[at + 2]! << 24) | (bytes[at + 3]! << 16) | (bytes[at + 4]! << 8) | bytes[at + 5]!) >>> 0;
  return high === mac.high && low === mac.low;
}

/** fe80::/10 at `at`. */
export function isLinkLocal6(bytes: Uint8Array, at: number): boolean {
  return bytes[at] === 0xfe && (bytes[at + 1]! & 0xc0) === 0x80;
}

/** The link-local address that comes of a MAC address (RFC 4291, appendix A: modified EUI-64). */
export function linkLocalOf(mac: MacAddress): Uint8Array {
  const address = new Uint8Array(16);
  const six = new Uint8Array(6);
  writeMac(mac, six);
  address.set([0xfe, 0x80]);
  address.set([six[0]! ^ 2, six[1]!, six[2]!, 0xff, 0xfe, six[3]!, six[4]!, six[5]!], 8);
  return address;
}
