/** What machines need of the host that runs them; a test has a smaller one. */
import type { StoreSpec } from "../../../engine/disk/spec.ts";
import type { DomainHandle } from "../../../engine/domain/guest.ts";
import type { GuestConfig, Host, RestoreConfig } from "../../../engine/domain/host.ts";
import type { ForwardConfig } from "../../../engine/domain/network-config.ts";
import type { AttachedVbd, VbdConfig } from "../../../engine/domain/vbd-toolstack.ts";
import type { AttachedVif } from "../../../engine/domain/vif-toolstack.ts";

/** A running guest, and where it stops for a moment. */
export interface SnapshotRequest {
  /** Number of the guest. */
  readonly id: number;
  /** Where its memory goes; without it only its disks are swapped. */
  readonly file?: string;
  /** Stores that its disks write to from that moment on. */
  readonly disks: readonly { readonly vdev: number; readonly store: StoreSpec }[];
}

export interface SnapshotResult {
  readonly id: number;
  /** How long the guest stood still. */
  readonly pausedMs: number;
  readonly seconds: number;
  readonly fileBytes: number;
  /** Guest memory that was in use. */
  readonly touchedBytes: number;
}

export interface MachineHost {
  readonly xenstore: { readonly toolstack: Host["xenstore"]["toolstack"] };
  readonly vbds: { list(guest?: number): AttachedVbd[] };
  readonly vifs: { list(guest?: number): AttachedVif[] };
  readonly network: {
    addForward(name: string, forward: ForwardConfig, mac?: string): Promise<unknown>;
    removeForward(name: string, forward: ForwardConfig): Promise<unknown>;
  };
  startGuest(config: GuestConfig): Promise<DomainHandle>;
  /**
   * Makes a domain from a memory file. `beforeRun` is awaited when all is in place and the guest has not run yet; if it
   * rejects, the domain is ended.
   */
  restoreGuest(config: RestoreConfig, file: string, beforeRun?: () => Promise<void>): Promise<DomainHandle>;
  pause(id: number): Promise<void>;
  unpause(id: number): Promise<void>;
  /** With `stop` the guests end once their files are written; otherwise they go on. All stop at one consistent moment. */
  snapshot(requests: readonly SnapshotRequest[], options?: { readonly stop?: boolean }): Promise<SnapshotResult[]>;
  resizeDisk(id: number, vdev: number, bytes: number): Promise<unknown>;
  attachDisk(guest: number, disk: VbdConfig): Promise<void>;
  detachDisk(guest: number, vdev: number, force?: boolean): Promise<void>;
  close(): Promise<void>;
}
