/** Writes archives: gzip (RFC 1952) of a POSIX tar, which `tar tzf` lists and `sha256sum -c` checks. */
import { createHash } from "node:crypto";
import { createReadStream, createWriteStream } from "node:fs";
import { stat } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGzip } from "node:zlib";
import { type Pack, pack as tarPack } from "tar-stream";
import { SUMS_NAME } from "./manifest.ts";

/** A file of the archive: one of the host's, or its content. */
export interface Member {
  readonly name: string;
  readonly source: { readonly path: string } | { readonly bytes: Uint8Array };
}

export interface PackOptions {
  readonly signal: AbortSignal;
  /** Told of bytes read, by member. */
  readonly progress: (name: string, done: number, total: number) => void;
  readonly date: Date;
}

/** Images compress well at the first level, and better ones cost a multiple of its time. */
const LEVEL = 1;
const CHUNK = 256 << 10;

async function add(pack: Pack, { name, source }: Member, options: PackOptions): Promise<string> {
  const size = "path" in source ? (await stat(source.path)).size : source.bytes.length;
  const hash = createHash("sha256");
  let done = 0;
  const counted = async function* (chunks: AsyncIterable<Uint8Array>) {
    for await (const chunk of chunks) {
      hash.update(chunk);
      done += chunk.length;
      options.progress(name, done, size);
      yield chunk;
    }
  };
  const content =
    "path" in source ? createReadStream(source.path, { highWaterMark: CHUNK }) : Readable.from([source.bytes]);
  const entry = pack.entry({ name, size, mode: 0o644, mtime: options.date });
  await pipeline(content, counted, entry, { signal: options.signal });
  return `${hash.digest("hex")}  ${name}\n`;
}

async function fill(pack: Pack, members: readonly Member[], options: PackOptions): Promise<void> {
  let sums = "";
  for (const member of members) sums += await add(pack, member, options);
  await add(pack, { name: SUMS_NAME, source: { bytes: Buffer.from(sums) } }, options);
  pack.finalize();
}

/**
 * Writes the members in their order, and their checksums, into a new file; durable when fulfilled. What there is of it when this
 * fails is the caller's to remove.
 * @throws the system's error; an AbortError
 */
export async function packArchive(target: string, members: readonly Member[], options: PackOptions): Promise<void> {
  const pack = tarPack();
  const gzip = createGzip({ level: LEVEL, chunkSize: CHUNK });
  const output = createWriteStream(target, { flags: "wx", mode: 0o600, flush: true });
  const writing = pipeline(pack, gzip, output, { signal: options.signal });
  const filling = fill(pack, members, options).catch((error: unknown) => {
    pack.destroy(error instanceof Error ? error : new Error(String(error)));
    throw error;
  });
  // When the file cannot be written, filling ends for that reason: writing knows it.
  const [written, filled] = await Promise.allSettled([writing, filling]);
  if (written.status === "rejected") throw written.reason;
  if (filled.status === "rejected") throw filled.reason;
}
