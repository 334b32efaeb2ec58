/**
 * Whether an image can be used, and the lock that says it is.
 *
 * The locks are QEMU's (block/file-posix.c): read locks on single bytes that belong to the open file description. Byte
 * 100 + n says "I do n", byte 200 + n "nobody else may do n", where n is 0 for reading, 1 for writing, 3 for resizing. Who
 * has placed his own looks whether somebody else's contradict. So machines, qemu-img and QEMU's guests respect each other.
 */
import { closeSync } from "node:fs";
import { DiskError, errnoName } from "./errors.ts";
import { hostIo } from "./host-io.ts";
import type { FileSpec } from "./spec.ts";
import { openTarget } from "./target.ts";

const DOES = 100;
const FORBIDS = 200;
const READ = 0;
const WRITE = 1;
const RESIZE = 3;

/** shared: many may read, nobody writes. exclusive: one reads and writes. */
export type LockMode = "shared" | "exclusive";

const RIGHTS: Readonly<Record<LockMode, { readonly does: readonly number[]; readonly forbids: readonly number[] }>> = {
  shared: { does: [READ], forbids: [WRITE, RESIZE] },
  exclusive: { does: [READ, WRITE], forbids: [WRITE, RESIZE] },
};

/** Held until release(), or until the process ends. */
export interface ImageLock {
  readonly path: string;
  readonly mode: LockMode;
  /** The open file. Another process opens /proc/<pid>/fd/<descriptor> to serve it (FileSpec.openPath). */
  readonly descriptor: number;
  release(): void;
}

/** File systems without locks (some network and FUSE ones): the image is used unlocked. */
const WITHOUT_LOCKS = new Set(["EOPNOTSUPP", "ENOTSUP", "ENOSYS", "ENOLCK", "EINVAL"]);

function inUse(path: string, mode: LockMode): DiskError {
  return mode === "exclusive"
    ? new DiskError(
        "image-in-use",
        `disk image ${path} is in use by another machine or program`,
        "stop that one, or give both access=ro",
      )
    : new DiskError(
        "image-in-use",
        `disk image ${path} is being written by another machine or program`,
        "stop that one",
      );
}

function place(descriptor: number, path: string, mode: LockMode): void {
  const io = hostIo();
  const { does, forbids } = RIGHTS[mode];
  for (const byte of [...does.map((right) => DOES + right), ...forbids.map((right) => FORBIDS + right)]) {
    const status = io.setLock(descriptor, { byte, kind: "read" });
    if (status === 0) continue;
    const name = errnoName(-status);
    if (WITHOUT_LOCKS.has(name)) return;
    if (name === "EAGAIN" || name === "EACCES") throw inUse(path, mode);
    throw new DiskError("unusable-image", `disk image ${path} cannot be locked (${name})`, "check its file system");
  }
  const contradicting = [...does.map((right) => FORBIDS + right), ...forbids.map((right) => DOES + right)];
  // A write lock is only asked about, never taken: it meets every read lock but one's own.
  if (contradicting.some((byte) => io.testLock(descriptor, { byte, kind: "write" }) === true)) throw inUse(path, mode);
}

/**
 * Checks an image and takes its lock: shared for a read-only disk, exclusive for a writable one. Whoever is responsible for
 * the machine holds it for as long as the machine exists; it covers the whole file whatever range of it is served.
 * @throws DiskError "image-in-use" and all of checkImage()
 */
export function lockImage(spec: FileSpec): ImageLock {
  const mode: LockMode = spec.readOnly ? "shared" : "exclusive";
  const { descriptor } = openTarget(spec, mode === "exclusive");
  try {
    place(descriptor, spec.path, mode);
  } catch (error) {
    closeSync(descriptor);
    throw error;
  }
  let held = true;
  return {
    path: spec.path,
    mode,
    descriptor,
    release() {
      if (held) closeSync(descriptor);
      held = false;
    },
  };
}

/**
 * Checks, without keeping anything open, that an image can be served as the spec says: it exists, is a file or a block
 * device, may be opened, has a size, its range fits, its format is served, and nobody uses it in a way that excludes this.
 * @throws DiskError one line with cause and remedy
 */
export function checkImage(spec: FileSpec): void {
  lockImage(spec).release();
}
