/** A XenStore with two domains, the frontend's memory, grants and events, and a disk: split drivers in one thread. */
import { Errno } from "../../engine/abi/errors.ts";
import { GrantStatus } from "../../engine/abi/grant-table.ts";
import { Blkback } from "../../engine/device/block/blkback.ts";
import type { BlkbackLimits } from "../../engine/device/block/blkback-device.ts";
import { Blkfront, type BlkfrontOptions } from "../../engine/device/block/blkfront.ts";
import type {
  BlockChannel,
  VbdFacts,
  VbdIdentity,
  VbdResult,
  VbdService,
  VbdSpecification,
} from "../../engine/device/block/channel.ts";
import { BlockCounters } from "../../engine/device/block/counters.ts";
import { InFlightRegion, inFlightSize } from "../../engine/device/block/in-flight.ts";
import { blockProtocol } from "../../engine/device/block/protocol.ts";
import { BlockRingService, type LegacyDevices } from "../../engine/device/block/ring-service.ts";
import { type VbdDescription, vbdDetachNodes, vbdDirectories, vbdNodes } from "../../engine/device/block/vbd-nodes.ts";
import type { EventChannelPort, GrantMapper, GrantSource, MemoryView } from "../../engine/device/domain-interface.ts";
import { BackRing } from "../../engine/device/ring/back.ts";
import { SharedRing } from "../../engine/device/ring/layout.ts";
import { eventPort } from "../../engine/memory/types.ts";
import { XenstoreClient } from "../../engine/xenstore/client.ts";
import { Xenstored } from "../../engine/xenstore/daemon.ts";
import { domainNodes } from "../../engine/xenstore/domain-nodes.ts";
import { FakeStore, memoryView, PAGE } from "./block-backend-harness.ts";

export const BACKEND = 1;
export const FRONTEND = 2;
export const XVDA = 51712;

/** A domain's RAM and grant table, with the rules that matter: no reuse while mapped, no map of what is not granted. */
export class FakeDomain implements GrantSource {
  readonly memory: MemoryView;
  readonly entries = new Map<number, { address: number; readOnly: boolean; maps: number; domain: number }>();
  readonly allocated = new Set<number>();
  grantLimit = Number.POSITIVE_INFINITY;
  private readonly freePages: number[];
  private readonly freeRefs: number[] = [];
  private nextRef = 8;

  constructor(pages: number) {
    this.memory = memoryView(pages);
    this.freePages = Array.from({ length: pages - 1 }, (_, i) => (pages - 1 - i) * PAGE);
  }

  allocatePage(): number | undefined {
    const page = this.freePages.pop();
    if (page === undefined) return undefined;
    this.memory.bytes.fill(0, page, page + PAGE);
    this.allocated.add(page);
    return page;
  }
  freePage(address: number): void {
    if (!this.allocated.delete(address)) throw new Error(`page ${address} freed twice`);
    for (const { address: granted } of this.entries.values()) {
      if (granted === address) throw new Error(`page ${address} freed while granted`);
    }
    this.freePages.push(address);
  }
  grantAccess(domain: number, address: number, readOnly: boolean): number | undefined {
    if (this.entries.size >= this.grantLimit) return undefined;
    const ref = this.freeRefs.pop() ?? this.nextRef++;
    this.entries.set(ref, { address, readOnly, maps: 0, domain });
    return ref;
  }
  endAccess(ref: number): boolean {
    const entry = this.entries.get(ref);
    if (!entry) throw new Error(`grant ${ref} ended twice`);
    if (entry.maps > 0) return false;
    this.entries.delete(ref);
    this.freeRefs.push(ref);
    return true;
  }

  /** What `domain` can map of this one. */
  mapperFor(domain: number): GrantMapper & { readonly live: number } {
    const { memory, entries } = this;
    const handles: (number | undefined)[] = [];
    return {
      memory,
      get live() {
        return handles.filter((ref) => ref !== undefined).length;
      },
      map(ref, readOnly) {
        const entry = entries.get(ref);
        if (entry?.domain !== domain) return GrantStatus.bad_gntref;
        if (entry.readOnly && !readOnly) return GrantStatus.permission_denied;
        entry.maps++;
        return handles.push(ref) - 1;
      },
      address: (handle) => entries.get(handles[handle] ?? -1)?.address ?? Number.NaN,
      unmap(handle) {
        const entry = entries.get(handles[handle] ?? -1);
        if (!entry) throw new Error(`handle ${handle} is not mapped`);
        handles[handle] = undefined;
        entry.maps--;
        return GrantStatus.okay;
      },
      written: () => undefined,
    };
  }
}

/** Event channels between any domains; handlers run in a turn of their own. */
export class FakeEvents {
  private readonly ends = new Map<string, { remote: number; peer: string | undefined; handler?: () => void }>();
  private next = 1;
  sent = 0;

  get open(): number {
    return this.ends.size;
  }

  of(domain: number): EventChannelPort {
    const key = (port: number): string => `${domain}/${port}`;
    return {
      allocUnbound: (remote) => {
        const port = this.next++;
        this.ends.set(key(port), { remote, peer: undefined });
        return port;
      },
      bindInterdomain: (remote, remotePort) => {
        const end = this.ends.get(`${remote}/${remotePort}`);
        if (end?.remote !== domain || end.peer !== undefined) return -Errno.EINVAL;
        const port = this.next++;
        this.ends.set(key(port), { remote, peer: `${remote}/${remotePort}` });
        end.peer = key(port);
        return port;
      },
      close: (port) => {
        const end = this.ends.get(key(port));
        if (!end) throw new Error(`port ${port} closed twice`);
        const peer = end.peer === undefined ? undefined : this.ends.get(end.peer);
        if (peer) peer.peer = undefined;
        this.ends.delete(key(port));
      },
      notify: (port) => {
        this.sent++;
        const peer = this.ends.get(key(port))?.peer;
        setImmediate(() => this.ends.get(peer ?? "")?.handler?.());
      },
    };
  }

  listen(domain: number, port: number, handler: () => void): () => void {
    const end = this.ends.get(`${domain}/${port}`);
    if (!end) throw new Error(`no port ${port}`);
    end.handler = handler;
    // Whoever begins to listen looks once.
    setImmediate(() => end.handler?.());
    return () => {
      delete end.handler;
    };
  }
}

interface Attached {
  readonly services: BlockRingService[];
  readonly release: () => void;
}

/** Serves rings with the real data path, over disks in memory. */
export class TestVbdService implements VbdService {
  readonly disk: FakeStore;
  readonly opened = new Map<string, VbdSpecification>();
  readonly attached = new Map<string, Attached>();
  readonly channels: BlockChannel[] = [];
  readonly grants;
  openFailure: VbdResult<VbdFacts> | undefined;
  legacy: LegacyDevices | undefined;
  /** Serve nothing: requests stay in the ring. */
  deaf = false;
  /** Attach nothing: only the XenStore side is of interest. */
  hollow = false;
  attaches = 0;
  detaches = 0;
  private readonly events: FakeEvents;

  constructor(domain: FakeDomain, events: FakeEvents, disk = new FakeStore(1 << 20)) {
    this.grants = domain.mapperFor(BACKEND);
    this.events = events;
    this.disk = disk;
  }

  async open(device: VbdSpecification): Promise<VbdResult<VbdFacts>> {
    if (this.opened.has(device.key)) throw new Error(`${device.key} opened twice`);
    if (this.openFailure) return this.openFailure;
    this.opened.set(device.key, device);
    const { size, sectorSize, physicalSectorSize, readOnly, discard } = this.disk;
    return { ok: true, value: { size, sectorSize, physicalSectorSize, readOnly, discard } };
  }

  async attach(channel: BlockChannel): Promise<VbdResult<void>> {
    if (this.attached.has(channel.key)) throw new Error(`${channel.key} attached twice`);
    this.attaches++;
    if (this.channels.length < 100) this.channels.push(channel);
    if (this.hollow) {
      this.attached.set(channel.key, { services: [], release: () => undefined });
      return { ok: true, value: undefined };
    }
    const undo: (() => void)[] = [];
    const release = (): void => {
      for (const step of undo.splice(0)) step();
    };
    const services: BlockRingService[] = [];
    for (const { refs, eventChannel } of channel.rings) {
      const pages: number[] = [];
      for (const ref of refs) {
        const handle = this.grants.map(ref, false);
        if (handle < 0) {
          release();
          return { ok: false, errno: Errno.EINVAL, message: `ring page ${ref} cannot be mapped (${handle})` };
        }
        undo.push(() => this.grants.unmap(handle));
        pages.push(this.grants.address(handle));
      }
      const port = this.events.of(BACKEND).bindInterdomain(channel.frontendId, eventChannel);
      if (port < 0) {
        release();
        return { ok: false, errno: -port, message: `event channel ${eventChannel} cannot be bound` };
      }
      undo.push(() => this.events.of(BACKEND).close(eventPort(port)));
      services.push(this.serve(channel, pages, port));
    }
    this.attached.set(channel.key, { services, release });
    return { ok: true, value: undefined };
  }

  private serve(channel: BlockChannel, pages: readonly number[], port: number): BlockRingService {
    const protocol = blockProtocol(channel.protocol);
    if (!protocol) throw new Error(channel.protocol);
    const ring = new BackRing(new SharedRing(this.grants.memory, pages, protocol.slotSize));
    const own = memoryView(Math.ceil(inFlightSize(ring.size, protocol.slotSize) / PAGE) + 1);
    const target = { store: this.disk, readOnly: channel.readOnly };
    const service = new BlockRingService({
      protocol,
      ring,
      grants: this.grants,
      serves: this.legacy ?? target,
      features: {
        persistent: channel.persistent,
        maxIndirectSegments: 256,
        flush: true,
        barrier: true,
        discard: channel.discard,
      },
      inFlight: new InFlightRegion(own, 0, ring.size, protocol.slotSize),
      counters: new BlockCounters(),
      notify: () => this.events.of(BACKEND).notify(eventPort(port)),
      log: () => undefined,
    });
    service.start();
    const handle = (): void => {
      if (!this.deaf && service.service()) setImmediate(handle);
    };
    this.events.listen(BACKEND, port, handle);
    return service;
  }

  async detach(device: VbdIdentity): Promise<void> {
    const attached = this.attached.get(device.key);
    this.attached.delete(device.key);
    if (!attached) return;
    this.detaches++;
    await Promise.all(attached.services.map((service) => service.close()));
    attached.release();
  }

  async close(device: VbdIdentity): Promise<void> {
    if (!this.opened.delete(device.key)) throw new Error(`${device.key} closed twice`);
  }
}

/** The store, with both domains introduced. */
export class Lab {
  readonly daemon = new Xenstored();
  readonly frontend = new FakeDomain(1500);
  readonly events = new FakeEvents();
  readonly log: string[] = [];
  private readonly clients: XenstoreClient[] = [];

  constructor() {
    for (const [id, driverDomain] of [
      [BACKEND, true],
      [FRONTEND, false],
    ] as const) {
      this.daemon.toolstack.writeNodes(domainNodes({ id, name: `domain-${id}`, ramKib: 4096, vcpus: 1, driverDomain }));
      this.daemon.introduceDomain(id);
    }
  }

  client(domain: number): XenstoreClient {
    let receive: (bytes: Uint8Array) => void = () => undefined;
    const connection = this.daemon.connect(domain, { send: (bytes) => queueMicrotask(() => receive(bytes)) });
    const client = new XenstoreClient({
      send: (bytes) => connection.receive(bytes),
      onReceive: (listener) => {
        receive = listener;
      },
    });
    this.clients.push(client);
    return client;
  }

  addVbd(options: Partial<VbdDescription> = {}): ReturnType<typeof vbdDirectories> {
    const device: VbdDescription = {
      frontendId: FRONTEND,
      backendId: BACKEND,
      vdev: XVDA,
      readOnly: false,
      deviceType: "disk",
      type: "file",
      params: "/images/disk.img",
      store: { kind: "file", path: "/images/disk.img" },
      ...options,
    };
    this.daemon.toolstack.writeNodes(vbdNodes(device));
    return vbdDirectories(device);
  }

  detachVbd(vdev = XVDA): void {
    for (const { path, value } of vbdDetachNodes({ frontendId: FRONTEND, backendId: BACKEND, vdev })) {
      this.daemon.toolstack.write(path, value);
    }
  }

  read(path: string): string | undefined {
    return this.daemon.toolstack.read(path);
  }

  blkback(service: VbdService, limits: Partial<BlkbackLimits> = {}): Blkback {
    return new Blkback({ store: this.client(BACKEND), service, limits, log: (message) => this.note(message) });
  }

  blkfront(options: Partial<BlkfrontOptions> = {}): Blkfront {
    return new Blkfront({
      store: this.client(FRONTEND),
      vdev: XVDA,
      grants: this.frontend,
      events: this.events.of(FRONTEND),
      listen: (port, handler) => this.events.listen(FRONTEND, port, handler),
      log: (message) => this.note(message),
      ...options,
    });
  }

  /** Waits until a node has a value (or is gone): by watching, with nothing timed. */
  until(path: string, value: string | undefined): Promise<void> {
    return new Promise((resolve) => {
      let done = false;
      const unwatch = this.daemon.toolstack.watch(path, () => {
        if (done || this.read(path) !== value) return;
        done = true;
        queueMicrotask(() => unwatch());
        resolve();
      });
    });
  }

  close(): void {
    for (const client of this.clients) client.close();
  }

  private note(message: string): void {
    if (this.log.length < 1000) this.log.push(message);
  }
}

/** Lets everything that is on its way happen. */
export async function settle(turns = 20): Promise<void> {
  for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
}
