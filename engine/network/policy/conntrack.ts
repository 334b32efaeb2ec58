/**
 * Connection tracking: which state (NEW, ESTABLISHED, RELATED, INVALID) a packet has, as netfilter's conntrack tells
 * it.
 *
 * A connection is remembered only once a packet of it was let through (`confirm`), so that what the firewall refused
 * does not open the way for answers. Timeouts are Linux's defaults. Nothing is allocated for a packet of a known
 * connection.
 */
import { randomInt } from "node:crypto";
import { formatIpv4, formatIpv6 } from "../address.ts";
import { FlowKey, isRequest, queryRole } from "./flow-key.ts";
import { Flow, FlowTable } from "./flow-table.ts";
import { FragmentCache } from "./fragment-cache.ts";
import type { Packet } from "./packet.ts";
import {
  PROTOCOL_ICMP,
  PROTOCOL_ICMPV6,
  PROTOCOL_TCP,
  PROTOCOL_UDP,
  protocolName,
  STATE_ESTABLISHED,
  STATE_INVALID,
  STATE_NEW,
  STATE_RELATED,
  STATE_UNTRACKED,
  TCP_FIN,
} from "./rule.ts";
import {
  areFlagsValid,
  BY_ORIGIN,
  BY_OTHER,
  canReopen,
  firstTcpState,
  isOpening,
  nextTcpState,
  TCP_UNACKNOWLEDGED_SECONDS,
  TcpState,
  tcpStateNames,
  tcpTimeouts,
} from "./tcp-state.ts";

export interface ConntrackOptions {
  /** Connections remembered at most. Default 16384. */
  readonly most?: number;
  /** Of these, opened through one interface. Default: a quarter. */
  readonly mostPerInterface?: number;
  /** Seed of the hash; random unless a test wants its own. */
  readonly seed?: number;
}

/** One connection, to be shown. */
export interface ConnectionFacts {
  readonly protocol: string;
  /** TCP's state; empty for others. */
  readonly state: string;
  readonly source: string;
  readonly destination: string;
  /** -1 where there are none; the identifier of an ICMP query in both. */
  readonly sourcePort: number;
  readonly destinationPort: number;
  readonly replied: boolean;
  readonly secondsLeft: number;
  readonly packets: number;
  readonly bytes: number;
}

const NS_PER_SECOND = 1e9;
/** Seconds; Linux's nf_conntrack_{udp,udp_stream,icmp,generic}_timeout. */
const UDP_TIMEOUT = 30;
const UDP_STREAM_TIMEOUT = 120;
const ICMP_TIMEOUT = 30;
const GENERIC_TIMEOUT = 600;

export class Conntrack {
  readonly #table: FlowTable;
  readonly #fragments: FragmentCache;
  readonly #key = new FlowKey();
  #pending: Flow | undefined;
  /** Packets found INVALID. */
  invalid = 0;

  constructor(options: ConntrackOptions = {}) {
    const most = options.most ?? 16_384;
    const seed = options.seed ?? randomInt(2 ** 32);
    this.#table = new FlowTable(most, options.mostPerInterface ?? Math.ceil(most / 4), seed);
    this.#fragments = new FragmentCache(seed ^ 0x5bd1_e995);
  }

  /** Connections remembered now, dead ones that nobody has met since included. */
  get size(): number {
    return this.#table.size;
  }

  /** Given up early for want of room, and new ones that found none. */
  get evicted(): number {
    return this.#table.evicted;
  }

  get refused(): number {
    return this.#table.refused;
  }

  /**
   * Finds a packet's state and lets its connection take notice of it.
   * @param owner number of the interface that it came in from
   * @returns one of STATE_*
   */
  track(packet: Packet, owner: number): number {
    this.#pending = undefined;
    const { headers } = packet;
    if (packet.version === 0 || headers === undefined) return STATE_UNTRACKED;
    let state: number;
    if (packet.laterFragment) state = this.#fragments.find(packet) || STATE_INVALID;
    else {
      state = this.#transport(packet, owner);
      if (headers.isFragment) this.#fragments.remember(packet, state);
    }
    if (state === STATE_INVALID) this.invalid++;
    return state;
  }

  /** The packet last tracked was let through: a new connection is remembered from now on. */
  confirm(now: number): void {
    const flow = this.#pending;
    if (flow === undefined) return;
    this.#pending = undefined;
    this.#table.insert(flow, now);
  }

  /** An interface is gone, and what it opened with it. */
  removeOwner(owner: number): void {
    this.#pending = undefined;
    this.#table.removeOwner(owner);
  }

  #transport(packet: Packet, owner: number): number {
    const { protocol, version } = packet;
    const isIcmp = protocol === (version === 4 ? PROTOCOL_ICMP : PROTOCOL_ICMPV6);
    if (isIcmp) return this.#icmp(packet, owner);
    if (protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP) {
      if (packet.sourcePort < 0) return STATE_INVALID;
      this.#key.setPacket(packet, packet.sourcePort, packet.destinationPort, 0);
      if (protocol === PROTOCOL_TCP) return this.#tcp(packet, owner);
      return this.#twoWay(packet, owner, UDP_TIMEOUT, UDP_STREAM_TIMEOUT);
    }
    this.#key.setPacket(packet, 0, 0, 0);
    return this.#twoWay(packet, owner, GENERIC_TIMEOUT, GENERIC_TIMEOUT);
  }

  /** What has no states of its own: new until somebody answers. */
  #twoWay(packet: Packet, owner: number, timeout: number, answered: number): number {
    const hash = this.#table.hashOf(this.#key.words);
    const flow = this.#table.find(this.#key.words, hash, packet.now);
    if (flow === undefined) return this.#open(packet, hash, owner, timeout);
    const state = this.#seen(flow, packet);
    if (flow.seenReply) this.#table.assure(flow);
    flow.expires = packet.now + (flow.seenReply ? answered : timeout) * NS_PER_SECOND;
    return state;
  }

  #tcp(packet: Packet, owner: number): number {
    const { tcpFlags: flags, now } = packet;
    if (flags < 0 || !areFlagsValid(flags)) return STATE_INVALID;
    const hash = this.#table.hashOf(this.#key.words);
    let flow = this.#table.find(this.#key.words, hash, now);
    if (flow !== undefined && canReopen(flow.tcpState, flags)) {
      this.#table.remove(flow);
      flow = undefined;
    }
    if (flow === undefined) {
      if (!isOpening(flags)) return STATE_INVALID;
      const first = firstTcpState(flags);
      const state = this.#open(packet, hash, owner, tcpTimeout(first, false));
      if (this.#pending !== undefined) this.#pending.tcpState = first;
      return state;
    }
    const fromOrigin = flow.originFirst === this.#key.sourceFirst;
    const finished = flow.finished | ((flags & TCP_FIN) === 0 ? 0 : fromOrigin ? BY_ORIGIN : BY_OTHER);
    const next = nextTcpState(flow.tcpState, flags, fromOrigin, finished);
    if (next < 0) return STATE_INVALID;
    flow.finished = finished;
    flow.tcpState = next;
    const state = this.#seen(flow, packet);
    if (next === TcpState.established && flow.seenReply) this.#table.assure(flow);
    flow.expires = now + tcpTimeout(next, flow.seenReply) * NS_PER_SECOND;
    return state;
  }

  #icmp(packet: Packet, owner: number): number {
    const { headers, version } = packet;
    if (headers === undefined || headers.icmpType < 0) return STATE_INVALID;
    const type = headers.icmpType;
    const role = queryRole(version, type);
    if (role !== 0) return this.#icmpQuery(packet, owner, role);
    if (isIcmpError(version, type)) return this.#icmpError(packet);
    // Neighbour discovery and multicast listeners (RFC 4861, 2710, 3810) belong to no connection.
    if (version === 6 && (type === 143 || (type >= 130 && type <= 137))) return STATE_UNTRACKED;
    return STATE_INVALID;
  }

  #icmpQuery(packet: Packet, owner: number, role: number): number {
    const identifier = identifierOf(packet);
    this.#key.setPacket(packet, identifier, identifier, role);
    const hash = this.#table.hashOf(this.#key.words);
    const flow = this.#table.find(this.#key.words, hash, packet.now);
    if (flow === undefined) {
      return isRequest(role) ? this.#open(packet, hash, owner, ICMP_TIMEOUT) : STATE_INVALID;
    }
    flow.expires = packet.now + ICMP_TIMEOUT * NS_PER_SECOND;
    return this.#seen(flow, packet);
  }

  /** An error is RELATED to the connection of the packet that it quotes, and does not prolong it. */
  #icmpError(packet: Packet): number {
    if (!this.#key.setQuoted(packet)) return STATE_INVALID;
    const flow = this.#table.find(this.#key.words, this.#table.hashOf(this.#key.words), packet.now);
    return flow === undefined ? STATE_INVALID : STATE_RELATED;
  }

  #open(packet: Packet, hash: number, owner: number, seconds: number): number {
    const flow = new Flow(this.#key.words, hash, this.#key.sourceFirst, this.#table.owner(owner));
    flow.expires = packet.now + seconds * NS_PER_SECOND;
    flow.packets = 1;
    flow.bytes = packet.length;
    this.#pending = flow;
    return STATE_NEW;
  }

  #seen(flow: Flow, packet: Packet): number {
    flow.packets++;
    flow.bytes += packet.length;
    if (flow.originFirst === this.#key.sourceFirst) return flow.seenReply ? STATE_ESTABLISHED : STATE_NEW;
    flow.seenReply = true;
    return STATE_ESTABLISHED;
  }

  /** The living connections, at most so many. */
  list(now: number, most = 1000): ConnectionFacts[] {
    const living = this.#table.flows().filter((flow) => flow.expires > now);
    return living.slice(0, most).map((flow) => factsOf(flow, now));
  }
}

function tcpTimeout(state: number, replied: boolean): number {
  const seconds = tcpTimeouts[state] ?? 0;
  return replied ? seconds : Math.min(seconds, TCP_UNACKNOWLEDGED_SECONDS);
}

/** The types that quote a packet (RFC 792, 4443). */
function isIcmpError(version: number, type: number): boolean {
  if (version === 6) return type >= 1 && type <= 4;
  return type === 3 || type === 4 || type === 5 || type === 11 || type === 12;
}

function identifierOf({ head, headers }: Packet): number {
  const at = (headers?.l4Offset ?? 0) + 4;
  return (head[at]! << 8) | head[at + 1]!;
}

function addressText(key: Int32Array, version: number, at: number): string {
  if (version === 4) return formatIpv4(key[at + 3]! >>> 0);
  const bytes = new Uint8Array(16);
  const view = new DataView(bytes.buffer);
  for (let n = 0; n < 4; n++) view.setInt32(n * 4, key[at + n]!);
  return formatIpv6(bytes);
}

function factsOf(flow: Flow, now: number): ConnectionFacts {
  const { key } = flow;
  const kind = key[10]!;
  const version = (kind >> 8) & 0xf;
  const protocol = kind & 0xff;
  const hasPorts = protocol === PROTOCOL_TCP || protocol === PROTOCOL_UDP || kind >> 16 !== 0;
  const [from, to] = flow.originFirst ? [0, 1] : [1, 0];
  return {
    protocol: protocolName(protocol),
    state: protocol === PROTOCOL_TCP ? (tcpStateNames[flow.tcpState] ?? "") : "",
    source: addressText(key, version, from * 4),
    destination: addressText(key, version, to * 4),
    sourcePort: hasPorts ? key[8 + from]! : -1,
    destinationPort: hasPorts ? key[8 + to]! : -1,
    replied: flow.seenReply,
    secondsLeft: Math.ceil((flow.expires - now) / NS_PER_SECOND),
    packets: flow.packets,
    bytes: flow.bytes,
  };
}
