/**
 * Snapshots of running guests, as the host takes them: all at one moment, at which their disks, their memory, their XenStore
 * nodes and what the hypervisor knows of them are of a piece.
 *
 *   copy memory ▸ hold disks and interfaces ▸ open the new images ▸ stop the vCPUs ▸ copy the rest
 *   ▸ decide: swap the images, go on ▸ write the files
 *
 * Until the decision whatever fails leaves the guests as they were.
 */
import type { Xenstored } from "../xenstore/daemon.ts";
import type { GuestProcess } from "./guest.ts";
import { VbdError } from "./vbd-error.ts";
import type { VbdReplacement, VbdToolstack } from "./vbd-toolstack.ts";
import type { VifToolstack } from "./vif-toolstack.ts";

/** A running guest, and what is to be kept of it. */
export interface SnapshotRequest {
  /** Number of the guest. */
  readonly id: number;
  /** Where its memory goes; without it only its disks are swapped. */
  readonly file?: string;
  /** Stores that its disks write to from that moment on. */
  readonly disks: readonly VbdReplacement[];
}

export interface SnapshotOptions {
  /** The guests end once their files are written, with their disks at rest, instead of going on. */
  readonly stop?: boolean;
}

export interface SnapshotResult {
  readonly id: number;
  /** How long the guest stood still, ms; with `stop` until its memory was copied. */
  readonly pausedMs: number;
  /** From the beginning until the file was written. */
  readonly seconds: number;
  readonly fileBytes: number;
  /** Guest memory that was not zero. */
  readonly touchedBytes: number;
}

/** What a snapshot is made of. */
export interface SnapshotParts {
  readonly guest: (id: number) => GuestProcess | undefined;
  readonly vbds: VbdToolstack;
  readonly vifs: VifToolstack;
  readonly xenstore: Xenstored;
  /** Numbers of the domains that serve devices. */
  readonly drivers: () => readonly number[];
}

/** A guest on its way into a snapshot. */
class Member {
  readonly request: SnapshotRequest;
  private readonly parts: SnapshotParts;
  private readonly guest: GuestProcess;
  private header: Record<string, unknown> = {};
  private held = false;

  constructor(parts: SnapshotParts, request: SnapshotRequest) {
    const guest = parts.guest(request.id);
    if (guest === undefined) throw new VbdError(`there is no guest ${request.id}`, "domlab list shows those that run");
    this.parts = parts;
    this.guest = guest;
    this.request = request;
  }

  private get withMemory(): boolean {
    return this.request.file !== undefined;
  }

  async copyMemory(): Promise<void> {
    if (this.withMemory) await this.guest.capture("prepare", null);
  }

  async hold(): Promise<void> {
    const { vbds, vifs } = this.parts;
    const { id, disks } = this.request;
    this.held = true;
    await Promise.all([vbds.hold(id), this.withMemory ? vifs.hold(id) : undefined]);
    await vbds.prepare(id, disks);
  }

  async stop(): Promise<void> {
    if (!this.withMemory) return;
    const { problem } = await this.guest.capture("stop", { drivers: [...this.parts.drivers()] });
    if (problem === undefined) return;
    throw new VbdError(`the guest cannot be saved running: ${problem}`, "shut it down and take the snapshot then");
  }

  async copyRest(): Promise<void> {
    if (!this.withMemory) return;
    this.header = { store: this.parts.xenstore.saveDomain(this.request.id) };
    await this.guest.capture("finish", null);
  }

  /** Serves its devices again, its disks from their new images if `swap`, and lets it run. */
  async goOn(swap: boolean): Promise<void> {
    const { vbds, vifs } = this.parts;
    const { id, disks } = this.request;
    if (this.held) {
      this.held = false;
      // Both, even if one of them fails.
      await all([vbds.release(id, swap ? disks : []), ...(this.withMemory ? [vifs.release(id)] : [])]);
    }
    if (this.withMemory) await this.guest.capture("goOn", null);
  }

  /** goOn() after a failure: as far as that is possible. */
  async goOnAnyhow(): Promise<void> {
    await this.goOn(false).catch(() => undefined);
    if (this.withMemory) await this.guest.capture("goOn", null).catch(() => undefined);
    await this.drop();
  }

  async drop(): Promise<void> {
    if (this.withMemory) await this.guest.capture("drop", null).catch(() => undefined);
  }

  async write(): Promise<{ fileBytes: number; touchedBytes: number }> {
    const { file } = this.request;
    if (file === undefined) return { fileBytes: 0, touchedBytes: 0 };
    return await this.guest.capture("write", { path: file, header: this.header });
  }

  async end(): Promise<void> {
    await this.guest.kill();
    await this.guest.exited;
  }
}

/** Fulfilled when all are; rejects with the first failure, but only when none is under way any more. */
async function all<T>(work: readonly Promise<T>[]): Promise<T[]> {
  const settled = await Promise.allSettled(work);
  return settled.map((result) => {
    if (result.status === "rejected") throw result.reason;
    return result.value;
  });
}

/**
 * Takes a snapshot of several guests at one consistent moment.
 * @throws VbdError, DiskError, CallError, SnapshotError, StoreStateError: one line with cause and remedy. What failed before the
 *   moment has changed nothing. Afterwards, a file that cannot be written is missing; disks have their new images all the same.
 *   With `stop`, guests go on in every case of failure.
 */
export async function takeSnapshots(
  parts: SnapshotParts,
  requests: readonly SnapshotRequest[],
  { stop = false }: SnapshotOptions = {},
): Promise<SnapshotResult[]> {
  const begin = performance.now();
  const members = requests.map((request) => new Member(parts, request));
  let pausedMs = 0;
  try {
    await all(members.map((member) => member.copyMemory()));
    await all(members.map((member) => member.hold()));
    const pausedAt = performance.now();
    await all(members.map((member) => member.stop()));
    await all(members.map((member) => member.copyRest()));
    if (!stop) await all(members.map((member) => member.goOn(true)));
    pausedMs = performance.now() - pausedAt;
  } catch (error) {
    await Promise.all(members.map((member) => member.goOnAnyhow()));
    throw error;
  }
  const written = await write(members, stop);
  if (stop) await all(members.map((member) => member.end()));
  const seconds = (performance.now() - begin) / 1000;
  return members.map(({ request: { id } }, n) => ({
    id,
    pausedMs,
    seconds,
    fileBytes: written[n]?.fileBytes ?? 0,
    touchedBytes: written[n]?.touchedBytes ?? 0,
  }));
}

async function write(members: readonly Member[], stop: boolean) {
  try {
    return await all(members.map((member) => member.write()));
  } catch (error) {
    await Promise.all(members.map((member) => (stop ? member.goOnAnyhow() : member.drop())));
    throw error;
  }
}
