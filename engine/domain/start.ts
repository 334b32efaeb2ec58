/** The host's side of a domain process: start it, talk to its console, learn how it ended. */
import { type ChildProcess, fork } from "node:child_process";
import { createBirpc } from "birpc";
import { BuildError, type BuildErrorCode } from "../builder/errors.ts";
import { Tail } from "../device/console/tail.ts";
import {
  consoleBytes,
  type DomainConfig,
  type DomainExit,
  type DomainHostFunctions,
  type DomainProcessFunctions,
  type DomainStatistics,
  domainExit,
  domainStatistics,
  type StartAnswer,
  startAnswer,
} from "./config.ts";
import { compiledPath } from "./entry.ts";

/** Bytes of a domain process's standard error that are kept to explain its death. */
const STDERR_KEPT = 4096;
/** How long a process that answers nothing may delay statistics(), ms. */
const STATISTICS_WAIT_MS = 1000;
const NO_STATISTICS: DomainStatistics = { instructions: 0, busySeconds: 0, residentBytes: 0 };

/** A listener may return a promise: output is acknowledged to the guest when it is fulfilled. */
export type OutputListener = (bytes: Uint8Array) => void | Promise<void>;

export interface DomainConsole {
  /** Calls `listener` with every piece of output; what was printed before the first call comes first. */
  onOutput(listener: OutputListener): void;
  /** Types bytes; fulfilled when the guest's ring has taken them, or the domain has ended. */
  write(bytes: Uint8Array): Promise<void>;
}

export interface DomainHandle {
  readonly pid: number;
  readonly console: DomainConsole;
  /** Fulfilled when the domain has ended and all its console output was delivered. Never rejects. */
  readonly exited: Promise<DomainExit>;
  /** Ends the process at once; fulfilled when it is gone. */
  kill(): Promise<void>;
  /** Work done so far, as last heard; zeros when the process does not answer. */
  statistics(): Promise<DomainStatistics>;
}

/** A domain that could not be started for a reason that is not the user's input. */
export class DomainStartError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "DomainStartError";
  }
}

/** Console output on its way to the listeners, acknowledged as they deal with it. */
class Output {
  private readonly listeners: OutputListener[] = [];
  private readonly waiting: Uint8Array[] = [];
  private readonly acknowledge: (bytes: number) => void;

  constructor(acknowledge: (bytes: number) => void) {
    this.acknowledge = acknowledge;
  }

  listen(listener: OutputListener): void {
    this.listeners.push(listener);
    for (const bytes of this.waiting.splice(0)) this.deliver(bytes);
  }

  push(bytes: Uint8Array): void {
    if (this.listeners.length === 0) this.waiting.push(bytes);
    else this.deliver(bytes);
  }

  private deliver(bytes: Uint8Array): void {
    const done = this.listeners.map((listener) => listener(bytes));
    void Promise.allSettled(done).then(() => this.acknowledge(bytes.length));
  }
}

class DomainProcess implements DomainHandle {
  readonly pid: number;
  readonly console: DomainConsole;
  readonly exited: Promise<DomainExit>;
  private readonly child: ChildProcess;
  private readonly rpc;
  private readonly errors = new Tail(STDERR_KEPT);
  private readonly gone: Promise<void>;
  private readonly output: Output;
  private exit: DomainExit | undefined;
  private requested = false;
  private lastStatistics = NO_STATISTICS;

  constructor() {
    this.child = fork(compiledPath(import.meta.url, "process-main.js"), [], {
      serialization: "advanced",
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      execArgv: [],
    });
    this.pid = this.child.pid ?? 0;
    this.child.stderr?.on("data", (bytes: Uint8Array) => this.errors.push(bytes));
    this.output = new Output((bytes) => this.acknowledge(bytes));
    this.rpc = createBirpc<DomainProcessFunctions, DomainHostFunctions>(this.functions(), {
      post: (message) => {
        // A failed send means that the process is gone, which its exit event tells.
        if (this.child.connected) this.child.send(message, () => {});
      },
      on: (listener) => this.child.on("message", listener),
      timeout: -1,
    });
    const ended = this.waitForEnd();
    this.gone = ended.then(() => undefined);
    this.exited = ended.then((cause) => this.exit ?? { reason: "killed", requested: this.requested, cause });
    this.console = {
      onOutput: (listener) => this.output.listen(listener),
      write: async (bytes) => {
        await Promise.race([this.rpc.writeConsole(bytes).catch(() => undefined), this.gone]);
      },
    };
  }

  private functions(): DomainHostFunctions {
    return {
      consoleOutput: (bytes) => this.output.push(consoleBytes.parse(bytes)),
      exited: (exit, statistics) => {
        this.exit = domainExit.parse(exit);
        this.lastStatistics = domainStatistics.parse(statistics);
      },
    };
  }

  private acknowledge(bytes: number): void {
    if (this.child.connected) void this.rpc.acknowledgeConsole.asEvent(bytes);
  }

  /** Fulfilled with the manner of death when the process is gone and its pipes are empty. */
  private waitForEnd(): Promise<string> {
    return new Promise((resolve) => {
      this.child.once("error", (error) => resolve(`cannot start the domain process: ${error.message}`));
      this.child.once("close", (code, signal) => {
        const said = this.errors.lines(3).join(" ").trim();
        resolve(`${signal ?? `exit status ${code}`}${said === "" ? "" : `: ${said}`}`);
      });
    });
  }

  /** @throws BuildError for a bad image, DomainStartError for anything else */
  async start(config: DomainConfig): Promise<void> {
    const died = this.exited.then((): StartAnswer => ({ ok: false, message: this.describeDeath() }));
    const answer = await Promise.race([this.rpc.start(config), died]);
    const result = startAnswer.parse(answer);
    if (result.ok) return;
    await this.kill();
    if (result.code === undefined || result.remedy === undefined) throw new DomainStartError(result.message);
    const what = result.message.slice(0, -`; ${result.remedy}`.length);
    throw new BuildError(result.code as BuildErrorCode, what, result.remedy);
  }

  private describeDeath(): string {
    const said = this.errors.lines(3).join(" ").trim();
    return `the domain process died while it started${said === "" ? "" : `: ${said}`}`;
  }

  async kill(): Promise<void> {
    this.requested = true;
    this.child.kill("SIGKILL");
    await this.gone;
  }

  async statistics(): Promise<DomainStatistics> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), STATISTICS_WAIT_MS);
    });
    const asked = this.child.connected ? this.rpc.statistics().catch(() => undefined) : undefined;
    const answer = domainStatistics.safeParse(await Promise.race([asked, late, this.gone]));
    clearTimeout(timer);
    if (answer.success) this.lastStatistics = answer.data;
    return this.lastStatistics;
  }
}

/**
 * Starts a domain in a process of its own. Whatever happens in it, this process only hears of it.
 * @throws BuildError for a kernel, initrd, command line or memory size that cannot become a domain;
 *   DomainStartError when the process cannot run
 */
export async function startDomain(config: DomainConfig): Promise<DomainHandle> {
  const domain = new DomainProcess();
  await domain.start(config);
  return domain;
}
