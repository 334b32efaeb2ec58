import { writeFileSync } from "node:fs";
import type { DomainExit } from "../engine/domain/config.ts";

/** Saves what a crash left: cause, registers, last console lines. Throws the system's error when it cannot. */
export function writeCrashReport(file: string, exit: DomainExit & { reason: "crash" }): void {
  const { cause, registers, consoleTail } = exit;
  writeFileSync(file, `${JSON.stringify({ cause, registers, console: consoleTail }, null, 2)}\n`, { mode: 0o600 });
}
