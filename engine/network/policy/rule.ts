/**
 * A firewall rule as data, in iptables' terms (iptables(8), iptables-extensions(8)): what a frame must be, and what
 * becomes of it then. Parsing makes it, formatting prints it, compiling makes a matcher of it.
 */

/** `-p arp`, our own extension: no IP protocol has this number. It is ARP's EtherType. */
export const PROTOCOL_ARP = 0x0806;
export const PROTOCOL_ICMP = 1;
export const PROTOCOL_TCP = 6;
export const PROTOCOL_UDP = 17;
export const PROTOCOL_ICMPV6 = 58;

/** Protocols by the names that rules and lists use. */
export const protocolNumbers: ReadonlyMap<string, number> = new Map([
  ["icmp", PROTOCOL_ICMP],
  ["igmp", 2],
  ["tcp", PROTOCOL_TCP],
  ["udp", PROTOCOL_UDP],
  ["gre", 47],
  ["esp", 50],
  ["ah", 51],
  ["icmpv6", PROTOCOL_ICMPV6],
  ["ipv6-icmp", PROTOCOL_ICMPV6],
  ["sctp", 132],
  ["udplite", 136],
  ["arp", PROTOCOL_ARP],
]);

const protocolNames = new Map<number, string>();
for (const [name, number] of protocolNumbers) if (!protocolNames.has(number)) protocolNames.set(number, name);

/** "tcp" of 6; the number as text where there is no name. */
export function protocolName(protocol: number): string {
  return protocolNames.get(protocol) ?? String(protocol);
}

/** Connection states, one bit each, as conntrack finds them. */
export const STATE_INVALID = 1;
export const STATE_NEW = 2;
export const STATE_ESTABLISHED = 4;
export const STATE_RELATED = 8;
/** Not looked at by conntrack: ARP, neighbour discovery. */
export const STATE_UNTRACKED = 16;

export const stateBits: ReadonlyMap<string, number> = new Map([
  ["INVALID", STATE_INVALID],
  ["NEW", STATE_NEW],
  ["ESTABLISHED", STATE_ESTABLISHED],
  ["RELATED", STATE_RELATED],
  ["UNTRACKED", STATE_UNTRACKED],
]);

/** TCP flags, as they stand in byte 13 of the header. */
export const TCP_FIN = 0x01;
export const TCP_SYN = 0x02;
export const TCP_RST = 0x04;
export const TCP_PSH = 0x08;
export const TCP_ACK = 0x10;
export const TCP_URG = 0x20;

/** An address with its mask. For version 4 only the last of the four words counts. */
export interface AddressMatch {
  readonly version: 4 | 6;
  /** Network, most significant word first; bits outside the mask are 0. */
  readonly words: readonly [number, number, number, number];
  readonly masks: readonly [number, number, number, number];
  /** As it is printed: "10.0.0.0/24", "fd00::1/128". */
  readonly text: string;
}

export interface PortRange {
  readonly from: number;
  readonly to: number;
}

/** One condition; `not` where "!" stood before it. All conditions of a rule must hold. */
export type Match =
  | { readonly kind: "in" | "out"; readonly not: boolean; readonly name: string; readonly wildcard: boolean }
  | { readonly kind: "source" | "destination"; readonly not: boolean; readonly address: AddressMatch }
  | { readonly kind: "protocol"; readonly not: boolean; readonly protocol: number }
  | { readonly kind: "fragment"; readonly not: boolean }
  | { readonly kind: "source-port" | "destination-port"; readonly not: boolean; readonly range: PortRange }
  | {
      readonly kind: "multiport";
      readonly not: boolean;
      readonly which: "sports" | "dports" | "ports";
      readonly ranges: readonly PortRange[];
    }
  | { readonly kind: "tcp-flags"; readonly not: boolean; readonly mask: number; readonly set: number }
  | {
      readonly kind: "icmp";
      readonly not: boolean;
      readonly version: 4 | 6;
      readonly type: number;
      /** -1: any code. */
      readonly code: number;
    }
  | { readonly kind: "state"; readonly not: boolean; readonly module: "state" | "conntrack"; readonly states: number }
  | {
      readonly kind: "limit";
      readonly not: false;
      /** Nanoseconds between two matches on average. */
      readonly costNs: number;
      readonly burst: number;
      /** As it is printed: "5/sec". */
      readonly text: string;
    }
  | { readonly kind: "mac"; readonly not: boolean; readonly address: Uint8Array }
  | { readonly kind: "length"; readonly not: boolean; readonly range: PortRange }
  | { readonly kind: "packet-type"; readonly not: boolean; readonly type: "unicast" | "broadcast" | "multicast" }
  | { readonly kind: "comment"; readonly not: false; readonly text: string };

/** How REJECT answers; "default" is the port-unreachable of the packet's family. */
export type RejectKind =
  | "net-unreachable"
  | "host-unreachable"
  | "proto-unreachable"
  | "port-unreachable"
  | "net-prohibited"
  | "host-prohibited"
  | "admin-prohibited"
  | "no-route"
  | "addr-unreachable"
  | "policy-fail"
  | "tcp-reset"
  | "default";

export type Target =
  | { readonly kind: "ACCEPT" | "DROP" | "RETURN" }
  /** `with` is printed as it was written. */
  | { readonly kind: "REJECT"; readonly how: RejectKind; readonly with: string }
  | { readonly kind: "LOG"; readonly prefix: string; readonly level: string }
  | { readonly kind: "JUMP"; readonly chain: string };

export interface Rule {
  /** 4 or 6 where an address, a protocol or -4/-6 says so; 0: both. */
  readonly family: 0 | 4 | 6;
  /** Whether -4 or -6 was written, which nothing else would tell. */
  readonly familyWritten: boolean;
  /** In iptables' printing order as far as the user did not choose one. */
  readonly matches: readonly Match[];
  /** Undefined: the rule only counts. */
  readonly target: Target | undefined;
}

/** The kinds of Match that may carry a `kind`. */
export type MatchOf<K> = Match extends infer M ? (M extends Match ? (K extends M["kind"] ? M : never) : never) : never;

/** The condition of one kind, where the rule has it. */
export function findMatch<K extends Match["kind"]>(matches: readonly Match[], kind: K): MatchOf<K> | undefined {
  return matches.find((match): match is MatchOf<K> & Match => match.kind === kind);
}
