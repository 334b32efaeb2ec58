/**
 * Writing a snapshot file: under a temporary name, made durable, then renamed into place. Reading memory, compressing and
 * writing are done by Node's pool of threads; here only zero pages are looked for and checksums made.
 */
import { read } from "node:fs";
import { type FileHandle, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { crc32, deflateRaw } from "node:zlib";
import { PAGE_SIZE } from "../abi/xen.ts";
import { type FramePlan, WINDOW_BYTES, WINDOW_PAGES } from "../memory/frame-plan.ts";
import { posix } from "../memory/posix.ts";
import { type Codec, preferredCodec } from "./codec.ts";
import { errnoOf, SnapshotError, throwIfCancelled } from "./errors.ts";
import {
  type Chunk,
  ENTRY_BYTES,
  encodeEntry,
  encodePreamble,
  guestBytesOf,
  MAX_HEADER_BYTES,
  PREAMBLE_BYTES,
  pageCount,
} from "./file-format.ts";

/** Windows in the hands of the pool at a time: enough for its four threads, and a little memory. */
const DEPTH = 8;
/** Bytes gathered before they are written. */
const WRITE_BYTES = 1 << 20;
const ZERO_PAGE = Buffer.alloc(PAGE_SIZE);

const readAsync = promisify(read);
const deflateAsync = promisify<Uint8Array, object, Buffer>(deflateRaw);

export interface WriteOptions {
  readonly signal?: AbortSignal;
  /** Called now and then with bytes of memory dealt with, of all that may be touched. */
  readonly onProgress?: (done: number, total: number) => void;
  /** The fastest that the host has, unless given. */
  readonly codec?: Codec;
}

export interface WrittenSnapshot {
  readonly fileBytes: number;
  /** Bytes of memory that are not zero, in whole pages. */
  readonly touchedBytes: number;
}

/** A window of memory in which something may lie: from its page `first` to before its page `end`. */
interface Window {
  readonly window: number;
  first: number;
  end: number;
}

function windowsOf(descriptor: number, guestBytes: number): Window[] {
  const windows: Window[] = [];
  for (const { start, end } of posix().dataExtents(descriptor, 0, guestBytes)) {
    const [firstPage, endPage] = [Math.floor(start / PAGE_SIZE), Math.ceil(end / PAGE_SIZE)];
    for (let page = firstPage; page < endPage; ) {
      const window = Math.floor(page / WINDOW_PAGES);
      const first = page - window * WINDOW_PAGES;
      const stop = Math.min(endPage - window * WINDOW_PAGES, WINDOW_PAGES);
      const last = windows.at(-1);
      if (last?.window === window) last.end = stop;
      else windows.push({ window, first, end: stop });
      page = (window + 1) * WINDOW_PAGES;
    }
  }
  return windows;
}

interface Packed extends Omit<Chunk, "at"> {
  readonly bytes: Uint8Array;
}

async function readWhole(descriptor: number, buffer: Buffer, position: number): Promise<void> {
  for (let done = 0; done < buffer.length; ) {
    const { bytesRead } = await readAsync(descriptor, buffer, done, buffer.length - done, position + done);
    if (bytesRead === 0) throw new Error(`the memory ends at ${position + done}`);
    done += bytesRead;
  }
}

/** Moves the pages that are not zero to the buffer's front. @returns which they are: bit n is page n of the buffer */
function gather(buffer: Buffer): number {
  let pages = 0;
  let kept = 0;
  for (let n = 0; n * PAGE_SIZE < buffer.length; n++) {
    const page = buffer.subarray(n * PAGE_SIZE, (n + 1) * PAGE_SIZE);
    if (page.equals(ZERO_PAGE)) continue;
    if (kept !== n) page.copy(buffer, kept * PAGE_SIZE);
    kept++;
    pages |= 1 << n;
  }
  return pages >>> 0;
}

/** Reads a window and compresses what is not zero; undefined if all of it is. */
async function pack(descriptor: number, { window, first, end }: Window, codec: Codec): Promise<Packed | undefined> {
  const buffer = Buffer.allocUnsafe((end - first) * PAGE_SIZE);
  await readWhole(descriptor, buffer, window * WINDOW_BYTES + first * PAGE_SIZE);
  const pages = gather(buffer);
  if (pages === 0) return undefined;
  const whole = buffer.subarray(0, pageCount(pages) * PAGE_SIZE);
  const compressed = await codec.compress(whole);
  const raw = compressed.length >= whole.length;
  const bytes = raw ? whole : compressed;
  return { window, pages: (pages << first) >>> 0, stored: bytes.length, raw, crc: crc32(bytes), bytes };
}

/** Packs windows, several at a time, and gives them in their order. */
async function* packAll(descriptor: number, windows: readonly Window[], codec: Codec) {
  const underWay: Promise<Packed | undefined>[] = [];
  try {
    for (const window of windows) {
      const packed = pack(descriptor, window, codec);
      // Its failure is told when its turn comes; until then it is not unhandled.
      packed.catch(() => {});
      underWay.push(packed);
      if (underWay.length >= DEPTH) yield await underWay.shift();
    }
    while (underWay.length > 0) yield await underWay.shift();
  } finally {
    // Whoever stops early gives the memory away next: nobody may be reading it then.
    await Promise.allSettled(underWay);
  }
}

/** Appends to a file in large writes. */
class Appender {
  position = PREAMBLE_BYTES;
  private readonly file: FileHandle;
  private waiting: Uint8Array[] = [];
  private waitingBytes = 0;

  constructor(file: FileHandle) {
    this.file = file;
  }

  async append(bytes: Uint8Array): Promise<void> {
    this.waiting.push(bytes);
    this.waitingBytes += bytes.length;
    if (this.waitingBytes >= WRITE_BYTES) await this.flush();
  }

  async flush(): Promise<void> {
    const bytes = Buffer.concat(this.waiting);
    this.waiting = [];
    this.waitingBytes = 0;
    await writeAt(this.file, bytes, this.position);
    this.position += bytes.length;
  }
}

async function writeAt(file: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done, position + done)).bytesWritten;
  }
}

/** Writes all parts into an open file. */
async function writeParts(
  file: FileHandle,
  descriptor: number,
  plan: FramePlan,
  header: Buffer,
  options: WriteOptions,
): Promise<WrittenSnapshot> {
  const codec = options.codec ?? (await preferredCodec());
  const guestBytes = guestBytesOf(plan);
  const windows = windowsOf(descriptor, guestBytes);
  const out = new Appender(file);
  const table = Buffer.alloc(windows.length * ENTRY_BYTES);
  let entries = 0;
  let pages = 0;
  let done = 0;
  for await (const packed of packAll(descriptor, windows, codec)) {
    throwIfCancelled(options.signal);
    options.onProgress?.(++done * WINDOW_BYTES, windows.length * WINDOW_BYTES);
    if (packed === undefined) continue;
    encodeEntry(packed, table, entries++ * ENTRY_BYTES);
    pages += pageCount(packed.pages);
    await out.append(packed.bytes);
  }
  await out.flush();
  const tableAt = out.position;
  const usedTable = table.subarray(0, entries * ENTRY_BYTES);
  const storedHeader = await deflateAsync(header, { level: 6 });
  await out.append(usedTable);
  await out.append(storedHeader);
  await out.flush();
  const preamble = {
    codec: codec.id,
    fileBytes: out.position,
    guestBytes,
    ramBytes: plan.ramBytes,
    tableAt,
    entries,
    tableCrc: crc32(usedTable),
    pages,
    headerStored: storedHeader.length,
    headerBytes: header.length,
    headerCrc: crc32(storedHeader),
  };
  await writeAt(file, encodePreamble(preamble), 0);
  throwIfCancelled(options.signal);
  return { fileBytes: out.position, touchedBytes: pages * PAGE_SIZE };
}

function encodeHeader(header: unknown): Buffer {
  const bytes = Buffer.from(JSON.stringify(header));
  if (bytes.length > MAX_HEADER_BYTES) {
    const what = `the machine's state takes ${bytes.length} bytes without its memory`;
    throw new SnapshotError("too-large", what, "stop what fills its XenStore and try again");
  }
  return bytes;
}

function writeFailure(error: unknown, path: string): unknown {
  const errno = errnoOf(error);
  if (errno === undefined) return error;
  if (errno === "ENOSPC" || errno === "EDQUOT" || errno === "EFBIG") {
    const what = `there is no room for the snapshot ${path}`;
    return new SnapshotError("no-space", what, "free some space on that disk and try again", error);
  }
  const code = errno === "EACCES" || errno === "EPERM" || errno === "EROFS" ? "no-permission" : "cannot-write";
  return new SnapshotError(code, `the snapshot ${path} cannot be written (${errno})`, "check its folder", error);
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(dirname(path), "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/**
 * Writes the memory of a domain, which nobody changes meanwhile, to a snapshot file. The file is there whole, durably, or not
 * at all; until then it is called `path`.tmp.
 * @param descriptor the domain's memory file, or a copy of it with the same places
 * @param header anything that JSON can hold, up to MAX_HEADER_BYTES
 * @throws SnapshotError no-space, no-permission, cannot-write, too-large, cancelled
 */
export async function writeSnapshot(
  path: string,
  descriptor: number,
  plan: FramePlan,
  header: unknown,
  options: WriteOptions = {},
): Promise<WrittenSnapshot> {
  const json = encodeHeader(header);
  throwIfCancelled(options.signal);
  const temporary = `${path}.tmp`;
  try {
    const file = await open(temporary, "w", 0o600);
    try {
      const written = await writeParts(file, descriptor, plan, json, options);
      await file.sync();
      await rename(temporary, path);
      await syncFolder(path);
      return written;
    } finally {
      await file.close();
    }
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw writeFailure(error, path);
  }
}
