/** The host's side of a guest's process: start it, talk to its console, learn how it ended. */
import { BuildError, type BuildErrorCode } from "../builder/errors.ts";
import type { RelayMessage } from "../xenstore/relay.ts";
import { type CaptureArgument, type CaptureMethod, type CaptureResult, captureCalls } from "./capture-calls.ts";
import {
  consoleBytes,
  type DomainExit,
  type DomainHostFunctions,
  type DomainStart,
  type DomainStatistics,
  domainExit,
  domainStatistics,
  relayMessage,
  type StartAnswer,
  startAnswer,
} from "./config.ts";
import type { GuestChild } from "./spare-process.ts";
import { CallError } from "./typescript/handle.ts";
import { callAnswer } from "./typescript/protocol.ts";
import type { Pause } from "./worker-protocol.ts";

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
  /** Number of the domain. */
  readonly id: number;
  readonly pid: number;
  readonly console: DomainConsole;
  /** Fulfilled when the domain has ended and all its console output was delivered. Never rejects. */
  readonly exited: Promise<DomainExit>;
  /** Ends the process at once; fulfilled when it is gone. */
  kill(): Promise<void>;
  /** Stops the guest's vCPU; fulfilled when it stands still, or has ended. Its time goes on. */
  pause(): Promise<void>;
  /** Lets a paused guest go on. */
  unpause(): Promise<void>;
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

/** What a guest's process says to the XenStore daemon, and the daemon to it. */
export interface GuestStoreLinks {
  /** From the guest's ring. */
  readonly fromGuest: (message: RelayMessage) => void;
  /** From the backends in the guest's process, as domain 0. */
  readonly fromBackends: (message: RelayMessage) => void;
}

export class GuestProcess implements DomainHandle {
  readonly id: number;
  readonly console: DomainConsole;
  readonly exited: Promise<DomainExit>;
  private readonly child: GuestChild;
  private readonly output: Output;
  private readonly links: GuestStoreLinks;
  private exit: DomainExit | undefined;
  private requested = false;
  private lastStatistics = NO_STATISTICS;

  /** @param child a process that has not been used */
  constructor(id: number, links: GuestStoreLinks, child: GuestChild) {
    this.id = id;
    this.links = links;
    this.child = child;
    child.serve(this.functions());
    this.output = new Output((bytes) => this.acknowledge(bytes));
    const { gone } = this.child;
    this.exited = gone.then((cause) => this.exit ?? { reason: "killed", requested: this.requested, cause });
    this.console = {
      onOutput: (listener) => this.output.listen(listener),
      write: async (bytes) => {
        await Promise.race([this.child.rpc.writeConsole(bytes).catch(() => undefined), gone]);
      },
    };
  }

  get pid(): number {
    return this.child.pid;
  }

  private functions(): DomainHostFunctions {
    return {
      consoleOutput: (bytes) => this.output.push(consoleBytes.parse(bytes)),
      exited: (exit, statistics) => {
        this.exit = domainExit.parse(exit);
        this.lastStatistics = domainStatistics.parse(statistics);
      },
      xenstore: (message) => this.links.fromGuest(relayMessage.parse(message)),
      backendStore: (message) => this.links.fromBackends(relayMessage.parse(message)),
    };
  }

  /** Passes a message on to the guest's XenStore ring. */
  toGuestStore(message: RelayMessage): void {
    if (this.child.connected) void this.child.rpc.xenstore.asEvent(message);
  }

  toBackendStore(message: RelayMessage): void {
    if (this.child.connected) void this.child.rpc.backendStore.asEvent(message);
  }

  private acknowledge(bytes: number): void {
    if (this.child.connected) void this.child.rpc.acknowledgeConsole.asEvent(bytes);
  }

  /** @throws BuildError for a bad image, DomainStartError for anything else */
  async start(message: DomainStart): Promise<void> {
    const died = this.exited.then((): StartAnswer => ({ ok: false, message: this.describeDeath() }));
    const answer = await Promise.race([this.child.rpc.start(message), died]);
    const result = startAnswer.parse(answer);
    if (result.ok) return;
    await this.kill();
    if (result.code === undefined || result.remedy === undefined) throw new DomainStartError(result.message);
    const what = result.message.slice(0, -`; ${result.remedy}`.length);
    throw new BuildError(result.code as BuildErrorCode, what, result.remedy);
  }

  private describeDeath(): string {
    const { said } = this.child;
    return `the domain process died while it started${said === "" ? "" : `: ${said}`}`;
  }

  /**
   * What others see of a restored guest's memory is in place; fulfilled when they can connect to it.
   * @throws CallError when it ends first, or its memory cannot be read
   */
  async restored(): Promise<void> {
    const work = this.child.rpc.restored().catch((error: unknown): never => {
      // It has lost its class on the way; the line is that of a SnapshotError or one of ours.
      const { message } = error as Error;
      const remedy = message.startsWith("internal error") ? undefined : message.split("; ").slice(1).join("; ");
      throw remedy ? new CallError(message, remedy) : error;
    });
    await this.inLife(work);
  }

  /** All memory of a restored guest is there. */
  async loaded(): Promise<void> {
    await Promise.race([this.child.rpc.loaded().catch(() => undefined), this.child.gone]);
  }

  /** Ends the guest because it cannot go on; `cause` is one line. */
  async fail(cause: string): Promise<void> {
    this.exit ??= { reason: "crash", cause, registers: {}, consoleTail: [] };
    await this.kill();
  }

  async pause(): Promise<void> {
    await Promise.race([this.child.rpc.pause().catch(() => undefined), this.child.gone]);
  }

  async unpause(after: Pause = "pause"): Promise<void> {
    await Promise.race([this.child.rpc.unpause(after).catch(() => undefined), this.child.gone]);
  }

  /**
   * A step of a capture (capture-calls.ts).
   * @throws CallError for what is refused with a remedy; Error when the guest ends first
   */
  async capture<Method extends CaptureMethod>(
    method: Method,
    argument: CaptureArgument<Method>,
  ): Promise<CaptureResult<Method>> {
    const answer = callAnswer.parse(await this.inLife(this.child.rpc.capture(method, argument)));
    if (answer.ok) return captureCalls[method].result.parse(answer.result) as CaptureResult<Method>;
    throw answer.remedy === undefined ? new Error(answer.message) : new CallError(answer.message, answer.remedy);
  }

  /** A call about disks that the guest's own process serves (storage-calls.ts); answers a CallAnswer. */
  storage(method: string, argument: unknown): Promise<unknown> {
    return this.inLife(this.child.rpc.storage(method, argument));
  }

  /** Waits for what is of no use once the guest has ended. @throws CallError when it ends first */
  async inLife<T>(work: Promise<T>): Promise<T> {
    const died = this.child.gone.then((): never => {
      const of = this.exit?.reason === "crash" ? ` (${this.exit.cause})` : "";
      throw new CallError(`the guest has ended${of}; start it again`, "start it again");
    });
    return await Promise.race([work, died]);
  }

  async kill(): Promise<void> {
    this.requested = true;
    await this.child.kill();
  }

  async statistics(): Promise<DomainStatistics> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), STATISTICS_WAIT_MS);
    });
    const asked = this.child.connected ? this.child.rpc.statistics().catch(() => undefined) : undefined;
    const answer = domainStatistics.safeParse(await Promise.race([asked, late, this.child.gone]));
    clearTimeout(timer);
    if (answer.success) this.lastStatistics = answer.data;
    return this.lastStatistics;
  }
}
