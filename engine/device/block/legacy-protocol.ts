/**
 * The message set of Xen 1.x and 2.0, under the protocol name "domlab-xen-2.0": three operations on one ring that
 * serves all disks of a guest, told apart by a device number in each request.
 *
 *   operation      number   meaning
 *   READ           0        as today
 *   WRITE          1        as today
 *   PROBE          2        list the guest's virtual block devices into a granted page
 *
 * PROBE's number is today's WRITE_BARRIER, so the set cannot be mixed with the present one. A request has 112 bytes:
 *
 *   struct { uint8_t operation, nr_segments; uint16_t device; uint32_t pad; uint64_t id, sector_number;
 *            struct { uint32_t gref; uint8_t first_sect, last_sect; uint16_t pad; } segments[11]; };
 *
 * and a response { uint64_t id; uint8_t operation; int16_t status; }. `device` is the number of xen-vbd-interface(7).
 *
 * PROBE has one segment, which says where in the page the list goes:
 *
 *   struct { uint32_t count, pad; struct { uint16_t device, info; uint32_t pad; uint64_t capacity; } records[]; };
 *
 * `count` is the number of disks, `capacity` is in units of 512 bytes, `info` has the VDISK_* bits of blkif.h. As many
 * records are written as fit; the response's status is the number of records written, or BLKIF_RSP_ERROR.
 */
import { defineStruct } from "../../abi/struct.ts";

/** Operations of the old set. */
export const LegacyOperation = {
  read: 0,
  write: 1,
  probe: 2,
} as const;

export const probeHeader = defineStruct({ count: "u32", pad: "u32" });
export const probeRecord = defineStruct({ device: "u16", info: "u16", pad: "u32", capacity: "u64" });

/** A disk as PROBE tells of it. */
export interface LegacyVbd {
  /** Number of xen-vbd-interface(7), below 65 536. */
  readonly device: number;
  /** VDISK_* bits. */
  readonly info: number;
  /** Units of 512 bytes. */
  readonly sectors: number;
}

/** Most bytes that a segment can name: a page. */
const MAX_LIST = 4096;
const scratch = new Uint8Array(MAX_LIST);
const scratchView = new DataView(scratch.buffer);

/**
 * Lays the list out in at most `room` bytes, padding zero.
 *
 * @returns the bytes (valid until the next call) and the number of records in them; undefined when not even the header
 *   fits
 */
export function encodeProbe(
  vbds: readonly LegacyVbd[],
  room: number,
): { readonly bytes: Uint8Array; readonly records: number } | undefined {
  if (room < probeHeader.size) return undefined;
  const records = Math.min(vbds.length, Math.floor((Math.min(room, MAX_LIST) - probeHeader.size) / probeRecord.size));
  const length = probeHeader.size + records * probeRecord.size;
  scratch.fill(0, 0, length);
  probeHeader.write(scratchView, 0, { count: vbds.length });
  for (let i = 0; i < records; i++) {
    const { device, info, sectors } = vbds[i]!;
    const at = probeHeader.size + i * probeRecord.size;
    probeRecord.write(scratchView, at, { device, info, capacity: BigInt(sectors) });
  }
  return { bytes: scratch.subarray(0, length), records };
}

/** Reads a list as PROBE has written it; records that do not lie within `bytes` are left out. */
export function decodeProbe(bytes: Uint8Array): LegacyVbd[] {
  if (bytes.length < probeHeader.size) return [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const room = Math.floor((bytes.length - probeHeader.size) / probeRecord.size);
  const count = Math.min(probeHeader.read(view).count, room);
  return Array.from({ length: count }, (_, i) => {
    const { device, info, capacity } = probeRecord.read(view, probeHeader.size + i * probeRecord.size);
    return { device, info, sectors: Number(capacity) };
  });
}
