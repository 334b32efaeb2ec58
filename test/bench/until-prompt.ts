import { spawn } from "node:child_process";
import { PromptWatch } from "../../main/prompt-watch.ts";

/** A boot that takes longer has failed. */
const LIMIT_MS = 180_000;

/**
 * Starts a program and measures the seconds from its start until its standard output shows a shell prompt; then ends it.
 * Rejects, with the end of what it printed, when it exits before or takes too long.
 */
export function secondsUntilPrompt(command: string, args: readonly string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    const begin = process.hrtime.bigint();
    const child = spawn(command, args, { stdio: ["pipe", "pipe", "pipe"] });
    const watch = new PromptWatch();
    let printed = "";
    let seconds: number | undefined;
    const note = (chunk: Buffer) => {
      printed = (printed + chunk.toString("latin1")).slice(-2000);
    };
    const limit = setTimeout(() => child.kill("SIGKILL"), LIMIT_MS);
    child.stderr.on("data", note);
    child.stdout.on("data", (chunk: Buffer) => {
      note(chunk);
      if (!watch.feed(chunk)) return;
      seconds = Number(process.hrtime.bigint() - begin) / 1e9;
      child.kill("SIGTERM");
    });
    child.on("error", reject);
    child.on("close", () => {
      clearTimeout(limit);
      if (seconds !== undefined) resolve(seconds);
      else reject(new Error(`${command} ended without a prompt; it printed: ${printed}`));
    });
  });
}
