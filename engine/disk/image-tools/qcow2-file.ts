/**
 * A qcow2 image as tables: header, L1 table, L2 tables, read as they are asked for. Nothing is written here; the layout is
 * that of QEMU's docs/interop/qcow2.txt.
 */
import { inflateRawSync } from "node:zlib";
import { decompress as decompressZstd } from "fzstd";
import { DiskError } from "../errors.ts";
import { LIMITS, type Qcow2Header, readHeader } from "../qcow2/header.ts";
import type { JournalRecord } from "../qcow2/journal.ts";
import {
  compressedLength,
  compressedOffset,
  entryOffset,
  hasReservedL1Bits,
  hasReservedL2Bits,
  isCompressed,
  isZero,
} from "../qcow2/tables.ts";
import type { ImageFile } from "./files.ts";

/** What a table says about a cluster of the disk. */
export type ClusterState =
  | { readonly kind: "absent" }
  /** `host`: what the zeros hide, when clusters are kept for them. */
  | { readonly kind: "zero"; readonly host: number | undefined }
  | { readonly kind: "data"; readonly host: number }
  | { readonly kind: "compressed"; readonly host: number; readonly length: number };

const ABSENT: ClusterState = { kind: "absent" };

/** A view of bytes that lie in a file in big-endian order. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Bytes of a table of a file; what lies behind the file's end is zero. */
export function readTable(file: ImageFile, offset: number, length: number): DataView {
  const bytes = new Uint8Array(length);
  file.readSync(bytes, offset);
  return viewOf(bytes);
}

export function damage(path: string, what: string): DiskError {
  return new DiskError(
    "unusable-image",
    `qcow2 image ${path} is damaged: ${what}`,
    "look with domlab image check and mend it with domlab image repair",
  );
}

export class Qcow2File {
  readonly file: ImageFile;
  header: Qcow2Header;
  /** Entries as they lie in the file. */
  l1: DataView;
  /** Bytes, when last looked at. */
  #fileSize: number;
  #cached = -1;
  #table: DataView | undefined;
  #records: readonly JournalRecord[] = [];

  /** @throws DiskError when the header is not one that can be used */
  constructor(file: ImageFile) {
    this.file = file;
    this.header = readHeader(file.descriptor, file.path);
    this.#fileSize = file.size;
    const { l1Offset, l1Size } = this.header;
    if (l1Size * 8 > LIMITS.l1Table || (l1Size > 0 && !this.inside(l1Offset + l1Size * 8 - 1))) {
      throw damage(file.path, "its L1 table lies behind its end");
    }
    this.l1 = readTable(file, l1Offset, l1Size * 8);
  }

  /** Takes what a journal holds for what the tables in the file say: for an image that may only be read. */
  override(records: readonly JournalRecord[]): void {
    const { l1Offset, l1Size } = this.header;
    for (const record of records) if (record.isWithin(l1Offset, l1Size)) record.apply(this.l1, l1Offset);
    this.#records = records;
    this.forgetTable();
  }

  get clusterSize(): number {
    return this.header.clusterSize;
  }

  /** Clusters of the disk, the last one counted whole. */
  get clusters(): number {
    return Math.ceil(this.header.size / this.header.clusterSize);
  }

  /** Whether the file has a byte at `offset`: what lies behind its end is damage. */
  inside(offset: number): boolean {
    if (offset >= this.#fileSize) this.#fileSize = this.file.size;
    return offset < this.#fileSize;
  }

  get entriesPerL2(): number {
    return this.header.clusterSize / 8;
  }

  /** Where the L2 table of an L1 entry lies; undefined when there is none. @throws DiskError of an impossible entry */
  l2Offset(l1Index: number): number | undefined {
    if (l1Index >= this.header.l1Size) return undefined;
    const high = this.l1.getUint32(l1Index * 8);
    const low = this.l1.getUint32(l1Index * 8 + 4);
    const offset = entryOffset(high, low);
    if (offset === 0) return undefined;
    if (hasReservedL1Bits(high, low) || offset % this.clusterSize !== 0) {
      throw damage(this.file.path, `entry ${l1Index} of its L1 table is none`);
    }
    return offset;
  }

  /** The L2 table of an L1 entry as it lies in the file; the last one is remembered. */
  l2(l1Index: number): DataView | undefined {
    if (this.#cached === l1Index) return this.#table;
    const offset = this.l2Offset(l1Index);
    if (offset !== undefined && !this.inside(offset)) {
      throw damage(this.file.path, `its L2 table ${l1Index} lies behind its end`);
    }
    const table = offset === undefined ? undefined : readTable(this.file, offset, this.clusterSize);
    if (offset !== undefined && table !== undefined) {
      const own = this.#records.filter((record) => record.isWithin(offset, this.entriesPerL2));
      for (const record of own) record.apply(table, offset);
    }
    this.#table = table;
    this.#cached = l1Index;
    return table;
  }

  /** Must be called when a table was changed in the file. */
  protected forgetTable(): void {
    this.#cached = -1;
  }

  /** What the tables say about cluster `index` of the disk. @throws DiskError of an impossible entry */
  state(index: number): ClusterState {
    const table = this.l2(Math.floor(index / this.entriesPerL2));
    if (table === undefined) return ABSENT;
    const at = (index % this.entriesPerL2) * 8;
    return this.stateOf(table.getUint32(at), table.getUint32(at + 4), index);
  }

  /** What an entry for cluster `index` says. */
  stateOf(high: number, low: number, index: number): ClusterState {
    const { clusterBits, version } = this.header;
    if (isCompressed(high)) {
      const host = compressedOffset(high, low, clusterBits);
      return { kind: "compressed", host, length: compressedLength(high, low, clusterBits) };
    }
    const host = entryOffset(high, low);
    if (hasReservedL2Bits(high, low, version) || host % this.clusterSize !== 0) {
      throw damage(this.file.path, `the entry of cluster ${index} in its L2 table is none`);
    }
    if (version === 3 && isZero(low)) return { kind: "zero", host: host === 0 ? undefined : host };
    return host === 0 ? ABSENT : { kind: "data", host };
  }

  /** Content of a compressed cluster. @throws DiskError when it is none */
  async decompress(host: number, length: number): Promise<Uint8Array> {
    const packed = new Uint8Array(length);
    await this.file.read(packed, host);
    const whole = new Uint8Array(this.clusterSize);
    try {
      const data =
        this.header.compression === "zstd"
          ? decompressZstd(packed.subarray(0, zstdFrameLength(packed)), whole)
          : // A raw stream, followed by the neighbour's bytes.
            inflateRawSync(packed, { maxOutputLength: this.clusterSize });
      if (data.length !== this.clusterSize) throw new Error("wrong length");
      return data;
    } catch (error) {
      throw new DiskError(
        "unusable-image",
        `qcow2 image ${this.file.path} is damaged: the compressed cluster at ${host} cannot be unpacked`,
        "restore it from a copy",
        error,
      );
    }
  }
}

/**
 * Length of the Zstandard frame that `bytes` begin with (RFC 8878): behind it lie other clusters' bytes, which the
 * decompressor would take for a second frame.
 */
function zstdFrameLength(bytes: Uint8Array): number {
  const view = viewOf(bytes);
  const descriptor = bytes[4] ?? 0;
  const single = (descriptor & 0x20) !== 0;
  const contentSize = [single ? 1 : 0, 2, 4, 8][descriptor >> 6] ?? 0;
  const dictionary = [0, 1, 2, 4][descriptor & 3] ?? 0;
  let at = 5 + (single ? 0 : 1) + dictionary + contentSize;
  for (let last = false; !last && at + 3 <= bytes.length; ) {
    const block = view.getUint16(at, true) | ((bytes[at + 2] ?? 0) << 16);
    last = (block & 1) !== 0;
    // A run-length block (type 1) holds one byte, whatever its size says.
    at += 3 + (((block >> 1) & 3) === 1 ? 1 : block >> 3);
  }
  return Math.min(bytes.length, at + ((descriptor & 4) !== 0 ? 4 : 0));
}
