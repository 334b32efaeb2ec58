/** Disks into new images: from one format to another, out of a chain into one file, or as a plain copy. */
import { fstatSync } from "node:fs";
import { resolve } from "node:path";
import koffi from "koffi";
import type { ImageFormat } from "../chain.ts";
import { checkedSize, DEFAULT_CLUSTER_SIZE, formatQcow2, setLength } from "./create.ts";
import { Qcow2Editor } from "./editor.ts";
import { createFile, type ImageFile, isZero, nextData, step, type Task } from "./files.ts";
import { openChain, openFile, readerOf } from "./open.ts";
import { ChainReader } from "./reader.ts";
import { Scan } from "./scan.ts";
import { isVhd, vhdLayer } from "./vhd.ts";

/** Bytes moved in one step; a multiple of every cluster size. */
const CHUNK = 2 << 20;
/** Bytes after which a new qcow2 image's tables are written. */
const BATCH = 256 << 20;

/** What can be read and not served. */
export type SourceFormat = ImageFormat | "vhd";

export interface ConvertOptions extends Task {
  /** Of the source; without it, it is looked up. */
  readonly sourceFormat?: SourceFormat;
  readonly clusterSize?: number;
}

/**
 * Writes what a disk holds (through all its backing images) into a new image; zeros take no space there. Cancelled or failed,
 * it leaves nothing behind.
 * @throws DiskError of either image; "cancelled"
 */
export async function convertImage(
  source: string,
  target: string,
  format: ImageFormat,
  options: ConvertOptions = {},
): Promise<void> {
  const { reader, close } = openSource(source, options.sourceFormat);
  try {
    const size = checkedSize(reader.size);
    await createFile(resolve(target), async (file) => {
      if (format === "raw") await fillRaw(file, reader, size, options);
      else await fillQcow2(file, reader, size, options);
    });
  } finally {
    close();
  }
}

/** A disk to read, of whatever format, and locked. @throws DiskError */
function openSource(source: string, format: SourceFormat | undefined): { reader: ChainReader; close(): void } {
  if (format === undefined || format === "vhd") {
    const { file, close } = openFile(resolve(source), false);
    try {
      if (format === "vhd" || isVhd(file)) return { reader: new ChainReader([vhdLayer(file)]), close };
    } catch (error) {
      close();
      throw error;
    }
    close();
  }
  const chain = openChain(source, false, format);
  try {
    return { reader: readerOf(chain), close: () => chain.close() };
  } catch (error) {
    chain.close();
    throw error;
  }
}

/** Calls `take` with the stretches of a disk that may hold something, in pieces of at most CHUNK that begin at multiples of it. */
async function forEachChunk(
  reader: ChainReader,
  task: Task,
  take: (offset: number, bytes: Uint8Array) => Promise<void>,
): Promise<void> {
  const buffer = new Uint8Array(CHUNK);
  let shown = -1;
  for (let at = 0; at < reader.size; ) {
    if (at - shown >= CHUNK || shown < 0) {
      await step(task, at, reader.size);
      shown = at;
    }
    const { segment } = reader.segment(at, reader.size);
    if (segment.kind === "absent" || segment.kind === "zero") {
      at += segment.length;
      continue;
    }
    const offset = at - (at % CHUNK);
    const bytes = buffer.subarray(0, Math.min(CHUNK, reader.size - offset));
    await reader.read(offset, bytes);
    await take(offset, bytes);
    at = offset + bytes.length;
  }
  await step(task, reader.size, reader.size);
}

async function fillRaw(file: ImageFile, reader: ChainReader, size: number, task: Task): Promise<void> {
  setLength(file, size);
  await forEachChunk(reader, task, async (offset, bytes) => {
    await forEachRun(
      bytes,
      SPARSE_UNIT,
      async (start, end) => await file.write(bytes.subarray(start, end), offset + start),
    );
  });
}

/** Zeros shorter than this are written out. */
const SPARSE_UNIT = 4096;

/** Calls `take` with the runs of units that are not all zero. */
async function forEachRun(
  bytes: Uint8Array,
  unit: number,
  take: (start: number, end: number) => Promise<void>,
): Promise<void> {
  let start = -1;
  for (let at = 0; at < bytes.length; at += unit) {
    if (!isZero(bytes.subarray(at, Math.min(at + unit, bytes.length)))) {
      if (start < 0) start = at;
    } else if (start >= 0) {
      await take(start, at);
      start = -1;
    }
  }
  if (start >= 0) await take(start, bytes.length);
}

async function fillQcow2(file: ImageFile, reader: ChainReader, size: number, options: ConvertOptions): Promise<void> {
  const clusterSize = options.clusterSize ?? DEFAULT_CLUSTER_SIZE;
  formatQcow2(file, { size, clusterSize });
  const editor = new Qcow2Editor(file, await new Scan(file).run(), false);
  let unflushed = 0;
  await forEachChunk(reader, options, async (offset, bytes) => {
    await forEachRun(bytes, clusterSize, async (start, end) => {
      await editor.putData((offset + start) / clusterSize, wholeClusters(bytes.subarray(start, end), clusterSize));
    });
    unflushed += bytes.length;
    if (unflushed < BATCH) return;
    unflushed = 0;
    await editor.flush();
  });
  await editor.flush();
}

/** Padded with zeros: only the end of a disk is not a whole cluster. */
export function wholeClusters(bytes: Uint8Array, clusterSize: number): Uint8Array {
  const length = Math.ceil(bytes.length / clusterSize) * clusterSize;
  if (length === bytes.length) return bytes;
  const padded = new Uint8Array(length);
  padded.set(bytes);
  return padded;
}

/**
 * Copies one image as it is, its backing name included: shared extents where the file system has them, else only what is no
 * hole. For an image with the disk's whole content use convertImage().
 * @throws DiskError of either image; "cancelled"
 */
export async function copyImage(source: string, target: string, task: Task = {}): Promise<void> {
  const chain = openChain(source, false);
  try {
    const [file] = chain.files;
    if (file === undefined) throw new Error("a chain has at least one image");
    await createFile(resolve(target), async (copy) => {
      const stat = fstatSync(file.descriptor);
      const size = stat.isFile() ? stat.size : chain.layers[0]!.size;
      await copySparsely(file, copy, size, task);
    });
  } finally {
    chain.close();
  }
}

/** linux/fs.h: makes a file share all extents of another (Btrfs, XFS). The argument is the other's descriptor. */
const FICLONE = 0x40049409;

let ioctl: ((descriptor: number, request: number, type: string, argument: number) => number) | undefined;

/** Whether the file system made the copy by sharing. */
function cloned(from: ImageFile, to: ImageFile): boolean {
  if (process.platform !== "linux") return false;
  ioctl ??= koffi.load(null).func("ioctl", "int", ["int", "unsigned long", "..."]);
  return ioctl(to.descriptor, FICLONE, "int", from.descriptor) === 0;
}

async function copySparsely(from: ImageFile, to: ImageFile, size: number, task: Task): Promise<void> {
  setLength(to, size);
  if (cloned(from, to)) return;
  const buffer = new Uint8Array(CHUNK);
  for (let at = 0; at < size; ) {
    const data = nextData(from.descriptor, at, size);
    if (data === undefined) break;
    for (at = data.start; at < data.end; ) {
      await step(task, at, size);
      const bytes = buffer.subarray(0, Math.min(CHUNK, data.end - at));
      await from.read(bytes, at);
      const offset = at;
      await forEachRun(
        bytes,
        SPARSE_UNIT,
        async (start, end) => await to.write(bytes.subarray(start, end), offset + start),
      );
      at += bytes.length;
    }
  }
  await step(task, size, size);
}
