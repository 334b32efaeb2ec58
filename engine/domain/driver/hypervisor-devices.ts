/**
 * The XenStore side of backends that run in the hypervisor: domain 0's blkback for the devices of one guest, in that guest's
 * process. The rings are served on the vCPU's thread (hypervisor-environment.ts), which gets requests from here.
 */
import type { MessagePort } from "node:worker_threads";
import { Blkback } from "../../device/block/blkback.ts";
import type { BlockChannel, VbdIdentity, VbdResult, VbdService, VbdSpecification } from "../../device/block/channel.ts";
import { XenstoreClient } from "../../xenstore/client.ts";
import { ClientRelay, type RelayMessage } from "../../xenstore/relay.ts";
import type { CallAnswer } from "../typescript/protocol.ts";
import { ServedCalls } from "../typescript/served-calls.ts";
import type { BackendAnswer, BackendRequest } from "../worker-protocol.ts";
import { StorageControl } from "./storage-control.ts";
import type { StorageRequest } from "./storage-io.ts";

export interface HypervisorDevicesOptions {
  readonly guest: number;
  /** To the vCPU's thread. */
  readonly requests: MessagePort;
  /** Tells that thread that there is a request. */
  readonly ring: () => void;
  /** To the XenStore daemon, as domain 0. */
  readonly post: (message: RelayMessage) => void;
  readonly log: (line: string) => void;
}

/** Hands everything over to the vCPU's thread. */
class VcpuService implements VbdService {
  private readonly requests: MessagePort;
  private readonly ring: () => void;
  private readonly waiting = new Map<number, (value: unknown) => void>();
  private next = 0;

  constructor(requests: MessagePort, ring: () => void) {
    this.requests = requests;
    this.ring = ring;
    requests.on("message", ({ id, value }: BackendAnswer) => {
      this.waiting.get(id)?.(value);
      this.waiting.delete(id);
    });
    // The guest's end must not wait for this port.
    requests.unref();
  }

  call(request: StorageRequest): Promise<unknown> {
    const message: BackendRequest = { id: this.next++, request };
    return new Promise((resolve) => {
      this.waiting.set(message.id, resolve);
      this.requests.postMessage(message);
      this.ring();
    });
  }

  async open({ key, frontendId, vdev, store, readOnly }: VbdSpecification) {
    const request = { identity: { key, frontendId, vdev }, store, readOnly };
    return (await this.call({ op: "open", request })) as Awaited<ReturnType<VbdService["open"]>>;
  }

  async attach(channel: BlockChannel): Promise<VbdResult<void>> {
    return (await this.call({ op: "attach", channel })) as VbdResult<void>;
  }

  async detach({ key, frontendId, vdev }: VbdIdentity): Promise<void> {
    await this.call({ op: "detach", device: { key, frontendId, vdev } });
  }

  async close({ key, frontendId, vdev }: VbdIdentity): Promise<void> {
    await this.call({ op: "close", device: { key, frontendId, vdev } });
  }
}

export class HypervisorDevices {
  private readonly relay: ClientRelay;
  private readonly backend: Blkback;
  private readonly calls = new ServedCalls();
  private started: () => void = () => {};

  constructor({ guest, requests, ring, post, log }: HypervisorDevicesOptions) {
    this.relay = new ClientRelay(post);
    const store = new XenstoreClient(this.relay);
    const service = new VcpuService(requests, ring);
    this.backend = new Blkback({ store, service, log, frontend: guest });
    const started = new Promise<void>((resolve) => {
      this.started = resolve;
    });
    const server = (request: StorageRequest) => service.call(request);
    this.calls.serve(new StorageControl({ backend: this.backend, started, servers: () => [server] }).calls());
  }

  /** Begins to watch for devices. */
  async start(): Promise<void> {
    await this.backend.start();
    this.started();
  }

  /**
   * Performs a call of the host (storage-calls.ts). The vCPU's thread has a part in it: one that is stopped between two
   * instructions has to answer requests all the same. Never rejects.
   */
  call(method: string, argument: unknown): Promise<CallAnswer> {
    return this.calls.call(method, argument);
  }

  receive(message: RelayMessage): void {
    this.relay.receive(message);
  }
}
