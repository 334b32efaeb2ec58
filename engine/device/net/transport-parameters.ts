/**
 * Reads what a network frontend publishes before it connects (netif.h). The frontend is hostile: every value is checked
 * here, and what is wrong is a value with one line of text.
 */
import { type KeyResult, readFlag, readNumber } from "../xenbus/keys.ts";
import type { StoreAccess } from "../xenbus/store-access.ts";
import type { NetChannel, NetQueueGrants } from "./channel.ts";

export interface NetTransportLimits {
  /** multi-queue-max-queues as published. */
  readonly queues: number;
  /** feature-split-event-channels as published. */
  readonly split: boolean;
}

export type NetTransportParameters = Pick<NetChannel, "queues" | "accepts" | "tells" | "receive" | "multicastControl">;

const MAX_GRANT_REFERENCE = 0xffff_ffff;
/** 2-level event channels of a 64-bit domain; port 0 is never valid. */
const PORTS = { minimum: 1, maximum: 4095 };
const REFERENCES = { minimum: 0, maximum: MAX_GRANT_REFERENCE };

async function readPorts(
  store: StoreAccess,
  directory: string,
  split: boolean,
): Promise<KeyResult<Pick<NetQueueGrants, "transmitPort" | "receivePort">>> {
  if (split && (await store.read(`${directory}/event-channel-tx`)) !== undefined) {
    const transmit = await readNumber(store, directory, "event-channel-tx", PORTS);
    if ("problem" in transmit) return transmit;
    const receive = await readNumber(store, directory, "event-channel-rx", PORTS);
    if ("problem" in receive) return receive;
    return { value: { transmitPort: transmit.value, receivePort: receive.value } };
  }
  const port = await readNumber(store, directory, "event-channel", PORTS);
  if ("problem" in port) return port;
  return { value: { transmitPort: port.value, receivePort: port.value } };
}

async function readQueue(store: StoreAccess, directory: string, split: boolean): Promise<KeyResult<NetQueueGrants>> {
  const transmit = await readNumber(store, directory, "tx-ring-ref", REFERENCES);
  if ("problem" in transmit) return transmit;
  const receive = await readNumber(store, directory, "rx-ring-ref", REFERENCES);
  if ("problem" in receive) return receive;
  const ports = await readPorts(store, directory, split);
  if ("problem" in ports) return ports;
  return { value: { transmitRef: transmit.value, receiveRef: receive.value, ...ports.value } };
}

/** @returns the parameters, or the first thing that is wrong with them */
export async function readNetTransportParameters(
  store: StoreAccess,
  frontend: string,
  limits: NetTransportLimits,
): Promise<KeyResult<NetTransportParameters>> {
  const count = await readNumber(store, frontend, "multi-queue-num-queues", {
    minimum: 1,
    maximum: limits.queues,
    fallback: 1,
  });
  if ("problem" in count) return count;
  const queues: NetQueueGrants[] = [];
  for (let queue = 0; queue < count.value; queue++) {
    // One queue stands in the device's own directory, several in a directory each.
    const directory = count.value === 1 ? frontend : `${frontend}/queue-${queue}`;
    const read = await readQueue(store, directory, limits.split);
    if ("problem" in read) return count.value === 1 ? read : { problem: `queue-${queue}: ${read.problem}` };
    queues.push(read.value);
  }
  const problem = findDuplicate(queues);
  if (problem !== undefined) return { problem };
  const flag = (key: string): Promise<boolean> => readFlag(store, frontend, key);
  const sg = await flag("feature-sg");
  return {
    value: {
      queues,
      accepts: {
        sg,
        gso4: sg && (await flag("feature-gso-tcpv4")),
        gso6: sg && (await flag("feature-gso-tcpv6")),
        csum4: !(await flag("feature-no-csum-offload")),
        csum6: await flag("feature-ipv6-csum-offload"),
      },
      tells: await flag("feature-rx-notify"),
      receive: (await flag("request-rx-copy")) ? "copy" : "flip",
      multicastControl: await flag("request-multicast-control"),
    },
  };
}

/** Two rings in one page, or two queues on one port, would be answered twice. */
function findDuplicate(queues: readonly NetQueueGrants[]): string | undefined {
  const refs = queues.flatMap(({ transmitRef, receiveRef }) => [transmitRef, receiveRef]);
  if (new Set(refs).size !== refs.length) return "the same ring page is granted twice";
  const ports = queues.flatMap(({ transmitPort, receivePort }) =>
    transmitPort === receivePort ? [transmitPort] : [transmitPort, receivePort],
  );
  return new Set(ports).size === ports.length ? undefined : "two queues share an event channel";
}
