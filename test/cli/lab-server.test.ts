/** The process of the lab: how it is reached, started once, ended in order and without, and what it says when it cannot start. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ControlClient } from "../../main/lab/control-client.ts";
import { runningLabs } from "../../main/lab/find-lab.ts";
import type { MachineState } from "../../main/lab/machine-api.ts";
import { runtimeRoot } from "../../main/lab/runtime-folder.ts";
import { connectHome, type EnsureOptions, ensureLab } from "../../main/lab/server/ensure-lab.ts";
import { LabServer } from "../../main/lab/server/lab-server.ts";
import { lockLab } from "../../main/lab/store/lock.ts";
import { labPaths } from "../../main/lab/store/paths.ts";
import { until } from "./domlab.ts";
import { idle, tinyKernel } from "./tiny-kernel.ts";

const END_MS = 60_000;
/** In place of half a minute. */
const IDLE_MS = 300;

const runtimeBefore = process.env.XDG_RUNTIME_DIR;
let folder = "";
let homes = 0;
/** Servers that were started here. */
const servers = new Set<number>();

/** A lab's folder that is not there yet. */
const newHome = () => path.join(folder, `home-${++homes}`);
/** Socket files of the lab of that name. */
const socketsOf = (name: string) =>
  readdirSync(path.join(folder, "run", "domlab")).filter((file) => file.startsWith(`${name}.`));

function runs(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  if (process.platform !== "linux") return true;
  try {
    // One that nobody has waited for is over all the same, but not before its last thread has let go of its files.
    const isZombie = /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
    return !isZombie || readdirSync(`/proc/${pid}/task`).length > 1;
  } catch {
    return false;
  }
}

/** Processes whose parent that is. */
function childrenOf(pid: number): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/status`, "utf8").includes(`\nPPid:\t${pid}\n`);
      } catch {
        return false;
      }
    })
    .map(Number);
}

/** Processes that serve the lab in a folder. */
function serversOf(home: string): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        const [, program = "", argument] = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
        return program.endsWith(path.join("lab", "server", "main.js")) && argument === home && runs(pid);
      } catch {
        return false;
      }
    });
}

interface Lab {
  readonly client: ControlClient;
  readonly pid: number;
  readonly name: string;
}

async function open(home: string, options: Partial<EnsureOptions> = {}): Promise<Lab> {
  const client = await ensureLab({ version: "test", home, ...options });
  const { pid, name } = await client.call("labInfo", {});
  servers.add(pid);
  return { client, pid, name };
}

/** Sends a signal to a lab and waits until its process is over. */
async function end({ client, pid }: Lab, signal: NodeJS.Signals): Promise<void> {
  process.kill(pid, signal);
  await client.ended;
  await until("the end of the lab", () => !runs(pid), END_MS);
}

/** The line with which a lab in that folder does not start. */
async function refusal(home: string): Promise<string> {
  const error = await ensureLab({ version: "test", home }).then(
    (client) => {
      client.close();
      return new Error("it has started");
    },
    (reason: unknown) => reason,
  );
  const { message } = error as Error;
  expect(message).toMatch(/^[^\n]+; [^\n]+$/);
  return message;
}

interface Options {
  readonly suspendOnQuit?: boolean;
}

async function create({ client }: Lab, name: string, options: Options = {}): Promise<void> {
  const kernel = path.join(folder, "kernel");
  const config = { name, image: null, kernel, memoryMiB: 64, shutdownTimeoutSeconds: 1, ...options };
  await client.call("machineCreate", { config, newDisks: [{ vdev: "xvda", size: 1 << 20, format: "qcow2" }] });
}

async function start(lab: Lab, name: string, options: Options = {}): Promise<void> {
  await create(lab, name, options);
  await lab.client.call("machineStart", { machine: name });
}

/** Whether a machine comes to that state. */
async function reaches({ client }: Lab, machine: string, state: MachineState): Promise<boolean> {
  const wait = { machine, until: { kind: "state", state }, timeoutSeconds: 120 } as const;
  return (await client.call("machineWait", wait)).reached;
}

const show = ({ client }: Lab, machine: string) => client.call("machineShow", { machine });

beforeAll(() => {
  folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-server-")));
  mkdirSync(path.join(folder, "run"), { mode: 0o700 });
  process.env.XDG_RUNTIME_DIR = path.join(folder, "run");
  writeFileSync(path.join(folder, "kernel"), tinyKernel(idle));
});

afterAll(async () => {
  for (const pid of servers) if (runs(pid)) process.kill(pid, "SIGKILL");
  await until("the end of all labs", () => ![...servers].some(runs), END_MS);
  if (runtimeBefore === undefined) delete process.env.XDG_RUNTIME_DIR;
  else process.env.XDG_RUNTIME_DIR = runtimeBefore;
  rmSync(folder, { recursive: true, force: true });
});

// Most of the time is spent waiting.
describe.concurrent("a lab", () => {
  it("is started once, whoever asks at the same time, and once for each folder", async () => {
    const home = newHome();
    await expect(ensureLab({ version: "test", home, start: false })).rejects.toThrow(/is not running; start a machine/);
    const all = await Promise.all([open(home), open(home), open(newHome())]);
    const [one, same, other] = all;
    expect(same).toMatchObject({ pid: one.pid, name: one.name });
    expect(other.pid).not.toBe(one.pid);
    expect(other.name).not.toBe(one.name);
    if (process.platform === "linux") {
      await until("the end of the slower one", () => serversOf(home).length === 1, END_MS);
      expect(serversOf(home)).toEqual([one.pid]);
    }
    const names = (await runningLabs(runtimeRoot())).map(({ lab }) => lab);
    expect(names.filter((name) => name === one.name || name === other.name)).toHaveLength(2);
    same.client.close();
    // What one has the other has not.
    await create(one, "web");
    expect(await one.client.call("machineList", {})).toHaveLength(1);
    expect(await other.client.call("machineList", {})).toEqual([]);
    // One that is asked for while the last one is ending is started when that is over.
    await one.client.call("labQuit", {});
    await one.client.ended;
    const next = await open(home);
    expect(next.pid).not.toBe(one.pid);
    expect(await next.client.call("machineList", {})).toMatchObject([{ name: "web", state: "stopped" }]);
    await Promise.all([end(next, "SIGTERM"), end(other, "SIGTERM")]);
    expect([...socketsOf(next.name), ...socketsOf(other.name)]).toEqual([]);
  });

  it("ends in order at SIGTERM: machines are suspended, also those that do not shut down, and go on afterwards", async () => {
    const home = newHome();
    const lab = await open(home);
    await Promise.all([start(lab, "web"), start(lab, "db", { suspendOnQuit: false }), create(lab, "off")]);
    await end(lab, "SIGTERM");
    expect(socketsOf(lab.name)).toEqual([]);
    expect(readdirSync(home)).not.toContain("server.json");
    expect(readdirSync(path.join(home, "memory"))).toHaveLength(2);
    const log = readFileSync(path.join(home, "lab.log"), "utf8");
    expect(log).toMatch(/ db: .* takes no poweroff requests/);
    expect(log).not.toMatch(/internal error/);
    const lines = log.trimEnd().split("\n");
    expect(lines.at(-1)).toMatch(/the lab is closed$/);

    const again = await open(home);
    for (const name of ["web", "db"]) expect(await reaches(again, name, "running")).toBe(true);
    expect((await show(again, "off")).state).toBe("stopped");
    await again.client.call("labQuit", { machines: "destroy" });
    await again.client.ended;
    await until("the end of the lab", () => !runs(again.pid), END_MS);
    expect(readdirSync(path.join(home, "memory"))).toEqual([]);
  });

  // By itself: a lab that starts beside it sweeps the sockets of dead ones.
  it.sequential("that was killed leaves no process, and its machines are found with a note", async () => {
    const home = newHome();
    const lab = await open(home);
    await Promise.all([start(lab, "web"), create(lab, "off")]);
    const children = process.platform === "linux" ? childrenOf(lab.pid) : [(await show(lab, "web")).pid ?? 0];
    expect(children.length).toBeGreaterThan(0);
    await end(lab, "SIGKILL");
    await until("the end of its processes", () => !children.some(runs), END_MS);
    // The files that lead to it are still there, and disturb nobody.
    expect(readdirSync(home)).toContain("server.json");
    expect(socketsOf(lab.name)).toContain(`${lab.name}.control`);
    expect(await connectHome(home)).toBeUndefined();

    const next = await open(home);
    expect(next).toMatchObject({ name: lab.name });
    expect(await show(next, "web")).toMatchObject({
      state: "stopped",
      message: expect.stringMatching(/ran when the lab was ended without notice/),
      disks: [{ vdev: "xvda", available: true }],
    });
    expect((await show(next, "off")).message).toBeUndefined();
    await next.client.call("machineStart", { machine: "web" });
    expect((await show(next, "web")).state).toBe("running");
    await next.client.call("machineDestroy", { machine: "web" });
    await end(next, "SIGTERM");
  });

  it("ends when nobody is connected and nothing runs", async () => {
    const home = newHome();
    const server = await LabServer.open({ home, version: "test", endsWhenIdle: true, idleMs: IDLE_MS });
    const lab = await open(home);
    servers.delete(process.pid);
    await start(lab, "web");
    lab.client.close();
    // A machine runs.
    await new Promise((resolve) => setTimeout(resolve, 3 * IDLE_MS));
    const back = await open(home);
    servers.delete(process.pid);
    await back.client.call("machineDestroy", { machine: "web" });
    // A client is there.
    await new Promise((resolve) => setTimeout(resolve, 3 * IDLE_MS));
    expect((await show(back, "web")).state).toBe("stopped");
    back.client.close();
    await server.ended;
    expect(socketsOf(lab.name)).toEqual([]);
  });
});

describe.concurrent("a lab that cannot start says why in one line", () => {
  it("to whoever wanted it: the folder is in use", async () => {
    const home = newHome();
    mkdirSync(home);
    // Somebody has the lock and never answers.
    const lock = await lockLab(labPaths(home).lock, home);
    try {
      expect(await refusal(home)).toMatch(
        new RegExp(`the lab in .* is open in process ${process.pid} since .*; use it`),
      );
    } finally {
      await lock.release();
    }
    const lab = await open(home);
    await end(lab, "SIGTERM");
  });

  it("records of a later version, and leaves them alone", async () => {
    const home = newHome();
    mkdirSync(home);
    const records = JSON.stringify({ version: 99, machines: ["new"] });
    writeFileSync(path.join(home, "lab.json"), records);
    expect(await refusal(home)).toMatch(/lab\.json was made by a later version of domlab .*; update domlab/);
    expect(readFileSync(path.join(home, "lab.json"), "utf8")).toBe(records);
  });

  it("a folder that cannot be used", async () => {
    const file = newHome();
    writeFileSync(file, "");
    expect(await refusal(file)).toMatch(/; choose another folder/);
    expect(await refusal(path.join(file, "below"))).toMatch(/; choose another folder/);
    const home = newHome();
    mkdirSync(path.join(home, "lab.json"), { recursive: true });
    expect(await refusal(home)).toMatch(/lab\.json/);
  });

  it("not for damaged records: it starts, and machines are taken up again from their folders", async () => {
    const home = newHome();
    const lab = await open(home);
    await create(lab, "web");
    const { id } = await show(lab, "web");
    await end(lab, "SIGTERM");
    for (const name of ["lab.json", "lab.json.bak", "server.json"]) writeFileSync(path.join(home, name), "{");
    const next = await open(home);
    const { warnings } = await next.client.call("labInfo", {});
    expect(warnings.join("\n")).toContain(`a machine web (${id}) was found that the lab does not know`);
    await next.client.call("machineAdopt", { id });
    expect(await show(next, "web")).toMatchObject({ state: "stopped", disks: [{ vdev: "xvda", available: true }] });
    await end(next, "SIGTERM");
  });
});
