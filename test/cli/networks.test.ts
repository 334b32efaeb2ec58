/** Networks on the command line: what a user does with a running lab, and what is refused. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { type AddressInfo, createServer as createTcpServer } from "node:net";
import os from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { readCapture } from "../../engine/network/capture/reader.ts";
import { runningLabs } from "../../main/lab/find-lab.ts";
import { cpioFile } from "./cpio.ts";
import { domlab, program, type Result, until } from "./domlab.ts";
import { idle, tinyKernel } from "./tiny-kernel.ts";

let folder = "";
const file = (name: string) => path.join(folder, name);
const environment = () => ({ XDG_RUNTIME_DIR: folder, XDG_STATE_HOME: file("state"), DOMLAB_HOME: file("lab") });
const children = new Set<ChildProcess>();

beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-networks-"));
  writeFileSync(file("kernel"), tinyKernel(idle));
  writeFileSync(file("initrd"), cpioFile("empty", 0));
});
afterEach(async () => {
  for (const child of children) {
    child.kill("SIGTERM");
    if (child.exitCode === null && child.signalCode === null)
      await new Promise((resolve) => child.once("exit", resolve));
  }
  children.clear();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const call = (...args: string[]): Promise<Result> => domlab(args, { environment: environment(), limit: 50_000 });
const kernel = () => ["--kernel", file("kernel"), "--initrd", file("initrd"), "--json"];

function expectRefused(result: Result, cause: RegExp): void {
  expect(result.stderr).toMatch(/^domlab: [^\n]+; [^\n]+\n$/);
  expect(result.stderr).toMatch(cause);
  expect(result.status).toBe(2);
}

function start(...args: string[]): ChildProcess {
  const child = spawn(process.execPath, [program, ...args], {
    env: { ...process.env, ...environment() },
    stdio: "ignore",
  });
  children.add(child);
  return child;
}

/** A lab whose guest does nothing. */
async function idleLab(...args: string[]): Promise<void> {
  start("run", ...kernel(), ...args);
  // Asked without the program, which would cost the guest that starts a good part of a core each time.
  for (const end = Date.now() + 60_000; Date.now() < end; ) {
    const labs = await runningLabs(path.join(folder, "domlab"));
    if (labs.some(({ guests }) => guests.length > 0)) return;
    await delay(50);
  }
  throw new Error("no guest");
}

describe("a network that cannot be given", () => {
  it.each([
    ["a bad address", ["--vif", "mac=00:16:3e"], /"00:16:3e" is no MAC address/],
    ["a MAC address twice", ["--vif", "mac=00:16:3e:00:00:01", "--vif", "mac=00:16:3e:00:00:01"], /two interfaces/],
    ["a bad IP address", ["--vif", "ip=10.0.0.300"], /10\.0\.0\.300/],
    ["an unknown switch", ["--vif", "bridge=lab7"], /there is no switch lab7/],
    ["an unknown uplink", ["--network", "wifi"], /"wifi" is no kind of uplink/],
    ["a bad forward", ["--forward", "tcp:99999:80"], /"99999" is no port of the host|is no IP address/],
    ["a subnet that does not fit", ["--network", "user,subnet=10.0.0.0/30"], /subnet/],
    ["a socket in no folder", ["--network", "socket,listen=/nowhere/at/all"], /nowhere/],
    ["a capture to play that is missing", ["--network", "pcap,play=missing.pcap"], /missing\.pcap/],
  ])("%s", async (_name, args, cause) => {
    const result = await call("run", ...kernel(), ...args);
    expectRefused(result, cause);
    expect(JSON.parse(result.stdout.toString())).toMatchObject({ status: "failed", exit: 2 });
  });

  it("a host port in use", async () => {
    const server = createTcpServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const { port } = server.address() as AddressInfo;
    try {
      expectRefused(await call("run", ...kernel(), "--forward", `tcp:${port}:80`), /in use/);
    } finally {
      server.close();
    }
  });

  it("a tap device without privileges", async (context) => {
    if (process.getuid?.() === 0) return context.skip("root may have tap devices");
    expectRefused(await call("run", ...kernel(), "--network", "tap"), /tap/);
  });
});

describe("without a lab", () => {
  it.each([[["network", "list"]], [["network-list"]], [["network-attach"]], [["capture", "lab0", "-w", "x.pcapng"]]])(
    "%j",
    async (args) => {
      expectRefused(await domlab(args, { environment: environment(), limit: 20_000 }), /no lab is running/);
      rmSync("x.pcapng", { force: true });
    },
  );
});

describe("a running lab", () => {
  it("has switches, rules, forwards and captures", async () => {
    const server = createServer((_request, response) => response.end()).listen(0, "127.0.0.1");
    await idleLab("--network", "user", "--network", `tap0=pcap,write=${file("out.pcapng")}`);
    try {
      const listed = JSON.parse((await call("network", "list", "--json")).stdout.toString());
      expect(listed).toMatchObject([
        { name: "lab0", uplink: { kind: "user" } },
        { name: "tap0", uplink: { kind: "pcap" } },
      ]);
      expect((await call("network", "firewall", "lab0", "-A", "FORWARD", "-p", "tcp", "-j", "DROP")).status).toBe(0);
      const rules = (await call("network", "firewall", "--json", "lab0")).stdout.toString();
      expect(JSON.parse(rules)).toEqual(["-P FORWARD ACCEPT", "-A FORWARD -p tcp -j DROP"]);
      expectRefused(
        await call("network", "firewall", "lab0", "-A", "FORWARD", "-p", "tcp", "--dprot", "80", "-j", "DROP"),
        /--dprot \(column \d+ .*did you mean --dport/,
      );
      expectRefused(await call("network", "account", "lab0", "--add", "web: -p tcp"), /is no class/);
      expectRefused(await call("network", "impair", "vif9.0", "loss=1%"), /no interface vif9\.0/);
      expectRefused(await call("capture", "lab0", "-w", file("x.pcapng"), "tcp prot 80"), /prot/);
      expectRefused(await call("capture", "lab7", "-w", file("x.pcapng")), /no switch or interface lab7/);
      expectRefused(await call("capture", "lab0", "-w", path.join(folder, "no", "x.pcapng")), /does not exist/);
      const { port } = server.address() as AddressInfo;
      expectRefused(await call("network", "forward", "lab0", `tcp:${port}:10.0.2.15:80`), /in use/);
      expectRefused(await call("network", "forward", "tap0", "tcp:8080:80"), /forwards no ports/);
      expectRefused(await call("network-detach", "5"), /no interface 5/);
      expect((await call("network-attach", "bridge=tap0")).stdout.toString()).toMatch(/^vif\d+\.1\n$/);
      expectRefused(await call("network", "delete", "lab0"), /has the interface/);
      const shown = (await call("network", "show", "tap0")).stdout.toString();
      expect(shown).toMatch(/^Name +MTU +Uplink/);
    } finally {
      server.close();
    }
  });

  it("is captured until Ctrl-C, and the file is whole", async () => {
    await idleLab("--network", "user");
    const capture = start("capture", "lab0", "-w", file("live.pcapng"));
    await until("the capture's file", () => existsSync(file("live.pcapng")));
    await until("its head", () => readdirSync(folder).includes("live.pcapng"));
    await new Promise((resolve) => setTimeout(resolve, 1500));
    capture.kill("SIGINT");
    await new Promise((resolve) => capture.once("exit", resolve));
    expect(capture.exitCode).toBe(0);
    const kinds = new Set<string>();
    for await (const record of readCapture(file("live.pcapng"))) kinds.add(record.kind);
    expect([...kinds].filter((kind) => kind === "packet")).toEqual([]);
  });
});
