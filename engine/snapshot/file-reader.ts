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
  decodePreamble,
  decodeTable,
  ENTRY_BYTES,
  PREAMBLE_BYTES,
  type Preamble,
  pageCount,
  WINDOW_BYTES,
  WINDOW_PAGES,
} from "./file-format.ts";

/** Groups of chunks in the hands of Node's pool of threads at a time. */
const DEPTH = 6;
/** Bytes of chunks that are read together. */
const GROUP_BYTES = 512 << 10;
/** A window whose pages lie in more pieces than this is written whole, zeros and all: calls cost more than zeros. */
const MOST_PIECES = 4;

const writeAsync = promisify(write);
const inflateAsync = promisify<Uint8Array, object, Buffer>(inflateRaw);

export interface LoadOptions {
  readonly signal?: AbortSignal;
  /** Called now and then with bytes of memory dealt with, of all that are stored. */
  readonly onProgress?: (done: number, total: number) => void;
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

interface Piece {
  readonly first: number;
  readonly count: number;
}

/** The set bits of a 32-bit number as runs. */
function piecesOf(pages: number): Piece[] {
  const pieces: Piece[] = [];
  for (let n = 0; n < WINDOW_PAGES; ) {
    if (((pages >>> n) & 1) === 0) {
      n++;
      continue;
    }
    const first = n;
    while (n < WINDOW_PAGES && ((pages >>> n) & 1) !== 0) n++;
    pieces.push({ first, count: n - first });
  }
  return pieces;
}

async function writeWhole(descriptor: number, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await writeAsync(descriptor, bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}

/** Puts a window's stored pages into a memory file. */
async function place(descriptor: number, { window, pages }: Chunk, bytes: Uint8Array): Promise<void> {
  const start = window * WINDOW_BYTES;
  const pieces = piecesOf(pages);
  const [first, last] = [pieces[0], pieces.at(-1)];
  if (first === undefined || last === undefined) return;
  const spread =
    pieces.length > MOST_PIECES ? new Uint8Array((last.first + last.count - first.first) * PAGE_SIZE) : null;
  let from = 0;
  for (const piece of pieces) {
    const part = bytes.subarray(from, from + piece.count * PAGE_SIZE);
    from += part.length;
    if (spread === null) await writeWhole(descriptor, part, start + piece.first * PAGE_SIZE);
    else spread.set(part, (piece.first - first.first) * PAGE_SIZE);
  }
  if (spread !== null) await writeWhole(descriptor, spread, start + first.first * PAGE_SIZE);
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
  private readonly file: FileHandle;
  private readonly chunks: readonly Chunk[];
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
    await this.visit((chunk, bytes) => place(descriptor, chunk, bytes), options);
  }

  /** Reads everything and checks it. @throws as loadInto() */
  async check(options: LoadOptions = {}): Promise<void> {
    await this.visit(async () => {}, options);
  }

  private async visit(
    take: (chunk: Chunk, bytes: Uint8Array) => Promise<void>,
    { signal, onProgress }: LoadOptions,
  ): Promise<void> {
    const groups = groupsOf(this.chunks).values();
    let done = 0;
    let failed = false;
    const worker = async (): Promise<void> => {
      // The iterator is shared: each worker takes the next group.
      for (const group of groups) {
        if (failed) return;
        throwIfCancelled(signal);
        await this.readGroup(group, take);
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
    const results = await Promise.allSettled(Array.from({ length: DEPTH }, guarded));
    const failure = results.find((result) => result.status === "rejected");
    if (failure !== undefined) throw failure.reason;
  }

  private async readGroup(group: Group, take: (chunk: Chunk, bytes: Uint8Array) => Promise<void>): Promise<void> {
    const bytes = await readPart(this.file, this.path, group.at, group.bytes);
    for (const chunk of group.chunks) {
      const start = chunk.at - group.at;
      const stored = bytes.subarray(start, start + chunk.stored);
      const name = `the pages from ${chunk.window * WINDOW_PAGES} on are wrong`;
      if (crc32(stored) !== chunk.crc) throw damaged(this.path, name);
      const length = pageCount(chunk.pages) * PAGE_SIZE;
      const whole = chunk.raw ? stored : await this.codec.decompress(stored, length);
      if (whole === undefined) throw damaged(this.path, name);
      await take(chunk, whole);
    }
  }

  /** Closes the file; nothing must be under way. */
  async close(): Promise<void> {
    await this.file.close();
  }
}

function readFailure(error: unknown, path: string): unknown {
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
async function readPart(file: FileHandle, path: string, position: number, length: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafe(length);
  try {
    for (let done = 0; done < length; ) {
      const { bytesRead } = await file.read(bytes, done, length - done, position + done);
      if (bytesRead === 0) throw damaged(path, "it is cut off");
      done += bytesRead;
    }
  } catch (error) {
    throw readFailure(error, path);
  }
  return bytes;
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

async function codecFor(preamble: Preamble, path: string): Promise<Codec> {
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
