/** A chain of images, nearest first, read as one disk. */
import type { Scatter } from "../../device/block/store.ts";
import { type ClusterMap, STORED } from "./cluster-map.ts";
import { CompressedClusters } from "./compressed.ts";
import { fill } from "./host-buffer.ts";
import type { ImageFile } from "./image-file.ts";

/** One image of a chain: raw when it has no map. */
export class Layer {
  readonly file: ImageFile;
  readonly map: ClusterMap | undefined;
  readonly compressed: CompressedClusters | undefined;
  readonly #rawSize: number;

  constructor(file: ImageFile, map: ClusterMap | undefined) {
    this.file = file;
    this.map = map;
    this.#rawSize = file.end;
    this.compressed = map && new CompressedClusters(file, map.header.clusterSize, map.header.compression);
  }

  /** Bytes of the disk that this layer knows; behind them it reads as zero. */
  get size(): number {
    return this.map ? this.map.size : this.#rawSize;
  }

  /**
   * Reads what this layer itself has from `offset` on, up to `length` bytes.
   * @returns bytes done (≥ 1), 0: this.map.run bytes are for the layer behind, or a negated errno
   */
  readOwn(offset: number, into: Scatter, skip: number, length: number): number {
    const { map } = this;
    if (!map) {
      const status = this.file.read(offset, into, skip, length);
      return status < 0 ? status : length;
    }
    const status = map.locate(offset, length);
    if (status < 0) return status;
    switch (map.kind) {
      case STORED.data: {
        const { run } = map;
        const moved = this.file.read(map.host, into, skip, run);
        return moved < 0 ? moved : run;
      }
      case STORED.zero:
        fill(into, skip, map.run);
        return map.run;
      case STORED.compressed: {
        const { run } = map;
        const contents = this.compressed!.contents(map.host, map.hostLength);
        if (typeof contents === "number") return contents;
        const within = offset % map.header.clusterSize;
        fill(into, skip, run, contents.subarray(within, within + run));
        return run;
      }
      default:
        return 0;
    }
  }
}

/** Fills bytes [skip, skip + length) of the pieces with the disk's from `offset` on, as layer `level` shows it. 0 or a negated errno. */
export function readChain(
  layers: readonly Layer[],
  level: number,
  offset: number,
  into: Scatter,
  skip: number,
  length: number,
): number {
  const layer = layers[level];
  const known = layer ? Math.max(0, Math.min(length, layer.size - offset)) : 0;
  for (let done = 0; layer && done < known; ) {
    const count = layer.readOwn(offset + done, into, skip + done, known - done);
    if (count < 0) return count;
    if (count > 0) {
      done += count;
      continue;
    }
    const { run } = layer.map!;
    const status = readChain(layers, level + 1, offset + done, into, skip + done, run);
    if (status < 0) return status;
    done += run;
  }
  if (known < length) fill(into, skip + known, length - known);
  return 0;
}

/** Whether [offset, offset + length) reads as zero because no layer has anything there. DAMAGED, or a negated errno. */
export function isBlank(layers: readonly Layer[], level: number, offset: number, length: number): boolean | number {
  const layer = layers[level];
  if (!layer || offset >= layer.size) return true;
  const { map } = layer;
  if (!map) return false;
  const stop = Math.min(offset + length, map.size);
  for (let at = offset; at < stop; ) {
    const status = map.locate(at, stop - at);
    if (status < 0) return status;
    const { kind, run } = map;
    if (kind === STORED.data || kind === STORED.compressed) return false;
    if (kind === STORED.nowhere) {
      const behind = isBlank(layers, level + 1, at, run);
      if (behind !== true) return behind;
    }
    at += run;
  }
  return true;
}
