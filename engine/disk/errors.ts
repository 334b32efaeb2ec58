/**
 * The errors of disks that a user names: images, devices, NBD servers. Each message is one line, "cause; remedy", ready to
 * be printed as it is.
 */
import { constants } from "node:os";
import { InputError } from "../errors/input-error.ts";

/** What went wrong, for programs; the message says it for people. */
export type DiskErrorCode =
  | "missing-image"
  | "not-a-disk"
  | "no-permission"
  | "empty-image"
  | "read-only-image"
  | "image-in-use"
  | "bad-range"
  | "unsupported-format"
  | "unusable-image"
  | "unreadable-image"
  | "image-exists"
  | "bad-size"
  | "data-loss"
  | "broken-chain"
  | "no-space"
  | "cancelled"
  | "bad-nbd-address"
  | "nbd-unreachable"
  | "nbd-refused"
  | "nbd-protocol";

/** A disk that cannot be served as the user asked: cause and remedy in one line. */
export class DiskError extends InputError<DiskErrorCode> {}

/**
 * What a disk's storage refuses to give back; the image itself may be in order.
 * @param errno of the failed read
 */
export function unreadable(path: string, errno: number, cause?: unknown): DiskError {
  const what = `disk image ${path} cannot be read (${errnoName(errno)})`;
  return new DiskError("unreadable-image", what, "check the storage it lies on", cause);
}

/** What makes an image that was looked at be taken as it is. */
export const OR_AS_RAW = "or say format=raw to give the guest these bytes as they are";

/**
 * An image of a format that block stores do not serve.
 * @param what says which image, and its format
 * @param otherwise another remedy, after "convert it with …"
 * @param format its name, as recogniseFormat() has it
 */
export function unsupportedFormat(what: string, otherwise?: string, format?: string): DiskError {
  const convert = `convert it with ${format === "vhd" ? "domlab image convert" : "qemu-img convert -O qcow2"}`;
  return new DiskError("unsupported-format", what, otherwise === undefined ? convert : `${convert}, ${otherwise}`);
}

const names = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]));

/** "ENOSPC" of 28; "errno 4711" of a number that the host does not know. */
export function errnoName(errno: number): string {
  return names.get(errno) ?? `errno ${errno}`;
}

/** The errno of an error that node:fs or node:net threw; EIO of anything else. */
export function errnoOf(error: unknown): number {
  const errno = error instanceof Error && "errno" in error && typeof error.errno === "number" ? error.errno : 0;
  // libuv numbers are negated errnos on POSIX hosts; elsewhere they are made up, and the name is what counts.
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  return (
    (constants.errno as Readonly<Record<string, number>>)[code] ??
    (errno < 0 && errno > -4000 ? -errno : constants.errno.EIO)
  );
}
