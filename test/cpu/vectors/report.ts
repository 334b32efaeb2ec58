/** What the tests of the golden vectors share. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Outcome } from "./replay.ts";

/** Path of the compiled core. */
export const CORE = fileURLToPath(new URL("../../../dist/engine/cpu/core.wasm", import.meta.url));
/** Random programs that must have been replayed. */
export const LEAST_PROGRAMS = 2000;
const LINES = 20;

export function vectorFile(name: string): Uint8Array {
  return readFileSync(fileURLToPath(new URL(`${name}.bin.br`, import.meta.url)));
}

/** At most 20 lines: the first failure of each form. */
export function report(outcome: Outcome): string {
  const first = new Map<string, string>();
  for (const { form, index, bytes, difference } of outcome.failures) {
    if (!first.has(form)) first.set(form, `${form}  #${index}  ${bytes}  ${difference}`);
  }
  const lines = [...first.values()].slice(0, LINES - 1);
  return [`${outcome.failures.length} of ${outcome.cases} cases differ, in ${first.size} forms`, ...lines].join("\n");
}
