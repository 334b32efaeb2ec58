/** What capture filters ask of a frame's headers: protocols, hosts, networks, ports, MAC addresses, VLANs. */
import { type Cidr4, type Cidr6, contains4, contains6, type MacAddress } from "../address.ts";
import { EtherType, type Headers, Protocol } from "../headers.ts";
import type { FrameTest } from "./filter-value.ts";

/** Which ends of a frame's way have to match. */
export type Ends = "either" | "both" | "source" | "destination";

/** A test of one end. */
type EndTest = (headers: Headers, source: boolean, head: Uint8Array) => boolean;

function atEnds(ends: Ends, test: EndTest): FrameTest {
  switch (ends) {
    case "source":
      return (frame, headers) => test(headers, true, frame.head);
    case "destination":
      return (frame, headers) => test(headers, false, frame.head);
    case "both":
      return (frame, headers) => test(headers, true, frame.head) && test(headers, false, frame.head);
    case "either":
      return (frame, headers) => test(headers, true, frame.head) || test(headers, false, frame.head);
  }
}

/** Protocols that a filter names by one word, with the test that the word alone is. */
export const PROTOCOLS: Readonly<Record<string, FrameTest>> = {
  ether: () => true,
  ip: (_, headers) => headers.ipVersion === 4,
  ip6: (_, headers) => headers.ipVersion === 6,
  arp: (_, headers) => headers.etherType === EtherType.arp,
  rarp: (_, headers) => headers.etherType === EtherType.reverseArp,
  tcp: (_, headers) => headers.protocol === Protocol.tcp,
  udp: (_, headers) => headers.protocol === Protocol.udp,
  icmp: (_, headers) => headers.protocol === Protocol.icmp && headers.ipVersion === 4,
  icmp6: (_, headers) => headers.protocol === Protocol.icmp6 && headers.ipVersion === 6,
  igmp: (_, headers) => headers.protocol === Protocol.igmp && headers.ipVersion === 4,
  esp: (_, headers) => headers.protocol === Protocol.esp,
  ah: (_, headers) => headers.protocol === Protocol.ah,
};

/** Numbers of "ip proto …" by name. */
export const PROTOCOL_NUMBERS: Readonly<Record<string, number>> = { ...Protocol, sctp: 132 };
/** Numbers of "ether proto …" by name. */
export const ETHER_TYPES: Readonly<Record<string, number>> = {
  ip: EtherType.ipv4,
  ip6: EtherType.ipv6,
  arp: EtherType.arp,
  rarp: EtherType.reverseArp,
};
/** Ports by name: the ones that people write. */
export const SERVICES: Readonly<Record<string, number>> = {
  ftp: 21,
  ssh: 22,
  telnet: 23,
  smtp: 25,
  domain: 53,
  bootps: 67,
  bootpc: 68,
  tftp: 69,
  http: 80,
  ntp: 123,
  snmp: 161,
  https: 443,
  syslog: 514,
};

/** Networks and hosts of IPv4; without a protocol also those that ARP speaks of. */
export function inNetwork4(network: Cidr4, ends: Ends, protocol: string | undefined): FrameTest {
  const ip = protocol === undefined || !(protocol === "arp" || protocol === "rarp");
  const arp = protocol === undefined || protocol === "arp" ? EtherType.arp : -1;
  const rarp = protocol === undefined || protocol === "rarp" ? EtherType.reverseArp : -1;
  return atEnds(ends, (headers, source) => {
    if (headers.ipVersion === 4) return ip && contains4(network, source ? headers.source4 : headers.destination4);
    if (headers.arpSenderHardware === 0 || (headers.etherType !== arp && headers.etherType !== rarp)) return false;
    return contains4(network, source ? headers.arpSenderAddress : headers.arpTargetAddress);
  });
}

export function inNetwork6(network: Cidr6, ends: Ends): FrameTest {
  return atEnds(ends, (headers, source, head) => {
    return headers.ipVersion === 6 && contains6(network, head, source ? headers.source6 : headers.destination6);
  });
}

export function hasMac(mac: MacAddress, ends: Ends): FrameTest {
  return atEnds(ends, (headers, source) => {
    return source
      ? headers.sourceHigh === mac.high && headers.sourceLow === mac.low
      : headers.destinationHigh === mac.high && headers.destinationLow === mac.low;
  });
}

/** Ports `from` to `to` of TCP and UDP. */
export function hasPort(from: number, to: number, ends: Ends): FrameTest {
  return atEnds(ends, (headers, source) => {
    const port = source ? headers.sourcePort : headers.destinationPort;
    return port >= from && port <= to;
  });
}

/** A protocol number of IPv4 or IPv6; of either without a version. */
export function hasProtocol(number: number, version: 4 | 6 | undefined): FrameTest {
  return (_, headers) =>
    headers.protocol === number && (version === undefined ? headers.ipVersion !== 0 : headers.ipVersion === version);
}

export function hasEtherType(type: number): FrameTest {
  return (_, headers) => headers.etherType === type;
}

/** A tag, on either level, with this id or with any. */
export function hasVlan(id: number | undefined): FrameTest {
  if (id === undefined) return (_, headers) => headers.vlanTags > 0;
  return (_, headers) => headers.vlan === id || headers.innerVlan === id;
}

/** "broadcast" and "multicast", of a layer. */
export const GROUPS: Readonly<Record<string, FrameTest>> = {
  "ether broadcast": (_, headers) => headers.isBroadcast,
  "ether multicast": (_, headers) => headers.isMulticast,
  // Only the limited broadcast: a network's own depends on a mask that the frame does not have.
  "ip broadcast": (_, headers) => headers.ipVersion === 4 && headers.destination4 === 0xffff_ffff,
  "ip multicast": (_, headers) => headers.ipVersion === 4 && headers.destination4 >>> 28 === 0xe,
  "ip6 multicast": (frame, headers) => headers.ipVersion === 6 && frame.head[headers.destination6] === 0xff,
};
