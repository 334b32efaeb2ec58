/**
 * Block backends inside the hypervisor, the Xen 1.0 way: they run on the guest's vCPU thread, called from the hypercall that
 * sends the event. No other thread is woken and nothing waits; while the host's disk works, the guest does not.
 */
import { Errno } from "../../abi/errors.ts";
import { PAGE_SIZE } from "../../abi/xen.ts";
import type { Domain } from "../../hypervisor/domain.ts";
import { GrantMaps, type Grantor } from "../../hypervisor/grant-map.ts";
import { PeerGrantMapper } from "../../hypervisor/grant-mapper.ts";
import type { GuestCpu } from "../../hypervisor/guest-cpu.ts";
import { planFrames } from "../../memory/frame-plan.ts";
import { createGuestMemory, type Mapping } from "../../memory/guest-memory.ts";
import { Peers } from "../../memory/peers.ts";
import { DOM0, type EventPort } from "../../memory/types.ts";
import type { AdoptingMapper, BoundRing, RingIdentity } from "./ring-environment.ts";
import { IN_FLIGHT_BYTES } from "./ring-registry.ts";
import { GuestRingStatistics } from "./statistics.ts";
import type { RingEnvironment } from "./vbd-thread.ts";

/** Domain 0 has no RAM here; its maptrack has to be somewhere. */
const LEAST_RAM = 1 << 20;

/** On the vCPU's own thread nobody needs to be waited for. */
class OwnGrantMapper extends PeerGrantMapper {
  private readonly cpu: GuestCpu;

  constructor(maps: GrantMaps, grantor: Grantor, cpu: GuestCpu) {
    super(maps, grantor);
    this.cpu = cpu;
  }

  override written(address: number, length: number): void {
    for (let page = address - (address % PAGE_SIZE); page < address + length; page += PAGE_SIZE)
      this.cpu.dropCode(page);
  }
}

/** Memory for a ring's requests in flight: it need not outlive the thread, as the guest does not either. */
function ringMemory() {
  const buffer = new SharedArrayBuffer(IN_FLIGHT_BYTES);
  return {
    bytes: new Uint8Array(buffer),
    words: new Int32Array(buffer),
    view: new DataView(buffer),
    nativeAddress: 0n,
  };
}

export class HypervisorEnvironment implements RingEnvironment {
  readonly log: (line: string) => void;
  private readonly domain: Domain;
  private readonly cpu: GuestCpu;
  private readonly maps: GrantMaps;
  private readonly statistics: GuestRingStatistics;

  constructor(domain: Domain, cpu: GuestCpu, log: (line: string) => void) {
    this.domain = domain;
    this.cpu = cpu;
    this.log = log;
    this.statistics = new GuestRingStatistics(domain.mapping);
    const own: Mapping = createGuestMemory(planFrames(LEAST_RAM), 0, "threads").attach();
    const peers = new Peers({ get: () => undefined, lives: (id) => id === domain.id }, DOM0, own);
    peers.adopt({ id: domain.id, generation: 0, mapping: domain.mapping, descriptor: -1 });
    this.maps = new GrantMaps(own, DOM0, peers);
  }

  mapper(frontend: number): AdoptingMapper | undefined {
    const grantor = this.maps.grantor(frontend);
    return grantor === undefined ? undefined : new OwnGrantMapper(this.maps, grantor, this.cpu);
  }

  /** The guest and its backends end together: there is nothing to adopt. */
  adopt(): undefined {
    return undefined;
  }

  bind({ vdev, queue }: RingIdentity, handles: readonly number[], eventChannel: number): BoundRing | number {
    const address = this.statistics.add(vdev, queue);
    if (address === undefined) return -Errno.ENOSPC;
    const counters = { buffer: this.domain.mapping.bytes.buffer, address };
    const ring: BoundRing = {
      port: eventChannel,
      handles,
      memory: ringMemory(),
      inFlight: 0,
      counters,
      adopted: false,
    };
    if (this.domain.events.bindFromHost(eventChannel)) return ring;
    this.statistics.remove(address);
    return -Errno.EINVAL;
  }

  serve(bound: BoundRing, handler: () => boolean): void {
    // The guest does nothing meanwhile, so its ring runs empty.
    const serveAll = () => {
      while (handler());
    };
    this.domain.events.serveFromHost(bound.port, serveAll);
    serveAll();
  }

  notify(port: EventPort): void {
    this.domain.delivery.setPending(port);
  }

  unbind(_ring: RingIdentity, bound: BoundRing): void {
    this.statistics.remove(bound.counters.address);
    this.domain.events.unbindFromHost(bound.port);
  }
}
