/**
 * How a domain's process comes about. Plain Node forks one; a desktop shell whose executable is not Node passes a starter of
 * its own to the Host. What runs in the process sees either through parent-channel.ts.
 */
import { fork } from "node:child_process";
import type { Readable } from "node:stream";

/** A process as its starter knows it. Messages are structured clones: no functions, nothing transferred. */
export interface StartedProcess {
  /** Its number; undefined while it is being made, and where it could not be. */
  readonly pid: number | undefined;
  /** Whether messages may still reach it. */
  readonly connected: boolean;
  /** Its standard error; what comes late, after `gone`, may be lost. */
  readonly errors: Readable | null;
  /** Fulfilled with the manner of death when it is gone: a signal's name, "exit status 1", or why it never was. */
  readonly gone: Promise<string>;
  /** A message to one that is gone is dropped: `gone` tells of it. */
  send(message: unknown): void;
  onMessage(listener: (message: unknown) => void): void;
  /** Ends it at once, without a chance to object (SIGKILL). */
  kill(): void;
}

/** @param program path of a compiled entry point, an ECMAScript module */
export type ProcessStarter = (program: string) => StartedProcess;

/** Forks Node. */
export const forkProcess: ProcessStarter = (program) => {
  const child = fork(program, [], {
    serialization: "advanced",
    stdio: ["ignore", "ignore", "pipe", "ipc"],
    execArgv: [],
  });
  const gone = new Promise<string>((resolve) => {
    child.once("error", (error) => resolve(`cannot start the domain process: ${error.message}`));
    // Not "exit": its pipes are to be empty.
    child.once("close", (code, signal) => resolve(signal ?? `exit status ${code}`));
  });
  return {
    get pid() {
      return child.pid;
    },
    get connected() {
      return child.connected;
    },
    errors: child.stderr,
    gone,
    send: (message) => {
      // A failed send means that the process is gone.
      if (child.connected) child.send(message as object, () => {});
    },
    onMessage: (listener) => void child.on("message", listener),
    kill: () => void child.kill("SIGKILL"),
  };
};
