/** What can be wrong with a lab's records, as the user is told: one line with cause and remedy. */
import type { z } from "zod";
import { errnoOf } from "../../../engine/builder/errors.ts";
import { InputError } from "../../../engine/errors/input-error.ts";
import { messageOf } from "../../../engine/errors/message.ts";

/** What went wrong, for programs; the message says it for people. */
export type StoreErrorCode =
  | "lab-in-use"
  | "later-version"
  | "unusable-folder"
  | "not-written"
  | "bad-records"
  | "bad-config"
  | "bad-name"
  | "name-taken"
  | "no-machine";

/** A lab, record, name or configuration that cannot be used as it is. */
export class StoreError extends InputError<StoreErrorCode> {}

/** "config.disks.0.vdev" */
export function pathText(path: readonly PropertyKey[]): string {
  return path.map(String).join(".");
}

/** The first of a schema's complaints: where, and what. */
export function issueText(error: z.ZodError): string {
  const { path, what } = firstIssue(error);
  return path.length === 0 ? what : `${pathText(path)}: ${what}`;
}

/** The first of a schema's complaints, taken apart: our own messages are "what; remedy". */
export function firstIssue(error: z.ZodError): { path: readonly PropertyKey[]; what: string; remedy: string } {
  const [issue] = error.issues;
  const message = issue?.code === "unrecognized_keys" ? `unknown key ${issue.keys.join(", ")}` : issue?.message;
  const [what = "", ...rest] = (message ?? "it is wrong").split("; ");
  return { path: issue?.path ?? [], what, remedy: rest.join("; ") || "correct it" };
}

const REMEDIES: Readonly<Record<string, string>> = {
  ENOSPC: "free some space; nothing was changed",
  EDQUOT: "free some of your quota; nothing was changed",
  EACCES: "check the folder's permissions; nothing was changed",
  EPERM: "check the folder's permissions; nothing was changed",
  EROFS: "choose another folder (DOMLAB_HOME); nothing was changed",
};
const CAUSES: Readonly<Record<string, string>> = {
  ENOSPC: "no space left on the device",
  EDQUOT: "the disk quota is used up",
  EACCES: "permission denied",
  EPERM: "permission denied",
  EROFS: "read-only file system",
};

/** A file of the lab that could not be written; what it held before is still there. */
export function writeError(file: string, error: unknown): StoreError {
  const code = errnoOf(error);
  const cause = (code && CAUSES[code]) ?? code ?? messageOf(error);
  const remedy = (code && REMEDIES[code]) ?? "check the disk; nothing was changed";
  return new StoreError("not-written", `${file} cannot be written: ${cause}`, remedy, error);
}

/** Does what writes a file; what the system has against it becomes one line. @throws StoreError "not-written"; `action`'s own */
export async function writing<Result>(file: string, action: () => Promise<Result>): Promise<Result> {
  try {
    return await action();
  } catch (error) {
    const isSystems = !(error instanceof InputError) && /^E[A-Z]+$/.test(errnoOf(error) ?? "");
    throw isSystems ? writeError(file, error) : error;
  }
}
