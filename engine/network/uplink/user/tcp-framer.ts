import { foldSum, pseudoHeader4 } from "../../checksum.ts";
import { Protocol, TcpFlag } from "../../headers.ts";
import { ETHERNET_HEADER, type GuestAddress, type GuestLink, IPV4_HEADER, put16, put32 } from "./guest-link.ts";
import type { TcpConnection } from "./tcp-connection.ts";
import { writeSynOptions } from "./tcp-segment.ts";

const TCP_HEADER = 20;
const TCP_AT = ETHERNET_HEADER + IPV4_HEADER;

/** The fields of a segment; addresses and numbers are unsigned. */
interface Fields {
  readonly source: number;
  readonly sourcePort: number;
  readonly port: number;
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  readonly window: number;
}

function writeTcp(head: Uint8Array, fields: Fields, headerLength: number): void {
  put16(head, TCP_AT, fields.sourcePort);
  put16(head, TCP_AT + 2, fields.port);
  put32(head, TCP_AT + 4, fields.sequence);
  put32(head, TCP_AT + 8, fields.acknowledgement);
  head[TCP_AT + 12] = (headerLength / 4) << 4;
  head[TCP_AT + 13] = fields.flags;
  put16(head, TCP_AT + 14, fields.window);
  put32(head, TCP_AT + 16, 0);
}

/**
 * Sends one segment of a connection, with up to `length` bytes of its queue from `offset`. Longer than an MSS, it leaves
 * the cutting to whoever needs it (segmentation "tcpv4"), and the checksum in any case.
 * @returns bytes of the queue that it took along; FIN and PSH are left out where these are not all
 */
export function sendSegment(
  link: GuestLink,
  connection: TcpConnection,
  mss: number,
  flags: number,
  sequence: number,
  offset: number,
  length: number,
): number {
  const { endpoints, transmitter, receiveQueue } = connection;
  const isSyn = (flags & TcpFlag.syn) !== 0;
  const frame = link.borrow(0);
  const { head } = frame;
  const taken = length > 0 ? transmitter.queue.addTo(frame, offset, length) : 0;
  const options = isSyn ? writeSynOptions(head, TCP_AT + TCP_HEADER, mss, transmitter.windowScale) : 0;
  const header = TCP_HEADER + options;
  const window = isSyn ? transmitter.synWindow : transmitter.offer();
  const scale = isSyn ? 0 : (transmitter.windowScale ?? 0);
  const source = endpoints.address;
  writeTcp(
    head,
    {
      source,
      sourcePort: endpoints.port,
      port: endpoints.guestPort,
      sequence,
      acknowledgement: (flags & TcpFlag.ack) !== 0 ? receiveQueue.next : 0,
      flags: taken < length ? flags & ~(TcpFlag.fin | TcpFlag.psh) : flags,
      window: Math.min(0xffff, window >>> scale),
    },
    header,
  );
  const to = { mac: endpoints.guestMac, address: endpoints.guestAddress };
  link.writeHeaders(head, to, source, Protocol.tcp, IPV4_HEADER + header + taken);
  put16(head, TCP_AT + 16, foldSum(pseudoHeader4(source, to.address, Protocol.tcp, header + taken)));
  frame.headLength = TCP_AT + header;
  frame.length = TCP_AT + header + taken;
  frame.checksum = "blank";
  if (taken > mss) {
    frame.segmentation = "tcpv4";
    frame.segmentSize = mss;
  }
  link.send(frame);
  return taken;
}

/** A reset for a segment that belongs to no connection (RFC 9293, 3.10.7.1). */
export function sendReset(
  link: GuestLink,
  to: GuestAddress,
  source: number,
  ports: { readonly from: number; readonly to: number },
  answer: { readonly sequence: number; readonly acknowledgement: number; readonly withAck: boolean },
): void {
  const frame = link.borrow(TCP_AT + TCP_HEADER);
  writeTcp(
    frame.head,
    {
      source,
      sourcePort: ports.from,
      port: ports.to,
      sequence: answer.sequence,
      acknowledgement: answer.acknowledgement,
      flags: answer.withAck ? TcpFlag.rst | TcpFlag.ack : TcpFlag.rst,
      window: 0,
    },
    TCP_HEADER,
  );
  link.writeHeaders(frame.head, to, source, Protocol.tcp, IPV4_HEADER + TCP_HEADER);
  put16(frame.head, TCP_AT + 16, foldSum(pseudoHeader4(source, to.address, Protocol.tcp, TCP_HEADER)));
  frame.headLength = TCP_AT + TCP_HEADER;
  frame.checksum = "blank";
  link.send(frame);
}
