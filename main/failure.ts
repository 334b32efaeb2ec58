import { InputError, oneLine } from "../engine/errors/input-error.ts";
import { messageOf } from "../engine/errors/message.ts";

/** Exit statuses of the command line, besides a guest command's own. */
export const EXIT_OK = 0;
/** The guest crashed, or ended before it could say how its command ended. */
export const EXIT_CRASHED = 1;
/** Bad input: the message names cause and remedy. */
export const EXIT_BAD_INPUT = 2;
/** --timeout ran out; the number timeout(1) uses. */
export const EXIT_TIMEOUT = 124;
/** The user stopped the guest with Ctrl-C; 128 + SIGINT, as shells count. */
export const EXIT_INTERRUPTED = 130;

/** A wrong option or an unusable folder: cause and remedy in one line, exit status 2. */
export class BadInput extends InputError<"bad-option" | "bad-folder"> {}

/** What another process of ours refused: its line as it is, and its exit status. */
export class PassedOn extends Error {
  readonly status: number;

  constructor(line: string, status: number) {
    super(line);
    this.name = "PassedOn";
    this.status = status;
  }
}

/** Text of the operating system's own errors, by code; what is not here is shown with its code alone. */
const systemErrors: Readonly<Record<string, string>> = {
  ENOENT: "does not exist; check the path",
  EACCES: "may not be read or written; check its permissions",
  EPERM: "may not be changed; check its permissions",
  EISDIR: "is a folder; name a file",
  ENOTDIR: "lies below something that is not a folder; check the path",
  ENOSPC: "cannot be written: no space left on the device; free some or choose another place",
  EROFS: "lies on a read-only file system; choose another place",
  EMFILE: "cannot be opened: too many open files; raise ulimit -n",
  ENOMEM: "cannot be had: the host is out of memory; close something or give the guest less with --memory",
};

function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return error instanceof Error && "code" in error && typeof error.code === "string";
}

/** Whether the message already is one line with cause and remedy; errors from a domain process come without a class. */
function isToldPlainly(error: Error): boolean {
  return error instanceof InputError || ("remedy" in error && typeof error.remedy === "string");
}

/**
 * One line that tells the user what went wrong, and the exit status that goes with it: 2 for everything that the user can
 * mend (options, files, space), 1 for a bug of the program, of which `stack` is then worth showing.
 */
export function explain(error: unknown): { line: string; status: number; stack?: string } {
  if (error instanceof PassedOn) return { line: oneLine(error.message), status: error.status };
  if (error instanceof Error && isToldPlainly(error)) return { line: oneLine(error.message), status: EXIT_BAD_INPUT };
  if (isSystemError(error) && error.code !== undefined && error.path !== undefined && error.code in systemErrors) {
    return { line: `${error.path} ${systemErrors[error.code]}`, status: EXIT_BAD_INPUT };
  }
  const message = messageOf(error);
  const stack = error instanceof Error ? error.stack : undefined;
  return { line: `internal error: ${oneLine(message)}`, status: EXIT_CRASHED, ...(stack && { stack }) };
}
