/** The rows of the control table that are about live figures (control-api.ts), and the event of the topic "metrics". */
import { z } from "zod";

/** Most samples that the lab keeps. */
export const MOST_SAMPLES = 180;

const amount = z.number().nonnegative();

const machineSample = z.object({
  id: z.string(),
  /** Part of one host CPU that its virtual CPU was busy, 0 to 1. */
  cpu: amount,
  /** Million guest instructions a second. */
  mips: amount,
  residentBytes: amount,
  /** Per second. */
  disk: z.object({ readBytes: amount, writtenBytes: amount, requests: amount }),
  /** Per second, as the machine sees it. */
  net: z.object({ receivedBytes: amount, sentBytes: amount, frames: amount }),
});
export type MachineSample = z.infer<typeof machineSample>;

const hostSample = z.object({
  cpus: z.int(),
  /** Load average of the last minute; 0 where the host has none. */
  load1: amount,
  /** Memory that programs may still have, and all of it, bytes. */
  freeBytes: amount,
  totalBytes: amount,
  /** Room in the lab's folder, bytes. */
  diskFreeBytes: amount,
});
export type HostSample = z.infer<typeof hostSample>;

/** Sent each second to whoever subscribed to "metrics". Machines that do not run are not in it. */
export const metricsEvent = z.object({
  kind: z.literal("metrics"),
  date: z.string(),
  machines: z.array(machineSample),
  host: hostSample,
});

const column = z.array(amount);
/** Columns of equal length, oldest sample first; units as in the event. */
const series = z.object({
  id: z.string(),
  /** Milliseconds since 1970. */
  time: column,
  cpu: column,
  mips: column,
  residentBytes: column,
  readBytes: column,
  writtenBytes: column,
  requests: column,
  receivedBytes: column,
  sentBytes: column,
  frames: column,
});
export type MetricsSeries = z.infer<typeof series>;

export const metricsApi = {
  /**
   * The last MOST_SAMPLES samples of machines, taken while they ran: each second while somebody watches, else less
   * often.
   */
  metricsHistory: {
    parameters: z.strictObject({ machine: z.string().min(1).max(128).optional() }),
    result: z.object({ machines: z.array(series), host: hostSample }),
  },
} as const;
