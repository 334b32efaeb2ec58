/** A process of ours that runs one domain: started, talked to over typed calls, and watched to its end. */
import { type BirpcReturn, createBirpc } from "birpc";
import { Tail } from "../device/console/tail.ts";
import { forkProcess, type ProcessStarter, type StartedProcess } from "./process-starter.ts";

/** Bytes of a process's standard error that are kept to explain its death. */
const STDERR_KEPT = 4096;

/** `Functions` are those of the process, `Own` ours that it calls. */
export class DomainChild<Functions extends object, Own extends object> {
  readonly rpc: BirpcReturn<Functions, Own>;
  /** Fulfilled with the manner of death when the process is gone and its pipes are empty. */
  readonly gone: Promise<string>;
  private readonly child: StartedProcess;
  private readonly own: Partial<Own>;
  private readonly errors = new Tail(STDERR_KEPT);

  /**
   * @param program path of the compiled entry point
   * @param functions what the process may call; a process that is not told anything yet may get them later (serve())
   */
  constructor(program: string, functions: Partial<Own> = {}, start: ProcessStarter = forkProcess) {
    this.own = { ...functions };
    this.child = start(program);
    this.child.errors?.on("data", (bytes: Uint8Array) => this.errors.push(bytes));
    this.rpc = createBirpc<Functions, Own>(this.own as Own, {
      post: (message) => this.child.send(message),
      on: (listener) => this.child.onMessage(listener),
      timeout: -1,
    });
    this.gone = this.child.gone.then((manner) => (this.said === "" ? manner : `${manner}: ${this.said}`));
  }

  /** From now on the process may call these. */
  serve(functions: Own): void {
    Object.assign(this.own, functions);
  }

  /** 0 while the process is being made, or when it could not be. */
  get pid(): number {
    return this.child.pid ?? 0;
  }

  get connected(): boolean {
    return this.child.connected;
  }

  /** What the process wrote to its standard error last, in one line. */
  get said(): string {
    return this.errors.lines(3).join(" ").trim();
  }

  /** Ends the process at once; fulfilled when it is gone. */
  async kill(): Promise<void> {
    this.child.kill();
    await this.gone;
  }
}
