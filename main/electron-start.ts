/**
 * Starts the desktop app's window from plain Node: finds Electron's executable, fetches it once if there is none, and waits
 * for its end. Where that cannot be, it says why, and the caller serves the interface to a browser.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { Tail } from "../engine/device/console/tail.ts";
import { oneLine } from "../engine/errors/input-error.ts";
import { cacheDirectory } from "./images/cache.ts";
import { hasDisplay } from "./serve/browser.ts";

/** How long the download may take: about 120 MB. */
const FETCH_MS = 180_000;
/** After a failed download no other is tried for so long. */
const FETCH_AGAIN_MS = 24 * 3600_000;
/** An executable that fails within so long has not shown anything: a library or its sandbox is missing. */
const EARLY_MS = 10_000;
/** Exit status of the app itself for what the user can mend; it has said so. */
const TOLD = 2;
/** Bytes of standard error that are kept to explain an early end. */
const KEPT = 4096;

export interface StartOptions {
  /** Folder of the lab. */
  readonly home: string;
  /** Takes a line about what goes on. */
  readonly say: (line: string) => void;
  /** Files to open in the window. */
  readonly files?: readonly string[];
  /** In place of the real ones, for tests. */
  readonly environment?: NodeJS.ProcessEnv;
  readonly folder?: string;
  readonly uid?: number;
  readonly fetchMs?: number;
}

/** The exit status of the window's program, or why there was none. */
export type Started = { readonly status: number } | { readonly unavailable: string };

/** Folder of the npm package, which has no executable yet; undefined where it is not installed. */
function packageFolder(): string | undefined {
  try {
    // Not the package itself: loading that downloads the executable, without a bound.
    return dirname(createRequire(import.meta.url).resolve("electron/package.json"));
  } catch {
    return undefined;
  }
}

function platformPath(): string {
  if (process.platform === "darwin") return join("Electron.app", "Contents", "MacOS", "Electron");
  return process.platform === "win32" ? "electron.exe" : "electron";
}

/** The executable, if it is there (electron's index.js looks in the same places). */
function executable(folder: string, environment: NodeJS.ProcessEnv): string | undefined {
  const path = join(environment.ELECTRON_OVERRIDE_DIST_PATH || join(folder, "dist"), platformPath());
  return existsSync(path) ? path : undefined;
}

/** Runs a program with its standard error kept; undefined for an end that took too long. */
async function outcome(child: ChildProcess, milliseconds: number): Promise<string | undefined> {
  const tail = new Tail(KEPT);
  child.stderr?.on("data", (bytes: Uint8Array) => tail.push(bytes));
  const timer = setTimeout(() => child.kill("SIGKILL"), milliseconds);
  try {
    return await new Promise((resolve) => {
      child.once("error", (error) => resolve(error.message));
      child.once("close", (status, signal) => {
        if (status === 0) resolve(undefined);
        else if (signal === "SIGKILL") resolve(`it took longer than ${milliseconds / 1000} seconds`);
        else resolve(firstLine(tail.lines(20).join("\n")) || `exit status ${status ?? signal}`);
      });
    });
  } finally {
    clearTimeout(timer);
  }
}

/** What a stack trace or a crash says first. */
function firstLine(text: string): string {
  return oneLine(text.split("\n").find((line) => line.trim() !== "" && !/^\s+at /.test(line)) ?? "");
}

/**
 * Has electron's own script fetch the executable.
 * @returns why it could not be had; undefined when it is there
 */
async function fetchExecutable(folder: string, options: StartOptions): Promise<string | undefined> {
  const environment = options.environment ?? process.env;
  const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string };
  const cache = cacheDirectory(environment);
  const mark = join(cache, `electron-${version}.failed`);
  const failed = Number(await readFile(mark, "utf8").catch(() => "0"));
  if (Date.now() - failed < FETCH_AGAIN_MS) {
    return `Electron could not be fetched lately (remove ${mark} to try again)`;
  }
  options.say(`fetching Electron ${version} for the window, about 120 MB, once`);
  const child = spawn(process.execPath, [join(folder, "install.js")], {
    stdio: ["ignore", "ignore", "pipe"],
    env: environment,
  });
  const why = await outcome(child, options.fetchMs ?? FETCH_MS);
  if (why === undefined && executable(folder, environment) !== undefined) {
    await rm(mark, { force: true });
    return undefined;
  }
  // Without the mark the next start tries again, which costs time only.
  await mkdir(cache, { recursive: true }).catch(() => {});
  await writeFile(mark, String(Date.now())).catch(() => {});
  return `Electron could not be fetched (${why ?? "its executable is not there"})`;
}

/** Why this host cannot show the window, whatever is installed. */
function obstacle(environment: NodeJS.ProcessEnv, uid: number | undefined): string | undefined {
  if (!hasDisplay(environment)) return "there is no display for a window";
  if (process.platform === "linux" && uid === 0) return "Electron keeps its sandbox, which root cannot have";
  return undefined;
}

/** Runs the app and waits for its end. */
async function runApp(program: string, options: StartOptions): Promise<Started> {
  const { ELECTRON_RUN_AS_NODE: _node, ...environment } = options.environment ?? process.env;
  const begin = Date.now();
  // The clone's folder, whose package.json names main/electron.ts; compiled this module is in dist/main/.
  const child = spawn(program, [appFolder(), ...(options.files ?? [])], {
    stdio: ["inherit", "inherit", "pipe"],
    env: { ...environment, DOMLAB_HOME: options.home },
  });
  const tail = new Tail(KEPT);
  child.stderr?.on("data", (bytes: Uint8Array) => {
    tail.push(bytes);
    process.stderr.write(bytes);
  });
  // A terminal's Ctrl-C reaches the app too, which suspends machines first; this process waits for it.
  const pass = (signal: NodeJS.Signals) => void child.kill(signal);
  const ignore = () => {};
  process.on("SIGINT", ignore);
  process.on("SIGTERM", pass);
  try {
    const [status, signal, failure] = await new Promise<[number | null, NodeJS.Signals | null, string?]>((resolve) => {
      child.once("error", (error) => resolve([null, null, error.message]));
      child.once("close", (code, by) => resolve([code, by]));
    });
    const isEarly = Date.now() - begin < EARLY_MS && status !== 0 && status !== TOLD;
    const byUser = signal === "SIGINT" || signal === "SIGTERM" || signal === "SIGKILL";
    if (failure !== undefined || (isEarly && !byUser)) {
      const why = failure ?? (firstLine(tail.lines(20).join("\n")) || String(signal ?? `exit status ${status}`));
      return { unavailable: `Electron could not start (${why})` };
    }
    return { status: status ?? 128 + (signal === null ? 0 : constants.signals[signal]) };
  } finally {
    process.off("SIGINT", ignore);
    process.off("SIGTERM", pass);
  }
}

/** Folder with the package.json that names the app's entry. */
function appFolder(): string {
  for (let folder = import.meta.dirname; folder !== dirname(folder); folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return folder;
  }
  throw new Error(`no package.json above ${import.meta.dirname}`);
}

/** Shows the window and waits until it is closed, or answers why it cannot be shown. Never rejects for want of Electron. */
export async function startElectron(options: StartOptions): Promise<Started> {
  const environment = options.environment ?? process.env;
  const impossible = obstacle(environment, options.uid ?? process.getuid?.());
  if (impossible !== undefined) return { unavailable: impossible };
  const folder = options.folder ?? packageFolder();
  if (folder === undefined) return { unavailable: "Electron is not installed" };
  if (executable(folder, environment) === undefined) {
    const why = await fetchExecutable(folder, options);
    if (why !== undefined) return { unavailable: why };
  }
  const program = executable(folder, environment);
  if (program === undefined) return { unavailable: "Electron's executable is not there" };
  return await runApp(program, options);
}
