/** A frontend's rings: their pages, grants and event channels, made and given back together. */
import { type EventPort, eventPort } from "../../memory/types.ts";
import type { EventChannelPort, GrantSource } from "../domain-interface.ts";
import { initialiseSharedRing, SharedRing } from "../ring/layout.ts";
import type { PagePool } from "./page-pool.ts";

interface RingPage {
  readonly page: number;
  readonly ref: number;
}

export interface FrontRingSetup {
  readonly pages: readonly RingPage[];
  readonly port: EventPort;
}

export interface FrontRingsOptions {
  readonly grants: GrantSource;
  readonly events: EventChannelPort;
  readonly pool: PagePool;
  readonly backendId: number;
  readonly slotSize: number;
  readonly ringPageOrder: number;
  readonly queues: number;
}

/** @returns a ring for each queue; a string says what was lacking, and everything has been given back then */
export function allocateRings(options: FrontRingsOptions): FrontRingSetup[] | string {
  const rings: FrontRingSetup[] = [];
  for (let queue = 0; queue < options.queues; queue++) {
    const ring = allocateRing(options);
    if (typeof ring === "string") {
      releaseRings(rings, options);
      return ring;
    }
    rings.push(ring);
  }
  return rings;
}

function allocateRing(options: FrontRingsOptions): FrontRingSetup | string {
  const { grants, events, pool, backendId, slotSize, ringPageOrder } = options;
  const pages: RingPage[] = [];
  const giveUp = (reason: string): string => {
    for (const { page, ref } of pages) pool.dispose(page, ref);
    return reason;
  };
  for (let i = 0; i < 1 << ringPageOrder; i++) {
    const page = grants.allocatePage();
    if (page === undefined) return giveUp("no memory for the ring");
    const ref = grants.grantAccess(backendId, page, false);
    if (ref === undefined) {
      grants.freePage(page);
      return giveUp("the grant table is full");
    }
    pages.push({ page, ref });
  }
  const shared = new SharedRing(
    grants.memory,
    pages.map(({ page }) => page),
    slotSize,
  );
  initialiseSharedRing(shared);
  const port = events.allocUnbound(backendId);
  return port < 0 ? giveUp(`no event channel (error ${-port})`) : { pages, port: eventPort(port) };
}

/** Closes the ports and takes the pages back; the pool frees those that the backend still has mapped later. */
export function releaseRings(
  rings: readonly FrontRingSetup[],
  options: Pick<FrontRingsOptions, "events" | "pool">,
): void {
  for (const { pages, port } of rings) {
    options.events.close(port);
    for (const { page, ref } of pages) options.pool.dispose(page, ref);
  }
}

/** The keys by which the backend finds the rings (blkif.h; one queue stands in the device's own directory). */
export function ringNodes(rings: readonly FrontRingSetup[], ringPageOrder: number): Record<string, string> {
  const nodes: Record<string, string> = {};
  if (rings.length > 1) nodes["multi-queue-num-queues"] = String(rings.length);
  if (ringPageOrder > 0) nodes["ring-page-order"] = String(ringPageOrder);
  rings.forEach(({ pages, port }, queue) => {
    const prefix = rings.length > 1 ? `queue-${queue}/` : "";
    pages.forEach(({ ref }, page) => {
      nodes[ringPageOrder > 0 ? `${prefix}ring-ref${page}` : `${prefix}ring-ref`] = String(ref);
    });
    nodes[`${prefix}event-channel`] = String(port);
  });
  return nodes;
}

/** Keys of an earlier connection that a new one with other parameters would inherit. */
export const STALE_RING_KEYS = ["multi-queue-num-queues", "ring-page-order", "ring-ref", "event-channel"] as const;
