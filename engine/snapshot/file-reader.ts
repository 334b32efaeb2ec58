/**
 * Reading a snapshot file. It may come from anywhere: nothing of it is believed before it is checked, and no length in it
 * decides how much is allocated before it is known to fit.
 */
import { write } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { promisify } from "node:util";
import { crc32, inflateRaw } from "node:zlib";
import { PAGE_SIZE } from "../abi/xen.ts";
import { type Codec, codecOf } from "./codec.ts";
import { damaged, errnoOf, SnapshotError, throwIfCancelled } from "./errors.ts";
import {
  type Chunk,
  checkChunk,
  damagedChunk,
  decodePreamble,
  decodeTable,
  ENTRY_BYTES,
  PREAMBLE_BYTES,
  type Preamble,
  pageCount,
} from "./file-format.ts";
import { placementsOf } from "./placement.ts";

/** Groups of chunks in the hands of Node's pool of threads at a time. */
const DEPTH = 6;
/** Bytes of chunks that are read together. */
const GROUP_BYTES = 512 << 10;
/** The same where nothing is decompressed. */
const VERIFY_DEPTH = 2;

const writeAsync = promisify(write);
const inflateAsync = promisify<Uint8Array, object, Buffer>(inflateRaw);

export interface LoadOptions {
  readonly signal?: AbortSignal;
  /** Called now and then with bytes of memory dealt with, of all that are stored. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** What is done with chunks. */
export interface ChunkVisitor {
  /** Asked before a chunk is decompressed; all are wanted unless it says false. */
  wants?(chunk: Chunk): boolean;
  /** A chunk that is to come before all others. */
  wish?(): Chunk | undefined;
  /** The stored pages of a chunk. */
  take(chunk: Chunk, bytes: Uint8Array): Promise<void>;
}

/** Chunks that lie one behind the other. */
interface Group {
  readonly chunks: readonly Chunk[];
  readonly at: number;
  readonly bytes: number;
}

function groupsOf(chunks: readonly Chunk[]): Group[] {
  const groups: Group[] = [];
  let members: Chunk[] = [];
  let bytes = 0;
  const close = (): void => {
    if (members[0] !== undefined) groups.push({ chunks: members, at: members[0].at, bytes });
    members = [];
    bytes = 0;
  };
  for (const chunk of chunks) {
    if (bytes + chunk.stored > GROUP_BYTES) close();
    members.push(chunk);
    bytes += chunk.stored;
  }
  close();
  return groups;
}

async function writeWhole(descriptor: number, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await writeAsync(descriptor, bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}

/** Puts a window's stored pages into a memory file. */
export async function place(descriptor: number, chunk: Chunk, bytes: Uint8Array): Promise<void> {
  for (const part of placementsOf(chunk, bytes)) await writeWhole(descriptor, part.bytes, part.at);
}

/** An open snapshot file whose preamble, table and header have been read and checked. */
export class SnapshotFile {
  readonly path: string;
  /** What writeSnapshot() was given; of unknown shape, as it may come from anywhere. */
  readonly header: unknown;
  /** RAM of the domain that it was made of. */
  readonly ramBytes: number;
  readonly fileBytes: number;
  /** Bytes of memory that it stores, in whole pages. */
  readonly touchedBytes: number;
  /** What is stored of its memory, in the order of the windows. */
  readonly chunks: readonly Chunk[];
  private readonly file: FileHandle;
  private readonly codec: Codec;

  constructor(
    path: string,
    file: FileHandle,
    preamble: Preamble,
    chunks: readonly Chunk[],
    header: unknown,
    codec: Codec,
  ) {
    this.path = path;
    this.file = file;
    this.header = header;
    this.ramBytes = preamble.ramBytes;
    this.fileBytes = preamble.fileBytes;
    this.touchedBytes = preamble.pages * PAGE_SIZE;
    this.chunks = chunks;
    this.codec = codec;
  }

  /**
   * Fills the memory of a new domain, all zero so far, of `ramBytes` of RAM.
   * @param descriptor its memory file
   * @throws SnapshotError damaged-snapshot, unreadable-snapshot, cancelled; the memory is then of no use
   */
  async loadInto(descriptor: number, ramBytes: number, options: LoadOptions = {}): Promise<void> {
    if (ramBytes !== this.ramBytes) {
      const what = `the snapshot ${this.path} is of a machine with ${this.ramBytes / 2 ** 20} MiB of memory`;
      throw new SnapshotError("other-memory", what, `give the machine that much, not ${ramBytes / 2 ** 20} MiB`);
    }
    await this.visit({ take: (chunk, bytes) => place(descriptor, chunk, bytes) }, options);
  }

  /** A path by which the processes of this user open the same file while it is open here, whatever becomes of its name. */
  get lasting(): string {
    return process.platform === "linux" ? `/proc/${process.pid}/fd/${this.file.fd}` : this.path;
  }

  /** Reads everything and checks it. @throws as loadInto() */
  async check(options: LoadOptions = {}): Promise<void> {
    await this.visit({ take: async () => {} }, options);
  }

  /**
   * Reads everything and compares the checksums, which costs a tenth of check(): what passes can still turn out to be no
   * compressed pages, but only if it was never written by us.
   * @throws as loadInto()
   */
  async verify(options: LoadOptions = {}): Promise<void> {
    await this.forGroups(VERIFY_DEPTH, options, async (group, bytes) => {
      for (const chunk of group.chunks) this.storedOf(chunk, bytes, group.at);
    });
  }

  /**
   * Gives every chunk that the visitor wants to it, decompressed, several at a time.
   * @throws as loadInto(), when nothing is under way any more
   */
  async visit(visitor: ChunkVisitor, options: LoadOptions & { readonly depth?: number } = {}): Promise<void> {
    await this.forGroups(options.depth ?? DEPTH, options, async (group, bytes) => {
      for (const chunk of group.chunks) {
        throwIfCancelled(options.signal);
        // One between two others, so that wishes cannot keep the rest away.
        const wish = visitor.wish?.();
        if (wish !== undefined) await this.visitOne(wish, visitor);
        if (visitor.wants?.(chunk) !== false) await this.unpack(chunk, bytes, group.at, visitor);
      }
    });
  }

  /** visit() for one chunk, out of turn. */
  async visitOne(chunk: Chunk, visitor: ChunkVisitor): Promise<void> {
    if (visitor.wants?.(chunk) === false) return;
    await this.unpack(chunk, await readPart(this.file, this.path, chunk.at, chunk.stored), chunk.at, visitor);
  }

  private async forGroups(
    depth: number,
    { signal, onProgress }: LoadOptions,
    work: (group: Group, bytes: Uint8Array) => Promise<void>,
  ): Promise<void> {
    const groups = groupsOf(this.chunks).values();
    let done = 0;
    let failed = false;
    const worker = async (): Promise<void> => {
      // One for all its groups: a new one each would cost as much as reading.
      const buffer = Buffer.allocUnsafeSlow(GROUP_BYTES);
      // The iterator is shared: each worker takes the next group.
      for (const group of groups) {
        if (failed) return;
        throwIfCancelled(signal);
        const bytes = await readInto(this.file, this.path, group.at, buffer.subarray(0, group.bytes));
        await work(group, bytes);
        for (const { pages } of group.chunks) done += pageCount(pages) * PAGE_SIZE;
        onProgress?.(done, this.touchedBytes);
      }
    };
    const guarded = async (): Promise<void> => {
      try {
        await worker();
      } catch (error) {
        failed = true;
        throw error;
      }
    };
    // All must have ended before the caller does something else with the descriptor.
    const results = await Promise.allSettled(Array.from({ length: depth }, guarded));
    const failure = results.find((result) => result.status === "rejected");
    if (failure !== undefined) throw failure.reason;
  }

  /** A chunk within `bytes`, which were read from `at` on. @throws SnapshotError damaged-snapshot */
  private storedOf(chunk: Chunk, bytes: Uint8Array, at: number): Uint8Array {
    const stored = bytes.subarray(chunk.at - at, chunk.at - at + chunk.stored);
    checkChunk(chunk, stored, this.path);
    return stored;
  }

  private async unpack(chunk: Chunk, bytes: Uint8Array, at: number, visitor: ChunkVisitor): Promise<void> {
    const stored = this.storedOf(chunk, bytes, at);
    const length = pageCount(chunk.pages) * PAGE_SIZE;
    const whole = chunk.raw ? stored : await this.codec.decompress(stored, length);
    if (whole === undefined) throw damagedChunk(chunk, this.path);
    await visitor.take(chunk, whole);
  }

  /** Closes the file; nothing must be under way. */
  async close(): Promise<void> {
    await this.file.close();
  }
}

export function readFailure(error: unknown, path: string): unknown {
  const errno = errnoOf(error);
  if (errno === undefined) return error;
  if (errno === "ENOENT" || errno === "ENOTDIR") {
    const what = `the snapshot ${path} is not there`;
    return new SnapshotError("missing-snapshot", what, "put the file back, or delete the snapshot", error);
  }
  if (errno === "EACCES" || errno === "EPERM") {
    return new SnapshotError(
      "no-permission",
      `the snapshot ${path} may not be read`,
      "give yourself that right",
      error,
    );
  }
  return new SnapshotError("unreadable-snapshot", `${path} cannot be read (${errno})`, "check the disk", error);
}

/** @throws SnapshotError damaged-snapshot where the file ends too early; unreadable-snapshot */
async function readInto(file: FileHandle, path: string, position: number, bytes: Buffer): Promise<Buffer> {
  try {
    for (let done = 0; done < bytes.length; ) {
      const { bytesRead } = await file.read(bytes, done, bytes.length - done, position + done);
      if (bytesRead === 0) throw damaged(path, "it is cut off");
      done += bytesRead;
    }
  } catch (error) {
    throw readFailure(error, path);
  }
  return bytes;
}

function readPart(file: FileHandle, path: string, position: number, length: number): Promise<Buffer> {
  return readInto(file, path, position, Buffer.allocUnsafe(length));
}

async function readHeader(file: FileHandle, path: string, preamble: Preamble): Promise<unknown> {
  const at = preamble.tableAt + preamble.entries * ENTRY_BYTES;
  const stored = await readPart(file, path, at, preamble.headerStored);
  if (crc32(stored) !== preamble.headerCrc) throw damaged(path, "its header is wrong");
  try {
    const bytes = await inflateAsync(stored, { maxOutputLength: Math.max(1, preamble.headerBytes) });
    if (bytes.length === preamble.headerBytes) return JSON.parse(bytes.toString("utf8"));
  } catch {
    // Below: whatever zlib or the parser dislikes, the file is not one of ours.
  }
  throw damaged(path, "its header cannot be read");
}

/** The codec that a file names. @throws SnapshotError damaged-snapshot, unsupported-host */
export async function codecFor(preamble: Preamble, path: string): Promise<Codec> {
  const codec = await codecOf(preamble.codec);
  if (codec === "unknown") throw damaged(path, `its compression ${preamble.codec} does not exist`);
  if (codec !== "missing") return codec;
  const what = `the snapshot ${path} is compressed with LZ4, for which this installation has no library`;
  throw new SnapshotError("unsupported-host", what, "run npm install again, or restore it on another host");
}

async function readParts(file: FileHandle, path: string): Promise<SnapshotFile> {
  const stat = await file.stat();
  if (!stat.isFile()) throw new SnapshotError("not-a-snapshot", `${path} is no file`, "name a snapshot's file");
  const first = await readPart(file, path, 0, Math.min(stat.size, PREAMBLE_BYTES));
  const preamble = decodePreamble(first, stat.size, path);
  const codec = await codecFor(preamble, path);
  const table = await readPart(file, path, preamble.tableAt, preamble.entries * ENTRY_BYTES);
  const chunks = decodeTable(table, preamble, path);
  return new SnapshotFile(path, file, preamble, chunks, await readHeader(file, path, preamble), codec);
}

/**
 * Opens a snapshot file and reads all but the memory.
 * @throws SnapshotError missing-snapshot, no-permission, unreadable-snapshot, not-a-snapshot, later-version,
 *   damaged-snapshot, unsupported-host
 */
export async function openSnapshot(path: string): Promise<SnapshotFile> {
  let file: FileHandle;
  try {
    file = await open(path, "r");
  } catch (error) {
    throw readFailure(error, path);
  }
  try {
    return await readParts(file, path);
  } catch (error) {
    await file.close();
    throw readFailure(error, path);
  }
}
