/**
 * The DHCP server of the `user` uplink. An interface keeps its address: fixed ones come from the settings, the others are
 * first looked for at a place that follows from the MAC address, so that they are mostly the same after a restart too.
 *
 * Source: RFC 2131 (4.3: server behaviour, table 3).
 */
import type { Frame } from "../../../device/net/frame.ts";
import { contains4, formatIpv4, formatMac, type MacAddress } from "../../address.ts";
import type { Headers } from "../../headers.ts";
import {
  DhcpOption,
  type DhcpRequest,
  DhcpType,
  type DhcpValue,
  readDhcp,
  uint16,
  uint32,
  writeDhcp,
} from "./dhcp-message.ts";
import type { GuestLink } from "./guest-link.ts";

export const DHCP_SERVER_PORT = 67;
const DHCP_CLIENT_PORT = 68;
/** Seconds. */
const LEASE_TIME = 86_400;
/** Milliseconds that an offer is held, and that an address which somebody else has is left alone. */
const OFFER_TIME = 60_000;
const DECLINE_TIME = 600_000;
const LONGEST_MESSAGE = 1500;
const EVERYBODY = 0xffff_ffff;
const BROADCAST_MAC: MacAddress = { high: 0xffff, low: 0xffff_ffff };

/** What an interface has, or is offered. */
export interface Lease {
  readonly address: number;
  hostName: string | undefined;
  /** Milliseconds of the clock; an address whose lease is over goes to others only when no other is free. */
  until: number;
}

/** FNV-1a over the text. */
function hash(text: string): number {
  let value = 0x811c_9dc5;
  for (let n = 0; n < text.length; n++) value = Math.imul(value ^ text.charCodeAt(n), 0x0100_0193) >>> 0;
  return value;
}

export class DhcpServer {
  private readonly link: GuestLink;
  private readonly now: () => number;
  private readonly log: (line: string) => void;
  /** By MAC address, in text; no more than there are addresses. */
  private readonly leases = new Map<string, Lease>();
  private readonly byAddress = new Map<number, string>();
  /** Addresses that a client found in use, and until when they are left alone. */
  private readonly declined = new Map<number, number>();

  constructor(link: GuestLink, now: () => number, log: (line: string) => void) {
    this.link = link;
    this.now = now;
    this.log = log;
    for (const [mac, { address, hostname }] of link.settings.leases) {
      this.assign(mac, { address, hostName: hostname, until: Number.POSITIVE_INFINITY });
    }
  }

  /**
   * Keeps an address for an interface: `wanted`, or else the one that it has or would get.
   * @param mac in lower case
   * @returns the address; undefined when it is no guest's, or another interface has it
   */
  reserve(mac: string, wanted?: number): number | undefined {
    const old = this.leases.get(mac);
    const address = wanted ?? old?.address ?? this.findFree(mac);
    if (address === undefined) return undefined;
    const { subnet, broadcast, ownAddresses } = this.link.settings;
    const isGuests = contains4(subnet, address) && address !== subnet.address && address !== broadcast;
    const owner = this.byAddress.get(address);
    if (!isGuests || ownAddresses.has(address) || (owner !== undefined && owner !== mac)) return undefined;
    this.forget(mac);
    this.assign(mac, { address, hostName: old?.hostName, until: Number.POSITIVE_INFINITY });
    return address;
  }

  /** The interface is gone: its address may be given to others when no other is left. */
  unreserve(mac: string): void {
    const lease = this.leases.get(mac);
    if (lease !== undefined) lease.until = this.now();
  }

  /** A guest's datagram to port 67. */
  receive(frame: Frame, headers: Headers): void {
    const message = Buffer.alloc(Math.min(headers.payloadLength, LONGEST_MESSAGE));
    frame.copyTo(message, 0, headers.payloadOffset, message.length);
    const request = readDhcp(message);
    // Whoever asks for others could have all addresses.
    const isOwn = request?.mac.high === headers.sourceHigh && request.mac.low === headers.sourceLow;
    if (request === undefined || !isOwn) {
      this.count("dhcp-malformed");
      return;
    }
    this.count("dhcp-messages");
    this.handle(request);
  }

  /** The leases, as they are shown. */
  describe(): Record<string, unknown>[] {
    return [...this.leases].map(([mac, { address, hostName }]) => ({
      mac,
      address: formatIpv4(address),
      ...(hostName !== undefined && { hostName }),
    }));
  }

  private count(name: string): void {
    this.link.counters[name] = (this.link.counters[name] ?? 0) + 1;
  }

  private handle(request: DhcpRequest): void {
    switch (request.type) {
      case DhcpType.discover:
        this.discover(request);
        break;
      case DhcpType.request:
        this.request(request);
        break;
      case DhcpType.decline:
        this.decline(request);
        break;
      case DhcpType.release:
        this.release(request);
        break;
      case DhcpType.inform:
        this.answer(request, DhcpType.ack, 0, request.clientAddress);
        break;
      default:
        this.count("dhcp-malformed");
    }
  }

  /** The address stays the interface's as long as there are others. */
  private release(request: DhcpRequest): void {
    const lease = this.leases.get(request.macText);
    if (lease?.address === request.clientAddress) lease.until = Math.min(lease.until, this.now());
  }

  private discover(request: DhcpRequest): void {
    const lease = this.leases.get(request.macText) ?? this.create(request);
    if (lease === undefined) {
      this.count("dhcp-exhausted");
      this.log(`user: no DHCP address is left for ${request.macText}; widen the range`);
      return;
    }
    lease.until = Math.max(lease.until, this.now() + OFFER_TIME);
    this.answer(request, DhcpType.offer, lease.address);
  }

  private request(request: DhcpRequest): void {
    const { server, macText } = request;
    if (server !== undefined && server !== this.link.settings.gateway) return;
    const wanted = request.requested ?? request.clientAddress;
    // A guest that was here before our own restart comes back with an address that nobody else has got since.
    const lease = this.leases.get(macText) ?? (this.isFree(wanted) ? this.create(request, wanted) : undefined);
    if (lease?.address !== wanted) {
      this.answer(request, DhcpType.nak, 0);
      return;
    }
    lease.until = Math.max(lease.until, this.now() + LEASE_TIME * 1000);
    lease.hostName = request.hostName ?? lease.hostName;
    this.answer(request, DhcpType.ack, lease.address);
  }

  private decline(request: DhcpRequest): void {
    const lease = this.leases.get(request.macText);
    if (lease === undefined || lease.address !== request.requested || !Number.isFinite(lease.until)) return;
    this.forget(request.macText);
    this.declined.set(lease.address, this.now() + DECLINE_TIME);
    this.log(`user: ${request.macText} says that ${formatIpv4(lease.address)} is in use; it gets another address`);
  }

  private isFree(address: number): boolean {
    const { dhcpFirst, dhcpLast, gateway, dns } = this.link.settings;
    if (address < dhcpFirst || address > dhcpLast || address === gateway || address === dns) return false;
    return !this.byAddress.has(address) && (this.declined.get(address) ?? 0) <= this.now();
  }

  private create(request: DhcpRequest, wanted = request.requested ?? 0): Lease | undefined {
    const address = this.isFree(wanted) ? wanted : this.findFree(request.macText);
    if (address === undefined) return undefined;
    const lease = { address, hostName: request.hostName, until: 0 };
    this.assign(request.macText, lease);
    return lease;
  }

  private findFree(mac: string): number | undefined {
    const { dhcpFirst, dhcpLast } = this.link.settings;
    const count = dhcpLast - dhcpFirst + 1;
    const start = hash(mac) % count;
    for (let n = 0; n < count; n++) {
      const address = dhcpFirst + ((start + n) % count);
      if (this.isFree(address)) return address;
    }
    const now = this.now();
    for (const [old, { address, until }] of this.leases) {
      if (until > now || (this.declined.get(address) ?? 0) > now) continue;
      this.forget(old);
      return address;
    }
    return undefined;
  }

  private assign(mac: string, lease: Lease): void {
    this.leases.set(mac, lease);
    this.byAddress.set(lease.address, mac);
  }

  private forget(mac: string): void {
    const lease = this.leases.get(mac);
    if (lease === undefined) return;
    this.leases.delete(mac);
    this.byAddress.delete(lease.address);
  }

  private options(type: number, hostName: string | undefined): DhcpValue[] {
    const { subnet, broadcast, gateway, dns, mtu, domain } = this.link.settings;
    if (type === DhcpType.nak) return [];
    const times: DhcpValue[] = [
      [DhcpOption.leaseTime, uint32(LEASE_TIME)],
      [DhcpOption.renewal, uint32(LEASE_TIME / 2)],
      [DhcpOption.rebinding, uint32((LEASE_TIME * 7) / 8)],
    ];
    return [
      ...times,
      [DhcpOption.mask, { address: subnet.mask }],
      [DhcpOption.broadcast, { address: broadcast }],
      [DhcpOption.router, { address: gateway }],
      [DhcpOption.nameServer, { address: dns }],
      [DhcpOption.mtu, uint16(mtu)],
      ...(domain === undefined ? [] : [[DhcpOption.domain, domain] as const]),
      ...(hostName === undefined ? [] : [[DhcpOption.hostName, hostName] as const]),
    ];
  }

  /** `informed`: the address of a client that only asks for options; it gets no lease. */
  private answer(request: DhcpRequest, type: number, yourAddress: number, informed?: number): void {
    const { gateway, leases } = this.link.settings;
    const fixed = leases.get(formatMac(request.mac));
    const all = this.options(type, fixed?.hostname);
    const values = informed === undefined ? all : all.slice(3);
    const message = writeDhcp(request, type, yourAddress, gateway, values);
    // RFC 2131, 4.1: to the address that the client has; else to the one it gets, or to all where it cannot take that yet.
    const has = type === DhcpType.nak ? 0 : (informed ?? request.clientAddress);
    const toAll = has === 0 && (request.isBroadcast || yourAddress === 0);
    const address = has !== 0 ? has : toAll ? EVERYBODY : yourAddress;
    const to = { mac: toAll ? BROADCAST_MAC : request.mac, address };
    this.link.post(() => this.link.sendUdp(to, gateway, DHCP_SERVER_PORT, DHCP_CLIENT_PORT, message));
  }
}
