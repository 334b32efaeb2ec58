/** `domlab check`: what does not work on this host, before it fails. */
import type { Command } from "commander";
import { EXIT_CRASHED, EXIT_OK } from "./failure.ts";
import type { HostCheck } from "./lab/view-api.ts";
import { table } from "./table.ts";

export interface CheckCommandOptions {
  readonly look: () => Promise<readonly HostCheck[]>;
  readonly print: (text: string) => void;
  readonly setStatus: (status: number) => void;
}

const word = ({ ok, severity }: HostCheck): string => (ok ? "ok" : severity === "blocks" ? "missing" : "limited");

/** Adds `check`; its exit status is 1 when something is missing without which nothing works. */
export function addCheckCommand(program: Command, { look, print, setStatus }: CheckCommandOptions): void {
  program
    .command("check")
    .description("Show what works on this host, and what to do about the rest. Exit status 1: no machine can run.")
    .option("--json", "print JSON")
    .action(async ({ json }: { readonly json?: boolean }) => {
      const checks = await look();
      const rows = checks.map((check) => [
        word(check),
        check.title,
        check.ok ? "" : [check.cause, check.remedy].filter((text) => text !== undefined).join("; "),
      ]);
      print(json ? `${JSON.stringify(checks)}\n` : table([["", "Check", "What to do"], ...rows]));
      setStatus(checks.some(({ ok, severity }) => !ok && severity === "blocks") ? EXIT_CRASHED : EXIT_OK);
    });
}
