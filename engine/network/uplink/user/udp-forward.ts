import type { RemoteInfo, Socket } from "node:dgram";
import type { Frame } from "../../../device/net/frame.ts";
import type { Headers } from "../../headers.ts";
import type { GuestLink } from "./guest-link.ts";
import type { Neighbours } from "./neighbours.ts";

/** Peers of a forwarded port at once; the one idle for longest makes room. */
const MOST_PEERS = 256;
/** Milliseconds. */
const IDLE = 180_000;
const FIRST_PORT = 49_152;
const LAST_PORT = 65_535;

/** Somebody outside; the guest sees it as a port of the gateway. */
interface Peer {
  readonly key: string;
  readonly address: string;
  readonly port: number;
  readonly gatewayPort: number;
  lastUsed: number;
}

/** A UDP port of the host that leads to a guest's. */
export class UdpForward {
  private readonly socket: Socket;
  private readonly guest: { readonly address: number; readonly port: number };
  private readonly link: GuestLink;
  private readonly neighbours: Neighbours;
  private readonly ports: Map<number, UdpForward>;
  private readonly now: () => number;
  private readonly busy: () => void;
  /** In order of use. */
  private readonly peers = new Map<string, Peer>();
  private readonly byPort = new Map<number, Peer>();

  /** `ports`: who has which port of the gateway, for all forwards together. */
  constructor(
    socket: Socket,
    guest: { readonly address: number; readonly port: number },
    link: GuestLink,
    neighbours: Neighbours,
    ports: Map<number, UdpForward>,
    now: () => number,
    busy: () => void,
  ) {
    this.socket = socket;
    this.guest = guest;
    this.link = link;
    this.neighbours = neighbours;
    this.ports = ports;
    this.now = now;
    this.busy = busy;
    socket.on("error", () => undefined);
    socket.on("message", (payload, from) => void this.arrived(payload, from));
  }

  /** What a guest sent to a port of the gateway. @returns whether it was for a peer of this forward */
  receive(frame: Frame, headers: Headers): boolean {
    const peer = this.byPort.get(headers.destinationPort);
    const isGuest = headers.source4 === this.guest.address && headers.sourcePort === this.guest.port;
    if (peer === undefined || !isGuest) return false;
    this.use(peer);
    const payload = Buffer.allocUnsafe(headers.payloadLength);
    frame.copyTo(payload, 0, headers.payloadOffset, payload.length);
    this.socket.send(payload, peer.port, peer.address, () => undefined);
    return true;
  }

  tick(): void {
    const now = this.now();
    for (const peer of this.peers.values()) if (now - peer.lastUsed > IDLE) this.forget(peer);
  }

  close(): void {
    for (const peer of this.peers.values()) this.forget(peer);
    this.socket.close();
  }

  private async arrived(payload: Buffer, from: RemoteInfo): Promise<void> {
    const { address, port } = this.guest;
    const mac = await this.neighbours.resolve(address);
    const peer = mac && this.peerOf(from);
    if (mac === undefined || peer === undefined) return;
    const { gateway } = this.link.settings;
    this.link.post(() => this.link.sendUdp({ mac, address }, gateway, peer.gatewayPort, port, payload));
  }

  private peerOf({ address, port }: RemoteInfo): Peer | undefined {
    const key = `${address}:${port}`;
    const known = this.peers.get(key);
    if (known !== undefined) {
      this.use(known);
      return known;
    }
    if (this.peers.size >= MOST_PEERS) {
      const oldest = this.peers.values().next().value;
      if (oldest !== undefined) this.forget(oldest);
    }
    let gatewayPort = FIRST_PORT;
    while (this.ports.has(gatewayPort)) if (++gatewayPort > LAST_PORT) return undefined;
    const peer = { key, address, port, gatewayPort, lastUsed: this.now() };
    this.peers.set(key, peer);
    this.byPort.set(gatewayPort, peer);
    this.ports.set(gatewayPort, this);
    this.busy();
    return peer;
  }

  private use(peer: Peer): void {
    peer.lastUsed = this.now();
    this.peers.delete(peer.key);
    this.peers.set(peer.key, peer);
  }

  private forget(peer: Peer): void {
    this.peers.delete(peer.key);
    this.byPort.delete(peer.gatewayPort);
    this.ports.delete(peer.gatewayPort);
  }
}
