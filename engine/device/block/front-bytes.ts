/**
 * Reading and writing byte arrays through a frontend: the data is copied to or from pages of the frontend's pool. Whoever
 * has pages of his own uses Blkfront.read() and write(), which copy nothing.
 */
import type { GrantSource } from "../domain-interface.ts";
import { type Blkfront, BlkfrontError } from "./blkfront.ts";
import type { BlockFailure, BlockSegment } from "./front-request.ts";
import type { PoolPage } from "./page-pool.ts";
import { LAST_SECTOR_OF_PAGE, SECTOR } from "./protocol.ts";

const PAGE_SIZE = 4096;

/** The segments of `length` bytes in whole pages, the last one perhaps shorter. */
function segmentsOf(pages: readonly PoolPage[], length: number): BlockSegment[] {
  return pages.map(({ page, ref }, index) => ({
    page,
    ...(ref === undefined ? {} : { ref }),
    first: 0,
    last: Math.min(LAST_SECTOR_OF_PAGE, (length - index * PAGE_SIZE) / SECTOR - 1),
  }));
}

/** One request by way of pool pages; `copy` moves the part of the data that belongs to a page. */
async function transfer(
  front: Blkfront,
  operation: "read" | "write",
  sector: number,
  length: number,
  copy: (page: number, offset: number, size: number) => void,
): Promise<void> {
  const pages = await front.pool.take(Math.ceil(length / PAGE_SIZE));
  if (!pages) throw new BlkfrontError("no-grants", "no memory for the transfer");
  const copyAll = (): void => {
    pages.forEach(({ page }, index) => {
      copy(page, index * PAGE_SIZE, Math.min(PAGE_SIZE, length - index * PAGE_SIZE));
    });
  };
  // Lasting grants only while the backend keeps its maps: otherwise it could look at the pages later.
  if (front.negotiated?.persistent) {
    for (const page of pages) {
      const ref = page.ref ?? front.grantPage(page.page);
      if (ref !== undefined) page.ref = ref;
    }
  }
  if (operation === "write") copyAll();
  const failure = await new Promise<BlockFailure | undefined>((resolve) => {
    front.submit({ operation, sector, segments: segmentsOf(pages, length) }, resolve);
  });
  const held = new Set(failure?.heldPages);
  // Pages that the backend keeps hold the data all the same.
  if (operation === "read" && (!failure || failure.code === "page-held")) copyAll();
  front.pool.give(pages.filter(({ page }) => !held.has(page)));
  if (held.size > 0) front.pool.lost(held.size);
  if (failure && failure.code !== "page-held") throw new BlkfrontError(failure.code, failure.message);
}

async function inChunks(front: Blkfront, length: number, chunk: (from: number, size: number) => Promise<void>) {
  const size = front.segmentsPerRequest * PAGE_SIZE;
  const parts: Promise<void>[] = [];
  for (let from = 0; from < length; from += size) parts.push(chunk(from, Math.min(size, length - from)));
  await Promise.all(parts);
}

/** Reads `length` bytes (a multiple of the sector size) from a sector (512-byte units) on. */
export async function readBytes(
  front: Blkfront,
  grants: GrantSource,
  sector: number,
  length: number,
): Promise<Uint8Array> {
  const result = new Uint8Array(length);
  await inChunks(front, length, (from, size) =>
    transfer(front, "read", sector + from / SECTOR, size, (page, offset, part) => {
      result.set(grants.memory.bytes.subarray(page, page + part), from + offset);
    }),
  );
  return result;
}

/** Writes bytes (a multiple of the sector size of them) from a sector on. Durable only after a flush. */
export async function writeBytes(
  front: Blkfront,
  grants: GrantSource,
  sector: number,
  bytes: Uint8Array,
): Promise<void> {
  await inChunks(front, bytes.length, (from, size) =>
    transfer(front, "write", sector + from / SECTOR, size, (page, offset, part) => {
      grants.memory.bytes.set(bytes.subarray(from + offset, from + offset + part), page);
    }),
  );
}
