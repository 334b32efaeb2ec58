/**
 * The messages of a network interface's two rings (xen/include/public/io/netif.h). A slot is read and written as 32-bit
 * little-endian words, each once:
 *
 *   transmit request   gref | offset, flags << 16 | id, size << 16
 *   transmit response  id, status << 16
 *   receive request    id | gref
 *   receive response   id, offset << 16 | flags, status << 16
 *   extra information  type, flags << 8, two bytes << 16 | four bytes
 *
 * The first transmit request of a packet has the size of the whole, each further one its own. Extra information takes a
 * slot of its own behind the first one, in either direction.
 */

/** Bytes of a slot: the larger one of request and response. */
export const TRANSMIT_SLOT = 12;
export const RECEIVE_SLOT = 8;
/** Slots of a ring of one page of either kind. */
export const NET_RING_SLOTS = 256;

/** NETTXF_*: flags of a transmit request. */
export const TransmitFlag = { csumBlank: 1, dataValidated: 2, moreData: 4, extraInfo: 8 } as const;
/** NETRXF_*: flags of a receive response. */
export const ReceiveFlag = { dataValidated: 1, csumBlank: 2, moreData: 4, extraInfo: 8 } as const;

/** XEN_NETIF_EXTRA_TYPE_*. */
export const ExtraType = { gso: 1, multicastAdd: 2, multicastDelete: 3, hash: 4 } as const;
/** XEN_NETIF_EXTRA_FLAG_MORE. */
export const EXTRA_MORE = 1;
/** XEN_NETIF_GSO_TYPE_*. */
export const GsoType = { none: 0, tcpv4: 1, tcpv6: 2 } as const;

/** NETIF_RSP_*: statuses of a response; a receive response has the fragment's size instead of "okay". */
export const NetStatus = { dropped: -2, error: -1, okay: 0, none: 1 } as const;

/** XEN_NETIF_NR_SLOTS_MIN: fragments of one packet that every backend takes. */
export const PACKET_SLOTS = 18;
/** Extra slots of one packet that make sense: each type once. */
export const PACKET_EXTRAS = 4;
/** Ethernet header. */
export const FRAME_LEAST = 14;
/**
 * Least payload of a segment that is asked for. Linux's TCP comes down to 48 bytes less the options; anything below would
 * let one packet become thousands.
 */
export const SEGMENT_LEAST = 8;

export const PAGE = 4096;

/** Word 1 and 2 of a transmit request; word 0 is the grant reference. */
export const transmitOffset = (slot: Int32Array): number => slot[1]! & 0xffff;
export const transmitFlags = (slot: Int32Array): number => slot[1]! >>> 16;
export const transmitId = (slot: Int32Array): number => slot[2]! & 0xffff;
export const transmitSize = (slot: Int32Array): number => slot[2]! >>> 16;

/** Fills in a transmit request. */
export function writeTransmit(
  slot: Int32Array,
  request: { ref: number; offset: number; flags: number; id: number; size: number },
): void {
  slot[0] = request.ref | 0;
  slot[1] = (request.offset & 0xffff) | (request.flags << 16);
  slot[2] = (request.id & 0xffff) | (request.size << 16);
}

/** The one word of a transmit response. */
export const transmitResponse = (id: number, status: number): number => (id & 0xffff) | (status << 16);

/** Fills in extra information about segmentation: two words. */
export function writeGso(slot: Int32Array, type: number, segmentSize: number): void {
  slot[0] = ExtraType.gso | (segmentSize << 16);
  slot[1] = type & 0xff;
}

/** Extra information as read from a slot; which of the fields mean something depends on the type. */
export const extraType = (slot: Int32Array): number => slot[0]! & 0xff;
export const extraMore = (slot: Int32Array): boolean => ((slot[0]! >>> 8) & EXTRA_MORE) !== 0;
export const gsoSegmentSize = (slot: Int32Array): number => slot[0]! >>> 16;
export const gsoType = (slot: Int32Array): number => slot[1]! & 0xff;
/** The multicast address's first two octets, and its last four, as little-endian numbers. */
export const multicastLow = (slot: Int32Array): number => slot[0]! >>> 16;
export const multicastHigh = (slot: Int32Array): number => slot[1]! >>> 0;
