/** Runs the host's package tools, quietly and in the C locale. */

import { type ChildProcessByStdio, spawn } from "node:child_process";
import type { Readable } from "node:stream";
import { errnoOf } from "../../engine/builder/errors.ts";
import { messageOf } from "../../engine/errors/message.ts";
import { cancelled, ImageError } from "./errors.ts";

/** As much of a tool's messages as is kept, in bytes. */
const KEPT_OUTPUT = 256 * 1024;

export interface RunOptions {
  readonly cwd?: string;
  readonly signal?: AbortSignal | undefined;
  /** Environment to add to; the process's own by default. */
  readonly env?: NodeJS.ProcessEnv | undefined;
}

export interface Finished {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

type Tool = ChildProcessByStdio<null, Readable, Readable>;

function start(command: string, args: readonly string[], options: RunOptions): Tool {
  return spawn(command, args, {
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...(options.env ?? process.env), LC_ALL: "C", LANGUAGE: "C", DEBIAN_FRONTEND: "noninteractive" },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
}

function startFailure(command: string, error: unknown, signal: AbortSignal | undefined): ImageError {
  if (signal?.aborted === true) return cancelled();
  if (errnoOf(error) === "ENOENT" || errnoOf(error) === "EACCES") {
    return new ImageError(
      "no-apt",
      `${command} is not installed: this host has no apt to get the guest image with`,
      "use a Debian host, or boot a kernel of your own (--kernel, --initrd)",
      error,
    );
  }
  const reason = messageOf(error);
  return new ImageError("fetch-failed", `${command} cannot be run: ${reason}`, "start it by hand to see why", error);
}

/** Resolves with the exit status, or rejects with an ImageError if the tool could not be run or was aborted. */
function finish(child: Tool, command: string, signal: AbortSignal | undefined): Promise<number | null> {
  return new Promise((resolve, reject) => {
    child.once("error", (error) => reject(startFailure(command, error, signal)));
    child.once("close", (status) => resolve(status));
  });
}

function keep(stream: Readable): () => string {
  const pieces: Buffer[] = [];
  let size = 0;
  stream.on("data", (piece: Buffer) => {
    // Read on when full, or the tool would block on its pipe.
    if (size < KEPT_OUTPUT) pieces.push(piece);
    size += piece.length;
  });
  return () => Buffer.concat(pieces).toString("utf8");
}

/**
 * Runs a tool to its end and collects what it prints.
 *
 * @throws ImageError `no-apt` if it does not exist, `cancelled` if the signal was raised
 */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  if (options.signal?.aborted === true) throw cancelled();
  const child = start(command, args, options);
  const stdout = keep(child.stdout);
  const stderr = keep(child.stderr);
  const status = await finish(child, command, options.signal);
  return { status, stdout: stdout(), stderr: stderr() };
}

/** A running tool whose output is consumed as it comes. `done` must be awaited after the output has ended. */
export interface Streaming {
  readonly stdout: Readable;
  readonly done: Promise<{ readonly status: number | null; readonly stderr: string }>;
}

/** Starts a tool whose standard output is a stream of bytes. Errors as for `run`, out of `done`. */
export function runStreaming(command: string, args: readonly string[], options: RunOptions = {}): Streaming {
  const child = start(command, args, options);
  const stderr = keep(child.stderr);
  const done = finish(child, command, options.signal).then((status) => ({ status, stderr: stderr() }));
  // The consumer may fail first; it still awaits `done`, but later.
  done.catch(() => undefined);
  return { stdout: child.stdout, done };
}
