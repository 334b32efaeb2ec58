/**
 * The errors of everything a user hands over: kernels, initrds, sizes, guest images.
 *
 * Each message is one line, "cause; remedy", ready to be printed as it is (the CLI ends with status 2).
 */

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

const LONGEST_MESSAGE = 600;

/** Makes text of unknown origin (file names, output of other programs) safe for one line of a terminal. */
export function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is being removed
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ").trim();
  return clean.length > LONGEST_MESSAGE ? `${clean.slice(0, LONGEST_MESSAGE)}…` : clean;
}

/** Base of the family: a cause and a remedy, joined into the one-line message. */
export class InputError<Code extends string = string> extends Error {
  readonly code: Code;
  /** What the user can do about it. */
  readonly remedy: string;

  constructor(code: Code, what: string, remedy: string, cause?: unknown) {
    super(oneLine(`${what}; ${remedy}`), cause === undefined ? undefined : { cause });
    this.name = new.target.name;
    this.code = code;
    this.remedy = remedy;
  }
}

/** A kernel, initrd, command line or memory size that cannot become a domain. */
export class BuildError extends InputError<BuildErrorCode> {}

/** The errno name of a failed system call ("ENOENT"), or undefined when the error is of another kind. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
