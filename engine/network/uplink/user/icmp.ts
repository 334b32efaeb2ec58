/**
 * ICMP of the `user` uplink: the gateway and the name server answer echo requests; those to other hosts go out through the
 * system's unprivileged ping sockets where it lets us have them, and are answered "prohibited" where it does not.
 *
 * Sources: RFC 792, RFC 1122 (3.2.2), RFC 1812 (5.2.7.1: code 13), Linux icmp(7): net.ipv4.ping_group_range.
 */
import type { Socket } from "node:dgram";
import type { Frame } from "../../../device/net/frame.ts";
import type { Headers } from "../../headers.ts";
import { FlowTable } from "./flow-table.ts";
import { type GuestAddress, type GuestLink, put16 } from "./guest-link.ts";
import { openPingSocket } from "./ping-socket.ts";
import type { Reachability } from "./reachability.ts";

export const IcmpType = { echoReply: 0, unreachable: 3, echo: 8, timeExceeded: 11 } as const;

/** Codes of "unreachable". */
export const IcmpCode = {
  networkUnreachable: 0,
  hostUnreachable: 1,
  portUnreachable: 3,
  prohibited: 13,
} as const;

const ICMP_HEADER = 8;
/** Milliseconds that answers are waited for. */
const IDLE = 20_000;

/** What an ICMP error quotes of a packet: its header and eight bytes more, as far as they are there. */
export function quoteOf(frame: Frame, headers: Headers): Uint8Array {
  const size = ((frame.head[headers.l3Offset] ?? 0x45) & 0xf) * 4;
  const end = Math.min(headers.l3Offset + size + 8, headers.l3End, frame.headLength);
  return frame.head.slice(headers.l3Offset, end);
}

/** Echo requests of one guest with one identifier to one host. */
interface PingFlow {
  readonly guest: GuestAddress;
  readonly socket: Socket;
  readonly target: number;
  readonly identifier: number;
}

export class IcmpService {
  private readonly link: GuestLink;
  private readonly reach: Reachability;
  private readonly flows: FlowTable<PingFlow>;
  /** Undefined until the first ping tries. */
  canPing: boolean | undefined;
  private readonly log: (line: string) => void;

  private readonly open: () => Socket | undefined;

  /** `open` makes ping sockets, where it may. */
  constructor(
    link: GuestLink,
    reach: Reachability,
    now: () => number,
    log: (line: string) => void,
    open: () => Socket | undefined = openPingSocket,
  ) {
    this.open = open;
    this.link = link;
    this.reach = reach;
    this.log = log;
    const { flowsPerGuest, flows } = link.settings;
    this.flows = new FlowTable(flowsPerGuest, flows, now, (flow) => flow.socket.close());
  }

  /** A guest's ICMP message: headers are those of ICMP, the checksum is right. */
  receive(frame: Frame, headers: Headers): void {
    if (headers.icmpType !== IcmpType.echo || headers.icmpCode !== 0) return;
    const { destination4: target, icmpIdentifier: identifier, source4 } = headers;
    const guest = { mac: { high: headers.sourceHigh, low: headers.sourceLow }, address: source4 };
    const { gateway, dns } = this.link.settings;
    const message = Buffer.allocUnsafe(ICMP_HEADER + headers.payloadLength);
    frame.copyTo(message, 0, headers.l4Offset, message.length);
    if (target === gateway || target === dns) {
      this.link.post(() => this.reply(guest, target, identifier, message));
      return;
    }
    const reach = this.reach.decide("icmp", target, 0);
    if ("refused" in reach) {
      this.count(`refused-${reach.refused}`);
      this.sendProhibited(guest, quoteOf(frame, headers));
      return;
    }
    const flow = this.flowOf(guest, target, identifier);
    if (flow === undefined) this.sendProhibited(guest, quoteOf(frame, headers));
    else this.send(flow, message, reach.to.address);
  }

  get size(): number {
    return this.flows.size;
  }

  tick(): void {
    this.flows.expire(() => IDLE);
  }

  close(): void {
    this.flows.clear();
  }

  private count(name: string): void {
    this.link.counters[name] = (this.link.counters[name] ?? 0) + 1;
  }

  private sendProhibited(guest: GuestAddress, quote: Uint8Array): void {
    this.link.post(() => this.link.sendError(guest, IcmpType.unreachable, IcmpCode.prohibited, quote));
  }

  /** Answers with the sequence number and data of `message`, an echo request or answer. */
  private reply(guest: GuestAddress, source: number, identifier: number, message: Uint8Array): void {
    const sequence = ((message[6] ?? 0) << 8) | (message[7] ?? 0);
    const rest = identifier * 0x1_0000 + sequence;
    this.link.sendIcmp(guest, source, IcmpType.echoReply, 0, rest, message.subarray(ICMP_HEADER));
  }

  private flowOf(guest: GuestAddress, target: number, identifier: number): PingFlow | undefined {
    const key = `${target}:${identifier}`;
    const found = this.flows.find(guest.mac, key);
    if (found !== undefined || this.canPing === false) return found;
    const socket = this.open();
    if (socket === undefined) {
      this.canPing = false;
      this.log("user: ping to other hosts is not allowed here; let it with sysctl net.ipv4.ping_group_range");
      return undefined;
    }
    this.canPing = true;
    const flow = { guest, socket, target, identifier };
    socket.on("error", () => this.flows.remove(guest.mac, key));
    socket.on("message", (message) => this.answered(flow, message));
    this.flows.add(guest.mac, key, flow);
    return flow;
  }

  private send({ socket }: PingFlow, message: Buffer, address: string): void {
    this.count("ping-sent");
    // The kernel writes its own identifier and the checksum.
    put16(message, 2, 0);
    socket.send(message, 1, address, (error) => {
      if (error) this.count("ping-failed");
    });
  }

  private answered(flow: PingFlow, message: Buffer): void {
    if (message.length < ICMP_HEADER || message[0] !== IcmpType.echoReply) return;
    this.link.post(() => this.reply(flow.guest, flow.target, flow.identifier, message));
  }
}
