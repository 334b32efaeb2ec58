/** The host's side of a TypeScript domain's process. */
import type { RelayMessage } from "../../xenstore/relay.ts";
import { DomainChild } from "../child.ts";
import { relayMessage } from "../config.ts";
import { compiledPath } from "../entry.ts";
import type { ProcessStarter } from "../process-starter.ts";
import {
  type CallAnswer,
  callAnswer,
  type TypescriptConfig,
  type TypescriptHostFunctions,
  type TypescriptProcessFunctions,
} from "./protocol.ts";

export interface TypescriptProcessEvents {
  /** For the XenStore daemon. */
  readonly xenstore: (message: RelayMessage) => void;
  readonly log: (line: string) => void;
}

/** A call was not answered, because its process has ended. The domain may be started again. */
export class ProcessGone extends Error {
  constructor(message: string) {
    super(message);
    this.name = "ProcessGone";
  }
}

export class TypescriptProcess {
  /** How it ended: in order, with its kernel's error, or killed (then with what the host knows of it). */
  readonly ended: Promise<TypescriptEnd>;
  private readonly child: DomainChild<TypescriptProcessFunctions, TypescriptHostFunctions>;
  private end: TypescriptEnd | undefined;

  constructor(events: TypescriptProcessEvents, startProcess?: ProcessStarter) {
    const functions: TypescriptHostFunctions = {
      xenstore: (message) => events.xenstore(relayMessage.parse(message)),
      log: (line) => events.log(String(line)),
      ended: (error) => {
        this.end = error === undefined ? { reason: "poweroff" } : { reason: "crash", cause: String(error) };
      },
    };
    this.child = new DomainChild(compiledPath(import.meta.url, "process-main.js"), functions, startProcess);
    this.ended = this.child.gone.then((cause) => this.end ?? { reason: "killed", cause });
  }

  get pid(): number {
    return this.child.pid;
  }

  /** @throws Error when the kernel cannot be loaded, or the process dies first */
  async start(config: TypescriptConfig): Promise<void> {
    const died = this.ended.then((end) => {
      throw new Error(`the domain process died while it started: ${describe(end)}`);
    });
    await Promise.race([this.child.rpc.start(config), died]);
  }

  xenstore(message: RelayMessage): void {
    if (this.child.connected) void this.child.rpc.xenstore.asEvent(message);
  }

  /** Has the kernel perform a call. @throws ProcessGone when it is gone, or dies first */
  async call(method: string, argument: unknown): Promise<CallAnswer> {
    if (!this.child.connected) throw new ProcessGone("the domain process is gone");
    const died = this.child.gone.then(() => {
      throw new ProcessGone("the domain process died meanwhile");
    });
    return callAnswer.parse(await Promise.race([this.child.rpc.call(method, argument), died]));
  }

  /** Asks the kernel to end; what remains after a while is killed with kill(). */
  stop(): void {
    if (this.child.connected) void this.child.rpc.stop.asEvent();
  }

  kill(): Promise<void> {
    return this.child.kill();
  }
}

export type TypescriptEnd =
  | { readonly reason: "poweroff" }
  | { readonly reason: "crash" | "killed"; readonly cause: string };

function describe(end: TypescriptEnd): string {
  return end.reason === "poweroff" ? "it powered off" : end.cause;
}
