/**
 * How chunks of memory are compressed in a snapshot file.
 *
 * LZ4 blocks by lz4-napi, which has them made and read on Node's pool of threads. Where its binary for the platform is
 * missing, new files are made with raw DEFLATE by node:zlib, which every host reads. Each file names its codec.
 */
import { promisify } from "node:util";
import { deflateRaw, inflateRaw, inflateRawSync } from "node:zlib";

/** The number by which a file names its codec. */
export const CODEC_LZ4 = 1;
export const CODEC_DEFLATE = 2;

export interface Codec {
  readonly id: number;
  /** Compresses on another thread. `bytes` must not change until it is done. */
  compress(bytes: Uint8Array): Promise<Uint8Array>;
  /** The `length` bytes that `bytes` stand for; undefined if they stand for none, or for another number. */
  decompress(bytes: Uint8Array, length: number): Promise<Uint8Array | undefined>;
  /** The same at once, on this thread. */
  decompressSync(bytes: Uint8Array, length: number): Uint8Array | undefined;
}

/** Bytes in front of a block, as lz4-napi has them: its length when decompressed. */
const PREFIX = 4;

function announces(bytes: Uint8Array, length: number): boolean {
  if (bytes.length < PREFIX) return false;
  // The library allocates what the prefix asks for: it must be what we expect.
  return new DataView(bytes.buffer, bytes.byteOffset, PREFIX).getUint32(0, true) === length;
}

/** What we use of lz4-napi. */
interface Lz4Library {
  compress(data: Uint8Array): Promise<Uint8Array>;
  uncompress(data: Uint8Array): Promise<Uint8Array>;
  uncompressSync(data: Uint8Array): Uint8Array;
}

function lz4(library: Lz4Library): Codec {
  return {
    id: CODEC_LZ4,
    compress: (bytes) => library.compress(bytes),
    async decompress(bytes, length) {
      if (!announces(bytes, length)) return undefined;
      try {
        const whole = await library.uncompress(bytes);
        return whole.length === length ? whole : undefined;
      } catch {
        return undefined;
      }
    },
    decompressSync(bytes, length) {
      if (!announces(bytes, length)) return undefined;
      try {
        const whole = library.uncompressSync(bytes);
        return whole.length === length ? whole : undefined;
      } catch {
        return undefined;
      }
    },
  };
}

const deflateAsync = promisify<Uint8Array, object, Buffer>(deflateRaw);
const inflateAsync = promisify<Uint8Array, object, Buffer>(inflateRaw);

const deflate: Codec = {
  id: CODEC_DEFLATE,
  compress: (bytes) => deflateAsync(bytes, { level: 1 }),
  async decompress(bytes, length) {
    try {
      const whole = await inflateAsync(bytes, { maxOutputLength: length });
      return whole.length === length ? whole : undefined;
    } catch {
      return undefined;
    }
  },
  decompressSync(bytes, length) {
    try {
      const whole = inflateRawSync(bytes, { maxOutputLength: length });
      return whole.length === length ? whole : undefined;
    } catch {
      return undefined;
    }
  },
};

let library: Promise<Lz4Library | undefined> | undefined;

function loadLibrary(): Promise<Lz4Library | undefined> {
  library ??= import("lz4-napi").catch(() => undefined);
  return library;
}

/** Loads the library, so that a later restore need not wait for it. */
export function prepareCodec(): void {
  void loadLibrary();
}

/** The codec for new files: the fastest that this host has. */
export async function preferredCodec(): Promise<Codec> {
  const found = await loadLibrary();
  return found === undefined ? deflate : lz4(found);
}

/** The codec for files that any host reads, and for hosts without the other. */
export const deflateCodec: Codec = deflate;

/** The codec that a file names: "unknown" if no version of this format has it, "missing" if this host lacks its library. */
export async function codecOf(id: number): Promise<Codec | "unknown" | "missing"> {
  if (id === CODEC_DEFLATE) return deflate;
  if (id !== CODEC_LZ4) return "unknown";
  const found = await loadLibrary();
  return found === undefined ? "missing" : lz4(found);
}
