/** A TypeScript domain as its host holds it: its process, started again when it dies if that is wanted. */
import type { Xenstored } from "../../xenstore/daemon.ts";
import { DaemonRelay, type RelayMessage } from "../../xenstore/relay.ts";
import type { DomainTable, SharedPaths } from "../domain-table.ts";
import type { ProcessStarter } from "../process-starter.ts";
import type { TypescriptEnd } from "./start.ts";
import { ProcessGone, TypescriptProcess } from "./start.ts";

/**
 * So many restarts within so many milliseconds are the most: then the domain stays down. A kernel that fails by itself is
 * likely to do so again, however long its start takes; whoever kills its process may stop.
 */
const RESTARTS = { crash: { most: 10, withinMs: 120_000 }, killed: { most: 20, withinMs: 10_000 } };
/** How long a domain may take to end by itself after stop(). */
const STOP_WAIT_MS = 3000;

export interface TypescriptDomainConfig {
  readonly name: string;
  readonly memoryMiB: number;
  /** URL of the compiled module whose default export is the kernel. */
  readonly module: string;
  readonly parameters?: unknown;
  /** Start its process again when it dies, over the same memory. */
  readonly restart?: boolean;
}

export interface TypescriptHandleOptions {
  readonly id: number;
  readonly config: TypescriptDomainConfig;
  readonly paths: SharedPaths;
  readonly table: DomainTable;
  readonly xenstore: Xenstored;
  readonly log: (line: string) => void;
  /** How its process is made; without it, forked. */
  readonly startProcess?: ProcessStarter | undefined;
}

/** What a kernel refused: one line with cause and remedy. */
export class CallError extends Error {
  readonly remedy: string;

  /** @param message the whole line, remedy included */
  constructor(message: string, remedy: string) {
    super(message);
    this.name = "CallError";
    this.remedy = remedy;
  }
}

export class TypescriptHandle {
  readonly id: number;
  /** Fulfilled when the domain has ended for good. Never rejects. */
  readonly exited: Promise<TypescriptEnd>;
  private readonly options: TypescriptHandleOptions;
  private process: TypescriptProcess | undefined;
  /** Settled when the present process has been started, or has failed to. */
  private launched: Promise<void> = Promise.resolve();
  /** When there was one, by what made it necessary. */
  private readonly restarts = { crash: [] as number[], killed: [] as number[] };
  private stopped = false;
  /** Its kernel has once been up: what dies before was refused to whoever asked for it, and stays dead. */
  private hasBeenUp = false;
  private finish: (end: TypescriptEnd) => void = () => {};

  private constructor(options: TypescriptHandleOptions) {
    this.id = options.id;
    this.options = options;
    this.exited = new Promise((resolve) => {
      this.finish = resolve;
    });
  }

  /** @throws Error when its kernel cannot be loaded or its process dies at once */
  static async start(options: TypescriptHandleOptions): Promise<TypescriptHandle> {
    const handle = new TypescriptHandle(options);
    handle.launched = handle.launch(false);
    try {
      await handle.launched;
    } catch (error) {
      // A process that refused its kernel lives on; nobody else knows of it.
      await handle.kill();
      throw error;
    }
    return handle;
  }

  /** Number of the present process; changes with a restart. */
  get pid(): number {
    return this.process?.pid ?? 0;
  }

  private async launch(restarted: boolean): Promise<void> {
    const { config, paths, xenstore, id, log, startProcess } = this.options;
    const relay = new DaemonRelay(xenstore, id, (message) => process.xenstore(message));
    const events = { xenstore: (message: RelayMessage) => relay.receive(message), log };
    const process: TypescriptProcess = new TypescriptProcess(events, startProcess);
    this.process = process;
    void process.ended.then((end) => {
      relay.close();
      void this.ended(end);
    });
    await process.start({
      id,
      name: config.name,
      memory: paths.memory,
      memoryMiB: config.memoryMiB,
      directory: paths.directory,
      module: config.module,
      restarted,
      parameters: config.parameters ?? null,
    });
    this.hasBeenUp = true;
  }

  private mayRestart(reason: "crash" | "killed"): boolean {
    const now = Date.now();
    const times = this.restarts[reason];
    const { most, withinMs } = RESTARTS[reason];
    while (times[0] !== undefined && times[0] < now - withinMs) times.shift();
    times.push(now);
    return times.length <= most;
  }

  private async ended(end: TypescriptEnd): Promise<void> {
    const { config, table, log, id } = this.options;
    if (this.stopped || end.reason === "poweroff" || !config.restart || !this.hasBeenUp) return this.finish(end);
    if (!this.mayRestart(end.reason)) {
      log(`${config.name} dies again and again (${end.cause}); it stays down`);
      return this.finish(end);
    }
    log(`${config.name} died (${end.cause}) and is started again`);
    table.recover(id);
    // A process that dies while it starts comes here again by itself.
    this.launched = this.launch(true).catch((error) => log(`${config.name}: ${(error as Error).message}`));
    await this.launched;
  }

  /**
   * Has the kernel perform one of its calls (TypescriptDomain.serve); while the domain is being restarted it waits.
   * @returns what the call returns, unchecked
   * @throws CallError for what the kernel refuses with a remedy, ProcessGone when the process dies first, Error for bugs
   */
  async call(method: string, argument: unknown): Promise<unknown> {
    await this.launched;
    const { process } = this;
    if (process === undefined) throw new ProcessGone(`${this.options.config.name} is not running`);
    const answer = await process.call(method, argument);
    if (answer.ok) return answer.result;
    if (answer.remedy === undefined) throw new Error(answer.message);
    throw new CallError(answer.message, answer.remedy);
  }

  /** Asks the domain to end, and makes sure. */
  async stop(): Promise<void> {
    this.stopped = true;
    this.process?.stop();
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, STOP_WAIT_MS);
    });
    await Promise.race([this.exited, late]);
    clearTimeout(timer);
    await this.kill();
  }

  /** Ends it at once, without a restart. */
  async kill(): Promise<void> {
    this.stopped = true;
    await this.process?.kill();
    await this.exited;
  }
}
