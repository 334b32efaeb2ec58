/**
 * UDP of the `user` uplink: a flow is a guest's port and a port of the outside, and has a connected socket of the host, so
 * that only who was asked can answer and refusals come back to the guest.
 *
 * Sources: RFC 768, RFC 4787 (5: how long a mapping lives).
 */
import { createSocket, type Socket } from "node:dgram";
import type { Frame } from "../../../device/net/frame.ts";
import type { Headers } from "../../headers.ts";
import { FlowTable } from "./flow-table.ts";
import type { GuestAddress, GuestLink } from "./guest-link.ts";
import { IcmpCode, IcmpType, quoteOf } from "./icmp.ts";
import type { Reachability, Reached } from "./reachability.ts";

/** Milliseconds without a datagram, before any answer came and after. */
const IDLE_UNANSWERED = 30_000;
const IDLE_ANSWERED = 180_000;
/** Datagrams that wait for the socket to be ready. */
const MOST_WAITING = 32;
/** Bytes that the kernel has not taken yet; more are dropped, as UDP may. */
const MOST_UNSENT = 262_144;

interface UdpFlow {
  readonly guest: GuestAddress;
  readonly guestPort: number;
  readonly address: number;
  readonly port: number;
  readonly socket: Socket;
  /** Datagrams until the socket is connected, then undefined. */
  waiting: Buffer[] | undefined;
  /** What an ICMP error quotes: of the datagram that came last. */
  quote: Uint8Array;
  unsent: number;
  isAnswered: boolean;
}

export class UdpService {
  private readonly link: GuestLink;
  private readonly reach: Reachability;
  private readonly flows: FlowTable<UdpFlow>;

  constructor(link: GuestLink, reach: Reachability, now: () => number) {
    this.link = link;
    this.reach = reach;
    const { flowsPerGuest, flows } = link.settings;
    this.flows = new FlowTable(flowsPerGuest, flows, now, (flow) => flow.socket.close());
  }

  get size(): number {
    return this.flows.size;
  }

  /** A guest's datagram: headers are those of UDP, the checksum is right. */
  receive(frame: Frame, headers: Headers): void {
    const { source4, sourcePort, destination4, destinationPort } = headers;
    const mac = { high: headers.sourceHigh, low: headers.sourceLow };
    const key = `${source4}:${sourcePort}:${destination4}:${destinationPort}`;
    let flow = this.flows.find(mac, key);
    const quote = quoteOf(frame, headers);
    if (flow === undefined) {
      const guest = { mac, address: source4 };
      const reach = this.reach.decide("udp", destination4, destinationPort);
      if ("refused" in reach) {
        this.count(`refused-${reach.refused}`);
        // Nobody answers what went to a group.
        if (reach.refused === "no-unicast" || headers.isMulticast) return;
        this.link.post(() => this.link.sendError(guest, IcmpType.unreachable, IcmpCode.portUnreachable, quote));
        return;
      }
      flow = this.create(guest, headers, key, reach, quote);
    }
    flow.quote = quote;
    const payload = Buffer.allocUnsafe(headers.payloadLength);
    frame.copyTo(payload, 0, headers.payloadOffset, payload.length);
    if (flow.waiting === undefined) this.send(flow, key, payload);
    else if (flow.waiting.length < MOST_WAITING) flow.waiting.push(payload);
    else this.count("udp-dropped");
  }

  tick(): void {
    this.flows.expire((flow) => (flow.isAnswered ? IDLE_ANSWERED : IDLE_UNANSWERED));
  }

  close(): void {
    this.flows.clear();
  }

  private count(name: string): void {
    this.link.counters[name] = (this.link.counters[name] ?? 0) + 1;
  }

  private create(
    guest: GuestAddress,
    headers: Headers,
    key: string,
    { to, isDeclared }: Reached,
    quote: Uint8Array,
  ): UdpFlow {
    const socket = createSocket("udp4");
    const flow: UdpFlow = {
      guest,
      guestPort: headers.sourcePort,
      address: headers.destination4,
      port: headers.destinationPort,
      socket,
      waiting: [],
      quote,
      unsent: 0,
      isAnswered: false,
    };
    socket.on("error", (error: NodeJS.ErrnoException) => this.failed(flow, key, error));
    socket.on("message", (payload) => this.answered(flow, key, payload));
    socket.on("connect", () => {
      // An address that the list of the host's own does not have, and is one nevertheless: both ends are then one.
      if (!isDeclared && socket.address().address === to.address) {
        this.count("refused-host");
        this.failed(flow, key, undefined);
        return;
      }
      const waiting = flow.waiting ?? [];
      flow.waiting = undefined;
      for (const payload of waiting) this.send(flow, key, payload);
    });
    socket.connect(to.port, to.address);
    this.flows.add(guest.mac, key, flow);
    this.count("udp-flows");
    return flow;
  }

  private send(flow: UdpFlow, key: string, payload: Buffer): void {
    if (flow.unsent + payload.length > MOST_UNSENT) {
      this.count("udp-dropped");
      return;
    }
    flow.unsent += payload.length;
    flow.socket.send(payload, (error) => {
      flow.unsent -= payload.length;
      if (error) this.failed(flow, key, error);
    });
  }

  private answered(flow: UdpFlow, key: string, payload: Buffer): void {
    if (this.flows.find(flow.guest.mac, key) !== flow) return;
    flow.isAnswered = true;
    this.link.post(() => this.link.sendUdp(flow.guest, flow.address, flow.port, flow.guestPort, payload));
  }

  private failed(flow: UdpFlow, key: string, error: NodeJS.ErrnoException | undefined): void {
    if (this.flows.find(flow.guest.mac, key) !== flow) return;
    this.flows.remove(flow.guest.mac, key);
    this.count("udp-failed");
    const { guest, quote } = flow;
    const code =
      error?.code === "ENETUNREACH" || error?.code === "EHOSTUNREACH"
        ? IcmpCode.hostUnreachable
        : error?.code === "EACCES" || error?.code === "EPERM"
          ? IcmpCode.prohibited
          : IcmpCode.portUnreachable;
    this.link.post(() => this.link.sendError(guest, IcmpType.unreachable, code, quote, flow.address));
  }
}
