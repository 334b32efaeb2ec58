/**
 * A thread that compiles while the vCPU runs. The vCPU's thread never gets to its event loop, so both ends talk through a port
 * that is read without one.
 */
import { MessageChannel, type MessagePort, receiveMessageOnPort, Worker } from "node:worker_threads";
import type { MadeModule } from "./module-maker.ts";

export interface BackgroundInput {
  readonly memory: WebAssembly.Memory;
  readonly handlers: ReadonlyMap<number, string>;
  readonly port: MessagePort;
}

export interface BackgroundRequest {
  readonly heads: Uint32Array;
  /** Returned with the answer. */
  readonly resets: number;
}

export interface BackgroundAnswer {
  readonly resets: number;
  /** Undefined where there was nothing to compile any more. */
  readonly made: MadeModule | undefined;
}

export class BackgroundCompiler {
  private readonly memory: WebAssembly.Memory;
  private readonly handlers: ReadonlyMap<number, string>;
  private port: MessagePort | undefined;

  constructor(memory: WebAssembly.Memory, handlers: ReadonlyMap<number, string>) {
    this.memory = memory;
    this.handlers = handlers;
  }

  /** The thread begins with the first request: a guest that starts or is restored needs the processors itself. */
  private start(): MessagePort {
    const { memory, handlers } = this;
    const { port1, port2 } = new MessageChannel();
    const input: BackgroundInput = { memory, handlers, port: port2 };
    const worker = new Worker(new URL("./background-worker.js", import.meta.url), {
      workerData: input,
      transferList: [port2],
    });
    worker.unref();
    port1.unref();
    return port1;
  }

  request(request: BackgroundRequest): void {
    this.port ??= this.start();
    this.port.postMessage(request);
  }

  /** What has been compiled meanwhile. */
  take(): BackgroundAnswer | undefined {
    return this.port && (receiveMessageOnPort(this.port)?.message as BackgroundAnswer | undefined);
  }
}
