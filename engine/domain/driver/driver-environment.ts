/** Rings of a driver domain: event channels between domains, state in RAM that outlives the process. */
import { Errno } from "../../abi/errors.ts";
import type { BlockRingGrants } from "../../device/block/channel.ts";
import { grantMapper } from "../../hypervisor/grant-mapper.ts";
import { PortKind } from "../../hypervisor/port-table.ts";
import type { EventPort } from "../../memory/types.ts";
import type { DomainThread } from "../domain-thread.ts";
import { type RegisteredRing, RingRegistry } from "./ring-registry.ts";
import type { AdoptingMapper, BoundRing, RingEnvironment, RingIdentity } from "./vbd-thread.ts";

export class DriverEnvironment implements RingEnvironment {
  private readonly thread: DomainThread;
  private readonly registry: RingRegistry;
  readonly log: (line: string) => void;

  constructor(thread: DomainThread, log: (line: string) => void) {
    this.thread = thread;
    this.registry = new RingRegistry(thread.mapping);
    this.log = log;
  }

  mapper(frontend: number): AdoptingMapper | undefined {
    return grantMapper(this.thread.maps, frontend);
  }

  private bound(ring: Pick<RegisteredRing, "slot" | "port" | "handles">, adopted: boolean): BoundRing {
    const { slot, port, handles } = ring;
    const memory = this.thread.mapping;
    return {
      port,
      handles,
      memory,
      inFlight: this.registry.inFlight(slot),
      counters: { buffer: memory.bytes.buffer, address: this.registry.counters(slot) },
      adopted,
    };
  }

  adopt(identity: RingIdentity, mapper: AdoptingMapper, grants: BlockRingGrants): BoundRing | undefined {
    const ring = this.registry.find(identity);
    if (ring === undefined) return undefined;
    const channel = this.thread.events.get(ring.port);
    const stands =
      ring.generation === this.generation(identity.frontend) &&
      ring.handles.length === grants.refs.length &&
      channel.kind === PortKind.interdomain &&
      channel.domain === identity.frontend &&
      channel.number === grants.eventChannel &&
      ring.handles.every((handle) => mapper.adopt(handle));
    if (stands) return this.bound(ring, true);
    this.release(ring);
    return undefined;
  }

  private generation(frontend: number): number {
    return this.thread.maps.grantor(frontend)?.generation ?? 0;
  }

  bind(identity: RingIdentity, handles: readonly number[], eventChannel: number): BoundRing | number {
    const port = this.thread.events.bindInterdomain(identity.frontend, eventChannel);
    if (port < 0) return port;
    const name = { ...identity, generation: this.generation(identity.frontend) };
    const slot = this.registry.add(name, { port, handles });
    if (slot !== undefined) return this.bound({ slot, port, handles }, false);
    this.thread.events.close(port);
    return -Errno.ENOSPC;
  }

  serve(bound: BoundRing, handler: () => boolean): void {
    this.thread.onEvent(bound.port, handler);
  }

  notify(port: EventPort): void {
    this.thread.events.send(port);
  }

  unbind(identity: RingIdentity, bound: BoundRing): void {
    this.thread.offEvent(bound.port);
    this.thread.events.close(bound.port);
    const ring = this.registry.find(identity);
    if (ring) this.registry.remove(ring.slot);
  }

  /** Lets go of a ring that nobody adopts: its grants, its port, its entry. */
  private release(ring: RegisteredRing): void {
    for (const handle of ring.handles) this.thread.maps.unmap(handle);
    this.thread.events.close(ring.port);
    this.registry.remove(ring.slot);
  }

  /**
   * First thing in a process that follows a killed one, before anything is served: pages of requests that were under way are
   * unmapped, as they are mapped again when those are repeated; rings stay.
   */
  recover(): void {
    this.registry.recover();
    const kept = new Set(this.registry.list().flatMap((ring) => ring.handles));
    for (const { handle } of this.thread.maps.listMaps()) if (!kept.has(handle)) this.thread.maps.unmap(handle);
  }

  /** Releases what is registered of a device: nothing, unless an earlier life of the domain left it. */
  discard(frontend: number, vdev: number): void {
    for (const ring of this.registry.list()) {
      if (ring.frontend === frontend && ring.vdev === vdev) this.release(ring);
    }
  }

  /** Releases the rings of devices that are no more. `exists` tells which are. */
  sweep(exists: (frontend: number, vdev: number) => boolean): void {
    for (const ring of this.registry.list()) if (!exists(ring.frontend, ring.vdev)) this.release(ring);
  }
}
