/**
 * Reads what a block backend publishes (blkif.h, "Backend XenBus Nodes"). What is missing has its default; what is senseless
 * counts as missing where that is safe, and is a problem where it is not.
 */
import { type KeyResult, readFlag, readNumber } from "../xenbus/keys.ts";
import type { StoreAccess } from "../xenbus/store-access.ts";
import type { BlkfrontFeatures } from "./blkfront-queue.ts";
import { MAX_INDIRECT_SEGMENTS, SECTOR, VDISK_READONLY } from "./protocol.ts";

/** What the disk is like. */
export interface BlockGeometry {
  /** Units of 512 bytes. */
  readonly sectors: number;
  /** Bytes. */
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  /** VDISK_* bits. */
  readonly info: number;
  /** Bytes; undefined when there is no discard. */
  readonly discard: { readonly granularity: number; readonly alignment: number; readonly secure: boolean } | undefined;
}

/** What the frontend would use if the backend offers it. */
export interface BlkfrontWishes {
  readonly persistent: boolean;
  readonly indirectSegments: number;
  readonly ringPageOrder: number;
  readonly queues: number;
}

const LARGEST = 0xffff_ffff;
/** 2^63 bytes of disk would overflow a file offset; our arithmetic is exact to 2^53 bytes. */
const MAX_SECTORS = Number.MAX_SAFE_INTEGER / SECTOR;

/** A limit that the backend offers; no more than we want. */
async function offered(store: StoreAccess, backend: string, key: string, wish: number, least: number): Promise<number> {
  const read = await readNumber(store, backend, key, { minimum: least, maximum: LARGEST, fallback: least });
  return "problem" in read ? least : Math.min(read.value, wish);
}

/** Ring size and number of queues: known before rings are made (InitWait). */
export async function readTransportOffer(
  store: StoreAccess,
  backend: string,
  wishes: BlkfrontWishes,
): Promise<{ readonly ringPageOrder: number; readonly queues: number }> {
  return {
    ringPageOrder: await offered(store, backend, "max-ring-page-order", wishes.ringPageOrder, 0),
    queues: Math.max(1, await offered(store, backend, "multi-queue-max-queues", wishes.queues, 0)),
  };
}

/** The features in effect, once the backend is connected. */
export async function readFeatures(
  store: StoreAccess,
  backend: string,
  wishes: BlkfrontWishes,
): Promise<BlkfrontFeatures> {
  const wish = Math.min(wishes.indirectSegments, MAX_INDIRECT_SEGMENTS);
  return {
    flush: await readFlag(store, backend, "feature-flush-cache"),
    barrier: await readFlag(store, backend, "feature-barrier"),
    discard: await readFlag(store, backend, "feature-discard"),
    secureDiscard: await readFlag(store, backend, "discard-secure"),
    persistent: wishes.persistent && (await readFlag(store, backend, "feature-persistent")),
    indirectSegments: await offered(store, backend, "feature-max-indirect-segments", wish, 0),
  };
}

/** The disk's properties, once the backend is connected. */
export async function readGeometry(store: StoreAccess, backend: string): Promise<KeyResult<BlockGeometry>> {
  const sectors = await readNumber(store, backend, "sectors", { minimum: 0, maximum: MAX_SECTORS });
  if ("problem" in sectors) return sectors;
  const sectorSize = await readNumber(store, backend, "sector-size", { minimum: 512, maximum: 4096, fallback: 512 });
  if ("problem" in sectorSize) return sectorSize;
  if (!isPowerOfTwo(sectorSize.value)) return { problem: `sector-size is ${sectorSize.value}, not a power of two` };
  const physical = await readNumber(store, backend, "physical-sector-size", {
    minimum: sectorSize.value,
    maximum: LARGEST,
    fallback: sectorSize.value,
  });
  const info = await readNumber(store, backend, "info", { minimum: 0, maximum: LARGEST, fallback: 0 });
  const bits = "problem" in info ? 0 : info.value;
  const discard = await readFlag(store, backend, "feature-discard");
  const unit = { minimum: 0, maximum: LARGEST };
  const granularity = await readNumber(store, backend, "discard-granularity", { ...unit, fallback: sectorSize.value });
  const alignment = await readNumber(store, backend, "discard-alignment", { ...unit, fallback: 0 });
  return {
    value: {
      sectors: sectors.value,
      sectorSize: sectorSize.value,
      physicalSectorSize: "problem" in physical ? sectorSize.value : physical.value,
      readOnly: (bits & VDISK_READONLY) !== 0,
      info: bits,
      discard: discard
        ? {
            granularity: "problem" in granularity ? sectorSize.value : granularity.value,
            alignment: "problem" in alignment ? 0 : alignment.value,
            secure: await readFlag(store, backend, "discard-secure"),
          }
        : undefined,
    },
  };
}

function isPowerOfTwo(value: number): boolean {
  return (value & (value - 1)) === 0;
}
