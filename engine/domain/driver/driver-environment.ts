/** Rings of a driver domain: event channels between domains, state in RAM that outlives the process. */
import { Errno } from "../../abi/errors.ts";
import { grantMapper } from "../../hypervisor/grant-mapper.ts";
import { PortKind } from "../../hypervisor/port-table.ts";
import type { EventPort } from "../../memory/types.ts";
import type { DomainThread } from "../domain-thread.ts";
import type { AdoptingMapper, BoundRing, RingGrants, RingIdentity } from "./ring-environment.ts";
import { type RegisteredRing, RingRegistry } from "./ring-registry.ts";
import type { RingEnvironment } from "./vbd-thread.ts";

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

  private bound(ring: Omit<RegisteredRing, keyof RingIdentity | "generation">, adopted: boolean): BoundRing {
    const { slot, port, secondPort, handles } = ring;
    const memory = this.thread.mapping;
    return {
      port,
      ...(secondPort !== undefined && { secondPort }),
      handles,
      memory,
      inFlight: this.registry.inFlight(slot),
      counters: { buffer: memory.bytes.buffer, address: this.registry.counters(slot) },
      adopted,
    };
  }

  adopt(identity: RingIdentity, mapper: AdoptingMapper, grants: RingGrants): BoundRing | undefined {
    const ring = this.registry.find(identity);
    if (ring === undefined) return undefined;
    const stands =
      ring.generation === this.generation(identity.frontend) &&
      ring.handles.length === grants.refs.length &&
      this.leadsTo(ring.port, identity.frontend, grants.eventChannel) &&
      this.leadsTo(ring.secondPort, identity.frontend, grants.secondEventChannel) &&
      ring.handles.every((handle) => mapper.adopt(handle));
    if (stands) return this.bound(ring, true);
    this.release(ring);
    return undefined;
  }

  /** Whether a port of ours is bound to that of a frontend; both undefined: none is, and none is wanted. */
  private leadsTo(port: number | undefined, frontend: number, remote: number | undefined): boolean {
    if (port === undefined || remote === undefined) return port === remote;
    const channel = this.thread.events.get(port);
    return channel.kind === PortKind.interdomain && channel.domain === frontend && channel.number === remote;
  }

  private generation(frontend: number): number {
    return this.thread.maps.grantor(frontend)?.generation ?? 0;
  }

  bind(
    identity: RingIdentity,
    handles: readonly number[],
    eventChannel: number,
    secondEventChannel?: number,
  ): BoundRing | number {
    const { events } = this.thread;
    const { frontend } = identity;
    const port = events.bindInterdomain(frontend, eventChannel);
    if (port < 0) return port;
    const second = secondEventChannel === undefined ? undefined : events.bindInterdomain(frontend, secondEventChannel);
    const undo = (errno: number) => {
      for (const bound of [port, second ?? -1]) if (bound >= 0) events.close(bound);
      return errno;
    };
    if (second !== undefined && second < 0) return undo(second);
    const name = { ...identity, generation: this.generation(frontend) };
    const resources = { port, handles, ...(second !== undefined && { secondPort: second }) };
    const slot = this.registry.add(name, resources);
    return slot === undefined ? undo(-Errno.ENOSPC) : this.bound({ slot, ...resources }, false);
  }

  serve(bound: BoundRing, handler: () => boolean): void {
    this.thread.onEvent(bound.port, handler);
    if (bound.secondPort !== undefined) this.thread.onEvent(bound.secondPort, handler);
  }

  notify(port: EventPort): void {
    this.thread.events.send(port);
  }

  unbind(identity: RingIdentity, bound: BoundRing): void {
    for (const port of [bound.port, bound.secondPort]) {
      if (port === undefined) continue;
      this.thread.offEvent(port);
      this.thread.events.close(port);
    }
    const ring = this.registry.find(identity);
    if (ring) this.registry.remove(ring.slot);
  }

  /** Lets go of a ring that nobody adopts: its grants, its port, its entry. */
  private release(ring: RegisteredRing): void {
    for (const handle of ring.handles) this.thread.maps.unmap(handle);
    this.thread.events.close(ring.port);
    if (ring.secondPort !== undefined) this.thread.events.close(ring.secondPort);
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
