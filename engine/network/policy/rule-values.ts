/** The values of rule options: addresses, ports, protocols, TCP flags, ICMP types, states, limits. */
import { formatIpv4, formatIpv6, maskOf, parseIpv4, parseIpv6, parseMac, writeMac } from "../address.ts";
import { NetworkError } from "../types.ts";
import { icmpTypes } from "./icmp-types.ts";
import {
  type AddressMatch,
  type PortRange,
  PROTOCOL_ICMPV6,
  protocolNumbers,
  STATE_ESTABLISHED,
  STATE_INVALID,
  STATE_NEW,
  STATE_RELATED,
  stateBits,
  TCP_ACK,
  TCP_FIN,
  TCP_PSH,
  TCP_RST,
  TCP_SYN,
  TCP_URG,
} from "./rule.ts";
import { suggest, type Word, type WordReader } from "./words.ts";

/** Runs a parser of addresses and lets its complaint point at the word. */
function address<T>(reader: WordReader, word: Word, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof NetworkError)) throw error;
    const what = error.message.slice(0, error.message.length - error.remedy.length - 2);
    throw reader.error(word, what, error.remedy);
  }
}

function words6(bytes: Uint8Array): [number, number, number, number] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, 16);
  return [view.getUint32(0), view.getUint32(4), view.getUint32(8), view.getUint32(12)];
}

/** Number of one-bits at the front of a mask, or -1 when others follow a zero. */
function prefixLength(mask: number): number {
  const bits = Math.clz32(~mask);
  return (bits === 32 ? 0xffff_ffff : maskOf(bits)) === mask >>> 0 ? bits : -1;
}

/** "10.0.0.7", "10.0.0.0/24", "10.0.0.0/255.255.255.0", "fd00::/64". Host bits are cleared, as iptables does. */
export function parseAddressMatch(reader: WordReader, word: Word): AddressMatch {
  const { text } = word;
  if (text.includes(",")) {
    throw reader.error(word, "several addresses in one rule", "write one rule for each address");
  }
  const slash = text.indexOf("/");
  const host = slash < 0 ? text : text.slice(0, slash);
  const mask = slash < 0 ? undefined : text.slice(slash + 1);
  return host.includes(":") ? address6(reader, word, host, mask) : address4(reader, word, host, mask);
}

function prefix(reader: WordReader, word: Word, mask: string | undefined, most: number): number {
  if (mask === undefined) return most;
  if (!/^\d{1,3}$/.test(mask) || Number(mask) > most) {
    throw reader.error(word, `"${mask}" is no mask`, `write a prefix length from 0 to ${most} behind the slash`);
  }
  return Number(mask);
}

function address4(reader: WordReader, word: Word, host: string, mask: string | undefined): AddressMatch {
  const number = address(reader, word, () => parseIpv4(host));
  const bits = mask?.includes(".")
    ? address(reader, word, () => parseIpv4(mask))
    : maskOf(prefix(reader, word, mask, 32));
  const network = (number & bits) >>> 0;
  const length = prefixLength(bits);
  const text = `${formatIpv4(network)}/${length < 0 ? formatIpv4(bits) : length}`;
  return { version: 4, words: [0, 0, 0, network], masks: [0, 0, 0, bits], text };
}

function address6(reader: WordReader, word: Word, host: string, mask: string | undefined): AddressMatch {
  const bytes = address(reader, word, () => parseIpv6(host));
  const length = prefix(reader, word, mask, 128);
  const masks = [0, 32, 64, 96].map((from) => maskOf(Math.min(32, Math.max(0, length - from))));
  const [m0 = 0, m1 = 0, m2 = 0, m3 = 0] = masks;
  const [w0, w1, w2, w3] = words6(bytes);
  const words = [(w0 & m0) >>> 0, (w1 & m1) >>> 0, (w2 & m2) >>> 0, (w3 & m3) >>> 0] as const;
  const network = new Uint8Array(16);
  const view = new DataView(network.buffer);
  for (const [n, part] of words.entries()) view.setUint32(n * 4, part);
  return { version: 6, words, masks: [m0, m1, m2, m3], text: `${formatIpv6(network)}/${length}` };
}

/** Six bytes of "00:16:3e:12:34:56". */
export function parseMacMatch(reader: WordReader, word: Word): Uint8Array {
  const bytes = new Uint8Array(6);
  writeMac(
    address(reader, word, () => parseMac(word.text)),
    bytes,
  );
  return bytes;
}

/** A protocol by name or number; undefined for "all" and 0, which say nothing. */
export function parseProtocol(reader: WordReader, word: Word): number | undefined {
  const name = word.text.toLowerCase();
  if (name === "all" || name === "ip" || name === "0") return undefined;
  const known = protocolNumbers.get(name);
  if (known !== undefined) return known;
  if (/^\d{1,3}$/.test(name) && Number(name) < 256) return Number(name);
  throw reader.error(
    word,
    `unknown protocol ${word.text}`,
    suggest(word.text, protocolNumbers.keys(), "use tcp, udp, icmp, icmpv6, arp, all or a number up to 255"),
  );
}

/** Names of services that people write in rules; everything else goes by number. */
const services: ReadonlyMap<string, number> = new Map([
  ["ftp", 21],
  ["ssh", 22],
  ["telnet", 23],
  ["smtp", 25],
  ["domain", 53],
  ["bootps", 67],
  ["bootpc", 68],
  ["tftp", 69],
  ["http", 80],
  ["ntp", 123],
  ["imap", 143],
  ["snmp", 161],
  ["https", 443],
  ["dhcpv6-client", 546],
  ["dhcpv6-server", 547],
]);

function port(reader: WordReader, word: Word, text: string, otherwise: number): number {
  if (text === "") return otherwise;
  const service = services.get(text.toLowerCase());
  if (service !== undefined) return service;
  if (/^\d{1,5}$/.test(text) && Number(text) < 65_536) return Number(text);
  throw reader.error(word, `"${text}" is no port`, suggest(text, services.keys(), "write a number from 0 to 65535"));
}

/** "80", "1024:65535", ":1023", "1024:", "http". */
export function parsePortRange(reader: WordReader, word: Word, text = word.text): PortRange {
  const parts = text.split(":");
  const [first = "", second] = parts;
  if (parts.length > 2 || text === "" || text === ":") {
    throw reader.error(word, `"${text}" is no port or range`, "write 80 or 1024:65535");
  }
  const from = port(reader, word, first, 0);
  const to = second === undefined ? from : port(reader, word, second, 65_535);
  if (from > to) throw reader.error(word, `range ${text} runs backwards`, `write ${to}:${from}`);
  return { from, to };
}

/** Multiport's list; ranges count twice against its fifteen, as in iptables. */
export function parsePortList(reader: WordReader, word: Word): PortRange[] {
  const ranges = word.text.split(",").map((text) => parsePortRange(reader, word, text));
  const slots = ranges.reduce((sum, range) => sum + (range.from === range.to ? 1 : 2), 0);
  if (slots > 15) {
    throw reader.error(
      word,
      `${slots} ports in one list`,
      "multiport takes 15, a range counts twice: use a second rule",
    );
  }
  return ranges;
}

/** "0:100" of numbers up to 65535; the form of `--length`. */
export function parseLengthRange(reader: WordReader, word: Word): PortRange {
  if (!/^\d*(:\d*)?$/.test(word.text)) {
    throw reader.error(word, `"${word.text}" is no length or range`, "write 64 or 64:1500");
  }
  return parsePortRange(reader, word);
}

const flagBits: ReadonlyMap<string, number> = new Map([
  ["FIN", TCP_FIN],
  ["SYN", TCP_SYN],
  ["RST", TCP_RST],
  ["PSH", TCP_PSH],
  ["ACK", TCP_ACK],
  ["URG", TCP_URG],
  ["ALL", TCP_FIN | TCP_SYN | TCP_RST | TCP_PSH | TCP_ACK | TCP_URG],
  ["NONE", 0],
]);

/** "SYN,ACK", "ALL", "NONE". */
export function parseTcpFlags(reader: WordReader, word: Word): number {
  return bitsOf(reader, word, flagBits, "TCP flag", "use SYN, ACK, FIN, RST, URG, PSH, ALL or NONE");
}

/** "SYN,ACK" of bits, in iptables' order; "NONE". */
export function formatTcpFlags(bits: number): string {
  const names = [...flagBits].filter(([name, bit]) => name !== "ALL" && bit !== 0 && (bits & bit) !== 0);
  return names.length === 0 ? "NONE" : names.map(([name]) => name).join(",");
}

/** "ESTABLISHED,RELATED". */
export function parseStates(reader: WordReader, word: Word): number {
  return bitsOf(reader, word, stateBits, "state", "use NEW, ESTABLISHED, RELATED, INVALID or UNTRACKED");
}

const stateOrder = [STATE_INVALID, STATE_NEW, STATE_RELATED, STATE_ESTABLISHED];

/** "RELATED,ESTABLISHED" of bits, in iptables' order. */
export function formatStates(bits: number): string {
  const names = [...stateBits].sort((a, b) => order(a[1]) - order(b[1]));
  return names
    .filter(([, bit]) => (bits & bit) !== 0)
    .map(([name]) => name)
    .join(",");
}

function order(bit: number): number {
  const at = stateOrder.indexOf(bit);
  return at < 0 ? stateOrder.length : at;
}

function bitsOf(
  reader: WordReader,
  word: Word,
  known: ReadonlyMap<string, number>,
  what: string,
  remedy: string,
): number {
  let bits = 0;
  for (const name of word.text.split(",")) {
    const bit = known.get(name.toUpperCase());
    if (bit === undefined) throw reader.error(word, `unknown ${what} "${name}"`, suggest(name, known.keys(), remedy));
    bits |= bit;
  }
  return bits;
}

/** "echo-request", "8", "3/1", "any". @returns type -1 for "any", code -1 for any code */
export function parseIcmpType(reader: WordReader, word: Word, version: 4 | 6): { type: number; code: number } {
  const text = word.text.toLowerCase();
  if (text === "any" && version === 4) return { type: -1, code: -1 };
  const rows = icmpTypes(version);
  const row = rows.find(({ name }) => name.toLowerCase() === text);
  if (row !== undefined) return { type: row.type, code: row.code };
  const numbers = /^(\d{1,3})(?:\/(\d{1,3}))?$/.exec(text);
  const type = Number(numbers?.[1] ?? 256);
  const code = numbers?.[2] === undefined ? -1 : Number(numbers[2]);
  if (type < 256 && code < 256) return { type, code };
  const names = rows.map(({ name }) => name);
  const protocol = version === 4 ? "ICMP" : "ICMPv6";
  throw reader.error(
    word,
    `unknown ${protocol} type "${word.text}"`,
    suggest(word.text, names, "write a name such as echo-request, or type/code in numbers"),
  );
}

/** The ICMP version that a protocol number means for `--icmp-type`. */
export function icmpVersion(protocol: number): 4 | 6 {
  return protocol === PROTOCOL_ICMPV6 ? 6 : 4;
}

const NS_PER_SECOND = 1e9;
const limitUnits: readonly (readonly [name: string, printed: string, seconds: number])[] = [
  ["second", "sec", 1],
  ["minute", "min", 60],
  ["hour", "hour", 3600],
  ["day", "day", 86_400],
];

/** "5/second", "5/s", "10/minute", "3/hour", "1/day"; a bare number is a second's. */
export function parseLimit(reader: WordReader, word: Word): { costNs: number; text: string } {
  const found = /^(\d{1,6})(?:\/([a-z]+))?$/i.exec(word.text);
  const unit = found?.[2]?.toLowerCase() ?? "second";
  const row = limitUnits.find(([name]) => name.startsWith(unit));
  const count = Number(found?.[1] ?? 0);
  if (found === null || row === undefined || count === 0) {
    throw reader.error(word, `"${word.text}" is no limit`, "write for example 5/second, 10/minute, 3/hour or 1/day");
  }
  const [, printed, seconds] = row;
  // iptables counts in ten thousandths of a second; finer than that is a rule without effect.
  if (count > 10_000 * seconds) throw reader.error(word, "limit too fast", "use at most 10000/second");
  return { costNs: (seconds * NS_PER_SECOND) / count, text: `${count}/${printed}` };
}
