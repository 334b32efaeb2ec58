/** New images. Each appears complete and durable under its name, or not at all; nothing is ever replaced. */
import { ftruncateSync } from "node:fs";
import { resolve } from "node:path";
import { backingName, followChain, type ImageFormat } from "../chain.ts";
import { DiskError } from "../errors.ts";
import { encodeHeader, LIMITS, l1EntriesFor, type Qcow2Header } from "../qcow2/header.ts";
import { createFile, fileError, type ImageFile } from "./files.ts";
import { writeRefcountTables } from "./refcount-tables.ts";

export const DEFAULT_CLUSTER_SIZE = 65_536;
const SECTOR = 512;

export interface Qcow2Options {
  /** Bytes of the disk, rounded up to sectors; without it the backing image's. */
  readonly size?: number;
  /** A power of two from 512 to 2 MiB. */
  readonly clusterSize?: number;
  /** The image behind it, which must not change any more. */
  readonly backing?: { readonly path: string; readonly format: ImageFormat };
}

function badSize(what: string, remedy: string): DiskError {
  return new DiskError("bad-size", what, remedy);
}

/** Whole sectors. @throws DiskError "bad-size" */
export function checkedSize(size: number): number {
  if (!Number.isSafeInteger(size) || size < SECTOR) {
    throw badSize(
      `a disk of ${size} bytes is smaller than one sector or no whole number of bytes`,
      "give it a size such as 10G",
    );
  }
  return Math.ceil(size / SECTOR) * SECTOR;
}

/** Makes a raw image: one large hole. @throws DiskError "image-exists", "bad-size", "no-space" */
export async function createRaw(path: string, size: number): Promise<void> {
  const bytes = checkedSize(size);
  await createFile(resolve(path), (file) => setLength(file, bytes));
}

/** Sets a file's length; errors become DiskErrors. */
export function setLength(file: ImageFile, bytes: number): void {
  try {
    ftruncateSync(file.descriptor, bytes);
  } catch (error) {
    throw fileError(file.path, "written", error);
  }
}

function clusterBitsOf(clusterSize: number): number {
  const bits = Math.log2(clusterSize);
  if (Number.isInteger(bits) && bits >= LIMITS.clusterBits.least && bits <= LIMITS.clusterBits.most) return bits;
  throw badSize(`clusters of ${clusterSize} bytes are not possible`, "choose a power of two from 512 to 2M");
}

/**
 * Writes an empty version 3 image into a new file: header, refcounts, and an L1 table without entries.
 * @throws DiskError "bad-size" when the disk is too large for the cluster size, "bad-range" when the backing name is too long
 */
export function formatQcow2(
  file: ImageFile,
  options: {
    readonly size: number;
    readonly clusterSize: number;
    readonly backing?: { name: string; format: ImageFormat };
  },
): void {
  const { clusterSize, backing } = options;
  const clusterBits = clusterBitsOf(clusterSize);
  const l1Size = l1EntriesFor(options.size, clusterBits);
  if (l1Size * 8 > LIMITS.l1Table) {
    throw badSize(
      `a disk of ${options.size} bytes is too large for clusters of ${clusterSize}`,
      "choose larger clusters",
    );
  }
  const clusters = 1 + Math.ceil((l1Size * 8) / clusterSize);
  const table = writeRefcountTables(file, { clusterSize, clusterBits, refcountOrder: 4 }, clusters, () => 1);
  const none = { high: 0, low: 0 };
  const header: Qcow2Header = {
    version: 3,
    clusterBits,
    clusterSize,
    size: options.size,
    l1Size,
    l1Offset: clusterSize,
    ...table,
    refcountOrder: 4,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatible: none,
    compatible: none,
    autoclear: none,
    compression: "deflate",
    backingFile: backing?.name,
    backingFormat: backing?.format,
    extensions: [],
  };
  file.writeSync(encoded(file.path, header), 0);
}

function encoded(path: string, header: Qcow2Header): Uint8Array {
  const bytes = encodeHeader(header);
  if (bytes) return bytes;
  throw longName(path);
}

/** A backing image's name that has no room in the first cluster. */
export function longName(path: string): DiskError {
  return new DiskError(
    "bad-range",
    `the name of the backing image is too long for the header of ${path}`,
    "put both into one folder or choose larger clusters",
  );
}

/**
 * Makes a qcow2 image (version 3), empty or as an overlay. A backing image in the same folder is named by its bare name, so
 * that the folder may move; another by its absolute path.
 * @throws DiskError "image-exists", "bad-size", "no-space"; "missing-image" and "broken-chain" of the backing image
 */
export async function createQcow2(path: string, options: Qcow2Options): Promise<void> {
  const target = resolve(path);
  const { backing } = options;
  const behind = backing && followChain(backing.path, backing.format)[0];
  const size = options.size ?? behind?.size;
  if (size === undefined) throw badSize("an image without a backing image needs a size", "give it one such as 10G");
  const named = backing && { name: backingName(target, backing.path), format: backing.format };
  const layout = {
    size: checkedSize(size),
    clusterSize: options.clusterSize ?? DEFAULT_CLUSTER_SIZE,
    ...(named && { backing: named }),
  };
  await createFile(target, (file) => formatQcow2(file, layout));
}
