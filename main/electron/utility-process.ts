/**
 * Domain processes as Electron's utility processes: its executable does not run as Node once the runAsNode fuse is off, so
 * child_process.fork has nothing to start. Facts about it are from Electron's docs/api/utility-process.md and
 * shell/browser/api/electron_api_utility_process.cc.
 */
import { constants } from "node:os";
import type { Readable } from "node:stream";
import { utilityProcess } from "electron";
import type { ProcessStarter, StartedProcess } from "../../engine/domain/process-starter.ts";

/** How long Chromium may take to make a process; one that cannot be made has no event. */
const SPAWN_WAIT_MS = 30_000;
/** How long the rest of a dead process's standard error may take; its end is not told either. */
const LAST_ERRORS_MS = 100;
/** Set in a wait status when the process left a core file. */
const CORE_FLAG = 0x80;

/** Signals that end a domain process: others are caught, or are no more than an exit status of that number. */
const FATAL = ["SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGKILL", "SIGSEGV", "SIGTERM"] as const;

/**
 * The manner of death behind an "exit" event's code: the argument of process.exit(), or, where the process ended in another
 * way on a POSIX system, what waitpid() told: the signal's number, or the exit status times 256.
 */
export function mannerOfDeath(code: number, platform: NodeJS.Platform = process.platform): string {
  if (platform === "win32") return `exit status ${code}`;
  if (code > 0xff) return `exit status ${code >> 8}`;
  const signal = FATAL.find((name) => constants.signals[name] === (code & ~CORE_FLAG));
  return signal ?? `exit status ${code}`;
}

class UtilityDomain implements StartedProcess {
  readonly errors: Readable | null;
  readonly gone: Promise<string>;
  connected = true;
  private readonly child: Electron.UtilityProcess;
  private killed = false;
  private end: (manner: string) => void = () => {};

  constructor(program: string) {
    this.gone = new Promise((resolve) => {
      this.end = resolve;
    });
    this.child = utilityProcess.fork(program, [], {
      stdio: ["ignore", "ignore", "pipe"],
      execArgv: [],
      serviceName: "Domlab domain",
    });
    this.errors = this.child.stderr as Readable | null;
    const late = setTimeout(
      () => this.ended("cannot start the domain process: it did not come to life"),
      SPAWN_WAIT_MS,
    );
    late.unref();
    this.child.once("spawn", () => {
      clearTimeout(late);
      if (this.killed) this.kill();
    });
    this.child.once("exit", (code) => {
      clearTimeout(late);
      this.exited(code);
    });
  }

  get pid(): number | undefined {
    return this.child.pid;
  }

  send(message: unknown): void {
    if (this.connected) this.child.postMessage(message);
  }

  onMessage(listener: (message: unknown) => void): void {
    this.child.on("message", listener);
  }

  /** SIGKILL, not the SIGTERM of UtilityProcess.kill(), which a domain could sit out. */
  kill(): void {
    this.killed = true;
    const { pid } = this.child;
    if (pid === undefined) return;
    try {
      process.kill(pid, "SIGKILL");
    } catch {
      // It has gone by itself.
    }
  }

  private exited(code: number): void {
    this.connected = false;
    const { errors } = this;
    // Electron takes all listeners off the stream after this event; what its pipe still holds is the cause of death.
    const listeners = (errors?.listeners("data") ?? []) as ((bytes: Uint8Array) => void)[];
    setImmediate(() => {
      for (const listener of listeners) errors?.on("data", listener);
      errors?.resume();
    });
    const manner = this.killed ? "SIGKILL" : mannerOfDeath(code);
    setTimeout(() => this.ended(manner), LAST_ERRORS_MS);
  }

  private ended(manner: string): void {
    this.connected = false;
    this.end(manner);
  }
}

/** Starts domains in utility processes; to be called after the app's "ready" only. */
export const startUtilityProcess: ProcessStarter = (program) => new UtilityDomain(program);
