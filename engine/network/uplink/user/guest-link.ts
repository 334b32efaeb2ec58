/**
 * The uplink's end of the wire: builds what goes to guests, and sends it only when no frame of a guest is being handled,
 * so that the switch is never entered again from within a delivery.
 *
 * Sources: RFC 826 (ARP), RFC 791 (IPv4), RFC 768 (UDP), RFC 792 (ICMP), RFC 1812 (4.3: what an ICMP error quotes).
 */
import { Frame } from "../../../device/net/frame.ts";
import { type MacAddress, writeMac } from "../../address.ts";
import { checksumOf, foldSum, ipv4HeaderChecksum, pseudoHeader4, sumBytes } from "../../checksum.ts";
import { EtherType, Protocol } from "../../headers.ts";
import type { UplinkContext, UplinkCounters } from "../types.ts";
import { GATEWAY_MAC, type UserSettings } from "./settings.ts";

export const ETHERNET_HEADER = 14;
export const IPV4_HEADER = 20;
const UDP_HEADER = 8;
const ICMP_HEADER = 8;
const ARP_PACKET = 28;
const TIME_TO_LIVE = 64;
const BROADCAST_MAC: MacAddress = { high: 0xffff, low: 0xffff_ffff };
/** IPv4's don't-fragment and more-fragments flags, in their 16-bit field. */
const DONT_FRAGMENT = 0x4000;
const MORE_FRAGMENTS = 0x2000;

/** A guest as frames are sent to it. */
export interface GuestAddress {
  readonly mac: MacAddress;
  readonly address: number;
}

export function put16(into: Uint8Array, at: number, value: number): void {
  into[at] = value >>> 8;
  into[at + 1] = value;
}

export function put32(into: Uint8Array, at: number, value: number): void {
  put16(into, at, value >>> 16);
  put16(into, at + 2, value & 0xffff);
}

export class GuestLink {
  readonly settings: UserSettings;
  readonly counters: UplinkCounters;
  private readonly context: UplinkContext;
  private jobs: (() => void)[] = [];
  private isScheduled = false;
  private isOpen = true;
  private identification = Math.floor(Math.random() * 0x1_0000);
  /** Frames that are lent to the switch, should a send() lead to another one before it returns. */
  private readonly frames: Frame[] = [];
  private depth = 0;

  constructor(settings: UserSettings, context: UplinkContext, counters: UplinkCounters) {
    this.settings = settings;
    this.context = context;
    this.counters = counters;
  }

  /** Whether jobs are being done right now, so that what comes in was sent from within our own send(). */
  isSending = false;

  /** Does it once whatever runs now has returned. */
  post(job: () => void): void {
    if (!this.isOpen) return;
    this.jobs.push(job);
    if (this.isScheduled) return;
    this.isScheduled = true;
    queueMicrotask(() => this.drain());
  }

  /** Sends nothing from now on. */
  close(): void {
    this.isOpen = false;
    this.jobs = [];
  }

  private drain(): void {
    this.isScheduled = false;
    const jobs = this.jobs;
    this.jobs = [];
    this.isSending = true;
    try {
      for (const job of jobs) if (this.isOpen) job();
    } finally {
      this.isSending = false;
    }
    if (this.isOpen) this.context.batchEnd?.();
  }

  /** An empty frame to be filled in and given to send(), within a posted job. */
  borrow(length: number): Frame {
    this.frames[this.depth] ??= new Frame();
    const frame = this.frames[this.depth]!;
    frame.reset(length);
    return frame;
  }

  send(frame: Frame): void {
    if (!this.isOpen) return;
    this.counters.framesOut++;
    this.counters.bytesOut += frame.length;
    this.depth++;
    try {
      this.context.send(frame);
    } finally {
      this.depth--;
    }
  }

  /** Writes Ethernet and IPv4 headers: 34 bytes. `length` is that of the whole packet. */
  writeHeaders(
    head: Uint8Array,
    to: GuestAddress,
    source: number,
    protocol: number,
    length: number,
    fragment = DONT_FRAGMENT,
    identification = this.identify(),
  ): void {
    writeMac(to.mac, head, 0);
    writeMac(GATEWAY_MAC, head, 6);
    put16(head, 12, EtherType.ipv4);
    const ip = ETHERNET_HEADER;
    head[ip] = 0x45;
    head[ip + 1] = 0;
    put16(head, ip + 2, length);
    put16(head, ip + 4, identification);
    put16(head, ip + 6, fragment);
    head[ip + 8] = TIME_TO_LIVE;
    head[ip + 9] = protocol;
    put16(head, ip + 10, 0);
    put32(head, ip + 12, source);
    put32(head, ip + 16, to.address);
    put16(head, ip + 10, ipv4HeaderChecksum(head, ip, IPV4_HEADER));
  }

  private identify(): number {
    this.identification = (this.identification + 1) & 0xffff;
    return this.identification;
  }

  /** Sends a packet of `header` and `payload`, in fragments where the MTU asks for them. */
  private sendPacket(
    to: GuestAddress,
    source: number,
    protocol: number,
    header: Uint8Array,
    payload: Uint8Array,
    isBlank: boolean,
  ): void {
    const start = ETHERNET_HEADER + IPV4_HEADER;
    const length = header.length + payload.length;
    if (length + IPV4_HEADER <= this.settings.mtu) {
      const frame = this.borrow(start + length);
      this.writeHeaders(frame.head, to, source, protocol, IPV4_HEADER + length);
      frame.head.set(header, start);
      frame.headLength = start + header.length;
      if (payload.length > 0) frame.add(payload, 0, payload.length);
      if (isBlank) frame.checksum = "blank";
      this.send(frame);
      return;
    }
    const whole = Buffer.concat([header, payload]);
    const most = (this.settings.mtu - IPV4_HEADER) & ~7;
    const identification = this.identify();
    for (let at = 0; at < length; at += most) {
      const count = Math.min(most, length - at);
      const more = at + count < length ? MORE_FRAGMENTS : 0;
      const frame = this.borrow(start + count);
      this.writeHeaders(frame.head, to, source, protocol, IPV4_HEADER + count, more | (at >> 3), identification);
      // The whole transport header has to be in the head: whoever filters looks for it there.
      const inHead = at === 0 ? header.length : 0;
      frame.head.set(whole.subarray(at, at + inHead), start);
      frame.headLength = start + inHead;
      frame.add(whole, at + inHead, count - inHead);
      this.send(frame);
    }
  }

  /** A datagram to a guest. The payload is lent for the call. */
  sendUdp(to: GuestAddress, source: number, sourcePort: number, port: number, payload: Uint8Array): void {
    const length = UDP_HEADER + payload.length;
    if (IPV4_HEADER + length > 65_535) return;
    const header = new Uint8Array(UDP_HEADER);
    put16(header, 0, sourcePort);
    put16(header, 2, port);
    put16(header, 4, length);
    const pseudo = pseudoHeader4(source, to.address, Protocol.udp, length);
    const isBlank = length + IPV4_HEADER <= this.settings.mtu;
    if (isBlank) put16(header, 6, foldSum(pseudo));
    else put16(header, 6, checksumOf(sumBytes(payload, 0, payload.length, sumBytes(header, 0, 8, pseudo))) || 0xffff);
    this.sendPacket(to, source, Protocol.udp, header, payload, isBlank);
  }

  /** An ICMP message to a guest: type, code, the four bytes after the checksum, and what follows. */
  sendIcmp(to: GuestAddress, source: number, type: number, code: number, rest: number, payload: Uint8Array): void {
    const header = new Uint8Array(ICMP_HEADER);
    header[0] = type;
    header[1] = code;
    put32(header, 4, rest);
    put16(header, 2, checksumOf(sumBytes(payload, 0, payload.length, sumBytes(header, 0, ICMP_HEADER))));
    this.sendPacket(to, source, Protocol.icmp, header, payload, false);
  }

  /**
   * An ICMP error about a packet of a guest's, from the gateway (or `source`).
   * @param quote the packet's IPv4 header and the first eight bytes behind it at least
   */
  sendError(to: GuestAddress, type: number, code: number, quote: Uint8Array, source = this.settings.gateway): void {
    this.sendIcmp(to, source, type, code, 0, quote);
  }

  /** ARP: an answer to a guest, or a question to all for a guest's MAC address. */
  sendArp(operation: "request" | "reply", senderAddress: number, to: GuestAddress): void {
    const frame = this.borrow(ETHERNET_HEADER + ARP_PACKET);
    const { head } = frame;
    writeMac(operation === "request" ? BROADCAST_MAC : to.mac, head, 0);
    writeMac(GATEWAY_MAC, head, 6);
    put16(head, 12, EtherType.arp);
    put16(head, 14, 1);
    put16(head, 16, EtherType.ipv4);
    put16(head, 18, 0x0604);
    put16(head, 20, operation === "request" ? 1 : 2);
    writeMac(GATEWAY_MAC, head, 22);
    put32(head, 28, senderAddress);
    if (operation === "request") head.fill(0, 32, 38);
    else writeMac(to.mac, head, 32);
    put32(head, 38, to.address);
    frame.headLength = ETHERNET_HEADER + ARP_PACKET;
    this.send(frame);
  }
}
