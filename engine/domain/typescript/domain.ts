/** A TypeScript domain from inside its process: what its kernel is given. */
import { MessageChannel, type MessagePort, Worker } from "node:worker_threads";
import { LEGACY_MAX_VCPUS } from "../../abi/xen.ts";
import type { GrantMapper, GrantSource } from "../../device/domain-interface.ts";
import { grantMapper } from "../../hypervisor/grant-mapper.ts";
import { grantSource } from "../../hypervisor/grant-source.ts";
import { CONTROL_VCPUS } from "../../memory/frame-plan.ts";
import { initialisePhysmapIdentity } from "../../memory/physmap.ts";
import type { EventPort } from "../../memory/types.ts";
import type { XenstoreClient } from "../../xenstore/client.ts";
import { DomainThread, type ThreadInput } from "../domain-thread.ts";
import { compiledPath } from "../entry.ts";
import { PhysicalInterruptController } from "../physical-interrupts.ts";
import { Doorbell } from "./doorbell.ts";
import type { IoAnswer, IoMessage, IoRequest, IoVcpuInput } from "./io-vcpu.ts";
import type { IoVcpu, KernelCalls, PhysicalInterrupt, TypescriptDomain } from "./kernel.ts";

export interface TypescriptDomainOptions {
  readonly name: string;
  readonly restarted: boolean;
  readonly parameters: unknown;
  readonly store: XenstoreClient;
  readonly log: (line: string) => void;
  readonly stopping: AbortSignal;
  /** Takes what the kernel offers to its host. */
  readonly serve: (calls: KernelCalls) => void;
}

interface Waiting {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

interface IoVcpuEvents {
  /** Rings the vCPU's doorbell. */
  readonly ring: () => void;
  readonly failed: (error: Error) => void;
  readonly log: (line: string) => void;
}

class IoVcpuHandle implements IoVcpu {
  readonly number: number;
  private readonly worker: Worker;
  private readonly requests: MessagePort;
  private readonly ring: () => void;
  private readonly waiting = new Map<number, Waiting>();
  private readonly ready: Promise<void>;
  private next = 0;
  private failure: Error | undefined;

  constructor(input: ThreadInput, module: string, { ring, failed, log }: IoVcpuEvents) {
    this.number = input.vcpu;
    this.ring = ring;
    const { port1, port2 } = new MessageChannel();
    this.requests = port1;
    this.requests.on("message", (answer: IoAnswer) => this.receive(answer));
    const workerData: IoVcpuInput = { ...input, module, requests: port2 };
    this.worker = new Worker(compiledPath(import.meta.url, "io-vcpu.js"), { workerData, transferList: [port2] });
    this.ready = new Promise((resolve) => {
      this.worker.on("message", (message: IoMessage) => {
        if ("log" in message) log(message.log);
        else resolve();
      });
    });
    const fail = (error: Error) => {
      this.failure = error;
      for (const { reject } of this.waiting.values()) reject(error);
      this.waiting.clear();
      failed(error);
    };
    this.worker.on("error", fail);
    this.worker.on("exit", (code) => fail(new Error(`vCPU ${input.vcpu} ended (${code})`)));
  }

  async call(request: unknown): Promise<unknown> {
    await this.ready;
    if (this.failure) throw this.failure;
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      const message: IoRequest = { id, request };
      this.requests.postMessage(message);
      this.ring();
    });
  }

  private receive(answer: IoAnswer): void {
    const waiting = this.waiting.get(answer.id);
    this.waiting.delete(answer.id);
    if (answer.ok) waiting?.resolve(answer.value);
    else waiting?.reject(new Error(answer.message));
  }
}

export class RunningTypescriptDomain implements TypescriptDomain {
  readonly id: number;
  readonly name: string;
  readonly restarted: boolean;
  readonly parameters: unknown;
  readonly store: XenstoreClient;
  readonly events;
  readonly grants: GrantSource;
  readonly thread: DomainThread;
  readonly log: (line: string) => void;
  readonly serve: (calls: KernelCalls) => void;
  readonly stopping: AbortSignal;
  /** Rejects when a vCPU has died: the domain cannot go on then. */
  readonly failed: Promise<never>;
  private readonly input: ThreadInput;
  private readonly doorbell: Doorbell;
  private physical: PhysicalInterruptController | undefined;
  private fail: (error: Error) => void = () => {};
  private vcpus = 1;

  constructor(input: ThreadInput, options: TypescriptDomainOptions) {
    this.id = input.id;
    this.name = options.name;
    this.restarted = options.restarted;
    this.parameters = options.parameters;
    this.store = options.store;
    this.log = options.log;
    this.serve = options.serve;
    this.stopping = options.stopping;
    this.input = input;
    // Made at the first use: it has a thread of its own.
    this.thread = new DomainThread(input, {
      bind: (pirq, port) => this.interrupts().bind(pirq, port),
      unbind: (pirq) => this.interrupts().unbind(pirq),
    });
    this.failed = new Promise((_, reject) => {
      this.fail = reject;
    });
    if (!options.restarted) {
      this.thread.delivery.initialise();
      initialisePhysmapIdentity(this.thread.mapping);
    }
    this.countVcpus(options.restarted ? LEGACY_MAX_VCPUS : 1);
    this.grants = grantSource({ mapping: this.thread.mapping });
    const { events } = this.thread;
    this.events = {
      allocUnbound: (remote: number) => events.allocUnbound(remote),
      bindInterdomain: (remote: number, port: number) => events.bindInterdomain(remote, port),
      close: (port: EventPort) => void events.close(port),
      notify: (port: EventPort) => void events.send(port),
    };
    this.doorbell = new Doorbell(input.memory, this.thread.delivery, () => this.dispatch());
  }

  private countVcpus(vcpus: number): void {
    const { mapping } = this.thread;
    mapping.view.setUint32(mapping.base + mapping.plan.control + CONTROL_VCPUS, vcpus, true);
  }

  /** Handles events until none is left. */
  private dispatch(): void {
    while (this.thread.dispatch());
  }

  grantMapper(domain: number): (GrantMapper & { close(): void }) | undefined {
    return grantMapper(this.thread.maps, domain);
  }

  onEvent(port: number, handler: () => void): void {
    this.thread.onEvent(port, handler);
  }

  offEvent(port: number): void {
    this.thread.offEvent(port);
  }

  private interrupts(): PhysicalInterruptController {
    this.physical ??= new PhysicalInterruptController(this.input.memory);
    return this.physical;
  }

  onInterrupt(descriptor: number, handler: () => void): PhysicalInterrupt {
    const interrupts = this.interrupts();
    const pirq = interrupts.register(descriptor);
    const port = this.thread.events.bindPirq(pirq);
    if (port < 0) {
      interrupts.unregister(pirq);
      throw new RangeError(`no event channel for a physical interrupt (error ${port})`);
    }
    // Unlike other events this one is not told at once: the descriptor may be one that is not to be read yet.
    let bound = false;
    this.onEvent(port, () => {
      if (bound) handler();
      bound = true;
    });
    return {
      port,
      eoi: () => interrupts.eoi(pirq),
      close: () => {
        this.offEvent(port);
        this.thread.events.close(port);
        interrupts.unregister(pirq);
      },
    };
  }

  block(timeoutNs: number): void {
    this.doorbell.block(timeoutNs);
    this.dispatch();
  }

  startVcpu(module: string): IoVcpu {
    if (this.vcpus >= LEGACY_MAX_VCPUS) throw new RangeError(`a domain has at most ${LEGACY_MAX_VCPUS} vCPUs`);
    const vcpu = this.vcpus++;
    this.countVcpus(Math.max(this.vcpus, this.restarted ? LEGACY_MAX_VCPUS : 1));
    const ring = () => this.thread.delivery.ring(vcpu);
    const failed = (error: Error) => this.fail(error);
    return new IoVcpuHandle({ ...this.input, vcpu }, module, { ring, failed, log: this.log });
  }

  close(): void {
    void this.physical?.close();
    this.doorbell.close();
  }
}
