import { describe, expect, test } from "vitest";
import { Frame } from "../../engine/device/net/frame.ts";
import { parseCidr, parseMac } from "../../engine/network/address.ts";
import { Headers } from "../../engine/network/headers.ts";
import { checkFrame, type ValidationError, type ValidationRules, Validator } from "../../engine/network/validation.ts";
import {
  arp,
  BROADCAST,
  concat,
  type EthernetFields,
  ethernet,
  hex,
  ipv4,
  ipv6,
  MAC_A,
  MAC_B,
  neighbour,
  tcp,
  udp,
} from "./headers-frames.ts";

const LINK_LOCAL_A = "fe80::216:3eff:fe00:a";
const LINK_LOCAL_B = "fe80::216:3eff:fe00:b";
const listed: ValidationRules = { mac: MAC_A, addresses: ["10.0.0.1", "fd00::1", "10.9.0.0/16"].map(parseCidr) };

function verdict(rules: ValidationRules, bytes: Uint8Array): ValidationError | undefined {
  const frame = Frame.of(bytes);
  const headers = new Headers();
  return headers.parse(frame) ?? checkFrame(frame, headers) ?? new Validator(rules).check(frame, headers);
}

const data = hex("00");
const nobody = "::";
const v4 = (from: string, fields: EthernetFields = {}): Uint8Array =>
  ethernet(0x800, ipv4(udp(9, 9, data), { from }), fields);
const v6 = (from: string): Uint8Array => ethernet(0x86dd, ipv6(udp(9, 9, data), { from }));
const nd = (from: string, message: Uint8Array): Uint8Array => ethernet(0x86dd, ipv6(message, { from, next: 58 }));
const dhcp = (fields: {
  ports?: [number, number];
  to?: string;
  from?: string;
  protocol?: number;
  fragment?: number;
}) => {
  const [from, to] = fields.ports ?? [68, 67];
  const packet = {
    from: fields.from ?? "0.0.0.0",
    to: fields.to ?? "255.255.255.255",
    protocol: fields.protocol ?? 17,
  };
  return ethernet(0x800, ipv4(udp(from, to, data), { ...packet, fragment: fields.fragment ?? 0 }), { to: BROADCAST });
};
/** MLDv2's report as it comes while an address is tried: behind a router alert option. */
const listenerReport = ethernet(
  0x86dd,
  ipv6(concat(hex("3a00050200000100"), hex("8f00000000000000")), { from: nobody, to: "ff02::16", next: 0 }),
);

const rows: [string, ValidationError | undefined, Uint8Array][] = [
  ["own IPv4 address", undefined, v4("10.0.0.1")],
  ["an address of the own network", undefined, v4("10.9.200.1")],
  ["another's IPv4 address", "ip4-spoofed", v4("10.0.0.2")],
  ["another's IPv4 address behind a tag", "ip4-spoofed", v4("10.0.0.2", { tags: [[0x8100, 0]] })],
  [
    "another's IPv4 address behind two tags",
    "ip4-spoofed",
    v4("10.0.0.2", {
      tags: [
        [0x88a8, 0],
        [0x8100, 0],
      ],
    }),
  ],
  ["another's MAC", "mac-spoofed", v4("10.0.0.1", { from: MAC_B })],
  ["one bit of the MAC's front", "mac-spoofed", v4("10.0.0.1", { from: parseMac("02:16:3e:00:00:0a") })],
  ["a group's MAC", "mac-group-source", v4("10.0.0.1", { from: parseMac("01:16:3e:00:00:0a") })],
  ["broadcast as source", "mac-group-source", v4("10.0.0.1", { from: BROADCAST })],
  ["nobody's MAC", "mac-group-source", v4("10.0.0.1", { from: parseMac("00:00:00:00:00:00") })],
  ["to spanning tree", "mac-reserved", v4("10.0.0.1", { to: parseMac("01:80:c2:00:00:00") })],
  ["to LLDP", "mac-reserved", v4("10.0.0.1", { to: parseMac("01:80:c2:00:00:0e") })],
  ["to a group just after", undefined, v4("10.0.0.1", { to: parseMac("01:80:c2:00:00:10") })],
  ["DHCP discovery", undefined, dhcp({})],
  ["from nobody, other ports", "ip4-spoofed", dhcp({ ports: [68, 69] })],
  ["from nobody, to somebody", "ip4-spoofed", dhcp({ to: "10.0.0.2" })],
  ["from nobody, a fragment", "ip4-spoofed", dhcp({ fragment: 0x2000 })],
  ["ARP request", undefined, ethernet(0x806, arp())],
  ["ARP reply", undefined, ethernet(0x806, arp({ operation: 2 }))],
  ["ARP probe", undefined, ethernet(0x806, arp({ address: "0.0.0.0" }))],
  ["ARP reply from nobody", "arp-address-spoofed", ethernet(0x806, arp({ operation: 2, address: "0.0.0.0" }))],
  ["ARP for another's address", "arp-address-spoofed", ethernet(0x806, arp({ operation: 2, address: "10.0.0.2" }))],
  ["ARP with another's MAC", "arp-mac-spoofed", ethernet(0x806, arp({ hardware: MAC_B }))],
  ["ARP of another operation", "arp-operation", ethernet(0x806, arp({ operation: 9 }))],
  ["reverse ARP", "arp-operation", ethernet(0x8035, arp())],
  ["ARP cut off", "arp-malformed", ethernet(0x806, arp().subarray(0, 20))],
  ["own IPv6 address", undefined, v6("fd00::1")],
  ["another's IPv6 address", "ip6-spoofed", v6("fd00::2")],
  ["own link-local address", undefined, v6(LINK_LOCAL_A)],
  ["another's link-local address", "ip6-spoofed", v6(LINK_LOCAL_B)],
  ["UDP from ::", "ip6-spoofed", v6(nobody)],
  ["solicitation", undefined, nd("fd00::1", neighbour(135, "fd00::2", [1, MAC_A]))],
  ["solicitation with another's MAC", "nd-mac-spoofed", nd("fd00::1", neighbour(135, "fd00::2", [1, MAC_B]))],
  ["duplicate detection", undefined, nd(nobody, neighbour(135, "fd00::1"))],
  ["duplicate detection of the link-local address", undefined, nd(nobody, neighbour(135, LINK_LOCAL_A))],
  ["duplicate detection of another's", "nd-address-spoofed", nd(nobody, neighbour(135, "fd00::2"))],
  ["duplicate detection with a MAC", "ip6-spoofed", nd(nobody, neighbour(135, "fd00::1", [1, MAC_A]))],
  ["advertisement", undefined, nd("fd00::1", neighbour(136, "fd00::1", [2, MAC_A]))],
  ["advertisement of another's", "nd-address-spoofed", nd("fd00::1", neighbour(136, "fd00::2", [2, MAC_A]))],
  ["advertisement with another's MAC", "nd-mac-spoofed", nd("fd00::1", neighbour(136, "fd00::1", [2, MAC_B]))],
  [
    "two MACs, the second another's",
    "nd-unclear",
    nd("fd00::1", concat(neighbour(136, "fd00::1", [2, MAC_A]), hex("020100163e00000b"))),
  ],
  ["router solicitation from ::", undefined, nd(nobody, hex("8500000000000000"))],
  ["router advertisement", "nd-router", nd(LINK_LOCAL_A, concat(hex("8600000040000708"), new Uint8Array(8)))],
  ["redirect", "nd-router", nd(LINK_LOCAL_A, concat(neighbour(137, "fd00::9"), new Uint8Array(16)))],
  ["listener report from ::", undefined, listenerReport],
  [
    "LLC",
    "other-protocol",
    ethernet(0x0026, concat(hex("aaaa03000000 0800"), ipv4(udp(9, 9, data), { from: "10.0.0.2" }))),
  ],
  ["experimental protocol", "other-protocol", ethernet(0x88b5, data)],
];

describe("an interface with addresses", () => {
  test.each(rows)("%s: %s", (_what, expected, bytes) => {
    expect(verdict(listed, bytes)).toBe(expected);
  });

  test("an empty list allows no IPv4 at all", () => {
    expect(verdict({ mac: MAC_A, addresses: [] }, v4("10.0.0.1"))).toBe("ip4-spoofed");
  });

  test.each([
    ["any", LINK_LOCAL_B, undefined],
    ["any", "fec0::1", "ip6-spoofed"],
    ["none", LINK_LOCAL_A, "ip6-spoofed"],
  ] as const)("link-local %s: %s", (linkLocal, from, expected) => {
    expect(verdict({ ...listed, linkLocal }, v6(from))).toBe(expected);
  });
});

describe("an interface without a list", () => {
  const free: ValidationRules = { mac: MAC_A };
  test.each([
    ["any IPv4 address", undefined, v4("10.0.0.2")],
    ["any IPv6 address", undefined, v6("fd00::2")],
    ["ARP for any address", undefined, ethernet(0x806, arp({ operation: 2, address: "10.0.0.2" }))],
    ["router advertisement", undefined, nd(LINK_LOCAL_A, concat(hex("8600000040000708"), new Uint8Array(8)))],
    ["any protocol", undefined, ethernet(0x88b5, data)],
    [
      "redirect that tells another's MAC",
      undefined,
      nd("fd00::1", concat(neighbour(137, "fd00::9"), new Uint8Array(16), hex("020100163e00000b"))),
    ],
    ["another's MAC", "mac-spoofed", v4("10.0.0.1", { from: MAC_B })],
    ["ARP with another's MAC", "arp-mac-spoofed", ethernet(0x806, arp({ hardware: MAC_B }))],
    ["advertisement with another's MAC", "nd-mac-spoofed", nd("fd00::1", neighbour(136, "fd00::1", [2, MAC_B]))],
  ] as const)("%s: %s", (_what, expected, bytes) => {
    expect(verdict(free, bytes)).toBe(expected);
  });

  test("with any MAC allowed, ARP may name any too, but no source is a group", () => {
    const bridge: ValidationRules = { mac: MAC_A, allowMac: true };
    expect(verdict(bridge, ethernet(0x806, arp({ hardware: MAC_B }), { from: MAC_B }))).toBeUndefined();
    expect(verdict(bridge, v4("10.0.0.1", { from: BROADCAST }))).toBe("mac-group-source");
  });
});

describe("offload metadata must fit the packet", () => {
  const segment = ethernet(0x800, ipv4(tcp(new Uint8Array(3000)), { protocol: 6 }));
  const fragment = ethernet(0x800, ipv4(udp(1, 2, new Uint8Array(24)), { fragment: 0x2000 }));
  const echo = ethernet(0x800, ipv4(hex("0800000000000000"), { protocol: 1 }));
  test.each([
    ["segments of TCP", segment, { segmentation: "tcpv4", segmentSize: 1448, checksum: "blank" }, undefined],
    ["of the other version", segment, { segmentation: "tcpv6", segmentSize: 1448 }, "offload"],
    ["of no size", segment, { segmentation: "tcpv4", segmentSize: 0 }, "offload"],
    ["of one byte", segment, { segmentation: "tcpv4", segmentSize: 1 }, "offload"],
    ["segments of UDP", v4("10.0.0.1"), { segmentation: "tcpv4", segmentSize: 100 }, "offload"],
    ["blank UDP", v4("10.0.0.1"), { checksum: "blank" }, undefined],
    ["blank fragment", fragment, { checksum: "blank" }, "offload"],
    ["blank ICMP", echo, { checksum: "blank" }, "offload"],
    ["blank ARP", ethernet(0x806, arp()), { checksum: "blank" }, "offload"],
  ] as const)("%s", (_what, bytes, metadata, expected) => {
    const frame = Object.assign(Frame.of(bytes), metadata);
    const headers = new Headers();
    expect(headers.parse(frame)).toBeUndefined();
    expect(checkFrame(frame, headers)).toBe(expected);
  });
});
