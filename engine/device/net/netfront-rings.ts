/** A network frontend's rings: their pages, grants and event channels, made and given back together. */
import { type EventPort, eventPort } from "../../memory/types.ts";
import type { EventChannelPort, GrantSource } from "../domain-interface.ts";
import { initialiseSharedRing, SharedRing } from "../ring/layout.ts";
import { RECEIVE_SLOT, TRANSMIT_SLOT } from "./protocol.ts";

export interface NetRing {
  readonly shared: SharedRing;
  readonly page: number;
  readonly ref: number;
}

export interface NetRingPair {
  readonly transmit: NetRing;
  readonly receive: NetRing;
  /** The same port twice unless the channels are split. */
  readonly transmitPort: EventPort;
  readonly receivePort: EventPort;
}

export interface NetRingsOptions {
  readonly grants: GrantSource;
  readonly events: EventChannelPort;
  readonly backendId: number;
  readonly queues: number;
  readonly split: boolean;
  /** Gives a page back whose grant the backend may still have mapped. */
  readonly dispose: (page: number, ref: number) => void;
}

/** @returns a pair of rings for each queue; a string says what was lacking, and everything has been given back then */
export function makeNetRings(options: NetRingsOptions): NetRingPair[] | string {
  const { grants, events, backendId, dispose } = options;
  const undo: (() => void)[] = [];
  const ring = (slot: number): NetRing => {
    const page = grants.allocatePage();
    if (page === undefined) throw new Lacking("no memory for the ring");
    const ref = grants.grantAccess(backendId, page, false);
    if (ref === undefined) {
      grants.freePage(page);
      throw new Lacking("the grant table is full");
    }
    undo.push(() => dispose(page, ref));
    const shared = new SharedRing(grants.memory, [page], slot);
    initialiseSharedRing(shared);
    return { shared, page, ref };
  };
  const port = (): EventPort => {
    const allocated = events.allocUnbound(backendId);
    if (allocated < 0) throw new Lacking(`no event channel (error ${-allocated})`);
    undo.push(() => events.close(eventPort(allocated)));
    return eventPort(allocated);
  };
  try {
    return Array.from({ length: options.queues }, () => {
      const transmitPort = port();
      const receivePort = options.split ? port() : transmitPort;
      return { transmit: ring(TRANSMIT_SLOT), receive: ring(RECEIVE_SLOT), transmitPort, receivePort };
    });
  } catch (error) {
    for (const step of undo) step();
    if (error instanceof Lacking) return error.message;
    throw error;
  }
}

/** A resource that there is no more of; never leaves this file. */
class Lacking extends Error {}

/** Closes the ports and takes the pages back. */
export function releaseNetRings(
  pairs: readonly NetRingPair[],
  { events, dispose }: Pick<NetRingsOptions, "events" | "dispose">,
): void {
  for (const { transmit, receive, transmitPort, receivePort } of pairs) {
    events.close(transmitPort);
    if (receivePort !== transmitPort) events.close(receivePort);
    dispose(transmit.page, transmit.ref);
    dispose(receive.page, receive.ref);
  }
}

/** The keys by which the backend finds the rings (netif.h; one queue stands in the device's own directory). */
export function netRingNodes(pairs: readonly NetRingPair[]): Record<string, string> {
  const nodes: Record<string, string> = {};
  if (pairs.length > 1) nodes["multi-queue-num-queues"] = String(pairs.length);
  pairs.forEach(({ transmit, receive, transmitPort, receivePort }, queue) => {
    const prefix = pairs.length > 1 ? `queue-${queue}/` : "";
    nodes[`${prefix}tx-ring-ref`] = String(transmit.ref);
    nodes[`${prefix}rx-ring-ref`] = String(receive.ref);
    if (transmitPort === receivePort) nodes[`${prefix}event-channel`] = String(transmitPort);
    else {
      nodes[`${prefix}event-channel-tx`] = String(transmitPort);
      nodes[`${prefix}event-channel-rx`] = String(receivePort);
    }
  });
  return nodes;
}

/** Keys of an earlier connection that a new one with other parameters would inherit. */
export const STALE_NET_KEYS = [
  "multi-queue-num-queues",
  "tx-ring-ref",
  "rx-ring-ref",
  "event-channel",
  "event-channel-tx",
  "event-channel-rx",
] as const;
