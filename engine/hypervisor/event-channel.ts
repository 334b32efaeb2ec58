/**
 * Event channels of one domain, 2-level ABI (xen/include/public/event_channel.h).
 *
 * What each port is stands in a shared table (port-table.ts), the pending and mask bits are event-delivery.ts. A peer
 * is another domain, the domain itself, or domain 0: the host's part of the domain's own process, whose end carries the
 * same port number. Every thread of a domain may have an EventChannels of its own.
 */
import { Errno } from "../abi/errors.ts";
import { ChannelStatus, NR_EVENT_CHANNELS_2L } from "../abi/event-channel.ts";
import { DOMID_FIRST_RESERVED, NR_VIRQS, PER_VCPU_VIRQS } from "../abi/xen.ts";
import type { Mapping } from "../memory/guest-memory.ts";
import { DOM0, type DomId, type EventPort, eventPort } from "../memory/types.ts";
import { EventDelivery } from "./event-delivery.ts";
import {
  decodePort,
  encodePort,
  isTaken,
  type PortEntry,
  PortKind,
  PortTable,
  portDomain,
  portKind,
  portNumber,
} from "./port-table.ts";

export interface EventChannelsOptions {
  /** The domain whose channels these are. */
  readonly self: DomId;
  readonly mapping: Mapping;
  readonly delivery: EventDelivery;
  readonly vcpus: () => number;
  readonly notifyHost: (port: number) => void;
  /** Memory of a living domain, or undefined (memory/peers.ts). */
  readonly peer: (id: number) => Mapping | undefined;
  /** Host file descriptors as interrupts; without it there are none. */
  readonly physical?: PhysicalInterrupts;
}

/** The physical interrupts that a driver domain was given. */
export interface PhysicalInterrupts {
  /** Connects an interrupt to a port of a domain. @returns 0 or a negated Errno */
  bind(pirq: number, port: number): number;
  unbind(pirq: number): void;
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

/** A domain's end of channels, as its peers change it. */
interface PeerEnd {
  readonly table: PortTable;
  readonly delivery: EventDelivery;
}

const STATUS: Readonly<Record<PortKind, number>> = {
  [PortKind.free]: ChannelStatus.closed,
  [PortKind.reserved]: ChannelStatus.closed,
  [PortKind.unbound]: ChannelStatus.unbound,
  [PortKind.interdomain]: ChannelStatus.interdomain,
  [PortKind.virq]: ChannelStatus.virq,
  [PortKind.ipi]: ChannelStatus.ipi,
  [PortKind.pirq]: ChannelStatus.pirq,
};

export class EventChannels {
  private readonly options: EventChannelsOptions;
  private readonly self: DomId;
  private readonly delivery: EventDelivery;
  private readonly table: PortTable;
  private readonly ends = new WeakMap<Mapping, PeerEnd>();
  /** Ports whose host end is served on this thread, at once. */
  private readonly handlers = new Map<number, () => void>();

  constructor(options: EventChannelsOptions) {
    this.options = options;
    this.self = options.self;
    this.delivery = options.delivery;
    this.table = new PortTable(options.mapping);
  }

  /** What a port is. */
  get(port: number) {
    return decodePort(this.table.load(port));
  }

  private peer(domain: number): PeerEnd | undefined {
    if (domain === this.self) return { table: this.table, delivery: this.delivery };
    const mapping = this.options.peer(domain);
    if (mapping === undefined) return undefined;
    let end = this.ends.get(mapping);
    if (end === undefined) {
      end = { table: new PortTable(mapping), delivery: new EventDelivery(mapping) };
      this.ends.set(mapping, end);
    }
    return end;
  }

  private reserve(vcpu: number): PortOrError {
    const port = this.table.reserve(this.delivery.channels);
    if (port === 0) return -Errno.ENOSPC;
    this.delivery.clearPending(port);
    this.delivery.bindPort(port, vcpu);
    return port;
  }

  /** Frees a port that this thread holds as reserved. */
  private release(port: number): void {
    this.delivery.clearPending(port);
    this.delivery.bindPort(port, 0);
    this.table.store(port, 0);
  }

  private place(word: number, vcpu = 0): PortOrError {
    const port = this.reserve(vcpu);
    if (port > 0) this.table.store(port, word);
    return port;
  }

  /** A channel bound to the host from the start, which a reset keeps: the toolstack's for console and XenStore. */
  allocateHost(remote: DomId): EventPort {
    const port = this.reserve(0);
    if (port < 0) throw new RangeError("no event channel left");
    this.table.store(port, encodePort(PortKind.interdomain, remote, port, true));
    return eventPort(port);
  }

  /** The host binds its end of a port that the guest offered to it with alloc_unbound. False if it is not that. */
  bindFromHost(port: number): boolean {
    const word = this.table.load(port);
    if (portKind(word) !== PortKind.unbound || portDomain(word) !== DOM0) return false;
    if (!this.table.replace(port, word, encodePort(PortKind.interdomain, DOM0, port))) return false;
    this.delivery.setPending(port);
    return true;
  }

  /** Has events that the guest sends to the host through this port handled at once, on the thread that sends them. */
  serveFromHost(port: number, handler: () => void): void {
    this.handlers.set(port, handler);
  }

  /** The host closes its end: the guest's port becomes unbound again. */
  unbindFromHost(port: number): void {
    this.handlers.delete(port);
    this.table.replace(port, encodePort(PortKind.interdomain, DOM0, port), encodePort(PortKind.unbound, DOM0));
  }

  /** Offers a port to any domain; like Xen, whether that exists or not. */
  allocUnbound(remote: number): PortOrError {
    if (remote >= DOMID_FIRST_RESERVED) return -Errno.ESRCH;
    return this.place(encodePort(PortKind.unbound, remote));
  }

  /** Binds a new port to one that another domain offers to this one. */
  bindInterdomain(remote: number, remotePort: number): PortOrError {
    if (remote === DOM0 && this.self !== DOM0) return -Errno.EINVAL; // the host offers none of its own
    const peer = this.peer(remote);
    if (peer === undefined) return -Errno.ESRCH;
    const port = this.reserve(0);
    if (port < 0) return port;
    const offered = peer.table.load(remotePort);
    const unbound = portKind(offered) === PortKind.unbound && portDomain(offered) === this.self;
    const fits = unbound || this.lost(offered, remote, remotePort);
    const theirs = encodePort(PortKind.interdomain, this.self, port);
    if (!fits || !peer.table.replace(remotePort, offered, theirs)) {
      this.release(port);
      return -Errno.EINVAL;
    }
    this.table.store(port, encodePort(PortKind.interdomain, remote, remotePort));
    // The peer may have closed its end before ours could be seen.
    if (peer.table.load(remotePort) !== theirs) this.unbind(this.table, port, remote, remotePort);
    this.delivery.setPending(port); // what was sent before is lost, so something may have been
    return port;
  }

  /** Whether a peer's end is bound to a port of ours that no longer knows of it: the process that had bound it died. */
  private lost(offered: number, remote: number, remotePort: number): boolean {
    if (portKind(offered) !== PortKind.interdomain || portDomain(offered) !== this.self) return false;
    const ours = this.table.load(portNumber(offered));
    return portKind(ours) !== PortKind.reserved && ours !== encodePort(PortKind.interdomain, remote, remotePort);
  }

  /** One end of a channel was closed: the other is on offer again, to the same domain. */
  private unbind(table: PortTable, port: number, remote: number, remotePort: number): void {
    const bound = encodePort(PortKind.interdomain, remote, remotePort);
    table.replace(port, bound, encodePort(PortKind.unbound, remote));
  }

  bindVirq(virq: number, vcpu: number): PortOrError {
    if (virq >= NR_VIRQS) return -Errno.EINVAL;
    if (!PER_VCPU_VIRQS.has(virq) && vcpu !== 0) return -Errno.EINVAL;
    if (vcpu >= this.options.vcpus()) return -Errno.ENOENT;
    const key = vcpu * NR_VIRQS + virq;
    if (this.table.virqPort(key) !== 0) return -Errno.EEXIST;
    const port = this.reserve(vcpu);
    if (port < 0) return port;
    if (!this.table.bindVirq(key, port)) {
      this.release(port);
      return -Errno.EEXIST;
    }
    this.table.store(port, encodePort(PortKind.virq, 0, virq));
    return port;
  }

  bindIpi(vcpu: number): PortOrError {
    if (vcpu >= this.options.vcpus()) return -Errno.ENOENT;
    return this.place(encodePort(PortKind.ipi), vcpu);
  }

  /** Connects a physical interrupt that the host has given to this domain. */
  bindPirq(pirq: number): PortOrError {
    const { physical } = this.options;
    if (physical === undefined || pirq > 0xfff) return -Errno.EINVAL;
    const port = this.reserve(0);
    if (port < 0) return port;
    const error = physical.bind(pirq, port);
    if (error !== 0) {
      this.release(port);
      return error;
    }
    this.table.store(port, encodePort(PortKind.pirq, 0, pirq));
    return port;
  }

  /** EVTCHNOP_close. A port that another thread binds or closes at this moment is not there yet, or no longer. */
  close(port: number): number {
    if (!isTaken(this.table.load(port))) return -Errno.EINVAL;
    // Reserved until all of it is undone, so that no thread can get the port meanwhile and lose its new binding to us.
    const was = decodePort(this.table.hold(port));
    if (was.kind === PortKind.reserved) return -Errno.EINVAL;
    if (was.kind === PortKind.free) {
      this.table.store(port, 0);
      return -Errno.EINVAL;
    }
    this.disconnect(port, was);
    this.release(port);
    return 0;
  }

  private disconnect(port: number, was: PortEntry): void {
    if (was.kind === PortKind.virq) {
      this.table.unbindVirq(this.delivery.boundVcpu(port) * NR_VIRQS + was.number, port);
      this.table.unbindVirq(was.number, port); // a global one, wherever it was moved
    }
    if (was.kind === PortKind.pirq) this.options.physical?.unbind(was.number);
    if (was.kind === PortKind.interdomain) {
      this.handlers.delete(port);
      const peer = was.domain === DOM0 ? undefined : this.peer(was.domain);
      if (peer) this.unbind(peer.table, was.number, this.self, port);
    }
  }

  /** EVTCHNOP_send: to the peer of an interdomain channel, to a vCPU of one's own for an IPI. */
  send(port: number): number {
    const word = this.table.load(port);
    switch (portKind(word)) {
      case PortKind.interdomain:
        this.sendInterdomain(port, portDomain(word), portNumber(word));
        return 0;
      case PortKind.ipi:
        this.delivery.setPending(port);
        return 0;
      case PortKind.unbound:
        return 0; // Xen drops the event: nobody listens yet
      default:
        return -Errno.EINVAL;
    }
  }

  private sendInterdomain(port: number, remote: number, remotePort: number): void {
    if (remote === DOM0 && this.self !== DOM0) {
      const handler = this.handlers.get(port);
      if (handler) handler();
      else if (this.delivery.setHostPending(port)) this.options.notifyHost(port);
      return;
    }
    const peer = this.peer(remote);
    // A peer that is gone, or that has let go of the channel, hears nothing.
    if (peer?.table.load(remotePort) !== encodePort(PortKind.interdomain, this.self, port)) return;
    peer.delivery.setPending(remotePort);
  }

  /** What EVTCHNOP_status tells; undefined for a port outside the table. */
  status(port: number): StatusAnswer | undefined {
    if (port >= this.delivery.channels) return undefined;
    const { kind, domain, number } = this.get(port);
    const bound = kind === PortKind.unbound || kind === PortKind.interdomain;
    return {
      status: STATUS[kind],
      vcpu: this.delivery.boundVcpu(port),
      detail: bound ? domain : number,
      remotePort: kind === PortKind.interdomain ? number : 0,
    };
  }

  bindVcpu(port: number, vcpu: number): number {
    if (vcpu >= this.options.vcpus()) return -Errno.ENOENT;
    const { kind, number } = this.get(port);
    const movable =
      kind === PortKind.unbound ||
      kind === PortKind.interdomain ||
      kind === PortKind.pirq ||
      (kind === PortKind.virq && !PER_VCPU_VIRQS.has(number));
    if (!movable) return -Errno.EINVAL;
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
      const { kind, toolstack } = this.get(port);
      if (kind !== PortKind.free && !toolstack) this.close(port);
    }
    return 0;
  }

  /** Closes everything: the domain has ended and none of its threads runs. Its peers' ends become unbound. */
  destroy(): void {
    this.recover();
    for (let port = 1; port < NR_EVENT_CHANNELS_2L; port++) this.close(port);
  }

  /**
   * Takes back what a process of this domain had under way when it died: ports that were not yet bound, or half closed.
   * Before any other thread of the domain runs. What was bound stays bound; a peer's end of such a port can be bound
   * anew.
   */
  recover(): void {
    for (let port = 1; port < NR_EVENT_CHANNELS_2L; port++) {
      if (portKind(this.table.load(port)) === PortKind.reserved) this.release(port);
    }
    this.table.dropLostVirqs();
  }

  /** Raises a VIRQ of a vCPU, if the guest has bound it. */
  raiseVirq(vcpu: number, virq: number): void {
    const port = this.table.virqPort(vcpu * NR_VIRQS + virq);
    if (port !== 0) this.delivery.setPending(port);
  }
}
