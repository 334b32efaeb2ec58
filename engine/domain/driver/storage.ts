/**
 * The storage driver domain: a TypeScript domain whose kernel has block backends. The event loop watches XenStore; each
 * device is served by a blocking vCPU if its store is synchronous (files, block devices), on the event loop if not (NBD).
 */
import { Blkback } from "../../device/block/blkback.ts";
import type { BlockChannel, VbdIdentity, VbdResult, VbdService, VbdSpecification } from "../../device/block/channel.ts";
import type { IoVcpu, Kernel, TypescriptDomain } from "../typescript/kernel.ts";
import { DriverEnvironment } from "./driver-environment.ts";
import { perform, type StorageRequest } from "./storage-io.ts";
import { VbdThread } from "./vbd-thread.ts";

/** Blocking vCPUs at most; more devices than that share them. */
const MOST_VCPUS = 16;

/** Whoever performs a device's requests. */
type Server = (request: StorageRequest) => Promise<unknown>;

class StorageService implements VbdService {
  private readonly domain: TypescriptDomain;
  private readonly environment: DriverEnvironment;
  private readonly module = new URL("./storage-io.js", import.meta.url).href;
  private readonly vcpus: { readonly vcpu: IoVcpu; devices: number }[] = [];
  private readonly eventLoop: VbdThread;
  private readonly servers = new Map<string, { readonly server: Server; readonly leave: () => void }>();

  constructor(domain: TypescriptDomain, environment: DriverEnvironment) {
    this.domain = domain;
    this.environment = environment;
    this.eventLoop = new VbdThread(environment);
  }

  private blockingServer(): { server: Server; leave: () => void } {
    let entry = this.vcpus.toSorted((a, b) => a.devices - b.devices)[0];
    if (entry === undefined || (entry.devices > 0 && this.vcpus.length < MOST_VCPUS)) {
      entry = { vcpu: this.domain.startVcpu(this.module), devices: 0 };
      this.vcpus.push(entry);
    }
    const chosen = entry;
    chosen.devices++;
    return {
      server: (request) => chosen.vcpu.call(request),
      leave: () => {
        chosen.devices--;
      },
    };
  }

  private choose(device: VbdSpecification): Server {
    const kind = (device.store as { kind?: unknown } | null)?.kind;
    const entry =
      kind === "nbd"
        ? { server: (request: StorageRequest) => perform(this.eventLoop, request), leave: () => {} }
        : this.blockingServer();
    this.servers.set(device.key, entry);
    return entry.server;
  }

  async open(device: VbdSpecification) {
    const { key, frontendId, vdev, store, readOnly } = device;
    const server = this.servers.get(key)?.server ?? this.choose(device);
    const request = { identity: { key, frontendId, vdev }, store, readOnly };
    const answer = (await server({ op: "open", request })) as Awaited<ReturnType<VbdService["open"]>>;
    if (!answer.ok) this.leave(device);
    return answer;
  }

  async attach(channel: BlockChannel): Promise<VbdResult<void>> {
    const server = this.servers.get(channel.key)?.server;
    if (server === undefined) return { ok: false, errno: 19, message: "the image is not open" };
    return (await server({ op: "attach", channel })) as VbdResult<void>;
  }

  async detach({ key, frontendId, vdev }: VbdIdentity): Promise<void> {
    await this.servers.get(key)?.server({ op: "detach", device: { key, frontendId, vdev } });
    this.environment.discard(frontendId, vdev);
  }

  async close({ key, frontendId, vdev }: VbdIdentity): Promise<void> {
    await this.servers.get(key)?.server({ op: "close", device: { key, frontendId, vdev } });
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
  const backend = new Blkback({ store: domain.store, service: new StorageService(domain, environment), log });
  const devices = await backend.start();
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
