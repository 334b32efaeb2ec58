import { Frame } from "../../../device/net/frame.ts";
import { ipv4HeaderChecksum } from "../../checksum.ts";
import type { Headers } from "../../headers.ts";
import { ETHERNET_HEADER, IPV4_HEADER, put16 } from "./guest-link.ts";

/** Packets in pieces at once, of all guests; the oldest makes room. */
const MOST_PACKETS = 64;
const MOST_PIECES = 64;
/** Milliseconds that the rest of a packet is waited for. */
const PATIENCE = 15_000;

interface Piece {
  readonly offset: number;
  readonly bytes: Buffer;
}

interface Packet {
  readonly since: number;
  /** Ethernet and IPv4 header of the first fragment, without options. */
  header: Buffer | undefined;
  readonly pieces: Piece[];
  received: number;
  /** Bytes behind the IPv4 header; -1 until the last fragment has come. */
  length: number;
}

/** Puts guests' IPv4 fragments together again (RFC 791, 3.2); a packet whose pieces overlap is dropped whole (RFC 5722). */
export class Reassembly {
  private readonly packets = new Map<string, Packet>();
  private readonly now: () => number;
  private readonly lost: () => void;

  /** `now` gives milliseconds; `lost` is called for each packet that is given up. */
  constructor(now: () => number, lost: () => void) {
    this.now = now;
    this.lost = lost;
  }

  get size(): number {
    return this.packets.size;
  }

  /** Takes a fragment, whose header is right. @returns the packet as a frame of its own, once all of it is there */
  add(frame: Frame, headers: Headers): Frame | undefined {
    const key = `${headers.sourceHigh}:${headers.sourceLow}:${headers.source4}:${headers.destination4}:${headers.protocol}:${headers.identification}`;
    const start = headers.l3Offset + ((frame.head[headers.l3Offset] ?? 0x45) & 0xf) * 4;
    const bytes = Buffer.alloc(headers.l3End - start);
    frame.copyTo(bytes, 0, start, bytes.length);
    const packet = this.packets.get(key) ?? this.create(key);
    if (!this.place(packet, headers, bytes)) {
      this.packets.delete(key);
      this.lost();
      return undefined;
    }
    if (headers.fragmentOffset === 0) {
      packet.header = Buffer.alloc(ETHERNET_HEADER + IPV4_HEADER);
      packet.header.set(frame.head.subarray(0, 12));
      put16(packet.header, 12, headers.etherType);
      packet.header.set(frame.head.subarray(headers.l3Offset, headers.l3Offset + IPV4_HEADER), ETHERNET_HEADER);
    }
    if (packet.header === undefined || packet.received !== packet.length) return undefined;
    this.packets.delete(key);
    return whole(packet.header, packet.pieces, packet.length);
  }

  /** Gives up what is not complete after so long. */
  tick(): void {
    const now = this.now();
    for (const [key, { since }] of this.packets) {
      if (now - since <= PATIENCE) continue;
      this.packets.delete(key);
      this.lost();
    }
  }

  private create(key: string): Packet {
    if (this.packets.size >= MOST_PACKETS) {
      const oldest = this.packets.keys().next().value;
      if (oldest !== undefined) this.packets.delete(oldest);
      this.lost();
    }
    const packet: Packet = { since: this.now(), header: undefined, pieces: [], received: 0, length: -1 };
    this.packets.set(key, packet);
    return packet;
  }

  /** @returns false when the piece does not fit to the others */
  private place(packet: Packet, { fragmentOffset: offset, moreFragments }: Headers, bytes: Buffer): boolean {
    const end = offset + bytes.length;
    const overlaps = packet.pieces.some((piece) => offset < piece.offset + piece.bytes.length && piece.offset < end);
    if (overlaps || bytes.length === 0 || packet.pieces.length >= MOST_PIECES) return false;
    // Offsets count in eights, so all but the last piece have a length that does.
    if (moreFragments && bytes.length % 8 !== 0) return false;
    if (!moreFragments) {
      const isBeyond = packet.pieces.some((piece) => piece.offset >= end);
      if (packet.length >= 0 || isBeyond) return false;
      packet.length = end;
    } else if (packet.length >= 0 && end > packet.length) return false;
    packet.pieces.push({ offset, bytes });
    packet.received += bytes.length;
    return true;
  }
}

function whole(header: Buffer, pieces: readonly Piece[], length: number): Frame {
  const packet = Buffer.alloc(header.length + length);
  packet.set(header);
  for (const { offset, bytes } of pieces) packet.set(bytes, header.length + offset);
  packet[ETHERNET_HEADER] = 0x45;
  put16(packet, ETHERNET_HEADER + 2, IPV4_HEADER + length);
  put16(packet, ETHERNET_HEADER + 6, 0);
  put16(packet, ETHERNET_HEADER + 10, ipv4HeaderChecksum(packet, ETHERNET_HEADER, IPV4_HEADER));
  return Frame.of(packet);
}
