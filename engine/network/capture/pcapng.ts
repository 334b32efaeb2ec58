/**
 * The blocks of a pcapng file (draft-ietf-opsawg-pcapng), little-endian: section header, interface description, enhanced
 * packet and interface statistics. Only encoding; who writes when is capture.ts.
 */
import type { Frame } from "../../device/net/frame.ts";

export const BlockType = { section: 0x0a0d0d0a, interface: 1, simplePacket: 3, statistics: 5, packet: 6 } as const;
export const BYTE_ORDER_MAGIC = 0x1a2b3c4d;
/** LINKTYPE_ETHERNET. */
export const LINK_ETHERNET = 1;
/** if_tsresol: 10^-9 s. */
export const NANOSECONDS = 9;

export const Option = {
  end: 0,
  /** Of a section: the operating system, and the program that wrote it. */
  system: 3,
  application: 4,
  /** Of an interface. */
  name: 2,
  resolution: 9,
  filter: 11,
  offset: 14,
  /** Of a packet. */
  flags: 2,
  /** Of statistics. */
  startTime: 2,
  endTime: 3,
  received: 4,
  dropped: 5,
  accepted: 6,
  delivered: 8,
} as const;

/** Bits 0 and 1 of a packet's flags. */
export const PacketFlags = { inbound: 1, outbound: 2 } as const;

/** Type, length, interface, time (high, low), captured and original length; behind the data an option, its end, the length. */
const PACKET_HEAD = 28;
const PACKET_TAIL = 8 + 4 + 4;
const SIZE_UNKNOWN = 0xffff_ffff;
/** if_filter's first byte: what follows is the text of a filter. */
const FILTER_TEXT = 0;

/** Nanoseconds since 1970 in two words, as pcapng stores them: no double holds them exactly. */
export interface Timestamp {
  high: number;
  low: number;
}

/** What an interface has seen, for its statistics block. */
export interface InterfaceStatistics {
  /** Frames that passed by. */
  readonly received: number;
  /** Frames that the filter let through. */
  readonly accepted: number;
  /** Frames that are in the file. */
  readonly captured: number;
  /** Frames that are missing in the file, because it was not written fast enough. */
  readonly dropped: number;
}

function padded(length: number): number {
  return (length + 3) & ~3;
}

/** A block with its options, in memory of its own. */
class BlockWriter {
  private bytes = new Uint8Array(256);
  private view = new DataView(this.bytes.buffer);
  private end = 8;
  private readonly type: number;

  constructor(type: number) {
    this.type = type;
  }

  word(value: number): this {
    this.room(4);
    this.view.setUint32(this.end, value, true);
    this.end += 4;
    return this;
  }

  half(value: number): this {
    this.room(2);
    this.view.setUint16(this.end, value, true);
    this.end += 2;
    return this;
  }

  option(code: number, value: Uint8Array): this {
    this.half(code).half(value.length);
    this.room(padded(value.length));
    this.bytes.set(value, this.end);
    this.end += padded(value.length);
    return this;
  }

  text(code: number, value: string): this {
    return this.option(code, new TextEncoder().encode(value).subarray(0, 0xffff));
  }

  time(code: number, value: Timestamp): this {
    return this.half(code).half(8).word(value.high).word(value.low);
  }

  count(code: number, value: number): this {
    return this.half(code)
      .half(8)
      .word(value >>> 0)
      .word(Math.floor(value / 2 ** 32));
  }

  finish(): Uint8Array {
    this.half(Option.end).half(0);
    const length = this.end + 4;
    this.word(length);
    this.view.setUint32(0, this.type, true);
    this.view.setUint32(4, length, true);
    return this.bytes.slice(0, length);
  }

  private room(count: number): void {
    if (this.end + count <= this.bytes.length) return;
    const larger = new Uint8Array(2 * (this.end + count));
    larger.set(this.bytes);
    this.bytes = larger;
    this.view = new DataView(larger.buffer);
  }
}

/** The block that a file begins with. `application` is the program's name and version. */
export function sectionHeader(application: string): Uint8Array {
  return new BlockWriter(BlockType.section)
    .word(BYTE_ORDER_MAGIC)
    .half(1)
    .half(0)
    .word(SIZE_UNKNOWN)
    .word(SIZE_UNKNOWN)
    .text(Option.application, application)
    .finish();
}

/** The block that gives an interface the next number: its name, nanoseconds as unit, and the filter if there is one. */
export function interfaceDescription(name: string, snapLength: number, filter?: string): Uint8Array {
  const block = new BlockWriter(BlockType.interface)
    .half(LINK_ETHERNET)
    .half(0)
    .word(snapLength)
    .text(Option.name, name)
    .option(Option.resolution, Uint8Array.of(NANOSECONDS));
  if (filter !== undefined) {
    const text = new TextEncoder().encode(filter);
    const value = new Uint8Array(text.length + 1);
    value[0] = FILTER_TEXT;
    value.set(text, 1);
    block.option(Option.filter, value);
  }
  return block.finish();
}

/** The block at the end: what an interface has seen between two times. */
export function interfaceStatistics(
  number: number,
  from: Timestamp,
  to: Timestamp,
  statistics: InterfaceStatistics,
): Uint8Array {
  return new BlockWriter(BlockType.statistics)
    .word(number)
    .word(to.high)
    .word(to.low)
    .time(Option.startTime, from)
    .time(Option.endTime, to)
    .count(Option.received, statistics.received)
    .count(Option.dropped, statistics.dropped)
    .count(Option.accepted, statistics.accepted)
    .count(Option.delivered, statistics.captured)
    .finish();
}

/** Bytes of the packet block for so many bytes of a frame. */
export function packetBlockBytes(captured: number): number {
  return PACKET_HEAD + padded(captured) + PACKET_TAIL;
}

/**
 * Writes a packet block at `at`, where packetBlockBytes(captured) bytes are free.
 * @param view a view of all of `into`
 * @returns where the block ends
 */
export function writePacketBlock(
  into: Uint8Array,
  view: DataView,
  at: number,
  number: number,
  time: Timestamp,
  frame: Frame,
  captured: number,
  flags: number,
): number {
  const length = packetBlockBytes(captured);
  view.setUint32(at, BlockType.packet, true);
  view.setUint32(at + 4, length, true);
  view.setUint32(at + 8, number, true);
  view.setUint32(at + 12, time.high, true);
  view.setUint32(at + 16, time.low, true);
  view.setUint32(at + 20, captured, true);
  view.setUint32(at + 24, frame.length, true);
  const data = at + PACKET_HEAD;
  const copied = frame.copyTo(into, data, 0, captured);
  const options = data + padded(captured);
  into.fill(0, data + copied, options);
  view.setUint16(options, Option.flags, true);
  view.setUint16(options + 2, 4, true);
  view.setUint32(options + 4, flags, true);
  view.setUint32(options + 8, Option.end, true);
  view.setUint32(options + 12, length, true);
  return at + length;
}
