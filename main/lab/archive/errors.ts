/** What can be wrong with an archive of a machine: one line with cause and remedy. */
import { InputError } from "../../../engine/errors/input-error.ts";

export type ArchiveErrorCode = "bad-archive" | "later-version" | "file-exists" | "bad-path" | "unreadable";

/** An archive that cannot be read or written; nothing was changed. */
export class ArchiveError extends InputError<ArchiveErrorCode> {}

/** @param what completes "web.domlab is no usable archive of a machine: …" */
export function badArchive(path: string, what: string, cause?: unknown): ArchiveError {
  const remedy = "export the machine again, or copy the file anew";
  return new ArchiveError("bad-archive", `${path} is no usable archive of a machine: ${what}`, remedy, cause);
}
