/**
 * A raw image or block device as a block store. Every operation is one system call on the calling thread, straight between
 * the page cache and the guest's pages, and is done when the function returns.
 */
import { closeSync, fstatSync, ftruncateSync } from "node:fs";
import { constants } from "node:os";
import type { BlockStore, Done, Scatter, StoreFailure } from "../device/block/store.ts";
import { errnoName, errnoOf } from "./errors.ts";
import { type HostIo, hostIo } from "./host-io.ts";
import type { FileSpec } from "./spec.ts";
import { openTarget, queueNumber, type Target } from "./target.ts";

const { EINVAL, EIO, EOPNOTSUPP, EROFS } = constants.errno;
const SECTOR = 512;
const PAGE = 4096;
/** linux/fs.h; both take { start, length } as two 64-bit numbers. */
const BLKDISCARD = 0x1277;
const BLKSECDISCARD = 0x127d;
const BLKGETSIZE64 = 0x80081272;
/** How often a store with a listener looks whether its image has grown. */
const RESIZE_POLL_MS = 2000;

/** A store on a file: also says by itself when the file has changed size. */
export interface FileStore extends BlockStore {
  readonly synchronous: true;
  /**
   * Looks at the file's size now; calls the listeners when it has grown. For threads whose event loop stands still;
   * elsewhere a timer does it every two seconds.
   */
  refresh(): void;
  /** Makes the file larger, so that `bytes` (whole sectors) of it are served. Not for devices and byte ranges. */
  resize(bytes: number): StoreFailure | undefined;
}

type Discard = BlockStore["discard"];

function discardOf(io: HostIo, target: Target, spec: FileSpec): Discard {
  if (spec.discard === false || spec.readOnly) return undefined;
  if (target.device) {
    if (queueNumber(target, "discard_max_bytes") === 0) return undefined;
    return {
      granularity: Math.max(target.sectorSize, queueNumber(target, "discard_granularity")),
      alignment: 0,
      // The kernel tells only by trying whether a device erases for good.
      secure: false,
    };
  }
  // A hole behind the end changes nothing, and shows whether the file system makes any.
  if (io.punchHole(target.descriptor, Math.ceil(target.size / PAGE) * PAGE, PAGE) !== 0) return undefined;
  return { granularity: PAGE, alignment: 0, secure: false };
}

/** The part of the target that is served, rounded down to whole sectors. */
function servedBytes(spec: FileSpec, wholeSize: number, sectorSize: number): number {
  const available = wholeSize - (spec.offset ?? 0);
  const served = spec.length === undefined ? available : Math.min(spec.length, available);
  return Math.max(0, served - (served % sectorSize));
}

class RawFileStore implements FileStore {
  readonly synchronous = true;
  readonly sectorSize: number;
  readonly physicalSectorSize: number;
  readonly readOnly: boolean;
  readonly discard: Discard;
  readonly #io: HostIo;
  readonly #target: Target;
  readonly #spec: FileSpec;
  readonly #start: number;
  readonly #log: (line: string) => void;
  readonly #listeners: (() => void)[] = [];
  #size: number;
  /** Where a file that was cut short under us ends now, in bytes of the store: nothing behind it is served any more. */
  #cutAt = Number.POSITIVE_INFINITY;
  #timer: NodeJS.Timeout | undefined;
  #open = true;

  constructor(io: HostIo, target: Target, spec: FileSpec, log: (line: string) => void) {
    this.#io = io;
    this.#target = target;
    this.#spec = spec;
    this.#start = spec.offset ?? 0;
    this.#log = log;
    this.sectorSize = target.sectorSize;
    this.physicalSectorSize = target.physicalSectorSize;
    this.readOnly = spec.readOnly;
    this.discard = discardOf(io, target, spec);
    this.#size = servedBytes(spec, target.size, target.sectorSize);
    const tail = (spec.length === undefined ? target.size - this.#start : spec.length) % target.sectorSize;
    if (tail > 0) log(`disk image ${spec.path}: its last ${tail} bytes are no whole sector and are not served`);
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, into: Scatter, done: Done): void {
    done(this.#transfer(false, offset, into));
  }

  write(offset: number, from: Scatter, done: Done): void {
    done(this.#transfer(true, offset, from));
  }

  flush(done: Done): void {
    const status = this.#io.flush(this.#target.descriptor);
    done(status < 0 ? this.#failure("flush", -status) : undefined);
  }

  discardRange(offset: number, length: number, secure: boolean, done: Done): void {
    if (!this.discard || (secure && !this.discard.secure)) {
      done(this.#failure("discard", EOPNOTSUPP));
      return;
    }
    if (offset + length > this.#cutAt) {
      done(this.#failure("discard", EIO));
      return;
    }
    const status = this.#discard(this.#start + offset, length, secure);
    done(status < 0 ? this.#failure("discard", -status) : undefined);
  }

  onResize(listener: () => void): void {
    this.#listeners.push(listener);
    this.#timer ??= setInterval(() => this.refresh(), RESIZE_POLL_MS).unref();
  }

  refresh(): void {
    if (!this.#open) return;
    const size = servedBytes(this.#spec, this.#wholeSize(), this.sectorSize);
    if (size < this.#size) this.#cutShort(size);
    if (size <= this.#size) return;
    this.#size = size;
    for (const listener of this.#listeners) listener();
  }

  resize(bytes: number): StoreFailure | undefined {
    const { device, descriptor } = this.#target;
    if (device || this.#spec.length !== undefined) return this.#failure("resize", EOPNOTSUPP);
    if (this.readOnly) return this.#failure("resize", EROFS);
    if (bytes < this.#size || bytes % this.sectorSize !== 0) return this.#failure("resize", EINVAL);
    try {
      ftruncateSync(descriptor, this.#start + bytes);
    } catch (error) {
      return this.#failure("resize", errnoOf(error));
    }
    this.refresh();
    return undefined;
  }

  close(): Promise<void> {
    if (this.#open) {
      this.#open = false;
      clearInterval(this.#timer);
      closeSync(this.#target.descriptor);
    }
    return Promise.resolve();
  }

  #discard(offset: number, length: number, secure: boolean): number {
    const { descriptor, device } = this.#target;
    if (!device) return this.#io.punchHole(descriptor, offset, length);
    const range = new BigUint64Array([BigInt(offset), BigInt(length)]);
    return this.#io.ioctl(descriptor, secure ? BLKSECDISCARD : BLKDISCARD, range);
  }

  #transfer(writing: boolean, offset: number, scatter: Scatter): StoreFailure | undefined {
    let length = 0;
    for (let i = 0; i < scatter.count; i++) length += scatter.lengths[i]!;
    const verb = writing ? "write" : "read";
    // Writing behind the cut would make the file long again, with zeros where the guest's data was.
    if (offset + length > this.#cutAt) return this.#failure(verb, EIO);
    for (let moved = 0; moved < length; ) {
      const { descriptor } = this.#target;
      const count = this.#io.transfer(writing, descriptor, this.#start + offset + moved, scatter, moved);
      if (count < 0) return this.#failure(verb, -count);
      if (count === 0) {
        this.#cutShort(offset + moved);
        return this.#failure(verb, EIO);
      }
      moved += count;
    }
    return undefined;
  }

  #cutShort(at: number): void {
    if (at >= this.#cutAt) return;
    const first = this.#cutAt === Number.POSITIVE_INFINITY;
    this.#cutAt = at - (at % SECTOR);
    if (first) {
      this.#log(
        `disk image ${this.#spec.path} was cut short to ${this.#start + at} bytes; what lay behind is I/O errors`,
      );
    }
  }

  #wholeSize(): number {
    const { descriptor, device, size } = this.#target;
    if (!device) return fstatSync(descriptor).size;
    const value = new BigUint64Array(1);
    // Only Linux is asked again: a device of macOS does not grow.
    if (process.platform !== "linux") return size;
    return this.#io.ioctl(descriptor, BLKGETSIZE64, value) < 0 ? size : Number(value[0]!);
  }

  #failure(what: string, errno: number): StoreFailure {
    return { errno, message: `${this.#spec.path}: ${what} failed with ${errnoName(errno)}` };
  }
}

/**
 * Opens a file or device as a store.
 * @param log takes lines for the user about the image (an odd tail, a file cut short)
 * @throws DiskError
 */
export function openFileStore(spec: FileSpec, log: (line: string) => void, io: HostIo = hostIo()): FileStore {
  return new RawFileStore(io, openTarget(spec, false), spec, log);
}
