/** The block devices that one thread serves: their open stores and attached rings. */

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
import type { BlockStore } from "../../device/block/store.ts";
import { BackRing } from "../../device/ring/back.ts";
import { SharedRing } from "../../device/ring/layout.ts";
import { DiskError } from "../../disk/errors.ts";
import { openStore } from "../../disk/open.ts";
import { type StoreSpec, storeSpecSchema } from "../../disk/spec.ts";
import type { EventPort } from "../../memory/types.ts";
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

interface Device {
  readonly store: BlockStore;
  readonly readOnly: boolean;
  mapper: AdoptingMapper | undefined;
  readonly rings: AttachedRing[];
}

/** What opening a device takes. */
export interface OpenRequest {
  readonly identity: VbdIdentity;
  readonly store: unknown;
  readonly readOnly: boolean;
}

function failed(errno: number, message: string): { ok: false; errno: number; message: string } {
  return { ok: false, errno, message };
}

/** Errno of a store that cannot be opened. */
function errnoOf(error: unknown): number {
  return error instanceof DiskError && error.code === "missing-image" ? Errno.ENOENT : Errno.EIO;
}

export class VbdThread {
  private readonly environment: RingEnvironment;
  private readonly devices = new Map<string, Device>();

  constructor(environment: RingEnvironment) {
    this.environment = environment;
  }

  /** Opens a device's store. */
  async open(request: OpenRequest): Promise<VbdResult<VbdFacts>> {
    const spec = storeSpecSchema.safeParse(request.store);
    if (!spec.success) return failed(Errno.EINVAL, "the toolstack's description of the image is malformed");
    try {
      const store = await openStore(spec.data satisfies StoreSpec, (line) => this.environment.log(line));
      const readOnly = request.readOnly || store.readOnly;
      this.devices.set(request.identity.key, { store, readOnly, mapper: undefined, rings: [] });
      const { size, sectorSize, physicalSectorSize, discard } = store;
      return { ok: true, value: { size, sectorSize, physicalSectorSize, readOnly, discard } };
    } catch (error) {
      return failed(errnoOf(error), error instanceof Error ? error.message : String(error));
    }
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
    for (const ring of device.rings) this.environment.serve(ring.bound, () => ring.service.service());
    return { ok: true, value: undefined };
  }

  private attachRing(
    device: Device,
    channel: BlockChannel,
    queue: number,
    grants: BlockRingGrants,
    mapper: AdoptingMapper,
  ): ReturnType<typeof failed> | undefined {
    const protocol = blockProtocol(channel.protocol);
    if (protocol === undefined) return failed(Errno.EINVAL, `protocol ${channel.protocol} is unknown`);
    const identity = { frontend: channel.frontendId, vdev: channel.vdev, queue };
    const bound =
      (channel.resume ? this.environment.adopt(identity, mapper, grants) : undefined) ??
      this.bindRing(identity, mapper, grants);
    if ("ok" in bound) return bound;
    const service = this.createService(device, channel, protocol, bound, mapper);
    device.rings.push({ identity, bound, service });
    if (!bound.adopted || !service.recover()) service.start();
    return undefined;
  }

  private bindRing(
    identity: RingIdentity,
    mapper: AdoptingMapper,
    grants: BlockRingGrants,
  ): BoundRing | ReturnType<typeof failed> {
    const handles: number[] = [];
    const undo = (errno: number, message: string) => {
      for (const handle of handles) mapper.unmap(handle);
      return failed(errno, message);
    };
    for (const ref of grants.refs) {
      const handle = mapper.map(ref, false);
      if (handle < 0) return undo(Errno.EINVAL, `ring page, grant ${ref}, cannot be mapped (status ${handle})`);
      handles.push(handle);
    }
    const bound = this.environment.bind(identity, handles, grants.eventChannel);
    if (typeof bound !== "number") return bound;
    return undo(-bound, `event channel ${grants.eventChannel} cannot be bound (error ${bound})`);
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
    const target: BlockTarget = { store: device.store, readOnly: device.readOnly };
    return new BlockRingService({
      protocol,
      ring,
      grants: mapper,
      serves: protocol.name === "domlab-xen-2.0" ? this.legacyDevices(channel.frontendId) : target,
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
          .map(([key, { store, readOnly }]): LegacyVbd => {
            const device = Number(key.split("/")[2]);
            return { device, info: readOnly ? VDISK_READONLY : 0, sectors: store.size / SECTOR };
          }),
      storeOf: (device) => this.devices.get(`vbd/${frontend}/${device}`),
    };
  }

  /** Finishes what is in flight, unmaps everything and closes the ports. */
  async detach({ key }: VbdIdentity): Promise<void> {
    const device = this.devices.get(key);
    if (device === undefined) return;
    for (const { identity, bound, service } of device.rings.splice(0)) {
      await service.close();
      for (const handle of bound.handles) device.mapper?.unmap(handle);
      this.environment.unbind(identity, bound);
    }
    device.mapper?.close();
    device.mapper = undefined;
  }

  async close({ key }: VbdIdentity): Promise<void> {
    const device = this.devices.get(key);
    this.devices.delete(key);
    await device?.store.close();
  }
}
