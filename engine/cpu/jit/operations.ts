/** What the build wrote for the compiler, beside the core. */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { OperationTable } from "./ir.ts";

let loaded: OperationTable | undefined;

/** Read at the first call, which takes some 15 ms. @throws Error when the build has not run */
export function loadOperations(): OperationTable {
  loaded ??= read();
  return loaded;
}

function read(): OperationTable {
  const file = new URL("../operations.json", import.meta.url);
  const built = file.pathname.includes("/dist/")
    ? file
    : new URL("../../../dist/engine/cpu/operations.json", import.meta.url);
  return JSON.parse(readFileSync(fileURLToPath(built), "utf8")) as OperationTable;
}
