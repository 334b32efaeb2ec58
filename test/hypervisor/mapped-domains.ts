/** Domains without a CPU, as a process of each would see them: mapped memory, a directory, event channels. */
import { EventChannels, type PhysicalInterrupts } from "../../engine/hypervisor/event-channel.ts";
import { EventDelivery } from "../../engine/hypervisor/event-delivery.ts";
import { DomainDirectory } from "../../engine/memory/domain-directory.ts";
import { planFrames } from "../../engine/memory/frame-plan.ts";
import {
  createGuestMemory,
  type Mapping,
  type MemoryToken,
  openGuestMemory,
} from "../../engine/memory/guest-memory.ts";
import { Peers } from "../../engine/memory/peers.ts";
import { domId } from "../../engine/memory/types.ts";

export const VCPUS = 4;

/** One thread's view of a domain. */
export interface DomainView {
  readonly id: number;
  readonly mapping: Mapping;
  readonly delivery: EventDelivery;
  readonly events: EventChannels;
  readonly peers: Peers;
}

export interface ViewInput {
  readonly id: number;
  readonly memory: MemoryToken;
  readonly directory: string;
}

export function viewDomain(input: ViewInput, physical?: PhysicalInterrupts): DomainView {
  const mapping = openGuestMemory(input.memory).attach();
  const delivery = new EventDelivery(mapping);
  const peers = new Peers(DomainDirectory.open(input.directory), input.id, mapping);
  const events = new EventChannels({
    self: domId(input.id),
    mapping,
    delivery,
    vcpus: () => VCPUS,
    notifyHost: () => {},
    peer: (id) => peers.mapping(id),
    ...(physical && { physical }),
  });
  return { id: input.id, mapping, delivery, events, peers };
}

/** The control plane's part: it owns the directory and every domain's memory. */
export class Lab {
  readonly directory = DomainDirectory.create();
  private readonly inputs = new Map<number, ViewInput>();
  private readonly closers: (() => void)[] = [];

  /** A new domain; its first view has set up where its vCPUs look. */
  add(id: number): DomainView {
    const guest = createGuestMemory(planFrames(1 << 20), 0, "mapped");
    if (guest.token.kind !== "mapped") throw new Error("mapped memory expected");
    const input = { id, memory: guest.token, directory: this.directory.path };
    this.inputs.set(id, input);
    this.closers.push(() => guest.close());
    this.directory.add(domId(id), guest.plan, guest.token.path);
    const view = viewDomain(input);
    view.delivery.initialise();
    return view;
  }

  /** What a thread or a process needs to see a domain. */
  input(id: number): ViewInput {
    const input = this.inputs.get(id);
    if (input === undefined) throw new Error(`no domain ${id}`);
    return input;
  }

  close(): void {
    for (const close of this.closers) close();
    this.directory.close();
  }
}
