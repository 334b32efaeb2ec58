/** The few system calls that shared guest memory needs, through koffi. Linux and macOS; nothing is loaded elsewhere. */
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import koffi from "koffi";

const PROT_READ_WRITE = 3;
const MAP_SHARED = 1;
const MAP_PRIVATE = 2;
const MAP_FIXED = 0x10;
const MAP_ANONYMOUS = process.platform === "darwin" ? 0x1000 : 0x20;
const MFD_CLOEXEC = 1;
const MADV_REMOVE = 9;
/** Whence of lseek(2): the next byte that is there, the next that is not. Linux's numbers. */
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const FUTEX_WAIT = 0;
const FUTEX_WAKE = 1;
/** futex(2) by architecture; it has no wrapper in the C library. */
const SYS_FUTEX: Readonly<Record<string, number>> = { x64: 202, arm64: 98, riscv64: 98, ia32: 240 };

/** A failed system call: its name and errno. */
export class SystemCallError extends Error {
  readonly call: string;
  readonly errno: number;

  constructor(call: string, errno: number) {
    super(`${call} failed: errno ${errno}`);
    this.name = "SystemCallError";
    this.call = call;
    this.errno = errno;
  }
}

export interface Posix {
  /** A new file of `length` zero bytes that lives in memory, and the path by which other processes of this user open it. */
  createFile(length: number): SharedFile;
  /** Native address of the first byte of a buffer that never moves. */
  addressOf(buffer: ArrayBufferLike): bigint;
  /** Replaces the pages at `address` by a shared mapping of the file from `offset` on. */
  mapFixed(address: bigint, length: number, descriptor: number, offset: number): void;
  /** Gives a range of a shared mapping back to the host; it reads as zero afterwards. False: not supported here. */
  remove(address: bigint, length: number): boolean;
  /** Sleeps while the word at `address` holds `expected`, at most `timeoutNs`. False: no futex on this host. */
  futexWait(address: bigint, expected: number, timeoutNs: number): boolean;
  /** Wakes up to `count` sleepers. */
  futexWake(address: bigint, count: number): boolean;
  /** Lets another thread that is ready to run have this thread's processor. */
  yieldProcessor(): void;
  /** Puts private zero pages in the place of a mapping, so that what it held on to is free. */
  unmapFixed(address: bigint, length: number): void;
  /** A shared mapping of a file from its start, where there is room for it. @throws SystemCallError */
  map(length: number, descriptor: number): bigint;
  /** Ends what map() made. */
  unmap(address: bigint, length: number): void;
  /** Copies bytes between mappings; they must not overlap. */
  copy(to: bigint, from: bigint, length: number): void;
  /** The same on another thread. */
  copyInBackground(to: bigint, from: bigint, length: number): Promise<void>;
  /** Whether two ranges of bytes are equal. */
  equal(a: bigint, b: bigint, length: number): boolean;
  /**
   * The parts of a file's range that hold data, ascending: the rest reads as zeros. Moves the descriptor's position. The whole
   * range where the host cannot tell.
   */
  dataExtents(descriptor: number, start: number, end: number): Extent[];
}

/** Bytes `start` … `end` - 1 of a file. */
export interface Extent {
  readonly start: number;
  readonly end: number;
}

/** A file in memory that several processes map. It is gone when `close` was called and nobody maps it any more. */
export interface SharedFile {
  readonly descriptor: number;
  readonly path: string;
  close(): void;
}

/** Where there is no memfd: a file in a folder of its own, which its owner removes. */
function namedFile(): SharedFile {
  const directory = mkdtempSync(join(tmpdir(), "domlab-"));
  const path = join(directory, "memory");
  const descriptor = openSync(path, "wx+", 0o600);
  return {
    descriptor,
    path,
    close() {
      closeSync(descriptor);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function memoryFile(descriptor: number): SharedFile {
  if (descriptor < 0) throw new SystemCallError("memfd_create", koffi.errno());
  return { descriptor, path: `/proc/${process.pid}/fd/${descriptor}`, close: () => closeSync(descriptor) };
}

function load(): Posix {
  const linux = process.platform === "linux";
  const libc = koffi.load(null);
  const mmap = libc.func("mmap", "intptr_t", ["intptr_t", "size_t", "int", "int", "int", "int64_t"]);
  const madvise = linux ? libc.func("madvise", "int", ["intptr_t", "size_t", "int"]) : undefined;
  const memfdCreate = linux ? libc.func("memfd_create", "int", ["str", "uint32_t"]) : undefined;
  const futexNumber = linux ? SYS_FUTEX[process.arch] : undefined;
  const syscall = libc.func("syscall", "long", [
    "long",
    "intptr_t",
    "int",
    "uint32_t",
    "void *",
    "intptr_t",
    "uint32_t",
  ]);
  const timespec = new BigInt64Array(2);
  const schedYield = libc.func("sched_yield", "int", []);
  const munmap = libc.func("munmap", "int", ["intptr_t", "size_t"]);
  const memcpy = libc.func("memcpy", "intptr_t", ["intptr_t", "intptr_t", "size_t"]);
  const memcmp = libc.func("memcmp", "int", ["intptr_t", "intptr_t", "size_t"]);
  const lseek = linux ? libc.func("lseek64", "int64_t", ["int", "int64_t", "int"]) : undefined;
  /** First offset from `from` on that is of the kind `whence`; `end` where there is none before it. */
  const seek = (descriptor: number, from: number, whence: number, end: number): number => {
    const found = Number(lseek?.(descriptor, from, whence));
    return found >= 0 && found < end ? found : end;
  };

  return {
    createFile(length) {
      const file = memfdCreate ? memoryFile(memfdCreate("domlab-guest", MFD_CLOEXEC)) : namedFile();
      ftruncateSync(file.descriptor, length);
      return file;
    },
    addressOf: (buffer) => koffi.address(new Uint8Array(buffer)),
    mapFixed(address, length, descriptor, offset) {
      const result = mmap(address, length, PROT_READ_WRITE, MAP_SHARED | MAP_FIXED, descriptor, offset);
      if (BigInt(result) !== address) throw new SystemCallError("mmap", koffi.errno());
    },
    yieldProcessor: () => void schedYield(),
    unmapFixed(address, length) {
      const flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS;
      const result = mmap(address, length, PROT_READ_WRITE, flags, -1, 0);
      if (BigInt(result) !== address) throw new SystemCallError("mmap", koffi.errno());
    },
    map(length, descriptor) {
      const result = BigInt(mmap(0n, length, PROT_READ_WRITE, MAP_SHARED, descriptor, 0));
      if (result === -1n) throw new SystemCallError("mmap", koffi.errno());
      return result;
    },
    unmap: (address, length) => void munmap(address, length),
    copy: (to, from, length) => void memcpy(to, from, length),
    copyInBackground: (to, from, length) =>
      new Promise((resolve, reject) => {
        memcpy.async(to, from, length, (error: unknown) => (error ? reject(error) : resolve()));
      }),
    equal: (a, b, length) => memcmp(a, b, length) === 0,
    dataExtents(descriptor, start, end) {
      if (lseek === undefined) return [{ start, end }];
      const extents: Extent[] = [];
      for (let at = seek(descriptor, start, SEEK_DATA, end); at < end; ) {
        const hole = seek(descriptor, at, SEEK_HOLE, end);
        extents.push({ start: at, end: hole });
        at = hole < end ? seek(descriptor, hole, SEEK_DATA, end) : end;
      }
      return extents;
    },
    remove: (address, length) => madvise !== undefined && madvise(address, length, MADV_REMOVE) === 0,
    futexWait(address, expected, timeoutNs) {
      if (futexNumber === undefined) return false;
      const nanoseconds = Math.max(0, Math.round(timeoutNs));
      timespec[0] = BigInt(Math.floor(nanoseconds / 1e9));
      timespec[1] = BigInt(nanoseconds % 1e9);
      syscall(futexNumber, address, FUTEX_WAIT, expected, timespec, 0n, 0);
      return true;
    },
    futexWake(address, count) {
      if (futexNumber === undefined) return false;
      syscall(futexNumber, address, FUTEX_WAKE, count, null, 0n, 0);
      return true;
    },
  };
}

let loaded: Posix | undefined;

/** The system calls, loaded at the first use. @throws Error where koffi cannot load the C library */
export function posix(): Posix {
  loaded ??= load();
  return loaded;
}
