import { describe, expect, it } from "vitest";
import { parseImpairment } from "../../engine/network/policy/impair-spec.ts";
import { InterfaceNumbers } from "../../engine/network/policy/packet.ts";
import { RuleSet } from "../../engine/network/policy/rule-set.ts";
import type { Topology } from "../../main/lab/view-api.ts";
import { formatForward, formatUplink, parseForward, parseUplink } from "../../main/network-option.ts";
import { commandOf, readFirewall, ruleCommands } from "../../renderer/views/networks/firewall-rules.ts";
import { dropsText, flowsBetween, portKey, uplinkKey } from "../../renderer/views/networks/flow.ts";
import { impairmentText, impairPresets, readImpairment } from "../../renderer/views/networks/impair-text.ts";
import {
  emptyForm,
  formProblem,
  forwardText,
  rateText,
  uplinkText,
} from "../../renderer/views/networks/switch-text.ts";
import { fitted, layOut, switchNames } from "../../renderer/views/networks/topology-layout.ts";

type Switch = Topology["switches"][number];
type Port = Switch["ports"][number];

const port = (name: string, machine: string, counters: Record<string, number> = {}): Port => ({
  name,
  machine: { id: `id-${machine}`, name: machine },
  domid: 1,
  ips: [],
  learnt: [],
  up: true,
  counters,
  impair: "",
  rules: 0,
});
const uplinkPort: Port = { name: "uplink", ips: [], learnt: [], up: true, counters: {}, impair: "", rules: 0 };
const entry = (name: string, ports: Port[], uplinkCounters: Record<string, number> = {}): Switch => ({
  name,
  mtu: 1500,
  isolated: false,
  vlans: false,
  uplink: { kind: "user" },
  uplinkCounters,
  ports: [uplinkPort, ...ports],
  forwards: [],
  rules: 0,
  impair: "",
});

describe("flows", () => {
  it("are the growth of counters in a second, and nothing when counters begin anew", () => {
    const before: Topology = {
      switches: [entry("lab0", [port("vif1.0", "web", { bytesIn: 1000, bytesOut: 90 })], { bytesIn: 50, bytesOut: 0 })],
      resting: [],
    };
    const after: Topology = {
      switches: [
        entry("lab0", [port("vif1.0", "web", { bytesIn: 5000, bytesOut: 10 }), port("vif2.0", "db", { bytesIn: 9 })], {
          bytesIn: 150,
          bytesOut: 40,
        }),
      ],
      resting: [],
    };
    const flows = flowsBetween(before, after, 2);
    expect(flows.get(portKey("lab0", "vif1.0"))).toEqual({ sent: 2000, received: 0 });
    expect(flows.get(uplinkKey("lab0"))).toEqual({ sent: 50, received: 20 });
    expect(flows.has(portKey("lab0", "vif2.0"))).toBe(false);
    expect(flowsBetween(before, after, 0).size).toBe(0);
  });

  it("name why frames were dropped", () => {
    expect(dropsText({ droppedIn: 3, "drop:policy": 2, "drop:mtu": 1, "drop:loop": 0 })).toBe("2 policy, 1 mtu");
  });
});

describe("the picture", () => {
  const many: Topology = {
    switches: [
      entry(
        "lab0",
        Array.from({ length: 50 }, (_, index) => port(`vif${index + 1}.0`, `m${index + 1}`)),
      ),
      { ...entry("lan", [port("vif1.1", "m1")]), uplink: { kind: "none" } },
    ],
    resting: [{ machine: { id: "id-off", name: "off" }, index: 0, bridge: "dmz", ips: [] }],
  };

  it("has every machine once, an edge for every interface, and no node upon another", () => {
    const { machines, switches, uplinks, edges, height } = layOut(many, 600);
    expect(machines).toHaveLength(51);
    expect(switches.map(({ name, exists }) => [name, exists]).sort()).toEqual([
      ["dmz", false],
      ["lab0", true],
      ["lan", true],
    ]);
    expect(uplinks.map(({ on }) => on)).toEqual(["lab0"]);
    expect(edges).toHaveLength(1 + 50 + 1 + 1);
    for (const column of [machines, switches]) {
      const sorted = [...column].sort((a, b) => a.y - b.y);
      for (const [index, node] of sorted.entries()) {
        expect(node.y).toBeGreaterThanOrEqual(index === 0 ? 0 : sorted[index - 1]!.y + sorted[index - 1]!.height);
        expect(node.y + node.height).toBeLessThanOrEqual(height);
        expect(node.x + node.width).toBeLessThanOrEqual(600);
      }
    }
    expect(new Set(edges.map(({ key }) => key)).size).toBe(edges.length);
  });

  it("shows resting machines without a flow, and names all switches", () => {
    const { edges, machines } = layOut(many, 600);
    expect(edges.filter(({ state }) => state === "resting").map(({ flow }) => flow)).toEqual([undefined]);
    expect(machines.find(({ label }) => label === "off")?.running).toBe(false);
    expect(switchNames(many)).toEqual(["lab0", "lan", "dmz"]);
    expect(layOut({ switches: [], resting: [] }, 600).edges).toEqual([]);
  });

  it("shortens names that do not fit", () => {
    expect(fitted("short", 100)).toBe("short");
    expect(fitted("a-very-long-name", 70)).toBe("a-very-lo…");
  });
});

describe("what is written for the lab", () => {
  it("is read by it as it was meant: uplinks", () => {
    const user = { ...emptyForm, kind: "user" as const, subnet: " 10.0.5.0/24 ", hostPorts: "8080, 9090" };
    const texts = [
      uplinkText(emptyForm),
      uplinkText(user),
      uplinkText({ ...emptyForm, kind: "tap", interfaceName: "tap0", bridge: "br0" }),
      uplinkText({ ...emptyForm, kind: "socket", socketPath: "/tmp/x", listen: false }),
      uplinkText({ ...emptyForm, kind: "pcap", writeFile: "/tmp/out.pcapng" }),
      uplinkText({ ...emptyForm, kind: "passt" }),
    ];
    expect(texts[1]).toBe("user,subnet=10.0.5.0/24,host=8080,host=9090");
    for (const text of texts) expect(formatUplink(parseUplink(text, "/"))).toBe(text);
  });

  it("is refused here where the lab would take it otherwise", () => {
    expect(formProblem({ ...emptyForm, kind: "socket", socketPath: "x.sock" })).toMatch(/whole path/);
    expect(formProblem({ ...emptyForm, kind: "pcap", writeFile: "/a,b" })).toMatch(/comma/);
    expect(formProblem({ ...emptyForm, kind: "pcap", playFile: "/a" })).toBeUndefined();
    expect(formProblem({ ...emptyForm, kind: "user", socketPath: "x.sock" })).toBeUndefined();
  });

  it("is read by it as it was meant: forwards", () => {
    const four = {
      protocol: "tcp" as const,
      hostAddress: "127.0.0.1",
      hostPort: 8080,
      guestAddress: "",
      guestPort: 80,
    };
    const six = { ...four, protocol: "udp" as const, hostAddress: "::1", guestAddress: "fd00::2" };
    for (const forward of [four, six]) {
      expect(parseForward(forwardText(forward))).toEqual(forward);
      expect(forwardText(forward)).toBe(formatForward(forward));
    }
  });

  it("is read by it as it was meant: impairments", () => {
    const values = {
      ...readImpairment("delay=50ms,seed=7,gap=2"),
      loss: "1.5",
      jitter: "10",
      reorder: "5 %",
      rate: "",
    };
    const text = impairmentText(values);
    expect(text).toBe("delay=50ms,seed=7,gap=2,loss=1.5%,jitter=10ms,reorder=5%");
    expect(parseImpairment(text)).toMatchObject({
      ok: true,
      value: { delayNs: 50e6, jitterNs: 10e6, loss: 0.015, reorder: 0.05, gap: 2, seed: 7 },
    });
    expect(impairmentText({ delay: "0ms", loss: "0", jitter: " " })).toBe("");
    expect(impairmentText({ delay: "0.5s" })).toBe("delay=0.5s");
    for (const preset of impairPresets) expect(parseImpairment(impairmentText(preset.values)).ok).toBe(true);
  });

  it("rates are written in bits", () => {
    expect(rateText({ bytes: 62_500, intervalUs: 50_000 })).toBe("10 Mb/s");
    expect(rateText({ bytes: 100, intervalUs: 1_000_000 })).toBe("800 b/s");
  });
});

describe("the firewall", () => {
  const rules = () => new RuleSet([{ name: "FORWARD", knowsOut: true }], new InterfaceNumbers());
  const chainsOf = (set: RuleSet) => readFirewall(set.save(), set.list());

  it("is read as chains with rules and counters", () => {
    const set = rules();
    set.edit(
      '-P FORWARD DROP\n-N web\n-A web -p tcp --dport 80 -j ACCEPT\n-A FORWARD -j web\n-A FORWARD -m comment --comment "a b"',
    );
    expect(chainsOf(set)).toEqual([
      {
        name: "FORWARD",
        policy: "DROP",
        rules: [
          { number: 1, text: "-j web", packets: "0", bytes: "0" },
          { number: 2, text: '-m comment --comment "a b"', packets: "0", bytes: "0" },
        ],
      },
      { name: "web", rules: [{ number: 1, text: "-p tcp -m tcp --dport 80 -j ACCEPT", packets: "0", bytes: "0" }] },
    ]);
  });

  it("has its rules moved, removed, put back and changed by what is written for it", () => {
    const set = rules();
    for (const dport of [1, 2, 3]) set.edit(`-A FORWARD -p tcp --dport ${dport} -j DROP`);
    const ports = () => chainsOf(set)[0]!.rules.map(({ text }) => Number(/--dport (\d+)/.exec(text)?.[1]));
    const rule = (number: number) => chainsOf(set)[0]!.rules[number - 1]!;
    expect(set.edit(ruleCommands.move("FORWARD", rule(3), 1)).ok).toBe(true);
    expect(ports()).toEqual([3, 1, 2]);
    const gone = rule(2);
    expect(set.edit(ruleCommands.remove("FORWARD", gone)).ok).toBe(true);
    expect(ports()).toEqual([3, 2]);
    expect(set.edit(ruleCommands.restore("FORWARD", gone)).ok).toBe(true);
    expect(ports()).toEqual([3, 1, 2]);
    const changed = ruleCommands.replace("FORWARD", { ...rule(1), text: "-p tcp --dport 9 -j DROP" });
    expect(set.edit(commandOf(changed, "FORWARD")).ok).toBe(true);
    expect(ports()).toEqual([9, 1, 2]);
  });

  it("takes a rule without its command as one to add", () => {
    expect(commandOf(" -p icmp -j DROP ", "OUTPUT")).toBe("-A OUTPUT -p icmp -j DROP");
    expect(commandOf("-s 10.0.0.1 -j DROP", "FORWARD")).toBe("-A FORWARD -s 10.0.0.1 -j DROP");
    for (const line of ["-I FORWARD 1 -j DROP", "iptables -F FORWARD", ":web - [0:0]"]) {
      expect(commandOf(line, "FORWARD")).toBe(line);
    }
  });
});
