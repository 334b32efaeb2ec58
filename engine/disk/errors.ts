/**
 * The errors of disks that a user names: images, devices, NBD servers. Each message is one line, "cause; remedy", ready to
 * be printed as it is.
 */
import { constants } from "node:os";

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

const LONGEST_MESSAGE = 600;

/** Makes text of unknown origin (file names, a server's words) safe for one line of a terminal. */
export function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is being removed
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ").trim();
  return clean.length > LONGEST_MESSAGE ? `${clean.slice(0, LONGEST_MESSAGE)}…` : clean;
}

/** A disk that cannot be served as the user asked: cause and remedy in one line. */
export class DiskError extends Error {
  readonly code: DiskErrorCode;
  /** What the user can do about it. */
  readonly remedy: string;

  constructor(code: DiskErrorCode, what: string, remedy: string, cause?: unknown) {
    super(oneLine(`${what}; ${remedy}`), cause === undefined ? undefined : { cause });
    this.name = "DiskError";
    this.code = code;
    this.remedy = remedy;
  }
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
