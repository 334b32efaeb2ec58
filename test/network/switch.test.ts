import { describe, expect, test } from "vitest";
import { Frame } from "../../engine/device/net/frame.ts";
import { type MacAddress, parseCidr, parseMac } from "../../engine/network/address.ts";
import type { Headers } from "../../engine/network/headers.ts";
import { arp, BROADCAST, ethernet, hex, inPieces, ipv4, MAC_A, MAC_B, MAC_C, tcp, udp } from "./headers-frames.ts";
import { Bench, packet, received, STRANGER, three } from "./switch-bench.ts";

const SECOND = 1_000_000_000;

describe("where frames go", () => {
  test("an interface's own address is known before it speaks", () => {
    const { a, b, c } = three();
    const bytes = packet(MAC_A, MAC_B);
    a.send(bytes);
    expect(received(a, b, c)).toEqual([0, 1, 0]);
    expect(b.sink.frames[0]).toEqual(bytes);
  });

  test("broadcast, multicast and unknown addresses go everywhere else", () => {
    const { a, b, c, bench } = three();
    const shy = bench.add("tap0", { floodUnknown: false });
    a.send(packet(MAC_A, BROADCAST));
    a.send(packet(MAC_A, parseMac("01:00:5e:00:00:fb")));
    expect(received(a, b, c, shy)).toEqual([0, 2, 2, 2]);
    a.send(packet(MAC_A, STRANGER));
    expect(received(a, b, c, shy)).toEqual([0, 3, 3, 2]);
  });

  test("addresses behind a port are learned, move, and are forgotten in time", () => {
    const { bench, a, b, c } = three();
    const left = bench.add("left");
    const right = bench.add("right");
    left.send(packet(STRANGER, MAC_A));
    b.send(packet(MAC_B, STRANGER));
    expect(received(a, c, left, right)).toEqual([1, 0, 1, 0]);
    right.send(packet(STRANGER, MAC_A));
    b.send(packet(MAC_B, STRANGER));
    expect(received(c, left, right)).toEqual([0, 1, 1]);
    bench.clock.time = 300 * SECOND;
    b.send(packet(MAC_B, STRANGER));
    expect(received(c, left, right)).toEqual([0, 1, 2]);
    bench.clock.time = 301 * SECOND;
    b.send(packet(MAC_B, STRANGER));
    expect(received(c, left, right)).toEqual([1, 2, 3]);
    expect(bench.network.macTable().filter((fact) => fact.kind === "learned")).toEqual([]);
  });

  test("an interface's address cannot be taken by another port", () => {
    const { bench, a, b, c } = three();
    const uplink = bench.add("uplink");
    uplink.send(packet(MAC_B, MAC_A));
    expect(uplink.port.counters.dropsOf("mac-taken")).toBe(1);
    a.send(packet(MAC_A, MAC_B));
    expect(received(a, b, c, uplink)).toEqual([0, 1, 0, 0]);
    expect(bench.network.macTable()).toContainEqual(
      expect.objectContaining({ mac: "00:16:3e:00:00:0b", port: "vif2.0", kind: "fixed" }),
    );
  });

  test("a frame for its own port goes nowhere", () => {
    const { bench, a, b } = three();
    const bridge = bench.add("bridge");
    bridge.send(packet(STRANGER, MAC_A));
    bridge.send(packet(parseMac("52:54:00:00:00:02"), STRANGER));
    expect(received(a, b, bridge)).toEqual([1, 0, 0]);
    expect(bridge.port.counters.dropsOf("same-port")).toBe(1);
  });

  test("isolated ports reach only the others", () => {
    const bench = new Bench({ isolated: true });
    const [a, b] = [bench.guest("vif1.0", MAC_A), bench.guest("vif2.0", MAC_B)];
    const uplink = bench.add("uplink", { isolated: false });
    a.send(packet(MAC_A, MAC_B));
    a.send(packet(MAC_A, BROADCAST));
    expect(received(a, b, uplink)).toEqual([0, 0, 1]);
    expect(a.port.counters.dropsOf("isolated")).toBe(1);
    uplink.send(packet(STRANGER, BROADCAST));
    expect(received(a, b)).toEqual([1, 1]);
  });

  test("a port that is down neither sends nor gets, and a removed one is gone", () => {
    const { bench, a, b, c } = three();
    b.port.setLink(false);
    a.send(packet(MAC_A, MAC_B));
    a.send(packet(MAC_A, BROADCAST));
    b.send(packet(MAC_B, MAC_A));
    expect(received(a, b, c)).toEqual([0, 0, 1]);
    expect(b.port.counters.dropsOf("link-down")).toBe(2);
    b.port.setLink(true);
    a.send(packet(MAC_A, MAC_B));
    expect(received(b)).toEqual([1]);
    bench.network.removePort(b.port);
    a.send(packet(MAC_A, MAC_B));
    b.send(packet(MAC_B, MAC_A));
    expect(received(a, b, c)).toEqual([0, 1, 2]);
    const next = bench.guest("vif9.0", MAC_B);
    expect(next.port.id).toBe(b.port.id);
    a.send(packet(MAC_A, MAC_B));
    expect(received(b, next)).toEqual([1, 1]);
  });

  test("learned addresses of a port whose link went down are forgotten", () => {
    const { bench, b, c } = three();
    const bridge = bench.add("bridge");
    bridge.send(packet(STRANGER, MAC_B));
    bridge.port.setLink(false);
    bridge.port.setLink(true);
    b.send(packet(MAC_B, STRANGER));
    expect(received(c, bridge)).toEqual([1, 1]);
  });
});

describe("the table of addresses is bounded", () => {
  const address = (n: number): MacAddress => ({ high: 0x5255, low: n });

  test("a port that invents addresses pushes out its own", () => {
    const bench = new Bench({ macTableSize: 64 });
    const good = bench.add("good", { macLimit: 8 });
    const bad = bench.add("bad", { macLimit: 16 });
    good.send(packet(STRANGER, BROADCAST));
    for (let n = 0; n < 10_000; n++) bad.send(packet(address(n), STRANGER));
    const table = bench.network.macTable();
    expect(table.filter((fact) => fact.port === "bad").map((fact) => fact.mac)).toEqual(
      Array.from({ length: 16 }, (_, n) => `52:55:00:00:${(9984 + n).toString(16).replace(/(..)$/, ":$1")}`),
    );
    expect(table.filter((fact) => fact.port === "good")).toHaveLength(1);
    expect(received(good)).toEqual([10_000]);
  });

  test("an address that is seen again is not the one to go", () => {
    const bench = new Bench();
    const port = bench.add("bridge", { macLimit: 2 });
    for (const n of [1, 2, 1, 3]) port.send(packet(address(n), BROADCAST));
    expect(bench.network.macTable().map((fact) => fact.mac.slice(-2))).toEqual(["01", "03"]);
  });

  test("a full table forgets whoever was silent longest", () => {
    const bench = new Bench({ macTableSize: 4 });
    const ports = Array.from({ length: 3 }, (_, n) => bench.add(`p${n}`));
    for (let n = 0; n < 5; n++) {
      bench.clock.time++;
      ports[n % 3]!.send(packet(address(n), BROADCAST));
      bench.clock.time++;
      ports[0]!.send(packet(address(0), BROADCAST));
    }
    const known = bench.network.macTable().map((fact) => fact.mac.slice(-2));
    expect(known.toSorted()).toEqual(["00", "02", "03", "04"]);
  });

  test("addresses that move at random between ports and VLANs are found where they were last", () => {
    const bench = new Bench({ vlanAware: true, macTableSize: 128 });
    const vlans = [10, 20, 30];
    const ports = Array.from({ length: 4 }, (_, n) => bench.add(`p${n}`, { vlan: { tagged: vlans } }));
    const where = new Map<string, string>();
    let random = 1;
    const next = (most: number): number => {
      random = (Math.imul(random, 1_103_515_245) + 12_345) >>> 0;
      return (random >>> 8) % most;
    };
    for (let n = 0; n < 5000; n++) {
      const [port, vlan, mac] = [ports[next(4)]!, vlans[next(3)]!, address(next(40))];
      port.send(packet(mac, BROADCAST, { tags: [[0x8100, vlan]] }));
      where.set(`${vlan} ${mac.low}`, port.port.name);
    }
    const table = bench.network.macTable();
    const found = table.map((fact) => [`${fact.vlan} ${Number.parseInt(fact.mac.slice(-2), 16)}`, fact.port] as const);
    expect(new Map(found)).toEqual(where);
    expect(table).toHaveLength(where.size);
  });
});

describe("what a switch drops is counted by name", () => {
  test("spoofed frames", () => {
    const bench = new Bench();
    const a = bench.guest("vif1.0", MAC_A, { rules: { mac: MAC_A, addresses: [parseCidr("10.0.0.1")] } });
    const b = bench.guest("vif2.0", MAC_B);
    a.send(packet(MAC_C, MAC_B));
    a.send(ethernet(0x800, ipv4(udp(1, 2, hex("")), { from: "10.0.0.2" })));
    a.send(ethernet(0x806, arp({ address: "10.0.0.2" }), { to: BROADCAST }));
    a.send(ethernet(0x800, hex("45")));
    expect(received(b)).toEqual([0]);
    const { counters } = bench.network.describePorts()[0]!;
    expect(counters).toMatchObject({ framesIn: 4, droppedIn: 4, framesOut: 0 });
    expect(counters.drops).toEqual({
      "mac-spoofed": 1,
      "ip4-spoofed": 1,
      "arp-address-spoofed": 1,
      "ip4-length": 1,
    });
    a.port.setAddresses([parseCidr("10.0.0.2")]);
    a.send(ethernet(0x800, ipv4(udp(1, 2, hex("")), { from: "10.0.0.2" })));
    a.send(packet(MAC_A, MAC_B));
    expect(received(b)).toEqual([1]);
    a.port.setAddresses(undefined);
    a.send(packet(MAC_A, MAC_B));
    expect(received(b)).toEqual([2]);
  });

  test.each([
    ["at the MTU", 1500, [], undefined, 1],
    ["over it", 1501, [], undefined, 0],
    ["at the MTU with a tag", 1500, [[0x8100, 5] as const], undefined, 1],
    ["segments at the MTU", 9000, [], 1460, 1],
    ["segments over it", 9000, [], 1461, 0],
  ])("the MTU: %s", (_what, size, tags, segmentSize, expected) => {
    const { a, b } = three();
    const segment = ipv4(tcp(new Uint8Array(size - 40)), { protocol: 6 });
    const frame = inPieces(ethernet(0x800, segment, { tags }), 256, []);
    if (segmentSize !== undefined) Object.assign(frame, { segmentation: "tcpv4", segmentSize });
    a.port.receive(frame);
    expect(received(b)).toEqual([expected]);
    expect(a.port.counters.dropsOf("mtu")).toBe(1 - expected);
  });

  test("what a port does not take is counted there, and disturbs nobody", () => {
    const { a, b, c } = three();
    b.sink.failure = "no-buffer";
    a.send(packet(MAC_A, BROADCAST));
    expect(received(b, c)).toEqual([0, 1]);
    expect(b.port.counters.statistics()).toMatchObject({ framesOut: 0, droppedOut: 1, drops: { "no-buffer": 1 } });
  });

  test("frames, bytes, multicast and broadcast, both ways", () => {
    const { a, b } = three();
    a.send(packet(MAC_A, MAC_B, {}, 10));
    a.send(packet(MAC_A, BROADCAST));
    a.send(packet(MAC_A, parseMac("33:33:00:00:00:01")));
    expect(a.port.counters.statistics()).toMatchObject({ framesIn: 3, bytesIn: 138, multicastIn: 1, broadcastIn: 1 });
    expect(b.port.counters.statistics()).toMatchObject({
      framesOut: 3,
      bytesOut: 138,
      multicastOut: 1,
      broadcastOut: 1,
      droppedOut: 0,
    });
    b.port.counters.reset();
    expect(b.port.counters.statistics()).toMatchObject({ framesOut: 0, bytesOut: 0, drops: {} });
  });
});

describe("policies", () => {
  test("hooks are asked in order, and their drops are counted", () => {
    const { bench, a, b, c } = three();
    const asked: string[] = [];
    const ask = (what: string): "accept" => {
      asked.push(what);
      return "accept";
    };
    a.port.setHooks({ ingress: (_frame, _headers, port) => ask(`port in ${port.name}`) });
    bench.network.setHooks({
      ingress: (_frame, _headers, port) => ask(`switch in ${port.name}`),
      forward: (_frame, _headers, from, to) => {
        asked.push(`${from.name} to ${to.name}`);
        return to.name === "vif3.0" ? "drop" : "accept";
      },
      egress: (_frame, _headers, port) => ask(`switch out ${port.name}`),
    });
    b.port.setHooks({ egress: (_frame, _headers, port) => ask(`port out ${port.name}`) });
    a.send(packet(MAC_A, BROADCAST));
    expect(asked).toEqual([
      "port in vif1.0",
      "switch in vif1.0",
      "vif1.0 to vif2.0",
      "switch out vif2.0",
      "port out vif2.0",
      "vif1.0 to vif3.0",
    ]);
    expect(received(b, c)).toEqual([1, 0]);
    expect(c.port.counters.dropsOf("policy")).toBe(1);
    a.port.setHooks({ ingress: () => "drop" });
    a.send(packet(MAC_A, MAC_B));
    expect(a.port.counters.dropsOf("policy")).toBe(1);
  });

  test("a frame that was taken goes on later, where it was taken", () => {
    const { bench, a, b, c } = three();
    const kept: Frame[] = [];
    const keep = (frame: Frame) => {
      kept.push(frame.clone());
      return "taken" as const;
    };
    a.port.setHooks({ ingress: keep });
    b.port.setHooks({ egress: keep });
    a.send(packet(MAC_A, MAC_B));
    expect(received(b)).toEqual([0]);
    bench.network.forward(a.port, kept[0]!);
    expect([kept.length, b.sink.frames.length]).toEqual([2, 0]);
    bench.network.deliver(b.port, kept[1]!);
    expect(b.sink.frames).toEqual([packet(MAC_A, MAC_B)]);
    expect([a.port.counters.droppedIn, b.port.counters.droppedOut]).toEqual([0, 0]);
    bench.network.removePort(b.port);
    const next = bench.guest("vif9.0", MAC_B);
    bench.network.deliver(b.port, kept[1]!);
    bench.network.removePort(a.port);
    expect(bench.guest("vif8.0", STRANGER).port.id).toBe(a.port.id);
    bench.network.forward(a.port, kept[0]!);
    expect(received(b, c, next)).toEqual([1, 0, 0]);
  });

  test("taps see everything that comes, and what really goes out", () => {
    const { bench, a, b } = three();
    const seen: string[] = [];
    const stop = bench.network.addTap((_frame, port, direction) => seen.push(`switch ${direction} ${port.name}`));
    const stopPort = b.port.addTap((frame, _port, direction) => seen.push(`port ${direction} ${frame.length}`));
    a.send(packet(MAC_C, MAC_B));
    a.send(packet(MAC_A, MAC_B));
    expect(seen).toEqual(["switch in vif1.0", "switch in vif1.0", "port out 43", "switch out vif2.0"]);
    stop();
    stopPort();
    a.send(packet(MAC_A, MAC_B));
    expect(seen).toHaveLength(4);
  });
});

describe("answers and batches", () => {
  test("a port may answer while it is delivered to, without disturbing the frame on its way", () => {
    const { bench, a, b } = three();
    const gateway = bench.add("gateway");
    const last = bench.guest("vif9.0", parseMac("00:16:3e:00:00:0f"));
    const seen: [string, number][] = [];
    last.port.setHooks({
      egress: (_frame, headers: Headers, port) => {
        seen.push([port.name, headers.etherType]);
        return "accept";
      },
    });
    gateway.sink.answer = () => gateway.send(packet(STRANGER, MAC_A));
    a.send(ethernet(0x806, arp(), { to: BROADCAST }));
    expect(received(a, b, last)).toEqual([1, 1, 1]);
    expect(seen).toEqual([["vif9.0", 0x806]]);
  });

  test("switches joined in a circle drop instead of going on for ever", () => {
    const bench = new Bench();
    const a = bench.guest("vif1.0", MAC_A);
    const left = bench.add("left");
    const right = bench.add("right");
    left.sink.answer = () => right.send(packet(STRANGER, BROADCAST));
    right.sink.answer = () => left.send(packet(STRANGER, BROADCAST));
    a.send(packet(MAC_A, BROADCAST));
    const drops = left.port.counters.dropsOf("loop") + right.port.counters.dropsOf("loop");
    expect(drops).toBeGreaterThan(0);
    a.send(packet(MAC_A, BROADCAST));
    expect(left.port.counters.dropsOf("loop") + right.port.counters.dropsOf("loop")).toBe(2 * drops);
  });

  test("one flush a batch for each port that was delivered to", () => {
    const { a, b, c } = three();
    for (let n = 0; n < 5; n++) a.send(packet(MAC_A, MAC_B));
    expect([b.sink.flushes, c.sink.flushes]).toEqual([0, 0]);
    a.port.batchEnd();
    a.port.batchEnd();
    expect([b.sink.flushes, c.sink.flushes]).toEqual([1, 0]);
  });

  test("a port that was removed is not flushed", () => {
    const { bench, a, b, c } = three();
    a.send(packet(MAC_A, BROADCAST));
    bench.network.removePort(b.port);
    a.port.batchEnd();
    expect([b.sink.flushes, c.sink.flushes]).toEqual([0, 1]);
  });

  test("a batch that nobody ends is flushed before the turn is over", async () => {
    const { bench, a, b } = three();
    a.send(packet(MAC_A, MAC_B));
    await Promise.resolve();
    expect(b.sink.flushes).toBe(1);
    bench.network.deliver(b.port, Frame.of(packet(MAC_A, MAC_B)));
    await Promise.resolve();
    expect(b.sink.flushes).toBe(2);
  });

  test("deliveries made by a flush wait for the next one", async () => {
    const { bench, a, b } = three();
    let answers = 0;
    b.sink.flush = () => {
      if (answers++ < 3) bench.network.deliver(b.port, Frame.of(packet(MAC_A, MAC_B)));
      bench.network.batchEnd();
    };
    a.send(packet(MAC_A, MAC_B));
    a.port.batchEnd();
    expect(answers).toBe(1);
    a.port.batchEnd();
    expect(answers).toBe(2);
    await new Promise((resolve) => setImmediate(resolve));
    expect([answers, b.sink.frames.length]).toEqual([4, 4]);
  });
});
