/** The block devices that one thread serves: their open stores and attached rings. */

import { isDeepStrictEqual } from "node:util";
import { Errno } from "../../abi/errors.ts";
import type { BlockChannel, BlockRingGrants, VbdFacts, VbdIdentity, VbdResult } from "../../device/block/channel.ts";
import { BlockCounters } from "../../device/block/counters.ts";
import { InFlightRegion } from "../../device/block/in-flight.ts";
import type { LegacyVbd } from "../../device/block/legacy-protocol.ts";
import {
  type BlockProtocol,
  blockProtocol,
  MAX_INDIRECT_SEGMENTS,
  SECTOR,
  VDISK_READONLY,
} from "../../device/block/protocol.ts";
import { BlockRingService, type BlockTarget, type LegacyDevices } from "../../device/block/ring-service.ts";
import type { BlockStore, StoreFailure } from "../../device/block/store.ts";
import { BackRing } from "../../device/ring/back.ts";
import { SharedRing } from "../../device/ring/layout.ts";
import { DiskError } from "../../disk/errors.ts";
import { openStore } from "../../disk/open.ts";
import { type StoreSpec, storeSpecSchema } from "../../disk/spec.ts";
import { messageOf } from "../../errors/message.ts";
import type { EventPort } from "../../memory/types.ts";
import { bindRing, type Failure, failed } from "./bind-ring.ts";
import type { AdoptingMapper, BoundRing, RingIdentity } from "./ring-environment.ts";

/** Where the thread runs: in a driver domain, or in the guest's own process. */
export interface RingEnvironment {
  mapper(frontend: number): AdoptingMapper | undefined;
  /** The ring of an earlier process, if its channel still stands. */
  adopt(ring: RingIdentity, mapper: AdoptingMapper, grants: BlockRingGrants): BoundRing | undefined;
  /** Binds to the frontend's port and finds memory for the ring. @returns a negated Errno when it cannot */
  bind(ring: RingIdentity, handles: readonly number[], eventChannel: number): BoundRing | number;
  /** Calls `handler` on every event; one that answers true wants another turn. */
  serve(bound: BoundRing, handler: () => boolean): void;
  notify(port: EventPort): void;
  /** Closes the port and frees the memory. */
  unbind(ring: RingIdentity, bound: BoundRing): void;
  log(line: string): void;
}

interface AttachedRing {
  readonly identity: RingIdentity;
  readonly bound: BoundRing;
  readonly service: BlockRingService;
}

interface OpenedStore {
  readonly store: BlockStore;
  /** What it was opened by. */
  readonly spec: StoreSpec;
}

interface Device {
  opened: OpenedStore;
  /** What takes its place at the next release. */
  next: OpenedStore | undefined;
  /** The device is to be read-only, whatever its store allows. */
  readonly readOnly: boolean;
  /** Of the legacy set's interface, and of rings' targets. */
  target: BlockTarget;
  mapper: AdoptingMapper | undefined;
  readonly rings: AttachedRing[];
}

/** What opening a device takes. */
export interface OpenRequest {
  readonly identity: VbdIdentity;
  readonly store: unknown;
  readonly readOnly: boolean;
}

/** How large a device is, in bytes. */
export interface DeviceSize {
  readonly key: string;
  readonly size: number;
}

export interface VbdThreadOptions {
  /** A store has noticed by itself that its image has another size. Only on a thread whose event loop runs. */
  readonly resized?: (device: DeviceSize) => void;
}

/** Errno of a store that cannot be opened. */
function errnoOf(error: unknown): number {
  return error instanceof DiskError && error.code === "missing-image" ? Errno.ENOENT : Errno.EIO;
}

function done(): { ok: true; value: undefined } {
  return { ok: true, value: undefined };
}

function flushed(store: BlockStore): Promise<StoreFailure | undefined> {
  return new Promise((resolve) => store.flush(resolve));
}

/** Why a store cannot take another's place under a guest that knows the old one's properties; undefined: it can. */
function misfit(old: BlockStore, next: BlockStore): string | undefined {
  if (next.size < old.size) return `the new image has ${next.size} bytes, the old one ${old.size}`;
  if (next.sectorSize > old.sectorSize) {
    return `the new image has sectors of ${next.sectorSize} bytes, the old one of ${old.sectorSize}`;
  }
  return next.readOnly && !old.readOnly ? "the new image is read-only, the old one is not" : undefined;
}

export class VbdThread {
  private readonly environment: RingEnvironment;
  private readonly options: VbdThreadOptions;
  private readonly devices = new Map<string, Device>();

  constructor(environment: RingEnvironment, options: VbdThreadOptions = {}) {
    this.environment = environment;
    this.options = options;
  }

  /** Opens a device's store. */
  async open(request: OpenRequest): Promise<VbdResult<VbdFacts>> {
    const spec = storeSpecSchema.safeParse(request.store);
    if (!spec.success) return failed(Errno.EINVAL, "the toolstack's description of the image is malformed");
    const { key } = request.identity;
    try {
      const opened = await this.openStore(key, spec.data);
      const { store } = opened;
      const target = { store, readOnly: request.readOnly || store.readOnly };
      const { readOnly } = target;
      const device = { opened, next: undefined, readOnly: request.readOnly, target, mapper: undefined, rings: [] };
      this.devices.set(key, device);
      const { size, sectorSize, physicalSectorSize, discard } = store;
      return { ok: true, value: { size, sectorSize, physicalSectorSize, readOnly, discard } };
    } catch (error) {
      return failed(errnoOf(error), messageOf(error));
    }
  }

  private async openStore(key: string, spec: StoreSpec): Promise<OpenedStore> {
    const store = await openStore(spec, (line) => this.environment.log(line));
    const { resized } = this.options;
    if (resized) {
      store.onResize(() => {
        if (this.devices.get(key)?.opened.store === store) resized({ key, size: store.size });
      });
    }
    return { store, spec };
  }

  /** Maps the rings of an opened device and serves them. */
  async attach(channel: BlockChannel): Promise<VbdResult<void>> {
    const device = this.devices.get(channel.key);
    if (device === undefined) return failed(Errno.ENODEV, "the image is not open");
    const mapper = this.environment.mapper(channel.frontendId);
    if (mapper === undefined) return failed(Errno.ESRCH, `domain ${channel.frontendId} is gone`);
    device.mapper = mapper;
    for (const [queue, grants] of channel.rings.entries()) {
      const problem = this.attachRing(device, channel, queue, grants, mapper);
      if (problem === undefined) continue;
      await this.detach(channel);
      return problem;
    }
    this.serve(device);
    return done();
  }

  private serve(device: Device): void {
    for (const ring of device.rings) this.environment.serve(ring.bound, () => ring.service.service());
  }

  private attachRing(
    device: Device,
    channel: BlockChannel,
    queue: number,
    grants: BlockRingGrants,
    mapper: AdoptingMapper,
  ): Failure | undefined {
    const protocol = blockProtocol(channel.protocol);
    if (protocol === undefined) return failed(Errno.EINVAL, `protocol ${channel.protocol} is unknown`);
    const identity = { frontend: channel.frontendId, vdev: channel.vdev, queue };
    const bound =
      (channel.resume ? this.environment.adopt(identity, mapper, grants) : undefined) ??
      this.bindRing(identity, mapper, grants);
    if ("ok" in bound) return bound;
    const service = this.createService(device, channel, protocol, bound, mapper);
    device.rings.push({ identity, bound, service });
    if ((bound.adopted && service.recover()) || service.start()) return undefined;
    return failed(Errno.EINVAL, `ring ${queue} claims more requests than it holds`);
  }

  private bindRing(identity: RingIdentity, mapper: AdoptingMapper, grants: BlockRingGrants): BoundRing | Failure {
    return bindRing(
      mapper,
      grants.refs,
      (handles) => this.environment.bind(identity, handles, grants.eventChannel),
      `event channel ${grants.eventChannel}`,
    );
  }

  private createService(
    device: Device,
    channel: BlockChannel,
    protocol: BlockProtocol,
    bound: BoundRing,
    mapper: AdoptingMapper,
  ): BlockRingService {
    const pages = bound.handles.map((handle) => mapper.address(handle));
    const ring = new BackRing(new SharedRing(mapper.memory, pages, protocol.slotSize));
    return new BlockRingService({
      protocol,
      ring,
      grants: mapper,
      serves: protocol.name === "domlab-xen-2.0" ? this.legacyDevices(channel.frontendId) : device.target,
      features: {
        persistent: channel.persistent,
        maxIndirectSegments: MAX_INDIRECT_SEGMENTS,
        flush: true,
        barrier: true,
        discard: channel.discard,
      },
      inFlight: new InFlightRegion(bound.memory, bound.inFlight, ring.size, protocol.slotSize),
      counters: new BlockCounters(bound.counters.buffer, bound.counters.address),
      notify: () => this.environment.notify(bound.port as EventPort),
      log: (message) => this.environment.log(`${channel.key}: ${message}`),
    });
  }

  /** The disks of one guest that this thread serves, as the old message set shows them on one ring. */
  private legacyDevices(frontend: number): LegacyDevices {
    const own = (key: string) => key.startsWith(`vbd/${frontend}/`);
    return {
      listVbds: () =>
        [...this.devices]
          .filter(([key]) => own(key))
          .map(([key, { target }]): LegacyVbd => {
            const device = Number(key.split("/")[2]);
            return { device, info: target.readOnly ? VDISK_READONLY : 0, sectors: target.store.size / SECTOR };
          }),
      storeOf: (device) => this.devices.get(`vbd/${frontend}/${device}`)?.target,
    };
  }

  private devicesOf(frontendId: number): [string, Device][] {
    return [...this.devices].filter(([key]) => key.startsWith(`vbd/${frontendId}/`));
  }

  /** Takes no more requests from a guest; fulfilled when nothing of it is in flight. */
  async hold(frontendId: number): Promise<void> {
    const rings = this.devicesOf(frontendId).flatMap(([, device]) => device.rings);
    await Promise.all(rings.map((ring) => ring.service.hold()));
  }

  /**
   * Opens what a device of a held guest is to serve after release(), with everything written to the old store on disk. A
   * device that is not open, or serves that already, stays as it is.
   */
  async prepare({ key }: VbdIdentity, store: unknown): Promise<VbdResult<void>> {
    const device = this.devices.get(key);
    if (device === undefined) return done();
    const spec = storeSpecSchema.safeParse(store);
    if (!spec.success) return failed(Errno.EINVAL, "the toolstack's description of the image is malformed");
    await this.dropNext(device);
    if (isDeepStrictEqual(spec.data, device.opened.spec)) return done();
    const failure = device.target.readOnly ? undefined : await flushed(device.opened.store);
    if (failure) return failed(failure.errno, failure.message);
    try {
      const next = await this.openStore(key, spec.data);
      const wrong = misfit(device.opened.store, next.store);
      if (wrong !== undefined) {
        await next.store.close();
        return failed(Errno.EINVAL, wrong);
      }
      device.next = next;
      return done();
    } catch (error) {
      return failed(errnoOf(error), messageOf(error));
    }
  }

  private async dropNext(device: Device): Promise<void> {
    const { next } = device;
    device.next = undefined;
    await next?.store.close();
  }

  /**
   * Serves a held guest again, with `swap` from the stores that were prepared.
   * @returns the sizes of the devices that have another store now
   */
  async release(frontendId: number, swap: boolean): Promise<DeviceSize[]> {
    const devices = this.devicesOf(frontendId);
    const swapped: DeviceSize[] = [];
    for (const [key, device] of devices) {
      if (!swap) await this.dropNext(device);
      if (device.next === undefined) continue;
      await this.swap(key, device, device.next);
      swapped.push({ key, size: device.target.store.size });
    }
    for (const [, device] of devices) {
      for (const ring of device.rings) ring.service.release(device.target);
      this.serve(device);
    }
    return swapped;
  }

  private async swap(key: string, device: Device, next: OpenedStore): Promise<void> {
    const old = device.opened.store;
    device.opened = next;
    device.next = undefined;
    device.target = { store: next.store, readOnly: device.readOnly || next.store.readOnly };
    // Everything in it was flushed: what cannot be closed properly is no worse than after a power failure.
    await old.close().catch((error) => this.environment.log(`${key}: ${(error as Error).message}`));
  }

  /** Gives an opened device's image another size, in bytes. */
  async resize({ key }: VbdIdentity, size: number): Promise<VbdResult<DeviceSize>> {
    const device = this.devices.get(key);
    if (device === undefined) return failed(Errno.ENODEV, "the image is not open");
    const { store, readOnly } = device.target;
    if (readOnly) return failed(Errno.EROFS, "the disk is read-only");
    if (store.resize === undefined) return failed(Errno.EOPNOTSUPP, "an image of this kind cannot be resized");
    const failure = size === store.size ? undefined : store.resize(size);
    if (failure) return failed(failure.errno, failure.message);
    return { ok: true, value: { key, size: store.size } };
  }

  /** Finishes what is in flight, unmaps everything and closes the ports. */
  async detach({ key }: VbdIdentity): Promise<void> {
    const device = this.devices.get(key);
    if (device === undefined) return;
    while (device.rings[0]) {
      const { identity, bound, service } = device.rings[0];
      await service.close();
      // Only now: until it is closed it may have requests in flight, which hold() waits for.
      device.rings.shift();
      for (const handle of bound.handles) device.mapper?.unmap(handle);
      this.environment.unbind(identity, bound);
    }
    device.mapper?.close();
    device.mapper = undefined;
  }

  async close({ key }: VbdIdentity): Promise<void> {
    const device = this.devices.get(key);
    this.devices.delete(key);
    if (device === undefined) return;
    await this.dropNext(device);
    await device.opened.store.close();
  }
}
