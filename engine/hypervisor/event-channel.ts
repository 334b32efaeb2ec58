/**
 * Event channels of one domain, 2-level ABI (xen/include/public/event_channel.h).
 *
 * The table says what each port is; the bits themselves are event-delivery.ts. The peers a channel can have are the
 * host (domain 0), whose end carries the guest's port number, and the domain itself.
 */

import { Errno } from "../abi/errors.ts";
import { ChannelStatus, NR_EVENT_CHANNELS_2L } from "../abi/event-channel.ts";
import { DOMID_FIRST_RESERVED, NR_VIRQS, PER_VCPU_VIRQS } from "../abi/xen.ts";
import { DOM0, type DomId, type EventPort, eventPort } from "../memory/types.ts";
import type { EventDelivery } from "./event-delivery.ts";

/** What a port is. */
export type Channel =
  | { readonly kind: "unbound"; readonly remote: DomId; readonly vcpu: number }
  | { readonly kind: "interdomain"; readonly remote: DomId; readonly remotePort: EventPort; readonly vcpu: number }
  | { readonly kind: "virq"; readonly virq: number; readonly vcpu: number }
  | { readonly kind: "ipi"; readonly vcpu: number };

export interface EventChannelsOptions {
  /** The domain whose channels these are. */
  readonly self: DomId;
  readonly delivery: EventDelivery;
  readonly vcpus: () => number;
  readonly notifyHost: (port: number) => void;
}

/** A port, or a negated Errno. */
export type PortOrError = number;

/** What EVTCHNOP_status answers about a port. */
export interface StatusAnswer {
  readonly status: number;
  readonly vcpu: number;
  readonly detail: number;
  readonly remotePort: number;
}

export class EventChannels {
  private readonly channels: (Channel | undefined)[] = new Array(NR_EVENT_CHANNELS_2L).fill(undefined);
  private readonly self: DomId;
  private readonly delivery: EventDelivery;
  private readonly vcpus: () => number;
  private readonly notifyHost: (port: number) => void;
  /** Port by vCPU and VIRQ. */
  private readonly virqs = new Map<number, EventPort>();
  /** Ports that the toolstack made; a guest's reset keeps them, as a guest could not get them back. */
  private readonly toolstack = new Set<EventPort>();

  constructor(options: EventChannelsOptions) {
    this.self = options.self;
    this.delivery = options.delivery;
    this.vcpus = options.vcpus;
    this.notifyHost = options.notifyHost;
  }

  get(port: number): Channel | undefined {
    return this.channels[port];
  }

  private place(channel: Channel): PortOrError {
    const port = this.channels.indexOf(undefined, 1);
    if (port < 0 || port >= this.delivery.channels) return -Errno.ENOSPC;
    this.channels[port] = channel;
    this.delivery.clearPending(port);
    this.delivery.bindPort(port, channel.vcpu);
    return port;
  }

  /** A channel bound to the host from the start: what the toolstack does for the console and XenStore. */
  allocateHost(remote: DomId): EventPort {
    const port = this.place({ kind: "interdomain", remote, remotePort: eventPort(0), vcpu: 0 });
    if (port < 0) throw new RangeError("no event channel left");
    this.channels[port] = { kind: "interdomain", remote, remotePort: eventPort(port), vcpu: 0 };
    this.toolstack.add(eventPort(port));
    return eventPort(port);
  }

  /** The host binds its end of a port that the guest offered to it with alloc_unbound. False if it is not that. */
  bindFromHost(port: number): boolean {
    const channel = this.channels[port];
    if (channel?.kind !== "unbound" || channel.remote !== DOM0) return false;
    this.channels[port] = { kind: "interdomain", remote: DOM0, remotePort: eventPort(port), vcpu: channel.vcpu };
    this.delivery.setPending(port);
    return true;
  }

  /** The host closes its end: the guest's port becomes unbound again. */
  unbindFromHost(port: number): void {
    const channel = this.channels[port];
    if (channel?.kind === "interdomain") {
      this.channels[port] = { kind: "unbound", remote: channel.remote, vcpu: channel.vcpu };
    }
  }

  /** Offers a port to any domain; like Xen, whether that exists or not. */
  allocUnbound(remote: DomId): PortOrError {
    if (remote >= DOMID_FIRST_RESERVED) return -Errno.ESRCH;
    return this.place({ kind: "unbound", remote, vcpu: 0 });
  }

  /**
   * Binds a new port to one that another domain offers. The host offers none of its own, so only a domain's own ports
   * remain: both ends are then in this table.
   */
  bindInterdomain(remote: DomId, remotePort: number): PortOrError {
    if (remote !== this.self) return remote === DOM0 ? -Errno.EINVAL : -Errno.ESRCH;
    const offered = this.channels[remotePort];
    if (offered?.kind !== "unbound" || offered.remote !== this.self) return -Errno.EINVAL;
    const port = this.place({ kind: "interdomain", remote, remotePort: eventPort(remotePort), vcpu: 0 });
    if (port < 0) return port;
    this.channels[remotePort] = { kind: "interdomain", remote, remotePort: eventPort(port), vcpu: offered.vcpu };
    this.delivery.setPending(port); // what was sent before is lost, so something may have been
    return port;
  }

  bindVirq(virq: number, vcpu: number): PortOrError {
    if (virq >= NR_VIRQS) return -Errno.EINVAL;
    if (vcpu >= this.vcpus()) return -Errno.ENOENT;
    if (!PER_VCPU_VIRQS.has(virq) && vcpu !== 0) return -Errno.EINVAL;
    const key = vcpu * NR_VIRQS + virq;
    if (this.virqs.has(key)) return -Errno.EEXIST;
    const port = this.place({ kind: "virq", virq, vcpu });
    if (port > 0) this.virqs.set(key, eventPort(port));
    return port;
  }

  bindIpi(vcpu: number): PortOrError {
    if (vcpu >= this.vcpus()) return -Errno.ENOENT;
    return this.place({ kind: "ipi", vcpu });
  }

  close(port: number): number {
    const channel = this.channels[port];
    if (port === 0 || channel === undefined) return -Errno.EINVAL;
    if (channel.kind === "virq") this.virqs.delete(channel.vcpu * NR_VIRQS + channel.virq);
    if (channel.kind === "interdomain" && channel.remote === this.self) this.release(channel.remotePort);
    this.channels[port] = undefined;
    this.toolstack.delete(eventPort(port));
    this.delivery.clearPending(port);
    this.delivery.bindPort(port, 0);
    return 0;
  }

  /** One end of a channel within the domain was closed: the other is on offer again. */
  private release(port: EventPort): void {
    const other = this.channels[port];
    if (other !== undefined) this.channels[port] = { kind: "unbound", remote: this.self, vcpu: other.vcpu };
  }

  /** EVTCHNOP_send: to the host for an interdomain channel, to a vCPU of one's own for an IPI. */
  send(port: number): number {
    const channel = this.channels[port];
    switch (channel?.kind) {
      case "interdomain":
        if (channel.remote === this.self) this.delivery.setPending(channel.remotePort);
        else if (this.delivery.setHostPending(port)) this.notifyHost(port);
        return 0;
      case "ipi":
        this.delivery.setPending(port);
        return 0;
      case "unbound":
        return 0; // Xen drops the event: nobody listens yet
      default:
        return -Errno.EINVAL;
    }
  }

  status(port: number): StatusAnswer | undefined {
    if (port >= this.delivery.channels) return undefined;
    const channel = this.channels[port];
    if (channel === undefined) return { status: ChannelStatus.closed, vcpu: 0, detail: 0, remotePort: 0 };
    const { vcpu } = channel;
    switch (channel.kind) {
      case "unbound":
        return { status: ChannelStatus.unbound, vcpu, detail: channel.remote, remotePort: 0 };
      case "interdomain":
        return { status: ChannelStatus.interdomain, vcpu, detail: channel.remote, remotePort: channel.remotePort };
      case "virq":
        return { status: ChannelStatus.virq, vcpu, detail: channel.virq, remotePort: 0 };
      case "ipi":
        return { status: ChannelStatus.ipi, vcpu, detail: 0, remotePort: 0 };
    }
  }

  bindVcpu(port: number, vcpu: number): number {
    if (vcpu >= this.vcpus()) return -Errno.ENOENT;
    const channel = this.channels[port];
    const movable =
      channel?.kind === "unbound" ||
      channel?.kind === "interdomain" ||
      (channel?.kind === "virq" && !PER_VCPU_VIRQS.has(channel.virq));
    if (channel === undefined || !movable) return -Errno.EINVAL;
    this.channels[port] = { ...channel, vcpu };
    this.delivery.bindPort(port, vcpu);
    return 0;
  }

  unmask(port: number): number {
    if (port === 0 || port >= this.delivery.channels) return -Errno.EINVAL;
    this.delivery.unmask(port);
    return 0;
  }

  /** EVTCHNOP_reset: closes all the guest's own channels. */
  reset(): number {
    for (let port = 1; port < NR_EVENT_CHANNELS_2L; port++) {
      if (this.channels[port] !== undefined && !this.toolstack.has(eventPort(port))) this.close(port);
    }
    return 0;
  }

  /** Raises a VIRQ of a vCPU, if the guest has bound it. */
  raiseVirq(vcpu: number, virq: number): void {
    const port = this.virqs.get(vcpu * NR_VIRQS + virq);
    if (port !== undefined) this.delivery.setPending(port);
  }
}
