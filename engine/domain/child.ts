/** A process of ours that runs one domain: started, talked to over typed calls, and watched to its end. */
import { type ChildProcess, fork } from "node:child_process";
import { type BirpcReturn, createBirpc } from "birpc";
import { Tail } from "../device/console/tail.ts";

/** Bytes of a process's standard error that are kept to explain its death. */
const STDERR_KEPT = 4096;

/** `Functions` are those of the process, `Own` ours that it calls. */
export class DomainChild<Functions extends object, Own extends object> {
  readonly pid: number;
  readonly rpc: BirpcReturn<Functions, Own>;
  /** Fulfilled with the manner of death when the process is gone and its pipes are empty. */
  readonly gone: Promise<string>;
  private readonly child: ChildProcess;
  private readonly own: Partial<Own>;
  private readonly errors = new Tail(STDERR_KEPT);

  /**
   * @param program path of the compiled entry point
   * @param functions what the process may call; a process that is not told anything yet may get them later (serve())
   */
  constructor(program: string, functions: Partial<Own> = {}) {
    this.own = { ...functions };
    this.child = fork(program, [], {
      serialization: "advanced",
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      execArgv: [],
    });
    this.pid = this.child.pid ?? 0;
    this.child.stderr?.on("data", (bytes: Uint8Array) => this.errors.push(bytes));
    this.rpc = createBirpc<Functions, Own>(this.own as Own, {
      post: (message) => {
        // A failed send means that the process is gone, which its exit event tells.
        if (this.child.connected) this.child.send(message, () => {});
      },
      on: (listener) => this.child.on("message", listener),
      timeout: -1,
    });
    this.gone = this.waitForEnd();
  }

  /** From now on the process may call these. */
  serve(functions: Own): void {
    Object.assign(this.own, functions);
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
    this.child.kill("SIGKILL");
    await this.gone;
  }

  private waitForEnd(): Promise<string> {
    return new Promise((resolve) => {
      this.child.once("error", (error) => resolve(`cannot start the domain process: ${error.message}`));
      this.child.once("close", (code, signal) => {
        resolve(`${signal ?? `exit status ${code}`}${this.said === "" ? "" : `: ${this.said}`}`);
      });
    });
  }
}
