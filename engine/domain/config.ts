/** What a host tells a domain process, and what it hears back. Checked with these schemas on both sides of the pipe. */
import { z } from "zod";
import { MAX_RAM_MIB } from "../memory/frame-plan.ts";
import { savedRingSchema } from "../xenstore/relay.ts";
import type { Pause } from "./worker-protocol.ts";

const bytes = z.instanceof(Uint8Array);
const pathOrBytes = z.union([z.object({ path: z.string() }), z.object({ bytes })]);

/** Everything that makes a domain. */
export const domainConfig = z.object({
  /** Number of the domain, 1…32751; 0 is the host. */
  id: z.int().min(1).max(0x7fef),
  name: z.string().min(1).max(255),
  memoryMiB: z.int().min(1).max(MAX_RAM_MIB),
  /** What it boots (engine/builder): kernel, initrd parts in order, kernel command line. */
  image: z.object({ kernel: pathOrBytes, initrd: z.array(pathOrBytes), commandLine: z.string() }),
  /** Files for the console log and for the hypervisor's own messages about this domain. */
  consoleLog: z.string().optional(),
  hypervisorLog: z.string().optional(),
});
export type DomainConfig = z.infer<typeof domainConfig>;

/** What the host adds: where the domain's memory and the directory of domains are, on hosts that can share memory. */
export const domainStart = z.object({
  /** A restored guest has booted already. */
  config: domainConfig.partial({ image: true }),
  shared: z.object({ memory: z.string(), directory: z.string() }).optional(),
  /**
   * What a restored guest was (snapshot/guest-state.ts), which the host has checked. Its memory may still be on its way:
   * restored() follows when it may be looked at, loaded() when all is there. It stands still until unpause().
   */
  saved: z.unknown().optional(),
  /** The snapshot file, from which it takes memory that it needs and that is not there yet (DemandLoaderOptions). */
  pages: z.object({ path: z.string(), name: z.string() }).optional(),
  /** Its relay to XenStore. */
  ring: savedRingSchema.optional(),
});
export type DomainStart = z.infer<typeof domainStart>;

/** What travels between a domain's process and the XenStore daemon (engine/xenstore/relay.ts). */
export const relayMessage = z.union([
  z.strictObject({ toDaemon: bytes }),
  z.strictObject({ toGuest: bytes }),
  z.strictObject({ taken: z.int().min(0) }),
  z.strictObject({ reset: z.literal(true) }),
  z.strictObject({ failed: z.int() }),
  z.strictObject({ quiesce: z.int() }),
  z.strictObject({ resume: z.literal(true) }),
]);

/** How a domain ended. */
export const domainExit = z.discriminatedUnion("reason", [
  z.object({ reason: z.literal("poweroff") }),
  z.object({ reason: z.literal("reboot") }),
  z.object({
    reason: z.literal("crash"),
    /** What happened, in a few words. */
    cause: z.string(),
    /** Full architectural state (engine/cpu/state.ts) in JSON's types, 64-bit values as hexadecimal text. */
    registers: z.record(z.string(), z.json()),
    /** Last lines of console output. */
    consoleTail: z.array(z.string()),
  }),
  /** The domain process was ended from outside: by the host (`requested`), or by anybody else. */
  z.object({ reason: z.literal("killed"), requested: z.boolean(), cause: z.string() }),
]);
export type DomainExit = z.infer<typeof domainExit>;

export const domainStatistics = z.object({
  /** Retired guest instructions. */
  instructions: z.number(),
  /** Time spent running guest code. */
  busySeconds: z.number(),
  /** Memory of the domain process, the guest's touched RAM included. */
  residentBytes: z.number(),
});
export type DomainStatistics = z.infer<typeof domainStatistics>;

/** Answer to start: an error of the user's making crosses the pipe as its parts. */
export const startAnswer = z.discriminatedUnion("ok", [
  z.object({ ok: z.literal(true) }),
  z.object({ ok: z.literal(false), code: z.string().optional(), message: z.string(), remedy: z.string().optional() }),
]);
export type StartAnswer = z.infer<typeof startAnswer>;

/** Functions of the domain process that the host calls. */
export interface DomainProcessFunctions {
  start(config: unknown): Promise<StartAnswer>;
  /** Fulfilled when the guest's ring has taken the bytes. */
  writeConsole(bytes: unknown): Promise<void>;
  /** The host has passed on that many bytes of console output. */
  acknowledgeConsole(bytes: unknown): void;
  statistics(): DomainStatistics;
  stop(): void;
  restored(): Promise<void>;
  /** All memory of a restored guest is there. */
  loaded(): Promise<void>;
  /** Stops the guest's vCPU; fulfilled when it stands still. */
  pause(): Promise<void>;
  unpause(after: unknown): Promise<void>;
  /** A step of a capture (guest-capture.ts); answers a CallAnswer. */
  capture(method: unknown, argument: unknown): Promise<unknown>;
  /** A call about disks that this process serves (storage-calls.ts); answers a CallAnswer. */
  storage(method: unknown, argument: unknown): Promise<unknown>;
  /** From the XenStore daemon to the guest's ring; and to the backends that run in this process as domain 0. */
  xenstore(message: unknown): void;
  backendStore(message: unknown): void;
}

/** Functions of the host that a domain process calls. */
export interface DomainHostFunctions {
  consoleOutput(bytes: unknown): void;
  /** With the work done up to the end. */
  exited(exit: unknown, statistics: unknown): void;
  xenstore(message: unknown): void;
  backendStore(message: unknown): void;
}

/** What a guest goes on after (worker-protocol.ts). */
export const pauseSchema = z.enum(["snapshot", "pause", "restore-jump", "restore-suspend"]) satisfies z.ZodType<Pause>;

export const consoleBytes = bytes;
export const byteCount = z.int().min(0);
