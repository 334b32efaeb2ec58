/** A machine is started, with or without this terminal on its console. */
import { attachConsole, consoleEnd, hintSize } from "../console-command.ts";
import { type CommandContext, type LabClient, longRun } from "./context.ts";

/** @param console attach to the console, from the first line of this start on */
export async function startWithConsole(
  context: CommandContext,
  lab: LabClient,
  machine: string,
  console: boolean,
): Promise<void> {
  const from = console ? await consoleEnd(lab, machine) : undefined;
  // Before the start: the image's shell is told the terminal's size then.
  if (console) await hintSize(lab, machine);
  await longRun(context, lab, (operation) => lab.call("machineStart", { machine, operation }));
  if (from !== undefined) context.setStatus(await attachConsole(lab, machine, { from }));
}
