/**
 * Machines that outlive the program, as a user has them: the real program. What a test only needs, or looks at, goes by the
 * lab's socket, as each call of the program costs a process; a lab goes on from test to test while it runs.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { ControlClient } from "../../main/lab/control-client.ts";
import { connectHome, ensureLab } from "../../main/lab/server/ensure-lab.ts";
import { domlab, program, type Result, until } from "./domlab.ts";
import { idle, tinyKernel, tripleFault } from "./tiny-kernel.ts";

// Each test starts the program dozens of times.
vi.setConfig({ testTimeout: 300_000 });

const hasTmux = spawnSync("tmux", ["-V"]).status === 0;
const before = { ...process.env };
const folders: string[] = [];
let folder = "";
const file = (name: string) => path.join(folder, name);
const home = () => file("lab");
const environment = () => ({
  DOMLAB_HOME: home(),
  XDG_RUNTIME_DIR: folder,
  XDG_STATE_HOME: file("state"),
  XDG_DATA_HOME: file("data"),
});

const call = (args: readonly string[], input?: string): Promise<Result> =>
  domlab(args, { environment: environment(), limit: 50_000, ...(input !== undefined && { input }) });

/** A command that succeeds. @returns its output */
async function done(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await call(args);
  expect({ status, stderr }).toEqual({ status: 0, stderr: expect.not.stringContaining("internal error") });
  return stdout.toString();
}

/** A command that is refused in one line. @returns the line */
async function refused(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await call(args);
  expect(stderr).toMatch(/^domlab: [^\n]+; [^\n]+\n$/);
  expect(stderr).not.toMatch(/internal error|\n +at /);
  expect({ status, stdout: stdout.toString() }).toEqual({ status: 2, stdout: "" });
  return stderr;
}

interface Row {
  readonly name: string;
  readonly state: string;
  readonly domid?: number;
  readonly memoryMiB: number;
  readonly snapshots: number;
}
const list = async (...args: string[]): Promise<Row[]> => JSON.parse(await done("list", "--json", ...args));

/** Asks the lab without the program; starts it when it does not run. */
async function ask<T>(question: (lab: ControlClient) => Promise<T>): Promise<T> {
  const lab = await ensureLab({ version: "0.1.0", home: home() });
  try {
    return await question(lab);
  } finally {
    lab.close();
  }
}
const rows = () => ask((lab) => lab.call("machineList", {}));
const stateOf = async (name: string) => (await rows()).find((row) => row.name === name)?.state;
const started = (machine: string) => ask((lab) => lab.call("machineStart", { machine }));
const destroyed = (machine: string) => ask((lab) => lab.call("machineDestroy", { machine }));

/** Makes a machine that does nothing. */
async function made(name: string): Promise<void> {
  const config = { name, image: null, kernel: file("kernel"), memoryMiB: 64 };
  await ask((lab) =>
    lab.call("machineCreate", { config, newDisks: [{ vdev: "xvda", size: 1 << 20, format: "qcow2" }] }),
  );
}

/** Number of the process of the lab; undefined when it has ended. */
function labProcess(): number | undefined {
  try {
    const { pid } = JSON.parse(readFileSync(path.join(home(), "server.json"), "utf8")) as { pid: number };
    process.kill(pid, 0);
    return pid;
  } catch {
    return undefined;
  }
}

async function quit(...args: string[]): Promise<void> {
  await done("lab", "quit", ...args);
  await until("the end of the lab", () => labProcess() === undefined);
}

const machine = (name: string, ...more: string[]) => [
  ...["create", name, "--kernel", file("kernel"), "--image", "none", "--memory", "64M", "--no-network"],
  ...more,
];

function newFolder(): void {
  folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-machines-")));
  folders.push(folder);
  // For a lab that is started from here.
  Object.assign(process.env, environment());
  writeFileSync(file("kernel"), tinyKernel(idle));
  writeFileSync(file("broken"), tinyKernel(tripleFault));
}

/** Takes all machines away. */
async function clear(lab: ControlClient): Promise<void> {
  for (const { name: machine, state } of await lab.call("machineList", {})) {
    if (state !== "stopped") await lab.call("machineDestroy", { machine });
    await lab.call("machineDelete", { machine });
  }
  for (const { id } of await lab.call("machineList", { deleted: true }))
    await lab.call("machinePurge", { machine: id });
}

async function end(): Promise<void> {
  const lab = await connectHome(home());
  await lab?.call("labQuit", { machines: "destroy" }).catch(() => {});
  lab?.close();
  await until("the end of the lab", () => labProcess() === undefined, 20_000).catch(() => {
    const pid = labProcess();
    if (pid !== undefined) process.kill(pid, "SIGKILL");
  });
}

beforeAll(newFolder);
afterEach(async ({ task }) => {
  if (task.result?.state === "fail") {
    // The next one is to have nothing to do with what is left.
    await end();
    newFolder();
  } else if (existsSync(home())) await ask(clear);
});
afterAll(async () => {
  await end();
  process.env = before;
  for (const each of folders) rmSync(each, { recursive: true, force: true });
});

describe("without a lab", () => {
  it("questions start none", async () => {
    expect(await list()).toEqual([]);
    expect(await done("lab", "info")).toContain("does not run");
    expect(await done("lab", "quit")).toBe("");
    expect(existsSync(home())).toBe(false);
  });

  it("what is wrong with a command's words starts none", async () => {
    writeFileSync(file("m.json"), '{\n  "name": "web",\n  "memroy": 64\n}\n');
    expect(await refused("create", "-f", file("m.json"))).toMatch(
      /m\.json, line 3: there is no key memroy; did you mean/,
    );
    expect(await refused("create", "my web")).toMatch(/"my web" is no name for a machine; use 1 to 64 letters/);
    expect(await refused("create", "web", "--memory", "much")).toMatch(/"much" is no memory size/);
    expect(await refused("stat", "web")).toMatch(/see domlab --help/);
    expect(existsSync(home())).toBe(false);
  });
});

describe("a machine", () => {
  it("is made, runs while the program is gone, and is found as it was left", async () => {
    expect(await done(...machine("web", "--new-disk", "vdev=xvdb,size=4M", "--note", "mine"))).toMatch(
      /^web is made; /,
    );
    expect(await list()).toMatchObject([{ name: "web", state: "stopped", memoryMiB: 64 }]);
    await done("start", "web");
    const [running] = await list();
    expect(running).toMatchObject({ state: "running", domid: expect.any(Number) });
    expect(await done("xenstore", "read", `/local/domain/${running?.domid}/name`)).toBe("web\n");
    expect(await refused("start", "web")).toMatch(/web is running/);
    expect(await refused("delete", "web")).toMatch(/web is running/);
    await done("pause", "web");
    expect(await stateOf("web")).toBe("paused");
    await done("unpause", "web");
    expect(await refused("shutdown", "web", "--timeout", "1")).toMatch(/web/);
    await quit();
    expect(await list()).toMatchObject([{ name: "web", state: "suspended" }]);
    // The lab that comes takes up again what the last one has suspended.
    await done("wait", "web", "--timeout", "120");
    await done("destroy", "web");
    expect(await stateOf("web")).toBe("stopped");
    expect(await done("show", "web")).toMatch(/Notes: +mine\n.*xvdb +qcow2 +rw +4 MiB/s);
  });

  it("is changed, renamed, cloned, deleted and taken back", async () => {
    await done(...machine("web", "--new-disk", "vdev=xvda,size=1M"));
    expect(await refused(...machine("web"))).toMatch(
      /a machine called web already; choose another name, for example web-2/,
    );
    expect(await refused("show", "wbe")).toMatch(/there is no machine wbe; did you mean web\?/);
    expect(await refused("set", "web", "memroy=64")).toMatch(/there is no key memroy; did you mean memoryMiB\?/);
    await done("set", "web", "memoryMiB=96", "group=tests");
    expect((await rows())[0]?.memoryMiB).toBe(96);
    await done("rename", "web", "www");
    await done("clone", "www", "copy");
    await done("clone", "www", "twin", "--linked");
    expect((await rows()).map(({ name }) => name)).toEqual(["www", "copy", "twin"]);
    await done("start", "copy", "twin");
    await done("destroy", "copy", "twin");
    await done("delete", "copy", "twin");
    expect((await rows()).map(({ name }) => name)).toEqual(["www"]);
    expect((await list("--all")).map(({ name }) => name)).toEqual(["www", "copy", "twin"]);
    await done("purge", "twin");
    const told = await list("--deleted");
    await quit();
    // From the records alone.
    expect(await list("--deleted")).toEqual(told);
    expect(told).toMatchObject([{ name: "copy", state: "deleted", purgeAfter: expect.stringMatching(/^\d{4}-.*Z$/) }]);
    expect(await done("list", "--deleted")).toMatch(/ Kept until\ncopy +deleted .* \d\d:\d\d:\d\d\n$/);
    expect(await done("undelete", "copy")).toBe("copy is back\n");
    expect(await refused("undelete", "twin")).toMatch(/no deleted machine twin/);
    await done("start", "copy");
  });

  it("that crashes says so", async () => {
    await done("create", "bad", "--kernel", file("broken"), "--image", "none", "--memory", "64M", "--no-network");
    await call(["start", "bad"]);
    await done("wait", "bad", "--for", "exit", "--timeout", "120");
    expect(await done("list")).toMatch(/bad +stopped .*crashed/);
  });

  it("becomes a file and a machine again", async () => {
    await made("web");
    await done("export", "web", file("web.cfg"));
    await done("export", "web", file("web.json"), "--json");
    expect(await refused("export", "web", file("web.cfg"))).toMatch(/exists already/);
    await done("import", file("web.cfg"), "--name", "imported");
    await done("create", "again", "-f", file("web.json"));
    expect((await rows()).map(({ name, memoryMiB }) => [name, memoryMiB])).toEqual([
      ["web", 64],
      ["imported", 64],
      ["again", 64],
    ]);
    writeFileSync(file("wrong.cfg"), 'name = "x"\nkernel = "/k"\nmemry = 64\n');
    expect(await refused("import", file("wrong.cfg"))).toMatch(
      /wrong\.cfg, line 3: there is no key memry; did you mean/,
    );
  });

  it("does not share an image with another one that runs", async () => {
    writeFileSync(file("disk.img"), Buffer.alloc(1 << 20));
    for (const name of ["one", "two"]) await done(...machine(name, "--disk", `${file("disk.img")},raw,xvda`));
    await started("one");
    expect(await refused("start", "two")).toMatch(/disk\.img.*in use/);
    expect(await stateOf("two")).toBe("stopped");
    await destroyed("one");
    await started("two");
  });

  it("whose image is missing stays listed", async () => {
    writeFileSync(file("disk.img"), Buffer.alloc(1 << 20));
    await done(...machine("web", "--disk", `${file("disk.img")},raw,xvda`));
    rmSync(file("disk.img"));
    expect(await done("list")).toMatch(/web .*unavailable: .*disk\.img is missing/);
    expect(await refused("start", "web")).toMatch(/disk\.img/);
  });
});

describe("snapshots", () => {
  it("of a stopped and of a running machine are taken, restored, cloned and deleted", async () => {
    await made("web");
    expect(await done("snapshot", "take", "web", "clean", "--note", "nothing on it")).toBe("clean is taken (disks)\n");
    await started("web");
    expect(await done("snapshot", "take", "web", "live")).toMatch(/^live is taken \(disks and memory/);
    expect(await done("snapshot", "list", "web")).toMatch(
      /^Snapshot .*\nclean .* disk .* nothing on it\n└─ live .* running .*\n {3}└─ \(now\)\n$/,
    );
    expect(await refused("snapshot", "restore", "web", "clean")).toMatch(/web is running.*--force/);
    expect(await refused("snapshot", "restore", "web", "claen")).toMatch(/web has no snapshot claen/);
    expect(await refused("snapshot", "take", "web", "live")).toMatch(/live/);
    expect(await stateOf("web")).toBe("running");
    await done("snapshot", "restore", "web", "live", "--force");
    expect(await stateOf("web")).toBe("running");
    await destroyed("web");
    await done("snapshot", "restore", "web", "clean");
    expect(await done("snapshot", "list", "web")).toMatch(/\n├─ live .*\n└─ \(now\)\n$/);
    await done("snapshot", "clone", "web", "clean", "copy");
    await done("snapshot", "rename", "web", "live", "alive");
    await done("snapshot", "delete", "web", "alive");
    await quit();
    expect(await list()).toMatchObject([
      { name: "web", state: "stopped", snapshots: 1 },
      { name: "copy", state: "stopped", snapshots: 0 },
    ]);
    await done("start", "copy", "web");
  });

  it("of all machines are taken at one moment", async () => {
    for (const name of ["one", "two"]) await made(name);
    await started("one");
    expect(await done("lab", "snapshot", "take", "both")).toMatch(/^both is taken\n/);
    expect(await done("lab", "snapshot", "list")).toMatch(/both .*one,two/);
    await destroyed("one");
    expect(await done("lab", "snapshot", "restore", "both", "one")).toMatch(/at both again: one\n/);
  });

  it("of a later version are refused and stay where they are", async () => {
    await made("web");
    await started("web");
    await done("suspend", "web");
    await quit();
    const records = path.join(home(), "lab.json");
    const text = readFileSync(records, "utf8");
    const memory = path.join(
      home(),
      "memory",
      (JSON.parse(text) as { machines: { memory: string }[] }).machines[0]!.memory,
    );
    const before = readFileSync(memory);
    const later = Buffer.from(before);
    // The version stands behind the eight bytes of the magic.
    later.writeUInt32LE(later.readUInt32LE(8) + 1, 8);
    writeFileSync(memory, later);
    expect(await refused("start", "web")).toMatch(/version/);
    expect(await stateOf("web")).toBe("suspended");
    writeFileSync(memory, before);
    await done("start", "web");
    expect(await stateOf("web")).toBe("running");
  });

  it("in records of a later version are not touched", async () => {
    await made("web");
    await quit();
    const records = path.join(home(), "lab.json");
    copyFileSync(records, file("kept.json"));
    writeFileSync(
      records,
      readFileSync(records, "utf8").replace('"version": 1', '"version": 99').replace('"version":1', '"version":99'),
    );
    expect(await refused("start", "web")).toMatch(/version is 99/);
    expect(await refused("list")).toMatch(/version is 99/);
    copyFileSync(file("kept.json"), records);
    expect(await list()).toMatchObject([{ name: "web", state: "stopped" }]);
  });
});

describe("the console", () => {
  it("is left when a piped input has ended, and the machine runs on", async () => {
    await made("web");
    expect(await refused("console", "web")).toMatch(/web is stopped: .*; domlab start web --console/);
    await started("web");
    expect((await call(["console", "web"], "typed\n")).status).toBe(0);
    expect(await stateOf("web")).toBe("running");
    expect(await done("console", "web", "--log")).toBe("");
  });

  it.skipIf(!hasTmux)("gives the terminal back on Ctrl-], and at the end of the machine", async () => {
    await made("web");
    const socket = file("tmux");
    const tmux = (...args: string[]) => spawnSync("tmux", ["-S", socket, ...args], { encoding: "utf8" }).stdout;
    const keys = (...names: string[]) => tmux("send-keys", "-t", "main", ...names);
    const screen = () => tmux("capture-pane", "-p", "-S", "-200", "-t", "main");
    const shown = (pattern: RegExp) => until(`${pattern}; the screen shows ${screen()}`, () => pattern.test(screen()));
    const words = Object.entries(environment()).map(([name, value]) => `${name}=${value}`);
    const run = (...args: string[]) =>
      keys(`${words.join(" ")} ${process.execPath} ${program} ${args.join(" ")}`, "Enter");
    tmux("-f", "/dev/null", "new-session", "-d", "-s", "main", "-x", "150", "-y", "50", "env PS1='host> ' sh");
    try {
      await shown(/host> *\n/);
      keys("clear; stty -g | sed s/^/before=/", "Enter");
      await shown(/before=[0-9a-f:]+$/m);
      run("start", "web", "--console");
      await shown(/Ctrl-\] leaves it/);
      keys("C-c");
      keys("C-]");
      await shown(/domlab: web runs on/);
      expect(await stateOf("web")).toBe("running");
      keys("stty -g | sed s/^/after=/", "Enter");
      // Behind the prompt, if it was typed before that came.
      await shown(/after=[0-9a-f:]+$/m);
      expect(/after=([0-9a-f:]+)$/m.exec(screen())?.[1]).toBe(/before=([0-9a-f:]+)$/m.exec(screen())?.[1]);
      // Not before the screen has forgotten the first console.
      keys("clear; echo cleared", "Enter");
      await shown(/^cleared$/m);
      run("console", "web");
      await shown(/Ctrl-\] leaves it/);
      await destroyed("web");
      await shown(/domlab: web is stopped/);
    } finally {
      tmux("kill-server");
    }
  });
});
