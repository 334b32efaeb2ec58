/** Compressed clusters: their contents, of which the latest are kept. */
import { inflateRawSync, constants as zlib } from "node:zlib";
import { Decompress } from "fzstd";
import { hostBuffer } from "./host-buffer.ts";
import type { ImageFile } from "./image-file.ts";
import { DAMAGED } from "./status.ts";

/** Bytes of contents kept per image. */
const KEPT = 4 << 20;

function inflate(data: Uint8Array, length: number): Uint8Array | undefined {
  try {
    // What follows the end of the stream is padding up to a sector, or another cluster's data.
    const bytes = inflateRawSync(data, { maxOutputLength: length, finishFlush: zlib.Z_SYNC_FLUSH });
    return bytes.length === length ? bytes : undefined;
  } catch {
    return undefined;
  }
}

/** Zstandard block by block: the contents are complete before the padding is met, and a bomb is left after one block. */
function unzstd(data: Uint8Array, length: number): Uint8Array | undefined {
  const bytes = new Uint8Array(length);
  let filled = 0;
  const enough = new Error("complete");
  const stream = new Decompress((chunk) => {
    bytes.set(chunk.subarray(0, length - filled), filled);
    filled += Math.min(chunk.length, length - filled);
    if (filled === length) throw enough;
  });
  try {
    stream.push(data, true);
  } catch {
    // Damage behind the last byte that is needed is none.
  }
  return filled === length ? bytes : undefined;
}

export class CompressedClusters {
  readonly #file: ImageFile;
  readonly #clusterSize: number;
  readonly #method: "deflate" | "zstd";
  readonly #most: number;
  /** By offset of the compressed data, the latest used last. */
  readonly #contents = new Map<number, Uint8Array>();

  constructor(file: ImageFile, clusterSize: number, method: "deflate" | "zstd") {
    this.#file = file;
    this.#clusterSize = clusterSize;
    this.#method = method;
    this.#most = Math.max(2, KEPT / clusterSize);
  }

  /** The contents of the cluster whose data lies at offset, length; DAMAGED; or a negated errno. */
  contents(offset: number, length: number): Uint8Array | number {
    const kept = this.#contents.get(offset);
    if (kept) {
      this.#contents.delete(offset);
      this.#contents.set(offset, kept);
      return kept;
    }
    const available = Math.min(length, this.#file.end - offset);
    if (available <= 0) return DAMAGED;
    const memory = hostBuffer(available);
    const status = this.#file.readBytes(offset, memory, 0, available);
    if (status < 0) return status;
    const data = Uint8Array.from(memory.bytes.subarray(0, available));
    const bytes = this.#method === "zstd" ? unzstd(data, this.#clusterSize) : inflate(data, this.#clusterSize);
    if (!bytes) return DAMAGED;
    if (this.#contents.size >= this.#most) {
      const [oldest] = this.#contents.keys();
      if (oldest !== undefined) this.#contents.delete(oldest);
    }
    this.#contents.set(offset, bytes);
    return bytes;
  }

  /** Forgets everything: the room of a compressed cluster may become another's. */
  clear(): void {
    this.#contents.clear();
  }
}
