/** The errors of snapshot files. Each message is one line, "cause; remedy", ready to be printed as it is. */

/** What went wrong, for programs; the message says it for people. */
export type SnapshotErrorCode =
  | "missing-snapshot"
  | "no-permission"
  | "unreadable-snapshot"
  | "not-a-snapshot"
  | "later-version"
  | "damaged-snapshot"
  | "other-memory"
  | "too-large"
  | "no-space"
  | "cannot-write"
  | "cancelled"
  | "unsupported-host";

const LONGEST_MESSAGE = 600;

/** Makes text of unknown origin (file names) safe for one line of a terminal. */
function oneLine(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is being removed
  const clean = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, " ").trim();
  return clean.length > LONGEST_MESSAGE ? `${clean.slice(0, LONGEST_MESSAGE)}…` : clean;
}

/** The errno name of a failed system call ("ENOENT"), or undefined when the error is of another kind. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("errno" in error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/** A snapshot that cannot be written or used: cause and remedy in one line. */
export class SnapshotError extends Error {
  readonly code: SnapshotErrorCode;
  /** What the user can do about it. */
  readonly remedy: string;

  constructor(code: SnapshotErrorCode, what: string, remedy: string, cause?: unknown) {
    super(oneLine(`${what}; ${remedy}`), cause === undefined ? undefined : { cause });
    this.name = "SnapshotError";
    this.code = code;
    this.remedy = remedy;
  }
}

/** A file whose contents contradict themselves. `detail` follows "is damaged: ". */
export function damaged(path: string, detail: string): SnapshotError {
  const remedy = "restore the file from a backup, or delete the snapshot and go on with the machine's disks";
  return new SnapshotError("damaged-snapshot", `the snapshot ${path} is damaged: ${detail}`, remedy);
}

/** @throws SnapshotError "cancelled" when the signal has fired */
export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) {
    throw new SnapshotError("cancelled", "the snapshot was cancelled", "nothing has changed; start it again if wanted");
  }
}
