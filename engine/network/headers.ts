/**
 * What the first bytes of a frame say: Ethernet, 802.1Q tags, ARP, IPv4, IPv6, TCP, UDP, ICMP and neighbour discovery.
 *
 * Only `frame.head` is read, which no sender can change any more, and never past `frame.headLength`. Every length that a
 * header claims is checked against what there is. Checksums are not looked at: offload.ts does that.
 *
 * Sources: IEEE 802.1Q; RFC 826 (ARP), 791 and 1858/3128 (IPv4 and its fragments), 8200 and 7112 (IPv6), 4861 and 6980
 * (neighbour discovery), 9293 (TCP), 768 (UDP), 792 and 4443 (ICMP).
 */
import type { Frame } from "../device/net/frame.ts";
import { HeaderFields } from "./headers-fields.ts";

export const EtherType = {
  ipv4: 0x0800,
  arp: 0x0806,
  reverseArp: 0x8035,
  vlan: 0x8100,
  ipv6: 0x86dd,
  serviceVlan: 0x88a8,
  /** Below this, the field is a length and an LLC header follows. */
  least: 0x0600,
} as const;

export const Protocol = { icmp: 1, igmp: 2, tcp: 6, udp: 17, ipv6: 41, esp: 50, ah: 51, icmp6: 58, none: 59 } as const;

export const TcpFlag = { fin: 1, syn: 2, rst: 4, psh: 8, ack: 16, urg: 32, ece: 64, cwr: 128 } as const;

/** ICMPv6 messages of neighbour discovery. */
export const NdType = { routerSolicit: 133, routerAdvert: 134, solicit: 135, advert: 136, redirect: 137 } as const;

/** Why a frame's headers are malformed; also the name under which it is counted. */
export type HeaderError =
  | "ethernet-short"
  | "head-short"
  | "vlan-depth"
  | "arp-malformed"
  | "ip4-header"
  | "ip4-length"
  | "ip6-header"
  | "ip6-length"
  | "ip6-extension"
  | "fragment-tiny"
  | "fragment-range"
  | "tcp-malformed"
  | "udp-malformed"
  | "icmp-malformed"
  | "nd-malformed"
  | "nd-fragment";

const MOST_EXTENSIONS = 8;
const EXTENSION_HOP_BY_HOP = 0;
const EXTENSION_ROUTING = 43;
const EXTENSION_FRAGMENT = 44;
const EXTENSION_DESTINATION = 60;
const ND_OPTION_SOURCE = 1;
const ND_OPTION_TARGET = 2;
const LONGEST_IP = 65_535;

/** Big-endian fields; the caller has checked the range. */
export function u16(bytes: Uint8Array, at: number): number {
  return (bytes[at]! << 8) | bytes[at + 1]!;
}

/** See u16. @returns an unsigned number */
export function u32(bytes: Uint8Array, at: number): number {
  return ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
}

/** Bytes from ICMPv6's type to the first option, by message; 0 for what is not neighbour discovery. */
function ndOptionsAt(type: number): number {
  switch (type) {
    case NdType.routerSolicit:
      return 8;
    case NdType.routerAdvert:
      return 16;
    case NdType.solicit:
    case NdType.advert:
      return 24;
    case NdType.redirect:
      return 40;
    default:
      return 0;
  }
}

/**
 * The headers of one frame at a time; one object serves for all frames, and parsing allocates nothing.
 */
export class Headers extends HeaderFields {
  /**
   * Reads a frame's headers into the fields.
   * @returns undefined, or what is malformed
   */
  parse(frame: Frame): HeaderError | undefined {
    this.clear();
    const { head } = frame;
    if (frame.length < 14) return "ethernet-short";
    if (frame.headLength < 14) return "head-short";
    this.destinationHigh = u16(head, 0);
    this.destinationLow = u32(head, 2);
    this.sourceHigh = u16(head, 6);
    this.sourceLow = u32(head, 8);
    let type = u16(head, 12);
    let at = 14;
    while (type === EtherType.vlan || type === EtherType.serviceVlan) {
      if (this.vlanTags === 2) return "vlan-depth";
      if (frame.length < at + 4) return "ethernet-short";
      if (frame.headLength < at + 4) return "head-short";
      const tag = u16(head, at);
      if (this.vlanTags === 0) {
        this.vlanType = type;
        this.vlanTag = tag;
        this.vlan = tag & 0xfff;
      } else this.innerVlan = tag & 0xfff;
      this.vlanTags++;
      type = u16(head, at + 2);
      at += 4;
    }
    this.etherType = type;
    this.l3Offset = at;
    this.l3End = frame.length;
    this.payloadOffset = at;
    this.payloadLength = frame.length - at;
    if (type === EtherType.ipv4) return this.#ipv4(frame, at);
    if (type === EtherType.ipv6) return this.#ipv6(frame, at);
    if (type === EtherType.arp || type === EtherType.reverseArp) return this.#arp(frame, at);
    return undefined;
  }

  #arp(frame: Frame, at: number): HeaderError | undefined {
    const { head } = frame;
    if (frame.length < at + 28) return "arp-malformed";
    if (frame.headLength < at + 28) return "head-short";
    // Hardware type Ethernet, protocol IPv4, address lengths 6 and 4: nothing else exists on an Ethernet.
    if (u16(head, at) !== 1 || u16(head, at + 2) !== EtherType.ipv4 || u16(head, at + 4) !== 0x0604) {
      return "arp-malformed";
    }
    this.arpOperation = u16(head, at + 6);
    this.arpSenderHardware = at + 8;
    this.arpSenderAddress = u32(head, at + 14);
    this.arpTargetHardware = at + 18;
    this.arpTargetAddress = u32(head, at + 24);
    return undefined;
  }

  #ipv4(frame: Frame, at: number): HeaderError | undefined {
    const { head } = frame;
    if (frame.length < at + 20) return "ip4-length";
    if (frame.headLength < at + 20) return "head-short";
    const size = (head[at]! & 0xf) * 4;
    if (head[at]! >> 4 !== 4 || size < 20) return "ip4-header";
    const total = u16(head, at + 2);
    if (total < size || at + total > frame.length) return "ip4-length";
    if (at + size > frame.headLength) return "head-short";
    this.ipVersion = 4;
    this.trafficClass = head[at + 1]!;
    this.identification = u16(head, at + 4);
    const fragment = u16(head, at + 6);
    this.hopLimit = head[at + 8]!;
    this.protocol = head[at + 9]!;
    this.source4 = u32(head, at + 12);
    this.destination4 = u32(head, at + 16);
    this.l3End = at + total;
    return this.#transport(frame, at + size, fragment & 0x1fff, (fragment & 0x2000) !== 0, size);
  }

  #ipv6(frame: Frame, at: number): HeaderError | undefined {
    const { head } = frame;
    if (frame.length < at + 40) return "ip6-length";
    if (frame.headLength < at + 40) return "head-short";
    if (head[at]! >> 4 !== 6) return "ip6-header";
    const end = at + 40 + u16(head, at + 4);
    if (end > frame.length) return "ip6-length";
    this.ipVersion = 6;
    this.trafficClass = (u16(head, at) >> 4) & 0xff;
    this.hopLimit = head[at + 7]!;
    this.source6 = at + 8;
    this.destination6 = at + 24;
    this.l3End = end;
    return this.#extensions(frame, at + 40, end, head[at + 6]!);
  }

  /** Walks the chain of IPv6's extension headers up to the transport header or a later fragment's data. */
  #extensions(frame: Frame, start: number, end: number, first: number): HeaderError | undefined {
    const { head } = frame;
    let next = first;
    let at = start;
    let fragment = 0;
    let more = false;
    let fragmented = false;
    for (let count = 0; ; count++) {
      const isFragmentHeader = next === EXTENSION_FRAGMENT;
      const isOther =
        next === EXTENSION_HOP_BY_HOP ||
        next === EXTENSION_ROUTING ||
        next === EXTENSION_DESTINATION ||
        next === Protocol.ah;
      if (!isFragmentHeader && !isOther) break;
      if (count === MOST_EXTENSIONS || (next === EXTENSION_HOP_BY_HOP && count !== 0)) return "ip6-extension";
      // RFC 7112: the first fragment holds the whole chain, or nobody can judge what the rest is.
      if (at + 8 > end) return more ? "fragment-tiny" : "ip6-extension";
      if (at + 8 > frame.headLength) return "head-short";
      let size = 8;
      if (isFragmentHeader) {
        if (fragmented) return "ip6-extension";
        fragmented = true;
        fragment = u16(head, at + 2) >> 3;
        more = (head[at + 3]! & 1) !== 0;
        this.identification = u32(head, at + 4);
      } else size = next === Protocol.ah ? (head[at + 1]! + 2) * 4 : (head[at + 1]! + 1) * 8;
      next = head[at]!;
      at += size;
      if (at > end) return more ? "fragment-tiny" : "ip6-extension";
      if (fragment !== 0) break;
    }
    if (at > frame.headLength) return "head-short";
    this.protocol = next;
    // Where a fragment lies counts from the fragment header; what stands before that header is no part of the data.
    return this.#transport(frame, at, fragment, more, 0);
  }

  /** `headerSize`: bytes that the reassembled packet's length field counts besides the data. */
  #transport(frame: Frame, at: number, fragment: number, more: boolean, headerSize: number): HeaderError | undefined {
    const length = this.l3End - at;
    this.payloadOffset = at;
    this.payloadLength = length;
    this.isFragment = fragment !== 0 || more;
    this.fragmentOffset = fragment * 8;
    this.moreFragments = more;
    if (fragment !== 0) {
      // A packet that would reassemble past 64 KiB; and TCP's flags in a fragment of their own (RFC 3128).
      if (headerSize + fragment * 8 + length > LONGEST_IP) return "fragment-range";
      if (fragment === 1 && this.protocol === Protocol.tcp) return "fragment-tiny";
      return undefined;
    }
    switch (this.protocol) {
      case Protocol.tcp:
        return this.#tcp(frame, at, length);
      case Protocol.udp:
        return this.#udp(frame, at, length);
      case Protocol.icmp:
        return this.ipVersion === 4 ? this.#icmp(frame, at, length) : undefined;
      case Protocol.icmp6:
        return this.ipVersion === 6 ? this.#icmp(frame, at, length) : undefined;
      default:
        return undefined;
    }
  }

  #tcp(frame: Frame, at: number, length: number): HeaderError | undefined {
    const { head } = frame;
    if (length < 20) return this.moreFragments ? "fragment-tiny" : "tcp-malformed";
    if (at + 20 > frame.headLength) return "head-short";
    const size = (head[at + 12]! >> 4) * 4;
    if (size < 20) return "tcp-malformed";
    if (size > length) return this.moreFragments ? "fragment-tiny" : "tcp-malformed";
    if (at + size > frame.headLength) return "head-short";
    this.l4Offset = at;
    this.sourcePort = u16(head, at);
    this.destinationPort = u16(head, at + 2);
    this.tcpSequence = u32(head, at + 4);
    this.tcpAcknowledgement = u32(head, at + 8);
    this.tcpFlags = head[at + 13]!;
    this.tcpWindow = u16(head, at + 14);
    this.payloadOffset = at + size;
    this.payloadLength = length - size;
    return undefined;
  }

  #udp(frame: Frame, at: number, length: number): HeaderError | undefined {
    const { head } = frame;
    if (length < 8) return this.moreFragments ? "fragment-tiny" : "udp-malformed";
    if (at + 8 > frame.headLength) return "head-short";
    const claimed = u16(head, at + 4);
    if (claimed < 8 || (claimed > length && !this.moreFragments)) return "udp-malformed";
    this.l4Offset = at;
    this.sourcePort = u16(head, at);
    this.destinationPort = u16(head, at + 2);
    this.payloadOffset = at + 8;
    this.payloadLength = (this.moreFragments ? length : claimed) - 8;
    return undefined;
  }

  #icmp(frame: Frame, at: number, length: number): HeaderError | undefined {
    const { head } = frame;
    // Four bytes are ICMPv6's smallest message (RFC 4443, 2.1); eight are the smallest of every type in use.
    if (length < 8) return this.moreFragments ? "fragment-tiny" : "icmp-malformed";
    if (at + 8 > frame.headLength) return "head-short";
    this.l4Offset = at;
    this.icmpType = head[at]!;
    this.icmpCode = head[at + 1]!;
    this.payloadOffset = at + 8;
    this.payloadLength = length - 8;
    const isEcho = this.ipVersion === 4 ? this.icmpType === 0 || this.icmpType === 8 : (this.icmpType & 0xfe) === 128;
    if (isEcho) this.icmpIdentifier = u16(head, at + 4);
    return this.ipVersion === 6 ? this.#neighbourDiscovery(frame, at, length) : undefined;
  }

  #neighbourDiscovery(frame: Frame, at: number, length: number): HeaderError | undefined {
    const { head } = frame;
    const fixed = ndOptionsAt(this.icmpType);
    if (fixed === 0) return undefined;
    // RFC 6980: these messages never come in fragments.
    if (this.isFragment) return "nd-fragment";
    if (length < fixed) return "nd-malformed";
    if (at + fixed > frame.headLength) return "head-short";
    if (this.icmpType >= NdType.solicit) this.ndTarget = at + 8;
    const end = at + length;
    let option = at + fixed;
    while (option < end) {
      if (option + 8 > end) return "nd-malformed";
      if (option + 8 > frame.headLength) {
        this.ndUnclear = true;
        return undefined;
      }
      const size = head[option + 1]! * 8;
      if (size === 0 || option + size > end) return "nd-malformed";
      const kind = head[option]!;
      if (kind === ND_OPTION_SOURCE) {
        if (this.ndSourceLink !== 0) this.ndUnclear = true;
        this.ndSourceLink = option + 2;
      } else if (kind === ND_OPTION_TARGET) {
        if (this.ndTargetLink !== 0) this.ndUnclear = true;
        this.ndTargetLink = option + 2;
      }
      option += size;
    }
    return undefined;
  }
}
