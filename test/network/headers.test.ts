import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Frame } from "../../engine/device/net/frame.ts";
import {
  contains4,
  contains6,
  formatCidr,
  formatIpv6,
  formatMac,
  linkLocalOf,
  parseCidr,
  parseInterfaceMac,
  parseIpv4,
  parseIpv6,
  parseMac,
  randomMac,
} from "../../engine/network/address.ts";
import { type HeaderError, Headers, TcpFlag } from "../../engine/network/headers.ts";
import { NetworkError } from "../../engine/network/types.ts";
import { arp, concat, ethernet, hex, ipv4, ipv6, MAC_A, MAC_B, mac, neighbour, tcp, udp } from "./headers-frames.ts";

function parsed(bytes: Uint8Array): Headers {
  const headers = new Headers();
  expect(headers.parse(Frame.of(bytes))).toBeUndefined();
  return headers;
}

function errorOf(bytes: Uint8Array): HeaderError | undefined {
  return new Headers().parse(Frame.of(bytes));
}

describe("captured frames", () => {
  test("an ARP request", () => {
    const headers = parsed(
      hex("ffffffffffff 00163e00000a 0806 0001 0800 06 04 0001 00163e00000a 0a000001 000000000000 0a000002"),
    );
    expect(headers).toMatchObject({ etherType: 0x806, arpOperation: 1, vlan: -1, isBroadcast: true, ipVersion: 0 });
    expect(headers.arpSenderAddress).toBe(parseIpv4("10.0.0.1"));
    expect(headers.arpTargetAddress).toBe(parseIpv4("10.0.0.2"));
    expect(headers.arpSenderHardware).toBe(22);
  });

  test("a TCP SYN with options, addresses above 2^31", () => {
    const headers = parsed(
      hex(
        "00163e00000b00163e00000a0800 4500003c1c4640004006b1e6c0a80068c0a80001" +
          "9c40 0050 fedcba98 00000000 a002 7210 0000 0000 020405b4 0402080a00000001 00000000 01030307",
      ),
    );
    expect(headers).toMatchObject({
      ipVersion: 4,
      protocol: 6,
      sourcePort: 40_000,
      destinationPort: 80,
      tcpFlags: TcpFlag.syn,
      tcpSequence: 0xfedc_ba98,
      tcpWindow: 0x7210,
      source4: 0xc0a8_0068,
      destination4: 0xc0a8_0001,
      l3Offset: 14,
      l4Offset: 34,
      payloadOffset: 74,
      payloadLength: 0,
      isFragment: false,
      hopLimit: 64,
    });
    expect([headers.sourceHigh, headers.sourceLow]).toEqual([MAC_A.high, MAC_A.low]);
    expect([headers.destinationHigh, headers.destinationLow]).toEqual([MAC_B.high, MAC_B.low]);
  });

  test("a neighbour solicitation", () => {
    const headers = parsed(
      hex(
        "3333ff000002 00163e00000a 86dd 6000000000203aff fe80000000000000 02163efffe00000a" +
          "ff0200000000000000000001ff000002 8700000000000000 fd000000000000000000000000000002 010100163e00000a",
      ),
    );
    expect(headers).toMatchObject({ ipVersion: 6, protocol: 58, icmpType: 135, icmpCode: 0, isMulticast: true });
    expect(headers).toMatchObject({ source6: 22, destination6: 38, ndTarget: 62, ndSourceLink: 80, ndTargetLink: 0 });
    expect(headers.isBroadcast).toBe(false);
  });

  test("padding after the packet is no payload", () => {
    const short = ethernet(0x800, ipv4(udp(68, 67, hex("aa"))));
    const headers = parsed(concat(short, new Uint8Array(60 - short.length)));
    expect(headers).toMatchObject({ payloadLength: 1, sourcePort: 68, destinationPort: 67, l3End: 43 });
  });

  test("tags: none, one, two", () => {
    const packet = ipv4(udp(1, 2, hex("")));
    expect(parsed(ethernet(0x800, packet))).toMatchObject({ vlan: -1, vlanTags: 0, l3Offset: 14 });
    const one = parsed(ethernet(0x800, packet, { tags: [[0x8100, 0xa00a]] }));
    expect(one).toMatchObject({ vlan: 10, vlanTag: 0xa00a, vlanType: 0x8100, innerVlan: -1, l3Offset: 18 });
    const tags = [[0x88a8, 100] as const, [0x8100, 200] as const];
    const both = parsed(ethernet(0x800, packet, { tags }));
    expect(both).toMatchObject({ vlan: 100, vlanType: 0x88a8, innerVlan: 200, vlanTags: 2, sourcePort: 1 });
  });

  test("IPv6 extension headers up to the port", () => {
    const chain = concat(hex("3c00 010400000000"), hex("1100 010400000000"), udp(5353, 53, hex("00")));
    expect(parsed(ethernet(0x86dd, ipv6(chain, { next: 0 })))).toMatchObject({
      protocol: 17,
      l4Offset: 70,
      sourcePort: 5353,
      payloadLength: 1,
    });
  });

  test("fragments: the first has ports, later ones have none", () => {
    const first = parsed(ethernet(0x800, ipv4(udp(1, 2, new Uint8Array(16)), { fragment: 0x2000 })));
    expect(first).toMatchObject({ isFragment: true, moreFragments: true, fragmentOffset: 0, sourcePort: 1 });
    const later = parsed(ethernet(0x800, ipv4(new Uint8Array(8), { fragment: 3 })));
    expect(later).toMatchObject({ isFragment: true, fragmentOffset: 24, sourcePort: -1, l4Offset: 0, protocol: 17 });
    const later6 = parsed(ethernet(0x86dd, ipv6(concat(hex("1100 0010 00000007"), new Uint8Array(8)), { next: 44 })));
    expect(later6).toMatchObject({ isFragment: true, fragmentOffset: 16, protocol: 17, l4Offset: 0 });
    expect(later6.identification).toBe(7);
  });

  test("one object for many frames keeps nothing of the one before", () => {
    const headers = new Headers();
    const frames = [
      ethernet(0x86dd, ipv6(neighbour(136, "fd00::1", [2, MAC_A]), { next: 58 }), { tags: [[0x8100, 7]] }),
      ethernet(0x800, ipv4(tcp(hex("00"), { flags: 0xff }), { protocol: 6 })),
      ethernet(0x806, arp()),
      ethernet(0x88b5, hex("00")),
    ];
    for (const bytes of [...frames, ...frames.toReversed()]) {
      headers.parse(Frame.of(bytes));
      expect({ ...headers }).toEqual({ ...parsed(bytes) });
    }
  });
});

const moreFollow = 0x2000;
const malformed: [string, HeaderError, Uint8Array][] = [
  ["nothing", "ethernet-short", new Uint8Array(0)],
  ["13 bytes", "ethernet-short", new Uint8Array(13)],
  ["tag cut off", "ethernet-short", ethernet(0x8100, hex("000a"))],
  [
    "three tags",
    "vlan-depth",
    ethernet(0x800, hex("00"), {
      tags: [
        [0x8100, 1],
        [0x8100, 2],
        [0x8100, 3],
      ],
    }),
  ],
  ["ARP cut off", "arp-malformed", ethernet(0x806, arp().subarray(0, 27))],
  ["ARP of other lengths", "arp-malformed", ethernet(0x806, concat(hex("0001 0800 08 04"), arp().subarray(6)))],
  ["IPv4 header cut off", "ip4-length", ethernet(0x800, hex("45000014"))],
  ["IPv4 says 6", "ip4-header", ethernet(0x800, concat(hex("65"), ipv4(hex("")).subarray(1)))],
  ["IPv4 header of 16 bytes", "ip4-header", ethernet(0x800, concat(hex("44"), ipv4(hex("")).subarray(1)))],
  ["IPv4 longer than the frame", "ip4-length", ethernet(0x800, ipv4(new Uint8Array(9)).subarray(0, 28))],
  ["IPv4 shorter than its header", "ip4-length", ethernet(0x800, concat(hex("45000013"), ipv4(hex("")).subarray(4)))],
  ["ping of death", "fragment-range", ethernet(0x800, ipv4(new Uint8Array(40), { fragment: 0x1fff }))],
  [
    "TCP flags in the second fragment",
    "fragment-tiny",
    ethernet(0x800, ipv4(tcp(hex("")), { protocol: 6, fragment: 1 })),
  ],
  [
    "TCP header split",
    "fragment-tiny",
    ethernet(0x800, ipv4(tcp(hex("")).subarray(0, 16), { protocol: 6, fragment: moreFollow })),
  ],
  ["TCP cut off", "tcp-malformed", ethernet(0x800, ipv4(tcp(hex("")).subarray(0, 19), { protocol: 6 }))],
  ["TCP offset too small", "tcp-malformed", ethernet(0x800, ipv4(new Uint8Array(20), { protocol: 6 }))],
  ["TCP offset past the end", "tcp-malformed", ethernet(0x800, ipv4(new Uint8Array(20).fill(0xf0), { protocol: 6 }))],
  ["UDP cut off", "udp-malformed", ethernet(0x800, ipv4(new Uint8Array(7)))],
  ["UDP claims too much", "udp-malformed", ethernet(0x800, ipv4(hex("0001 0002 0009 0000")))],
  ["UDP claims too little", "udp-malformed", ethernet(0x800, ipv4(hex("0001 0002 0007 0000")))],
  ["ICMP cut off", "icmp-malformed", ethernet(0x800, ipv4(hex("08000000"), { protocol: 1 }))],
  ["IPv6 header cut off", "ip6-length", ethernet(0x86dd, ipv6(hex("")).subarray(0, 39))],
  ["IPv6 says 4", "ip6-header", ethernet(0x86dd, concat(hex("45"), ipv6(hex("")).subarray(1)))],
  ["IPv6 longer than the frame", "ip6-length", ethernet(0x86dd, ipv6(new Uint8Array(9)).subarray(0, 48))],
  ["extension past the end", "ip6-extension", ethernet(0x86dd, ipv6(hex("11ff010400000000"), { next: 60 }))],
  ["hop-by-hop not first", "ip6-extension", ethernet(0x86dd, ipv6(new Uint8Array(24), { next: 60 }))],
  [
    "two fragment headers",
    "ip6-extension",
    ethernet(0x86dd, ipv6(concat(hex("2c00000000000001"), hex("1100000000000001")), { next: 44 })),
  ],
  [
    "endless options",
    "ip6-extension",
    ethernet(
      0x86dd,
      ipv6(
        new Uint8Array(80).map((_, n) => (n % 8 ? 0 : 60)),
        { next: 60 },
      ),
    ),
  ],
  ["first fragment without its chain", "fragment-tiny", ethernet(0x86dd, ipv6(hex("3c00000100000001"), { next: 44 }))],
  [
    "discovery in a fragment",
    "nd-fragment",
    ethernet(0x86dd, ipv6(concat(hex("3a00000100000001"), neighbour(135, "fd00::2")), { next: 44 })),
  ],
  [
    "solicitation without target",
    "nd-malformed",
    ethernet(0x86dd, ipv6(neighbour(135, "::").subarray(0, 20), { next: 58 })),
  ],
  [
    "option of no length",
    "nd-malformed",
    ethernet(0x86dd, ipv6(concat(neighbour(135, "::"), new Uint8Array(8)), { next: 58 })),
  ],
  [
    "option past the end",
    "nd-malformed",
    ethernet(0x86dd, ipv6(concat(neighbour(135, "::"), hex("0102000000000000")), { next: 58 })),
  ],
];

describe("malformed headers have names", () => {
  test.each(malformed)("%s: %s", (_what, error, bytes) => {
    expect(errorOf(bytes)).toBe(error);
  });

  test("a header that is not in the head", () => {
    const bytes = ethernet(0x800, ipv4(tcp(hex("00")), { protocol: 6 }));
    for (const [head, error] of [
      [13, "head-short"],
      [33, "head-short"],
      [53, "head-short"],
      [54, undefined],
    ] as const) {
      const frame = Frame.of(bytes);
      frame.headLength = head;
      frame.add(bytes, head, bytes.length - head);
      expect(new Headers().parse(frame)).toBe(error);
    }
  });

  test("options of neighbour discovery behind the head, or twice, are unclear", () => {
    const message = concat(neighbour(135, "fd00::2", [1, MAC_A]), [1, 1], mac(MAC_B));
    const bytes = ethernet(0x86dd, ipv6(message, { next: 58 }));
    expect(parsed(bytes).ndUnclear).toBe(true);
    const frame = Frame.of(bytes);
    frame.headLength = bytes.length - 1;
    frame.add(bytes, bytes.length - 1, 1);
    const headers = new Headers();
    expect(headers.parse(frame)).toBeUndefined();
    expect(headers.ndUnclear).toBe(true);
  });
});

/** Bytes that get past the first checks often: types and versions that mean something, then noise. */
const plausible = fc
  .tuple(
    fc.constantFrom("0800", "86dd", "0806", "81000001 0800", "88a80001 81000002 86dd", "8100", "0024"),
    fc.constantFrom("45", "60", "4f", "0001"),
    fc.uint8Array({ maxLength: 320 }),
  )
  .map(([type, start, noise]) => concat(mac(MAC_B), mac(MAC_A), hex(type), hex(start), noise));

/** Frames whose headers reach as far as each parser goes. */
const wellFormed: [string, Uint8Array][] = [
  ["ARP", ethernet(0x806, arp())],
  ["IPv4 with options", ethernet(0x800, ipv4(udp(1, 2, hex("0011")), { options: hex("9404000001010100") }))],
  ["TCP with options", ethernet(0x800, ipv4(tcp(hex("0011"), { options: hex("020405b401030307") }), { protocol: 6 }))],
  ["ICMP", ethernet(0x800, ipv4(hex("08001234 0001 0002 0011"), { protocol: 1 }), { tags: [[0x8100, 3]] })],
  ["a later IPv6 fragment", ethernet(0x86dd, ipv6(concat(hex("1100 0010 00000007"), new Uint8Array(8)), { next: 44 }))],
  ["long IPv6 options", ethernet(0x86dd, ipv6(concat(hex("fd02"), new Uint8Array(22), hex("0011")), { next: 0 }))],
  [
    "discovery with two options",
    ethernet(0x86dd, ipv6(concat(neighbour(136, "fd00::1", [2, MAC_A]), [1, 1], mac(MAC_B)), { next: 58 })),
  ],
];

describe("any bytes", () => {
  test.each(wellFormed)("cut anywhere, %s is told from what the head has", (_what, bytes) => {
    for (let head = 0; head < bytes.length; head++) {
      const [first, ...others] = [0x00, 0xff, 0x01].map((filler) => {
        const frame = Frame.of(bytes);
        frame.headLength = head;
        frame.head.fill(filler, head);
        frame.add(bytes, head, bytes.length - head);
        const headers = new Headers();
        return { head, error: headers.parse(frame), ...headers };
      });
      for (const other of others) expect(other).toEqual(first);
      for (const link of [first?.ndSourceLink, first?.ndTargetLink])
        if (link) expect(link + 6).toBeLessThanOrEqual(head);
      if (first?.error === undefined) expect(first?.payloadOffset).toBeLessThanOrEqual(head);
    }
    expect(errorOf(bytes)).toBeUndefined();
  });

  test("parsing never throws, and what it says lies within the head and the frame", () => {
    fc.assert(
      fc.property(fc.oneof(plausible, fc.uint8Array({ maxLength: 320 })), fc.nat(320), (bytes, cut) => {
        const head = Math.min(bytes.length, cut, 256);
        // The same frame with other bytes behind its head: were any of them read, the answers would differ.
        const answers = [0x00, 0xff, 0x45].map((filler) => {
          const frame = new Frame();
          frame.head.fill(filler);
          frame.reset(bytes.length);
          frame.head.set(bytes.subarray(0, head));
          frame.headLength = head;
          frame.add(bytes, head, bytes.length - head);
          const headers = new Headers();
          return { error: headers.parse(frame), ...headers };
        });
        const [first] = answers;
        for (const answer of answers) expect(answer).toEqual(first);
        if (first === undefined || first.error !== undefined) return;
        expect(first.payloadOffset).toBeLessThanOrEqual(head);
        expect(first.payloadLength).toBeGreaterThanOrEqual(0);
        expect(first.payloadOffset + first.payloadLength).toBeLessThanOrEqual(bytes.length);
        expect(first.l3End).toBeLessThanOrEqual(bytes.length);
        if (first.ndTarget !== 0) expect(first.ndTarget + 16).toBeLessThanOrEqual(head);
        if (first.ndSourceLink !== 0) expect(first.ndSourceLink + 6).toBeLessThanOrEqual(head);
        if (first.ndTargetLink !== 0) expect(first.ndTargetLink + 6).toBeLessThanOrEqual(head);
      }),
      { numRuns: 3000 },
    );
  });
});

describe("addresses", () => {
  test.each([
    ["::", "::"],
    ["0:0:0:0:0:0:0:1", "::1"],
    ["2001:DB8:0:0:1:0:0:1", "2001:db8::1:0:0:1"],
    ["2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"],
    ["fe80::0216:3eff:fe00:a", "fe80::216:3eff:fe00:a"],
    ["::ffff:10.0.0.1", "::ffff:10.0.0.1"],
    ["1::", "1::"],
    ["64:ff9b::192.0.2.33", "64:ff9b::c000:221"],
  ])("%s is written %s", (text, written) => {
    expect(formatIpv6(parseIpv6(text))).toBe(written);
  });

  test("written and read again, IPv6 is the same", () => {
    const group = fc.oneof(fc.constant(0), fc.nat(0xffff));
    const address = fc.array(group, { minLength: 8, maxLength: 8 }).map((groups) => {
      return Uint8Array.from(groups.flatMap((value) => [value >> 8, value & 255]));
    });
    fc.assert(
      fc.property(address, (bytes) => {
        expect(parseIpv6(formatIpv6(bytes))).toEqual(bytes);
      }),
    );
  });

  const refused: [string, (text: string) => unknown][] = [
    ["00:16:3e:12:34", parseMac],
    ["00:16:3e:12:34:5g", parseMac],
    ["01:16:3e:12:34:56", parseInterfaceMac],
    ["00:00:00:00:00:00", parseInterfaceMac],
    ["10.0.0", parseIpv4],
    ["10.0.0.256", parseIpv4],
    ["010.0.0.1", parseIpv4],
    ["1:2:3:4:5:6:7", parseIpv6],
    ["1:2:3:4:5:6:7:8:9", parseIpv6],
    ["1::2::3", parseIpv6],
    ["1:2:3:4:5:6:7::8", parseIpv6],
    ["::1.2.3", parseIpv6],
    ["1.2.3.4::", parseIpv6],
    ["fe80::1%eth0", parseIpv6],
    [":", parseIpv6],
    ["10.0.0.0/33", parseCidr],
    ["fd00::/129", parseCidr],
    ["10.0.0.0/", parseCidr],
    ["evil\n", parseCidr],
  ];
  test.each(refused)("%j is refused in one line", (text, parse) => {
    const attempt = (): unknown => parse(text);
    expect(attempt).toThrow(NetworkError);
    expect(attempt).toThrow(/^[\x20-\x7e]+; [\x20-\x7e]+$/);
  });

  test("networks contain their addresses and no others", () => {
    const four = parseCidr("10.1.2.3/23");
    const six = parseCidr("fd00:1234::/31");
    if (four.version !== 4 || six.version !== 6) throw new Error("versions");
    expect(["10.1.2.0", "10.1.3.255"].map((text) => contains4(four, parseIpv4(text)))).toEqual([true, true]);
    expect(["10.1.4.0", "10.1.1.255"].map((text) => contains4(four, parseIpv4(text)))).toEqual([false, false]);
    const inSix = (text: string): boolean => contains6(six, concat([9], parseIpv6(text)), 1);
    expect([inSix("fd00:1235:ffff::1"), inSix("fd00:1236::"), inSix("fd00:1233::")]).toEqual([true, false, false]);
    expect([formatCidr(four), formatCidr(six), formatCidr(parseCidr("10.0.0.1"))]).toEqual([
      "10.1.2.3/23",
      "fd00:1234::/31",
      "10.0.0.1",
    ]);
    const all = parseCidr("0.0.0.0/0");
    expect(all.version === 4 && contains4(all, parseIpv4("255.1.2.3"))).toBe(true);
  });

  test("MAC addresses", () => {
    expect(formatMac(parseMac("FE:ff:00:01:0a:B0"))).toBe("fe:ff:00:01:0a:b0");
    expect(formatMac(randomMac())).toMatch(/^00:16:3e(:[0-9a-f]{2}){3}$/);
    expect(formatIpv6(linkLocalOf(MAC_A))).toBe("fe80::216:3eff:fe00:a");
  });
});
