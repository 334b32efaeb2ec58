/**
 * Files as the image tools use them: whole reads and writes at an offset, the stretches of a sparse file that hold data, and
 * new files that appear complete under their name or not at all. Long transfers go through libuv's threads, so that the
 * process that also carries consoles is not held up by a slow disk.
 */
import {
  closeSync,
  fdatasync,
  constants as fsConstants,
  fstatSync,
  fsync,
  fsyncSync,
  linkSync,
  openSync,
  read,
  readSync,
  renameSync,
  unlinkSync,
  write,
  writeSync,
} from "node:fs";
import { constants } from "node:os";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import koffi from "koffi";
import { DiskError, errnoName, errnoOf } from "../errors.ts";

/** How a long operation is watched and stopped. `done` of `total` bytes, or of tables where no data is moved. */
export interface Task {
  readonly progress?: (state: { readonly done: number; readonly total: number }) => void;
  readonly signal?: AbortSignal;
}

const fdatasyncAsync = promisify(fdatasync);
const fsyncAsync = promisify(fsync);
const { ENOSPC, EDQUOT, EFBIG, EROFS, ENXIO, EINVAL, EEXIST } = constants.errno;

/** A step of a long operation: lets other work of the process run. @throws DiskError "cancelled" */
export async function step(task: Task, done: number, total: number): Promise<void> {
  if (task.signal?.aborted) throw new DiskError("cancelled", "the operation was cancelled", "start it again");
  task.progress?.({ done: Math.min(done, total), total });
  await new Promise((resolve) => setImmediate(resolve));
}

/** The DiskError of a failed call on `path`; a DiskError stays what it is. */
export function fileError(path: string, verb: "read" | "written", error: unknown): DiskError {
  if (error instanceof DiskError) return error;
  const errno = errnoOf(error);
  switch (errno) {
    case ENOSPC:
    case EDQUOT:
      return new DiskError("no-space", `${path} cannot be written: no space left`, "free some and try again", error);
    case EFBIG:
      return new DiskError(
        "no-space",
        `${path} cannot be written: larger than files may be here`,
        "raise ulimit -f or choose another file system",
        error,
      );
    case EROFS:
      return new DiskError("read-only-image", `${path} lies on read-only storage`, "choose another place", error);
    case EEXIST:
      return new DiskError("image-exists", `${path} exists already`, "choose another name or remove it", error);
    default:
      return refusedFile(path, verb, errnoName(errno), error);
  }
}

function refusedFile(path: string, verb: string, name: string, error: unknown): DiskError {
  if (name === "ENOENT" || name === "ENOTDIR") {
    return new DiskError("missing-image", `${path} does not exist`, "check the path", error);
  }
  if (name === "EACCES" || name === "EPERM") {
    return new DiskError("no-permission", `${path} may not be ${verb}`, "check its permissions", error);
  }
  const code = verb === "read" ? "unreadable-image" : "unusable-image";
  return new DiskError(code, `${path} cannot be ${verb} (${name})`, "check the storage it lies on", error);
}

/** An open file with its name for messages. Every failure is a DiskError. */
export class ImageFile {
  readonly path: string;
  readonly descriptor: number;

  constructor(path: string, descriptor: number) {
    this.path = path;
    this.descriptor = descriptor;
  }

  /** Bytes of the file; only for regular files. */
  get size(): number {
    return fstatSync(this.descriptor).size;
  }

  /** Fills `into` from `offset` on; what lies behind the end of the file reads as zero. */
  readSync(into: Uint8Array, offset: number): void {
    try {
      for (let at = 0; at < into.length; ) {
        const count = readSync(this.descriptor, into, at, into.length - at, offset + at);
        if (count === 0) {
          into.fill(0, at);
          return;
        }
        at += count;
      }
    } catch (error) {
      throw fileError(this.path, "read", error);
    }
  }

  /** As readSync(), on another thread. */
  async read(into: Uint8Array, offset: number): Promise<void> {
    for (let at = 0; at < into.length; ) {
      const count = await new Promise<number>((resolve, reject) => {
        read(this.descriptor, into, at, into.length - at, offset + at, (error, bytes) => {
          if (error) reject(fileError(this.path, "read", error));
          else resolve(bytes);
        });
      });
      if (count === 0) {
        into.fill(0, at);
        return;
      }
      at += count;
    }
  }

  writeSync(from: Uint8Array, offset: number): void {
    try {
      for (let at = 0; at < from.length; ) {
        at += writeSync(this.descriptor, from, at, from.length - at, offset + at);
      }
    } catch (error) {
      throw fileError(this.path, "written", error);
    }
  }

  /** As writeSync(), on another thread. */
  async write(from: Uint8Array, offset: number): Promise<void> {
    for (let at = 0; at < from.length; ) {
      at += await new Promise<number>((resolve, reject) => {
        write(this.descriptor, from, at, from.length - at, offset + at, (error, bytes) => {
          if (error) reject(fileError(this.path, "written", error));
          else resolve(bytes);
        });
      });
    }
  }

  /** Everything written so far becomes durable, with the file's size. */
  async sync(): Promise<void> {
    try {
      await fdatasyncAsync(this.descriptor);
    } catch (error) {
      throw fileError(this.path, "written", error);
    }
  }
}

/** SEEK_DATA and SEEK_HOLE of lseek(2), by operating system. */
const SEEK: Readonly<Record<string, { readonly data: number; readonly hole: number }>> = {
  linux: { data: 3, hole: 4 },
  darwin: { data: 4, hole: 3 },
};

let lseek: ((descriptor: number, offset: number, whence: number) => number | bigint) | undefined;

function seek(descriptor: number, offset: number, whence: number): number {
  lseek ??= koffi.load(null).func("lseek", "int64_t", ["int", "int64_t", "int"]);
  const found = Number(lseek(descriptor, offset, whence));
  return found < 0 ? -koffi.errno() : found;
}

/**
 * The next stretch of a file that may hold data, at or behind `offset` and before `end`; undefined when only holes follow.
 * Where the file system does not tell, all is data.
 */
export function nextData(descriptor: number, offset: number, end: number): { start: number; end: number } | undefined {
  const whence = SEEK[process.platform];
  if (whence === undefined || offset >= end) return offset >= end ? undefined : { start: offset, end };
  const start = seek(descriptor, offset, whence.data);
  if (start === -ENXIO || start >= end) return undefined;
  if (start < 0) return { start: offset, end };
  const hole = seek(descriptor, start, whence.hole);
  return { start, end: hole <= start ? end : Math.min(hole, end) };
}

const ZEROS = Buffer.alloc(64 * 1024);

/** Whether all bytes are zero. */
export function isZero(bytes: Uint8Array): boolean {
  for (let at = 0; at < bytes.length; at += ZEROS.length) {
    const end = Math.min(bytes.length, at + ZEROS.length);
    if (ZEROS.compare(bytes, at, end, 0, end - at) !== 0) return false;
  }
  return true;
}

/** A name's entry in its folder becomes durable. Hosts that cannot open folders have nothing like it. */
export function syncFolder(path: string): void {
  let descriptor: number;
  try {
    descriptor = openSync(path, fsConstants.O_RDONLY);
  } catch (error) {
    if (process.platform === "win32") return;
    throw fileError(path, "read", error);
  }
  try {
    fsyncSync(descriptor);
  } catch (error) {
    // Some network and FUSE file systems do not sync folders.
    if (errnoOf(error) !== EINVAL) throw fileError(path, "written", error);
  } finally {
    closeSync(descriptor);
  }
}

let counter = 0;

/**
 * Makes a file that appears under `path` complete and durable, or not at all: filled under a temporary name beside it,
 * synced, renamed. A process killed on the way leaves at most the temporary file, `<path>.<pid>-<n>.tmp`.
 * @throws DiskError "image-exists" when there is something called `path`; what `fill` throws; "no-space"
 */
export async function createFile<Result>(
  path: string,
  fill: (file: ImageFile) => Result | Promise<Result>,
): Promise<Result> {
  const temporary = join(dirname(path), `${basename(path)}.${process.pid}-${counter++}.tmp`);
  let descriptor: number;
  try {
    descriptor = openSync(temporary, fsConstants.O_RDWR | fsConstants.O_CREAT | fsConstants.O_EXCL, 0o666);
  } catch (error) {
    throw errnoOf(error) === EEXIST ? error : fileError(path, "written", error);
  }
  let placed = false;
  try {
    const result = await fill(new ImageFile(path, descriptor));
    await fsyncAsync(descriptor);
    placeAs(temporary, path);
    placed = true;
    syncFolder(dirname(path));
    return result;
  } catch (error) {
    throw fileError(path, "written", error);
  } finally {
    closeSync(descriptor);
    if (!placed) unlinkSync(temporary);
  }
}

/** Renames without replacing anything: link(2) fails when the name is taken, rename(2) would not. */
function placeAs(temporary: string, path: string): void {
  try {
    linkSync(temporary, path);
  } catch (error) {
    const name = errnoName(errnoOf(error));
    // File systems without hard links (FAT, some FUSE ones).
    if (!["EPERM", "EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EMLINK"].includes(name)) throw error;
    closeSync(openSync(path, fsConstants.O_WRONLY | fsConstants.O_CREAT | fsConstants.O_EXCL, 0o666));
    renameSync(temporary, path);
    return;
  }
  unlinkSync(temporary);
}
