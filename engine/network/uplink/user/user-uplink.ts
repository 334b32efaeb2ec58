/**
 * The `user` uplink: a lab's way to the host's network without any privilege. It is the gateway, DHCP server and name server
 * of a little network, ends the guests' TCP and UDP itself, and goes on with ordinary sockets of the host.
 *
 * The host itself cannot be reached: not its loopback addresses, not its own addresses, not what is link-local (where clouds
 * have their metadata), unless the settings declare it (hostLoopback, guestForwards, allowHost). That is decided on the
 * address that a socket connects to, so names that resolve to such an address lead nowhere either.
 *
 * IPv4 only; IPv6 frames are ignored and counted.
 */
import type { DeliveryFailure, Frame } from "../../../device/net/frame.ts";
import { contains4, formatIpv4, formatMac, parseIpv4 } from "../../address.ts";
import { foldSum, pseudoHeader4, sumBytes, sumFrame } from "../../checksum.ts";
import { EtherType, Headers, Protocol } from "../../headers.ts";
import type { Uplink, UplinkContext, UplinkCounters } from "../types.ts";
import { DHCP_SERVER_PORT, DhcpServer } from "./dhcp.ts";
import { DNS_PORT, DnsForwarder } from "./dns.ts";
import { Forwards, type HostForward } from "./forwards.ts";
import { GuestLink } from "./guest-link.ts";
import { IcmpService, IcmpType, quoteOf } from "./icmp.ts";
import { Neighbours } from "./neighbours.ts";
import { hostAddresses, Reachability } from "./reachability.ts";
import { Reassembly } from "./reassembly.ts";
import { GATEWAY_MAC, settle, type UserSettings, type UserUplinkOptions } from "./settings.ts";
import { TcpService } from "./tcp-service.ts";
import { UdpService } from "./udp-service.ts";

const NS_PER_MS = 1_000_000;
/** Milliseconds between looks at the timers: while TCP has something under way, while anything else is there. */
const QUICK_TICK = 50;
const SLOW_TICK = 500;
/** Frames that came in while one was being sent, and wait for that to end. */
const MOST_WAITING = 256;
const PROTOCOL_UNREACHABLE = 2;
const EVERYBODY = 0xffff_ffff;

/** What the uplink is given besides its settings. */
export interface UserUplinkContext extends UplinkContext {
  /** The host's own IPv4 addresses (u32), which are refused; by default those of its interfaces. */
  readonly hostAddresses?: () => Set<number>;
}

export class UserUplink implements Uplink {
  readonly kind = "user";
  readonly counters: UplinkCounters = { framesIn: 0, bytesIn: 0, framesOut: 0, bytesOut: 0 };
  private readonly context: UserUplinkContext;
  private readonly settings: UserSettings;
  private readonly link: GuestLink;
  private readonly neighbours: Neighbours;
  private readonly dhcp: DhcpServer;
  private readonly dns: DnsForwarder;
  private readonly icmp: IcmpService;
  private readonly reassembly: Reassembly;
  private readonly udp: UdpService;
  private readonly tcp: TcpService;
  private readonly forwards: Forwards;
  private readonly initialForwards: readonly HostForward[];
  private readonly headers = new Headers();
  private state: "new" | "open" | "closed" = "new";
  private waiting = 0;
  private timer: { cancel(): void } | undefined;
  private tickAt = Number.POSITIVE_INFINITY;

  /** @throws UplinkError or NetworkError of one line for settings that do not fit; nothing is opened before start() */
  constructor(context: UserUplinkContext, options: UserUplinkOptions = {}, forwards: readonly HostForward[] = []) {
    this.context = context;
    this.settings = settle(options);
    this.initialForwards = forwards;
    const { clock } = context;
    const now = (): number => clock.now() / NS_PER_MS;
    const log = (line: string): void => context.log(line);
    const busy = (): void => this.schedule(QUICK_TICK);
    this.link = new GuestLink(this.settings, context, this.counters);
    const reach = new Reachability(this.settings, clock, context.hostAddresses ?? hostAddresses);
    this.reassembly = new Reassembly(now, () => this.count("fragments-lost"));
    this.neighbours = new Neighbours(this.link, clock);
    this.dhcp = new DhcpServer(this.link, now, log);
    this.dns = new DnsForwarder(this.link, now);
    this.icmp = new IcmpService(this.link, reach, now, log);
    this.udp = new UdpService(this.link, reach, now);
    this.tcp = new TcpService(this.link, reach, now, busy, () => this.dns.resolvers[0]);
    this.forwards = new Forwards(this.link, this.neighbours, this.tcp, now, busy);
  }

  /** @throws UplinkError when a forwarded port cannot be opened; then nothing stays open */
  async start(): Promise<void> {
    if (this.state !== "new") return;
    this.state = "open";
    try {
      for (const forward of this.initialForwards) await this.forwards.add(forward);
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    if (this.state === "closed") return;
    this.state = "closed";
    this.timer?.cancel();
    this.link.close();
    this.neighbours.close();
    this.tcp.close();
    this.udp.close();
    this.icmp.close();
    this.dns.close();
    await this.forwards.close();
  }

  /**
   * Keeps an address for an interface, as DHCP will tell it: that one, or else the one that it would get anyway.
   * @param mac in lower case
   * @returns the address; undefined when it cannot be had
   */
  reserveAddress(mac: string, address?: string): string | undefined {
    const reserved = this.dhcp.reserve(mac, address === undefined ? undefined : parseIpv4(address));
    return reserved === undefined ? undefined : formatIpv4(reserved);
  }

  /** The interface is gone. */
  unreserveAddress(mac: string): void {
    this.dhcp.unreserve(mac);
  }

  /** Opens a port of the host that leads to a guest. @throws UplinkError of one line */
  async addForward(forward: HostForward): Promise<void> {
    await this.forwards.add(forward);
  }

  /** Closes it again; connections through it stay. @returns whether there was one */
  async removeForward(forward: Omit<HostForward, "guestAddress" | "guestPort">): Promise<boolean> {
    return await this.forwards.remove(forward);
  }

  describe(): Record<string, unknown> {
    const { subnet, gateway, dns, mtu, forwards } = this.settings;
    return {
      kind: this.kind,
      subnet: `${formatIpv4(subnet.address)}/${subnet.bits}`,
      gateway: formatIpv4(gateway),
      gatewayMac: formatMac(GATEWAY_MAC),
      dns: formatIpv4(dns),
      mtu,
      resolvers: this.dns.resolvers.map(({ address, port }) => `${address}:${port}`),
      leases: this.dhcp.describe(),
      forwards: this.forwards.list(),
      guestForwards: [...forwards].map(([from, { address, port }]) => `${from} to ${address}:${port}`),
      connections: this.tcp.describe(),
      buffered: this.tcp.buffered,
      udpFlows: this.udp.size,
      ping: this.icmp.canPing === undefined ? "not tried" : this.icmp.canPing ? "allowed" : "not allowed",
    };
  }

  deliver(frame: Frame): DeliveryFailure | undefined {
    if (this.state !== "open") return "down";
    if (this.link.isSending) {
      // Somebody answers from within our own send(): after it, in order.
      if (this.waiting >= MOST_WAITING) return "full";
      this.waiting++;
      const copy = frame.clone();
      this.link.post(() => {
        this.waiting--;
        this.receive(copy);
      });
    } else this.receive(frame);
    return undefined;
  }

  private receive(frame: Frame): void {
    const { headers } = this;
    this.counters.framesIn++;
    this.counters.bytesIn += frame.length;
    const error = headers.parse(frame);
    if (error !== undefined) this.count(`malformed-${error}`);
    else if ((headers.sourceHigh & 0x100) !== 0 || headers.vlan > 0) this.count("ignored");
    else if (headers.etherType === EtherType.arp) this.receiveArp(frame);
    else if (headers.etherType === EtherType.ipv4) this.receiveIpv4(frame);
    else this.count(headers.ipVersion === 6 ? "ignored-ipv6" : "ignored");
  }

  private count(name: string): void {
    this.counters[name] = (this.counters[name] ?? 0) + 1;
  }

  private receiveArp(frame: Frame): void {
    const { headers } = this;
    const { arpOperation, arpSenderAddress, arpTargetAddress, sourceHigh, sourceLow } = headers;
    const hardware = headers.arpSenderHardware;
    const isOwn = frame.head.subarray(hardware, hardware + 6).every((byte, n) => byte === frame.head[6 + n]);
    if (!isOwn || (arpOperation !== 1 && arpOperation !== 2)) {
      this.count("ignored");
      return;
    }
    this.neighbours.learn(arpSenderAddress, sourceHigh, sourceLow);
    if (arpOperation !== 1 || !this.settings.ownAddresses.has(arpTargetAddress)) return;
    const to = { mac: { high: sourceHigh, low: sourceLow }, address: arpSenderAddress };
    this.link.post(() => this.link.sendArp("reply", arpTargetAddress, to));
  }

  private receiveIpv4(frame: Frame): void {
    const { headers, settings } = this;
    const { source4, destination4, protocol } = headers;
    const isToUs = headers.destinationHigh === GATEWAY_MAC.high && headers.destinationLow === GATEWAY_MAC.low;
    if (!isToUs && !headers.isMulticast) return;
    const problem = this.checksumProblem(frame);
    if (problem !== undefined) {
      this.count(problem);
      return;
    }
    if (headers.isFragment) {
      if (isToUs) this.receiveFragment(frame);
      return;
    }
    const isDhcp = protocol === Protocol.udp && headers.destinationPort === DHCP_SERVER_PORT;
    if (isDhcp && (destination4 === EVERYBODY || destination4 === settings.gateway)) {
      this.dhcp.receive(frame, headers);
      return;
    }
    if (!isToUs) return;
    if (!contains4(settings.subnet, source4) || settings.ownAddresses.has(source4)) {
      this.count("foreign-source");
      return;
    }
    this.neighbours.learn(source4, headers.sourceHigh, headers.sourceLow);
    if (headers.hopLimit <= 1 && !settings.ownAddresses.has(destination4))
      this.sendError(frame, IcmpType.timeExceeded, 0);
    else this.dispatch(frame);
  }

  private receiveFragment(frame: Frame): void {
    const { headers } = this;
    this.schedule(SLOW_TICK);
    const packet = this.reassembly.add(frame, headers);
    if (packet === undefined) return;
    const error = headers.parse(packet);
    if (error === undefined) this.receiveIpv4(packet);
    else this.count(`malformed-${error}`);
  }

  /** The header's checksum, and the transport's where nobody has vouched for it. */
  private checksumProblem(frame: Frame): string | undefined {
    const { headers } = this;
    const { head } = frame;
    const size = ((head[headers.l3Offset] ?? 0) & 0xf) * 4;
    if (foldSum(sumBytes(head, headers.l3Offset, size)) !== 0xffff) return "bad-checksum";
    if (frame.checksum !== "complete" || headers.l4Offset === 0 || headers.isFragment) return undefined;
    const { source4, destination4, protocol, l4Offset } = headers;
    let length = headers.l3End - l4Offset;
    if (protocol === Protocol.udp) {
      if (head[l4Offset + 6] === 0 && head[l4Offset + 7] === 0) return undefined;
      length = headers.payloadLength + 8;
    }
    const pseudo = protocol === Protocol.icmp ? 0 : pseudoHeader4(source4, destination4, protocol, length);
    return foldSum(sumFrame(frame, l4Offset, length, pseudo)) === 0xffff ? undefined : "bad-checksum";
  }

  private dispatch(frame: Frame): void {
    const { headers, settings } = this;
    this.schedule(SLOW_TICK);
    switch (headers.protocol) {
      case Protocol.tcp:
        this.tcp.receive(frame, headers);
        return;
      case Protocol.udp: {
        const { destination4, destinationPort } = headers;
        if (destination4 === settings.dns && destinationPort === DNS_PORT) this.dns.receive(frame, headers);
        else if (destination4 === settings.gateway && this.forwards.udpAt(destinationPort)?.receive(frame, headers))
          return;
        else this.udp.receive(frame, headers);
        return;
      }
      case Protocol.icmp:
        this.icmp.receive(frame, headers);
        return;
      default:
        this.sendError(frame, IcmpType.unreachable, PROTOCOL_UNREACHABLE);
    }
  }

  private sendError(frame: Frame, type: number, code: number): void {
    const { headers } = this;
    const to = { mac: { high: headers.sourceHigh, low: headers.sourceLow }, address: headers.source4 };
    const quote = quoteOf(frame, headers);
    this.link.post(() => this.link.sendError(to, type, code, quote));
  }

  /** Looks at the timers in `ms` milliseconds, or before. */
  private schedule(ms: number): void {
    const at = this.context.clock.now() + ms * NS_PER_MS;
    if (this.tickAt <= at || this.state !== "open") return;
    this.timer?.cancel();
    this.tickAt = at;
    this.timer = this.context.clock.after(ms * NS_PER_MS, () => {
      this.tickAt = Number.POSITIVE_INFINITY;
      this.link.post(() => this.tick());
    });
  }

  private tick(): void {
    const isUnderWay = this.tcp.tick();
    this.udp.tick();
    this.icmp.tick();
    this.dns.tick();
    this.forwards.tick();
    this.reassembly.tick();
    if (isUnderWay) this.schedule(QUICK_TICK);
    else if (this.rest > 0) this.schedule(SLOW_TICK);
  }

  /** How many things there are that grow old. */
  private get rest(): number {
    const { tcp, udp, icmp, dns, reassembly, forwards } = this;
    return tcp.size + udp.size + icmp.size + dns.size + reassembly.size + forwards.udpPeers;
  }
}
