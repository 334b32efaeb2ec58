/**
 * A TCP segment as the connection sees it, read from a frame's head, and the options that matter here.
 *
 * Sources: RFC 9293 (TCP), RFC 7323 (window scale).
 */
import type { Frame } from "../../../device/net/frame.ts";
import { type Headers, TcpFlag } from "../../headers.ts";

const OPTION_END = 0;
const OPTION_NOP = 1;
const OPTION_MSS = 2;
const OPTION_WINDOW_SCALE = 3;
/** Without options. */
const TCP_HEADER = 20;
/** RFC 9293, 3.7.1: what a peer that does not say its MSS takes. */
export const DEFAULT_MSS = 536;
/** Smaller wishes are not granted: a guest cannot make every byte a packet. */
const LEAST_MSS = 88;
/** RFC 7323, 2.3: larger shifts count as 14. */
const MOST_SCALE = 14;

/** One segment of a guest. The frame is lent for the call. */
export interface Segment {
  readonly frame: Frame;
  readonly sequence: number;
  readonly acknowledgement: number;
  readonly flags: number;
  /** As it stands in the header, not scaled. */
  readonly window: number;
  /** Where the TCP header begins. */
  readonly headerOffset: number;
  readonly payloadOffset: number;
  readonly payloadLength: number;
}

/** A Segment that is filled in anew for each frame. */
export class SegmentReader implements Segment {
  frame: Frame;
  sequence = 0;
  acknowledgement = 0;
  flags = 0;
  window = 0;
  headerOffset = 0;
  payloadOffset = 0;
  payloadLength = 0;

  constructor(frame: Frame) {
    this.frame = frame;
  }

  read(frame: Frame, headers: Headers): this {
    this.frame = frame;
    this.sequence = headers.tcpSequence;
    this.acknowledgement = headers.tcpAcknowledgement;
    this.flags = headers.tcpFlags;
    this.window = headers.tcpWindow;
    this.headerOffset = headers.l4Offset;
    this.payloadOffset = headers.payloadOffset;
    this.payloadLength = headers.payloadLength;
    return this;
  }
}

/** What a SYN asks for. */
export interface SynOptions {
  readonly mss: number;
  /** Undefined where window scaling was not offered. */
  readonly windowScale: number | undefined;
}

/** Reads the options of a SYN; what is malformed ends the list. */
export function readSynOptions({ frame: { head }, headerOffset, payloadOffset: to }: Segment): SynOptions {
  let mss = DEFAULT_MSS;
  let windowScale: number | undefined;
  let at = headerOffset + TCP_HEADER;
  while (at < to) {
    const kind = head[at] ?? OPTION_END;
    if (kind === OPTION_END) break;
    if (kind === OPTION_NOP) {
      at++;
      continue;
    }
    const length = at + 1 < to ? (head[at + 1] ?? 0) : 0;
    if (length < 2 || at + length > to) break;
    if (kind === OPTION_MSS && length === 4) mss = ((head[at + 2] ?? 0) << 8) | (head[at + 3] ?? 0);
    if (kind === OPTION_WINDOW_SCALE && length === 3) windowScale = Math.min(head[at + 2] ?? 0, MOST_SCALE);
    at += length;
  }
  return { mss: Math.max(mss, LEAST_MSS), windowScale };
}

/** Writes the options of our SYN; @returns bytes, a multiple of four */
export function writeSynOptions(into: Uint8Array, at: number, mss: number, windowScale: number | undefined): number {
  into[at] = OPTION_MSS;
  into[at + 1] = 4;
  into[at + 2] = mss >> 8;
  into[at + 3] = mss & 0xff;
  if (windowScale === undefined) return 4;
  into[at + 4] = OPTION_NOP;
  into[at + 5] = OPTION_WINDOW_SCALE;
  into[at + 6] = 3;
  into[at + 7] = windowScale;
  return 8;
}

/** Sequence numbers that a segment takes: its bytes, SYN and FIN. */
export function segmentLength(segment: Segment): number {
  const { flags } = segment;
  return segment.payloadLength + ((flags & TcpFlag.syn) !== 0 ? 1 : 0) + ((flags & TcpFlag.fin) !== 0 ? 1 : 0);
}
