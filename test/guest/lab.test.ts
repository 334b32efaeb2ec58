/**
 * The lab as its users have it: a server process of its own, machines with stock Linux guests, everything through the control
 * socket. One story, as boots are what takes time: make, change, snapshot, break, restore, clone, leave, come back, shut down.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, expect, it } from "vitest";
import { checkQcow2 } from "../../engine/disk/image-tools/check.ts";
import type { ControlClient } from "../../main/lab/control-client.ts";
import { ensureLab } from "../../main/lab/server/ensure-lab.ts";
import { until } from "../cli/domlab.ts";
import { hasProgram, hostProgram } from "./host-tools.ts";

const MIB = 2 ** 20;
const DISK_SIZE = 64 * MIB;
const BLOCK_SIZE = 4096;
/** The block of each disk that says what state it is of. */
const BLOCK = 5000;
/** How long a guest may take for one command here, and how often its console is looked at. */
const ANSWER_MS = 120_000;
const LOOK_MS = 25;

const hasQemu = hasProgram("qemu-img");
const runtimeBefore = process.env.XDG_RUNTIME_DIR;
let folder = "";
let lab: ControlClient;
let pid = 0;

const home = () => path.join(folder, "home");
const inPool = () => readdirSync(path.join(home(), "disks")).map((file) => path.join(home(), "disks", file));

function runs(process_: number): boolean {
  try {
    process.kill(process_, 0);
    return true;
  } catch {
    return false;
  }
}

async function open(): Promise<void> {
  lab = await ensureLab({ version: "test", home: home() });
  ({ pid } = await lab.call("labInfo", {}));
}

/** Leaves the lab as a user does, and waits for the end of its process. @returns what the user is told */
async function leave(machines?: "destroy"): Promise<string[]> {
  const { notes } = await lab.call("labQuit", machines === undefined ? {} : { machines });
  await lab.ended;
  await until("the end of the lab", () => !runs(pid), 20_000);
  return notes;
}

/** A shell at a machine's console. */
class Terminal {
  readonly machine: string;
  private commands = 0;

  constructor(machine: string) {
    this.machine = machine;
  }

  /** What a command that succeeds prints. */
  async output(command: string): Promise<string> {
    const { machine } = this;
    const { end } = await lab.call("consoleLog", { machine, bytes: 1 });
    // The quotes keep the echo of what is typed from looking like what is waited for.
    const mark = `${machine}-${++this.commands}`;
    const line = `echo "<""${mark}"; { ${command}; } 2>&1; echo "${mark}"" $?"\n`;
    await lab.call("consoleWrite", { machine, data: Buffer.from(line).toString("base64") });
    const answer = new RegExp(`<${mark}\r?\n([^]*?)${mark} (\\d+)\r?\n`);
    const late = Date.now() + ANSWER_MS;
    for (;;) {
      const { data } = await lab.call("consoleLog", { machine, offset: end });
      const text = Buffer.from(data, "base64").toString("latin1");
      const [, output = "", status] = answer.exec(text) ?? [];
      if (status === "0") return output.replaceAll("\r\n", "\n").trim();
      if (status !== undefined) throw new Error(`${machine}: ${command} ended with ${status}:\n${output}`);
      if (Date.now() > late) throw new Error(`${machine}: no answer to ${command}:\n${text}`);
      await delay(LOOK_MS);
    }
  }

  /** Gives the machine a state that can be told from others: a word in memory, and the same on its disk. */
  async write(word: string): Promise<void> {
    const dd = `dd of=/dev/xvda bs=${BLOCK_SIZE} seek=${BLOCK} conv=sync oflag=direct 2>/dev/null`;
    await this.output(`echo ${word} >/tmp/word; echo ${word} | ${dd}`);
    expect(await this.read()).toEqual(both(word));
  }

  /** The state; of the disk past the guest's caches. */
  async read(): Promise<{ memory: string; disk: string }> {
    const dd = `dd if=/dev/xvda bs=${BLOCK_SIZE} count=1 skip=${BLOCK} iflag=direct 2>/dev/null`;
    const text = await this.output(`cat /tmp/word; ${dd} | tr -d '\\0'`);
    const [memory = "", ...disk] = text.split("\n");
    return { memory, disk: disk.join() };
  }
}

const both = (word: string) => ({ memory: word, disk: word });

/** What the block of a machine's disk says while the machine is off. */
function wordOnDisk(image: string): string {
  const raw = path.join(folder, "raw");
  expect(hostProgram("qemu-img", ["convert", "-O", "raw", image, raw])).toMatchObject({ status: 0 });
  const bytes = readFileSync(raw).subarray(BLOCK * BLOCK_SIZE, (BLOCK + 1) * BLOCK_SIZE);
  rmSync(raw);
  return bytes.toString("latin1").split("\n")[0] ?? "";
}

/** Every image of the pool, as our own check and QEMU's see it. */
async function expectCleanImages(): Promise<void> {
  const files = inPool();
  expect(files.length).toBeGreaterThan(0);
  for (const file of files) {
    expect(await checkQcow2(file), file).toMatchObject({ state: "clean", dirty: false, corrupt: false });
    if (hasQemu) expect(hostProgram("qemu-img", ["check", file]), file).toMatchObject({ status: 0 });
  }
}

async function stateOf(machine: string): Promise<string> {
  return (await lab.call("machineShow", { machine })).state;
}

async function create(name: string): Promise<Terminal> {
  await lab.call("machineCreate", {
    config: { name, image: "debian-shell", memoryMiB: 192, vifs: [{ bridge: "lab0" }] },
    newDisks: [{ vdev: "xvda", size: DISK_SIZE, format: "qcow2" }],
  });
  return new Terminal(name);
}

const address = (n: number) => `10.1.0.${n}`;

async function boot(terminal: Terminal, n: number): Promise<void> {
  const { machine } = terminal;
  expect(await lab.call("machineStart", { machine })).toMatchObject({ resumed: false });
  const until = { kind: "answering" } as const;
  expect(await lab.call("machineWait", { machine, until, timeoutSeconds: 150 })).toMatchObject({ reached: true });
  await terminal.output(`ip addr add ${address(n)}/24 dev eth0; ip link set eth0 up`);
}

beforeAll(() => {
  folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-lab-")));
  mkdirSync(path.join(folder, "run"), { mode: 0o700 });
  process.env.XDG_RUNTIME_DIR = path.join(folder, "run");
});

afterAll(async () => {
  if (runtimeBefore === undefined) delete process.env.XDG_RUNTIME_DIR;
  else process.env.XDG_RUNTIME_DIR = runtimeBefore;
  if (pid !== 0 && runs(pid)) {
    await leave("destroy").catch(() => {});
    if (runs(pid)) process.kill(pid, "SIGKILL");
  }
  rmSync(folder, { recursive: true, force: true });
});

it("keeps machines through snapshots, clones, and its own end", async () => {
  await open();
  const [web, db] = [await create("web"), await create("db")];
  await Promise.all([boot(web, 1), boot(db, 2)]);
  const ping = `ping -c 1 -W 5 ${address(2)} >/dev/null && echo answered`;
  expect(await web.output(ping)).toBe("answered");

  // The terminal that shows the console is made larger, and the guest's line with it.
  const sizes: string[] = [];
  for (const [columns, rows] of [
    [93, 31],
    [142, 57],
  ] as const) {
    await lab.call("consoleResize", { machine: "web", columns, rows });
    await web.output(
      `n=0; until [ "$(stty size)" = "${rows} ${columns}" ] || [ $n = 50 ]; do sleep 0.1; n=$((n+1)); done`,
    );
    sizes.push(await web.output("stty size"));
  }
  expect(sizes).toEqual(["31 93", "57 142"]);

  // A running machine: broken, and restored to what it was.
  await web.write("good");
  const live = await lab.call("snapshotTake", { machine: "web", name: "live" });
  expect(live).toMatchObject({ name: "live", kind: "running" });
  expect(await web.read()).toEqual(both("good"));
  await web.write("broken");
  await expect(lab.call("snapshotRestore", { machine: "web", snapshot: "live" })).rejects.toThrow(
    /web is running: .*; .*--force/,
  );
  expect(await web.read()).toEqual(both("broken"));
  const back = await lab.call("snapshotRestore", { machine: "web", snapshot: "live", force: true });
  expect(back).toMatchObject({ state: "running", notes: [expect.stringMatching(/web was destroyed/)] });
  expect(await web.read()).toEqual(both("good"));
  expect(await web.output(ping)).toBe("answered");
  await lab.call("consoleResize", { machine: "web", columns: 81, rows: 25 });
  await web.output(`n=0; until [ "$(stty size)" = "25 81" ] || [ $n = 50 ]; do sleep 0.1; n=$((n+1)); done`);
  expect(await web.output("stty size")).toBe("25 81");

  // A second machine from the same moment, which goes its own way.
  const clone = { machine: "web", snapshot: "live", name: "web-2", linked: true };
  await expect(lab.call("snapshotClone", clone)).rejects.toThrow(/keeps the address [0-9a-f:]+, .*--bridge/);
  const ownSwitch = { name: "lab1", uplink: "none", cwd: folder, isolated: false, vlans: false };
  await lab.call("switchCreate", ownSwitch);
  await lab.call("snapshotClone", { ...clone, bridge: "lab1" });
  expect(await stateOf("web-2")).toBe("suspended");
  // A whole copy too, while the original runs and writes: nobody writes what the snapshot has frozen.
  await web.write("running on");
  await lab.call("snapshotTake", { machine: "web", name: "disk", diskOnly: true });
  for (const snapshot of ["live", "disk"]) {
    const copy = { machine: "web", snapshot, name: `copy-of-${snapshot}`, linked: false, bridge: "lab1" };
    expect(await lab.call("snapshotClone", copy)).toMatchObject({ name: copy.name });
    const { disks } = await lab.call("machineShow", { machine: copy.name });
    if (hasQemu) expect(wordOnDisk(disks[0]?.source ?? "")).toBe(snapshot === "live" ? "good" : "running on");
    await lab.call("machineDelete", { machine: copy.name });
    await lab.call("machinePurge", { machine: copy.name });
  }
  await lab.call("snapshotDelete", { machine: "web", snapshot: "disk" });
  await web.write("good");
  expect(await lab.call("machineStart", { machine: "web-2" })).toMatchObject({ resumed: true });
  const twin = new Terminal("web-2");
  expect(await twin.read()).toEqual(both("good"));
  await twin.write("clone");
  expect(await twin.output(`ping -c 1 -W 1 ${address(2)} >/dev/null || echo alone`)).toBe("alone");
  expect(await web.read()).toEqual(both("good"));
  await lab.call("machineDestroy", { machine: "web-2" });

  // Two machines at one moment, of which one goes back.
  await Promise.all([web.write("together"), db.write("together")]);
  const taken = await lab.call("labSnapshotTake", { name: "both", machines: ["web", "db"] });
  expect(taken.members).toHaveLength(2);
  await Promise.all([web.write("later"), db.write("later")]);
  const restored = await lab.call("labSnapshotRestore", { snapshot: "both", machines: ["db"], force: true });
  expect(restored.restored).toEqual(["db"]);
  expect(await db.read()).toEqual(both("together"));
  expect(await web.read()).toEqual(both("later"));

  // The lab ends, comes back, and so do they.
  const uptime = Number(await web.output("cut -d. -f1 /proc/uptime"));
  const first = pid;
  expect(await leave()).toEqual([]);
  await open();
  expect(pid).not.toBe(first);
  for (const machine of ["web", "db"]) {
    const wait = { machine, until: { kind: "state", state: "running" }, timeoutSeconds: 120 } as const;
    expect(await lab.call("machineWait", wait)).toMatchObject({ reached: true });
  }
  expect(await stateOf("web-2")).toBe("stopped");
  expect(await web.read()).toEqual(both("later"));
  expect(await db.read()).toEqual(both("together"));
  expect(await web.output(ping)).toBe("answered");
  expect(Number(await web.output("cut -d. -f1 /proc/uptime"))).toBeGreaterThanOrEqual(uptime);

  // They shut themselves down, when told and as the lab ends; what is on disk is whole, also after layers have been merged.
  const down = await lab.call("machineShutdown", { machine: "web", timeoutSeconds: 30 });
  expect(down).toEqual({ state: "stopped", forced: false });
  await lab.call("machineSet", { machine: "db", settings: ["suspendOnQuit=false"] });
  expect(await leave()).toEqual([]);
  await open();
  expect((await lab.call("machineList", {})).map(({ state }) => state)).toEqual(["stopped", "stopped", "stopped"]);
  await expectCleanImages();
  await lab.call("labSnapshotDelete", { snapshot: "both", members: true });
  expect(await lab.call("snapshotDelete", { machine: "web", snapshot: "live" })).toEqual({ deferred: false });
  await expectCleanImages();
  const words = [
    ["web", "later"],
    ["db", "together"],
    ["web-2", "clone"],
  ] as const;
  for (const [machine, word] of words) {
    const { disks, snapshots } = await lab.call("machineShow", { machine });
    expect({ machine, snapshots, available: disks.map((disk) => disk.available) }).toEqual({
      machine,
      snapshots: 0,
      available: [true],
    });
    if (hasQemu) expect(wordOnDisk(disks[0]?.source ?? "")).toBe(word);
  }
  expect(readdirSync(path.join(home(), "memory"))).toEqual([]);
  expect(readdirSync(path.join(home(), "tmp"))).toEqual([]);
  expect(await leave()).toEqual([]);
  expect(readdirSync(path.join(folder, "run", "domlab"))).toEqual([]);
});
