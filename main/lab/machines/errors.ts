/** What can be wrong with a wish about a machine: one line with cause and remedy. */
import { InputError } from "../../../engine/errors/input-error.ts";
import type { MachineState } from "../machine-api.ts";

/** What went wrong, for programs; the message says it for people. */
export type MachineErrorCode =
  | "unknown-machine"
  | "unknown-snapshot"
  | "wrong-state"
  | "protected"
  | "not-answering"
  | "unsupported"
  | "no-space"
  | "busy"
  | "cancelled"
  | "failed";

/** A machine that cannot do what was asked; nothing was changed unless the message says so. */
export class MachineError extends InputError<MachineErrorCode> {}

export function cancelled(what: string): MachineError {
  return new MachineError("cancelled", `${what} was cancelled`, "nothing was changed; start it again when you want it");
}

const REMEDIES: Partial<Record<MachineState, (name: string) => string>> = {
  stopped: (name) => `start it: domlab start ${name}`,
  running: (name) => `shut it down first: domlab shutdown ${name}`,
  paused: (name) => `unpause it first: domlab unpause ${name}`,
  suspended: (name) => `resume it: domlab start ${name}`,
  crashed: (name) => `start it, or clear it with domlab destroy ${name}`,
  deleted: (name) => `take it back first: domlab undelete ${name}`,
};

/** @param doing completes "it cannot be …" */
export function wrongState(name: string, state: MachineState, doing: string): MachineError {
  const remedy = REMEDIES[state]?.(name) ?? "wait until that is over";
  return new MachineError("wrong-state", `${name} is ${state}: it cannot be ${doing}`, remedy);
}
