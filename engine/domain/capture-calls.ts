/** The steps by which a host takes a running guest into a snapshot: calls to the guest's process (guest-capture.ts). */
import { z } from "zod";

/**
 * What the host asks for, in this order: a table of calls, with the shapes of their arguments and results. After any of them
 * the capture may be given up with goOn and drop.
 */
export const captureCalls = {
  prepare: { argument: z.null(), result: z.null() },
  stop: {
    /** Numbers of the domains that serve devices. */
    argument: z.strictObject({ drivers: z.array(z.int().min(0).max(0x7fef)).max(64) }),
    /** Why the guest cannot be saved, if it cannot. */
    result: z.strictObject({ problem: z.string().optional() }),
  },
  finish: { argument: z.null(), result: z.strictObject({ bytes: z.number() }) },
  goOn: { argument: z.null(), result: z.null() },
  write: {
    /** What the host knows of the guest goes with what is known here. */
    argument: z.strictObject({ path: z.string().min(1), header: z.record(z.string(), z.unknown()) }),
    result: z.strictObject({ fileBytes: z.number(), touchedBytes: z.number() }),
  },
  drop: { argument: z.null(), result: z.null() },
} as const;

export type CaptureMethod = keyof typeof captureCalls;
export type CaptureArgument<Method extends CaptureMethod> = z.infer<(typeof captureCalls)[Method]["argument"]>;
export type CaptureResult<Method extends CaptureMethod> = z.infer<(typeof captureCalls)[Method]["result"]>;
