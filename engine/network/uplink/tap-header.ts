/**
 * struct virtio_net_hdr (linux/virtio_net.h), which stands before each frame of a tap device, and its meaning for a Frame.
 * Its fields are in the host's byte order; every host that Node runs tap devices on is little-endian.
 *
 *     u8 flags; u8 gso_type; u16 hdr_len, gso_size, csum_start, csum_offset;
 */
import type { Frame, SegmentationType } from "../../device/net/frame.ts";
import { foldSum, pseudoHeader4, pseudoHeader6 } from "../checksum.ts";
import { type Headers, Protocol } from "../headers.ts";

export const HEADER_BYTES = 10;

const FLAG_NEEDS_CHECKSUM = 1;
const FLAG_DATA_VALID = 2;
const GSO_NONE = 0;
const GSO_TCP4 = 1;
const GSO_TCP6 = 4;
/** The segments carry congestion notification; it changes nothing about the cutting. */
const GSO_ECN = 0x80;
const CHECKSUM_TCP = 16;
const CHECKSUM_UDP = 6;

/** What the kernel says of a frame that it sends. */
export interface TapHeader {
  readonly checksum: "complete" | "blank" | "validated";
  readonly segmentation: SegmentationType;
  readonly segmentSize: number;
  /** Of a blank checksum: where the bytes begin that it is over, and where from there it stands. */
  readonly checksumStart: number;
  readonly checksumOffset: number;
}

/** Reads a header. Undefined: segmentation that nobody asked the kernel for. */
export function readTapHeader(view: DataView): TapHeader | undefined {
  const flags = view.getUint8(0);
  const type = view.getUint8(1) & ~GSO_ECN;
  if (type !== GSO_NONE && type !== GSO_TCP4 && type !== GSO_TCP6) return undefined;
  return {
    checksum: flags & FLAG_NEEDS_CHECKSUM ? "blank" : flags & FLAG_DATA_VALID ? "validated" : "complete",
    segmentation: type === GSO_TCP4 ? "tcpv4" : type === GSO_TCP6 ? "tcpv6" : "none",
    segmentSize: type === GSO_NONE ? 0 : view.getUint16(4, true),
    checksumStart: view.getUint16(6, true),
    checksumOffset: view.getUint16(8, true),
  };
}

/**
 * Writes the header for a frame into `bytes` at 0, where the frame's bytes follow from HEADER_BYTES on. The pseudo
 * header's sum is written anew: what the sender left in a blank field is its affair.
 * @param headers of this frame, parsed without an error
 * @returns false: its checksum or segmentation is of a kind that there is not
 */
export function writeTapHeader(bytes: Uint8Array, view: DataView, frame: Frame, headers: Headers): boolean {
  bytes.fill(0, 0, HEADER_BYTES);
  if (frame.checksum === "validated") view.setUint8(0, FLAG_DATA_VALID);
  if (frame.checksum !== "blank" && frame.segmentation === "none") return true;
  const isTcp = headers.protocol === Protocol.tcp;
  const isUdp = headers.protocol === Protocol.udp;
  if (headers.l4Offset === 0 || headers.isFragment || !(isTcp || isUdp)) return false;
  const field = isTcp ? CHECKSUM_TCP : CHECKSUM_UDP;
  view.setUint8(0, FLAG_NEEDS_CHECKSUM);
  view.setUint16(6, headers.l4Offset, true);
  view.setUint16(8, field, true);
  const length = headers.payloadOffset + headers.payloadLength - headers.l4Offset;
  const sum =
    headers.ipVersion === 6
      ? pseudoHeader6(bytes, HEADER_BYTES + headers.source6, headers.protocol, length)
      : pseudoHeader4(headers.source4, headers.destination4, headers.protocol, length);
  view.setUint16(HEADER_BYTES + headers.l4Offset + field, foldSum(sum));
  if (frame.segmentation === "none") return true;
  const version = frame.segmentation === "tcpv4" ? 4 : 6;
  if (!isTcp || headers.ipVersion !== version || frame.segmentSize < 1 || frame.segmentSize > 0xffff) return false;
  view.setUint8(1, version === 4 ? GSO_TCP4 : GSO_TCP6);
  view.setUint16(2, headers.payloadOffset, true);
  view.setUint16(4, frame.segmentSize, true);
  return true;
}
