/** Calls the built program as a user does. */
import { type ChildProcess, spawn } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const repository = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
/** The program that `npm test` has built. */
export const program = path.join(repository, "dist", "main", "cli.js");

export interface Result {
  /** Exit status, or null when a signal ended the program. */
  readonly status: number | null;
  readonly stdout: Buffer;
  readonly stderr: string;
}

export interface CallOptions {
  /** What is piped into stdin, which then ends. */
  readonly input?: string;
  /** Variables added to the environment. */
  readonly environment?: NodeJS.ProcessEnv;
  /** The program is killed after that long, in milliseconds; the test then fails on its status. */
  readonly limit?: number;
  /** Called once the program runs. */
  readonly started?: (child: ChildProcess) => void;
}

/** Runs `domlab` with these arguments to its end. */
export function domlab(args: readonly string[], options: CallOptions = {}): Promise<Result> {
  const child = spawn(process.execPath, [program, ...args], {
    env: { ...process.env, ...options.environment },
    stdio: ["pipe", "pipe", "pipe"],
  });
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
  // The program may end without reading its input.
  child.stdin.on("error", () => {});
  child.stdin.end(options.input ?? "");
  options.started?.(child);
  const killer = setTimeout(() => child.kill("SIGKILL"), options.limit ?? 200_000);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (status) => {
      clearTimeout(killer);
      resolve({ status, stdout: Buffer.concat(stdout), stderr: Buffer.concat(stderr).toString() });
    });
  });
}

/** Waits until `condition` holds; throws with `what` when it does not within `limit` milliseconds. */
export async function until(what: string, condition: () => boolean, limit = 150_000): Promise<void> {
  const end = Date.now() + limit;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited ${limit} ms in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}
