import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Frame } from "../../engine/device/net/frame.ts";
import {
  checksumOf,
  foldSum,
  sumBytes,
  sumFrame,
  updateChecksum,
  updateChecksum32,
} from "../../engine/network/checksum.ts";
import { Headers, TcpFlag, u16, u32 } from "../../engine/network/headers.ts";
import {
  finishChecksum,
  hasRightChecksums,
  SEGMENTS_MOST,
  segmentCount,
  segmentTcp,
  wirePacketLength,
} from "../../engine/network/offload.ts";
import { bytesOf, concat, ethernet, hex, inPieces, ipv4, ipv6, sealed4, sealed6, tcp, udp } from "./headers-frames.ts";

function headersOf(frame: Frame): Headers {
  const headers = new Headers();
  expect(headers.parse(frame)).toBeUndefined();
  return headers;
}

/** RFC 1071 word by word, as an oracle. */
function plainSum(bytes: Uint8Array): number {
  let sum = 0n;
  for (let n = 0; n < bytes.length; n += 2) sum += BigInt(bytes[n]!) * 256n + BigInt(bytes[n + 1] ?? 0);
  while (sum > 0xffffn) sum = (sum & 0xffffn) + (sum >> 16n);
  return Number(sum);
}

const pieces = fc.array(fc.integer({ min: 1, max: 400 }), { maxLength: 12 });

describe("the Internet checksum", () => {
  test("RFC 1071's example", () => {
    expect(foldSum(sumBytes(hex("0001f203f4f5f6f7"), 0, 8))).toBe(0xddf2);
  });

  test("an IPv4 header from the books", () => {
    const header = hex("45000073000040004011 0000 c0a80001c0a800c7");
    expect(checksumOf(sumBytes(header, 0, 20))).toBe(0xb861);
  });

  test("64 KiB of ones, and sums with many carries", () => {
    expect(foldSum(sumBytes(new Uint8Array(65_535).fill(0xff), 0, 65_535))).toBe(
      plainSum(new Uint8Array(65_535).fill(0xff)),
    );
    expect(foldSum(2 ** 47)).toBe(2 ** 15);
  });

  test("of long pieces wherever they begin in memory", () => {
    const memory = new Uint8Array(2000).map((_, n) => n * 31 + (n >> 3));
    for (let start = 0; start < 8; start++) {
      for (let length = 250; length < 270; length++) {
        const bytes = memory.subarray(start, 1500);
        expect(foldSum(sumBytes(bytes, 5, length, 3))).toBe(foldSum(plainSum(bytes.subarray(5, 5 + length)) + 3));
      }
    }
  });

  test("over pieces of any size, from any byte on, it is the same as over the bytes", () => {
    const bytes = fc.uint8Array({ minLength: 1, maxLength: 900 });
    fc.assert(
      fc.property(bytes, pieces, fc.nat(256), fc.nat(400), fc.nat(900), (all, sizes, head, from, length) => {
        const frame = inPieces(all, head, sizes);
        expect(foldSum(sumFrame(frame, from, length))).toBe(plainSum(all.subarray(from, from + length)));
      }),
    );
  });

  test("kept up to date it is what the new bytes would give", () => {
    const bytes = fc.uint8Array({ minLength: 20, maxLength: 20 });
    fc.assert(
      fc.property(bytes, fc.nat(4), fc.nat(0xffff), fc.nat(0xffff_ffff), (before, word, value, long) => {
        const checksum = checksumOf(sumBytes(before, 0, 20));
        const after = Uint8Array.from(before);
        after.set([value >> 8, value & 255], word * 2);
        // Zero and all ones are the same sum; RFC 1624 says which of them comes out.
        const same = (left: number, right: number): boolean => left % 0xffff === right % 0xffff;
        expect(same(updateChecksum(checksum, u16(before, word * 2), value), checksumOf(sumBytes(after, 0, 20)))).toBe(
          true,
        );
        const longer = Uint8Array.from(before);
        new DataView(longer.buffer).setUint32(12, long);
        const updated = updateChecksum32(checksum, u32(before, 12), long);
        expect(same(updated, checksumOf(sumBytes(longer, 0, 20)))).toBe(true);
      }),
    );
  });
});

describe("blank checksums are finished", () => {
  const data = new Uint8Array(333).map((_, n) => n * 7);
  const cases: [string, Uint8Array, Uint8Array][] = [
    [
      "TCP, IPv4",
      ethernet(0x800, ipv4(tcp(data), { protocol: 6 })),
      ethernet(0x800, ipv4(sealed4(tcp(data), 16, 6), { protocol: 6 })),
    ],
    ["UDP, IPv4", ethernet(0x800, ipv4(udp(1, 2, data))), ethernet(0x800, ipv4(sealed4(udp(1, 2, data), 6, 17)))],
    [
      "TCP, IPv6",
      ethernet(0x86dd, ipv6(tcp(data), { next: 6 })),
      ethernet(0x86dd, ipv6(sealed6(tcp(data), 16, 6), { next: 6 })),
    ],
    ["UDP, IPv6", ethernet(0x86dd, ipv6(udp(1, 2, data))), ethernet(0x86dd, ipv6(sealed6(udp(1, 2, data), 6, 17)))],
    [
      "UDP behind IPv6 options and a tag",
      ethernet(0x86dd, ipv6(concat(hex("1100010400000000"), udp(1, 2, data)), { next: 0 }), { tags: [[0x8100, 5]] }),
      ethernet(0x86dd, ipv6(concat(hex("1100010400000000"), sealed6(udp(1, 2, data), 6, 17)), { next: 0 }), {
        tags: [[0x8100, 5]],
      }),
    ],
  ];
  test.each(cases)("%s", (_what, blank, whole) => {
    const frame = inPieces(blank, 200, [101, 3]);
    frame.checksum = "blank";
    // What the sender left in the field does not matter.
    const { l4Offset, protocol } = headersOf(frame);
    frame.head.set([0xab, 0xcd], l4Offset + (protocol === 6 ? 16 : 6));
    const left = bytesOf(frame);
    const finished = finishChecksum(frame);
    expect(bytesOf(finished)).toEqual(whole);
    expect(finished.checksum).toBe("complete");
    expect(hasRightChecksums(finished, headersOf(finished))).toBe(true);
    expect(bytesOf(frame)).toEqual(left);
  });

  test("padding is not summed", () => {
    const whole = ethernet(0x800, ipv4(sealed4(udp(1, 2, hex("aa")), 6, 17)));
    const frame = Frame.of(concat(whole, new Uint8Array(60 - whole.length).fill(0x5a)));
    frame.checksum = "blank";
    expect(bytesOf(finishChecksum(frame)).subarray(0, whole.length)).toEqual(whole);
  });

  test("a UDP sum of zero is written as all ones", () => {
    // The checksum over zeros, put in their place, makes the sum of everything all ones, and its complement zero.
    const data = sealed4(udp(1, 2, hex("0000")), 6, 17).subarray(6, 8);
    const frame = Frame.of(ethernet(0x800, ipv4(udp(1, 2, data))));
    frame.checksum = "blank";
    expect(u16(finishChecksum(frame).head, 40)).toBe(0xffff);
  });

  test("frames that are not blank stay what they are", () => {
    const frame = Frame.of(ethernet(0x800, ipv4(udp(1, 2, hex("aa")))));
    expect(finishChecksum(frame)).toBe(frame);
    frame.checksum = "validated";
    expect(finishChecksum(frame)).toBe(frame);
  });

  test("a wrong byte anywhere shows", () => {
    const whole = ethernet(0x800, ipv4(sealed4(tcp(hex("0102030405")), 16, 6), { protocol: 6 }));
    for (let n = 14; n < whole.length; n++) {
      const broken = Uint8Array.from(whole);
      broken[n]! ^= 0x04;
      const frame = Frame.of(broken);
      const headers = new Headers();
      if (headers.parse(frame) !== undefined || headers.protocol !== 6 || headers.isFragment) continue;
      expect([n, hasRightChecksums(frame, headers)]).toEqual([n, false]);
    }
  });
});

/** A frame with segmentation: `version` 4 or 6. */
function large(version: 4 | 6, data: Uint8Array, size: number, flags: number, options = hex("")): Uint8Array {
  const segment = tcp(data, { flags, sequence: 0xffff_ff00, options });
  expect(size).toBeGreaterThan(0);
  return version === 4
    ? ethernet(0x800, ipv4(segment, { protocol: 6, id: 0xfffe }))
    : ethernet(0x86dd, ipv6(segment, { next: 6 }), { tags: [[0x8100, 9]] });
}

describe("segmentation", () => {
  test("segments together are the original payload, each right on its own", () => {
    const input = fc.record({
      version: fc.constantFrom(4 as const, 6 as const),
      data: fc.uint8Array({ maxLength: 5000 }),
      size: fc.integer({ min: 3, max: 1500 }),
      flags: fc.nat(255),
      options: fc.constantFrom(hex(""), hex("0101080a0000000100000002")),
      sizes: pieces,
      head: fc.integer({ min: 100, max: 256 }),
    });
    fc.assert(
      fc.property(input, ({ version, data, size, flags, options, sizes, head }) => {
        const bytes = concat(large(version, data, size, flags, options), version === 4 ? hex("0000") : hex(""));
        const frame = inPieces(bytes, head, sizes);
        frame.checksum = "blank";
        frame.segmentation = version === 4 ? "tcpv4" : "tcpv6";
        frame.segmentSize = size;
        const whole = headersOf(frame);
        const segments = segmentTcp(frame, whole);
        expect(segments.length).toBe(segmentCount(frame, whole));
        expect(segments.length).toBe(Math.max(1, Math.ceil(data.length / size)));
        const payload = segments.map((segment, n) => {
          const headers = headersOf(segment);
          const last = n === segments.length - 1;
          expect(segment).toMatchObject({ checksum: "complete", segmentation: "none" });
          expect(hasRightChecksums(segment, headers)).toBe(true);
          expect(segment.length).toBe(headers.l3End);
          expect(headers.payloadLength).toBe(last ? data.length - n * size : size);
          expect(headers.tcpSequence).toBe((0xffff_ff00 + n * size) % 2 ** 32);
          if (version === 4) expect(headers.identification).toBe((0xfffe + n) & 0xffff);
          const atEnd = last ? 0 : TcpFlag.fin | TcpFlag.psh;
          expect(headers.tcpFlags).toBe(flags & ~atEnd & ~(n > 0 ? TcpFlag.cwr : 0));
          expect(headers.payloadOffset).toBe(whole.payloadOffset);
          expect(wirePacketLength(segment, headers)).toBeLessThanOrEqual(wirePacketLength(frame, whole));
          return bytesOf(segment).subarray(headers.payloadOffset);
        });
        expect(concat(...payload)).toEqual(data);
      }),
      { numRuns: 200 },
    );
  });

  test.each([
    ["the other IP version", { segmentation: "tcpv6", segmentSize: 1000 } as const],
    ["segments of nothing", { segmentation: "tcpv4", segmentSize: 0 } as const],
    ["a segment a byte", { segmentation: "tcpv4", segmentSize: 1 } as const],
  ])("%s gives no frames", (_what, metadata) => {
    const frame = Frame.of(large(4, new Uint8Array(SEGMENTS_MOST + 1), 1, 0x10));
    Object.assign(frame, metadata);
    expect(segmentTcp(frame, headersOf(frame))).toEqual([]);
  });

  test("without segmentation the frame is its only segment", () => {
    const frame = Frame.of(ethernet(0x800, ipv4(udp(1, 2, hex("aa")))));
    expect(segmentTcp(frame, headersOf(frame))).toEqual([frame]);
  });
});
