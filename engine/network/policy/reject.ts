/**
 * Answers to refused packets: ICMP and ICMPv6 "destination unreachable", TCP resets. They go back to where the packet
 * came from, in the name of its destination, as a bridge's REJECT does.
 *
 * Sources: RFC 792, 1122 (3.2.2: what is never answered), 4443 (2.4), 9293 (3.10.7.1: resets for what belongs nowhere).
 */
import { Frame } from "../../device/net/frame.ts";
import { checksumOf, ipv4HeaderChecksum, pseudoHeader4, pseudoHeader6, sumBytes } from "../checksum.ts";
import { type Headers, Protocol, TcpFlag } from "../headers.ts";
import type { RejectKind } from "./rule.ts";

const codes4: Readonly<Partial<Record<RejectKind, number>>> = {
  "net-unreachable": 0,
  "host-unreachable": 1,
  "proto-unreachable": 2,
  "port-unreachable": 3,
  "net-prohibited": 9,
  "host-prohibited": 10,
  "admin-prohibited": 13,
  default: 3,
};

const codes6: Readonly<Partial<Record<RejectKind, number>>> = {
  "no-route": 0,
  "admin-prohibited": 1,
  "addr-unreachable": 3,
  "port-unreachable": 4,
  "policy-fail": 5,
  default: 4,
};

const ICMP4_UNREACHABLE = 3;
const ICMP6_UNREACHABLE = 1;
/** First type of ICMPv6 that is no error. */
const ICMP6_INFORMATIONAL = 128;
const HOP_LIMIT = 64;
/** An IPv4 error as a whole (RFC 1812, 4.3.2.3). What lies outside the frame's head is not quoted in any case. */
const LONGEST_QUOTE = 576 - 28;

/**
 * The answer to a packet.
 * @param tags the bytes between MAC addresses and EtherType that frames of the sender's port have: its VLAN tags, or
 * none
 * @returns undefined where an answer is forbidden: to errors, later fragments, groups, and senders without an address
 */
export function buildReject(frame: Frame, headers: Headers, how: RejectKind, tags: Uint8Array): Frame | undefined {
  if (!mayBeAnswered(frame, headers)) return undefined;
  if (how === "tcp-reset") return headers.l4Offset === 0 ? undefined : reset(frame, headers, tags);
  const code = headers.ipVersion === 4 ? codes4[how] : codes6[how];
  return code === undefined ? undefined : unreachable(frame, headers, code, tags);
}

function mayBeAnswered(frame: Frame, headers: Headers): boolean {
  const { head } = frame;
  if (headers.isMulticast || headers.fragmentOffset !== 0) return false;
  if (headers.protocol === Protocol.tcp && (headers.tcpFlags & TcpFlag.rst) !== 0) return false;
  if (headers.ipVersion === 4) {
    // Sources that are nobody's, loopback's or a group's; destinations that are a group's.
    const from = headers.source4 >>> 24;
    if (from === 0 || from === 127 || from >= 224 || headers.destination4 >>> 28 >= 14) return false;
    const { icmpType } = headers;
    return headers.protocol !== Protocol.icmp || icmpType === 0 || icmpType === 8 || (icmpType >= 13 && icmpType <= 18);
  }
  if (headers.ipVersion !== 6) return false;
  if (head[headers.source6] === 0xff || head[headers.destination6] === 0xff) return false;
  // "::" and "::1".
  let sum = 0;
  for (let n = 0; n < 15; n++) sum |= head[headers.source6 + n]!;
  if (sum === 0 && head[headers.source6 + 15]! <= 1) return false;
  return headers.protocol !== Protocol.icmp6 || headers.icmpType >= ICMP6_INFORMATIONAL;
}

/** Ethernet and IP headers turned round, with room for `length` bytes of payload. @returns the frame's bytes */
function reply(frame: Frame, headers: Headers, protocol: number, length: number, tags: Uint8Array): Uint8Array {
  const isVersion4 = headers.ipVersion === 4;
  const at = 14 + tags.length;
  const bytes = new Uint8Array(at + (isVersion4 ? 20 : 40) + length);
  const view = new DataView(bytes.buffer);
  const { head } = frame;
  bytes.set(head.subarray(6, 12), 0);
  bytes.set(head.subarray(0, 6), 6);
  bytes.set(tags, 12);
  view.setUint16(at - 2, headers.etherType);
  if (isVersion4) {
    bytes[at] = 0x45;
    view.setUint16(at + 2, 20 + length);
    // Not to be fragmented, so its identification need not be unique (RFC 6864).
    view.setUint16(at + 6, 0x4000);
    bytes[at + 8] = HOP_LIMIT;
    bytes[at + 9] = protocol;
    view.setUint32(at + 12, headers.destination4);
    view.setUint32(at + 16, headers.source4);
    view.setUint16(at + 10, ipv4HeaderChecksum(bytes, at, 20));
    return bytes;
  }
  bytes[at] = 0x60;
  view.setUint16(at + 4, length);
  bytes[at + 6] = protocol;
  bytes[at + 7] = HOP_LIMIT;
  bytes.set(head.subarray(headers.destination6, headers.destination6 + 16), at + 8);
  bytes.set(head.subarray(headers.source6, headers.source6 + 16), at + 24);
  return bytes;
}

/** The pseudo header's sum of an answer: the same addresses, so the same sum as the packet's own. */
function pseudoSum(frame: Frame, headers: Headers, protocol: number, length: number): number {
  if (headers.ipVersion === 4) return pseudoHeader4(headers.source4, headers.destination4, protocol, length);
  return pseudoHeader6(frame.head, headers.source6, protocol, length);
}

function unreachable(frame: Frame, headers: Headers, code: number, tags: Uint8Array): Frame {
  const isVersion4 = headers.ipVersion === 4;
  const end = Math.min(frame.headLength, headers.l3End, headers.l3Offset + LONGEST_QUOTE);
  const quote = frame.head.subarray(headers.l3Offset, end);
  const protocol = isVersion4 ? Protocol.icmp : Protocol.icmp6;
  const length = 8 + quote.length;
  const bytes = reply(frame, headers, protocol, length, tags);
  const at = bytes.length - length;
  bytes[at] = isVersion4 ? ICMP4_UNREACHABLE : ICMP6_UNREACHABLE;
  bytes[at + 1] = code;
  bytes.set(quote, at + 8);
  const pseudo = isVersion4 ? 0 : pseudoSum(frame, headers, protocol, length);
  new DataView(bytes.buffer).setUint16(at + 2, checksumOf(sumBytes(bytes, at, length, pseudo)));
  return Frame.of(bytes);
}

function reset(frame: Frame, headers: Headers, tags: Uint8Array): Frame {
  const bytes = reply(frame, headers, Protocol.tcp, 20, tags);
  const at = bytes.length - 20;
  const view = new DataView(bytes.buffer);
  view.setUint16(at, headers.destinationPort);
  view.setUint16(at + 2, headers.sourcePort);
  bytes[at + 12] = 0x50;
  const { tcpFlags } = headers;
  if ((tcpFlags & TcpFlag.ack) !== 0) {
    view.setUint32(at + 4, headers.tcpAcknowledgement);
    bytes[at + 13] = TcpFlag.rst;
  } else {
    const taken =
      ((tcpFlags & TcpFlag.syn) === 0 ? 0 : 1) + ((tcpFlags & TcpFlag.fin) === 0 ? 0 : 1) + headers.payloadLength;
    view.setUint32(at + 8, (headers.tcpSequence + taken) >>> 0);
    bytes[at + 13] = TcpFlag.rst | TcpFlag.ack;
  }
  view.setUint16(at + 16, checksumOf(sumBytes(bytes, at, 20, pseudoSum(frame, headers, Protocol.tcp, 20))));
  return Frame.of(bytes);
}
