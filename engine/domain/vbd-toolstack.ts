/**
 * The toolstack's part of block devices: which exist, their XenStore nodes, their images' locks, and their removal. As libxl
 * does it, devices are made and taken away by writing nodes; drivers do the rest.
 */
import { vbdDetachNodes, vbdDirectories, vbdNodes, vbdStoreNodes } from "../device/block/vbd-nodes.ts";
import { vdevName } from "../device/block/vdev.ts";
import type { StoreSpec } from "../disk/spec.ts";
import type { ToolstackStore } from "../xenstore/toolstack-store.ts";
import { askToClose, backendClosed, removeDevice } from "./device-removal.ts";
import { type Claim, type ClaimStore, claimStore, freeClaim } from "./vbd-claim.ts";
import { VbdError } from "./vbd-error.ts";
import { type StorageCaller, VbdHolds } from "./vbd-holds.ts";

export { HoldLostError, VbdError } from "./vbd-error.ts";

/** Where a device's backend runs: a driver domain, or the hypervisor (the guest's own process). */
export type Placement = "driver-domain" | "hypervisor";

/** A disk as the toolstack attaches it. */
export interface VbdConfig {
  /** Virtual device number (device/block/vdev.ts). */
  readonly vdev: number;
  readonly store: StoreSpec;
  readonly readOnly: boolean;
  readonly deviceType: "disk" | "cdrom";
  /** The target as the user wrote it. */
  readonly target: string;
  readonly placement: Placement;
  /** Whether the backend offers to keep grants mapped. */
  readonly persistent: boolean;
  /** Name of a guest that serves the disk with a backend driver of its own; the target is a path in that guest then. */
  readonly backend?: string;
}

export interface AttachedVbd extends VbdConfig {
  readonly frontendId: number;
  readonly backendId: number;
}

/** A disk of the toolstack's, and what it keeps of its images. */
export interface VbdEntry {
  device: AttachedVbd;
  claim: Claim;
}

/** How the toolstack reaches those who serve disks, and locks images. */
export interface VbdToolstackOptions {
  /** Has a call of storage-calls.ts performed by whoever serves a guest's disks. Left out: disks cannot be held or resized. */
  readonly caller?: StorageCaller;
  /** Locks images; claimStore unless a test has its own. */
  readonly claim?: ClaimStore;
}

/** What a disk is to be served from instead. */
export interface VbdReplacement {
  readonly vdev: number;
  readonly store: StoreSpec;
}

const key = (frontendId: number, vdev: number) => `${frontendId}/${vdev}`;

export class VbdToolstack {
  private readonly store: ToolstackStore;
  private readonly entries = new Map<string, VbdEntry>();
  private readonly claim: ClaimStore;
  private readonly holds: VbdHolds;

  constructor(store: ToolstackStore, options: VbdToolstackOptions = {}) {
    this.store = store;
    this.claim = options.claim ?? claimStore;
    this.holds = new VbdHolds(options.caller, (entry) => this.writeStore(entry), this.claim);
  }

  list(frontendId?: number): AttachedVbd[] {
    const all = [...this.entries.values()].map((entry) => entry.device);
    return frontendId === undefined ? all : all.filter((device) => device.frontendId === frontendId);
  }

  /**
   * Locks the image and writes the device's nodes: its two drivers find each other from there.
   * @throws DiskError for an image that cannot be served, VbdError for a vdev in use
   */
  attach(frontendId: number, backendId: number, config: VbdConfig): void {
    const name = vdevName(config.vdev) ?? String(config.vdev);
    const id = key(frontendId, config.vdev);
    if (this.entries.has(id)) {
      throw new VbdError(`the guest has a disk ${name} already`, "choose another vdev, or detach that one first");
    }
    const claimed = config.backend === undefined ? this.claim(config.store) : freeClaim("phy", config.store);
    const device: AttachedVbd = { ...config, frontendId, backendId };
    this.entries.set(id, { device, claim: claimed });
    const { store } = config;
    const nodes = vbdNodes({
      frontendId,
      backendId,
      vdev: config.vdev,
      readOnly: config.readOnly,
      deviceType: config.deviceType,
      type: claimed.type,
      params: config.target,
      ...(store.kind !== "nbd" && { path: store.path }),
      persistent: config.persistent,
      store: claimed.spec,
    });
    this.store.writeNodes(nodes);
  }

  /**
   * Asks both drivers to let go of a device and takes it away. Fulfilled when the image is free.
   * @throws VbdError for a device that is not there, or that the guest does not give up (unless `force`)
   */
  async detach(frontendId: number, vdev: number, force = false): Promise<void> {
    const entry = this.entries.get(key(frontendId, vdev));
    const name = vdevName(vdev) ?? String(vdev);
    if (entry === undefined) {
      throw new VbdError(`the guest has no disk ${name}`, "domlab block-list shows those it has");
    }
    this.askToClose(entry.device);
    const closed = await this.closed(entry.device);
    if (!closed && !force) {
      throw new VbdError(`the guest does not give up ${name}`, "unmount it in the guest, or add --force");
    }
    this.remove(entry);
  }

  private entriesOf(frontendId: number): VbdEntry[] {
    return [...this.entries.values()].filter((entry) => entry.device.frontendId === frontendId);
  }

  /** Tells the backend, for its next start, what a device is served from now. */
  private writeStore({ device, claim }: VbdEntry): void {
    const { store } = device;
    const path = store.kind === "nbd" ? undefined : store.path;
    const { backend } = vbdDirectories(device);
    if (this.store.read(`${backend}/state`) === undefined) return;
    for (const node of vbdStoreNodes(device, claim.spec, path)) this.store.write(node.path, node.value);
  }

  /**
   * Has all disks of a guest come to rest: the backends finish what they have taken, take nothing more and change nothing
   * about the devices, until release(). A guest without disks is held at once.
   * @throws VbdError when it is held already, a disk is served by another guest, or one does not come to rest: then the
   *   disks go on as before
   */
  async hold(frontendId: number): Promise<void> {
    await this.holds.hold(frontendId, this.entriesOf(frontendId));
  }

  /**
   * Locks and opens what disks of a held guest are to be served from after release(), which otherwise does it itself: so that
   * release() takes less long. What the old images were written is on durable storage then.
   * @throws DiskError, VbdError, CallError: nothing has changed, the guest is held still (but for HoldLostError)
   */
  async prepare(frontendId: number, replace: readonly VbdReplacement[]): Promise<void> {
    await this.holds.prepare(frontendId, replace);
  }

  /**
   * Ends hold(). The disks of `replace` are served from other images from now on, which must have the same content at this
   * moment; the locks of the old ones are given back. What was prepared and is not in `replace` is let go of.
   * @throws HoldLostError when the backends' process was started anew while it was to hold: requests may have been served in
   *   between, from the old images; its `swapped` says where the disks are now. DiskError, VbdError, CallError: the new images
   *   cannot be served, and all disks go on with the old ones
   */
  async release(frontendId: number, replace: readonly VbdReplacement[] = []): Promise<void> {
    await this.holds.release(frontendId, replace);
  }

  /**
   * Gives the image of a disk another size, in bytes, and lets the guest know; the guest may run.
   * @returns the size that it has now
   * @throws VbdError for a disk that is not there or not in use, CallError for what its image refuses
   */
  async resize(frontendId: number, vdev: number, bytes: number): Promise<number> {
    const entry = this.entries.get(key(frontendId, vdev));
    const name = vdevName(vdev) ?? String(vdev);
    if (entry === undefined) {
      throw new VbdError(`the guest has no disk ${name}`, "domlab block-list shows those it has");
    }
    return await this.holds.resize(entry.device, bytes);
  }

  /** Takes a domain's devices away after its end, once the backends have let go of its pages. */
  async domainEnded(frontendId: number): Promise<void> {
    await this.holds.forget(frontendId);
    const entries = this.entriesOf(frontendId);
    await Promise.all(
      entries.map(async (entry) => {
        this.askToClose(entry.device);
        if (entry.device.placement === "driver-domain" || entry.device.backend) await this.closed(entry.device);
        this.remove(entry);
      }),
    );
  }

  private askToClose(device: AttachedVbd): void {
    askToClose(this.store, vbdDirectories(device).backend, vbdDetachNodes(device));
  }

  private closed(device: AttachedVbd): Promise<boolean> {
    return backendClosed(this.store, vbdDirectories(device).backend);
  }

  private remove({ device, claim }: VbdEntry): void {
    removeDevice(this.store, vbdDirectories(device));
    this.entries.delete(key(device.frontendId, device.vdev));
    claim.release();
  }
}
