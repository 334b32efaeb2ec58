/**
 * Holds, swaps and resizes disks on the host's behalf: one implementation for the driver domain and for the backends in a
 * guest's own process, above whatever threads serve the rings.
 *
 * While a guest is held its rings take no requests, and its devices take no steps either: what XenStore says of them, which
 * of them are open and which rings are attached stays as it is. A process that was started anew holds nothing, and says so.
 */
import type { z } from "zod";
import type { Blkback } from "../../device/block/blkback.ts";
import type { VbdIdentity, VbdResult } from "../../device/block/channel.ts";
import { vdevName } from "../../device/block/vdev.ts";
import { InputError } from "../../errors/input-error.ts";
import { type StorageFunctions, storageCalls } from "../storage-calls.ts";
import type { KernelCalls } from "../typescript/kernel.ts";
import type { StorageRequest } from "./storage-io.ts";
import type { DeviceSize } from "./vbd-thread.ts";

/** Whoever performs a device's requests. */
export type StorageServer = (request: StorageRequest) => Promise<unknown>;

export interface StorageControlOptions {
  readonly backend: Blkback;
  /** Fulfilled when what an earlier life of the domain has left is taken over. */
  readonly started: Promise<unknown>;
  /** The threads that serve a guest's open devices, or one of them: each once. */
  readonly servers: (frontendId: number, key?: string) => readonly StorageServer[];
}

/** Told to the user as one line. */
class StorageError extends InputError<"storage"> {
  constructor(what: string, remedy: string) {
    super("storage", what, remedy);
  }
}

function identityOf(frontendId: number, vdev: number): VbdIdentity {
  return { key: `vbd/${frontendId}/${vdev}`, frontendId, vdev };
}

function nameOf(vdev: number): string {
  return vdevName(vdev) ?? String(vdev);
}

export class StorageControl implements StorageFunctions {
  private readonly options: StorageControlOptions;
  /** Guests that are held, each by the last call of hold(). */
  private readonly held = new Map<number, object>();

  constructor(options: StorageControlOptions) {
    this.options = options;
  }

  readonly hold: StorageFunctions["hold"] = async ({ frontendId }) => {
    const { backend, started, servers } = this.options;
    await started;
    const token = {};
    this.held.set(frontendId, token);
    await backend.freeze(frontendId);
    if (this.held.get(frontendId) !== token) {
      throw new StorageError("the disks were released before they were at rest", "try again");
    }
    await Promise.all(servers(frontendId).map((server) => server({ op: "hold", frontendId })));
    return {};
  };

  readonly prepare: StorageFunctions["prepare"] = async ({ frontendId, replace }) => {
    await this.options.started;
    if (!this.held.has(frontendId)) return { held: false };
    for (const { vdev, store } of replace) {
      const device = identityOf(frontendId, vdev);
      for (const server of this.options.servers(frontendId, device.key)) {
        const result = (await server({ op: "prepare", device, store })) as VbdResult<void>;
        if (!result.ok) {
          throw new StorageError(
            `disk ${nameOf(vdev)} cannot be moved to its new image (${result.message})`,
            "it stays on the old one; check the new one with domlab image check",
          );
        }
      }
    }
    return { held: true };
  };

  readonly release: StorageFunctions["release"] = async ({ frontendId, swap }) => {
    const { backend, started, servers } = this.options;
    await started;
    if (!this.held.delete(frontendId)) return { held: false };
    const answers = await Promise.all(servers(frontendId).map((server) => server({ op: "release", frontendId, swap })));
    for (const { key, size } of (answers as DeviceSize[][]).flat()) backend.resized(key, size);
    backend.thaw(frontendId);
    return { held: true };
  };

  readonly abandon: StorageFunctions["abandon"] = async ({ frontendId }) => {
    const { backend, started } = this.options;
    await started;
    if (this.held.delete(frontendId)) backend.thaw(frontendId);
    return {};
  };

  readonly resize: StorageFunctions["resize"] = async ({ frontendId, vdev, size }) => {
    const { backend, started, servers } = this.options;
    await started;
    const device = identityOf(frontendId, vdev);
    let resized: DeviceSize | undefined;
    for (const server of servers(frontendId, device.key)) {
      const result = (await server({ op: "resize", device, size })) as VbdResult<DeviceSize>;
      if (!result.ok) {
        throw new StorageError(
          `disk ${nameOf(vdev)} cannot be resized (${result.message})`,
          "it keeps its size; see whether its file system has room",
        );
      }
      resized = result.value;
    }
    if (resized === undefined) {
      throw new StorageError(`disk ${nameOf(vdev)} is not in use by the guest`, "resize it while the machine is off");
    }
    backend.resized(resized.key, resized.size);
    return { size: resized.size };
  };

  /** The calls as a kernel serves them, each argument checked. */
  calls(): KernelCalls {
    return Object.fromEntries(
      Object.entries(storageCalls).map(([method, { argument: schema }]) => {
        // The schema and the function are those of one row; the compiler does not see that rows match across two tables.
        const perform = this[method as keyof StorageFunctions] as (argument: unknown) => unknown;
        return [method, (argument: unknown) => perform((schema as z.ZodType).parse(argument))];
      }),
    );
  }
}
