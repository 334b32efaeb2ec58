/**
 * VHD images (Virtual PC, Hyper-V, Azure; "vpc" in QEMU), for reading only: they are imported and not served. The layout is
 * that of Microsoft's "Virtual Hard Disk Image Format Specification" 1.0; all numbers are big-endian.
 */
import { fstatSync } from "node:fs";
import { DiskError } from "../errors.ts";
import type { ImageFile } from "./files.ts";
import { viewOf } from "./qcow2-file.ts";
import { type Layer, RawLayer, type Segment } from "./reader.ts";

const SECTOR = 512;
const FOOTER_LENGTH = 512;
const HEADER_LENGTH = 1024;
const FOOTER_COOKIE = "conectix";
const HEADER_COOKIE = "cxsparse";
const FOOTER_CHECKSUM = 64;
const HEADER_CHECKSUM = 36;
/** Of the allocation table: the block has never been written. */
const UNUSED = 0xffff_ffff;
/** Greatest disk of the format: 2040 GiB. */
const MOST_BYTES = 2040 * 2 ** 30;
const MOST_BLOCK = 256 << 20;
/** A table for the greatest disk in blocks of the usual 2 MiB takes 4 MiB; of 64 KiB, 128 MiB. */
const MOST_ENTRIES = 2 ** 25;
const KIND = { fixed: 2, dynamic: 3, differencing: 4 } as const;

interface Footer {
  readonly size: number;
  readonly kind: number;
  readonly dataOffset: number;
}

function damaged(path: string, what: string): DiskError {
  return new DiskError("unusable-image", `VHD image ${path} is damaged: ${what}`, "restore it from a copy");
}

function hasCookie(bytes: Uint8Array, cookie: string): boolean {
  return Buffer.from(bytes.subarray(0, cookie.length)).toString("latin1") === cookie;
}

/** The ones' complement of the sum of all bytes but those of the sum itself. */
function checksum(bytes: Uint8Array, at: number): number {
  let sum = 0;
  for (const [n, byte] of bytes.entries()) if (n < at || n >= at + 4) sum += byte;
  return ~sum >>> 0;
}

/** An offset or a size; NaN of one that no file can have. */
function readLong(view: DataView, at: number): number {
  const value = view.getUint32(at) * 2 ** 32 + view.getUint32(at + 4);
  return Number.isSafeInteger(value) ? value : Number.NaN;
}

function parseFooter(bytes: Uint8Array): Footer | undefined {
  const view = viewOf(bytes);
  if (!hasCookie(bytes, FOOTER_COOKIE) || checksum(bytes, FOOTER_CHECKSUM) !== view.getUint32(FOOTER_CHECKSUM)) {
    return undefined;
  }
  return { dataOffset: readLong(view, 16), size: readLong(view, 48), kind: view.getUint32(60) };
}

function bytesAt(file: ImageFile, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  file.readSync(bytes, offset);
  return bytes;
}

/** The footer, or the copy of it that dynamic images begin with. */
function footerOf(file: ImageFile): Footer | undefined {
  if (!fstatSync(file.descriptor).isFile() || file.size < FOOTER_LENGTH) return undefined;
  return (
    parseFooter(bytesAt(file, file.size - FOOTER_LENGTH, FOOTER_LENGTH)) ?? parseFooter(bytesAt(file, 0, FOOTER_LENGTH))
  );
}

/**
 * Whether a file is a VHD image. A dynamic one begins as one; a fixed one is a raw image with a footer, which a guest may have
 * written there itself: it counts where the file is called so.
 */
export function isVhd(file: ImageFile): boolean {
  if (!fstatSync(file.descriptor).isFile()) return false;
  if (hasCookie(bytesAt(file, 0, SECTOR), FOOTER_COOKIE)) return true;
  return /\.vhd$/i.test(file.path) && footerOf(file) !== undefined;
}

/** A dynamic image: blocks in the order of their first write, each behind a bitmap of the sectors that were written. */
class DynamicLayer implements Layer {
  readonly size: number;
  readonly #file: ImageFile;
  readonly #blockSize: number;
  readonly #bitmapLength: number;
  readonly #table: DataView;
  #bitmap: { readonly block: number; readonly bytes: Uint8Array } | undefined;

  /** @throws DiskError of a header that makes no sense */
  constructor(file: ImageFile, { size, dataOffset }: Footer) {
    const { path } = file;
    if (!(dataOffset >= FOOTER_LENGTH && dataOffset + HEADER_LENGTH <= file.size)) {
      throw damaged(path, "its header lies behind its end");
    }
    const header = bytesAt(file, dataOffset, HEADER_LENGTH);
    const view = viewOf(header);
    if (!hasCookie(header, HEADER_COOKIE) || checksum(header, HEADER_CHECKSUM) !== view.getUint32(HEADER_CHECKSUM)) {
      throw damaged(path, "its header is none");
    }
    const [tableOffset, entries, blockSize] = [readLong(view, 16), view.getUint32(28), view.getUint32(32)];
    const isPower = blockSize >= SECTOR && blockSize <= MOST_BLOCK && (blockSize & (blockSize - 1)) === 0;
    if (!isPower) throw damaged(path, `blocks of ${blockSize} bytes`);
    const needed = Math.ceil(size / blockSize);
    if (needed > entries || needed > MOST_ENTRIES) throw damaged(path, "its table does not cover the disk");
    if (!(tableOffset >= FOOTER_LENGTH && tableOffset + needed * 4 <= file.size)) {
      throw damaged(path, "its table lies behind its end");
    }
    this.#file = file;
    this.size = size;
    this.#blockSize = blockSize;
    // One bit a sector, and whole sectors of them.
    this.#bitmapLength = Math.ceil(blockSize / SECTOR / 8 / SECTOR) * SECTOR;
    this.#table = viewOf(bytesAt(file, tableOffset, needed * 4));
  }

  get path(): string {
    return this.#file.path;
  }

  segment(offset: number, end: number): Segment {
    const limit = Math.min(end, this.size);
    const block = Math.floor(offset / this.#blockSize);
    const first = this.#table.getUint32(block * 4);
    if (first === UNUSED) return { kind: "zero", length: this.#endOfUnused(block, limit) - offset };
    const bitmap = this.#bitmapOf(block, first * SECTOR);
    const start = block * this.#blockSize;
    const stop = Math.min(limit, start + this.#blockSize);
    const sectorAt = (at: number) => Math.floor((at - start) / SECTOR);
    const isWritten = (sector: number) => ((bitmap[sector >> 3] ?? 0) & (0x80 >> (sector & 7))) !== 0;
    const written = isWritten(sectorAt(offset));
    let next = sectorAt(offset) + 1;
    while (start + next * SECTOR < stop && isWritten(next) === written) next++;
    const length = Math.min(stop, start + next * SECTOR) - offset;
    if (!written) return { kind: "zero", length };
    return { kind: "data", length, host: first * SECTOR + this.#bitmapLength + (offset - start) };
  }

  /** Where a run of blocks that were never written ends. */
  #endOfUnused(block: number, limit: number): number {
    let next = block + 1;
    while (next * this.#blockSize < limit && this.#table.getUint32(next * 4) === UNUSED) next++;
    return Math.min(limit, next * this.#blockSize);
  }

  #bitmapOf(block: number, offset: number): Uint8Array {
    if (this.#bitmap?.block === block) return this.#bitmap.bytes;
    const used = Math.min(this.#blockSize, this.size - block * this.#blockSize);
    if (offset < FOOTER_LENGTH || offset + this.#bitmapLength + used > this.#file.size) {
      throw damaged(this.path, `block ${block} lies behind its end`);
    }
    const bytes = bytesAt(this.#file, offset, this.#bitmapLength);
    this.#bitmap = { block, bytes };
    return bytes;
  }

  async read(segment: Segment, into: Uint8Array): Promise<void> {
    if (segment.kind === "data") await this.#file.read(into, segment.host);
    else into.fill(0);
  }
}

/**
 * A VHD image as a layer to read.
 * @throws DiskError "unsupported-format" of what is none and of a differencing disk, "unusable-image" of a damaged one
 */
export function vhdLayer(file: ImageFile): Layer {
  const footer = footerOf(file);
  if (footer === undefined) {
    const what = `${file.path} is no VHD image, or its footer is damaged`;
    throw new DiskError("unsupported-format", what, "check the file, or name its format");
  }
  const { size, kind } = footer;
  if (!(size > 0 && size <= MOST_BYTES && size % SECTOR === 0)) throw damaged(file.path, "its disk has no size");
  switch (kind) {
    case KIND.fixed:
      if (size > file.size - FOOTER_LENGTH) throw damaged(file.path, "it is shorter than its disk");
      // The disk is the file, but for the footer behind it.
      return new RawLayer(file, size);
    case KIND.dynamic:
      return new DynamicLayer(file, footer);
    case KIND.differencing:
      throw new DiskError(
        "unsupported-format",
        `VHD image ${file.path} holds only what differs from another image`,
        "merge it with its parent where it was made, and import that",
      );
    default:
      throw damaged(file.path, `its kind ${kind} is not known`);
  }
}
