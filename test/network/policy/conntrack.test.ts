import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { Conntrack } from "../../../engine/network/policy/conntrack.ts";
import { Packet } from "../../../engine/network/policy/packet.ts";
import { stateBits } from "../../../engine/network/policy/rule.ts";
import { arp, concat, ethernet, ipv4, ipv6, neighbour, sealed6, udp } from "../headers-frames.ts";
import {
  ACK,
  FIN,
  icmpFrame,
  must,
  PolicyBench,
  parsedHeaders,
  RST,
  SECOND,
  SYN,
  tcpFrame,
  udpFrame,
  VIF1,
  VIF2,
} from "./policy-bench.ts";

const names = new Map([...stateBits].map(([name, bit]) => [bit, name]));

/** A tracker with time of its own. */
class Tracker {
  readonly conntrack: Conntrack;
  readonly #packet = new Packet();
  now = SECOND;

  constructor(options: ConstructorParameters<typeof Conntrack>[0] = {}) {
    this.conntrack = new Conntrack({ seed: 1, ...options });
  }

  /** The state of a frame; `confirm`: it is let through. */
  see(bytes: Uint8Array, confirm = true, owner = 1): string | undefined {
    const frame = Frame.of(bytes);
    this.#packet.load(frame, parsedHeaders(frame));
    this.#packet.now = this.now;
    const state = this.conntrack.track(this.#packet, owner);
    if (confirm) this.conntrack.confirm(this.now);
    return names.get(state);
  }

  wait(seconds: number): void {
    this.now += seconds * SECOND;
  }
}

const there = {};
const back = { from: "10.0.0.2", to: "10.0.0.1", sport: 80, dport: 40_000 };
const udpBack = { from: "10.0.0.2", to: "10.0.0.1", sport: 53, dport: 5000 };
const there6 = { from: "fd00::1", to: "fd00::2" };
const back6 = { from: "fd00::2", to: "fd00::1", sport: 80, dport: 40_000 };

describe("TCP", () => {
  const seg = (flags: number, ends: object) => tcpFrame(flags, ends);

  test.each<[string, (readonly [number, object, string])[]]>([
    [
      "open, data, close",
      [
        [SYN, there, "NEW"],
        [SYN, there, "NEW"],
        [SYN | ACK, back, "ESTABLISHED"],
        [ACK, there, "ESTABLISHED"],
        [ACK, back, "ESTABLISHED"],
        [FIN | ACK, there, "ESTABLISHED"],
        [ACK, back, "ESTABLISHED"],
        [FIN | ACK, back, "ESTABLISHED"],
        [ACK, there, "ESTABLISHED"],
        // The same ports again.
        [SYN, there, "NEW"],
      ],
    ],
    [
      "refused",
      [
        [SYN, there, "NEW"],
        [RST | ACK, back, "ESTABLISHED"],
        [SYN, there, "NEW"],
      ],
    ],
    [
      "over IPv6",
      [
        [SYN, there6, "NEW"],
        [SYN | ACK, back6, "ESTABLISHED"],
        [ACK, there6, "ESTABLISHED"],
      ],
    ],
    [
      "an answer to nothing",
      [
        [SYN | ACK, back, "INVALID"],
        [RST, there, "INVALID"],
        [FIN | ACK, there, "INVALID"],
      ],
    ],
    [
      "seen too late",
      [
        [ACK, there, "NEW"],
        [ACK, back, "ESTABLISHED"],
        [ACK, there, "ESTABLISHED"],
      ],
    ],
    [
      "no answer but data",
      [
        [SYN, there, "NEW"],
        [ACK, there, "INVALID"],
        [ACK, back, "INVALID"],
      ],
    ],
    [
      "both open at once",
      [
        [SYN, there, "NEW"],
        [SYN, back, "ESTABLISHED"],
        [SYN | ACK, there, "ESTABLISHED"],
      ],
    ],
    [
      "flags that nobody sends",
      [
        [SYN | FIN, there, "INVALID"],
        [0, there, "INVALID"],
        [SYN | RST, there, "INVALID"],
        [FIN, there, "INVALID"],
      ],
    ],
  ])("%s", (_name, steps) => {
    const tracker = new Tracker();
    for (const [flags, ends, state] of steps) expect(tracker.see(seg(flags, ends))).toBe(state);
  });

  test("other ports, other connection", () => {
    const tracker = new Tracker();
    tracker.see(seg(SYN, there));
    expect(tracker.see(seg(SYN | ACK, { ...back, dport: 40_001 }))).toBe("INVALID");
    expect(tracker.see(seg(SYN | ACK, { ...back, from: "10.0.0.3" }))).toBe("INVALID");
    // The same numbers the other way round are the same connection only when both ends change places.
    expect(tracker.see(seg(SYN | ACK, { from: "10.0.0.1", to: "10.0.0.2", sport: 80, dport: 40_000 }))).toBe("INVALID");
    expect(tracker.see(seg(SYN | ACK, back))).toBe("ESTABLISHED");
  });

  test("a closer that sends its FIN again, and acknowledgements after it, has not ended the other half", () => {
    const tracker = new Tracker();
    const steps = [
      [SYN, there],
      [SYN | ACK, back],
      [ACK, there],
      [FIN | ACK, there],
      [FIN | ACK, there],
      [ACK, back],
      [FIN | ACK, there],
      [ACK, there],
    ] as const;
    for (const [flags, ends] of steps) tracker.see(seg(flags, ends));
    expect(tracker.conntrack.list(tracker.now)).toMatchObject([{ state: "CLOSE_WAIT", replied: true }]);
    tracker.see(seg(FIN | ACK, back));
    expect(tracker.conntrack.list(tracker.now)[0]?.state).toBe("LAST_ACK");
    tracker.see(seg(ACK, there));
    expect(tracker.conntrack.list(tracker.now)[0]?.state).toBe("TIME_WAIT");
  });

  test("half-open connections die after two minutes, established ones live for days", () => {
    const tracker = new Tracker();
    tracker.see(seg(SYN, there));
    tracker.wait(121);
    expect(tracker.see(seg(SYN | ACK, back))).toBe("INVALID");
    for (const [flags, ends] of [
      [SYN, there],
      [SYN | ACK, back],
      [ACK, there],
    ] as const)
      tracker.see(seg(flags, ends));
    tracker.wait(4 * 86_400);
    expect(tracker.see(seg(ACK, back))).toBe("ESTABLISHED");
    tracker.wait(5 * 86_400 + 1);
    expect(tracker.see(seg(ACK, back))).toBe("NEW");
  });
});

describe("UDP, ICMP and others", () => {
  test("UDP is new until it is answered", () => {
    const tracker = new Tracker();
    expect(tracker.see(udpFrame())).toBe("NEW");
    expect(tracker.see(udpFrame())).toBe("NEW");
    expect(tracker.see(udpFrame(udpBack))).toBe("ESTABLISHED");
    expect(tracker.see(udpFrame())).toBe("ESTABLISHED");
    tracker.wait(119);
    expect(tracker.see(udpFrame(udpBack))).toBe("ESTABLISHED");
    tracker.wait(121);
    expect(tracker.see(udpFrame(udpBack))).toBe("NEW");
  });

  test("what was not let through opens nothing", () => {
    const tracker = new Tracker();
    expect(tracker.see(udpFrame(), false)).toBe("NEW");
    expect(tracker.see(udpFrame(udpBack), false)).toBe("NEW");
    expect(tracker.conntrack.size).toBe(0);
  });

  const echo = (type: number, id: number, ends = {}) =>
    icmpFrame(type, 0, concat([0, id, 0, 1], new Uint8Array(8)), ends);

  test("echo answers need their question, the asker's one", () => {
    const tracker = new Tracker();
    const other = { from: "10.0.0.2", to: "10.0.0.1" };
    expect(tracker.see(echo(0, 7, other))).toBe("INVALID");
    expect(tracker.see(echo(8, 7))).toBe("NEW");
    expect(tracker.see(echo(0, 8, other))).toBe("INVALID");
    expect(tracker.see(echo(0, 7))).toBe("INVALID");
    expect(tracker.see(echo(0, 7, other))).toBe("ESTABLISHED");
    // The other asks with the same identifier: a question of its own.
    expect(tracker.see(echo(8, 7, other))).toBe("NEW");
    tracker.wait(31);
    expect(tracker.see(echo(0, 7, other))).toBe("INVALID");
  });

  test("an error is related when it quotes a packet of a connection to that packet's sender", () => {
    const tracker = new Tracker();
    const sent = udpFrame();
    const quote = concat([0, 0, 0, 0], sent.subarray(14, 42));
    expect(tracker.see(icmpFrame(3, 3, quote, { from: "10.0.0.2", to: "10.0.0.1" }))).toBe("INVALID");
    tracker.see(sent);
    expect(tracker.see(icmpFrame(3, 3, quote, { from: "10.0.0.2", to: "10.0.0.1" }))).toBe("RELATED");
    expect(tracker.see(icmpFrame(11, 0, quote, { from: "10.9.9.9", to: "10.0.0.1" }))).toBe("RELATED");
    expect(tracker.see(icmpFrame(3, 3, quote, { from: "10.0.0.2", to: "10.0.0.3" }))).toBe("INVALID");
    expect(tracker.see(icmpFrame(3, 3, concat([0, 0, 0, 0], sent.subarray(14, 30)), back))).toBe("INVALID");
    const late = Uint8Array.from(quote);
    late[4 + 6] = 0;
    late[4 + 7] = 20;
    expect(tracker.see(icmpFrame(3, 3, late, { from: "10.0.0.2", to: "10.0.0.1" }))).toBe("INVALID");
  });

  test("an error over IPv6", () => {
    const tracker = new Tracker();
    const sent = tcpFrame(SYN, there6);
    tracker.see(sent);
    const message = sealed6(concat([1, 4, 0, 0, 0, 0, 0, 0], sent.subarray(14)), 2, 58, "fd00::9", "fd00::1");
    expect(tracker.see(ethernet(0x86dd, ipv6(message, { from: "fd00::9", to: "fd00::1", next: 58 })))).toBe("RELATED");
  });

  test("ARP and neighbour discovery are not tracked", () => {
    const tracker = new Tracker();
    expect(tracker.see(ethernet(0x806, arp()))).toBe("UNTRACKED");
    const solicit = sealed6(neighbour(135, "fd00::2"), 2, 58);
    expect(tracker.see(ethernet(0x86dd, ipv6(solicit, { next: 58 })))).toBe("UNTRACKED");
  });

  test("later fragments share the first one's state; without the first they are invalid", () => {
    const tracker = new Tracker();
    const first = ethernet(0x800, ipv4(udp(5000, 53, new Uint8Array(16)), { id: 5, fragment: 0x2000 }));
    const later = (id: number) => ethernet(0x800, ipv4(new Uint8Array(16), { id, fragment: 3 }));
    expect(tracker.see(later(5))).toBe("INVALID");
    expect(tracker.see(first)).toBe("NEW");
    expect(tracker.see(later(5))).toBe("NEW");
    expect(tracker.see(later(6))).toBe("INVALID");
    tracker.see(udpFrame(udpBack));
    expect(tracker.see(first)).toBe("ESTABLISHED");
    expect(tracker.see(later(5))).toBe("ESTABLISHED");
    tracker.wait(31);
    expect(tracker.see(later(5))).toBe("INVALID");
  });
});

describe("bounds", () => {
  test("a flood through one interface pushes out its own half-open connections only", () => {
    const tracker = new Tracker({ most: 100, mostPerInterface: 40 });
    tracker.see(udpFrame(), true, 2);
    tracker.see(udpFrame(udpBack), true, 2);
    for (let n = 0; n < 1000; n++) tracker.see(tcpFrame(SYN, { sport: 1000 + n }), true, 1);
    expect(tracker.conntrack.size).toBe(41);
    expect(tracker.conntrack.evicted).toBe(960);
    expect(tracker.see(udpFrame(), true, 2)).toBe("ESTABLISHED");
    // The newest are the ones that stayed.
    expect(tracker.see(tcpFrame(SYN | ACK, { ...back, dport: 1999 }))).toBe("ESTABLISHED");
    expect(tracker.see(tcpFrame(SYN | ACK, { ...back, dport: 1000 }))).toBe("INVALID");
  });

  test("connections that went both ways are kept when there is no room", () => {
    const tracker = new Tracker({ most: 10, mostPerInterface: 10 });
    for (let n = 0; n < 20; n++) {
      tracker.see(udpFrame({ sport: 6000 + n }));
      tracker.see(udpFrame({ ...udpBack, dport: 6000 + n }));
    }
    expect(tracker.conntrack.size).toBe(10);
    expect(tracker.conntrack.refused).toBeGreaterThan(0);
    expect(tracker.see(udpFrame({ sport: 6000 }), false)).toBe("ESTABLISHED");
    tracker.wait(121);
    for (let n = 0; n < 10; n++) tracker.see(udpFrame({ sport: 7000 + n }));
    expect(tracker.see(udpFrame({ ...udpBack, dport: 7009 }))).toBe("ESTABLISHED");
  });

  test("what an interface opened goes with it", () => {
    const tracker = new Tracker();
    tracker.see(udpFrame(), true, 1);
    tracker.see(udpFrame({ sport: 7 }), true, 2);
    tracker.conntrack.removeOwner(1);
    expect(tracker.conntrack.size).toBe(1);
    expect(tracker.see(udpFrame(udpBack), false)).toBe("NEW");
  });

  test("any packets in any order keep the table bounded and its count right", () => {
    const step = fc.record({
      flags: fc.integer({ min: 0, max: 255 }),
      sport: fc.integer({ min: 1, max: 30 }),
      reply: fc.boolean(),
      owner: fc.integer({ min: 1, max: 3 }),
      seconds: fc.constantFrom(0, 1, 50, 200),
      confirm: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const tracker = new Tracker({ most: 16, mostPerInterface: 8 });
        for (const { flags, sport, reply, owner, seconds, confirm } of steps) {
          tracker.wait(seconds);
          const ends = reply ? { ...back, dport: sport } : { sport };
          expect(tracker.see(tcpFrame(flags, ends), confirm, owner)).toBeDefined();
          expect(tracker.conntrack.size).toBeLessThanOrEqual(16);
          expect(tracker.conntrack.list(0).length).toBe(tracker.conntrack.size);
        }
        for (const owner of [1, 2, 3]) tracker.conntrack.removeOwner(owner);
        expect(tracker.conntrack.size).toBe(0);
      }),
      { numRuns: 150 },
    );
  });
});

test("a stateful firewall lets answers in and nothing else", () => {
  const bench = new PolicyBench();
  must(
    bench.policy.rules.edit(
      "-P FORWARD DROP\n-A FORWARD -m state --state ESTABLISHED,RELATED -j ACCEPT\n" +
        "-A FORWARD -i vif1.0 -m conntrack --ctstate NEW -j ACCEPT",
    ),
  );
  expect(bench.pass(tcpFrame(SYN | ACK, back), VIF2, VIF1)).toBe(false);
  expect(bench.pass(tcpFrame(SYN, back), VIF2, VIF1)).toBe(false);
  // That SYN was refused: what would answer it is no answer.
  expect(bench.pass(tcpFrame(SYN | ACK, there))).toBe(false);
  expect(bench.pass(tcpFrame(SYN, there))).toBe(true);
  expect(bench.pass(tcpFrame(SYN | ACK, back), VIF2, VIF1)).toBe(true);
  expect(bench.pass(tcpFrame(ACK, there))).toBe(true);
  expect(bench.pass(tcpFrame(SYN, { ...back, dport: 22 }), VIF2, VIF1)).toBe(false);
  expect(bench.policy.conntrack.list(bench.clock.now())).toMatchObject([
    {
      protocol: "tcp",
      state: "ESTABLISHED",
      source: "10.0.0.1",
      destination: "10.0.0.2",
      sourcePort: 40_000,
      packets: 3,
    },
  ]);
});
