/** The errors of captures that a user asks for. Each message is one line, "cause; remedy", ready to be printed as it is. */
import { InputError } from "../../errors/input-error.ts";
import { messageOf } from "../../errors/message.ts";

/** What went wrong, for programs; the message says it for people. */
export type CaptureErrorCode = "bad-filter" | "bad-option" | "unwritable-file" | "unreadable-file" | "not-a-capture";

/** A capture, or a capture file, that cannot be what the user asked for. */
export class CaptureError extends InputError<CaptureErrorCode> {}

/** What stands in the way of a file, from an error of node:fs: "no such directory" and the like. */
export function fileTrouble(error: unknown): { what: string; remedy: string } {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  switch (code) {
    case "ENOENT":
      return { what: "there is no such file or directory", remedy: "check the path" };
    case "EACCES":
    case "EPERM":
      return { what: "permission denied", remedy: "choose a path that this user may use" };
    case "EISDIR":
      return { what: "it is a directory", remedy: "name a file" };
    case "ENOTDIR":
      return { what: "a part of the path is no directory", remedy: "check the path" };
    case "ENOSPC":
    case "EDQUOT":
      return { what: "no space is left", remedy: "free some, or capture less with a filter or a snap length" };
    case "EROFS":
      return { what: "the file system is read-only", remedy: "choose another path" };
    default:
      return { what: messageOf(error), remedy: "check the path" };
  }
}
