/** TCP of the `user` uplink: guests' SYNs become sockets of the host, forwarded sockets become SYNs to guests. */
import { randomInt } from "node:crypto";
import { connect, type Socket } from "node:net";
import { Frame } from "../../../device/net/frame.ts";
import { type Headers, TcpFlag } from "../../headers.ts";
import { BufferBudget, BufferPool } from "./buffer-pool.ts";
import type { GuestAddress, GuestLink } from "./guest-link.ts";
import { IcmpCode, IcmpType, quoteOf } from "./icmp.ts";
import type { Reachability, Reached } from "./reachability.ts";
import type { HostEndpoint } from "./settings.ts";
import { TcpConnection, type TcpEndpoints, type TcpEnvironment } from "./tcp-connection.ts";
import { sendReset, sendSegment } from "./tcp-framer.ts";
import { ConnectionTable } from "./tcp-guests.ts";
import { HostSocket } from "./tcp-host-socket.ts";
import { readSynOptions, SegmentReader, segmentLength } from "./tcp-segment.ts";
import { advance, before } from "./tcp-sequence.ts";

/** Bytes that all connections together may hold before each gets less room. */
const BUFFER_BUDGET = 256 * 1024 * 1024;
/** Milliseconds that the host's connect() may take; the guest gives up about then. */
const CONNECT_TIME = 60_000;
const FIRST_PORT = 49_152;
const PORTS = 65_536 - FIRST_PORT;
/** TCP and IPv4 headers, which the MTU holds besides a segment. */
const HEADERS = 40;

/** What is kept of a guest's SYN until it is answered. */
interface Opening {
  readonly quote: Uint8Array;
  readonly since: number;
}

/** ICMP codes for what connect() says; whatever is not here is answered by a reset. */
const unreachable: Readonly<Record<string, number>> = {
  ENETUNREACH: IcmpCode.networkUnreachable,
  EHOSTUNREACH: IcmpCode.hostUnreachable,
  EHOSTDOWN: IcmpCode.hostUnreachable,
  ETIMEDOUT: IcmpCode.hostUnreachable,
  ENONET: IcmpCode.networkUnreachable,
  EACCES: IcmpCode.prohibited,
  EPERM: IcmpCode.prohibited,
};

export class TcpService {
  private readonly link: GuestLink;
  private readonly reach: Reachability;
  private readonly now: () => number;
  private readonly table = new ConnectionTable();
  private readonly opening = new Map<TcpConnection, Opening>();
  private readonly reader = new SegmentReader(new Frame(0));
  private readonly environment: TcpEnvironment;
  private awake: TcpConnection[] = [];
  private nextPort = randomInt(PORTS);
  /** Where connections to the name server go; undefined: nowhere. */
  private readonly resolver: () => HostEndpoint | undefined;

  /** Called when timers have something to look after soon. */
  private readonly busy: () => void;

  constructor(
    link: GuestLink,
    reach: Reachability,
    now: () => number,
    busy: () => void,
    resolver: () => HostEndpoint | undefined,
  ) {
    this.link = link;
    this.reach = reach;
    this.now = now;
    this.resolver = resolver;
    this.busy = busy;
    const mss = link.settings.mtu - HEADERS;
    this.environment = {
      pool: new BufferPool(),
      budget: new BufferBudget(BUFFER_BUDGET),
      mss,
      now,
      wake: (connection) => this.wake(connection),
      emit: (connection, flags, sequence, offset, length) => {
        const size = (flags & TcpFlag.syn) !== 0 ? mss : connection.transmitter.mss;
        if (link.isSending) return sendSegment(link, connection, size, flags, sequence, offset, length);
        link.post(() => sendSegment(link, connection, size, flags, sequence, 0, 0));
        return 0;
      },
      changed: (connection) => this.changed(connection),
    };
  }

  get size(): number {
    return this.table.size;
  }

  /** Bytes that are on their way, in either direction, of all connections. */
  get buffered(): number {
    return this.environment.budget.held;
  }

  /** A guest's segment: headers are those of TCP, the checksum is right. */
  receive(frame: Frame, headers: Headers): void {
    const { source4, sourcePort, destination4, destinationPort } = headers;
    const segment = this.reader.read(frame, headers);
    const found = this.table.find(source4, sourcePort, destination4, destinationPort);
    const isOpening = (segment.flags & (TcpFlag.syn | TcpFlag.ack | TcpFlag.rst)) === TcpFlag.syn;
    if (found !== undefined) {
      const isReuse = found.state === "time-wait" && isOpening && before(found.receiveQueue.next, segment.sequence);
      if (!isReuse) {
        found.receive(segment);
        return;
      }
      found.finish(undefined);
    }
    if (isOpening) this.accept(frame, headers);
    else if ((segment.flags & TcpFlag.rst) === 0) this.refuse(headers);
  }

  /**
   * A connection to a guest for a socket that a forward has accepted.
   * @returns whether there is room for one more; if not the socket is destroyed
   */
  open(to: GuestAddress, guestPort: number, socket: Socket): boolean {
    const { gateway, connections, connectionsPerGuest } = this.link.settings;
    const isFull = this.table.size >= connections || this.table.countOf(to.mac) >= connectionsPerGuest;
    const port = isFull ? undefined : this.choosePort(to.address, guestPort);
    if (port === undefined) {
      this.count("tcp-limit");
      socket.destroy();
      return false;
    }
    const host: HostSocket = new HostSocket(socket, {
      data: (chunk) => connection.hostData(chunk),
      ended: () => connection.hostEnded(),
      failed: () => connection.hostFailed(),
    });
    const endpoints = { guestMac: to.mac, guestAddress: to.address, guestPort, address: gateway, port };
    const connection: TcpConnection = TcpConnection.open(endpoints, this.environment, host, randomInt(0x1_0000_0000));
    this.table.add(connection);
    this.count("tcp-forwarded");
    return true;
  }

  /** Looks at all timers; within a posted job. @returns whether any is running that matters soon */
  tick(): boolean {
    const now = this.now();
    let isUnderWay = false;
    for (const connection of this.table) {
      connection.tick(now);
      isUnderWay ||= connection.transmitter.isTimed;
      if (connection.state !== "connecting") continue;
      const since = this.opening.get(connection)?.since ?? now;
      if (now - since > CONNECT_TIME) this.notConnected(connection, "ETIMEDOUT");
    }
    return isUnderWay;
  }

  /** Ends every connection, with resets to both sides. */
  close(): void {
    for (const connection of this.table) connection.reset("evicted");
  }

  /** Connections by state. */
  describe(): Record<string, number> {
    const states: Record<string, number> = {};
    for (const { state } of this.table) states[state] = (states[state] ?? 0) + 1;
    return states;
  }

  private count(name: string): void {
    this.link.counters[name] = (this.link.counters[name] ?? 0) + 1;
  }

  private wake(connection: TcpConnection): void {
    if (connection.isAwake) return;
    connection.isAwake = true;
    this.awake.push(connection);
    if (this.awake.length > 1) return;
    this.link.post(() => this.service());
    this.busy();
  }

  private service(): void {
    const awake = this.awake;
    this.awake = [];
    for (const connection of awake) connection.service();
  }

  private changed(connection: TcpConnection): void {
    if (connection.state !== "connecting") this.opening.delete(connection);
    this.table.changed(connection);
    if (connection.state === "closed" && connection.end !== undefined) this.count(`tcp-${connection.end}`);
  }

  private choosePort(guestAddress: number, guestPort: number): number | undefined {
    const { gateway } = this.link.settings;
    for (let tries = 0; tries < PORTS; tries++) {
      this.nextPort = (this.nextPort + 1) % PORTS;
      const port = FIRST_PORT + this.nextPort;
      if (this.table.find(guestAddress, guestPort, gateway, port) === undefined) return port;
    }
    return undefined;
  }

  private destination(headers: Headers): Reached | undefined {
    const { destination4, destinationPort } = headers;
    if (destination4 === this.link.settings.dns && destinationPort === 53) {
      const to = this.resolver();
      return to && { to, isDeclared: true };
    }
    const reach = this.reach.decide("tcp", destination4, destinationPort);
    if ("to" in reach) return reach;
    this.count(`refused-${reach.refused}`);
    return undefined;
  }

  private accept(frame: Frame, headers: Headers): void {
    const guestMac = { high: headers.sourceHigh, low: headers.sourceLow };
    const destination = this.destination(headers);
    if (destination === undefined || !this.makeRoom(guestMac)) {
      this.refuse(headers);
      return;
    }
    const endpoints: TcpEndpoints = {
      guestMac,
      guestAddress: headers.source4,
      guestPort: headers.sourcePort,
      address: headers.destination4,
      port: headers.destinationPort,
    };
    const { address: host, port } = destination.to;
    const socket = connect({ host, port, allowHalfOpen: true });
    const stream: HostSocket = new HostSocket(socket, {
      data: (chunk) => connection.hostData(chunk),
      ended: () => connection.hostEnded(),
      failed: (code) => this.hostFailed(connection, code),
    });
    const syn = { sequence: headers.tcpSequence, window: headers.tcpWindow, options: readSynOptions(this.reader) };
    const connection: TcpConnection = TcpConnection.accept(
      endpoints,
      this.environment,
      stream,
      randomInt(0x1_0000_0000),
      syn,
    );
    this.opening.set(connection, { quote: quoteOf(frame, headers), since: this.now() });
    this.table.add(connection);
    this.count("tcp-opened");
    socket.once("connect", () => {
      // An address that has become the host's own since the list was made: both ends of the connection are then one.
      if (destination.isDeclared || socket.localAddress !== socket.remoteAddress) {
        connection.hostConnected();
        return;
      }
      this.count("refused-host");
      this.notConnected(connection, "ECONNREFUSED");
    });
  }

  /** @returns whether one more connection of this guest fits */
  private makeRoom(guestMac: { readonly high: number; readonly low: number }): boolean {
    const { connections, connectionsPerGuest } = this.link.settings;
    this.table.halfOpenToEvict(guestMac)?.finish("evicted");
    const isFull = (): boolean => this.table.size >= connections || this.table.countOf(guestMac) >= connectionsPerGuest;
    if (isFull()) this.table.waitingToEvict(guestMac)?.finish("evicted");
    if (!isFull()) return true;
    this.count("tcp-limit");
    return false;
  }

  private hostFailed(connection: TcpConnection, code: string): void {
    if (connection.state === "connecting") this.notConnected(connection, code);
    else connection.hostFailed();
  }

  private notConnected(connection: TcpConnection, code: string): void {
    const { guestMac, guestAddress, guestPort, address, port } = connection.endpoints;
    const to = { mac: guestMac, address: guestAddress };
    const quote = this.opening.get(connection)?.quote;
    const icmp = unreachable[code];
    const acknowledgement = connection.receiveQueue.next;
    connection.finish("refused");
    this.link.post(() => {
      if (icmp !== undefined && quote !== undefined) this.link.sendError(to, IcmpType.unreachable, icmp, quote);
      else {
        const ports = { from: port, to: guestPort };
        sendReset(this.link, to, address, ports, { sequence: 0, acknowledgement, withAck: true });
      }
    });
  }

  /** Answers a segment that belongs to no connection, or a SYN that is not let through. */
  private refuse(headers: Headers): void {
    const { source4, destination4, sourcePort, destinationPort, tcpFlags } = headers;
    const to = { mac: { high: headers.sourceHigh, low: headers.sourceLow }, address: source4 };
    const withAck = (tcpFlags & TcpFlag.ack) === 0;
    const answer = {
      sequence: withAck ? 0 : headers.tcpAcknowledgement,
      acknowledgement: advance(headers.tcpSequence, segmentLength(this.reader)),
      withAck,
    };
    this.count("tcp-refused");
    const ports = { from: destinationPort, to: sourcePort };
    this.link.post(() => sendReset(this.link, to, destination4, ports, answer));
  }
}
