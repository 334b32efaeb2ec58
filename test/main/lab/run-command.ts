/** The commands that any running lab answers, as a user types them. */
import { Command } from "commander";
import { addLabCommands } from "../../../main/lab-commands.ts";

/** Runs a command. @param root folder of the labs. @returns what it prints. @throws what the command throws */
export async function runLabCommand(root: string, ...args: string[]): Promise<string> {
  let output = "";
  const program = new Command().exitOverride().configureOutput({ outputError: () => {} });
  addLabCommands(program, {
    root: () => root,
    print: (text) => {
      output += text;
    },
  });
  await program.parseAsync(args, { from: "user" });
  return output;
}
