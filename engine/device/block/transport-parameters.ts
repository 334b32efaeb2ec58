/**
 * Reads what a block frontend publishes before it goes to Initialised (blkif.h, "Frontend XenBus Nodes"). The frontend is
 * hostile: every value is checked here, and what is wrong is a value with one line of text.
 */

import { type KeyResult, quoteValue, readFlag, readNumber } from "../xenbus/keys.ts";
import type { StoreAccess } from "../xenbus/store-access.ts";
import type { BlockRingGrants } from "./channel.ts";
import { type BlockProtocolName, blockProtocol } from "./protocol.ts";

export interface TransportLimits {
  /** max-ring-page-order as published. */
  readonly ringPageOrder: number;
  /** multi-queue-max-queues as published. */
  readonly queues: number;
}

export interface TransportParameters {
  readonly protocol: BlockProtocolName;
  readonly rings: readonly BlockRingGrants[];
  readonly persistent: boolean;
}

const MAX_GRANT_REFERENCE = 0xffff_ffff;
/** 2-level event channels of a 64-bit domain; port 0 is never valid. */
const MAX_PORT = 4095;

async function readProtocol(store: StoreAccess, frontend: string): Promise<KeyResult<BlockProtocolName>> {
  const text = await store.read(`${frontend}/protocol`);
  const protocol = blockProtocol(text === "" ? undefined : text);
  return protocol ? { value: protocol.name } : { problem: `protocol is ${quoteValue(text ?? "")}, which is unknown` };
}

async function readRing(store: StoreAccess, directory: string, pages: number): Promise<KeyResult<BlockRingGrants>> {
  const eventChannel = await readNumber(store, directory, "event-channel", { minimum: 1, maximum: MAX_PORT });
  if ("problem" in eventChannel) return eventChannel;
  // Drivers that write ring-page-order 0 differ in whether they say ring-ref or ring-ref0 then.
  const numbered = pages > 1 || (await store.read(`${directory}/ring-ref`)) === undefined;
  const lone = numbered && pages === 1 && (await store.read(`${directory}/ring-ref0`)) === undefined;
  const refs: number[] = [];
  for (let page = 0; page < pages; page++) {
    const key = numbered && !lone ? `ring-ref${page}` : "ring-ref";
    const ref = await readNumber(store, directory, key, { minimum: 0, maximum: MAX_GRANT_REFERENCE });
    if ("problem" in ref) return ref;
    refs.push(ref.value);
  }
  return { value: { refs, eventChannel: eventChannel.value } };
}

/** @returns the parameters, or the first thing that is wrong with them */
export async function readTransportParameters(
  store: StoreAccess,
  frontend: string,
  limits: TransportLimits,
): Promise<KeyResult<TransportParameters>> {
  const protocol = await readProtocol(store, frontend);
  if ("problem" in protocol) return protocol;
  const order = await readNumber(store, frontend, "ring-page-order", {
    minimum: 0,
    maximum: limits.ringPageOrder,
    fallback: 0,
  });
  if ("problem" in order) return order;
  const queues = await readNumber(store, frontend, "multi-queue-num-queues", {
    minimum: 1,
    maximum: limits.queues,
    fallback: 1,
  });
  if ("problem" in queues) return queues;
  if (protocol.value === "domlab-xen-2.0" && (order.value !== 0 || queues.value !== 1)) {
    return { problem: `protocol ${protocol.value} has a single ring of one page` };
  }
  const rings: BlockRingGrants[] = [];
  for (let queue = 0; queue < queues.value; queue++) {
    // One queue stands in the device's own directory, several in a directory each.
    const directory = queues.value === 1 ? frontend : `${frontend}/queue-${queue}`;
    const ring = await readRing(store, directory, 1 << order.value);
    if ("problem" in ring) {
      return queues.value === 1 ? ring : { problem: `queue-${queue}: ${ring.problem}` };
    }
    rings.push(ring.value);
  }
  const problem = findDuplicate(rings);
  if (problem !== undefined) return { problem };
  const persistent = await readFlag(store, frontend, "feature-persistent");
  return { value: { protocol: protocol.value, rings, persistent } };
}

/** Two rings in one page, or on one port, would be answered twice. */
function findDuplicate(rings: readonly BlockRingGrants[]): string | undefined {
  const refs = rings.flatMap((ring) => ring.refs);
  if (new Set(refs).size !== refs.length) return "the same ring page is granted twice";
  const ports = rings.map((ring) => ring.eventChannel);
  return new Set(ports).size === ports.length ? undefined : "two queues share an event channel";
}
