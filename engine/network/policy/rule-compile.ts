/**
 * Rules as matchers. What nearly every rule has (family, protocol, interfaces, IPv4 addresses, one port each) is
 * compared in line; the rest is a list of conditions. Matching allocates nothing.
 */
import type { InterfaceNumbers, Packet } from "./packet.ts";
import {
  type AddressMatch,
  findMatch,
  type Match,
  type PortRange,
  PROTOCOL_ARP,
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  type Rule,
} from "./rule.ts";

/** A condition that is too rare to be compared in line. */
interface Condition {
  holds(packet: Packet): boolean;
}

const ANY = -1;

export class CompiledRule {
  readonly #family: number;
  readonly #protocol: number;
  readonly #notProtocol: boolean;
  readonly #in: number;
  readonly #out: number;
  readonly #sourceMask: number;
  readonly #source: number;
  readonly #notSource: boolean;
  readonly #destinationMask: number;
  readonly #destination: number;
  readonly #notDestination: boolean;
  readonly #sourceFrom: number;
  readonly #sourceTo: number;
  readonly #destinationFrom: number;
  readonly #destinationTo: number;
  readonly #conditions: readonly Condition[];
  /** Whether it is a rule for ARP (`-p arp`), the only ones that ARP meets in a built-in chain. */
  readonly arp: boolean;
  /** Whether it asks conntrack. */
  readonly stateful: boolean;

  /** `interfaces` gets the names that the rule has. */
  constructor(rule: Rule, interfaces: InterfaceNumbers) {
    const { matches } = rule;
    const protocol = findMatch(matches, "protocol");
    this.arp = protocol?.protocol === PROTOCOL_ARP;
    // Rules for ARP have IPv4 addresses, but ARP is not IPv4.
    this.#family = this.arp ? 0 : rule.family;
    this.#protocol = protocol?.protocol ?? ANY;
    this.#notProtocol = protocol?.not ?? false;
    this.stateful = matches.some((match) => match.kind === "state");
    const incoming = plain(findMatch(matches, "in"));
    const outgoing = plain(findMatch(matches, "out"));
    this.#in = incoming === undefined ? ANY : interfaces.assign(incoming.name);
    this.#out = outgoing === undefined ? ANY : interfaces.assign(outgoing.name);
    const source = version4(findMatch(matches, "source"));
    const destination = version4(findMatch(matches, "destination"));
    [this.#sourceMask, this.#source, this.#notSource] = maskOf(source);
    [this.#destinationMask, this.#destination, this.#notDestination] = maskOf(destination);
    const sourcePort = plain(findMatch(matches, "source-port"));
    const destinationPort = plain(findMatch(matches, "destination-port"));
    [this.#sourceFrom, this.#sourceTo] = rangeOf(sourcePort);
    [this.#destinationFrom, this.#destinationTo] = rangeOf(destinationPort);
    const inLine: readonly (Match | undefined)[] = [
      protocol,
      incoming,
      outgoing,
      source,
      destination,
      sourcePort,
      destinationPort,
    ];
    const rest = matches.filter((match) => !inLine.includes(match));
    // A limit is asked last, wherever it was written: what another condition refuses must not use it up.
    const limits = rest.filter((match) => match.kind === "limit");
    const others = rest.filter((match) => match.kind !== "limit");
    this.#conditions = [...others, ...limits].flatMap((match) => conditionOf(match) ?? []);
  }

  /** Whether all conditions hold. A limit that lets the packet pass has then been charged. */
  matches(packet: Packet): boolean {
    if (this.#protocol !== ANY && (packet.protocol === this.#protocol) === this.#notProtocol) return false;
    if (this.#family !== 0 && packet.version !== this.#family) return false;
    if (this.#in !== ANY && packet.inNumber !== this.#in) return false;
    if (this.#out !== ANY && packet.outNumber !== this.#out) return false;
    if ((((packet.source4 ^ this.#source) & this.#sourceMask) !== 0) !== this.#notSource) return false;
    if ((((packet.destination4 ^ this.#destination) & this.#destinationMask) !== 0) !== this.#notDestination)
      return false;
    // Without a port it is -1, which is below every range; without a range everything is in it.
    if (packet.sourcePort < this.#sourceFrom || packet.sourcePort > this.#sourceTo) return false;
    if (packet.destinationPort < this.#destinationFrom || packet.destinationPort > this.#destinationTo) return false;
    const conditions = this.#conditions;
    for (let n = 0; n < conditions.length; n++) if (!conditions[n]!.holds(packet)) return false;
    return true;
  }
}

/** The interface or port condition where it can be compared in line: not negated, no wildcard. */
function plain<M extends Match>(match: M | undefined): M | undefined {
  if (match === undefined || match.not) return undefined;
  return "wildcard" in match && match.wildcard ? undefined : match;
}

type AddressCondition = Extract<Match, { kind: "source" | "destination" }>;

function version4(match: AddressCondition | undefined): AddressCondition | undefined {
  return match?.address.version === 4 ? match : undefined;
}

/** Mask and network as signed 32-bit numbers, as ^ and & have them; a mask of 0 matches everything. */
function maskOf(match: AddressCondition | undefined): [mask: number, network: number, not: boolean] {
  if (match === undefined) return [0, 0, false];
  return [match.address.masks[3] | 0, match.address.words[3] | 0, match.not];
}

function rangeOf(match: Extract<Match, { kind: "source-port" | "destination-port" }> | undefined): [number, number] {
  return match === undefined ? [ANY, 65_535] : [match.range.from, match.range.to];
}

function within(ranges: readonly PortRange[], port: number): boolean {
  if (port < 0) return false;
  for (const range of ranges) if (port >= range.from && port <= range.to) return true;
  return false;
}

function interfaceCondition(match: Extract<Match, { kind: "in" | "out" }>): Condition {
  const prefix = match.wildcard ? match.name.slice(0, -1) : match.name;
  const { not, wildcard } = match;
  const isIn = match.kind === "in";
  return {
    holds(packet) {
      const port = isIn ? packet.in : packet.out;
      // Where the direction is not known yet no rule about it holds, negated or not.
      if (port === undefined) return false;
      return (wildcard ? port.name.startsWith(prefix) : port.name === prefix) !== not;
    },
  };
}

/** IPv6 in 32-bit words out of the head. */
function address6Condition(address: AddressMatch, isSource: boolean, not: boolean): Condition {
  const words = address.words.map((word) => word | 0);
  const masks = address.masks.map((mask) => mask | 0);
  return {
    holds(packet) {
      const { headers, head } = packet;
      if (headers === undefined || packet.version !== 6) return false;
      let at = isSource ? headers.source6 : headers.destination6;
      for (let n = 0; n < 4; n++, at += 4) {
        const word = (head[at]! << 24) | (head[at + 1]! << 16) | (head[at + 2]! << 8) | head[at + 3]!;
        if (((word ^ words[n]!) & masks[n]!) !== 0) return not;
      }
      return !not;
    },
  };
}

function portCondition(which: "sports" | "dports" | "ports", ranges: readonly PortRange[], not: boolean): Condition {
  return {
    holds(packet) {
      // A packet without ports matches neither way.
      if (packet.sourcePort < 0) return false;
      const source = which !== "dports" && within(ranges, packet.sourcePort);
      const destination = which !== "sports" && within(ranges, packet.destinationPort);
      return (source || destination) !== not;
    },
  };
}

function icmpCondition(match: Extract<Match, { kind: "icmp" }>): Condition {
  const protocol = match.version === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6;
  const { type, code, not } = match;
  return {
    holds({ headers, version, protocol: actual }) {
      if (headers === undefined || actual !== protocol || version !== match.version) return false;
      if (headers.icmpType < 0) return false;
      const same = (type < 0 || headers.icmpType === type) && (code < 0 || headers.icmpCode === code);
      return same !== not;
    },
  };
}

/** `-m limit`: a bucket of `burst` tokens, one every `costNs`. */
function limitCondition(costNs: number, burst: number): Condition {
  let tokens = burst;
  let at = Number.NEGATIVE_INFINITY;
  return {
    holds({ now }) {
      if (now > at) {
        tokens = Math.min(burst, tokens + (now - at) / costNs);
        at = now;
      }
      if (tokens < 1) return false;
      tokens -= 1;
      return true;
    },
  };
}

function macCondition(address: Uint8Array, not: boolean): Condition {
  return {
    holds({ head }) {
      for (let n = 0; n < 6; n++) if (head[6 + n] !== address[n]) return not;
      return !not;
    },
  };
}

function packetTypeCondition(type: "unicast" | "broadcast" | "multicast", not: boolean): Condition {
  return {
    holds({ headers }) {
      if (headers === undefined) return false;
      const actual = headers.isBroadcast ? "broadcast" : headers.isMulticast ? "multicast" : "unicast";
      return (actual === type) !== not;
    },
  };
}

/** iptables' `length` counts the IP packet, not the frame. */
function lengthCondition(range: PortRange, not: boolean): Condition {
  return {
    holds({ headers }) {
      const length = headers === undefined ? 0 : headers.l3End - headers.l3Offset;
      return (length >= range.from && length <= range.to) !== not;
    },
  };
}

function conditionOf(match: Match): Condition | undefined {
  switch (match.kind) {
    case "in":
    case "out":
      return interfaceCondition(match);
    case "source":
    case "destination":
      return address6Condition(match.address, match.kind === "source", match.not);
    case "fragment":
      return { holds: (packet) => packet.version === 4 && packet.laterFragment !== match.not };
    case "source-port":
      return portCondition("sports", [match.range], match.not);
    case "destination-port":
      return portCondition("dports", [match.range], match.not);
    case "multiport":
      return portCondition(match.which, match.ranges, match.not);
    case "tcp-flags":
      return {
        holds: ({ tcpFlags }) => tcpFlags >= 0 && ((tcpFlags & match.mask) === match.set) !== match.not,
      };
    case "icmp":
      return icmpCondition(match);
    case "state":
      return { holds: ({ state }) => ((state & match.states) !== 0) !== match.not };
    case "limit":
      return limitCondition(match.costNs, match.burst);
    case "mac":
      return macCondition(match.address, match.not);
    case "length":
      return lengthCondition(match.range, match.not);
    case "packet-type":
      return packetTypeCondition(match.type, match.not);
    default:
      return undefined;
  }
}
