/** What a thread of a domain needs of the hypervisor: the domain's memory, its event channels and its maps of other domains. */
import { EventChannels, type PhysicalInterrupts } from "../hypervisor/event-channel.ts";
import { EventDelivery } from "../hypervisor/event-delivery.ts";
import { takePending } from "../hypervisor/event-scan.ts";
import { GrantMaps } from "../hypervisor/grant-map.ts";
import { DomainDirectory } from "../memory/domain-directory.ts";
import { CONTROL_VCPUS } from "../memory/frame-plan.ts";
import { type Mapping, type MemoryToken, openGuestMemory } from "../memory/guest-memory.ts";
import { Peers } from "../memory/peers.ts";
import { domId } from "../memory/types.ts";

/** Survives structured cloning: workers of the process get it. */
export interface ThreadInput {
  readonly id: number;
  readonly memory: MemoryToken;
  /** Path of the domain directory. */
  readonly directory: string;
  /** The vCPU that this thread is. */
  readonly vcpu: number;
}

export class DomainThread {
  readonly id: number;
  readonly vcpu: number;
  readonly mapping: Mapping;
  readonly peers: Peers;
  readonly delivery: EventDelivery;
  readonly events: EventChannels;
  readonly maps: GrantMaps;
  private readonly handlers = new Map<number, () => unknown>();
  /** Ports whose handler wants another turn. */
  private readonly again = new Set<number>();

  constructor(input: ThreadInput, physical?: PhysicalInterrupts) {
    this.id = input.id;
    this.vcpu = input.vcpu;
    this.mapping = openGuestMemory(input.memory).attach();
    this.peers = new Peers(DomainDirectory.open(input.directory), input.id, this.mapping);
    this.delivery = new EventDelivery(this.mapping);
    this.events = new EventChannels({
      self: domId(input.id),
      mapping: this.mapping,
      delivery: this.delivery,
      vcpus: () => this.mapping.view.getUint32(this.mapping.base + this.mapping.plan.control + CONTROL_VCPUS, true),
      notifyHost: () => {},
      peer: (id) => this.peers.mapping(id),
      ...(physical && { physical }),
    });
    this.maps = new GrantMaps(this.mapping, input.id, this.peers);
  }

  /**
   * Calls `handler` on this thread for every event on a port, and once at once. A handler that answers true is called again
   * when others have had their turn.
   */
  onEvent(port: number, handler: () => unknown): void {
    this.handlers.set(port, handler);
    // Moved behind its mask, so that an event that waits at this moment is told to its new vCPU.
    this.delivery.setMask(port);
    this.events.bindVcpu(port, this.vcpu);
    this.delivery.unmask(port);
    // Whatever came before the handler was there is not told again.
    this.handle(port);
  }

  offEvent(port: number): void {
    this.handlers.delete(port);
    this.again.delete(port);
  }

  private handle(port: number): void {
    if (this.handlers.get(port)?.() === true) this.again.add(port);
  }

  /** Handles the events that are pending. False if there is nothing more to do. */
  dispatch(): boolean {
    const turns = [...this.again];
    this.again.clear();
    for (const port of turns) this.handle(port);
    const any = takePending(this.mapping, this.delivery, this.vcpu, (port) => this.handle(port));
    return any || this.again.size > 0;
  }
}
