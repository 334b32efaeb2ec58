/**
 * The host's calls on files and block devices: preadv(2), pwritev(2), fdatasync(2), fallocate(2), ioctl(2) and fcntl(2).
 * Through koffi on Linux and macOS, where data goes straight between the file and the guest's pages; through node:fs with one
 * copy elsewhere. Results are a count or 0, or a negated errno.
 */
import { fdatasyncSync, readSync, writeSync } from "node:fs";
import { constants } from "node:os";
import koffi from "koffi";
import type { Scatter } from "../device/block/store.ts";
import { errnoOf } from "./errors.ts";

const { EINTR, EINVAL, EOPNOTSUPP } = constants.errno;
const TWO_TO_32 = 2 ** 32;
/** UIO_MAXIOV of Linux, IOV_MAX of macOS. */
const MAX_PIECES = 1024;

/** One lock as fcntl(2) knows it: a read lock on a single byte. */
export interface ByteLock {
  readonly byte: number;
  readonly kind: "read" | "write" | "none";
}

export interface HostIo {
  /**
   * Moves bytes between the file at `offset` and the scattered pieces, of which the first `skip` bytes are left out.
   * @returns bytes moved, at least 1 unless the file ends there (reading: 0), or a negated errno; never -EINTR
   */
  transfer(writing: boolean, descriptor: number, offset: number, scatter: Scatter, skip: number): number;
  /** Makes everything written so far durable. */
  flush(descriptor: number): number;
  /** Gives a range of a file back to the file system; it reads as zero. -EOPNOTSUPP where that cannot be. */
  punchHole(descriptor: number, offset: number, length: number): number;
  /** ioctl(2) on `argument`, which is read and overwritten in place. */
  ioctl(descriptor: number, request: number, argument: ArrayBufferView): number;
  /** Takes (read, write) or drops (none) a lock that belongs to the open file description. */
  setLock(descriptor: number, lock: ByteLock): number;
  /** Whether another open file description holds a lock that excludes this one. -EOPNOTSUPP: no such locks here. */
  testLock(descriptor: number, lock: ByteLock): boolean | number;
}

/** struct flock and the numbers around it, by operating system. */
const LOCKS = {
  linux: { get: 36, set: 37, read: 0, write: 1, none: 2, start: 8, type: 0, whence: 2 },
  darwin: { get: 92, set: 90, read: 1, write: 3, none: 2, start: 0, type: 20, whence: 22 },
} as const;
const FULL_FSYNC = 51;
const PUNCH_HOLE_KEEP_SIZE = 3;

/** Two 32-bit words per pointer: an address is a sum of doubles (below 2^53, so exact), and no BigInt is made per piece. */
function fillVector(vector: Uint32Array, scatter: Scatter, skip: number): number {
  const base = Number(scatter.memory.nativeAddress);
  let rest = skip;
  let pieces = 0;
  for (let i = 0; i < scatter.count && pieces < MAX_PIECES; i++) {
    const length = scatter.lengths[i]!;
    if (rest >= length) {
      rest -= length;
      continue;
    }
    const address = base + scatter.addresses[i]! + rest;
    const low = address >>> 0;
    const word = pieces++ * 4;
    vector[word] = low;
    vector[word + 1] = (address - low) / TWO_TO_32;
    vector[word + 2] = length - rest;
    vector[word + 3] = 0;
    rest = 0;
  }
  return pieces;
}

function nativeIo(system: "linux" | "darwin"): HostIo {
  const libc = koffi.load(null);
  const vectorArguments = ["int", "intptr_t", "int", "int64_t"];
  const preadv = libc.func("preadv", "intptr_t", vectorArguments);
  const pwritev = libc.func("pwritev", "intptr_t", vectorArguments);
  const fdatasync = system === "linux" ? libc.func("fdatasync", "int", ["int"]) : undefined;
  const fallocate =
    system === "linux" ? libc.func("fallocate", "int", ["int", "int", "int64_t", "int64_t"]) : undefined;
  const ioctl = libc.func("ioctl", "int", ["int", "unsigned long", "..."]);
  const fcntl = libc.func("fcntl", "int", ["int", "int", "..."]);
  const vector = new Uint32Array(new SharedArrayBuffer(MAX_PIECES * 16));
  const vectorAddress = koffi.address(new Uint8Array(vector.buffer));
  const locks = LOCKS[system];

  /** Repeats a call that a signal interrupted; turns -1 into the negated errno. */
  function checked(call: () => number): number {
    for (;;) {
      const result = call();
      if (result >= 0) return result;
      const errno = koffi.errno();
      if (errno !== EINTR) return -errno;
    }
  }

  function lockRecord(lock: ByteLock): DataView<ArrayBuffer> {
    const record = new DataView(new ArrayBuffer(32));
    record.setInt16(locks.type, locks[lock.kind], true);
    record.setInt16(locks.whence, 0, true);
    record.setBigInt64(locks.start, BigInt(lock.byte), true);
    record.setBigInt64(locks.start + 8, 1n, true);
    return record;
  }

  return {
    transfer(writing, descriptor, offset, scatter, skip) {
      const pieces = fillVector(vector, scatter, skip);
      const call = writing ? pwritev : preadv;
      for (;;) {
        const moved = Number(call(descriptor, vectorAddress, pieces, offset));
        if (moved >= 0) return moved;
        const errno = koffi.errno();
        if (errno !== EINTR) return -errno;
      }
    },
    // fdatasync(2) of macOS leaves the data in the drive's cache; F_FULLFSYNC is its real flush.
    flush: (descriptor) =>
      checked(() => (fdatasync ? fdatasync(descriptor) : fcntl(descriptor, FULL_FSYNC, "int", 0)) as number),
    punchHole: (descriptor, offset, length) =>
      fallocate ? checked(() => fallocate(descriptor, PUNCH_HOLE_KEEP_SIZE, offset, length) as number) : -EOPNOTSUPP,
    ioctl: (descriptor, request, argument) => checked(() => ioctl(descriptor, request, "void *", argument) as number),
    setLock(descriptor, lock) {
      const record = new Uint8Array(lockRecord(lock).buffer);
      return checked(() => fcntl(descriptor, locks.set, "void *", record) as number);
    },
    testLock(descriptor, lock) {
      const view = lockRecord(lock);
      const record = new Uint8Array(view.buffer);
      const status = checked(() => fcntl(descriptor, locks.get, "void *", record) as number);
      if (status < 0) return status === -EINVAL ? -EOPNOTSUPP : status;
      return view.getInt16(locks.type, true) !== locks.none;
    },
  };
}

/** node:fs for hosts without these calls: one piece at a time through a buffer of our own, no locks, no discard. */
export function portableIo(): HostIo {
  let bounce = Buffer.alloc(0);
  function piece(scatter: Scatter, skip: number): { address: number; length: number } | undefined {
    let rest = skip;
    for (let i = 0; i < scatter.count; i++) {
      const length = scatter.lengths[i]!;
      if (rest < length) return { address: scatter.addresses[i]! + rest, length: length - rest };
      rest -= length;
    }
    return undefined;
  }
  return {
    transfer(writing, descriptor, offset, scatter, skip) {
      const next = piece(scatter, skip);
      if (!next) return 0;
      if (bounce.length < next.length) bounce = Buffer.alloc(next.length);
      const guest = scatter.memory.bytes.subarray(next.address, next.address + next.length);
      try {
        if (writing) {
          bounce.set(guest);
          return writeSync(descriptor, bounce, 0, next.length, offset);
        }
        const count = readSync(descriptor, bounce, 0, next.length, offset);
        guest.set(bounce.subarray(0, count));
        return count;
      } catch (error) {
        return -errnoOf(error);
      }
    },
    flush(descriptor) {
      try {
        fdatasyncSync(descriptor);
        return 0;
      } catch (error) {
        return -errnoOf(error);
      }
    },
    punchHole: () => -EOPNOTSUPP,
    ioctl: () => -EOPNOTSUPP,
    setLock: () => 0,
    testLock: () => -EOPNOTSUPP,
  };
}

let loaded: HostIo | undefined;

/** The calls of this host, loaded at the first use; one set per thread, as the I/O vector is reused. */
export function hostIo(): HostIo {
  const { platform } = process;
  loaded ??= platform === "linux" || platform === "darwin" ? nativeIo(platform) : portableIo();
  return loaded;
}
