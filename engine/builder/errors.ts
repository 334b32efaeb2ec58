/**
 * The errors of everything a user hands over: kernels, initrds, sizes, guest images.
 *
 * Each message is one line, "cause; remedy", ready to be printed as it is (the CLI ends with status 2).
 */
import { InputError } from "../errors/input-error.ts";

/** What went wrong, for programs; the message says it for people. */
export type BuildErrorCode =
  | "unreadable-file"
  | "file-too-large"
  | "not-a-kernel"
  | "truncated-image"
  | "corrupt-image"
  | "unknown-compression"
  | "wrong-machine"
  | "no-pvh-note"
  | "not-an-initrd"
  | "kernel-does-not-fit"
  | "initrd-does-not-fit"
  | "memory-too-small"
  | "memory-too-large"
  | "command-line-too-long"
  | "bad-command-line";

/** A kernel, initrd, command line or memory size that cannot become a domain. */
export class BuildError extends InputError<BuildErrorCode> {}

/** The errno name of a failed system call ("ENOENT"), or undefined when the error is of another kind. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
