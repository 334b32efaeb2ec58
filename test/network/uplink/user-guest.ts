/** A guest in miniature for the tests of the `user` uplink: builds frames by hand, answers ARP, speaks a little TCP. */
import { Frame } from "../../../engine/device/net/frame.ts";
import { formatIpv4, type MacAddress, parseIpv4, writeMac } from "../../../engine/network/address.ts";
import { checksumOf, pseudoHeader4, sumBytes, sumFrame } from "../../../engine/network/checksum.ts";
import { Headers, Protocol, TcpFlag } from "../../../engine/network/headers.ts";
import { segmentTcp } from "../../../engine/network/offload.ts";
import { monotonicClock } from "../../../engine/network/types.ts";
import type { HostForward } from "../../../engine/network/uplink/user/forwards.ts";
import { GATEWAY_MAC, type UserUplinkOptions } from "../../../engine/network/uplink/user/settings.ts";
import { UserUplink } from "../../../engine/network/uplink/user/user-uplink.ts";

export const GUEST_MAC: MacAddress = { high: 0x0016, low: 0x3e00_0001 };
export const GATEWAY = parseIpv4("10.0.2.2");
export const DNS = parseIpv4("10.0.2.3");
const START = 34;

/** Ethernet and IPv4 around a transport header and data. */
export function ipv4(
  protocol: number,
  source: number,
  destination: number,
  body: Uint8Array,
  mac = GUEST_MAC,
  to: MacAddress = GATEWAY_MAC,
): Buffer {
  const bytes = Buffer.alloc(START + body.length);
  writeMac(to, bytes, 0);
  writeMac(mac, bytes, 6);
  bytes.writeUInt16BE(0x0800, 12);
  bytes[14] = 0x45;
  bytes.writeUInt16BE(20 + body.length, 16);
  bytes[22] = 64;
  bytes[23] = protocol;
  bytes.writeUInt32BE(source, 26);
  bytes.writeUInt32BE(destination, 30);
  bytes.writeUInt16BE(checksumOf(sumBytes(bytes, 14, 20)), 24);
  bytes.set(body, START);
  return bytes;
}

export function udpBody(source: number, destination: number, from: number, to: number, data: Uint8Array): Buffer {
  const body = Buffer.alloc(8 + data.length);
  body.writeUInt16BE(from, 0);
  body.writeUInt16BE(to, 2);
  body.writeUInt16BE(body.length, 4);
  body.set(data, 8);
  body.writeUInt16BE(
    checksumOf(sumBytes(body, 0, body.length, pseudoHeader4(source, destination, 17, body.length))),
    6,
  );
  return body;
}

export interface SegmentFields {
  readonly source: number;
  readonly destination: number;
  readonly from: number;
  readonly to: number;
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  readonly window?: number;
  readonly options?: Uint8Array;
  readonly data?: Uint8Array;
}

export function tcpFrame(fields: SegmentFields, mac = GUEST_MAC): Buffer {
  const { options = new Uint8Array(0), data = new Uint8Array(0), window = 65_535, source, destination } = fields;
  const body = Buffer.alloc(20 + options.length + data.length);
  body.writeUInt16BE(fields.from, 0);
  body.writeUInt16BE(fields.to, 2);
  body.writeUInt32BE(fields.sequence, 4);
  body.writeUInt32BE(fields.acknowledgement, 8);
  body[12] = (20 + options.length) << 2;
  body[13] = fields.flags;
  body.writeUInt16BE(window, 14);
  body.set(options, 20);
  body.set(data, 20 + options.length);
  const pseudo = pseudoHeader4(source, destination, Protocol.tcp, body.length);
  body.writeUInt16BE(checksumOf(sumBytes(body, 0, body.length, pseudo)), 16);
  return ipv4(Protocol.tcp, source, destination, body, mac);
}

/** A frame of the uplink's, read and copied. */
export interface Got {
  readonly headers: Headers;
  readonly bytes: Buffer;
  readonly payload: Buffer;
}

/** The uplink with one guest at its other end; frames between them can be lost. */
export class GuestNetwork {
  readonly uplink: UserUplink;
  readonly got: Got[] = [];
  readonly lines: string[] = [];
  readonly sockets = new Map<number, GuestSocket>();
  readonly address = parseIpv4("10.0.2.15");
  /** Called for each frame each way: true loses it. */
  lose: () => boolean = () => false;
  /** Whether somebody asks for a port that no socket has: tests that speak raw TCP keep it silent. */
  keep = true;
  answersArp = true;
  private waiting: { readonly test: (got: Got) => boolean; readonly resolve: (got: Got) => void }[] = [];
  private isClosed = false;

  constructor(options: UserUplinkOptions = {}, forwards: readonly HostForward[] = [], own?: readonly string[]) {
    this.uplink = new UserUplink(
      {
        send: (frame) => this.take(frame),
        log: (line) => this.lines.push(line),
        clock: monotonicClock,
        ...(own !== undefined && { hostAddresses: () => new Set(own.map(parseIpv4)) }),
      },
      options,
      forwards,
    );
  }

  async close(): Promise<void> {
    this.isClosed = true;
    for (const socket of this.sockets.values()) socket.stop();
    await this.uplink.close();
  }

  /** Hands a frame to the uplink. */
  send(bytes: Uint8Array): void {
    if (!this.isClosed && !this.lose()) this.uplink.deliver(Frame.of(bytes));
  }

  sendUdp(from: number, destination: number, to: number, data: Uint8Array): void {
    this.send(ipv4(Protocol.udp, this.address, destination, udpBody(this.address, destination, from, to, data)));
  }

  /** The first frame that matches, of those that came and were not asked for yet, or that will come. */
  async next(test: (got: Got) => boolean): Promise<Got> {
    const index = this.got.findIndex(test);
    if (index >= 0) return this.got.splice(index, 1)[0]!;
    return await new Promise((resolve) => this.waiting.push({ test, resolve }));
  }

  private take(frame: Frame): void {
    const copy = frame.clone();
    const headers = new Headers();
    const error = headers.parse(copy);
    if (error !== undefined) throw new Error(`the uplink sent a malformed frame: ${error}`);
    const frames = frame.segmentation === "none" ? [copy] : segmentTcp(copy, headers);
    // Not from within send(): a guest of its own answers later.
    setImmediate(() => {
      for (const one of frames) if (!this.isClosed && !this.lose()) this.arrived(one);
    });
  }

  private arrived(frame: Frame): void {
    const headers = new Headers();
    headers.parse(frame);
    const bytes = Buffer.alloc(frame.length);
    frame.copyTo(bytes, 0);
    const payload = bytes.subarray(headers.payloadOffset, headers.payloadOffset + headers.payloadLength);
    const got = { headers, bytes, payload };
    if (headers.etherType === 0x0806 && headers.arpOperation === 1 && this.answersArp) this.answerArp(got);
    const socket = headers.protocol === Protocol.tcp ? this.sockets.get(headers.destinationPort) : undefined;
    if (socket !== undefined) {
      socket.receive(got);
      return;
    }
    const index = this.waiting.findIndex(({ test }) => test(got));
    if (index >= 0) this.waiting.splice(index, 1)[0]!.resolve(got);
    else if (this.keep) this.got.push(got);
  }

  private answerArp({ headers }: Got): void {
    if (headers.arpTargetAddress !== this.address) return;
    this.send(arp(2, this.address, headers.arpSenderAddress));
  }
}

export function arp(operation: number, sender: number, target: number, mac = GUEST_MAC): Buffer {
  const bytes = Buffer.alloc(42);
  bytes.fill(0xff, 0, 6);
  writeMac(mac, bytes, 6);
  bytes.writeUInt16BE(0x0806, 12);
  bytes.set([0, 1, 8, 0, 6, 4, 0, operation], 14);
  writeMac(mac, bytes, 22);
  bytes.writeUInt32BE(sender, 28);
  bytes.writeUInt32BE(target, 38);
  return bytes;
}

/** Checks both checksums of a frame that says it carries them in full. */
export function hasRightChecksum({ bytes, headers }: Got): boolean {
  const frame = Frame.of(bytes);
  const length = headers.l3End - headers.l4Offset;
  const isIcmp = headers.protocol === Protocol.icmp;
  const pseudo = isIcmp ? 0 : pseudoHeader4(headers.source4, headers.destination4, headers.protocol, length);
  const isIpRight = checksumOf(sumBytes(bytes, 14, 20)) === 0;
  return isIpRight && checksumOf(sumFrame(frame, headers.l4Offset, length, pseudo)) === 0;
}

const MSS = 1460;
const RESEND_MS = 60;
const SYN_OPTIONS = Uint8Array.of(2, 4, MSS >> 8, MSS & 0xff, 1, 3, 3, 4);

/** A TCP socket of the guest: in order, out of order, cumulative acknowledgements, everything sent again after a while. */
export class GuestSocket {
  readonly port: number;
  readonly chunks: Buffer[] = [];
  state: "syn-sent" | "listen" | "syn-received" | "open" | "reset" = "syn-sent";
  hasEnded = false;
  /** Bytes that the uplink may send; as in the header, in units of 16 bytes. */
  window = 0xffff;
  received = 0;
  private peer: { address: number; port: number };
  private readonly network: GuestNetwork;
  private readonly initial = 0xffff_f000;
  /** Everything that is to be sent, and how much of it has been acknowledged. */
  private outgoing = Buffer.alloc(0);
  private acknowledged = 0;
  private sent = 0;
  private finSent = false;
  private finAcknowledged = false;
  private isLast = false;
  private peerWindow = 65_535;
  private peerScale = 0;
  private next = 0;
  private duplicates = 0;
  private readonly early = new Map<number, Buffer>();
  private timer: NodeJS.Timeout | undefined;
  private readonly watchers = new Set<() => void>();

  constructor(network: GuestNetwork, port: number, peer?: { address: number; port: number }) {
    this.network = network;
    this.port = port;
    this.peer = peer ?? { address: 0, port: 0 };
    network.sockets.set(port, this);
    if (peer === undefined) this.state = "listen";
    else this.emit(this.initial, TcpFlag.syn);
    this.timer = setInterval(() => this.resend(), RESEND_MS);
  }

  stop(): void {
    clearInterval(this.timer);
    this.network.sockets.delete(this.port);
  }

  /** Fulfilled once the condition holds; it is looked at whenever something comes. */
  async until(condition: (socket: GuestSocket) => boolean): Promise<void> {
    while (!condition(this)) await new Promise<void>((resolve) => this.watchers.add(resolve));
  }

  get data(): Buffer {
    return Buffer.concat(this.chunks);
  }

  get isAllAcknowledged(): boolean {
    return this.acknowledged === this.outgoing.length && (!this.isLast || this.finAcknowledged);
  }

  write(data: Uint8Array): void {
    this.outgoing = Buffer.concat([this.outgoing, data]);
    this.push();
  }

  end(): void {
    this.isLast = true;
    this.push();
  }

  reset(): void {
    this.emit(this.position(this.sent), TcpFlag.rst | TcpFlag.ack);
  }

  /** Says the present window. */
  update(): void {
    this.emit(this.position(this.sent) + (this.finSent ? 1 : 0), TcpFlag.ack);
  }

  private position(offset: number): number {
    return (this.initial + 1 + offset) >>> 0;
  }

  private emit(sequence: number, flags: number, data: Uint8Array = new Uint8Array(0)): void {
    const isSyn = (flags & TcpFlag.syn) !== 0;
    this.network.send(
      tcpFrame({
        source: this.network.address,
        destination: this.peer.address,
        from: this.port,
        to: this.peer.port,
        sequence: sequence >>> 0,
        acknowledgement: (flags & TcpFlag.ack) !== 0 ? this.next : 0,
        flags,
        window: this.window,
        data,
        ...(isSyn && { options: SYN_OPTIONS }),
      }),
    );
  }

  private push(): void {
    if (this.state !== "open") return;
    while (this.sent < this.outgoing.length && this.sent - this.acknowledged < Math.min(this.peerWindow, 40 * MSS)) {
      const room = Math.min(this.peerWindow - (this.sent - this.acknowledged), MSS);
      const data = this.outgoing.subarray(this.sent, this.sent + room);
      this.emit(this.position(this.sent), TcpFlag.ack | TcpFlag.psh, data);
      this.sent += data.length;
    }
    if (this.isLast && this.sent === this.outgoing.length && !this.finSent) {
      this.finSent = true;
      this.emit(this.position(this.sent), TcpFlag.ack | TcpFlag.fin);
    }
  }

  private resend(): void {
    if (this.state === "syn-sent") this.emit(this.initial, TcpFlag.syn);
    else if (this.state === "syn-received") this.emit(this.initial, TcpFlag.syn | TcpFlag.ack);
    else if (this.state === "open" && !this.isAllAcknowledged) this.goBack();
  }

  private goBack(): void {
    this.sent = this.acknowledged;
    if (!this.finAcknowledged) this.finSent = false;
    this.push();
  }

  receive({ headers, bytes, payload }: Got): void {
    this.handle(headers, bytes, payload);
    for (const resolve of this.watchers) resolve();
    this.watchers.clear();
  }

  private handle(headers: Headers, bytes: Buffer, payload: Buffer): void {
    const { tcpFlags: flags, tcpSequence, tcpAcknowledgement } = headers;
    if ((flags & TcpFlag.rst) !== 0) {
      this.state = "reset";
      return;
    }
    if ((flags & TcpFlag.syn) !== 0) {
      this.handshake(headers, bytes);
      return;
    }
    if (this.state === "syn-received" && tcpAcknowledgement === this.position(0)) this.state = "open";
    this.peerWindow = headers.tcpWindow << this.peerScale;
    this.takeAcknowledgement(tcpAcknowledgement, payload.length === 0 && (flags & TcpFlag.fin) === 0);
    if (payload.length > 0) {
      const ahead = (tcpSequence - this.next) | 0;
      if (ahead >= 0) this.early.set(tcpSequence, Buffer.from(payload));
      this.drainEarly();
    }
    if ((flags & TcpFlag.fin) !== 0 && (tcpSequence + payload.length) >>> 0 === this.next && !this.hasEnded) {
      this.hasEnded = true;
      this.next = (this.next + 1) >>> 0;
    }
    if (payload.length > 0 || (flags & TcpFlag.fin) !== 0) this.update();
    this.push();
  }

  private drainEarly(): void {
    for (let data = this.early.get(this.next); data !== undefined; data = this.early.get(this.next)) {
      this.early.delete(this.next);
      this.chunks.push(data);
      this.received += data.length;
      this.next = (this.next + data.length) >>> 0;
    }
  }

  private handshake(headers: Headers, bytes: Buffer): void {
    const hasScale = headers.payloadOffset - headers.l4Offset > 24;
    this.peerScale = hasScale ? bytes[headers.l4Offset + 27]! : 0;
    this.peerWindow = headers.tcpWindow;
    this.next = (headers.tcpSequence + 1) >>> 0;
    if (this.state === "listen" || this.state === "syn-received") {
      this.peer = { address: headers.source4, port: headers.sourcePort };
      this.state = "syn-received";
      this.emit(this.initial, TcpFlag.syn | TcpFlag.ack);
      return;
    }
    if (this.state === "syn-sent") this.state = "open";
    this.update();
    this.push();
  }

  private takeAcknowledgement(acknowledgement: number, isBare: boolean): void {
    const count = (acknowledgement - this.position(this.acknowledged)) | 0;
    if (count <= 0) {
      this.duplicates = count === 0 && isBare && this.sent > this.acknowledged ? this.duplicates + 1 : this.duplicates;
      if (this.duplicates === 3) this.goBack();
      return;
    }
    this.duplicates = 0;
    this.finAcknowledged = this.acknowledged + count > this.outgoing.length;
    this.acknowledged = Math.min(this.acknowledged + count, this.outgoing.length);
    this.sent = Math.max(this.sent, this.acknowledged);
  }
}

/** Text of an address, for servers' logs. */
export const text = formatIpv4;
