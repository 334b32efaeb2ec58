/**
 * The block protocol (xen/include/public/io/blkif.h): operations, statuses, and the two layouts of its messages.
 *
 * A frontend names its layout by the key "protocol": "x86_64-abi" where a 64-bit integer is aligned to 8 bytes,
 * "x86_32-abi" where to 4. All sector numbers are in units of 512 bytes, whatever the sector size of the disk.
 */
import { defineStruct } from "../../abi/struct.ts";

/** BLKIF_OP_* */
export const BlockOperation = {
  read: 0,
  write: 1,
  write_barrier: 2,
  flush_diskcache: 3,
  discard: 5,
  indirect: 6,
} as const;

/** BLKIF_RSP_* */
export const BlockStatus = {
  okay: 0,
  error: -1,
  eopnotsupp: -2,
} as const;

/** Unit of sector numbers and segment bounds, in bytes. */
export const SECTOR = 512;
/** The last unit of a page that a segment can name. */
export const LAST_SECTOR_OF_PAGE = 7;
/** BLKIF_MAX_SEGMENTS_PER_REQUEST */
export const MAX_DIRECT_SEGMENTS = 11;
/** BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST */
export const MAX_INDIRECT_PAGES = 8;
/** What we offer as feature-max-indirect-segments: 1 MiB a request. */
export const MAX_INDIRECT_SEGMENTS = 256;
/** Segments in a page of an indirect request. */
export const SEGMENTS_PER_INDIRECT_PAGE = 512;
/** BLKIF_DISCARD_SECURE */
export const DISCARD_SECURE = 1;

/** VDISK_*: bits of the backend's key "info". */
export const VDISK_CDROM = 1;
export const VDISK_REMOVABLE = 2;
export const VDISK_READONLY = 4;

/**
 * struct blkif_request_segment { grant_ref_t gref; uint8_t first_sect, last_sect; }; 8 bytes in both layouts. The
 * bounds are in units of 512 bytes within the page, both inclusive.
 */
export const requestSegment = defineStruct({ gref: "u32", firstSect: "u8", lastSect: "u8", pad: "u16" });

/**
 * struct blkif_request { uint8_t operation, nr_segments; blkif_vdev_t handle; uint64_t id, sector_number;
 *   struct blkif_request_segment seg[11]; };
 */
export const blockRequest = defineStruct({
  operation: "u8",
  nrSegments: "u8",
  handle: "u16",
  id: "u64",
  sectorNumber: "u64",
  /** Segments as pairs of words: gref, then first_sect | last_sect << 8. */
  segments: ["u32", 2 * MAX_DIRECT_SEGMENTS],
});

/**
 * struct blkif_request_discard { uint8_t operation, flag; blkif_vdev_t handle; uint64_t id, sector_number, nr_sectors;
 * };
 */
export const blockRequestDiscard = defineStruct({
  operation: "u8",
  flag: "u8",
  handle: "u16",
  id: "u64",
  sectorNumber: "u64",
  nrSectors: "u64",
});

/**
 * struct blkif_request_indirect { uint8_t operation, indirect_op; uint16_t nr_segments; uint64_t id, sector_number;
 *   blkif_vdev_t handle; grant_ref_t indirect_grefs[8]; };
 */
export const blockRequestIndirect = defineStruct({
  operation: "u8",
  indirectOp: "u8",
  nrSegments: "u16",
  id: "u64",
  sectorNumber: "u64",
  handle: "u16",
  indirectGrefs: ["u32", MAX_INDIRECT_PAGES],
});

/** struct blkif_response { uint64_t id; uint8_t operation; int16_t status; }; */
export const blockResponse = defineStruct({ id: "u64", operation: "u8", status: "i16" });

/** Values of the key "protocol". The last one is our own, see legacy-protocol.ts. */
export type BlockProtocolName = "x86_64-abi" | "x86_32-abi" | "domlab-xen-2.0";

/** One layout of the messages: the structs, and the word offsets that the data path reads. */
export interface BlockProtocol {
  readonly name: BlockProtocolName;
  /** Bytes of a ring slot. */
  readonly slotSize: number;
  readonly request: (typeof blockRequest)["compat"];
  readonly discard: (typeof blockRequestDiscard)["compat"];
  readonly indirect: (typeof blockRequestIndirect)["compat"];
  readonly response: (typeof blockResponse)["compat"];
  /**
   * Word offsets in a request; the first word is operation, nr_segments or flag or indirect_op, handle or nr_segments.
   */
  readonly idWord: number;
  readonly sectorWord: number;
  readonly segmentsWord: number;
  readonly discardSectorsWord: number;
  readonly indirectGrefsWord: number;
  /** Words of a response, padding included. */
  readonly responseWords: number;
}

export type BlockRequest = ReturnType<typeof blockRequest.read>;
export type BlockResponse = ReturnType<typeof blockResponse.read>;

/** Which of a struct's two layouts a protocol uses. */
function protocolOf(name: BlockProtocolName, wide: boolean): BlockProtocol {
  const request = wide ? blockRequest : blockRequest.compat;
  const discard = wide ? blockRequestDiscard : blockRequestDiscard.compat;
  const indirect = wide ? blockRequestIndirect : blockRequestIndirect.compat;
  const response = wide ? blockResponse : blockResponse.compat;
  return {
    name,
    slotSize: request.size,
    request,
    discard,
    indirect,
    response,
    idWord: request.offsets.id / 4,
    sectorWord: request.offsets.sectorNumber / 4,
    segmentsWord: request.offsets.segments / 4,
    discardSectorsWord: discard.offsets.nrSectors / 4,
    indirectGrefsWord: indirect.offsets.indirectGrefs / 4,
    responseWords: response.size / 4,
  };
}

export const X86_64_PROTOCOL: BlockProtocol = protocolOf("x86_64-abi", true);
export const X86_32_PROTOCOL: BlockProtocol = protocolOf("x86_32-abi", false);
/** The old message set uses today's 64-bit layout of requests and responses. */
export const LEGACY_PROTOCOL: BlockProtocol = protocolOf("domlab-xen-2.0", true);

/**
 * Layout for a value of the key "protocol"; undefined when we do not know it. A missing key means the backend's own.
 */
export function blockProtocol(name: string | undefined): BlockProtocol | undefined {
  switch (name) {
    case undefined:
    case "x86_64-abi":
      return X86_64_PROTOCOL;
    case "x86_32-abi":
      return X86_32_PROTOCOL;
    case "domlab-xen-2.0":
      return LEGACY_PROTOCOL;
    default:
      return undefined;
  }
}
