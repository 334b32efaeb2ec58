/** The file that the compiler of hot code reads: what every operation and every generated handler does. */
import type { OperationTable, Statement } from "../jit/ir.ts";
import type { Case } from "./cases.ts";
import type { Operation } from "./forms.ts";
import { signatures, translate } from "./ir.ts";

/** Operations that steer the interpreter itself: the compiler knows them by name. */
const STEERING: ReadonlySet<string> = new Set([
  "stopped",
  "cold",
  "cold_jump",
  "stop",
  "resync",
  "cross",
  "jcc",
  "head",
  "compiled",
]);

/** Text of operations.json. */
export function operationTable(
  cases: readonly Case[],
  sequences: readonly (readonly Case[])[],
  handlers: readonly string[],
  cold: readonly Operation[],
): string {
  const bodies: Record<string, Statement[]> = {};
  for (const { name, text } of cases) if (!STEERING.has(name)) bodies[name] = translate(text);
  const templates: Record<string, Statement[]> = {};
  for (const { name, body } of cold) templates[name] = translate(body);
  const table: OperationTable = {
    names: [...cases.map(({ name }) => name), ...sequences.map((elements) => elements[0]?.name ?? "")],
    bodies,
    handlers,
    templates,
    signatures: signatures(),
  };
  return JSON.stringify(table);
}
