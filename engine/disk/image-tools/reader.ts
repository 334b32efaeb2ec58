/**
 * Reading disks through their chains of images: which stretches hold data, which are zero, which nobody has written, and
 * the data.
 */
import { type ImageFile, nextData } from "./files.ts";
import { damage, Qcow2File } from "./qcow2-file.ts";
import { hasJournal, journalOf } from "./session-recovery.ts";

/** A stretch of a disk that one layer has one thing to say about. `length` in bytes, at least 1. */
export type Segment =
  /** The layer leaves it to the one behind. */
  | { readonly kind: "absent"; readonly length: number }
  | { readonly kind: "zero"; readonly length: number }
  /** In the file, from `host` on. */
  | { readonly kind: "data"; readonly length: number; readonly host: number }
  /** Within one cluster that lies packed at `host`; the stretch begins `skip` bytes into it. */
  | {
      readonly kind: "compressed";
      readonly length: number;
      readonly host: number;
      readonly packed: number;
      readonly skip: number;
    };

/** One image of a chain. */
export interface Layer {
  readonly path: string;
  /** Bytes of the disk. */
  readonly size: number;
  /** What lies at `offset`, below `size`; the stretch ends before `end`. @throws DiskError of damaged tables */
  segment(offset: number, end: number): Segment;
  /** Fills `into` with the stretch that `segment` begins with. */
  read(segment: Segment, into: Uint8Array): Promise<void>;
}

/** A raw image: holes are zero, and nothing is left to a layer behind. */
export class RawLayer implements Layer {
  readonly #file: ImageFile;
  readonly size: number;

  /** @param size bytes; of a block device the file's own says nothing */
  constructor(file: ImageFile, size: number) {
    this.#file = file;
    this.size = size;
  }

  get path(): string {
    return this.#file.path;
  }

  segment(offset: number, end: number): Segment {
    const limit = Math.min(end, this.size);
    const data = nextData(this.#file.descriptor, offset, limit);
    if (data === undefined) return { kind: "zero", length: limit - offset };
    if (data.start > offset) return { kind: "zero", length: data.start - offset };
    return { kind: "data", length: data.end - offset, host: offset };
  }

  async read(segment: Segment, into: Uint8Array): Promise<void> {
    if (segment.kind === "data") await this.#file.read(into, segment.host);
    else into.fill(0);
  }
}

export class Qcow2Layer implements Layer {
  readonly #image: Qcow2File;
  /** The cluster unpacked last: its stretches may be asked for one by one. */
  #unpacked: { readonly host: number; readonly data: Uint8Array } | undefined;

  constructor(image: Qcow2File) {
    this.#image = image;
  }

  /** The image as its last writer left it, whether or not that came to its end. @throws DiskError */
  static of(file: ImageFile): Qcow2Layer {
    const image = new Qcow2File(file);
    if (hasJournal(image.header)) image.override(journalOf(file, image.header));
    return new Qcow2Layer(image);
  }

  get path(): string {
    return this.#image.file.path;
  }

  get size(): number {
    return this.#image.header.size;
  }

  segment(offset: number, end: number): Segment {
    const image = this.#image;
    const { clusterSize } = image;
    const limit = Math.min(end, this.size);
    let index = Math.floor(offset / clusterSize);
    const skip = offset - index * clusterSize;
    const first = image.state(index);
    const ends = () => Math.min(limit, (index + 1) * clusterSize) - offset;
    if (first.kind === "compressed") {
      this.#inFile(first.host);
      return { kind: "compressed", length: ends(), host: first.host, packed: first.length, skip };
    }
    if (first.kind === "data") this.#inFile(first.host);
    for (; (index + 1) * clusterSize < limit; index++) {
      if (first.kind === "absent" && (index + 1) % image.entriesPerL2 === 0) {
        index = this.#lastOfAbsentTables(index, limit);
        if ((index + 1) * clusterSize >= limit) break;
      }
      const next = image.state(index + 1);
      if (next.kind !== first.kind) break;
      if (next.kind !== "data" || first.kind !== "data") continue;
      if (next.host !== first.host + (index + 1) * clusterSize - (offset - skip)) break;
    }
    if (first.kind === "data") return { kind: "data", length: ends(), host: first.host + skip };
    return { kind: first.kind, length: ends() };
  }

  async read(segment: Segment, into: Uint8Array): Promise<void> {
    switch (segment.kind) {
      case "data":
        return await this.#image.file.read(into, segment.host);
      case "compressed": {
        if (this.#unpacked?.host !== segment.host) {
          const data = await this.#image.decompress(segment.host, segment.packed);
          this.#unpacked = { host: segment.host, data };
        }
        into.set(this.#unpacked.data.subarray(segment.skip, segment.skip + into.length));
        return;
      }
      default:
        into.fill(0);
    }
  }

  /** Steps over L2 tables that do not exist: a terabyte of them is no list to walk cluster by cluster. */
  #lastOfAbsentTables(index: number, limit: number): number {
    const { entriesPerL2, clusterSize } = this.#image;
    let last = index;
    while ((last + 1) * clusterSize < limit && this.#image.l2Offset((last + 1) / entriesPerL2) === undefined) {
      last += entriesPerL2;
    }
    return Math.min(last, Math.ceil(limit / clusterSize) - 1);
  }

  #inFile(host: number): void {
    if (!this.#image.inside(host)) throw damage(this.path, `a cluster at ${host} lies behind its end`);
  }
}

/** A stretch of a chain, with the layer that determines it. */
export interface ChainSegment {
  readonly segment: Segment;
  /** Undefined for what nobody has written, and for what lies behind a layer's end. */
  readonly layer: Layer | undefined;
}

/** Layers as one disk: the first that says something about a place counts. */
export class ChainReader {
  readonly layers: readonly Layer[];

  /** @param layers nearest first; at least one */
  constructor(layers: readonly Layer[]) {
    this.layers = layers;
  }

  get size(): number {
    return this.layers[0]?.size ?? 0;
  }

  /**
   * What determines the disk at `offset`: "absent" when no layer does. What a layer's smaller size cuts off is zero, though
   * a longer one behind it has data there.
   */
  segment(offset: number, end: number): ChainSegment {
    let limit = end;
    for (const layer of this.layers) {
      if (offset >= layer.size) return { segment: { kind: "zero", length: limit - offset }, layer: undefined };
      // Past this layer's end other rules apply, whatever the one behind says.
      limit = Math.min(limit, layer.size);
      const segment = layer.segment(offset, limit);
      if (segment.kind !== "absent") return { segment, layer };
      limit = offset + segment.length;
    }
    return { segment: { kind: "absent", length: limit - offset }, layer: undefined };
  }

  /** Fills `into` with what the disk holds from `offset` on; zeros behind its end. */
  async read(offset: number, into: Uint8Array): Promise<void> {
    for (let at = 0; at < into.length; ) {
      const { segment, layer } = this.segment(offset + at, offset + into.length);
      const part = into.subarray(at, at + segment.length);
      if (layer === undefined) part.fill(0);
      else await layer.read(segment, part);
      at += segment.length;
    }
  }
}
