/** The network commands against a lab whose driver domain is a list of answers. */
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { explain } from "../../main/failure.ts";
import { hostControl } from "../../main/lab/host-control.ts";
import { type ServedLab, serveLab } from "../../main/lab/lab.ts";
import { runLabCommand } from "./lab/run-command.ts";
import { GUEST, TestHost } from "./lab/test-host.ts";

let root = "";
let host: TestHost;
let lab: ServedLab;

beforeEach(async () => {
  root = mkdtempSync(path.join(os.tmpdir(), "domlab-net-"));
  host = new TestHost();
  lab = await serveLab(root, "web", host.xenstore, (own) => hostControl(own, host, () => [GUEST]));
});
afterEach(async () => {
  await lab.close();
  rmSync(root, { recursive: true, force: true });
});

const run = (...args: string[]) => runLabCommand(root, ...args);

async function refused(...args: string[]): Promise<string> {
  const error = await run(...args).catch((reason: unknown) => reason);
  const { line, status } = explain(error);
  expect([status, line]).toEqual([2, expect.stringMatching(/^[^\n]+; [^\n]+$/)]);
  return line;
}

const methods = () => host.calls.map((call) => call.method);

describe("interfaces", () => {
  it("are attached, shown and detached", async () => {
    expect(await run("network-attach", "mac=00:16:3e:00:00:01,ip=10.0.0.5,rate=1MB/s")).toBe("vif1.0\n");
    expect(await run("network-attach")).toBe("vif1.1\n");
    // The default switch was made for the first.
    expect(host.calls).toMatchObject([
      { method: "createSwitch", argument: { name: "lab0", uplink: { kind: "user" } } },
    ]);
    const [first, second] = JSON.parse(await run("network-list", "--json"));
    expect(first).toMatchObject({ name: "vif1.0", mac: "00:16:3e:00:00:01", bridge: "lab0", ips: ["10.0.0.5"] });
    expect(first).toMatchObject({ backend: "storage", stateName: "Initialising" });
    expect(await run("network-list")).toMatch(/^Idx {2}BE .*\n.*00:16:3e:00:00:01 {2}vif1\.0 .*10\.0\.0\.5\n.*vif1\.1/);
    const { toolstack } = host.xenstore;
    expect(toolstack.read("/local/domain/2/backend/vif/1/0/rate")).toBe("50000,50000");
    expect(toolstack.read("/local/domain/1/device/vif/0/mac")).toBe("00:16:3e:00:00:01");
    await run("network-detach", "0");
    await run("network-detach", second.mac);
    expect(await run("network-list", "--json")).toBe("[]\n");
    expect(toolstack.directory("/local/domain/2/backend/vif/1")).toEqual([]);
  });

  it("have a link", async () => {
    await run("network-attach");
    await run("network", "link", "vif1.0", "down");
    expect(host.calls.at(-1)).toEqual({ method: "link", argument: { vif: "vif1.0", up: false } });
    expect(host.xenstore.toolstack.read("/local/domain/2/network/interface/1-0/down")).toBe("1");
    expect(await refused("network", "link", "0", "off")).toMatch(/"off" is no state of a link/);
  });

  it("that are not there are refused", async () => {
    expect(await refused("network-detach", "7")).toMatch(/there is no interface 7; /);
    expect(await refused("network-detach", "web")).toMatch(/"web" is no number, name or MAC address/);
    expect(await refused("network-attach", "bridge=lab7")).toMatch(/there is no switch lab7; make it with /);
    expect(await refused("network-attach", "mac=x")).toMatch(/"x" is no MAC address/);
    await run("network-attach", "mac=00:16:3e:00:00:01");
    expect(await refused("network-attach", "mac=00:16:3e:00:00:01")).toMatch(/is that of vif1\.0/);
  });
});

describe("switches", () => {
  it("are made and deleted", async () => {
    await run("network", "create", "lab1", "--uplink", "user,host=80", "--mtu", "9000", "--rate", "1MB/s", "--vlans");
    expect(host.calls[0]?.argument).toEqual({
      name: "lab1",
      uplink: { kind: "user", hostPorts: [80] },
      mtu: 9000,
      isolated: false,
      vlans: true,
      uplinkRate: { bytes: 50_000, intervalUs: 50_000 },
    });
    const node = host.xenstore.toolstack.read("/local/domain/2/network/switch/lab1");
    expect(JSON.parse(node ?? "")).toEqual(host.calls[0]?.argument);
    await run("network", "delete", "lab1");
    expect(host.xenstore.toolstack.read("/local/domain/2/network/switch/lab1")).toBeUndefined();
    expect(methods()).toEqual(["createSwitch", "deleteSwitch"]);
  });

  it("that the driver domain refuses are not there", async () => {
    host.answers = { createSwitch: "refuse" };
    expect(await refused("network", "create", "lab1")).toBe("it cannot be; do something else");
    expect(host.network.list()).toEqual([]);
    expect(host.xenstore.toolstack.read("/local/domain/2/network/switch/lab1")).toBeUndefined();
  });

  it.each([
    [["create", "lab 1"], /no name for a switch/],
    [["create", "lab1", "--uplink", "wifi"], /no kind of uplink/],
    [["create", "lab1", "--mtu", "1"], /--mtu 1 is no number/],
    [["create", "lab1", "--rate", "fast"], /--rate: .*no rate/],
    [["delete", "lab1"], /there is no switch lab1/],
    [["show", "lab1"], /there is no switch or interface lab1/],
    [["firewall", "lab1"], /there is no switch or interface lab1/],
    [["firewall", "vif1.9"], /there is no interface vif1\.9/],
    [["impair", "lab1", "loss=1%"], /there is no switch or interface lab1/],
    [["account", "lab1"], /there is no switch lab1/],
    [["forward", "lab1", "tcp:80:80"], /there is no switch lab1/],
    [["forward", "lab1", "tcp:80"], /no port of the guest/],
  ])("%j is refused", async (args, line) => {
    expect(await refused("network", ...args)).toMatch(line);
    expect(host.calls).toEqual([]);
  });
});

describe("what is set", () => {
  beforeEach(() => run("network", "create", "lab0"));

  it("rules go through as a line, and are kept for the domain's next process", async () => {
    const rules = ["-P FORWARD ACCEPT", '-A FORWARD -p tcp -j LOG --log-prefix "a b"'];
    host.answers = { firewall: { rules, listing: "Chain FORWARD" } };
    await run("network", "firewall", "lab0", "-A", "FORWARD", "-p", "tcp", "-j", "LOG", "--log-prefix", "a b");
    expect(host.calls.at(-1)?.argument).toEqual({
      on: "lab0",
      command: '-A FORWARD -p tcp -j LOG --log-prefix "a b"',
    });
    const { toolstack } = host.xenstore;
    const path = "/local/domain/2/network/switch/lab0";
    expect([0, 1].map((n) => toolstack.read(`${path}/rule/${n}`))).toEqual(rules);
    expect(await run("network", "firewall", "lab0")).toBe("Chain FORWARD\n");
    expect(JSON.parse(await run("network", "firewall", "--json", "lab0"))).toEqual(rules);
    host.answers = { firewall: "refuse" };
    expect(await refused("network", "firewall", "lab0", "-A nonsense")).toBe("it cannot be; do something else");
    expect(toolstack.directory(`${path}/rule`)).toEqual(["0", "1"]);
  });

  it("of an interface ends with it", async () => {
    await run("network-attach");
    host.answers = { firewall: { rules: ["-A INPUT -j DROP"], listing: "" } };
    await run("network", "firewall", "vif1.0", "-A", "INPUT", "-j", "DROP");
    await run("network", "impair", "vif1.0", "delay=5ms");
    const { toolstack } = host.xenstore;
    const path = "/local/domain/2/network/interface/1-0";
    expect(["switch", "rule/0", "impair"].map((key) => toolstack.read(`${path}/${key}`))).toEqual([
      "lab0",
      "-A INPUT -j DROP",
      "delay=5ms",
    ]);
    await run("network-detach", "0");
    expect(toolstack.read(path)).toBeUndefined();
    expect(host.calls.at(-1)).toEqual({ method: "forget", argument: { on: "lab0", vif: "vif1.0" } });
  });

  it("classes are counted", async () => {
    const counts = [{ name: "web", rule: "-p tcp", packets: 3, bytes: 180 }];
    host.answers = { classes: { classes: ["class web: -p tcp"], counts } };
    await run("network", "account", "lab0", "--add", "class web: -p tcp");
    expect(host.xenstore.toolstack.read("/local/domain/2/network/switch/lab0/class/0")).toBe("class web: -p tcp");
    expect(await run("network", "account", "lab0")).toMatch(/^Class +Packets +Bytes +Rule\nweb +3 +180 +-p tcp\n$/);
    expect(JSON.parse(await run("network", "account", "lab0", "--reset", "--json"))).toEqual(counts);
    expect(host.calls.at(-1)?.argument).toEqual({ name: "lab0", reset: true });
  });

  it("ports are forwarded and closed", async () => {
    const forward = {
      protocol: "tcp",
      hostAddress: "127.0.0.1",
      hostPort: 8080,
      guestAddress: "10.0.2.15",
      guestPort: 80,
    };
    await run("network-attach", "mac=00:16:3e:00:00:01");
    host.answers = { addForward: forward };
    await run("network", "forward", "lab0", "tcp:8080:80");
    expect(host.calls.at(-1)?.argument).toMatchObject({ mac: "00:16:3e:00:00:01", forward: { guestAddress: "" } });
    const path = "/local/domain/2/network/switch/lab0/forward";
    expect(JSON.parse(host.xenstore.toolstack.read(`${path}/0`) ?? "")).toEqual(forward);
    expect(await refused("network", "forward", "lab0", "--remove", "udp:8080:80")).toMatch(/is not forwarded by lab0/);
    await run("network", "forward", "lab0", "--remove", "tcp:8080:80");
    expect(host.xenstore.toolstack.directory(path) ?? []).toEqual([]);
  });

  it("the log is shown", async () => {
    host.answers = { log: [] };
    expect(await run("network", "log")).toBe("");
    expect(host.calls.at(-1)).toEqual({ method: "log", argument: { after: 0 } });
  });
});
