/** The domains of a host: their numbers and their memory, which the control plane owns so that it outlives their processes. */
import { EventChannels } from "../hypervisor/event-channel.ts";
import { EventDelivery } from "../hypervisor/event-delivery.ts";
import { type MapDomain, releaseMapsOf, settleMapsOf } from "../hypervisor/grant-recovery.ts";
import { DomainDirectory } from "../memory/domain-directory.ts";
import { planFrames } from "../memory/frame-plan.ts";
import { defaultMemoryKind, type GuestMemory, type Mapping } from "../memory/guest-memory.ts";
import { createMappedMemory } from "../memory/mapped.ts";
import { Peers } from "../memory/peers.ts";
import { domId } from "../memory/types.ts";
import { finishSending, finishTaking } from "./event-recovery.ts";

const MIB = 1 << 20;
/**
 * Numbers of domains; a number is used again only after all others. Those below are for driver domains: the grants of a guest
 * name them, and have to be right in the next life of the lab too.
 */
const FIRST_ID = 3;
const LAST_ID = 0x7fef;

/** Paths by which a domain's process finds its memory and its peers. */
export interface SharedPaths {
  readonly memory: string;
  readonly directory: string;
}

/** The event channels of a domain, seen from here. */
function channelsOf({ id, mapping }: MapDomain, peers: Peers): EventChannels {
  return new EventChannels({
    self: domId(id),
    mapping,
    delivery: new EventDelivery(mapping),
    vcpus: () => 1,
    notifyHost: () => {},
    peer: (other) => peers.mapping(other),
  });
}

export class DomainTable {
  /** Undefined on hosts that cannot share memory between processes: then each domain is alone. */
  readonly directory = defaultMemoryKind() === "mapped" ? DomainDirectory.create() : undefined;
  private readonly memories = new Map<number, GuestMemory>();
  private readonly taken = new Set<number>();
  private next = FIRST_ID;

  /** Takes a number for a new domain. @throws RangeError when `wanted` is taken, or none is left */
  take(wanted?: number): number {
    if (wanted !== undefined && this.taken.has(wanted)) throw new RangeError(`domain ${wanted} exists`);
    if (wanted !== undefined) {
      this.taken.add(wanted);
      return wanted;
    }
    for (let tries = FIRST_ID; tries <= LAST_ID; tries++) {
      const id = this.next;
      this.next = id === LAST_ID ? FIRST_ID : id + 1;
      if (this.taken.has(id)) continue;
      this.taken.add(id);
      return id;
    }
    throw new RangeError("no domain number is left");
  }

  /** Makes a domain's memory. @returns how its process opens it; undefined where memory cannot be shared */
  create(id: number, memoryMiB: number): SharedPaths | undefined {
    if (this.directory === undefined) return undefined;
    const memory = createMappedMemory(planFrames(memoryMiB * MIB));
    this.memories.set(id, memory);
    const { token } = memory;
    const path = token.kind === "mapped" ? token.path : "";
    this.directory.add(domId(id), memory.plan, path);
    return { memory: path, directory: this.directory.path };
  }

  isTaken(id: number): boolean {
    return this.taken.has(id);
  }

  /** The open memory file of a domain. @throws RangeError where there is none */
  descriptor(id: number): number {
    const token = this.memories.get(id)?.token;
    if (token?.kind !== "mapped") throw new RangeError(`domain ${id} has no memory file`);
    return token.descriptor;
  }

  /** Number of the life that a domain's id is in, to tell it from an earlier domain of the same number. */
  generation(id: number): number {
    return this.directory?.get(id)?.generation ?? 0;
  }

  /** A domain's memory seen from here, for its statistics. Call release() of the mapping afterwards. */
  attach(id: number): Mapping | undefined {
    return this.memories.get(id)?.attach();
  }

  /** Calls `action` with a domain's memory and that of all others, mapped for that long. */
  private withMemory(id: number, action: (domain: MapDomain, others: MapDomain[], peers: Peers) => void): void {
    const memory = this.memories.get(id);
    if (memory === undefined || this.directory === undefined) return;
    const mapping = memory.attach();
    const peers = new Peers(this.directory, id, mapping);
    const others = [...this.memories.keys()].map((other) => peers.get(other)).filter((other) => other !== undefined);
    action({ id, generation: this.generation(id), mapping }, others, peers);
    for (const other of others) peers.forget(other.id);
    mapping.release();
  }

  /** After a domain's process was killed, before the next one starts: settles what it was in the middle of. */
  recover(id: number): void {
    this.withMemory(id, (domain, others, peers) => {
      channelsOf(domain, peers).recover();
      settleMapsOf(domain, others);
      finishTaking(domain);
      finishSending(domain, others);
    });
  }

  /**
   * After the last process of a domain has ended, in whatever way, and before anybody lets go of its channels: its peers get
   * the events that it was in the middle of sending.
   */
  settle(id: number): void {
    this.withMemory(id, (domain, others) => finishSending(domain, others));
  }

  /**
   * Ends a domain: its peers' event channels become unbound, the grants it had mapped are given back, its memory is freed
   * once nobody has it mapped.
   */
  destroy(id: number): void {
    this.withMemory(id, (domain, others, peers) => {
      channelsOf(domain, peers).destroy();
      releaseMapsOf(domain, others);
    });
    this.directory?.remove(domId(id));
    this.memories.get(id)?.close();
    this.memories.delete(id);
    this.taken.delete(id);
  }

  close(): void {
    for (const id of [...this.memories.keys()]) this.destroy(id);
    this.directory?.close();
  }
}
