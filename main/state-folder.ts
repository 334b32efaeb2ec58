import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { homeFolder } from "./home-folder.ts";

/** A domain's place on disk: its console log and, after a crash, the registers. */
export interface StateFolder {
  readonly name: string;
  readonly path: string;
  readonly consoleLog: string;
  /** The hypervisor's own messages about the domain: unknown hypercalls and the like. */
  readonly hypervisorLog: string;
  /** Where a crash is written. */
  readonly crashReport: string;
  /** Lets another run have the folder; its files stay. */
  release(): void;
}

/** Runs under one name at the same time; far more than a host can carry. */
const MOST_TWINS = 1000;

/** Root of everything that outlives a run, by the XDG Base Directory Specification; a relative value is ignored. */
export function stateRoot(environment: NodeJS.ProcessEnv = process.env): string {
  const xdg = environment.XDG_STATE_HOME;
  const base = xdg && path.isAbsolute(xdg) ? xdg : path.join(homeFolder(), ".local", "state");
  return path.join(base, "domlab");
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** Takes the lock file for this process unless a living one has it. */
function lock(file: string): boolean {
  for (let attempt = 0; attempt < 2; attempt++) {
    try {
      writeFileSync(file, `${process.pid}\n`, { flag: "wx" });
      return true;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
    const owner = Number.parseInt(readFileSync(file, "utf8"), 10);
    // An empty file is one that its owner is about to fill.
    if (Number.isNaN(owner) || isAlive(owner)) return false;
    rmSync(file, { force: true });
  }
  return false;
}

/** A name that is safe as a file name: the base name of a kernel file, say, may hold anything. */
function safeName(name: string): string {
  return name.replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[.-]+/, "") || "domain";
}

/**
 * Opens the folder of a domain called `name`, or `name-2` and so on while others of that name run. The console log of the
 * run before is kept as `console.log.previous`. Throws the system's error when the folder cannot be made.
 */
export function openStateFolder(name: string, root: string = stateRoot()): StateFolder {
  const base = safeName(name);
  for (let twin = 1; twin <= MOST_TWINS; twin++) {
    const own = twin === 1 ? base : `${base}-${twin}`;
    const folder = path.join(root, "domains", own);
    mkdirSync(folder, { recursive: true, mode: 0o700 });
    const lockFile = path.join(folder, "running");
    if (!lock(lockFile)) continue;
    const consoleLog = path.join(folder, "console.log");
    const crashReport = path.join(folder, "crash.json");
    try {
      renameSync(consoleLog, `${consoleLog}.previous`);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
    }
    const hypervisorLog = path.join(folder, "hypervisor.log");
    for (const old of [crashReport, hypervisorLog]) rmSync(old, { force: true });
    const release = () => rmSync(lockFile, { force: true });
    return { name: own, path: folder, consoleLog, hypervisorLog, crashReport, release };
  }
  throw new Error(`${MOST_TWINS} domains called ${base} are running`);
}
