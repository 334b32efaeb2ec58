/**
 * The network interfaces that a driver domain serves: rings mapped and channels bound when a frontend connects, adopted when an
 * earlier process had done so, all polled by one loop.
 */
import { Errno } from "../../abi/errors.ts";
import type {
  NetChannel,
  NetQueueGrants,
  VifFacts,
  VifIdentity,
  VifResult,
  VifService,
  VifSpecification,
} from "../../device/net/channel.ts";
import { NetCounters } from "../../device/net/counters.ts";
import { NET_QUEUE_REGION, type NetQueueChannel, queueIsSound } from "../../device/net/netback-queue.ts";
import type { PageExchange } from "../../device/net/page-exchange.ts";
import { RECEIVE_SLOT, TRANSMIT_SLOT } from "../../device/net/protocol.ts";
import type { FramePreparation } from "../../device/net/receive-ring.ts";
import { Vif } from "../../device/net/vif.ts";
import { SharedRing } from "../../device/ring/layout.ts";
import type { EventPort } from "../../memory/types.ts";
import type { Clock } from "../../network/types.ts";
import { vifName } from "../network-config.ts";
import { bindRing, type Failure, failed } from "./bind-ring.ts";
import type { DriverEnvironment } from "./driver-environment.ts";
import type { NetworkInterface } from "./network-interface.ts";
import type { NetworkLab } from "./network-lab.ts";
import type { PollLoop } from "./network-poll.ts";
import type { AdoptingMapper, BoundRing, RingGrants, RingIdentity } from "./ring-environment.ts";

/** Where an interface's multicast addresses lie in the region of its first queue. */
const MULTICAST_AT = Math.ceil(NET_QUEUE_REGION / 8) * 8;

export interface NetworkVifsOptions {
  readonly environment: DriverEnvironment;
  readonly lab: NetworkLab;
  readonly loop: PollLoop;
  readonly clock: Clock;
  /** Makes of a frame what a frontend takes. */
  readonly prepare: FramePreparation;
  /** A way to exchange pages with a frontend; undefined: there is none. */
  readonly exchange: (frontend: number) => PageExchange | undefined;
  readonly log: (line: string) => void;
}

interface AttachedQueue {
  readonly identity: RingIdentity;
  readonly bound: BoundRing;
}

interface Device {
  readonly port: NetworkInterface;
  attached:
    | { readonly vif: Vif; readonly mapper: AdoptingMapper; readonly queues: readonly AttachedQueue[] }
    | undefined;
}

/** A queue's grants in the form that all rings have. */
function ringGrants(queue: NetQueueGrants): RingGrants {
  const split = queue.transmitPort !== queue.receivePort;
  return {
    refs: [queue.transmitRef, queue.receiveRef],
    eventChannel: queue.transmitPort,
    ...(split && { secondEventChannel: queue.receivePort }),
  };
}

export class NetworkVifs implements VifService {
  private readonly options: NetworkVifsOptions;
  private readonly devices = new Map<string, Device>();

  constructor(options: NetworkVifsOptions) {
    this.options = options;
  }

  async open(spec: VifSpecification): Promise<VifResult<VifFacts>> {
    const made = this.options.lab.addInterface(vifName(spec.frontendId, spec.handle), spec);
    if (!made.ok) return made;
    this.devices.set(spec.key, { port: made.value, attached: undefined });
    const { queues } = made.value;
    const flip = this.options.exchange(spec.frontendId) !== undefined;
    return { ok: true, value: { flip, ...(queues !== undefined && { queues }) } };
  }

  async attach(channel: NetChannel): Promise<VifResult<void>> {
    const device = this.devices.get(channel.key);
    if (device === undefined) return failed(Errno.ENODEV, "the interface is on no switch");
    const mapper = this.options.environment.mapper(channel.frontendId);
    if (mapper === undefined) return failed(Errno.ESRCH, `domain ${channel.frontendId} is gone`);
    const queues: AttachedQueue[] = [];
    for (const [queue, grants] of channel.queues.entries()) {
      const identity = { frontend: channel.frontendId, vdev: channel.handle, queue };
      const bound = this.bindQueue(identity, ringGrants(grants), mapper, channel.resume);
      if (!("ok" in bound)) {
        queues.push({ identity, bound });
        continue;
      }
      this.release(mapper, queues);
      return bound;
    }
    if (!queues.every(({ bound }) => bound.adopted || queueIsSound(this.queueChannel(mapper, bound)))) {
      this.release(mapper, queues);
      return failed(Errno.EINVAL, "a ring claims more requests than it holds");
    }
    const vif = this.createVif(channel, device.port, mapper, queues);
    device.attached = { vif, mapper, queues };
    device.port.connect(vif);
    this.options.loop.add(vif);
    const kick = () => {
      this.options.loop.kick();
      return false;
    };
    for (const { bound } of queues) this.options.environment.serve(bound, kick);
    return { ok: true, value: undefined };
  }

  private bindQueue(
    identity: RingIdentity,
    grants: RingGrants,
    mapper: AdoptingMapper,
    resume: boolean,
  ): BoundRing | Failure {
    const { environment } = this.options;
    const adopted = resume ? environment.adopt(identity, mapper, grants) : undefined;
    if (adopted !== undefined) return adopted;
    return bindRing(
      mapper,
      grants.refs,
      (handles) => environment.bind(identity, handles, grants.eventChannel, grants.secondEventChannel),
      `the event channels of queue ${identity.queue}`,
    );
  }

  private queueChannel(mapper: AdoptingMapper, bound: BoundRing): NetQueueChannel {
    const { environment } = this.options;
    const [transmit = 0, receive = 0] = bound.handles;
    const ring = (handle: number, slot: number) => new SharedRing(mapper.memory, [mapper.address(handle)], slot);
    const notify = (port: number) => () => environment.notify(port as EventPort);
    const notifyTransmit = notify(bound.port);
    return {
      transmit: ring(transmit, TRANSMIT_SLOT),
      receive: ring(receive, RECEIVE_SLOT),
      notifyTransmit,
      notifyReceive: bound.secondPort === undefined ? notifyTransmit : notify(bound.secondPort),
      memory: bound.memory,
      address: bound.inFlight,
      adopted: bound.adopted,
    };
  }

  private createVif(
    channel: NetChannel,
    port: NetworkInterface,
    mapper: AdoptingMapper,
    queues: readonly AttachedQueue[],
  ): Vif {
    const { clock, prepare, exchange, log } = this.options;
    const [first] = queues;
    if (first === undefined) throw new RangeError("an interface without queues");
    const { bound } = first;
    return new Vif({
      grants: mapper,
      exchange: channel.receive === "flip" ? exchange(channel.frontendId) : undefined,
      accepts: channel.accepts,
      prepare,
      tells: channel.tells,
      sink: port.sink,
      counters: new NetCounters(bound.counters.buffer, bound.counters.address),
      now: () => clock.now(),
      log: (message) => log(`${port.name}: ${message}`),
      queues: queues.map((queue) => this.queueChannel(mapper, queue.bound)),
      multicast: { memory: bound.memory, address: bound.inFlight + MULTICAST_AT },
      multicastControl: channel.multicastControl,
    });
  }

  private vifsOf(frontendId: number): Vif[] {
    return [...this.devices]
      .filter(([key]) => key.startsWith(`vif/${frontendId}/`))
      .flatMap(([, { attached }]) => (attached === undefined ? [] : [attached.vif]));
  }

  /** Leaves a guest's rings and pages alone until serve(). */
  hold(frontendId: number): void {
    for (const vif of this.vifsOf(frontendId)) vif.hold();
  }

  /** Serves a guest again. */
  serve(frontendId: number): void {
    for (const vif of this.vifsOf(frontendId)) vif.release();
    this.options.loop.kick();
  }

  setMulticastControl({ key }: VifIdentity, enabled: boolean): void {
    this.devices.get(key)?.attached?.vif.setMulticastControl(enabled);
  }

  async detach({ key, frontendId, handle }: VifIdentity): Promise<void> {
    const { loop, environment } = this.options;
    const device = this.devices.get(key);
    const attached = device?.attached;
    if (device !== undefined && attached !== undefined) {
      device.attached = undefined;
      device.port.disconnect();
      loop.remove(attached.vif);
      attached.vif.close();
      this.release(attached.mapper, attached.queues);
    }
    environment.discard(frontendId, handle);
  }

  /** Unmaps the rings of queues and closes their ports. */
  private release(mapper: AdoptingMapper, queues: readonly AttachedQueue[]): void {
    for (const { identity, bound } of queues) {
      for (const handle of bound.handles) mapper.unmap(handle);
      this.options.environment.unbind(identity, bound);
    }
    mapper.close();
  }

  async close({ key }: VifIdentity): Promise<void> {
    const device = this.devices.get(key);
    this.devices.delete(key);
    device?.port.remove();
  }
}
