/** Compression formats that Linux uses for kernels and initrds, told apart by their first bytes. */

import { constants, crc32, inflateRawSync } from "node:zlib";
import { BuildError, type BuildErrorCode, errnoOf } from "./errors.ts";
import { decodeLz4Legacy, LZ4_LEGACY_MAGIC } from "./lz4.ts";
import { decodeXz, XzError } from "./xz.ts";
import { decodeZstd, ZSTD_MAGIC, ZstdError } from "./zstd.ts";

/** Formats that can be decompressed. */
export type Compression = "gzip" | "xz" | "zstd" | "lz4";
/** Formats that are only recognized, to say something better than "unknown". */
export type OtherCompression = "bzip2" | "lzma" | "lzo" | "lz4 frame" | "zip";

const littleEndian = (word: number): number[] => [word & 255, (word >>> 8) & 255, (word >>> 16) & 255, word >>> 24];

const SIGNATURES: readonly (readonly [Compression | OtherCompression, readonly number[]])[] = [
  ["gzip", [0x1f, 0x8b, 0x08]],
  ["xz", [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]],
  ["zstd", littleEndian(ZSTD_MAGIC)],
  ["lz4", littleEndian(LZ4_LEGACY_MAGIC)],
  ["lz4 frame", [0x04, 0x22, 0x4d, 0x18]],
  ["bzip2", [0x42, 0x5a, 0x68]],
  ["lzma", [0x5d, 0x00, 0x00]],
  ["lzo", [0x89, 0x4c, 0x5a, 0x4f]],
  ["zip", [0x50, 0x4b, 0x03, 0x04]],
];

/** Names the compression of the data at `at`, or undefined when none is recognized. */
export function detectCompression(bytes: Uint8Array, at = 0): Compression | OtherCompression | undefined {
  return SIGNATURES.find(([, signature]) => signature.every((byte, i) => bytes[at + i] === byte))?.[0];
}

/** One decompressed piece and the position behind it in the input. */
export interface Decompressed {
  readonly data: Uint8Array;
  readonly end: number;
}

type Failure = "truncated" | "corrupt" | "unsupported" | "too-large";

const CODES: Readonly<Record<Failure, BuildErrorCode>> = {
  truncated: "truncated-image",
  corrupt: "corrupt-image",
  unsupported: "unknown-compression",
  "too-large": "file-too-large",
};

function failed(failure: Failure, label: string, format: string, limit: number, cause?: unknown): BuildError {
  const limitText = `${Math.floor(limit / (1024 * 1024))} MiB`;
  const texts: Readonly<Record<Failure, readonly [string, string]>> = {
    truncated: [`the ${label} is truncated: its ${format} data ends too early`, "fetch or copy it again"],
    corrupt: [`the ${label} is damaged: its ${format} data cannot be decompressed`, "fetch or copy it again"],
    unsupported: [`the ${label} uses a variant of ${format} that is not known`, "recompress it with gzip"],
    "too-large": [`the ${label} decompresses to more than ${limitText}`, "use a smaller one"],
  };
  return new BuildError(CODES[failure], ...texts[failure], cause);
}

const GZIP_HEADER_SIZE = 10;
const GZIP_TRAILER_SIZE = 8;

/** Position of the deflate data of the gzip member at `start` (RFC 1952, section 2.3). */
function deflateStart(bytes: Uint8Array, start: number): number {
  const flags = bytes[start + 3] ?? 0;
  let at = start + GZIP_HEADER_SIZE;
  if ((flags & 4) !== 0) at += 2 + ((bytes[at] ?? 0) | ((bytes[at + 1] ?? 0) << 8));
  for (const flag of [8, 16]) {
    if ((flags & flag) === 0) continue;
    while (at < bytes.length && bytes[at] !== 0) at++;
    at++;
  }
  if ((flags & 2) !== 0) at += 2;
  return at;
}

/** With `info` the result also carries the engine, which knows how much input it has used. */
interface InflateInfo {
  readonly buffer: Uint8Array;
  readonly engine: { readonly bytesWritten: number };
}

function gunzip(bytes: Uint8Array, start: number, limit: number, label: string): Decompressed {
  const from = deflateStart(bytes, start);
  if (from >= bytes.length) throw failed("truncated", label, "gzip", limit);
  let inflated: InflateInfo;
  try {
    const options = { info: true, maxOutputLength: limit, chunkSize: 1024 * 1024, finishFlush: constants.Z_FINISH };
    inflated = inflateRawSync(bytes.subarray(from), options) as unknown as InflateInfo;
  } catch (error) {
    const code = errnoOf(error);
    if (code === "ERR_BUFFER_TOO_LARGE") throw failed("too-large", label, "gzip", limit, error);
    throw failed(code === "Z_BUF_ERROR" ? "truncated" : "corrupt", label, "gzip", limit, error);
  }
  const trailer = from + inflated.engine.bytesWritten;
  const end = trailer + GZIP_TRAILER_SIZE;
  if (end > bytes.length) throw failed("truncated", label, "gzip", limit);
  const view = new DataView(bytes.buffer, bytes.byteOffset + trailer, GZIP_TRAILER_SIZE);
  const intact =
    view.getUint32(0, true) === crc32(inflated.buffer) && view.getUint32(4, true) === inflated.buffer.length % 2 ** 32;
  if (!intact) throw failed("corrupt", label, "gzip", limit);
  return { data: inflated.buffer, end };
}

function joinLz4(bytes: Uint8Array, start: number, limit: number, label: string): Decompressed {
  const result = decodeLz4Legacy(bytes, start, limit);
  if (!result.ok) throw failed(result.failure, label, "lz4", limit);
  return { data: result.data, end: result.end };
}

/**
 * Decompresses what starts at `at`.
 *
 * @param limit greatest accepted output in bytes
 * @param label what the data is, as it appears in messages ("kernel", "initrd")
 * @throws BuildError `unknown-compression`, `truncated-image`, `corrupt-image` or `file-too-large`
 */
export async function decompressAt(bytes: Uint8Array, at: number, limit: number, label: string): Promise<Decompressed> {
  const format = detectCompression(bytes, at);
  try {
    switch (format) {
      case "gzip":
        return gunzip(bytes, at, limit, label);
      case "xz":
        return await decodeXz(bytes, at, limit);
      case "zstd":
        return decodeZstd(bytes, at, limit);
      case "lz4":
        return joinLz4(bytes, at, limit, label);
    }
  } catch (error) {
    if (error instanceof XzError) throw failed(error.failure, label, "xz", limit, error);
    if (error instanceof ZstdError) throw failed(error.failure, label, "zstd", limit, error);
    throw error;
  }
  throw new BuildError(
    "unknown-compression",
    `the ${label} is compressed with ${format ?? "something unknown"}`,
    "recompress it with gzip, xz, zstd or lz4 -l",
  );
}
