/** The errors of snapshot files. Each message is one line, "cause; remedy", ready to be printed as it is. */
import { InputError } from "../errors/input-error.ts";

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

/** The errno name of a failed system call ("ENOENT"), or undefined when the error is of another kind. */
export function errnoOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("errno" in error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}

/** A snapshot that cannot be written or used: cause and remedy in one line. */
export class SnapshotError extends InputError<SnapshotErrorCode> {}

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
