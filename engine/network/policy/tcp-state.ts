/**
 * What conntrack believes about a TCP connection, from the flags of the segments alone (RFC 9293, figure 5, as somebody
 * between both ends sees it). Sequence numbers are not checked: the peers do that.
 */
import { TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN, TCP_URG } from "./rule.ts";

export const TcpState = {
  /** A SYN was seen. */
  synSent: 0,
  /** Both sent a SYN without the other's ACK: simultaneous open. */
  synBoth: 1,
  /** SYN and ACK came back. */
  synReceived: 2,
  established: 3,
  /** One end has sent its FIN. */
  finWait: 4,
  /** That FIN was acknowledged. */
  closeWait: 5,
  /** Both have sent their FIN. */
  lastAck: 6,
  timeWait: 7,
  /** A reset ended it. */
  closed: 8,
} as const;

export const tcpStateNames = [
  "SYN_SENT",
  "SYN_SENT2",
  "SYN_RECV",
  "ESTABLISHED",
  "FIN_WAIT",
  "CLOSE_WAIT",
  "LAST_ACK",
  "TIME_WAIT",
  "CLOSE",
] as const;

/** Which ends have sent a FIN. */
export const BY_ORIGIN = 1;
export const BY_OTHER = 2;
const BOTH = 3;

/** Seconds that each state lasts without a segment: Linux's defaults (nf_conntrack_tcp_timeout_*). */
export const tcpTimeouts: readonly number[] = [120, 120, 60, 432_000, 120, 60, 30, 120, 10];

/** A connection in which only one end has spoken so far, mid-stream pickup included (…_timeout_unacknowledged). */
export const TCP_UNACKNOWLEDGED_SECONDS = 300;

const LOOKED_AT = TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST | TCP_URG;

/** Whether a sound TCP ever sends this combination of flags. */
export function areFlagsValid(flags: number): boolean {
  switch (flags & LOOKED_AT) {
    case TCP_SYN:
    case TCP_SYN | TCP_URG:
    case TCP_SYN | TCP_ACK:
    case TCP_RST:
    case TCP_RST | TCP_ACK:
    case TCP_FIN | TCP_ACK:
    case TCP_FIN | TCP_ACK | TCP_URG:
    case TCP_ACK:
    case TCP_ACK | TCP_URG:
      return true;
    default:
      return false;
  }
}

/** A segment that may begin a connection here: a SYN, or, when we came too late for it, data. */
export function isOpening(flags: number): boolean {
  return (flags & (TCP_RST | TCP_FIN)) === 0 && (flags & (TCP_SYN | TCP_ACK)) !== (TCP_SYN | TCP_ACK);
}

/** The state that the first segment seen leads to. */
export function firstTcpState(flags: number): number {
  return (flags & TCP_SYN) !== 0 ? TcpState.synSent : TcpState.established;
}

/** Whether a SYN now is a new connection between the same ports, not a part of the old one. */
export function canReopen(state: number, flags: number): boolean {
  const isSyn = (flags & (TCP_SYN | TCP_ACK)) === TCP_SYN;
  return isSyn && (state === TcpState.timeWait || state === TcpState.closed);
}

/**
 * The state after a segment, or -1 when it does not belong into this state.
 * @param fromOrigin whether it goes the way the first segment went
 * @param finished the ends that have sent a FIN, this segment included: BY_ORIGIN, BY_OTHER or BOTH
 */
export function nextTcpState(state: number, flags: number, fromOrigin: boolean, finished: number): number {
  if ((flags & TCP_RST) !== 0) return TcpState.closed;
  const syn = (flags & TCP_SYN) !== 0;
  const ack = (flags & TCP_ACK) !== 0;
  if (syn) return afterSyn(state, ack, fromOrigin);
  if ((flags & TCP_FIN) !== 0) return afterFin(state, finished === BOTH);
  return afterAck(state, fromOrigin, finished);
}

function afterSyn(state: number, ack: boolean, fromOrigin: boolean): number {
  switch (state) {
    case TcpState.synSent:
      if (fromOrigin) return ack ? -1 : state;
      return ack ? TcpState.synReceived : TcpState.synBoth;
    case TcpState.synBoth:
      return ack ? TcpState.synReceived : state;
    case TcpState.synReceived:
      // Retransmissions: the SYN's, and the answer's.
      return state;
    default:
      // A SYN inside a connection is answered with a challenge ACK (RFC 5961) and changes nothing.
      return ack && fromOrigin ? -1 : state;
  }
}

function afterFin(state: number, both: boolean): number {
  if (state === TcpState.synSent || state === TcpState.synBoth) return -1;
  if (state >= TcpState.lastAck) return state;
  if (both) return TcpState.lastAck;
  // The same end's FIN again, which may come after its acknowledgement.
  return state === TcpState.closeWait ? state : TcpState.finWait;
}

function afterAck(state: number, fromOrigin: boolean, finished: number): number {
  switch (state) {
    case TcpState.synSent:
      // Nobody answered yet: the opener has nothing to acknowledge, and the other end begins with its SYN.
      return -1;
    case TcpState.synReceived:
      return fromOrigin ? TcpState.established : state;
    case TcpState.finWait: {
      const closer = finished === BY_ORIGIN;
      return closer === fromOrigin ? state : TcpState.closeWait;
    }
    case TcpState.lastAck:
      return TcpState.timeWait;
    default:
      return state;
  }
}
