/**
 * What can be set for the `user` uplink, and what is taken where nothing is said.
 *
 * The guest's network is 10.0.2.0/24 as users of other user-mode networks know it: the gateway is .2, the name server .3,
 * DHCP gives away .15 to .254.
 */
import {
  type Cidr4,
  contains4,
  formatIpv4,
  formatMac,
  parseCidr,
  parseInterfaceMac,
  parseIpv4,
} from "../../address.ts";
import { UplinkError } from "../types.ts";

/** The gateway's MAC address, 00:16:3e:ff:ff:fe: of Xen's range, and fixed so that guests' ARP tables stay right. */
export const GATEWAY_MAC = { high: 0x0016, low: 0x3eff_fffe } as const;

export type Transport = "tcp" | "udp";

/** Address and port of the guest network that stand for a port of the host: the only way to what is the host's own. */
export interface GuestForward {
  readonly protocol: Transport;
  /** An address of the guest network that is no guest's; the gateway's where none is given. */
  readonly address?: string;
  readonly port: number;
  readonly hostAddress: string;
  readonly hostPort: number;
}

/** A fixed address for an interface, as `ip=` of its vif says. */
export interface StaticLease {
  readonly mac: string;
  readonly address: string;
  readonly hostname?: string;
}

/** All optional. Addresses are text, ports numbers from 1 to 65535. */
export interface UserUplinkOptions {
  /** "10.0.2.0/24"; between /8 and /29. */
  readonly subnet?: string;
  /** An address of the subnet, .2 by default. */
  readonly gateway?: string;
  /** An address of the subnet, .3 by default. */
  readonly dns?: string;
  /** First and last address that DHCP gives away; .15 to the last of the subnet (of its first 256 addresses, .254). */
  readonly dhcpFirst?: string;
  readonly dhcpLast?: string;
  readonly leases?: readonly StaticLease[];
  /** Name of the domain that DHCP tells. */
  readonly domain?: string;
  /** IP MTU of the switch, 1500 by default. */
  readonly mtu?: number;
  /** Name servers to ask, "address" or "address:port" ("[v6]:port"); the host's where none is given. */
  readonly resolvers?: readonly string[];
  /** TCP and UDP ports of the host's 127.0.0.1 that guests reach as the gateway's. */
  readonly hostLoopback?: readonly number[];
  readonly guestForwards?: readonly GuestForward[];
  /** Addresses of the host itself, or link-local ones, that guests may reach: "192.168.1.5" or "192.168.1.5:80". */
  readonly allowHost?: readonly string[];
  /** TCP connections at most of one guest (1024) and of all (4096). */
  readonly connectionsPerGuest?: number;
  readonly connections?: number;
  /** UDP and ping flows at most of one guest (256) and of all (1024). */
  readonly flowsPerGuest?: number;
  readonly flows?: number;
}

/** What a guest-side address and port stand for. */
export interface HostEndpoint {
  readonly address: string;
  readonly port: number;
}

/** The options, checked and in the form that the data path compares. */
export interface UserSettings {
  readonly subnet: Cidr4;
  readonly broadcast: number;
  readonly gateway: number;
  readonly dns: number;
  readonly dhcpFirst: number;
  readonly dhcpLast: number;
  /** By MAC address in lower case. */
  readonly leases: ReadonlyMap<string, { readonly address: number; readonly hostname?: string }>;
  readonly domain: string | undefined;
  readonly mtu: number;
  readonly resolvers: readonly HostEndpoint[] | undefined;
  /** By forwardKey(). */
  readonly forwards: ReadonlyMap<string, HostEndpoint>;
  /** Addresses that we answer for: gateway, name server and those of forwards. */
  readonly ownAddresses: ReadonlySet<number>;
  /** "address" or "address:port". */
  readonly allowHost: ReadonlySet<string>;
  readonly connectionsPerGuest: number;
  readonly connections: number;
  readonly flowsPerGuest: number;
  readonly flows: number;
}

/** How a guest-side endpoint is found in `forwards`. */
export function forwardKey(protocol: Transport, address: number, port: number): string {
  return `${protocol}:${formatIpv4(address)}:${port}`;
}

/** @throws UplinkError unless it is a port's number */
export function checkPort(port: number, what: string): number {
  if (Number.isInteger(port) && port >= 1 && port <= 65_535) return port;
  throw new UplinkError(`${what} ${port} is no port`, "use a number from 1 to 65535");
}

function checkName(name: string): string {
  if (/^[a-z0-9]([a-z0-9.-]{0,120}[a-z0-9])?$/i.test(name)) return name;
  throw new UplinkError(
    "a host or domain name has letters that it may not have",
    "use letters, digits, dots and hyphens",
  );
}

function parseSubnet(text: string): Cidr4 {
  const subnet = parseCidr(text);
  if (subnet.version !== 4 || subnet.bits < 8 || subnet.bits > 29) {
    throw new UplinkError(
      `subnet "${text}" does not fit`,
      "write an IPv4 network between /8 and /29, like 10.0.2.0/24",
    );
  }
  return { ...subnet, address: (subnet.address & subnet.mask) >>> 0 };
}

function within(subnet: Cidr4, broadcast: number, text: string, what: string): number {
  const address = parseIpv4(text);
  if (contains4(subnet, address) && address !== subnet.address && address !== broadcast) return address;
  throw new UplinkError(
    `${what} ${text} is no address of ${formatIpv4(subnet.address)}/${subnet.bits}`,
    "choose one inside the subnet",
  );
}

/** "address", "address:port", "[v6]:port" of a name server. */
export function parseEndpoint(text: string, port: number): HostEndpoint {
  const bracket = /^\[([0-9a-f:.%\w]+)\](?::(\d{1,5}))?$/i.exec(text);
  if (bracket) return { address: bracket[1] ?? "", port: bracket[2] === undefined ? port : Number(bracket[2]) };
  if (text.split(":").length > 2) return { address: text, port };
  const [address = "", given] = text.split(":");
  parseIpv4(address);
  return { address, port: given === undefined ? port : checkPort(Number(given), "name server port") };
}

function forwardsOf(
  options: UserUplinkOptions,
  gateway: number,
  own: Set<number>,
  inside: (text: string, what: string) => number,
): Map<string, HostEndpoint> {
  const forwards = new Map<string, HostEndpoint>();
  for (const port of options.hostLoopback ?? []) {
    checkPort(port, "host port");
    forwards.set(forwardKey("tcp", gateway, port), { address: "127.0.0.1", port });
    forwards.set(forwardKey("udp", gateway, port), { address: "127.0.0.1", port });
  }
  for (const forward of options.guestForwards ?? []) {
    const address = forward.address === undefined ? gateway : inside(forward.address, "forward's address");
    parseIpv4(forward.hostAddress);
    own.add(address);
    forwards.set(forwardKey(forward.protocol, address, checkPort(forward.port, "forward's port")), {
      address: forward.hostAddress,
      port: checkPort(forward.hostPort, "forward's host port"),
    });
  }
  return forwards;
}

function allowedOf(options: UserUplinkOptions): Set<string> {
  const allowed = new Set<string>();
  for (const text of options.allowHost ?? []) {
    const [address = "", port] = text.split(":");
    parseIpv4(address);
    if (port !== undefined) checkPort(Number(port), "allowed port");
    allowed.add(text);
  }
  return allowed;
}

function atLeastOne(value: number | undefined, preset: number, what: string): number {
  if (value === undefined) return preset;
  if (Number.isInteger(value) && value >= 1 && value <= 65_536) return value;
  throw new UplinkError(`${what} of ${value} does not fit`, "use a number from 1 to 65536");
}

/** Checks the options and fills in the rest. @throws UplinkError or NetworkError, of one line each */
export function settle(options: UserUplinkOptions): UserSettings {
  const subnet = parseSubnet(options.subnet ?? "10.0.2.0/24");
  const broadcast = (subnet.address | ~subnet.mask) >>> 0;
  const inside = (text: string, what: string): number => within(subnet, broadcast, text, what);
  const nth = (n: number): string => formatIpv4(Math.min(subnet.address + n, broadcast - 1));
  const gateway = inside(options.gateway ?? nth(2), "gateway");
  const dns = inside(options.dns ?? nth(3), "name server");
  const first = subnet.bits > 27 ? 4 : 15;
  const dhcpFirst = inside(options.dhcpFirst ?? nth(first), "first DHCP address");
  const dhcpLast = inside(options.dhcpLast ?? nth(254), "last DHCP address");
  if (gateway === dns) throw new UplinkError("gateway and name server have one address", "give them two");
  if (dhcpLast < dhcpFirst) throw new UplinkError("the DHCP range is empty", "let it end after it begins");
  const mtu = options.mtu ?? 1500;
  if (!Number.isInteger(mtu) || mtu < 576 || mtu > 65_535) {
    throw new UplinkError(`MTU ${mtu} does not fit`, "use a number from 576 to 65535");
  }
  const leases = new Map<string, { address: number; hostname?: string }>();
  for (const { mac, address, hostname } of options.leases ?? []) {
    leases.set(formatMac(parseInterfaceMac(mac)), {
      address: inside(address, "fixed address"),
      ...(hostname !== undefined && { hostname: checkName(hostname) }),
    });
  }
  const ownAddresses = new Set([gateway, dns]);
  const forwards = forwardsOf(options, gateway, ownAddresses, inside);
  return {
    subnet,
    broadcast,
    gateway,
    dns,
    dhcpFirst,
    dhcpLast,
    leases,
    domain: options.domain === undefined ? undefined : checkName(options.domain),
    mtu,
    resolvers: options.resolvers?.map((text) => parseEndpoint(text, 53)),
    forwards,
    ownAddresses,
    allowHost: allowedOf(options),
    connectionsPerGuest: atLeastOne(options.connectionsPerGuest, 1024, "a limit"),
    connections: atLeastOne(options.connections, 4096, "a limit"),
    flowsPerGuest: atLeastOne(options.flowsPerGuest, 256, "a limit"),
    flows: atLeastOne(options.flows, 1024, "a limit"),
  };
}
