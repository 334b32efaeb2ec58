/** The frames that TypeScript frontends send each other over a switch, and what is measured of them. */
import { headerChecksum } from "./ip.ts";

const ETHERNET = 14;
const IPV4 = 20;
const UDP = 17;
const TCP = 6;
/** Where every frame has its number: behind the longest headers here (Ethernet, IPv4, TCP), or behind UDP's. */
const SEQUENCE_UDP = ETHERNET + IPV4 + 8;
const SEQUENCE_TCP = ETHERNET + IPV4 + 20;

/** Survives structured cloning. */
export interface NetLoad {
  /** Bytes of a frame without FCS. */
  readonly size: number;
  /** Payload of a TCP segment, where the frame is to be segmented by whoever cannot take it whole; 0: it is not. */
  readonly segmentSize: number;
  /** Frames that may be under way: the receiver's answers let more come. */
  readonly window: number;
  /** The receiver answers each so many frames. */
  readonly every: number;
  readonly milliseconds: number;
}

/** Of one side, between the end of the warm-up and the end of the load. */
export interface Side {
  readonly frames: number;
  readonly seconds: number;
  readonly cpuSeconds: number;
  /** CPU of the process of the backend meanwhile. */
  readonly backendCpuSeconds: number;
  /** Events sent to the backend, and events that came. */
  readonly sentEvents: number;
  readonly events: number;
  /** Frames that never came; of the whole load. */
  readonly lost: number;
}

export const MACS = { sender: "00:16:3e:00:00:0a", receiver: "00:16:3e:00:00:0b" } as const;

const bytesOfMac = (mac: string): Buffer => Buffer.from(mac.replaceAll(":", ""), "hex");

/** Where a frame of the load has its number. */
export const sequenceAt = ({ segmentSize }: NetLoad): number => (segmentSize > 0 ? SEQUENCE_TCP : SEQUENCE_UDP);

/** Least bytes of a frame of the load. */
export const LEAST_SIZE = SEQUENCE_TCP + 4;

/** A frame with all its headers right: UDP without checksum, or TCP with its pseudo header's sum where it is segmented. */
export function loadFrame({ size, segmentSize }: NetLoad, from: keyof typeof MACS): Buffer {
  const frame = Buffer.alloc(size);
  const to = from === "sender" ? "receiver" : "sender";
  frame.set(bytesOfMac(MACS[to]), 0);
  frame.set(bytesOfMac(MACS[from]), 6);
  frame.writeUInt16BE(0x0800, 12);
  const protocol = segmentSize > 0 ? TCP : UDP;
  const length = size - ETHERNET;
  frame.writeUInt16BE(0x4500, ETHERNET);
  frame.writeUInt16BE(length, ETHERNET + 2);
  frame[ETHERNET + 8] = 64;
  frame[ETHERNET + 9] = protocol;
  frame.set(from === "sender" ? [10, 9, 0, 1, 10, 9, 0, 2] : [10, 9, 0, 2, 10, 9, 0, 1], ETHERNET + 12);
  frame.writeUInt16BE(headerChecksum(frame.subarray(ETHERNET, ETHERNET + IPV4)), ETHERNET + 10);
  const transport = ETHERNET + IPV4;
  frame.writeUInt16BE(4000, transport);
  frame.writeUInt16BE(4001, transport + 2);
  if (segmentSize > 0) {
    // Data offset of five words, ACK and PSH; a window.
    frame.writeUInt16BE(0x5018, transport + 12);
    frame.writeUInt16BE(0xffff, transport + 14);
  } else frame.writeUInt16BE(length - IPV4, transport + 4);
  return frame;
}
