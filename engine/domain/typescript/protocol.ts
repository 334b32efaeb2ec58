/** What a host tells the process of a TypeScript domain, and what it hears back. */
import { z } from "zod";

export const typescriptConfig = z.object({
  id: z.int().min(1).max(0x7fef),
  name: z.string().min(1).max(255),
  /** Path of the domain's memory, its RAM in MiB, and path of the domain directory. */
  memory: z.string(),
  memoryMiB: z.int().min(1),
  directory: z.string(),
  /** URL of the compiled module whose default export is the kernel (kernel.ts). */
  module: z.string(),
  /** An earlier process of this domain died; its memory is as it was. */
  restarted: z.boolean(),
  parameters: z.unknown(),
});
export type TypescriptConfig = z.infer<typeof typescriptConfig>;

/** Functions of the process. */
export interface TypescriptProcessFunctions {
  /** Answers when the kernel has been started; an error of the module's loading rejects it. */
  start(config: unknown): Promise<void>;
  /** From the XenStore daemon: a RelayMessage. */
  xenstore(message: unknown): void;
  /** Has the kernel perform a call (kernel.ts: serve); waits until it serves. Never rejects. */
  call(method: unknown, argument: unknown): Promise<unknown>;
  /** Asks the kernel to end. */
  stop(): void;
}

/** What comes back from a call: its result, or an error; with a remedy when it is of a user's making. */
export const callAnswer = z.union([
  z.object({ ok: z.literal(true), result: z.unknown() }),
  z.object({ ok: z.literal(false), message: z.string(), remedy: z.string().optional() }),
]);
export type CallAnswer = z.infer<typeof callAnswer>;

/** Functions of the host. */
export interface TypescriptHostFunctions {
  xenstore(message: unknown): void;
  log(line: unknown): void;
  /** The kernel has ended: with an error's text, or in order. The process leaves after the answer. */
  ended(error: unknown): void;
}
