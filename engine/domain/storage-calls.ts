/**
 * What the host asks of whoever serves disks, a driver domain or a guest's own process: one table of calls, with the shapes of
 * their arguments and results, checked on both sides of the pipe.
 *
 *   hold ──▶ (prepare) ──▶ release        any of them may find that the server was started anew: nothing is held then
 */
import { z } from "zod";
import { storeSpecSchema } from "../disk/spec.ts";

const domain = z.int().min(0).max(0x7fef);
/** A virtual-device number (device/block/vdev.ts). */
const vdev = z.int().min(0).max(0xffff_ffff);
/** False: the guest was not held, and nothing was done. */
const whetherHeld = z.strictObject({ held: z.boolean() });

export const storageCalls = {
  /**
   * Takes no more requests from a guest, and no more steps with its devices. Fulfilled when everything that was taken is
   * answered.
   */
  hold: { argument: z.strictObject({ frontendId: domain }), result: z.strictObject({}) },
  /** Opens what some of a held guest's disks are to be served from after release, and flushes what serves them now. */
  prepare: {
    argument: z.strictObject({
      frontendId: domain,
      replace: z.array(z.strictObject({ vdev, store: storeSpecSchema })).max(4096),
    }),
    result: whetherHeld,
  },
  /** Serves a held guest again; with `swap` from what was prepared, else from what it had, and what was prepared is closed. */
  release: { argument: z.strictObject({ frontendId: domain, swap: z.boolean() }), result: whetherHeld },
  /** The guest is about to end: its devices may be let go of, and nothing that is in its rings is served any more. */
  abandon: { argument: z.strictObject({ frontendId: domain }), result: z.strictObject({}) },
  /** Gives the image of a disk another size, in bytes, and tells the guest. */
  resize: {
    argument: z.strictObject({ frontendId: domain, vdev, size: z.int().positive() }),
    result: z.strictObject({ size: z.int() }),
  },
} as const;

export type StorageMethod = keyof typeof storageCalls;
export type StorageArgument<Method extends StorageMethod> = z.infer<(typeof storageCalls)[Method]["argument"]>;
export type StorageResult<Method extends StorageMethod> = z.infer<(typeof storageCalls)[Method]["result"]>;

/** What serves them implements. */
export type StorageFunctions = {
  readonly [Method in StorageMethod]: (argument: StorageArgument<Method>) => Promise<StorageResult<Method>>;
};
