/** The commands about the machines of the user's lab. */
import type { Command } from "commander";
import { oneLine } from "../../engine/errors/input-error.ts";
import { addConsoleCommand } from "../console-command.ts";
import { EXIT_INTERRUPTED } from "../failure.ts";
import { Progress } from "../progress.ts";
import type { CommandContext } from "./context.ts";
import { addCreateCommand } from "./create-command.ts";
import { addDiskCommands } from "./disk-commands.ts";
import { addLabGroup } from "./lab-group.ts";
import { addLifecycleCommands } from "./lifecycle.ts";
import { addListCommand } from "./list.ts";
import { addManageCommands } from "./manage.ts";
import { addSnapshotCommands } from "./snapshot-commands.ts";

/** Adds all of them, under a heading of their own in the program's help. @param root folder with the sockets of labs */
export function addMachineCommands(program: Command, context: CommandContext, root: () => string): void {
  const before = program.commands.length;
  addListCommand(program, context, root);
  addCreateCommand(program, context);
  addLifecycleCommands(program, context);
  addConsoleCommand(program, context);
  addManageCommands(program, context);
  addSnapshotCommands(program, context);
  addDiskCommands(program, context);
  addLabGroup(program, context);
  for (const command of program.commands.slice(before)) command.helpGroup("Machines of the lab:");
}

/** Context of the real program. */
export function programContext(version: string, setStatus: (status: number) => void): CommandContext {
  // Loaded when a command needs it, so that --help and wrong options answer at once.
  const server = () => import("../lab/server/ensure-lab.ts");
  const progress = new Progress(process.stderr);
  const listeners = new Set<() => void>();
  const interrupted = () => {
    if (listeners.size === 0) {
      progress.clear();
      process.exit(EXIT_INTERRUPTED);
    }
    for (const listener of [...listeners]) listener();
  };
  const home = async () => (await import("../lab/store/paths.ts")).labHome();
  return {
    connect: async () => (await server()).ensureLab({ version }),
    connectRunning: async () => (await server()).connectHome(await home()),
    home,
    cwd: () => process.cwd(),
    print: (text) => void process.stdout.write(text),
    tell: (line) => void process.stderr.write(`domlab: ${oneLine(line)}\n`),
    setStatus,
    progress,
    onInterrupt: (listener) => {
      // Stays from the first long work on: between two of several machines, too, the terminal is left clean.
      if (!process.listeners("SIGINT").includes(interrupted)) process.on("SIGINT", interrupted);
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}
