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
  /** Puts private zero pages in the place of a mapping, so that what it held on to is free. */
  unmapFixed(address: bigint, length: number): void;
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
    unmapFixed(address, length) {
      const flags = MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS;
      const result = mmap(address, length, PROT_READ_WRITE, flags, -1, 0);
      if (BigInt(result) !== address) throw new SystemCallError("mmap", koffi.errno());
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
