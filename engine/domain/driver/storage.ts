/**
 * The storage driver domain: a TypeScript domain whose kernel has block backends. The event loop watches XenStore; each
 * device is served by a blocking vCPU if its store is synchronous (files, block devices), on the event loop if not (NBD).
 */
import { Errno } from "../../abi/errors.ts";
import { Blkback } from "../../device/block/blkback.ts";
import type { BlockChannel, VbdIdentity, VbdResult, VbdService, VbdSpecification } from "../../device/block/channel.ts";
import { LEGACY_PROTOCOL } from "../../device/block/protocol.ts";
import type { IoVcpu, Kernel, TypescriptDomain } from "../typescript/kernel.ts";
import { DriverEnvironment } from "./driver-environment.ts";
import { StorageControl, type StorageServer } from "./storage-control.ts";
import { perform } from "./storage-io.ts";
import { type DeviceSize, VbdThread } from "./vbd-thread.ts";

/** Blocking vCPUs at most; more devices than that share them. */
const MOST_VCPUS = 16;

/** Where a device is served. */
interface Place {
  readonly server: StorageServer;
  /** The same for all devices that are served by one thread. */
  readonly thread: object;
  readonly leave: () => void;
}

/** A ring of the old message set, through which all disks of a guest are reached: they are open on its thread as well. */
interface LegacyRing {
  readonly frontendId: number;
  readonly place: Place;
  /** Devices that have been opened there for it, by key. */
  readonly others: Map<string, VbdIdentity>;
}

function kindOf(device: VbdSpecification): unknown {
  return (device.store as { kind?: unknown } | null)?.kind;
}

/** Whether its store waits for answers on the event loop: a thread that blocks cannot serve it. */
function needsEventLoop(device: VbdSpecification): boolean {
  return kindOf(device) === "nbd";
}

/** Whether only one store may be open on its image, as that keeps tables of it in memory. */
function opensOnce(device: VbdSpecification): boolean {
  return kindOf(device) === "qcow2";
}

class StorageService implements VbdService {
  private readonly domain: TypescriptDomain;
  private readonly environment: DriverEnvironment;
  private readonly module = new URL("./storage-io.js", import.meta.url).href;
  private readonly vcpus: { readonly vcpu: IoVcpu; devices: number }[] = [];
  private readonly eventLoop: VbdThread;
  private readonly servers = new Map<string, Place>();
  /** Devices that are open, by key. */
  private readonly opened = new Map<string, VbdSpecification>();
  /** Devices whose own rings are attached, by key. */
  private readonly attached = new Set<string>();
  private readonly legacyRings = new Map<string, LegacyRing>();

  /** @param resized a device's image has another size now */
  constructor(domain: TypescriptDomain, environment: DriverEnvironment, resized: (device: DeviceSize) => void) {
    this.domain = domain;
    this.environment = environment;
    this.eventLoop = new VbdThread(environment, { resized });
  }

  /** The threads that serve a guest's open devices, or one of them: each once. */
  serversOf(frontendId: number, key?: string): StorageServer[] {
    const own = [...this.opened.values()].filter((device) => device.frontendId === frontendId);
    const legacy = [...this.legacyRings.values()].filter((ring) => ring.frontendId === frontendId);
    const places = [
      ...own.filter((device) => device.key === (key ?? device.key)).map((device) => this.servers.get(device.key)),
      ...legacy.filter((ring) => key === undefined || ring.others.has(key)).map((ring) => ring.place),
    ].filter((place) => place !== undefined);
    return [...new Map(places.map((place) => [place.thread, place.server])).values()];
  }

  private blockingServer(): Place {
    let entry = this.vcpus.toSorted((a, b) => a.devices - b.devices)[0];
    if (entry === undefined || (entry.devices > 0 && this.vcpus.length < MOST_VCPUS)) {
      entry = { vcpu: this.domain.startVcpu(this.module), devices: 0 };
      this.vcpus.push(entry);
    }
    const chosen = entry;
    chosen.devices++;
    return {
      server: (request) => chosen.vcpu.call(request),
      thread: chosen.vcpu,
      leave: () => {
        chosen.devices--;
      },
    };
  }

  private choose(device: VbdSpecification): StorageServer {
    const thread = this.eventLoop;
    const place = needsEventLoop(device)
      ? { server: ((request) => perform(thread, request)) satisfies StorageServer, thread, leave: () => {} }
      : this.blockingServer();
    this.servers.set(device.key, place);
    return place.server;
  }

  async open(device: VbdSpecification) {
    const { key, frontendId, vdev, store, readOnly } = device;
    const server = this.servers.get(key)?.server ?? this.choose(device);
    const request = { identity: { key, frontendId, vdev }, store, readOnly };
    const answer = (await server({ op: "open", request })) as Awaited<ReturnType<VbdService["open"]>>;
    if (answer.ok) {
      this.opened.set(key, device);
      for (const ring of this.legacyRings.values()) await this.openFor(ring, device);
    } else {
      this.leave(device);
    }
    return answer;
  }

  /** Makes a device reachable through a ring of the old message set, if both are one guest's. */
  private async openFor(ring: LegacyRing, device: VbdSpecification): Promise<void> {
    const { key, frontendId, vdev, store, readOnly } = device;
    const { place, others } = ring;
    if (frontendId !== ring.frontendId || others.has(key) || this.servers.get(key)?.thread === place.thread) return;
    if (needsEventLoop(device) && place.thread !== this.eventLoop) return;
    const identity = { key, frontendId, vdev };
    const request = { identity, store, readOnly };
    if (opensOnce(device)) {
      // It moves there, unless it has rings of its own where it is: then it is not to be seen through that ring.
      if (this.attached.has(key)) return;
      await this.servers.get(key)?.server({ op: "close", device: identity });
      this.leave(device);
      this.servers.set(key, { ...place, leave: () => {} });
      await place.server({ op: "open", request });
      return;
    }
    others.set(key, identity);
    await place.server({ op: "open", request });
  }

  async attach(channel: BlockChannel): Promise<VbdResult<void>> {
    const { key, frontendId, protocol } = channel;
    const place = this.servers.get(key);
    if (place === undefined) return { ok: false, errno: Errno.ENODEV, message: "the image is not open" };
    if (protocol === LEGACY_PROTOCOL.name) {
      const ring = { frontendId, place, others: new Map<string, VbdIdentity>() };
      this.legacyRings.set(key, ring);
      for (const device of [...this.opened.values()]) await this.openFor(ring, device);
    }
    const result = (await place.server({ op: "attach", channel })) as VbdResult<void>;
    if (result.ok) this.attached.add(key);
    else await this.closeLegacy(key);
    return result;
  }

  /** Closes what was opened for a ring of the old message set. */
  private async closeLegacy(key: string): Promise<void> {
    const ring = this.legacyRings.get(key);
    this.legacyRings.delete(key);
    for (const device of ring?.others.values() ?? []) await ring?.place.server({ op: "close", device });
  }

  async detach({ key, frontendId, vdev }: VbdIdentity): Promise<void> {
    await this.servers.get(key)?.server({ op: "detach", device: { key, frontendId, vdev } });
    this.attached.delete(key);
    await this.closeLegacy(key);
    this.environment.discard(frontendId, vdev);
  }

  async close({ key, frontendId, vdev }: VbdIdentity): Promise<void> {
    const device = { key, frontendId, vdev };
    this.opened.delete(key);
    for (const { place, others } of this.legacyRings.values()) {
      if (others.delete(key)) await place.server({ op: "close", device });
    }
    await this.servers.get(key)?.server({ op: "close", device });
    this.leave({ key });
  }

  private leave({ key }: Pick<VbdIdentity, "key">): void {
    this.servers.get(key)?.leave();
    this.servers.delete(key);
  }
}

const storage: Kernel = async (domain) => {
  const log = (line: string) => domain.log(line);
  const environment = new DriverEnvironment(domain.thread, log);
  if (domain.restarted) environment.recover();
  const service = new StorageService(domain, environment, ({ key, size }) => backend.resized(key, size));
  const backend = new Blkback({ store: domain.store, service, log });
  const started = backend.start();
  const servers = (frontendId: number, key?: string) => service.serversOf(frontendId, key);
  domain.serve(new StorageControl({ backend, started, servers }).calls());
  const devices = await started;
  if (domain.restarted) {
    environment.sweep((frontend, vdev) =>
      devices.some((device) => device.frontendId === frontend && device.vdev === vdev),
    );
  }
  await new Promise<void>((resolve) => {
    if (domain.stopping.aborted) resolve();
    domain.stopping.addEventListener("abort", () => resolve(), { once: true });
  });
  await backend.close();
};

export default storage;
