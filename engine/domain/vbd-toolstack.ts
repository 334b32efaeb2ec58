/**
 * The toolstack's part of block devices: which exist, their XenStore nodes, their images' locks, and their removal. As libxl
 * does it, devices are made and taken away by writing nodes; drivers do the rest.
 */
import { fstatSync } from "node:fs";
import { vbdDetachNodes, vbdDirectories, vbdNodes } from "../device/block/vbd-nodes.ts";
import { vdevName } from "../device/block/vdev.ts";
import { lockImage } from "../disk/image.ts";
import type { StoreSpec } from "../disk/spec.ts";
import type { ToolstackStore } from "../xenstore/toolstack-store.ts";
import { askToClose, backendClosed, removeDevice } from "./device-removal.ts";

/** What a device needs of its target as long as it exists. */
interface Claim {
  /** libxl's word for the kind of target. */
  readonly type: "phy" | "file" | "nbd";
  /** For the backend: a file is opened through our descriptor, so that renames and a restart change nothing. */
  readonly spec: StoreSpec;
  release(): void;
}

/** Locks a file, or lets an NBD server do what it does about that. @throws DiskError */
function claim(spec: StoreSpec): Claim {
  if (spec.kind === "nbd") return { type: "nbd", spec, release() {} };
  const lock = lockImage(spec);
  const type = fstatSync(lock.descriptor).isBlockDevice() ? "phy" : "file";
  const linux = process.platform === "linux";
  return {
    type,
    spec: linux ? { ...spec, openPath: `/proc/${process.pid}/fd/${lock.descriptor}` } : spec,
    release: () => lock.release(),
  };
}

/** What another guest serves is that guest's business. */
const foreignClaim = (spec: StoreSpec): Claim => ({ type: "phy", spec, release() {} });

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

interface Entry {
  readonly device: AttachedVbd;
  readonly claim: Claim;
}

export class VbdError extends Error {
  readonly remedy: string;

  constructor(what: string, remedy: string) {
    super(`${what}; ${remedy}`);
    this.name = "VbdError";
    this.remedy = remedy;
  }
}

const key = (frontendId: number, vdev: number) => `${frontendId}/${vdev}`;

export class VbdToolstack {
  private readonly store: ToolstackStore;
  private readonly entries = new Map<string, Entry>();

  constructor(store: ToolstackStore) {
    this.store = store;
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
    const claimed = config.backend === undefined ? claim(config.store) : foreignClaim(config.store);
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
      ...(store.kind === "file" && { path: store.path }),
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

  /** Takes a domain's devices away after its end, once the backends have let go of its pages. */
  async domainEnded(frontendId: number): Promise<void> {
    const entries = [...this.entries.values()].filter((entry) => entry.device.frontendId === frontendId);
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

  private remove({ device, claim }: Entry): void {
    removeDevice(this.store, vbdDirectories(device));
    this.entries.delete(key(device.frontendId, device.vdev));
    claim.release();
  }
}
