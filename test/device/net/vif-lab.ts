/** Netback and netfronts of one guest over a XenStore, and a switch that is a wire between the guest's interfaces. */
import { Errno } from "../../../engine/abi/errors.ts";
import type {
  NetChannel,
  VifIdentity,
  VifResult,
  VifService,
  VifSpecification,
} from "../../../engine/device/net/channel.ts";
import { NetCounters } from "../../../engine/device/net/counters.ts";
import type { Frame } from "../../../engine/device/net/frame.ts";
import { Netback } from "../../../engine/device/net/netback.ts";
import type { NetQueueChannel } from "../../../engine/device/net/netback-queue.ts";
import { Netfront, type NetfrontOptions } from "../../../engine/device/net/netfront.ts";
import type { PageAcceptor, PageExchange } from "../../../engine/device/net/page-exchange.ts";
import { RECEIVE_SLOT, TRANSMIT_SLOT } from "../../../engine/device/net/protocol.ts";
import type { NetTransportLimits } from "../../../engine/device/net/transport-parameters.ts";
import { queueRegion, Vif, vifRegionSize } from "../../../engine/device/net/vif.ts";
import { type VifDescription, vifDetachNodes, vifDirectories, vifNodes } from "../../../engine/device/net/vif-nodes.ts";
import { SharedRing } from "../../../engine/device/ring/layout.ts";
import { eventPort } from "../../../engine/memory/types.ts";
import { memoryView, PAGE } from "../block-backend-harness.ts";
import { BACKEND, type FakeDomain, FRONTEND, Lab } from "../xenbus-harness.ts";

export { BACKEND, FRONTEND };
export const MAC = "00:16:3e:12:34:56";

interface Attached {
  readonly vif: Vif;
  readonly release: () => void;
}

/** Serves rings with the real data path; every frame goes to all other interfaces. */
export class WireService implements VifService {
  readonly opened = new Map<string, VifSpecification>();
  readonly attached = new Map<string, Attached>();
  readonly channels: NetChannel[] = [];
  readonly multicast: boolean[] = [];
  readonly counters = new NetCounters();
  readonly frames: Uint8Array[] = [];
  flip: PageExchange | undefined;
  openFailure: VifResult<{ flip: boolean }> | undefined;
  /** Attach nothing: only the XenStore side is of interest. */
  hollow = false;
  /** Frames go back where they came from. */
  echo = false;
  readonly grants;
  private readonly lab: Lab;

  constructor(lab: Lab) {
    this.lab = lab;
    this.grants = lab.frontend.mapperFor(BACKEND);
  }

  async open(vif: VifSpecification): Promise<VifResult<{ flip: boolean }>> {
    if (this.opened.has(vif.key)) throw new Error(`${vif.key} opened twice`);
    if (this.openFailure) return this.openFailure;
    this.opened.set(vif.key, vif);
    return { ok: true, value: { flip: this.flip !== undefined } };
  }

  async attach(channel: NetChannel): Promise<VifResult<void>> {
    if (this.attached.has(channel.key)) throw new Error(`${channel.key} attached twice`);
    this.channels.push(channel);
    const undo: (() => void)[] = [];
    const release = (): void => {
      for (const step of undo.splice(0)) step();
    };
    const events = this.lab.events.of(BACKEND);
    const own = memoryView(Math.ceil(vifRegionSize(channel.queues.length) / PAGE) + 1);
    const queues: NetQueueChannel[] = [];
    const ports: number[] = [];
    for (const [n, queue] of (this.hollow ? [] : channel.queues).entries()) {
      const pages = [queue.transmitRef, queue.receiveRef].map((ref) => {
        const handle = this.grants.map(ref, false);
        if (handle >= 0) undo.push(() => this.grants.unmap(handle));
        return handle < 0 ? -1 : this.grants.address(handle);
      });
      const bind = (remote: number): number => {
        const port = events.bindInterdomain(FRONTEND, remote);
        if (port >= 0) undo.push(() => events.close(eventPort(port)));
        if (port >= 0) ports.push(port);
        return port;
      };
      const transmit = bind(queue.transmitPort);
      const receive = queue.receivePort === queue.transmitPort ? transmit : bind(queue.receivePort);
      if (pages.includes(-1) || transmit < 0 || receive < 0) {
        release();
        return { ok: false, errno: Errno.EINVAL, message: "the rings cannot be mapped" };
      }
      const notifyTransmit = (): void => events.notify(eventPort(transmit));
      queues.push({
        transmit: new SharedRing(this.grants.memory, [pages[0]!], TRANSMIT_SLOT),
        receive: new SharedRing(this.grants.memory, [pages[1]!], RECEIVE_SLOT),
        notifyTransmit,
        notifyReceive: receive === transmit ? notifyTransmit : () => events.notify(eventPort(receive)),
        memory: own,
        address: queueRegion(n),
        adopted: false,
      });
    }
    const vif = this.makeVif(channel, queues, own);
    const handle = (): void => {
      while (vif.poll(64) > 0);
      if (vif.arm()) setImmediate(handle);
    };
    for (const port of ports) this.lab.events.listen(BACKEND, port, handle);
    this.attached.set(channel.key, { vif, release });
    return { ok: true, value: undefined };
  }

  private makeVif(channel: NetChannel, queues: NetQueueChannel[], own: ReturnType<typeof memoryView>): Vif {
    const others = (): Vif[] =>
      [...this.attached].filter(([key]) => this.echo === (key === channel.key)).map(([, { vif }]) => vif);
    return new Vif({
      grants: this.grants,
      exchange: channel.receive === "flip" ? this.flip : undefined,
      accepts: channel.accepts,
      prepare: () => [],
      tells: channel.tells,
      sink: {
        receive: (frame: Frame) => {
          const bytes = new Uint8Array(frame.length);
          frame.copyTo(bytes, 0);
          if (this.frames.length < 1000) this.frames.push(bytes);
          for (const vif of others()) vif.deliver(frame);
        },
        batchEnd: () => {
          for (const vif of others()) vif.flush();
        },
      },
      counters: this.counters,
      now: () => 0,
      log: () => undefined,
      queues,
      multicast: { memory: own, address: 0 },
      multicastControl: channel.multicastControl,
    });
  }

  setMulticastControl(_vif: VifIdentity, enabled: boolean): void {
    this.multicast.push(enabled);
  }

  async detach(vif: VifIdentity): Promise<void> {
    const attached = this.attached.get(vif.key);
    this.attached.delete(vif.key);
    attached?.vif.close();
    attached?.release();
  }

  async close(vif: VifIdentity): Promise<void> {
    if (!this.opened.delete(vif.key)) throw new Error(`${vif.key} closed twice`);
  }
}

export class VifLab extends Lab {
  readonly received: { handle: number; bytes: Uint8Array; frame: Partial<Frame> }[] = [];

  addVif(options: Partial<VifDescription> = {}): ReturnType<typeof vifDirectories> {
    const vif: VifDescription = {
      frontendId: FRONTEND,
      backendId: BACKEND,
      handle: 0,
      mac: MAC,
      bridge: "lab0",
      settings: { firewall: [] },
      ...options,
    };
    this.daemon.toolstack.writeNodes(vifNodes(vif));
    return vifDirectories(vif);
  }

  detachVif(handle = 0): void {
    for (const { path, value } of vifDetachNodes({ frontendId: FRONTEND, backendId: BACKEND, handle })) {
      this.daemon.toolstack.write(path, value);
    }
  }

  netback(service: VifService, limits: Partial<NetTransportLimits> = {}): Netback {
    return new Netback({ store: this.client(BACKEND), service, limits, log: (message) => this.log.push(message) });
  }

  netfront(options: Partial<NetfrontOptions> = {}): Netfront {
    const handle = options.handle ?? 0;
    return new Netfront({
      store: this.client(FRONTEND),
      handle,
      grants: this.frontend,
      events: this.events.of(FRONTEND),
      listen: (port, handler) => this.events.listen(FRONTEND, port, handler),
      receive: (frame) => {
        const bytes = new Uint8Array(frame.length);
        frame.copyTo(bytes, 0);
        const { checksum, segmentation, segmentSize } = frame;
        this.received.push({ handle, bytes, frame: { checksum, segmentation, segmentSize } });
      },
      log: (message) => this.log.push(message),
      ...options,
    });
  }
}

/** Both sides of an exchange of pages: a guest's frames, and a backend's pool. */
export class FlipWorld implements PageExchange, PageAcceptor {
  readonly memory = memoryView(16);
  /** Pages that the guest has: it must have as many afterwards as before. */
  guestPages = 0;
  /** Pages of the backend: those in its pool and those in use. */
  backendPages = 16;
  transfers = 0;
  private readonly domain: FakeDomain;
  private readonly free = Array.from({ length: 16 }, (_, n) => n * PAGE);
  private readonly offers = new Map<number, { page: number; come: boolean }>();
  private next = 5000;

  constructor(domain: FakeDomain) {
    this.domain = domain;
  }

  offer(domain: number, page: number): number | undefined {
    if (domain !== BACKEND) throw new Error(`an offer to ${domain}`);
    // What was there is gone.
    this.domain.memory.bytes.fill(0xdd, page, page + PAGE);
    this.guestPages--;
    const ref = this.next++;
    this.offers.set(ref, { page, come: false });
    return ref;
  }
  accept(ref: number): number | undefined {
    const offer = this.offers.get(ref);
    if (!offer) throw new Error(`offer ${ref} ended twice`);
    this.offers.delete(ref);
    if (offer.come) return offer.page;
    this.guestPages++;
    this.domain.freePage(offer.page);
    return undefined;
  }
  take(): number | undefined {
    const page = this.free.pop();
    if (page !== undefined) this.memory.bytes.fill(0, page, page + PAGE);
    return page;
  }
  give(page: number): void {
    this.free.push(page);
  }
  transfer(ref: number, page: number): boolean {
    const offer = this.offers.get(ref);
    if (!offer || offer.come) return false;
    offer.come = true;
    this.domain.memory.bytes.set(this.memory.bytes.subarray(page, page + PAGE), offer.page);
    this.guestPages++;
    this.transfers++;
    // Given away, and another populated in its place.
    this.free.push(page);
    return true;
  }
  get poolPages(): number {
    return this.free.length;
  }
}
