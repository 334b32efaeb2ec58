import { describe, expect, test } from "vitest";
import { Frame } from "../../../engine/device/net/frame.ts";
import { hasRightChecksums } from "../../../engine/network/offload.ts";
import { VirtualSwitch } from "../../../engine/network/switch.ts";
import {
  arp,
  BROADCAST,
  concat,
  ethernet,
  ipv4,
  ipv6,
  MAC_A,
  MAC_B,
  neighbour,
  sealed6,
  tcp,
  udp,
} from "../headers-frames.ts";
import { Sink } from "../switch-bench.ts";
import {
  ACK,
  errorOf,
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
  VIF3,
} from "./policy-bench.ts";

const ping = icmpFrame(8, 0, concat([0, 7, 0, 1], new Uint8Array(8)));
const fragment = ethernet(0x800, ipv4(new Uint8Array(64), { fragment: 20, protocol: 6 }));
const solicit = ethernet(0x86dd, ipv6(sealed6(neighbour(135, "fd00::2"), 2, 58), { next: 58 }));

describe("what a rule matches", () => {
  // A rule that drops, a frame from vif1.0 to vif2.0, whether the rule matches it.
  test.each<[rule: string, frame: string, bytes: Uint8Array, matches: boolean]>([
    ["", "any", udpFrame(), true],
    ["-p tcp --dport 80", "tcp to 80", tcpFrame(SYN), true],
    ["-p tcp --dport 81", "tcp to 80", tcpFrame(SYN), false],
    ["-p tcp ! --dport 80", "tcp to 80", tcpFrame(SYN), false],
    ["-p tcp ! --dport 81", "tcp to 80", tcpFrame(SYN), true],
    ["-p tcp --dport 80", "udp to 80", udpFrame({ dport: 80 }), false],
    ["-p tcp --dport 0:65535", "a later fragment", fragment, false],
    ["-p tcp ! --dport 80", "a later fragment", fragment, false],
    ["-p tcp", "a later fragment", fragment, true],
    ["-f", "a later fragment", fragment, true],
    ["! -f", "a later fragment", fragment, false],
    ["-f", "udp", udpFrame(), false],
    ["-p tcp --sport 1024:65535", "tcp from 40000", tcpFrame(SYN), true],
    ["! -p tcp", "udp", udpFrame(), true],
    ["! -p tcp", "tcp", tcpFrame(SYN), false],
    ["-s 10.0.0.0/24", "10.0.0.1", udpFrame(), true],
    ["-s 10.0.0.0/24", "10.0.1.1", udpFrame({ from: "10.0.1.1" }), false],
    ["! -s 10.0.0.0/24", "10.0.1.1", udpFrame({ from: "10.0.1.1" }), true],
    ["-d 200.0.0.0/8", "above 2^31", udpFrame({ to: "200.1.2.3" }), true],
    ["-d 10.0.0.2", "10.0.0.2", udpFrame(), true],
    ["! -d 10.0.0.2", "10.0.0.2", udpFrame(), false],
    ["-s 0.0.0.0/0", "IPv6", tcpFrame(SYN, { from: "fd00::1", to: "fd00::2" }), false],
    ["-s fd00::/16", "fd00::1", tcpFrame(SYN, { from: "fd00::1", to: "fd00::2" }), true],
    ["-s fd01::/16", "fd00::1", tcpFrame(SYN, { from: "fd00::1", to: "fd00::2" }), false],
    ["! -d fd00::2", "fd00::3", tcpFrame(SYN, { from: "fd00::1", to: "fd00::3" }), true],
    ["-s ::/0", "IPv4", udpFrame(), false],
    ["-6", "IPv4", udpFrame(), false],
    ["-i vif1.0", "from vif1.0", udpFrame(), true],
    ["-i vif2.0", "from vif1.0", udpFrame(), false],
    ["! -i vif2.0", "from vif1.0", udpFrame(), true],
    ["-i vif1.+", "from vif1.0", udpFrame(), true],
    ["-o vif2.0", "to vif2.0", udpFrame(), true],
    ["-o vif1.0", "to vif2.0", udpFrame(), false],
    ["! -o vif3.+", "to vif2.0", udpFrame(), true],
    ["-p tcp --syn", "SYN", tcpFrame(SYN), true],
    ["-p tcp --syn", "SYN ACK", tcpFrame(SYN | ACK), false],
    ["-p tcp ! --syn", "ACK", tcpFrame(ACK), true],
    ["-p tcp --tcp-flags SYN,RST RST", "RST ACK", tcpFrame(RST | ACK), true],
    ["-p tcp --tcp-flags ALL FIN", "FIN ACK", tcpFrame(FIN | ACK), false],
    ["-p icmp --icmp-type echo-request", "ping", ping, true],
    ["-p icmp --icmp-type echo-reply", "ping", ping, false],
    ["-p icmp --icmp-type 8/1", "ping", ping, false],
    ["-p icmp --icmp-type any", "ping", ping, true],
    ["-p icmpv6 --icmpv6-type neighbour-solicitation", "solicitation", solicit, true],
    ["-p icmpv6 --icmpv6-type neighbour-advertisement", "solicitation", solicit, false],
    ["-p tcp -m multiport --dports 22,80:90", "tcp to 80", tcpFrame(SYN), true],
    ["-p tcp -m multiport --ports 40000", "tcp from 40000", tcpFrame(SYN), true],
    ["-p tcp -m multiport ! --sports 22", "tcp from 40000", tcpFrame(SYN), true],
    ["-m mac --mac-source 00:16:3e:00:00:0a", "its own", udpFrame(), true],
    ["-m mac ! --mac-source 00:16:3e:00:00:0a", "its own", udpFrame(), false],
    ["-m length --length 38", "38 bytes of IP", udpFrame(), true],
    ["-m length --length 39:", "38 bytes of IP", udpFrame(), false],
    ["-m pkttype --pkt-type unicast", "unicast", udpFrame(), true],
    [
      "-m pkttype --pkt-type multicast",
      "broadcast",
      ethernet(0x800, ipv4(udp(1, 2, new Uint8Array(1))), { to: BROADCAST }),
      false,
    ],
    ["-p arp", "ARP", ethernet(0x806, arp()), true],
    ["-p arp -s 10.0.0.1", "ARP of 10.0.0.1", ethernet(0x806, arp()), true],
    ["-p arp -s 10.0.0.9", "ARP of 10.0.0.1", ethernet(0x806, arp()), false],
    ["-p arp -d 10.0.0.2", "ARP for 10.0.0.2", ethernet(0x806, arp()), true],
    ["", "ARP", ethernet(0x806, arp()), false],
    ["-s 10.0.0.1", "ARP", ethernet(0x806, arp()), false],
    ["-p arp", "LLDP", ethernet(0x88cc, new Uint8Array(46)), false],
    ["", "LLDP", ethernet(0x88cc, new Uint8Array(46)), false],
  ])("%s: %s", (rule, _name, bytes, matches) => {
    const bench = new PolicyBench();
    must(bench.policy.rules.edit(`-A FORWARD ${rule} -j DROP`));
    expect(bench.pass(bytes)).toBe(!matches);
    const [counted] = bench.policy.rules.facts()[0]?.rules ?? [];
    expect(counted).toMatchObject(matches ? { packets: 1, bytes: bytes.length } : { packets: 0, bytes: 0 });
  });
});

describe("the walk", () => {
  test("calls, returns, policies", () => {
    const bench = new PolicyBench();
    const text = `-P FORWARD DROP
      -N web
      -A FORWARD -p tcp -j web
      -A FORWARD -p tcp --dport 25 -j ACCEPT
      -A web -s 10.0.0.66 -j RETURN
      -A web -p tcp --dport 80 -j ACCEPT
      -A web -p tcp --dport 81 -j DROP
      -A FORWARD -p icmp -j RETURN
      -A FORWARD -j ACCEPT`;
    must(bench.policy.rules.edit(text));
    expect(bench.pass(tcpFrame(SYN))).toBe(true);
    expect(bench.pass(tcpFrame(SYN, { from: "10.0.0.66", dport: 25 }))).toBe(true);
    expect(bench.pass(tcpFrame(SYN, { dport: 81 }))).toBe(false);
    // RETURN in a built-in chain means its policy, whatever follows.
    expect(bench.pass(ping)).toBe(false);
    expect(bench.pass(udpFrame())).toBe(true);
    const [forward, web] = bench.policy.rules.facts();
    expect(forward).toMatchObject({ policy: "DROP", packets: 1, bytes: ping.length });
    expect(web?.rules.map(({ packets }) => packets)).toEqual([1, 1, 1]);
    bench.policy.rules.zero();
    expect(bench.policy.rules.facts()[0]).toMatchObject({ packets: 0, bytes: 0 });
  });

  test("ARP walks through all rules of a chain that a rule for ARP calls", () => {
    const bench = new PolicyBench();
    must(bench.policy.rules.edit("-P FORWARD DROP\n-N arps\n-A FORWARD -p arp -j arps\n-A arps -i vif1.0 -j DROP"));
    expect(bench.pass(ethernet(0x806, arp()))).toBe(false);
    // Neither the policy nor rules for IP are about what no rule for ARP drops.
    expect(bench.pass(ethernet(0x806, arp()), VIF2, VIF1)).toBe(true);
  });

  test("chains of interfaces: OUTPUT where frames come from, INPUT where they go to", () => {
    const bench = new PolicyBench();
    must(bench.policy.interfaceRules("vif1.0").edit("-A OUTPUT -p tcp --dport 25 -j DROP"));
    must(bench.policy.interfaceRules("vif2.0").edit("-A INPUT -i vif3.0 -j DROP"));
    expect(bench.pass(tcpFrame(SYN, { dport: 25 }))).toBe(false);
    expect(bench.pass(tcpFrame(SYN, { dport: 25 }), VIF2, VIF1)).toBe(true);
    expect(bench.pass(udpFrame(), VIF3, VIF2)).toBe(false);
    expect(bench.pass(udpFrame(), VIF1, VIF2)).toBe(true);
    expect(bench.policy.interfacesWithRules()).toEqual(["vif1.0", "vif2.0"]);
    bench.policy.removeInterface(VIF2);
    expect(bench.pass(udpFrame(), VIF3, VIF2)).toBe(true);
  });

  test("without rules there are no hooks; they come and go with the first and the last rule", () => {
    const bench = new PolicyBench();
    expect(bench.policy.hooks).toEqual({});
    must(bench.policy.rules.edit("-A FORWARD -j ACCEPT"));
    expect(bench.policy.hooks.forward).toBeDefined();
    expect(bench.hookChanges).toBe(1);
    must(bench.policy.rules.edit("-A FORWARD -j ACCEPT"));
    expect(bench.hookChanges).toBe(1);
    must(bench.policy.rules.edit("-F"));
    expect(bench.policy.hooks).toEqual({});
    must(bench.policy.accounting.add("class all:"));
    must(bench.policy.interfaceRules("vif1.0").edit("-P INPUT DROP"));
    bench.policy.accounting.remove("all");
    expect(bench.policy.hooks.ingress).toBeDefined();
    must(bench.policy.interfaceRules("vif1.0").edit("-P INPUT ACCEPT"));
    expect(bench.policy.hooks).toEqual({});
    expect(bench.hookChanges).toBe(4);
  });

  test("limit: a burst, then the rate; a packet that fails elsewhere costs nothing", () => {
    const bench = new PolicyBench();
    must(
      bench.policy.rules.edit(
        "-P FORWARD DROP\n-A FORWARD -m limit --limit 5/second --limit-burst 10 -p udp -j ACCEPT",
      ),
    );
    for (let n = 0; n < 100; n++) expect(bench.pass(ping)).toBe(false);
    const passed = (count: number) =>
      Array.from({ length: count }, () => bench.pass(udpFrame())).filter(Boolean).length;
    expect(passed(50)).toBe(10);
    bench.clock.time += 0.19 * SECOND;
    expect(passed(5)).toBe(0);
    bench.clock.time += 0.011 * SECOND;
    expect(passed(5)).toBe(1);
    bench.clock.time += SECOND;
    expect(passed(50)).toBe(5);
    bench.clock.time += 3600 * SECOND;
    expect(passed(50)).toBe(10);
  });
});

describe("REJECT", () => {
  function rejected(rule: string, bytes: Uint8Array) {
    const bench = new PolicyBench();
    must(bench.policy.rules.edit(`-A FORWARD ${rule}`));
    expect(bench.pass(bytes)).toBe(false);
    const [answer] = bench.answers;
    if (answer === undefined) return undefined;
    const headers = parsedHeaders(answer.frame);
    expect(answer.to).toBe(VIF1);
    expect(hasRightChecksums(answer.frame, headers)).toBe(true);
    expect([...answer.frame.head.subarray(0, 12)]).toEqual([...bytes.subarray(6, 12), ...bytes.subarray(0, 6)]);
    return { headers, frame: answer.frame };
  }

  test("port unreachable over IPv4 quotes the packet", () => {
    const bytes = udpFrame();
    const answer = rejected("-p udp -j REJECT", bytes);
    expect(answer?.headers).toMatchObject({
      protocol: 1,
      icmpType: 3,
      icmpCode: 3,
      source4: 0x0a00_0002,
      destination4: 0x0a00_0001,
    });
    expect([...(answer?.frame.head.subarray(42) ?? [])]).toEqual([...bytes.subarray(14)]);
  });

  test.each([
    ["icmp-host-prohibited", 10],
    ["icmp-admin-prohibited", 13],
    ["icmp-net-unreachable", 0],
  ])("%s", (how, code) => {
    expect(rejected(`-j REJECT --reject-with ${how}`, udpFrame())?.headers).toMatchObject({
      icmpType: 3,
      icmpCode: code,
    });
  });

  test("over IPv6", () => {
    const bytes = tcpFrame(SYN, { from: "fd00::1", to: "fd00::2" });
    const answer = rejected("-j REJECT", bytes);
    expect(answer?.headers).toMatchObject({ ipVersion: 6, protocol: 58, icmpType: 1, icmpCode: 4 });
    const other = rejected("-j REJECT --reject-with icmp6-adm-prohibited", bytes);
    expect(other?.headers).toMatchObject({ icmpType: 1, icmpCode: 1 });
  });

  test.each([
    ["IPv4", {}],
    ["IPv6", { from: "fd00::1", to: "fd00::2" }],
  ])("reset of a SYN over %s", (_name, ends) => {
    const answer = rejected("-p tcp -j REJECT --reject-with tcp-reset", tcpFrame(SYN, ends, new Uint8Array(5)));
    // Sequence number 1000, the SYN and five bytes.
    expect(answer?.headers).toMatchObject({
      protocol: 6,
      tcpFlags: RST | ACK,
      tcpSequence: 0,
      tcpAcknowledgement: 1006,
    });
    expect(answer?.headers).toMatchObject({ sourcePort: 80, destinationPort: 40_000, payloadLength: 0 });
  });

  test("reset of a segment with an acknowledgement", () => {
    const answer = rejected("-p tcp -j REJECT --reject-with tcp-reset", tcpFrame(ACK));
    expect(answer?.headers).toMatchObject({ tcpFlags: RST, tcpSequence: 2000 });
  });

  test("the answer has the tags of the port that the packet came from", () => {
    const tagged = ethernet(0x800, ipv4(udp(1, 2, new Uint8Array(4))), { tags: [[0x8100, 42]] });
    const answer = rejected("-j REJECT", tagged);
    expect(answer?.headers).toMatchObject({ vlan: 42, vlanTags: 1, icmpType: 3 });
  });

  test.each([
    ["an ICMP error", icmpFrame(3, 1, new Uint8Array(32))],
    ["a reset", tcpFrame(RST)],
    ["a later fragment", fragment],
    ["a broadcast", ethernet(0x800, ipv4(udp(1, 2, new Uint8Array(4))), { to: BROADCAST })],
    ["a sender without address", udpFrame({ from: "0.0.0.0" })],
    ["a group's address", udpFrame({ to: "224.0.0.1" })],
  ])("%s is not answered", (_name, bytes) => {
    expect(rejected("-j REJECT", bytes)).toBeUndefined();
  });

  test("a frame that is flooded is answered once", () => {
    const bench = new PolicyBench();
    must(bench.policy.rules.edit("-A FORWARD -j REJECT"));
    const frame = Frame.of(udpFrame());
    const headers = parsedHeaders(frame);
    bench.policy.hooks.ingress?.(frame, headers, VIF1);
    expect(bench.policy.hooks.forward?.(frame, headers, VIF1, VIF2)).toBe("drop");
    expect(bench.policy.hooks.forward?.(frame, headers, VIF1, VIF3)).toBe("drop");
    expect(bench.answers).toHaveLength(1);
  });
});

describe("log and classes", () => {
  test("every TCP packet with SYN is logged, in netfilter's words", () => {
    const bench = new PolicyBench();
    must(bench.policy.accounting.add('class syn: -p tcp --syn -j LOG --log-prefix "syn: "'));
    bench.pass(tcpFrame(SYN));
    bench.pass(tcpFrame(SYN | ACK));
    bench.pass(udpFrame());
    expect(bench.lines).toEqual([
      "syn: IN=vif1.0 OUT= MAC=00:16:3e:00:00:0b:00:16:3e:00:00:0a:08:00 SRC=10.0.0.1 DST=10.0.0.2 LEN=40 TOS=0x00 " +
        "PREC=0x00 TTL=64 ID=4660 PROTO=TCP SPT=40000 DPT=80 WINDOW=512 RES=0x00 SYN URGP=0",
    ]);
    expect(bench.policy.accounting.facts()).toMatchObject([{ name: "syn", packets: 1, bytes: 54 }]);
  });

  test.each<[Uint8Array, string]>([
    [udpFrame(), "ID=4660 PROTO=UDP SPT=5000 DPT=53 LEN=18"],
    [ping, "PROTO=ICMP TYPE=8 CODE=0 ID=7 SEQ=1"],
    [
      tcpFrame(FIN | ACK, { from: "fd00::1", to: "fd00::2" }),
      "SRC=fd00:0000:0000:0000:0000:0000:0000:0001 DST=fd00:0000:0000:0000:0000:0000:0000:0002 " +
        "LEN=60 TC=0 HOPLIMIT=255 FLOWLBL=0 PROTO=TCP SPT=40000 DPT=80 WINDOW=512 RES=0x00 ACK FIN URGP=0",
    ],
    [fragment, "FRAG:20 PROTO=TCP"],
  ])("a line of another kind %#", (bytes, text) => {
    const bench = new PolicyBench();
    must(bench.policy.rules.edit("-A FORWARD -j LOG"));
    expect(bench.pass(bytes)).toBe(true);
    expect(bench.lines[0]).toContain("IN=vif1.0 OUT=vif2.0 MAC=");
    expect(bench.lines[0]).toContain(text);
  });

  test("ARP", () => {
    const bench = new PolicyBench();
    must(bench.policy.rules.edit("-A FORWARD -p arp -j LOG"));
    bench.pass(ethernet(0x806, arp()));
    expect(bench.lines[0]).toMatch(
      /ARP HTYPE=1 PTYPE=0x0800 OPCODE=1 MACSRC=00:16:3e:00:00:0a IPSRC=10.0.0.1 .*IPDST=10.0.0.2$/,
    );
  });

  test("a flood of packets is no flood of lines", () => {
    const bench = new PolicyBench({ packetLog: { perSecond: 10, burst: 20, kept: 5 } });
    must(bench.policy.accounting.add("class all: -j LOG"));
    for (let n = 0; n < 1000; n++) bench.pass(udpFrame());
    expect(bench.lines).toHaveLength(20);
    bench.clock.time += SECOND;
    bench.pass(udpFrame());
    expect(bench.lines).toHaveLength(22);
    expect(bench.lines[20]).toBe("packet log: 980 lines left out");
    expect(bench.policy.packetLog.suppressed).toBe(980);
    expect(bench.policy.packetLog.lines()).toHaveLength(5);
    expect(bench.policy.packetLog.lines(1)[0]?.line).toBe(bench.lines[21]);
  });

  test("classes count apart, are reset, exported and replaced", () => {
    const bench = new PolicyBench();
    const { accounting } = bench.policy;
    must(accounting.add("class web: -p tcp --dport 80\nclass all:\nclass out2: -o vif2.0"));
    bench.pass(tcpFrame(SYN));
    bench.pass(udpFrame(), VIF2, VIF1);
    const counted = () => Object.fromEntries(accounting.facts().map(({ name, packets }) => [name, packets]));
    expect(counted()).toEqual({ web: 1, all: 2, out2: 1 });
    expect(accounting.save()).toEqual(["class web: -p tcp -m tcp --dport 80", "class all:", "class out2: -o vif2.0"]);
    expect(
      accounting
        .list()
        .split("\n")
        .map((line) => line.replace(/ +/g, " ")),
    ).toEqual(["class packets bytes rule", "web 1 54 -p tcp -m tcp --dport 80", "all 2 106", "out2 1 54 -o vif2.0"]);
    expect(accounting.reset("web")).toBe(true);
    expect(accounting.reset("nothing")).toBe(false);
    expect(counted()).toEqual({ web: 0, all: 2, out2: 1 });
    must(accounting.replace("class arp: -p arp"));
    bench.pass(ethernet(0x806, arp()));
    expect(counted()).toEqual({ arp: 1 });
  });

  test.each([
    ["clas web: -p tcp", "clas", "did you mean class?"],
    ["class web -p tcp", "web", "no colon"],
    ["class we!b: -p tcp", "we!b:", "cannot name a class"],
    ["class web: -p tcp -j DROP", "DROP", "a class cannot DROP"],
    ["class web: -p tcp --dprot 80", "--dprot", "did you mean --dport?"],
  ])("%s", (line, word, what) => {
    const error = errorOf(new PolicyBench().policy.accounting.add(line));
    expect(error.message).toContain(what);
    expect(line.slice(error.offset, error.offset + error.span)).toBe(word);
  });
});

test("on a switch: a refused frame does not arrive, its sender gets the answer", () => {
  const bench = new PolicyBench();
  const network = new VirtualSwitch({ name: "lab0", clock: bench.clock });
  const sinks = [new Sink(), new Sink()];
  const [a, b] = sinks.map((port, n) => network.addPort({ name: `vif${n + 1}.0`, port }));
  const policy = new PolicyBench({
    answer: (to, frame) => network.deliver(to, frame),
    changed: (hooks) => network.setHooks(hooks),
  }).policy;
  must(policy.rules.edit("-A FORWARD -i vif1.0 -o vif2.0 -p tcp --dport 80 -j REJECT --reject-with tcp-reset"));
  a?.receive(Frame.of(tcpFrame(SYN)));
  a?.receive(Frame.of(udpFrame()));
  b?.receive(Frame.of(ethernet(0x800, ipv4(tcp(new Uint8Array(0)), { protocol: 6 }), { to: MAC_A, from: MAC_B })));
  expect(sinks[1]?.frames).toHaveLength(1);
  // The reset, and what the other guest sent, which the rule is not about.
  expect(sinks[0]?.frames).toHaveLength(2);
});
