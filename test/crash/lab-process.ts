/** A lab server of the built program, and its death. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { compiledPath } from "../../engine/domain/entry.ts";
import { ControlClient } from "../../main/lab/control-client.ts";
import { readServerFile } from "../../main/lab/server/server-file.ts";

const here = fileURLToPath(import.meta.url);
const extension = here.endsWith(".ts") ? ".ts" : ".js";
const mainModule = new URL(`../../main/lab/server/ensure-lab${extension}`, import.meta.url).href;

/** How long a server may take to be ready, and its guests to follow it into death. */
const READY_MS = 90_000;
const DEATH_MS = 60_000;
const LOOK_MS = 10;

/** A process, told from a later one of the same number by when it started. */
interface KnownProcess {
  readonly pid: number;
  readonly parent: number;
  readonly startTime: string;
}

/** From /proc/<pid>/stat; undefined when it has ended. */
function processOf(pid: number): KnownProcess | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The program's name, in parentheses, may hold anything.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z") return undefined;
    return { pid, parent: Number(fields[1]), startTime: fields[19] ?? "" };
  } catch {
    return undefined;
  }
}

/** All processes that descend from this one. */
function descendants(root: number): KnownProcess[] {
  const all = readdirSync("/proc").flatMap((name) => (/^\d+$/.test(name) ? (processOf(Number(name)) ?? []) : []));
  const found: KnownProcess[] = [];
  const parents = new Set([root]);
  for (let before = -1; before < found.length; ) {
    before = found.length;
    for (const each of all) {
      if (!parents.has(each.parent) || parents.has(each.pid)) continue;
      parents.add(each.pid);
      found.push(each);
    }
  }
  return found;
}

export class LabProcess {
  private readonly child: ChildProcess;
  private readonly died: Promise<unknown>;
  private readonly home: string;
  private client: ControlClient | undefined;

  /** @param runtime XDG_RUNTIME_DIR */
  constructor(home: string, runtime: string) {
    this.home = home;
    const errors = openSync(path.join(home, "server.err"), "a", 0o600);
    this.child = spawn(process.execPath, [compiledPath(mainModule, "main.js"), home, "test", "stays"], {
      detached: true,
      stdio: ["ignore", "pipe", errors],
      cwd: "/",
      env: { ...process.env, XDG_RUNTIME_DIR: runtime },
    });
    closeSync(errors);
    this.died = once(this.child, "exit");
  }

  /** A connection to the lab once it is served. @throws Error with what it says when it does not start */
  async ready(): Promise<ControlClient> {
    const { stdout } = this.child;
    if (stdout === null) throw new Error("a pipe was asked for");
    const lines = createInterface({ input: stdout });
    const first = Promise.race([
      once(lines, "line").then(([line]) => String(line)),
      once(lines, "close").then(() => "it ended"),
      delay(READY_MS, "it says nothing", { ref: false }),
    ]);
    const line = await first;
    if (!line.startsWith("ready ")) throw new Error(`the lab did not start: ${line}`);
    const server = await readServerFile(this.home);
    if (server === undefined) throw new Error("the lab's server.json cannot be read");
    this.client = await ControlClient.connect(server.control);
    return this.client;
  }

  /**
   * Kills the server, and only it.
   * @returns the numbers of processes that it left behind alive
   */
  async kill(): Promise<number[]> {
    const { pid } = this.child;
    if (pid === undefined) throw new Error("the lab could not be started");
    let children: KnownProcess[] = [];
    if (this.child.exitCode === null) {
      // Stopped, it makes no further children while they are counted.
      process.kill(pid, "SIGSTOP");
      children = descendants(pid);
      process.kill(pid, "SIGKILL");
    }
    await this.died;
    this.client?.close();
    const lives = ({ pid: each, startTime }: KnownProcess) => processOf(each)?.startTime === startTime;
    for (const end = Date.now() + DEATH_MS; children.some(lives) && Date.now() < end; ) await delay(LOOK_MS);
    return children.filter(lives).map((each) => each.pid);
  }
}
