/**
 * The process of the lab server. Its first line of output is for whoever started it: `ready <json>`, or `failed <json>` with the
 * line for the user; after that it writes to the lab's log only.
 */
import { writeSync } from "node:fs";
import { InputError } from "../../../engine/errors/input-error.ts";
import { explain } from "../../failure.ts";
import { LabServer } from "./lab-server.ts";

/** Writes the one line; a starter that is gone does not matter. */
function tell(word: "ready" | "failed", content: object): void {
  try {
    writeSync(1, `${word} ${JSON.stringify(content)}\n`);
  } catch {
    // EPIPE
  }
}

const [home, version = "", mode = ""] = process.argv.slice(2);

async function main(): Promise<number> {
  if (home === undefined) throw new Error("the lab's folder is missing");
  const server = await LabServer.open({ home, version, endsWhenIdle: mode === "ends-when-idle" });
  const quit = () => void server.quit(undefined);
  for (const signal of ["SIGTERM", "SIGINT"] as const) process.on(signal, quit);
  // The terminal that it was started from may go.
  process.on("SIGHUP", () => {});
  process.on("unhandledRejection", (reason) =>
    server.say(`internal error: ${explain(reason).stack ?? String(reason)}`),
  );
  process.on("uncaughtException", (error) => {
    // Machines are worth more than a clean end of a process with a bug: they are suspended before it goes.
    server.say(`internal error: ${error.stack ?? error.message}`);
    quit();
  });
  tell("ready", { lab: server.served.name, pid: process.pid, ...server.served.sockets });
  await server.ended;
  return 0;
}

try {
  process.exit(await main());
} catch (error) {
  const { line, status } = explain(error);
  tell("failed", { line, status, ...(error instanceof InputError && { code: String(error.code) }) });
  process.exit(status);
}
