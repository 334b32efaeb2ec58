/** Reaches the lab in a folder, which is started when it does not run. */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { z } from "zod";
import { compiledPath } from "../../../engine/domain/entry.ts";
import { BadInput, PassedOn } from "../../failure.ts";
import { ControlClient } from "../control-client.ts";
import { labHome } from "../store/paths.ts";
import { readServerFile } from "./server-file.ts";

/** How long the one who has the lab's lock may take until it can be reached or is gone, and between two looks. */
const IN_USE_WAIT_MS = 10_000;
const IN_USE_LOOK_MS = 50;
/** After so long the lock is tried again: it may be that of a lab which is ending. Twice as long each time. */
const IN_USE_TRY_MS = 200;
/** How long a start may take: records and images are looked at, switches made. */
const START_WAIT_MS = 60_000;

const failure = z.object({ line: z.string(), status: z.int(), code: z.string().optional() });

export interface EnsureOptions {
  readonly version: string;
  readonly home?: string;
  /** False: only a lab that runs. */
  readonly start?: boolean;
  /** Whether a lab that is started ends by itself when nobody needs it. */
  readonly endsWhenIdle?: boolean;
}

/** A connection to the lab in a folder, if it runs. */
export async function connectHome(home: string): Promise<ControlClient | undefined> {
  const server = await readServerFile(home);
  if (server === undefined) return undefined;
  return await ControlClient.connect(server.control).catch(() => undefined);
}

/** The first line of the new process; undefined when it died before that. */
async function startServer(home: string, { version, endsWhenIdle = true }: EnsureOptions): Promise<string | undefined> {
  let errors: number | undefined;
  try {
    mkdirSync(home, { recursive: true, mode: 0o700 });
    errors = openSync(join(home, "server.err"), "w", 0o600);
  } catch {
    // The server itself finds the words for a folder that cannot be used.
  }
  const program = compiledPath(import.meta.url, "main.js");
  const args = [program, home, version, endsWhenIdle ? "ends-when-idle" : "stays"];
  const child = spawn(process.execPath, args, {
    detached: true,
    stdio: ["ignore", "pipe", errors ?? "ignore"],
    cwd: "/",
  });
  if (errors !== undefined) closeSync(errors);
  const { stdout } = child;
  if (stdout === null) throw new Error("a pipe was asked for");
  const lines = createInterface({ input: stdout });
  const abort = new AbortController();
  const late = delay(START_WAIT_MS, undefined, { signal: abort.signal }).catch(() => undefined);
  try {
    const first = new Promise<string | undefined>((resolve) => {
      lines.once("line", resolve);
      lines.once("close", () => resolve(undefined));
      child.once("error", () => resolve(undefined));
    });
    return await Promise.race([first, late]);
  } finally {
    abort.abort();
    lines.close();
    stdout.destroy();
    child.unref();
  }
}

/** Looks for a lab that answers, for so long. */
async function connectSoon(home: string, milliseconds: number): Promise<ControlClient | undefined> {
  for (const end = Date.now() + milliseconds; Date.now() < end; ) {
    await delay(IN_USE_LOOK_MS);
    const client = await connectHome(home);
    if (client !== undefined) return client;
  }
  return undefined;
}

/** @throws PassedOn with the line of a lab that cannot start; BadInput when that dies without a line */
async function startOrJoin(home: string, options: EnsureOptions): Promise<ControlClient> {
  const end = Date.now() + IN_USE_WAIT_MS;
  for (let patience = IN_USE_TRY_MS; ; patience *= 2) {
    const line = await startServer(home, options);
    if (line?.startsWith("failed ")) {
      const told = failure.safeParse(JSON.parse(line.slice("failed ".length)));
      // Another tool was faster, and its lab is about to answer; or the last lab has not quite ended.
      const isInUse = told.data?.code === "lab-in-use" && Date.now() < end;
      const other = isInUse ? await connectSoon(home, Math.min(patience, end - Date.now())) : undefined;
      if (other !== undefined) return other;
      if (isInUse) continue;
      throw new PassedOn(told.data?.line ?? "the lab did not start", told.data?.status ?? 1);
    }
    const client = line?.startsWith("ready ") ? await connectHome(home) : undefined;
    if (client !== undefined) return client;
    throw new BadInput("bad-folder", `the lab in ${home} did not start`, `see ${join(home, "server.err")}`);
  }
}

/**
 * A connection to the user's lab, which is started when it does not run.
 * @throws PassedOn with the line of a lab that cannot start; BadInput when it may not be started
 */
export async function ensureLab(options: EnsureOptions): Promise<ControlClient> {
  const home = options.home ?? labHome();
  const running = await connectHome(home);
  if (running !== undefined) return running;
  if (options.start === false) {
    throw new BadInput("bad-option", `the lab in ${home} is not running`, "start a machine: domlab start");
  }
  return await startOrJoin(home, options);
}
