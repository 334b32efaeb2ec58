/**
 * A TypeScript domain: a domain whose kernel is a TypeScript module. It has what every domain has (memory, a grant table, event
 * channels, a XenStore connection) and reaches other domains only through these, so its frontends and backends are those
 * of any other domain.
 *
 * The module's default export is a Kernel. It runs on the event loop of the domain's process, the domain's vCPU 0; further
 * vCPUs are threads that block, for drivers that serve rings (see IoVcpus).
 */
import type { EventChannelPort, GrantMapper, GrantSource } from "../../device/domain-interface.ts";
import type { XenstoreClient } from "../../xenstore/client.ts";
import type { DomainThread } from "../domain-thread.ts";

export interface TypescriptDomain {
  readonly id: number;
  readonly name: string;
  /** True when an earlier process of this domain died: memory, event channels and grants are as it left them. */
  readonly restarted: boolean;
  /** What the host passed along, as JSON. */
  readonly parameters: unknown;
  readonly store: XenstoreClient;
  readonly events: EventChannelPort;
  readonly grants: GrantSource;
  /** The hypervisor's part of vCPU 0, for drivers that need more of it. */
  readonly thread: DomainThread;
  /** A way to the pages that another domain has granted to this one; undefined if there is no such domain. */
  grantMapper(domain: number): (GrantMapper & { close(): void }) | undefined;
  /** Calls `handler` on the event loop for every event on a port, and once at once. */
  onEvent(port: number, handler: () => void): void;
  offEvent(port: number): void;
  /**
   * Makes a host file descriptor a physical interrupt of this domain: `handler` is called on the event loop when it becomes
   * readable or is hung up, and then not again before eoi().
   */
  onInterrupt(descriptor: number, handler: () => void): PhysicalInterrupt;
  /** SCHEDOP_block: sleeps until an event is pending, at most so long, and handles it. Nothing else runs meanwhile. */
  block(timeoutNs: number): void;
  /** Starts the next vCPU: a thread that runs the compiled module (engine/domain/typescript/io-vcpu.ts) at `url`. */
  startVcpu(module: string): IoVcpu;
  /**
   * Performs calls that the host makes (TypescriptHandle.call): data in, data out, both structured-cloneable. Calls that came
   * before wait for this. An error with a `remedy` is told to the user who asked; any other is a bug.
   */
  serve(calls: KernelCalls): void;
  /** A line for the domain's log. */
  log(line: string): void;
  /** Aborted when the host wants the domain to end. */
  readonly stopping: AbortSignal;
}

/** Functions of a kernel, by name, that the host may call. Arguments are checked by the function. */
export type KernelCalls = Readonly<Record<string, (argument: unknown) => unknown>>;

/** A physical interrupt that is bound to an event channel. */
export interface PhysicalInterrupt {
  readonly port: number;
  /** Dealt with: it may come again. */
  eoi(): void;
  /** Unbinds it. The descriptor stays open. */
  close(): void;
}

/** A vCPU that blocks, as the event loop sees it. */
export interface IoVcpu {
  readonly number: number;
  /** Passes a request (structured-cloneable) to the vCPU's module and answers what that returns. */
  call(request: unknown): Promise<unknown>;
}

/** Runs the domain. When its promise is fulfilled the domain powers off; when it rejects, it has crashed. */
export type Kernel = (domain: TypescriptDomain) => Promise<void>;

/** What a module for a blocking vCPU exports as default: made once on the thread, then called for each request. */
export type IoKernel = (thread: DomainThread, log: (line: string) => void) => (request: unknown) => unknown;
