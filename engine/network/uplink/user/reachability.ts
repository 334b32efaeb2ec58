/**
 * What a guest may reach through the host, decided on the address that is connected to, never on a name: a name that
 * resolves to a loopback address leads nowhere, whoever resolved it and however often the answer changes.
 */
import { networkInterfaces } from "node:os";
import { contains4, formatIpv4, maskOf, parseIpv4 } from "../../address.ts";
import type { Clock } from "../../types.ts";
import { forwardKey, type HostEndpoint, type Transport, type UserSettings } from "./settings.ts";

/** How long the list of the host's own addresses is believed, in nanoseconds. */
const OWN_ADDRESSES_NS = 1_000_000_000;

/** Why a destination is refused. */
export type Refusal = "loopback" | "host" | "link-local" | "guest-network" | "no-unicast" | "gateway";

/** Where something leads. `isDeclared`: the user said so, and it may be the host itself. */
export interface Reached {
  readonly to: HostEndpoint;
  readonly isDeclared: boolean;
}

export type Reach = Reached | { readonly refused: Refusal };

const network = (text: string, bits: number) =>
  ({ version: 4, address: parseIpv4(text), mask: maskOf(bits), bits }) as const;
const loopback = network("127.0.0.0", 8);
/** "This host on this network" (RFC 1122): to connect to 0.0.0.0 is to connect to oneself. */
const thisHost = network("0.0.0.0", 8);
/** RFC 3927; the metadata service of cloud hosts lives here. */
const linkLocal = network("169.254.0.0", 16);
/** Multicast, the reserved class E and the limited broadcast. */
const notUnicast = network("224.0.0.0", 3);

/** The host's own IPv4 addresses, as they are now. */
export function hostAddresses(): Set<number> {
  const own = new Set<number>();
  for (const list of Object.values(networkInterfaces())) {
    for (const { family, address } of list ?? []) if (family === "IPv4") own.add(parseIpv4(address));
  }
  return own;
}

/** Turns what a guest addressed into what the host may connect to. */
export class Reachability {
  private readonly settings: UserSettings;
  private readonly clock: Clock;
  private readonly list: () => Set<number>;
  private own: Set<number>;
  private until: number;

  /** `list` gives the host's own addresses. */
  constructor(settings: UserSettings, clock: Clock, list: () => Set<number> = hostAddresses) {
    this.settings = settings;
    this.clock = clock;
    this.list = list;
    this.own = list();
    this.until = clock.now() + OWN_ADDRESSES_NS;
  }

  /** Where a connection or flow to this address (u32) and port leads. Ports are 0 for what has none. */
  decide(protocol: Transport | "icmp", address: number, port: number): Reach {
    const { settings } = this;
    if (protocol !== "icmp") {
      const forward = settings.forwards.get(forwardKey(protocol, address, port));
      if (forward !== undefined) return { to: forward, isDeclared: true };
    }
    if (settings.ownAddresses.has(address)) return { refused: "gateway" };
    if (contains4(settings.subnet, address)) return { refused: "guest-network" };
    if (contains4(notUnicast, address)) return { refused: "no-unicast" };
    const text = formatIpv4(address);
    const allowed = settings.allowHost.has(text) || settings.allowHost.has(`${text}:${port}`);
    const refusal = allowed ? undefined : this.refusal(address);
    return refusal === undefined ? { to: { address: text, port }, isDeclared: allowed } : { refused: refusal };
  }

  private refusal(address: number): Refusal | undefined {
    if (contains4(loopback, address) || contains4(thisHost, address)) return "loopback";
    if (contains4(linkLocal, address)) return "link-local";
    const now = this.clock.now();
    if (now >= this.until) {
      this.own = this.list();
      this.until = now + OWN_ADDRESSES_NS;
    }
    return this.own.has(address) ? "host" : undefined;
  }
}
