import { appendFileSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { hostChecks } from "../../../../main/host-checks.ts";
import type { ControlSession } from "../../../../main/lab/control-api.ts";
import { captureControl } from "../../../../main/lab/server/capture-control.ts";
import { readLog } from "../../../../main/lab/server/log-read.ts";
import { LabFixture } from "../machines/lab-fixture.ts";
import { TestHost } from "../test-host.ts";

let lab: LabFixture;
beforeEach(async () => {
  lab = await new LabFixture().open();
});
afterEach(() => lab.dispose());

describe("logs", () => {
  it("are read from their end, from a place on, and across a rotation", async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-log-"));
    try {
      const file = path.join(folder, "a.log");
      expect(await readLog(file, undefined)).toEqual({ offset: 0, bytes: 0, text: "", end: 0 });
      writeFileSync(`${file}.1`, "old\n");
      writeFileSync(file, "näher\n");
      expect(await readLog(file, undefined)).toEqual({ offset: 0, bytes: 11, text: "old\nnäher\n", end: 11 });
      expect(await readLog(file, undefined, 4)).toMatchObject({ offset: 7, text: "her\n" });
      // Not in the middle of a character.
      expect(await readLog(file, 0, 6)).toEqual({ offset: 0, bytes: 5, text: "old\nn", end: 11 });
      expect(await readLog(file, 5, 100)).toMatchObject({ offset: 5, text: "äher\n" });
      expect(await readLog(file, 11)).toEqual({ offset: 11, bytes: 0, text: "", end: 11 });
      expect(await readLog(file, 5000)).toMatchObject({ offset: 0, text: "old\nnäher\n" });
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it("of the lab and its machines are there", async () => {
    await lab.create("web");
    expect((await lab.call("logRead", { which: "lab" })).text).toMatch(/is open/);
    const { hypervisorLog } = await lab.call("machineShow", { machine: "web" });
    await lab.call("machineStart", { machine: "web" });
    appendFileSync(hypervisorLog, "domain made\n");
    const which = { machine: "web", log: "hypervisor" as const };
    expect((await lab.call("logRead", { which })).text).toBe("domain made\n");
    expect(await lab.call("logRead", { which: { machine: "web", log: "crash" } })).toMatchObject({ end: 0 });
    await expect(lab.call("logRead", { which: { machine: "no", log: "crash" } })).rejects.toThrow(/no machine no/);
  });
});

describe("a configuration that is being entered", () => {
  const check = (config: Record<string, unknown>, machine?: string) =>
    lab.call("machineCheckConfig", { config: config as Record<string, never>, ...(machine && { machine }) });

  it("is told of all that is wrong with its form, each in its place", async () => {
    const { ok, problems } = await check({ name: "a b", memoryMiB: 8, disks: [{ vdev: "nonsense", source: "/x" }] });
    expect(ok).toBe(false);
    expect(problems.map((each) => each.path)).toEqual(expect.arrayContaining(["name", "disks.0.vdev"]));
    for (const { line } of problems) expect(line).toMatch(/^[^\n]+; [^\n]+$/);
  });

  it("is told of limits in words that say what would do", async () => {
    const memory = async (memoryMiB: unknown) => (await check({ name: "a", memoryMiB })).problems[0]?.line;
    expect(await memory(1e9)).toMatch(/^too large; \d+ at most$/);
    expect(await memory(0)).toMatch(/^too small; \d+ at least$/);
    expect(await memory(64.5)).toBe("not a whole number; leave out the fraction");
    expect(await memory("much")).toBe("not a number; write one");
    const notes = (await check({ name: "a", notes: "x".repeat(100_000) })).problems[0];
    expect(notes).toEqual({ path: "notes", line: "too long; 65536 characters at most" });
  });

  it("must agree with the other machines, and nothing is made", async () => {
    const vif = { bridge: "lab0", mac: "00:16:3e:00:00:01" };
    const forward = { protocol: "tcp", hostPort: 8080, guestPort: 80 };
    await lab.create("web", { vifs: [vif], forwards: [forward] });
    const other = { name: "Web", image: "debain", vifs: [vif], forwards: [forward], kernel: "/no/kernel" };
    const { problems } = await check(other);
    expect(problems.map((each) => each.path).sort()).toEqual([
      "forwards.0.hostPort",
      "image",
      "kernel",
      "name",
      "vifs.0.mac",
    ]);
    expect((await check({ name: "b", vifs: [{ ...vif, bridge: "lab1" }] })).ok).toBe(true);
    expect(await check({ name: "web", vifs: [vif], forwards: [forward] }, "web")).toMatchObject({
      ok: true,
      restart: [],
    });
    expect((await check({ name: "fine" })).defaults).toMatchObject({
      name: "fine",
      memoryMiB: 512,
      onReboot: "restart",
    });
    expect((await lab.call("machineList", {})).map(({ name }) => name)).toEqual(["web"]);
  });

  it("says what counts from the next start", async () => {
    await lab.create("web");
    const { config } = await lab.call("machineShow", { machine: "web" });
    const changed = { ...config, memoryMiB: 1024, notes: "x" };
    expect((await check(changed, "web")).restart).toEqual([]);
    await lab.call("machineStart", { machine: "web" });
    expect((await check(changed, "web")).restart).toEqual(["memoryMiB"]);
  });
});

describe("the topology", () => {
  it("shows switches with the machines on them, and machines that rest", async () => {
    await lab.create("off", { vifs: [{ bridge: "lan", vlan: 7 }] });
    expect(await lab.call("topology", {})).toMatchObject({
      switches: [],
      resting: [{ machine: { name: "off" }, index: 0, bridge: "lan", vlan: 7 }],
    });
    expect(lab.host.calls).toEqual([]);
    const id = await lab.create("web");
    const { domid } = await lab.call("machineStart", { machine: "web" });
    const { mac } = await lab.host.attachVif(domid, { bridge: "lab0", ips: ["10.0.0.2"] });
    const name = `vif${domid}.0`;
    const heard = { mac: "00:16:3e:00:00:09", vlan: 0, port: name, age: 1, fixed: false };
    lab.host.answers = {
      showSwitches: [
        {
          name: "lab0",
          uplink: { kind: "user" },
          ports: [
            { name, up: true, counters: { framesIn: 3 }, impair: "delay 10ms" },
            { name: "uplink", up: true, counters: {}, impair: "" },
          ],
          addresses: [heard],
          uplinkState: {},
          uplinkCounters: { framesIn: 1 },
          forwards: [],
        },
      ],
      firewall: { rules: ["-P in ACCEPT", "-A in -p tcp -j DROP"], listing: "" },
    };
    await lab.call("firewall", { target: name, command: "-A in -p tcp -j DROP" });
    const { switches, resting } = await lab.call("topology", {});
    expect(switches).toMatchObject([
      {
        name: "lab0",
        uplink: { kind: "user" },
        ports: [
          { name, domid, mac, ips: ["10.0.0.2"], learnt: [heard.mac], machine: { id, name: "web" }, rules: 1 },
          { name: "uplink", ips: [], learnt: [], rules: 0 },
        ],
      },
    ]);
    expect(resting).toHaveLength(1);
  });
});

describe("a capture", () => {
  const session = () => {
    const ends: (() => void)[] = [];
    const made: ControlSession = { send: () => {}, onEnd: (listener) => void ends.push(listener) };
    return { made, end: () => ends.forEach((each) => void each()) };
  };

  it("is read in pieces, and its file goes with it", async () => {
    const folder = mkdtempSync(path.join(os.tmpdir(), "domlab-capture-"));
    try {
      const host = new TestHost();
      host.answers = { captureStart: { id: 5 }, captureStop: { frames: 2, dropped: 1 } };
      await host.network.createSwitch({ name: "lab0" });
      const functions = captureControl(host, folder, 10);
      const { made, end } = session();
      const { capture } = await functions.captureOpen({ target: "lab0", filter: "tcp" }, made);
      const start = host.calls.find(({ method }) => method === "captureStart")?.argument;
      expect(start).toMatchObject({ on: "lab0", filter: "tcp", snapLength: 0 });
      const [file = ""] = readdirSync(folder);
      appendFileSync(path.join(folder, file), "0123456789abc");
      const first = await functions.captureRead({ capture, offset: 0, bytes: 4 }, made);
      expect(Buffer.from(first.data, "base64").toString()).toBe("0123");
      const rest = await functions.captureRead({ capture, offset: 4 }, made);
      // No more than is kept.
      expect([Buffer.from(rest.data, "base64").toString(), rest.end]).toEqual(["456789", 10]);
      expect((await functions.captureRead({ capture, offset: 10 }, made)).data).toBe("");
      expect(await functions.captureEnd({ capture }, made)).toEqual({ frames: 2, dropped: 1 });
      expect(host.calls.filter(({ method }) => method === "captureStop")).toHaveLength(1);
      expect((await functions.captureRead({ capture, offset: 4 }, made)).end).toBe(10);
      const other = session().made;
      await expect(async () => functions.captureRead({ capture, offset: 0 }, other)).rejects.toThrow(/no capture/);
      expect(await functions.captureClose({ capture }, made)).toEqual({ frames: 2, dropped: 1 });
      expect(readdirSync(folder)).toEqual([]);
      await functions.captureOpen({ target: "lab0" }, made);
      expect(readdirSync(folder)).toHaveLength(1);
      end();
      await expect.poll(() => readdirSync(folder)).toEqual([]);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });

  it("that cannot begin leaves no file", async () => {
    await expect(lab.call("captureOpen", { target: "nowhere" })).rejects.toThrow(/nowhere/);
    lab.host.answers = { captureStart: "refuse" };
    await lab.host.network.createSwitch({ name: "lab0" });
    await expect(lab.call("captureOpen", { target: "lab0" })).rejects.toThrow(/cannot be/);
    expect(readdirSync(path.join(lab.home, "tmp"))).toEqual([]);
  });
});

describe("the host", () => {
  it("is looked at, and what is missing has a cause and a remedy", async () => {
    const empty = mkdtempSync(path.join(os.tmpdir(), "domlab-empty-"));
    try {
      const env = { PATH: empty, HOME: empty, DOMLAB_CACHE: empty };
      const found = await hostChecks({ home: path.join(empty, "not", "yet"), env, freeMemory: () => 1 << 20 });
      const of = (id: string) => found.find((check) => check.id === id);
      expect(of("disk-space")).toMatchObject({ ok: true, severity: "blocks" });
      for (const id of ["apt", "debian-tools", "memory"]) {
        expect(of(id)).toMatchObject({ ok: false, severity: "limits", cause: /./, remedy: /./ });
      }
      expect(of("passt")?.cause).toBe("passt is not installed");
      expect(of("shared-memory")).toEqual({
        id: "shared-memory",
        title: "Memory shared with guests",
        severity: "blocks",
        ok: true,
      });
    } finally {
      rmSync(empty, { recursive: true, force: true });
    }
  });

  it("is looked at by the lab too", async () => {
    expect((await lab.call("hostChecks", {})).length).toBeGreaterThan(5);
  });
});
