/**
 * What a network card would do for whoever sends: finish checksums and cut segments. Frames carry such work as metadata from
 * guest to guest; only a real wire, a capture or a frontend without the features needs it done.
 *
 * Sources: netif.h (what csum_blank and GSO say), RFC 9293 (sequence numbers, flags), RFC 3168 (CWR), RFC 6864 (IPv4 ids).
 */
import { Frame } from "../device/net/frame.ts";
import {
  checksumOf,
  foldSum,
  ipv4HeaderChecksum,
  pseudoHeader4,
  pseudoHeader6,
  sumBytes,
  sumFrame,
} from "./checksum.ts";
import { Headers, Protocol, TcpFlag, u16 } from "./headers.ts";

/** Most segments that one frame is cut into: 64 KiB in the smallest segments that TCP stacks agree to, and some more. */
export const SEGMENTS_MOST = 2048;

const own = new Headers();

function putU16(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >> 8;
  bytes[at + 1] = value;
}

/** Where the checksum stands in the transport header; 0 where offload knows none. */
function checksumFieldOf(headers: Headers): number {
  if (headers.l4Offset === 0 || headers.isFragment) return 0;
  if (headers.protocol === Protocol.tcp) return headers.l4Offset + 16;
  return headers.protocol === Protocol.udp ? headers.l4Offset + 6 : 0;
}

/** The pseudo header's sum for a transport packet of `length` bytes, the addresses taken from `head`. */
function pseudoHeader(head: Uint8Array, headers: Headers, length: number): number {
  if (headers.ipVersion === 6) return pseudoHeader6(head, headers.source6, headers.protocol, length);
  return pseudoHeader4(headers.source4, headers.destination4, headers.protocol, length);
}

/** UDP writes a sum of zero as all ones, since zero says that there is none (RFC 768). */
function forWire(checksum: number, protocol: number): number {
  return checksum === 0 && protocol === Protocol.udp ? 0xffff : checksum;
}

/** Whether a checksum that is still blank can be finished: TCP or UDP, not in fragments. */
export function canFinishChecksum(headers: Headers): boolean {
  return checksumFieldOf(headers) !== 0;
}

/**
 * The frame as it would go over a wire: with a "blank" transport checksum computed from the bytes themselves, whatever the
 * sender left in the field. That is done on a private copy; frames whose checksum is not blank come back as they are, and
 * are still only lent. A blank frame without TCP or UDP (validation drops such) is copied with its bytes unchanged.
 */
export function finishChecksum(frame: Frame): Frame {
  if (frame.checksum !== "blank") return frame;
  const copy = frame.clone();
  copy.checksum = "complete";
  if (own.parse(copy) !== undefined) return copy;
  const field = checksumFieldOf(own);
  if (field === 0) return copy;
  putU16(copy.head, field, 0);
  const length = own.payloadOffset + own.payloadLength - own.l4Offset;
  const sum = sumBytes(copy.head, own.l4Offset, length, pseudoHeader(copy.head, own, length));
  putU16(copy.head, field, forWire(checksumOf(sum), own.protocol));
  return copy;
}

/**
 * Whether the checksums in the frame's bytes are right: IPv4's header, and TCP's, UDP's (none is right too), ICMP's and
 * ICMPv6's where the packet is whole. Frames whose transport checksum needs no look ("blank", "validated") are right there.
 * @param headers of this frame, parsed
 */
export function hasRightChecksums(frame: Frame, headers: Headers): boolean {
  if (headers.ipVersion === 4) {
    const size = (frame.head[headers.l3Offset]! & 15) * 4;
    const stored = u16(frame.head, headers.l3Offset + 10);
    if (stored !== ipv4HeaderChecksum(frame.head, headers.l3Offset, size)) return false;
  }
  if (frame.checksum !== "complete" || headers.l4Offset === 0 || headers.isFragment) return true;
  const isUdp = headers.protocol === Protocol.udp;
  if (isUdp && headers.ipVersion === 4 && u16(frame.head, headers.l4Offset + 6) === 0) return true;
  const length = headers.payloadOffset + headers.payloadLength - headers.l4Offset;
  const pseudo = headers.protocol === Protocol.icmp ? 0 : pseudoHeader(frame.head, headers, length);
  return foldSum(sumFrame(frame, headers.l4Offset, length, pseudo)) === 0xffff;
}

/** How many segments a frame is to become; 1 without segmentation, 0 where what it asks for makes no sense. */
export function segmentCount(frame: Frame, headers: Headers): number {
  if (frame.segmentation === "none") return 1;
  const version = frame.segmentation === "tcpv4" ? 4 : 6;
  const isTcp = headers.protocol === Protocol.tcp && headers.l4Offset !== 0 && !headers.isFragment;
  if (!isTcp || headers.ipVersion !== version || frame.segmentSize < 1) return 0;
  const count = Math.max(1, Math.ceil(headers.payloadLength / frame.segmentSize));
  return count > SEGMENTS_MOST ? 0 : count;
}

/** Makes the copied headers those of segment `n` of `count`, whose payload begins `offset` bytes after the first's. */
function adaptHeaders(segment: Uint8Array, headers: Headers, n: number, count: number, offset: number): void {
  const { l3Offset, l4Offset } = headers;
  if (headers.ipVersion === 4) {
    putU16(segment, l3Offset + 2, segment.length - l3Offset);
    putU16(segment, l3Offset + 4, (headers.identification + n) & 0xffff);
    putU16(segment, l3Offset + 10, ipv4HeaderChecksum(segment, l3Offset, (segment[l3Offset]! & 15) * 4));
  } else putU16(segment, l3Offset + 4, segment.length - l3Offset - 40);
  const sequence = (headers.tcpSequence + offset) >>> 0;
  putU16(segment, l4Offset + 4, sequence >>> 16);
  putU16(segment, l4Offset + 6, sequence & 0xffff);
  let flags = headers.tcpFlags;
  // Congestion window reduced is said once, at the front; the end of the data and of the connection at the end.
  if (n > 0) flags &= ~TcpFlag.cwr;
  if (n < count - 1) flags &= ~(TcpFlag.fin | TcpFlag.psh);
  segment[l4Offset + 13] = flags;
  putU16(segment, l4Offset + 16, 0);
  const length = segment.length - l4Offset;
  putU16(
    segment,
    l4Offset + 16,
    checksumOf(sumBytes(segment, l4Offset, length, pseudoHeader(segment, headers, length))),
  );
}

/**
 * Cuts a frame with segmentation into frames that are ready for a wire, each with at most `segmentSize` bytes of payload,
 * lengths, sequence numbers, ids, flags and checksums its own. All are private copies, without the padding of the frame.
 * A frame without segmentation gives itself, or its copy with the checksum finished.
 * @param headers of this frame, parsed
 * @returns no frame at all when the metadata does not fit the frame (validation drops such), or it would be more than
 *   SEGMENTS_MOST
 */
export function segmentTcp(frame: Frame, headers: Headers): Frame[] {
  if (frame.segmentation === "none") return [finishChecksum(frame)];
  const count = segmentCount(frame, headers);
  const frames: Frame[] = [];
  for (let n = 0; n < count; n++) {
    const offset = n * frame.segmentSize;
    const size = Math.min(frame.segmentSize, headers.payloadLength - offset);
    const length = headers.payloadOffset + size;
    const segment = new Frame(length);
    segment.reset(length);
    segment.headLength = length;
    frame.copyTo(segment.head, 0, 0, headers.payloadOffset);
    frame.copyTo(segment.head, headers.payloadOffset, headers.payloadOffset + offset, size);
    adaptHeaders(segment.head, headers, n, count, offset);
    frames.push(segment);
  }
  return frames;
}

/** The largest IP packet that the frame puts on a wire: itself, or each of its segments. `headers` of this frame. */
export function wirePacketLength(frame: Frame, headers: Headers): number {
  if (frame.segmentation === "none") return frame.length - headers.l3Offset;
  return headers.payloadOffset - headers.l3Offset + Math.min(frame.segmentSize, headers.payloadLength);
}
