import { execFileSync, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { Capture } from "../../../engine/network/capture/capture.ts";
import { openCaptureFile } from "../../../engine/network/capture/file.ts";
import { type CaptureFilter, compileFilter } from "../../../engine/network/capture/filter.ts";
import { Headers } from "../../../engine/network/headers.ts";
import { monotonicClock } from "../../../engine/network/types.ts";
import { arp, ethernet, icmp, ipv4, ipv6, lent, MAC_A, MAC_B, tcp, udp } from "./frames.ts";

const A = "10.0.0.1";
const B = "10.0.0.2";
const FAR = "192.168.7.9";
const A6 = "fd00::1";
const B6 = "fd00::2";

/** One of each; a filter is described by the names of those that it matches. */
const FRAMES: Readonly<Record<string, Uint8Array>> = {
  syn: ethernet(0x0800, ipv4(A, B, 6, tcp(4000, 80, 0x02))),
  synAck: ethernet(0x0800, ipv4(B, A, 6, tcp(80, 4000, 0x12)), { source: MAC_B, destination: MAC_A }),
  data: ethernet(0x0800, ipv4(A, FAR, 6, tcp(4001, 443, 0x10, new Uint8Array(1000)))),
  dns: ethernet(0x0800, ipv4(A, FAR, 17, udp(5353, 53))),
  dhcp: ethernet(0x0800, ipv4("0.0.0.0", "255.255.255.255", 17, udp(68, 67)), { destination: "ff:ff:ff:ff:ff:ff" }),
  ping: ethernet(0x0800, ipv4(A, B, 1, icmp(8))),
  fragment: ethernet(0x0800, ipv4(A, B, 17, new Uint8Array(64), 0x0010)),
  who: ethernet(0x0806, arp(1, A, B), { destination: "ff:ff:ff:ff:ff:ff" }),
  syn6: ethernet(0x86dd, ipv6(A6, B6, 6, tcp(4000, 80, 0x02))),
  solicit: ethernet(0x86dd, ipv6(A6, "ff02::1:ff00:2", 58, new Uint8Array([135, ...new Array(23).fill(0)])), {
    destination: "33:33:ff:00:00:02",
  }),
};
const names = Object.keys(FRAMES);
const ip4 = ["syn", "synAck", "data", "dns", "dhcp", "ping", "fragment"];
const ip6 = ["syn6", "solicit"];
const without = (...out: string[]) => names.filter((name) => !out.includes(name));

function compiled(text: string): CaptureFilter {
  const result = compileFilter(text);
  if (!result.ok) throw result.error;
  if (result.value === undefined) throw new Error("empty");
  return result.value;
}

const headers = new Headers();

function matching(text: string): string[] {
  const filter = compiled(text);
  return names.filter((name) => {
    const frame = lent(FRAMES[name]!);
    headers.parse(frame);
    return filter.matches(frame, headers);
  });
}

/** Filters that mean the same to libpcap. */
const TABLE: readonly (readonly [string, readonly string[]])[] = [
  ["ip", ip4],
  ["ip6", ip6],
  ["arp", ["who"]],
  ["tcp", ["syn", "synAck", "data", "syn6"]],
  ["udp", ["dns", "dhcp", "fragment"]],
  ["icmp", ["ping"]],
  ["icmp6", ["solicit"]],
  ["not ip", ["who", ...ip6]],
  ["! ip && !arp", ip6],
  ["host 10.0.0.2", ["syn", "synAck", "ping", "fragment", "who"]],
  ["ip host 10.0.0.2", ["syn", "synAck", "ping", "fragment"]],
  ["arp host 10.0.0.2", ["who"]],
  ["src 10.0.0.2", ["synAck"]],
  ["src host 10.0.0.2", ["synAck"]],
  ["dst host 10.0.0.2 and tcp", ["syn"]],
  ["src or dst host 192.168.7.9", ["data", "dns"]],
  ["src and dst net 10.0.0.0/24", ["syn", "synAck", "ping", "fragment", "who"]],
  ["host fd00::2", ["syn6"]],
  ["ip6 src fd00::1", ip6],
  ["dst net ff02::/16", ["solicit"]],
  ["net 192.168", ["data", "dns"]],
  ["net 192.168.7.0 mask 255.255.255.0", ["data", "dns"]],
  ["net 10", ["syn", "synAck", "data", "dns", "ping", "fragment", "who"]],
  ["port 80", ["syn", "synAck", "syn6"]],
  ["port http", ["syn", "synAck", "syn6"]],
  ["tcp dst port 80", ["syn", "syn6"]],
  ["ip6 and port 80", ["syn6"]],
  ["udp port 53 or 67", ["dns", "dhcp"]],
  ["port 80 or 443", ["syn", "synAck", "data", "syn6"]],
  ["portrange 60-80", ["syn", "synAck", "dhcp", "syn6"]],
  ["src portrange 4000-4001", ["syn", "data", "syn6"]],
  ["host 10.0.0.2 or 192.168.7.9", ["syn", "synAck", "data", "dns", "ping", "fragment", "who"]],
  [`ether host ${MAC_B}`, without("dhcp", "who", "solicit")],
  [`ether src ${MAC_B}`, ["synAck"]],
  ["ether proto 0x86dd", ip6],
  ["ip proto 17", ["dns", "dhcp", "fragment"]],
  ["ip6 proto 6", ["syn6"]],
  ["broadcast", ["dhcp", "who"]],
  ["ether multicast", ["dhcp", "who", "solicit"]],
  ["ip6 multicast", ["solicit"]],
  ["less 60", ["syn", "synAck", "dns", "dhcp", "ping", "who"]],
  ["greater 1000", ["data"]],
  ["len > 1000", ["data"]],
  ["len - 14 = 40 and ip", ["syn", "synAck"]],
  ["tcp[tcpflags] & (tcp-syn|tcp-ack) != 0 and ip", ["syn", "synAck", "data"]],
  ["tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn and ip", ["syn"]],
  ["(tcp[13] & 2 != 0) and ip", ["syn", "synAck"]],
  ["ip[6:2] & 0x1fff != 0", ["fragment"]],
  ["ip[2:2] - ((ip[0] & 0xf) << 2) >= 1000", ["data"]],
  ["icmp[icmptype] == icmp-echo", ["ping"]],
  ["udp[4:2] / 2 * 2 = 8 and port domain", ["dns"]],
  ["ether[0] & 1 != 0", ["dhcp", "who", "solicit"]],
  ["not tcp[tcpflags] & tcp-syn != 0 and ip proto 6", ["data"]],
  // and, or: equal precedence from left to right.
  ["arp or ip and tcp", ["syn", "synAck", "data"]],
  ["arp or (ip and tcp)", ["syn", "synAck", "data", "who"]],
  ["not (arp or ip)", ip6],
];

describe("capture filters", () => {
  test.each(TABLE)("%s", (text, expected) => {
    expect(matching(text)).toEqual(names.filter((name) => expected.includes(name)));
  });

  test("see through VLAN tags, and the tags", () => {
    const tagged = lent(ethernet(0x0800, ipv4(A, B, 6, tcp(4000, 80, 2)), { vlan: 7 }));
    headers.parse(tagged);
    expect(compiled("vlan").matches(tagged, headers)).toBe(true);
    expect(compiled("vlan 7 and port 80").matches(tagged, headers)).toBe(true);
    expect(compiled("vlan 8").matches(tagged, headers)).toBe(false);
    expect(matching("vlan")).toEqual([]);
  });

  test("bytes behind the head are found, bytes behind the end are not there", () => {
    const bytes = ethernet(0x0800, ipv4(A, B, 17, udp(1, 2, new Uint8Array(2000).fill(0x5a))));
    const frame = lent(bytes);
    headers.parse(frame);
    expect(compiled("udp[1500:4] = 0x5a5a5a5a").matches(frame, headers)).toBe(true);
    expect(compiled("udp[2005:4] = 0x5a5a5a5a").matches(frame, headers)).toBe(false);
    expect(compiled("udp[2005:4] != 0x5a5a5a5a").matches(frame, headers)).toBe(false);
    expect(compiled("1 / (len - len) != 7").matches(frame, headers)).toBe(false);
  });

  test("a version of IP narrows ports", () => {
    expect(matching("ip6 port 80")).toEqual(["syn6"]);
  });

  test("an empty filter is none", () => {
    expect(compileFilter("  ")).toEqual({ ok: true, value: undefined });
  });
});

describe("a filter that does not parse", () => {
  const table: readonly (readonly [string, string, string])[] = [
    ["tcp prot 80", "prot", '"port"|port'],
    ["tpc port 80", "tpc", "tcp"],
    ["port", "", "needs a value"],
    ["port 65536", "65536", "65535"],
    ["port httpd", "httpd", "http"],
    ["arp port 5", "5", "no ports"],
    ["host 10.0.0", "10.0.0", "10.0.0.5"],
    ["host 10.0.0.0/8", "10.0.0.0/8", "net 10.0.0.0/8"],
    ["host server", "server", "address"],
    ["host 00:16:3e:00:00:0a", "00:16:3e:00:00:0a", "ether host"],
    ["ip6 host 10.0.0.1", "10.0.0.1", "ip host"],
    ["ip host fd00::1", "fd00::1", "ip6"],
    ["tcp and", "", "missing"],
    ["(tcp", "", '")" is missing'],
    ["tcp)", ")", "remove"],
    ["80", "80", "port 80"],
    ["tcp[13:3] != 0", "3", "1, 2 or 4"],
    ["tcp[13] & 2", "", "comparison"],
    ["tcp[tcpflag] & 2 != 0", "tcpflag", "tcpflags"],
    ["tcp;udp", ";", "port 80"],
    ["vlan 5000", "5000", "4095"],
    ["constructor 80", "constructor", "write"],
    ["ether proto ipx", "ipx", "ip"],
    ["udp port 1 tcp", "tcp", "and"],
  ];
  test.each(table)("%s", (text, word, remedy) => {
    const result = compileFilter(text);
    if (result.ok) throw new Error("it was understood");
    const { error } = result;
    expect(text.slice(error.offset, error.offset + error.span)).toBe(word);
    expect(error.message).toMatch(new RegExp(remedy.replace(/[()/]/g, "\\$&")));
    expect(error.message).not.toContain("\n");
    const [line, carets] = error.pointer().split("\n");
    expect(line).toBe(text);
    expect(carets).toBe(" ".repeat(error.offset) + "^".repeat(error.span));
  });

  test("any text gives a filter or an error, soon; any filter works on any frame", () => {
    const word = fc.constantFrom(
      ...[
        "tcp",
        "ip6",
        "host",
        "src",
        "or",
        "and",
        "not",
        "(",
        ")",
        "port",
        "80",
        "10.0.0.1",
        "::1",
        "[",
        "]",
        ":",
        "&",
      ],
      ...["!=", "len", "1-2", "net", "10/8", "vlan", "proto", "mask", "ether", "00:16:3e:00:00:01", "arp", "<<", "-"],
    );
    const text = fc.oneof(
      fc.string(),
      fc.array(word, { maxLength: 12 }).map((words) => words.join(" ")),
    );
    fc.assert(
      fc.property(text, fc.uint8Array({ maxLength: 100 }), (filter, bytes) => {
        const result = compileFilter(filter);
        if (!result.ok) {
          expect(result.error.message.length).toBeGreaterThan(0);
          return;
        }
        const frame = Frame.of(bytes);
        headers.parse(frame);
        if (result.value !== undefined) expect(typeof result.value.matches(frame, headers)).toBe("boolean");
      }),
      { numRuns: 2000 },
    );
    for (const deep of ["(".repeat(4000), "not ".repeat(1000), "((".repeat(30) + "1".repeat(4)]) {
      expect(compileFilter(deep).ok).toBe(false);
    }
  });
});

const hasTcpdump = spawnSync("tcpdump", ["--version"]).status === 0;

describe.skipIf(!hasTcpdump)("tcpdump, when it is installed", () => {
  const folder = mkdtempSync(join(tmpdir(), "domlab-filter-"));
  const file = join(folder, "all.pcapng");

  beforeAll(async () => {
    const capture = new Capture({ sink: await openCaptureFile(file), clock: monotonicClock, epoch: 0n });
    for (const name of names) capture.tap(lent(FRAMES[name]!), { name: "vif1.0", id: 1 }, "in");
    await capture.close();
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  test("finds the same frames", () => {
    for (const [text, expected] of TABLE) {
      const lines = execFileSync("tcpdump", ["-nr", file, text], { stdio: ["ignore", "pipe", "ignore"] });
      const count = lines.toString().split("\n").filter(Boolean).length;
      expect([text, count]).toEqual([text, expected.length]);
    }
  });
});
