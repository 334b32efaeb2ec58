/**
 * An Ethernet frame on its way from one interface to others, and what an interface is to whoever moves frames.
 *
 * A frame is lent: it is valid until the call that it is an argument of returns. Its head is a private copy, so that what
 * was checked there cannot be changed by the sender any more; the rest may still lie in the sender's pages, where bytes can
 * change at any time and are only ever copied, never believed.
 */

/** How much of a frame's beginning is copied: Ethernet, two VLAN tags, IPv6 with extension headers, TCP with options. */
export const FRAME_HEAD = 256;
/** Longest frame: 64 KiB of IP and its Ethernet header with a VLAN tag. */
export const FRAME_MOST = 65_535 + 18;
/** Most segments behind the head: one a page of the longest frame, and both ends broken. */
export const FRAME_SEGMENTS = 20;

/** What the transport checksum in the frame is (netif.h: NETTXF_csum_blank, NETTXF_data_validated). */
export type ChecksumState =
  /** Written in full by the sender; nobody has looked at it. */
  | "complete"
  /** The field has the pseudo header's sum only; the receiver of a real wire must finish it. Implies "validated". */
  | "blank"
  /** Known to be right: it need not be looked at. */
  | "validated";

/** Segmentation that is still to be done (netif.h: XEN_NETIF_GSO_TYPE_*). */
export type SegmentationType = "none" | "tcpv4" | "tcpv6";

export class Frame {
  /** The first `headLength` bytes of the frame; longer than that, and the rest is undefined. */
  readonly head: Uint8Array;
  headLength = 0;
  /** Length of the whole frame in bytes, without FCS. */
  length = 0;
  checksum: ChecksumState = "complete";
  segmentation: SegmentationType = "none";
  /** Bytes of payload per segment (MSS) where there is segmentation. */
  segmentSize = 0;
  /** Segments of the rest, in order: memory, byte offset in it, length. Only the first `segments` count. */
  segments = 0;
  readonly memory: Uint8Array[] = [];
  readonly address = new Uint32Array(FRAME_SEGMENTS);
  readonly size = new Uint32Array(FRAME_SEGMENTS);

  /** @param alignment the head begins there in a word of 8 bytes; see the getter */
  constructor(headBytes = FRAME_HEAD, alignment = 0) {
    this.head = new Uint8Array(headBytes + alignment).subarray(alignment);
  }

  /**
   * Where in a word of 8 bytes a copy of the frame should begin, so that most of its bytes keep their place in a word: a copy
   * from or to shared memory that shifts them goes byte by byte, at a seventh of the speed.
   */
  get alignment(): number {
    let most = this.headLength;
    let alignment = this.head.byteOffset & 7;
    let position = this.headLength;
    for (let n = 0; n < this.segments; n++) {
      const size = this.size[n] ?? 0;
      if (size > most) {
        most = size;
        alignment = ((this.memory[n]?.byteOffset ?? 0) + (this.address[n] ?? 0) - position) & 7;
      }
      position += size;
    }
    return alignment;
  }

  /** An empty frame of `length` bytes is to be filled in: head first, then add() for the rest. */
  reset(length: number): void {
    this.length = length;
    this.headLength = 0;
    this.segments = 0;
    this.checksum = "complete";
    this.segmentation = "none";
    this.segmentSize = 0;
  }

  /** Appends bytes that stay where they are. @throws RangeError past FRAME_SEGMENTS (a bug: callers merge first) */
  add(memory: Uint8Array, address: number, length: number): void {
    if (this.segments === FRAME_SEGMENTS) throw new RangeError(`frame: more than ${FRAME_SEGMENTS} segments`);
    this.memory[this.segments] = memory;
    this.address[this.segments] = address;
    this.size[this.segments] = length;
    this.segments++;
  }

  /** Copies bytes `from`… of the frame to `into[at]`…, at most `most`. @returns bytes copied */
  copyTo(into: Uint8Array, at: number, from = 0, most = this.length - from): number {
    const end = Math.min(this.length, from + most);
    let position = from;
    let out = at;
    if (position < this.headLength) {
      const count = Math.min(this.headLength, end) - position;
      into.set(this.head.subarray(position, position + count), out);
      position += count;
      out += count;
    }
    let start = this.headLength;
    for (let n = 0; n < this.segments && position < end; n++) {
      const size = this.size[n] ?? 0;
      const memory = this.memory[n];
      if (memory !== undefined && position < start + size) {
        const skip = position - start;
        const count = Math.min(size - skip, end - position);
        const address = (this.address[n] ?? 0) + skip;
        into.set(memory.subarray(address, address + count), out);
        position += count;
        out += count;
      }
      start += size;
    }
    return position - from;
  }

  /** A frame of its own memory, to be kept: what the sender does to its pages afterwards changes nothing. */
  clone(): Frame {
    const copy = new Frame(Math.max(this.length, 1), this.alignment);
    copy.reset(this.length);
    copy.headLength = this.copyTo(copy.head, 0);
    copy.checksum = this.checksum;
    copy.segmentation = this.segmentation;
    copy.segmentSize = this.segmentSize;
    return copy;
  }

  /** A frame made of bytes that nobody else changes. */
  static of(bytes: Uint8Array): Frame {
    const frame = new Frame(Math.max(bytes.length, 1));
    frame.reset(bytes.length);
    frame.head.set(bytes);
    frame.headLength = bytes.length;
    return frame;
  }
}

/** Why a port did not take a frame. */
export type DeliveryFailure = "no-buffer" | "too-long" | "down" | "full";

/** Somewhere frames are delivered to: a guest's interface, an uplink. */
export interface FramePort {
  /**
   * Takes one frame, or copies what it keeps, before it returns.
   * @returns undefined, or why it was dropped
   */
  deliver(frame: Frame): DeliveryFailure | undefined;
  /** Called after a batch of deliveries: time to publish responses and to notify. */
  flush?(): void;
}

/** Where an interface hands over what its guest sends. */
export interface FrameSink {
  receive(frame: Frame): void;
  /** The batch is over: whoever was delivered to may be told. */
  batchEnd?(): void;
}
