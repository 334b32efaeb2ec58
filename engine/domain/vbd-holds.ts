/**
 * The toolstack's part of holding a guest's disks and moving them to other images.
 *
 *   hold ──▶ (prepare: lock and open the new images) ──▶ release: decide, swap, serve, give back the old locks
 *
 * The decision is the node from which a backend's next process learns what to open. Before it is written, whatever fails
 * leaves all disks on their old images; after it, they get to the new ones even if that process has to be told twice. Never
 * does a disk go back from a new image to an old one, so nothing that a guest has written is lost.
 */
import { setTimeout as delay } from "node:timers/promises";
import { isDeepStrictEqual } from "node:util";
import { vdevName } from "../device/block/vdev.ts";
import type { StoreSpec } from "../disk/spec.ts";
import { type StorageArgument, type StorageMethod, type StorageResult, storageCalls } from "./storage-calls.ts";
import { CallError } from "./typescript/handle.ts";
import { callAnswer } from "./typescript/protocol.ts";
import { ProcessGone } from "./typescript/start.ts";
import type { Claim, ClaimStore } from "./vbd-claim.ts";
import { HoldLostError, VbdError } from "./vbd-error.ts";
import type { AttachedVbd, Placement, VbdEntry, VbdReplacement } from "./vbd-toolstack.ts";

/** Has a call of storage-calls.ts performed. */
export interface StorageCaller {
  /** By the storage domain: TypescriptHandle.call. @throws CallError; ProcessGone when it dies first */
  driverDomain(method: StorageMethod, argument: unknown): Promise<unknown>;
  /** By the backends in a guest's own process: a CallAnswer of HypervisorDevices.call. Rejects when the process is gone. */
  guest(guest: number, method: StorageMethod, argument: unknown): Promise<unknown>;
}

/** How long disks may take to come to rest: longer than a slow disk of the host does, shorter than a user waits. */
const HOLD_WAIT_MS = 30_000;
/** How often a domain that is being started anew is told again, and how long it is given in between. */
const TRIES = 40;
const RETRY_MS = 50;

interface Prepared {
  readonly entry: VbdEntry;
  readonly claim: Claim;
  readonly store: StoreSpec;
}

interface Hold {
  readonly entries: readonly VbdEntry[];
  readonly placements: readonly Placement[];
  prepared: Prepared[];
}

function nameOf(vdev: number): string {
  return vdevName(vdev) ?? String(vdev);
}

function noCaller(): never {
  throw new VbdError("this host cannot hold disks", "give the toolstack a way to those who serve them");
}

/** Fails after a while; what it waited for goes on. */
async function inTime(work: Promise<unknown>): Promise<void> {
  const timer = new AbortController();
  const late = delay(HOLD_WAIT_MS, undefined, { signal: timer.signal }).then(() => {
    throw new VbdError("the disks do not finish their requests", "see whether their storage answers, and try again");
  });
  try {
    await Promise.race([work, late]);
  } finally {
    timer.abort();
    await late.catch(() => undefined);
  }
}

export class VbdHolds {
  private readonly caller: StorageCaller | undefined;
  private readonly writeStore: (entry: VbdEntry) => void;
  private readonly claim: ClaimStore;
  private readonly holds = new Map<number, Hold>();

  /** @param writeStore writes down, for the backend's next process, what a device is served from */
  constructor(caller: StorageCaller | undefined, writeStore: (entry: VbdEntry) => void, claim: ClaimStore) {
    this.caller = caller;
    this.writeStore = writeStore;
    this.claim = claim;
  }

  private async call<Method extends StorageMethod>(
    placement: Placement,
    frontendId: number,
    method: Method,
    argument: StorageArgument<Method>,
  ): Promise<StorageResult<Method>> {
    const caller = this.caller ?? noCaller();
    const { result } = storageCalls[method];
    if (placement === "driver-domain") {
      return result.parse(await caller.driverDomain(method, argument)) as StorageResult<Method>;
    }
    const answer = callAnswer.parse(await caller.guest(frontendId, method, argument));
    if (answer.ok) return result.parse(answer.result) as StorageResult<Method>;
    if (answer.remedy === undefined) throw new Error(answer.message);
    throw new CallError(answer.message, answer.remedy);
  }

  /** @throws VbdError, HoldLostError: the disks go on as before */
  async hold(frontendId: number, entries: readonly VbdEntry[]): Promise<void> {
    if (this.holds.has(frontendId)) {
      throw new VbdError("another operation holds the guest's disks", "wait until it is done");
    }
    const foreign = entries.find((entry) => entry.device.backend !== undefined)?.device;
    if (foreign !== undefined) {
      const what = `disk ${nameOf(foreign.vdev)} is served by the guest ${foreign.backend} and cannot be held`;
      throw new VbdError(what, "detach it first");
    }
    const placements = [...new Set(entries.map((entry) => entry.device.placement))];
    const hold: Hold = { entries, placements, prepared: [] };
    this.holds.set(frontendId, hold);
    try {
      await inTime(
        Promise.all(placements.map((placement) => this.call(placement, frontendId, "hold", { frontendId }))),
      );
    } catch (error) {
      this.holds.delete(frontendId);
      // Not waited for: whoever did not answer that in time may not answer this.
      void this.releaseAll(frontendId, hold, false).catch(() => undefined);
      throw error instanceof ProcessGone ? new HoldLostError("storage", false) : error;
    }
  }

  private held(frontendId: number): Hold {
    const hold = this.holds.get(frontendId);
    if (hold === undefined) throw new VbdError("the guest's disks are not held", "the guest has ended, or see the log");
    return hold;
  }

  async prepare(frontendId: number, replace: readonly VbdReplacement[]): Promise<void> {
    const hold = this.held(frontendId);
    const prepared: Prepared[] = [];
    try {
      for (const { vdev, store } of replace) prepared.push(this.claimFor(hold, vdev, store));
      if (!(await this.prepareAll(frontendId, prepared))) throw new HoldLostError("storage", false);
      hold.prepared.push(...prepared);
    } catch (error) {
      undo(prepared);
      throw error instanceof ProcessGone ? new HoldLostError("storage", false) : error;
    }
  }

  private claimFor(hold: Hold, vdev: number, store: StoreSpec): Prepared {
    const entry = hold.entries.find(({ device }) => device.vdev === vdev);
    if (entry === undefined || hold.prepared.some((other) => other.entry === entry)) {
      throw new Error(`disk ${nameOf(vdev)} cannot be replaced`);
    }
    entry.claim.share();
    try {
      return { entry, store, claim: this.claim(store) };
    } catch (error) {
      entry.claim.unshare();
      throw error;
    }
  }

  /** Has the new images opened. @returns false when somebody holds nothing */
  private async prepareAll(frontendId: number, prepared: readonly Prepared[]): Promise<boolean> {
    const placements = [...new Set(prepared.map(({ entry }) => entry.device.placement))];
    const answers = placements.map((placement) => {
      const own = prepared.filter(({ entry }) => entry.device.placement === placement);
      const replace = own.map(({ entry, claim }) => ({ vdev: entry.device.vdev, store: claim.spec }));
      return this.call(placement, frontendId, "prepare", { frontendId, replace });
    });
    return (await Promise.all(answers)).every((answer) => answer.held);
  }

  /** @returns false when somebody holds nothing, or is gone */
  private async releaseAll(frontendId: number, { placements }: Hold, swap: boolean): Promise<boolean> {
    const answers = placements.map((placement) => this.call(placement, frontendId, "release", { frontendId, swap }));
    const results = await Promise.allSettled(answers);
    for (const result of results) {
      if (result.status === "rejected" && !(result.reason instanceof ProcessGone)) throw result.reason;
    }
    return results.every((result) => result.status === "fulfilled" && result.value.held);
  }

  /** Has just those prepared that are to be replaced, of which some may be prepared, perhaps with others. */
  private async prepareFor(frontendId: number, hold: Hold, replace: readonly VbdReplacement[]): Promise<void> {
    const wanted = (prepared: Prepared) =>
      replace.some(
        ({ vdev, store }) => vdev === prepared.entry.device.vdev && isDeepStrictEqual(store, prepared.store),
      );
    const unwanted = hold.prepared.filter((prepared) => !wanted(prepared));
    hold.prepared = hold.prepared.filter(wanted);
    undo(unwanted);
    // Without any other a release that swaps nothing does.
    if (unwanted.length > 0 && replace.length > 0 && !(await this.prepareAll(frontendId, unwanted.map(unchanged)))) {
      throw new HoldLostError("storage", false);
    }
    const there = new Set(hold.prepared.map(({ entry }) => entry.device.vdev));
    const missing = replace.filter(({ vdev }) => !there.has(vdev));
    if (missing.length > 0) await this.prepare(frontendId, missing);
  }

  async release(frontendId: number, replace: readonly VbdReplacement[]): Promise<void> {
    const hold = this.held(frontendId);
    try {
      await this.prepareFor(frontendId, hold, replace);
    } catch (error) {
      this.holds.delete(frontendId);
      undo(hold.prepared);
      await this.releaseAll(frontendId, hold, false);
      throw error instanceof ProcessGone ? new HoldLostError("storage", false) : error;
    }
    const { prepared } = hold;
    hold.prepared = [];
    const swap = prepared.length > 0;
    const old = prepared.map(({ entry }) => entry.claim);
    for (const { entry, claim, store } of prepared) {
      entry.device = { ...entry.device, store };
      entry.claim = claim;
      this.writeStore(entry);
    }
    try {
      if (await this.releaseAll(frontendId, hold, swap)) return;
      if (swap && hold.placements.includes("driver-domain")) await this.swapAgain(frontendId, prepared);
      throw new HoldLostError("storage", swap);
    } finally {
      for (const claim of old) claim.release();
      this.holds.delete(frontendId);
    }
  }

  /** The storage domain has been started anew, perhaps before the decision was written down: it is told again. */
  private async swapAgain(frontendId: number, prepared: readonly Prepared[]): Promise<void> {
    const own = prepared.filter(({ entry }) => entry.device.placement === "driver-domain");
    for (let tries = 1; ; tries++) {
      try {
        await this.call("driver-domain", frontendId, "hold", { frontendId });
        const there = await this.prepareAll(frontendId, own);
        const { held } = await this.call("driver-domain", frontendId, "release", { frontendId, swap: true });
        if (there && held) return;
      } catch (error) {
        if (!(error instanceof ProcessGone) || tries === TRIES) throw error;
      }
      await delay(RETRY_MS);
    }
  }

  async resize(device: AttachedVbd, bytes: number): Promise<number> {
    const { frontendId, vdev, placement, backend } = device;
    if (backend !== undefined) {
      throw new VbdError(`disk ${nameOf(vdev)} is served by the guest ${backend}`, "resize it there");
    }
    try {
      return (await this.call(placement, frontendId, "resize", { frontendId, vdev, size: bytes })).size;
    } catch (error) {
      if (!(error instanceof ProcessGone)) throw error;
      throw new VbdError(`disk ${nameOf(vdev)} was not resized, as the storage domain was started anew`, "try again");
    }
  }

  /** The guest is gone: nothing of it is held any more, nor served. */
  async forget(frontendId: number): Promise<void> {
    const hold = this.holds.get(frontendId);
    if (hold === undefined) return;
    this.holds.delete(frontendId);
    undo(hold.prepared);
    const calls = hold.placements.map((placement) => this.call(placement, frontendId, "abandon", { frontendId }));
    // The backends in its own process went with it.
    await Promise.allSettled(calls);
  }
}

/** What a device has already: a backend that is told to prepare it drops what it had prepared. */
function unchanged({ entry }: Prepared): Prepared {
  return { entry, claim: entry.claim, store: entry.device.store };
}

/** Gives back the new images' locks, and takes the old ones' to the full again. */
function undo(prepared: readonly Prepared[]): void {
  for (const { entry, claim } of prepared) {
    claim.release();
    entry.claim.unshare();
  }
}
