/**
 * The header of a qcow2 image, versions 2 and 3, with its extensions and the name of its backing file.
 * Source: QEMU's docs/interop/qcow2.txt. All numbers of the format are big-endian.
 */
import { fstatSync, readSync } from "node:fs";
import { DiskError, errnoOf, unreadable } from "../errors.ts";

export const QCOW2_MAGIC = 0x514649fb;

/** Incompatible features: who does not know one that is set cannot use the image. */
export const INCOMPATIBLE = {
  /** Refcounts may be wrong: they are counted again before the image is written. */
  dirty: 1,
  /** A table is damaged: the image is only read until it has been repaired. */
  corrupt: 2,
  externalData: 4,
  /** The byte "compression type" of the header counts. */
  compressionType: 8,
  extendedL2: 16,
} as const;
/** Compatible features. */
export const COMPATIBLE = { lazyRefcounts: 1 } as const;
/** Autoclear features: who does not know one clears it when he opens the image for writing. */
export const AUTOCLEAR = { bitmaps: 1, rawExternalData: 2 } as const;

export const EXTENSION = {
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  externalData: 0x44415441,
} as const;

/** A 64-bit field of flags, as two halves. */
export interface FeatureBits {
  readonly high: number;
  readonly low: number;
}

export interface HeaderExtension {
  readonly type: number;
  readonly data: Uint8Array;
}

/** Offsets and sizes are in bytes unless their names say otherwise. */
export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  /** Of the disk that the guest sees. */
  readonly size: number;
  /** Entries. */
  readonly l1Size: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  /** A refcount has 2^refcountOrder bits. */
  readonly refcountOrder: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  readonly incompatible: FeatureBits;
  readonly compatible: FeatureBits;
  readonly autoclear: FeatureBits;
  readonly compression: "deflate" | "zstd";
  /** As it stands in the image: relative names count from the image's folder. */
  readonly backingFile: string | undefined;
  /** "raw", "qcow2", …; undefined when the image does not say. */
  readonly backingFormat: string | undefined;
  /** All others than the backing format, in their order. */
  readonly extensions: readonly HeaderExtension[];
}

export const LIMITS = {
  clusterBits: { least: 9, most: 21 },
  refcountOrder: 6,
  /** Bytes; QEMU's own limits. */
  l1Table: 32 << 20,
  refcountTable: 8 << 20,
  backingName: 1023,
  snapshots: 65_536,
} as const;

const V2_LENGTH = 72;
const V3_LENGTH = 104;
/** With the compression type and its padding. */
const FULL_LENGTH = 112;
const KNOWN_INCOMPATIBLE = INCOMPATIBLE.dirty | INCOMPATIBLE.corrupt | INCOMPATIBLE.compressionType;
const NO_BITS: FeatureBits = { high: 0, low: 0 };

function damaged(path: string, what: string): DiskError {
  return new DiskError("unusable-image", `qcow2 image ${path} is damaged: ${what}`, "restore it from a copy");
}

function unsupported(path: string, what: string): DiskError {
  return new DiskError(
    "unsupported-format",
    `qcow2 image ${path} uses ${what}, which is not supported`,
    "convert it with qemu-img convert -O qcow2",
  );
}

/** A 64-bit field; undefined when it is no exact number (2^53 and more): no such offset or size is in use anywhere. */
function big(view: DataView, offset: number): number | undefined {
  const value = view.getUint32(offset) * 2 ** 32 + view.getUint32(offset + 4);
  return Number.isSafeInteger(value) ? value : undefined;
}

function bits(view: DataView, offset: number): FeatureBits {
  return { high: view.getUint32(offset), low: view.getUint32(offset + 4) };
}

function readStart(descriptor: number, path: string, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let filled = 0;
  try {
    while (filled < length) {
      const count = readSync(descriptor, bytes, filled, length - filled, filled);
      if (count === 0) break;
      filled += count;
    }
  } catch (error) {
    throw unreadable(path, errnoOf(error), error);
  }
  return bytes.subarray(0, filled);
}

interface Extensions {
  readonly backingFormat: string | undefined;
  readonly others: HeaderExtension[];
}

/** Type, length, data padded to 8 bytes; the type 0 ends the list, as does the room before `end`. */
function parseExtensions(path: string, bytes: Uint8Array, start: number, end: number): Extensions {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let backingFormat: string | undefined;
  const others: HeaderExtension[] = [];
  for (let at = start; at + 8 <= end; ) {
    const type = view.getUint32(at);
    const length = view.getUint32(at + 4);
    if (type === 0) break;
    if (length > end - at - 8) throw damaged(path, "a header extension is longer than the header's room");
    const data = bytes.slice(at + 8, at + 8 + length);
    if (type === EXTENSION.backingFormat) backingFormat = new TextDecoder().decode(data);
    else if (type === EXTENSION.externalData) throw unsupported(path, "an external data file");
    else if (type === EXTENSION.encryption) throw unsupported(path, "encryption");
    else others.push({ type, data });
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return { backingFormat, others };
}

function checkTable(path: string, name: string, offset: number | undefined, clusterSize: number): number {
  if (offset === undefined || offset % clusterSize !== 0)
    throw damaged(path, `the ${name} does not begin at a cluster`);
  return offset;
}

function featureName(extensions: readonly HeaderExtension[], bit: number): string | undefined {
  const table = extensions.find(({ type }) => type === EXTENSION.featureNames)?.data ?? new Uint8Array(0);
  for (let at = 0; at + 48 <= table.length; at += 48) {
    if (table[at] !== 0 || table[at + 1] !== bit) continue;
    const name = new TextDecoder().decode(table.subarray(at + 2, at + 48));
    return name.replace(/\0.*$/s, "");
  }
  return undefined;
}

function checkIncompatible(path: string, features: FeatureBits, extensions: readonly HeaderExtension[]): void {
  if (features.low & INCOMPATIBLE.externalData) throw unsupported(path, "an external data file");
  if (features.low & INCOMPATIBLE.extendedL2) throw unsupported(path, "subclusters (extended_l2)");
  const unknown = { high: features.high, low: (features.low & ~KNOWN_INCOMPATIBLE) >>> 0 };
  if (unknown.high === 0 && unknown.low === 0) return;
  const bit = unknown.low === 0 ? 63 - Math.clz32(unknown.high) : 31 - Math.clz32(unknown.low);
  throw unsupported(path, `the feature ${featureName(extensions, bit) ?? `number ${bit}`}`);
}

/** Fields of version 3, with their meaning in version 2 when they are not there. */
function versionThree(path: string, view: DataView, version: 2 | 3) {
  if (version === 2) {
    return {
      incompatible: NO_BITS,
      compatible: NO_BITS,
      autoclear: NO_BITS,
      refcountOrder: 4,
      headerLength: V2_LENGTH,
      compressionType: 0,
    };
  }
  if (view.byteLength < V3_LENGTH) throw damaged(path, "it ends within its header");
  const headerLength = view.getUint32(100);
  if (headerLength < V3_LENGTH || headerLength > view.byteLength) throw damaged(path, "its header has no valid length");
  return {
    incompatible: bits(view, 72),
    compatible: bits(view, 80),
    autoclear: bits(view, 88),
    refcountOrder: view.getUint32(96),
    headerLength,
    compressionType: headerLength > V3_LENGTH ? view.getUint8(104) : 0,
  };
}

function parseBacking(path: string, bytes: Uint8Array, view: DataView, headerLength: number): string | undefined {
  const offset = big(view, 8);
  const length = view.getUint32(16);
  if (offset === 0) return undefined;
  if (offset === undefined || length > LIMITS.backingName || offset < headerLength || offset + length > bytes.length) {
    throw damaged(path, "the backing file's name does not lie in its first cluster");
  }
  if (length === 0) return undefined;
  return new TextDecoder().decode(bytes.subarray(offset, offset + length));
}

function compressionOf(path: string, features: FeatureBits, type: number): "deflate" | "zstd" {
  const flagged = (features.low & INCOMPATIBLE.compressionType) !== 0;
  if (flagged !== (type !== 0) || type > 1) throw unsupported(path, `compression type ${type}`);
  return type === 1 ? "zstd" : "deflate";
}

/**
 * Parses the first cluster of an image (or as much as there is of it).
 * @param path name in messages
 * @throws DiskError "unusable-image" (damaged), "unsupported-format"
 */
export function parseHeader(start: Uint8Array, path: string): Qcow2Header {
  const whole = new DataView(start.buffer, start.byteOffset, start.byteLength);
  if (start.length < V2_LENGTH || whole.getUint32(0) !== QCOW2_MAGIC) {
    throw new DiskError("unsupported-format", `${path} is no qcow2 image`, "check its format");
  }
  const version = whole.getUint32(4);
  if (version !== 2 && version !== 3) throw unsupported(path, `version ${version} of the format`);
  const clusterBits = whole.getUint32(20);
  if (clusterBits < LIMITS.clusterBits.least || clusterBits > LIMITS.clusterBits.most) {
    throw damaged(path, `clusters of 2^${clusterBits} bytes`);
  }
  const clusterSize = 2 ** clusterBits;
  const bytes = start.subarray(0, clusterSize);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (whole.getUint32(32) !== 0) throw unsupported(path, "encryption");
  const three = versionThree(path, view, version);
  const backingFile = parseBacking(path, bytes, view, three.headerLength);
  // The name lies behind the extensions; without one they may fill the cluster.
  const end = backingFile === undefined ? bytes.length : Math.min(bytes.length, big(view, 8) ?? 0);
  const extensions = parseExtensions(path, bytes, three.headerLength, end);
  checkIncompatible(path, three.incompatible, extensions.others);
  return {
    version,
    clusterBits,
    clusterSize,
    ...checkSizes(path, view, clusterBits),
    ...checkRefcounts(path, view, clusterSize, three.refcountOrder),
    ...checkSnapshots(path, view, clusterSize),
    incompatible: three.incompatible,
    compatible: three.compatible,
    autoclear: three.autoclear,
    compression: compressionOf(path, three.incompatible, three.compressionType),
    backingFile,
    backingFormat: extensions.backingFormat,
    extensions: extensions.others,
  };
}

function checkSizes(path: string, view: DataView, clusterBits: number) {
  const size = big(view, 24);
  const l1Size = view.getUint32(36);
  if (size === undefined) throw damaged(path, "the disk's size is beyond all bounds");
  if (l1Size * 8 > LIMITS.l1Table) throw damaged(path, `an L1 table of ${l1Size} entries`);
  if (l1Size < l1EntriesFor(size, clusterBits)) throw damaged(path, "the L1 table is too small for the disk");
  const l1Offset = checkTable(path, "L1 table", big(view, 40), 2 ** clusterBits);
  return { size, l1Size, l1Offset };
}

function checkRefcounts(path: string, view: DataView, clusterSize: number, refcountOrder: number) {
  const refcountTableClusters = view.getUint32(56);
  if (refcountOrder > LIMITS.refcountOrder) throw damaged(path, `refcounts of 2^${refcountOrder} bits`);
  if (refcountTableClusters === 0 || refcountTableClusters * clusterSize > LIMITS.refcountTable) {
    throw damaged(path, `a refcount table of ${refcountTableClusters} clusters`);
  }
  const refcountTableOffset = checkTable(path, "refcount table", big(view, 48), clusterSize);
  if (refcountTableOffset === 0) throw damaged(path, "the refcount table lies in the header");
  return { refcountOrder, refcountTableClusters, refcountTableOffset };
}

function checkSnapshots(path: string, view: DataView, clusterSize: number) {
  const snapshotCount = view.getUint32(60);
  if (snapshotCount > LIMITS.snapshots) throw damaged(path, `${snapshotCount} internal snapshots`);
  const offset = snapshotCount === 0 ? 0 : checkTable(path, "snapshot table", big(view, 64), clusterSize);
  return { snapshotCount, snapshotsOffset: offset };
}

/**
 * Reads and checks the header of an open image.
 * @param path name in messages
 * @throws DiskError "unusable-image" (damaged), "unreadable-image", "unsupported-format" (no qcow2, a feature we do not have)
 */
export function readHeader(descriptor: number, path = "of this descriptor"): Qcow2Header {
  const longest = 2 ** LIMITS.clusterBits.most;
  const { size } = fstatSync(descriptor);
  // A block device has no size here; all of a header that matters lies in its first 64 KiB or cluster.
  return parseHeader(readStart(descriptor, path, size > 0 ? Math.min(size, longest) : longest), path);
}

function setBig(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, Math.floor(value / 2 ** 32));
  view.setUint32(offset + 4, value % 2 ** 32);
}

function setBits(view: DataView, offset: number, value: FeatureBits): void {
  view.setUint32(offset, value.high);
  view.setUint32(offset + 4, value.low);
}

/**
 * The header's bytes with extensions and backing name, to be written at offset 0 in one call.
 * @returns undefined when all that does not fit into one cluster
 */
export function encodeHeader(header: Qcow2Header): Uint8Array<ArrayBuffer> | undefined {
  const headerLength = header.version === 2 ? V2_LENGTH : FULL_LENGTH;
  const text = new TextEncoder();
  const extensions = [...header.extensions];
  if (header.backingFormat !== undefined) {
    extensions.unshift({ type: EXTENSION.backingFormat, data: text.encode(header.backingFormat) });
  }
  const name = header.backingFile === undefined ? undefined : text.encode(header.backingFile);
  const padded = (data: Uint8Array): number => 8 + Math.ceil(data.length / 8) * 8;
  const nameOffset = extensions.reduce((sum, { data }) => sum + padded(data), headerLength) + 8;
  const length = nameOffset + (name?.length ?? 0);
  if (length > header.clusterSize || (name?.length ?? 0) > LIMITS.backingName) return undefined;
  const bytes = new Uint8Array(length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, QCOW2_MAGIC);
  view.setUint32(4, header.version);
  if (name) {
    setBig(view, 8, nameOffset);
    view.setUint32(16, name.length);
    bytes.set(name, nameOffset);
  }
  view.setUint32(20, header.clusterBits);
  setBig(view, 24, header.size);
  view.setUint32(36, header.l1Size);
  setBig(view, 40, header.l1Offset);
  setBig(view, 48, header.refcountTableOffset);
  view.setUint32(56, header.refcountTableClusters);
  view.setUint32(60, header.snapshotCount);
  setBig(view, 64, header.snapshotsOffset);
  if (header.version === 3) {
    setBits(view, 72, header.incompatible);
    setBits(view, 80, header.compatible);
    setBits(view, 88, header.autoclear);
    view.setUint32(96, header.refcountOrder);
    view.setUint32(100, FULL_LENGTH);
    view.setUint8(104, header.compression === "zstd" ? 1 : 0);
  }
  let at = headerLength;
  for (const { type, data } of extensions) {
    view.setUint32(at, type);
    view.setUint32(at + 4, data.length);
    bytes.set(data, at + 8);
    at += padded(data);
  }
  return bytes;
}

/** Bytes of the disk that one L2 table maps. */
export function bytesPerL2(clusterBits: number): number {
  return 2 ** (2 * clusterBits - 3);
}

/** L1 entries that a disk of `size` bytes needs. */
export function l1EntriesFor(size: number, clusterBits: number): number {
  return Math.ceil(size / bytesPerL2(clusterBits));
}
