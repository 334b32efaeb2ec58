/**
 * Events of a domain whose process was killed. An event is told in several stores: the port's pending bit, its bit of the
 * selector, the upcall flag, the doorbell; and taken in as many, the other way round. Whoever finds a bit set leaves the rest
 * to the one that has set it. So a process that dies between two of these stores leaves a bit behind that silences every later
 * event of its port, or of 64 ports: nobody would ever be woken again. Here those stores are made up for.
 *
 * Only what was begun is finished. An event that was not yet begun is the business of the process that comes next.
 */
import { LEGACY_MAX_VCPUS } from "../abi/xen.ts";
import { EventDelivery } from "../hypervisor/event-delivery.ts";
import type { MapDomain } from "../hypervisor/grant-recovery.ts";
import { decodePort, PortKind, PortTable } from "../hypervisor/port-table.ts";

/** Has a vCPU look at all of its ports. One that has no vcpu_info has never been there. */
function lookAtEverything(delivery: EventDelivery, vcpu: number): void {
  if (delivery.vcpuInfo(vcpu) !== 0) delivery.markEverything(vcpu);
}

/**
 * What the domain's threads were in the middle of taking: whoever comes after them looks at every port. Before any thread of
 * the domain runs.
 */
export function finishTaking({ mapping }: MapDomain): void {
  const delivery = new EventDelivery(mapping);
  for (let vcpu = 0; vcpu < LEGACY_MAX_VCPUS; vcpu++) lookAtEverything(delivery, vcpu);
}

/**
 * What the domain's threads were in the middle of sending: the vCPUs to which peers have bound their channels with the domain
 * look at all of their ports. The peers may be running; an upcall with nothing new is one that any guest must expect. Before
 * the domain's channels are closed, as nothing tells afterwards whom they led to.
 */
export function finishSending({ id }: MapDomain, peers: readonly MapDomain[]): void {
  for (const { id: peer, mapping } of peers) {
    if (peer === id) continue;
    const delivery = new EventDelivery(mapping);
    const table = new PortTable(mapping);
    const vcpus = new Set<number>();
    for (let port = 1; port < delivery.channels; port++) {
      const { kind, domain } = decodePort(table.load(port));
      // One that is on offer again may have been closed by one thread while another sent.
      const between = kind === PortKind.interdomain || kind === PortKind.unbound;
      if (between && domain === id) vcpus.add(delivery.boundVcpu(port));
    }
    for (const vcpu of vcpus) lookAtEverything(delivery, vcpu);
  }
}
