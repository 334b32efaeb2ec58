/** What the toolstack keeps of a disk's images as long as the disk exists: open descriptors with locks on them. */
import { fstatSync } from "node:fs";
import { lockChain } from "../disk/chain.ts";
import { hostIo } from "../disk/host-io.ts";
import type { FileSpec, Qcow2Spec, StoreSpec } from "../disk/spec.ts";

/** What a device needs of its target as long as it exists. */
export interface Claim {
  /** libxl's word for the kind of target. */
  readonly type: "phy" | "file" | "nbd";
  /** For the backend: a file is opened through our descriptor, so that renames and a restart change nothing. */
  readonly spec: StoreSpec;
  /** Lets others read the image, as the image behind theirs. Nobody may be writing it: the device is held. */
  share(): void;
  /** Undoes share(). */
  unshare(): void;
  release(): void;
}

/** Locks what a store needs. @throws DiskError one line with cause and remedy */
export type ClaimStore = (spec: StoreSpec) => Claim;

/** QEMU's byte for "I write this image" (block/file-posix.c; disk/image.ts has the others). */
const WRITES = 101;

function claimImages(given: FileSpec | Qcow2Spec): Claim {
  const { spec, descriptor, locks, release } = lockChain(given);
  const place = (kind: "read" | "none") => {
    // A failure means a file system without locks, where there is none to change.
    if (locks[0]?.mode === "exclusive") hostIo().setLock(descriptor, { byte: WRITES, kind });
  };
  return {
    type: fstatSync(descriptor).isBlockDevice() ? "phy" : "file",
    spec,
    share: () => place("none"),
    unshare: () => place("read"),
    release,
  };
}

/** Nothing to lock, or somebody else's business: an NBD server's, or that of a guest which serves the disk. */
export function freeClaim(type: Claim["type"], spec: StoreSpec): Claim {
  return { type, spec, share() {}, unshare() {}, release() {} };
}

/** Locks files; an NBD server does what it does about that. */
export const claimStore: ClaimStore = (spec) => {
  if (spec.kind === "nbd") return freeClaim("nbd", spec);
  return claimImages(spec);
};
