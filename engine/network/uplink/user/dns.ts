/**
 * The name server that guests see: queries go on to the host's resolvers as they are, from a socket each, so that nobody
 * else can answer them. It is we who ask, so a resolver on the host's loopback address is nothing special.
 *
 * Sources: RFC 1035 (4.1.1 header), RFC 5452 (a port of its own for each query).
 */
import { createSocket, type Socket } from "node:dgram";
import { getServers } from "node:dns";
import { isIPv6 } from "node:net";
import type { Frame } from "../../../device/net/frame.ts";
import type { Headers } from "../../headers.ts";
import { FlowTable } from "./flow-table.ts";
import type { GuestAddress, GuestLink } from "./guest-link.ts";
import { type HostEndpoint, parseEndpoint } from "./settings.ts";

export const DNS_PORT = 53;
const DNS_HEADER = 12;
const LONGEST_QUERY = 4096;
/** Milliseconds after which the next server is asked, and after which there is no answer. */
const NEXT_AFTER = 1500;
const GIVE_UP = 10_000;
const RESPONSE = 0x80;
const SERVER_FAILURE = 2;

interface Query {
  readonly key: string;
  readonly guest: GuestAddress;
  readonly guestPort: number;
  readonly message: Buffer;
  readonly since: number;
  /** How many servers have been asked; all are asked again in turn. */
  asked: number;
  askedAt: number;
  socket: Socket | undefined;
}

/** The host's resolvers, as node:dns knows them; those that cannot be read are left out. */
export function hostResolvers(): HostEndpoint[] {
  return getServers().flatMap((text) => {
    try {
      return [parseEndpoint(text, DNS_PORT)];
    } catch {
      return [];
    }
  });
}

export class DnsForwarder {
  private readonly link: GuestLink;
  private readonly now: () => number;
  private readonly queries: FlowTable<Query>;

  constructor(link: GuestLink, now: () => number) {
    this.link = link;
    this.now = now;
    const { flowsPerGuest, flows } = link.settings;
    this.queries = new FlowTable(flowsPerGuest, flows, now, (query) => query.socket?.close());
  }

  /** Those that are asked, in order: the settings', else the host's at this moment. */
  get resolvers(): readonly HostEndpoint[] {
    return this.link.settings.resolvers ?? hostResolvers();
  }

  /** A guest's datagram to the name server. */
  receive(frame: Frame, headers: Headers): void {
    const { payloadLength, payloadOffset, source4, sourcePort } = headers;
    if (payloadLength < DNS_HEADER || payloadLength > LONGEST_QUERY) {
      this.count("dns-malformed");
      return;
    }
    const message = Buffer.allocUnsafe(payloadLength);
    frame.copyTo(message, 0, payloadOffset, payloadLength);
    if (((message[2] ?? 0) & RESPONSE) !== 0) {
      this.count("dns-malformed");
      return;
    }
    const mac = { high: headers.sourceHigh, low: headers.sourceLow };
    const key = `${source4}:${sourcePort}:${message.readUInt16BE(0)}`;
    // The guest asks again: the server may have lost it, so the next one's turn.
    let query = this.queries.find(mac, key);
    if (query === undefined) {
      const now = this.now();
      const guest = { mac, address: source4 };
      query = { key, guest, guestPort: sourcePort, message, since: now, asked: 0, askedAt: now, socket: undefined };
      this.queries.add(mac, key, query);
      this.count("dns-queries");
    }
    this.askNext(query);
  }

  get size(): number {
    return this.queries.size;
  }

  tick(): void {
    const now = this.now();
    this.queries.expire((query) => {
      if (now - query.since > GIVE_UP) this.fail(query);
      else if (now - query.askedAt > NEXT_AFTER) this.askNext(query);
      return GIVE_UP;
    });
  }

  close(): void {
    this.queries.clear();
  }

  private count(name: string): void {
    this.link.counters[name] = (this.link.counters[name] ?? 0) + 1;
  }

  private askNext(query: Query): void {
    const servers = this.resolvers;
    const server = servers[query.asked % Math.max(1, servers.length)];
    if (server === undefined) {
      this.fail(query);
      return;
    }
    query.asked++;
    query.askedAt = this.now();
    query.socket?.close();
    const socket = createSocket(isIPv6(server.address) ? "udp6" : "udp4");
    query.socket = socket;
    socket.on("error", () => this.broken(query, socket));
    socket.on("message", (answer) => this.answered(query, answer));
    socket.on("connect", () => {
      if (query.socket !== socket) return;
      socket.send(query.message, (error) => {
        if (error) this.broken(query, socket);
      });
    });
    socket.connect(server.port, server.address);
  }

  /** This server cannot be asked: at once the next one, unless all have been. */
  private broken(query: Query, socket: Socket): void {
    if (query.socket !== socket || !this.isPending(query)) return;
    if (query.asked < this.resolvers.length) this.askNext(query);
    else this.fail(query);
  }

  private isPending(query: Query): boolean {
    return this.queries.find(query.guest.mac, query.key) === query;
  }

  private answered(query: Query, answer: Buffer): void {
    const isAnswer =
      answer.length >= DNS_HEADER &&
      answer.readUInt16BE(0) === query.message.readUInt16BE(0) &&
      ((answer[2] ?? 0) & RESPONSE) !== 0;
    if (!isAnswer || !this.isPending(query)) return;
    this.queries.remove(query.guest.mac, query.key);
    this.send(query, answer);
  }

  /** Says SERVFAIL, with the question as it was asked. */
  private fail(query: Query): void {
    if (!this.isPending(query)) return;
    this.queries.remove(query.guest.mac, query.key);
    this.count("dns-failed");
    const answer = Buffer.from(query.message);
    answer[2] = (answer[2] ?? 0) | RESPONSE;
    answer[3] = SERVER_FAILURE;
    this.send(query, answer);
  }

  private send(query: Query, answer: Buffer): void {
    const { guest, guestPort } = query;
    const { dns } = this.link.settings;
    this.link.post(() => this.link.sendUdp(guest, dns, DNS_PORT, guestPort, answer));
  }
}
