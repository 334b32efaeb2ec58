import { describe, expect, test } from "vitest";
import { FRAME_MOST, FRAME_SEGMENTS, Frame } from "../../engine/device/net/frame.ts";
import { NetworkError } from "../../engine/network/types.ts";
import { BROADCAST, concat, ethernet, hex, inPieces, ipv4, MAC_A, MAC_B, MAC_C, tcp } from "./headers-frames.ts";
import { Bench, packet, received, STRANGER, three } from "./switch-bench.ts";

describe("VLANs", () => {
  function vlanBench() {
    const bench = new Bench({ vlanAware: true });
    const a = bench.guest("vif1.0", MAC_A, { vlan: { untagged: 10 } });
    const b = bench.guest("vif2.0", MAC_B, { vlan: { untagged: 10 } });
    const c = bench.guest("vif3.0", MAC_C, { vlan: { untagged: 20 } });
    const trunk = bench.add("trunk", { vlan: { untagged: 1, tagged: [10, 20] } });
    return { bench, a, b, c, trunk };
  }

  test("frames stay in their VLAN, known or flooded", () => {
    const { a, b, c, trunk } = vlanBench();
    a.send(packet(MAC_A, MAC_B));
    a.send(packet(MAC_A, MAC_C));
    expect(received(b, c, trunk)).toEqual([1, 0, 0]);
    expect(a.port.counters.dropsOf("vlan")).toBe(1);
    a.send(packet(MAC_A, BROADCAST));
    expect(received(b, c, trunk)).toEqual([2, 0, 1]);
  });

  test("tags come and go at the trunk; priorities stay", () => {
    const { a, b, c, trunk } = vlanBench();
    a.send(packet(MAC_A, BROADCAST));
    expect(trunk.sink.frames[0]).toEqual(packet(MAC_A, BROADCAST, { tags: [[0x8100, 10]] }));
    expect(b.sink.frames[0]).toEqual(packet(MAC_A, BROADCAST));
    a.send(packet(MAC_A, BROADCAST, { tags: [[0x8100, 0xe000]] }));
    expect(trunk.sink.frames[1]).toEqual(packet(MAC_A, BROADCAST, { tags: [[0x8100, 0xe00a]] }));
    expect(b.sink.frames[1]).toEqual(packet(MAC_A, BROADCAST));
    trunk.send(packet(STRANGER, MAC_C, { tags: [[0x8100, 20]] }));
    expect(c.sink.frames).toEqual([packet(STRANGER, MAC_C)]);
  });

  test.each([
    ["a tag at an access port", "a", [[0x8100, 20]]],
    ["its own tag at an access port", "a", [[0x8100, 10]]],
    [
      "two tags at an access port",
      "a",
      [
        [0x8100, 0],
        [0x8100, 20],
      ],
    ],
    ["a tag that the trunk does not carry", "trunk", [[0x8100, 30]]],
    ["the native VLAN's tag", "trunk", [[0x8100, 1]]],
  ] as const)("%s is refused", (_what, from, tags) => {
    const all = vlanBench();
    const source = from === "a" ? MAC_A : STRANGER;
    all[from].send(packet(source, BROADCAST, { tags }));
    expect(all[from].port.counters.dropsOf("vlan")).toBe(1);
    expect(received(all.a, all.b, all.c, all.trunk)).toEqual([0, 0, 0, 0]);
  });

  test("a port without untagged frames refuses them", () => {
    const { bench, a } = vlanBench();
    const strict = bench.add("strict", { vlan: { tagged: [10] } });
    strict.send(packet(STRANGER, MAC_A));
    expect(strict.port.counters.dropsOf("vlan")).toBe(1);
    expect(received(a)).toEqual([0]);
  });

  test("a learned address counts in its VLAN only", () => {
    const { bench, a, c, trunk } = vlanBench();
    const second = bench.add("second", { vlan: { tagged: [10, 20] } });
    trunk.send(packet(STRANGER, BROADCAST, { tags: [[0x8100, 10]] }));
    a.send(packet(MAC_A, STRANGER));
    c.send(packet(MAC_C, STRANGER));
    expect(received(trunk, second)).toEqual([2, 2]);
  });

  test.each([
    [20, [5, 1, 300]],
    [256, [1000]],
    [256, Array.from({ length: FRAME_SEGMENTS - 1 }, () => 40)],
  ])("retagging keeps every byte of a frame in pieces: head %i", (head, sizes) => {
    const { a, trunk } = vlanBench();
    const bytes = packet(MAC_A, BROADCAST, {}, 1400).map((byte, n) => (n < 42 ? byte : n));
    const frame = inPieces(bytes, Math.max(head, 42), sizes);
    frame.checksum = "blank";
    a.port.receive(frame);
    expect(trunk.sink.frames).toEqual([concat(bytes.subarray(0, 12), hex("8100000a"), bytes.subarray(12))]);
  });

  test("a long private frame with all segments in use is retagged too", () => {
    const { a, trunk } = vlanBench();
    const bytes = packet(MAC_A, BROADCAST, {}, 1400);
    const frame = new Frame(600);
    frame.reset(bytes.length);
    frame.head.set(bytes.subarray(0, 600));
    frame.headLength = 600;
    const step = Math.ceil((bytes.length - 600) / FRAME_SEGMENTS);
    for (let at = 600; at < bytes.length; at += step) frame.add(bytes, at, Math.min(step, bytes.length - at));
    expect(frame.segments).toBe(FRAME_SEGMENTS);
    a.port.receive(frame);
    expect(trunk.sink.frames).toEqual([packet(MAC_A, BROADCAST, { tags: [[0x8100, 10]] }, 1400)]);
  });

  test("hooks see the frame and headers as the port gets them", () => {
    const { bench, a } = vlanBench();
    const seen: [string, number, number, number][] = [];
    bench.network.setHooks({
      forward: (frame, headers, _from, to) => {
        seen.push([to.name, headers.vlan, headers.sourcePort, frame.length]);
        return "accept";
      },
    });
    a.send(packet(MAC_A, BROADCAST));
    expect(seen).toEqual([
      ["vif2.0", -1, 1, 43],
      ["trunk", 10, 1, 47],
    ]);
  });

  test("a tag that makes the longest frame too long is counted", () => {
    const bench = new Bench({ vlanAware: true, mtu: 65_535 });
    const a = bench.guest("vif1.0", MAC_A);
    const trunk = bench.add("trunk", { vlan: { tagged: [1] } });
    const bytes = concat(packet(MAC_A, BROADCAST), new Uint8Array(FRAME_MOST - 43));
    const frame = inPieces(bytes, 256, [30_000]);
    // Padding counts for the MTU: only segmentation lets the frame in.
    frame.segmentation = "tcpv4";
    frame.segmentSize = 1000;
    const segment = ethernet(0x800, ipv4(tcp(new Uint8Array(100)), { protocol: 6 }), { from: MAC_A, to: BROADCAST });
    frame.head.set(segment.subarray(0, 154));
    a.port.receive(frame);
    expect(trunk.port.counters.dropsOf("too-long")).toBe(1);
    expect(received(trunk)).toEqual([0]);
  });

  test.each([[{ untagged: 0 }], [{ untagged: 4095 }], [{ tagged: [1.5] }], [{ untagged: 5, tagged: [5] }], [{}]])(
    "%j is no membership",
    (vlan) => {
      expect(() => new Bench({ vlanAware: true }).add("p", { vlan })).toThrow(NetworkError);
    },
  );

  test("a switch without VLANs passes tags as they are", () => {
    const { a, b } = three();
    const tagged = packet(MAC_A, MAC_B, { tags: [[0x8100, 20]] });
    a.send(tagged);
    expect(b.sink.frames).toEqual([tagged]);
    expect(() => new Bench().add("p", { vlan: { untagged: 1 } })).toThrow(/knows no VLANs; /);
  });
});
