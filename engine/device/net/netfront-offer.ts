/** What a network frontend wishes, what it finds in the backend's directory, and what it publishes itself (netif.h). */
import { type KeyResult, readFlag, readNumber } from "../xenbus/keys.ts";
import type { StoreAccess } from "../xenbus/store-access.ts";

/** What to use if the backend offers it. */
export interface NetfrontWishes {
  readonly queues: number;
  readonly split: boolean;
  readonly sg: boolean;
  readonly gso: boolean;
  /** Take frames whose checksum is left to us. */
  readonly checksums: boolean;
  readonly multicastControl: boolean;
}

/** What was agreed upon. */
export interface NetfrontFeatures {
  readonly mac: string;
  readonly queues: number;
  readonly split: boolean;
  /** What may be left to the backend. */
  readonly sg: boolean;
  readonly gso4: boolean;
  readonly gso6: boolean;
  readonly csum6: boolean;
}

export const DEFAULT_WISHES: NetfrontWishes = {
  queues: 1,
  split: true,
  sg: true,
  gso: true,
  checksums: true,
  multicastControl: false,
};

/**
 * @param own the frontend's directory
 * @returns what is used of the backend's offer, or why nothing can be
 */
export async function readNetOffer(
  store: StoreAccess,
  own: string,
  backend: string,
  wishes: NetfrontWishes & { readonly flip: boolean },
): Promise<KeyResult<NetfrontFeatures>> {
  const flag = (key: string): Promise<boolean> => readFlag(store, backend, key);
  const mac = await store.read(`${own}/mac`);
  if (mac === undefined) return { problem: "mac is missing" };
  if (!(await flag(wishes.flip ? "feature-rx-flip" : "feature-rx-copy"))) {
    return { problem: `the backend does not offer to receive by ${wishes.flip ? "exchange" : "copy"}` };
  }
  const range = { minimum: 1, maximum: 0xffff, fallback: 1 };
  const most = await readNumber(store, backend, "multi-queue-max-queues", range);
  if ("problem" in most) return most;
  return {
    value: {
      mac,
      queues: Math.min(wishes.queues, most.value),
      split: wishes.split && (await flag("feature-split-event-channels")),
      sg: await flag("feature-sg"),
      gso4: await flag("feature-gso-tcpv4"),
      gso6: await flag("feature-gso-tcpv6"),
      csum6: await flag("feature-ipv6-csum-offload"),
    },
  };
}

/** The keys that say what the frontend takes. */
export function wishNodes(wishes: NetfrontWishes, flip: boolean): Record<string, string> {
  const bit = (value: boolean): string => (value ? "1" : "0");
  const gso = bit(wishes.sg && wishes.gso);
  return {
    "request-rx-copy": bit(!flip),
    "feature-rx-notify": "1",
    "feature-sg": bit(wishes.sg),
    "feature-gso-tcpv4": gso,
    "feature-gso-tcpv6": gso,
    "feature-no-csum-offload": bit(!wishes.checksums),
    "feature-ipv6-csum-offload": bit(wishes.checksums),
    "request-multicast-control": bit(wishes.multicastControl),
  };
}
