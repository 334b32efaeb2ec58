/** Log lines of packets in netfilter's format (nf_log_syslog), and a log that no flood of packets can flood. */
import { formatIpv4, formatMac, macFromBytes } from "../address.ts";
import { EtherType, type Headers, u16, u32 } from "../headers.ts";
import type { Clock } from "../types.ts";
import type { Packet } from "./packet.ts";
import { PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, protocolName } from "./rule.ts";

/** In the order in which netfilter prints them. */
const flagNames: readonly (readonly [name: string, bit: number])[] = [
  ["CWR", 0x80],
  ["ECE", 0x40],
  ["URG", 0x20],
  ["ACK", 0x10],
  ["PSH", 0x08],
  ["RST", 0x04],
  ["SYN", 0x02],
  ["FIN", 0x01],
];

function hex(number: number, digits: number): string {
  return number.toString(16).toUpperCase().padStart(digits, "0");
}

/** netfilter writes IPv6 addresses with all their zeros. */
function fullIpv6(head: Uint8Array, at: number): string {
  return Array.from({ length: 8 }, (_, n) =>
    u16(head, at + n * 2)
      .toString(16)
      .padStart(4, "0"),
  ).join(":");
}

function network4(head: Uint8Array, headers: Headers): string {
  const at = headers.l3Offset;
  const word = u16(head, at + 6);
  const tos = headers.trafficClass;
  const flags = [
    (word & 0x8000) !== 0 ? " CE" : "",
    (word & 0x4000) !== 0 ? " DF" : "",
    (word & 0x2000) !== 0 ? " MF" : "",
    (word & 0x1fff) !== 0 ? ` FRAG:${word & 0x1fff}` : "",
  ].join("");
  return (
    `SRC=${formatIpv4(headers.source4)} DST=${formatIpv4(headers.destination4)} LEN=${u16(head, at + 2)} ` +
    `TOS=0x${hex(tos & 0x1e, 2)} PREC=0x${hex(tos & 0xe0, 2)} TTL=${headers.hopLimit} ` +
    `ID=${headers.identification}${flags}`
  );
}

function network6(head: Uint8Array, headers: Headers): string {
  const at = headers.l3Offset;
  const fragment = headers.isFragment
    ? ` FRAG:${headers.fragmentOffset} ID:${hex(headers.identification, 8).toLowerCase()}`
    : "";
  return (
    `SRC=${fullIpv6(head, headers.source6)} DST=${fullIpv6(head, headers.destination6)} ` +
    `LEN=${u16(head, at + 4) + 40} TC=${headers.trafficClass} HOPLIMIT=${headers.hopLimit} ` +
    `FLOWLBL=${u32(head, at) & 0xfffff}${fragment}`
  );
}

function tcp(head: Uint8Array, headers: Headers): string {
  const reserved = (head[headers.l4Offset + 12] ?? 0) & 0x0f;
  const flags = flagNames.flatMap(([name, bit]) => ((headers.tcpFlags & bit) === 0 ? [] : [name]));
  return [
    `SPT=${headers.sourcePort} DPT=${headers.destinationPort}`,
    `WINDOW=${headers.tcpWindow} RES=0x${hex(reserved << 2, 2)}`,
    ...flags,
    `URGP=${u16(head, headers.l4Offset + 18)}`,
  ].join(" ");
}

function transport(head: Uint8Array, headers: Headers): string {
  const name = `PROTO=${protocolName(headers.protocol).toUpperCase()}`;
  if (headers.l4Offset === 0) return name;
  switch (headers.protocol) {
    case PROTOCOL_TCP:
      return `${name} ${tcp(head, headers)}`;
    case PROTOCOL_UDP: {
      const length = u16(head, headers.l4Offset + 4);
      return `${name} SPT=${headers.sourcePort} DPT=${headers.destinationPort} LEN=${length}`;
    }
    case PROTOCOL_ICMP:
    case PROTOCOL_ICMPV6: {
      const isEcho = headers.ipVersion === 4 ? (headers.icmpType & 0xf7) === 0 : (headers.icmpType & 0xfe) === 128;
      const echo = isEcho ? ` ID=${headers.icmpIdentifier} SEQ=${u16(head, headers.l4Offset + 6)}` : "";
      return `${name} TYPE=${headers.icmpType} CODE=${headers.icmpCode}${echo}`;
    }
    default:
      return name;
  }
}

function arp(head: Uint8Array, headers: Headers): string {
  const mac = (at: number) => formatMac(macFromBytes(head, at));
  return (
    `ARP HTYPE=1 PTYPE=0x0800 OPCODE=${headers.arpOperation} MACSRC=${mac(headers.arpSenderHardware)} ` +
    `IPSRC=${formatIpv4(headers.arpSenderAddress)} MACDST=${mac(headers.arpTargetHardware)} ` +
    `IPDST=${formatIpv4(headers.arpTargetAddress)}`
  );
}

/** "web: IN=vif1.0 OUT=vif2.0 MAC=…:08:00 SRC=… DST=… LEN=60 … PROTO=TCP SPT=… DPT=80 … SYN URGP=0" */
function formatLogLine(packet: Packet, prefix: string): string {
  const { head, headers } = packet;
  if (headers === undefined) return prefix;
  const type = hex(headers.etherType, 4).toLowerCase();
  const macs = `${formatMac(macFromBytes(head, 0))}:${formatMac(macFromBytes(head, 6))}`;
  const link = `${macs}:${type.slice(0, 2)}:${type.slice(2)}`;
  const parts = [`IN=${packet.in?.name ?? ""} OUT=${packet.out?.name ?? ""} MAC=${link}`];
  if (headers.vlan > 0) parts.push(`VID=${headers.vlan}`);
  if (headers.etherType === EtherType.arp) parts.push(arp(head, headers));
  if (headers.ipVersion === 4) parts.push(network4(head, headers), transport(head, headers));
  if (headers.ipVersion === 6) parts.push(network6(head, headers), transport(head, headers));
  return `${prefix}${parts.join(" ")}`;
}

export interface PacketLogOptions {
  /** Lines a second, on average. Default 100. */
  readonly perSecond?: number;
  /** Lines at once. Default 200. */
  readonly burst?: number;
  /** Last lines kept for whoever asks. Default 1000. */
  readonly kept?: number;
}

/** One kept line; `at` in the clock's nanoseconds. */
export interface LogLine {
  readonly at: number;
  readonly line: string;
}

/** Takes log lines up to a rate, says how many it left out, and keeps the last ones. */
export class PacketLog {
  readonly #clock: Clock;
  readonly #sink: (line: string) => void;
  readonly #perNs: number;
  readonly #burst: number;
  readonly #kept: number;
  readonly #lines: LogLine[] = [];
  #tokens: number;
  #at: number;
  #missing = 0;
  /** Lines written, and lines left out. */
  written = 0;
  suppressed = 0;

  constructor(clock: Clock, sink: (line: string) => void, options: PacketLogOptions = {}) {
    this.#clock = clock;
    this.#sink = sink;
    this.#perNs = (options.perSecond ?? 100) / 1e9;
    this.#burst = options.burst ?? 200;
    this.#kept = options.kept ?? 1000;
    this.#tokens = this.#burst;
    this.#at = clock.now();
  }

  /** Logs a packet, unless there were too many lately; then not even the text is made. */
  packet(packet: Packet, prefix: string): void {
    const now = this.#clock.now();
    if (now > this.#at) this.#tokens = Math.min(this.#burst, this.#tokens + (now - this.#at) * this.#perNs);
    this.#at = Math.max(now, this.#at);
    if (this.#tokens < 1) {
      this.#missing++;
      this.suppressed++;
      return;
    }
    this.#tokens -= 1;
    if (this.#missing > 0) {
      this.#write(now, `packet log: ${this.#missing} lines left out`);
      this.#missing = 0;
    }
    this.#write(now, formatLogLine(packet, prefix));
    this.written++;
  }

  /** The last lines, oldest first. */
  lines(most = this.#kept): LogLine[] {
    return most <= 0 ? [] : this.#lines.slice(-Math.min(most, this.#kept));
  }

  #write(at: number, line: string): void {
    this.#lines.push({ at, line });
    // Cut in larger pieces: moving the array for each line would cost more than the line.
    if (this.#lines.length >= this.#kept * 2) this.#lines.splice(0, this.#lines.length - this.#kept);
    this.#sink(line);
  }
}
