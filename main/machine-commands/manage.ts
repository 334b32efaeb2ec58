/** Commands that change, copy, remove and take back machines, and those that read and write their configurations. */
import type { Command } from "commander";
import { BadInput } from "../failure.ts";
import { table } from "../table.ts";
import { readUserText } from "../user-text.ts";
import { addArchiveCommands } from "./archive-commands.ts";
import {
  type CommandContext,
  checkMachineName,
  eachMachine,
  JSON_OPTION,
  longRun,
  say,
  tellAll,
  withLab,
} from "./context.ts";
import { machineText, showDate } from "./show.ts";

interface Raw {
  readonly json?: boolean;
  readonly linked?: boolean;
  readonly file?: string;
  readonly force?: boolean;
  readonly name?: string;
}

function addRemovalCommands(program: Command, context: CommandContext): void {
  program
    .command("delete <machine...>")
    .description("Delete machines. They can be taken back until they are purged, by themselves after some days.")
    .action((machines: string[]) =>
      withLab(context, (lab) =>
        eachMachine(context, machines, async (machine) => {
          const { purgeAfter } = await lab.call("machineDelete", { machine });
          context.print(
            `${machine} is deleted; until ${showDate(purgeAfter)} domlab undelete ${machine} takes it back\n`,
          );
        }),
      ),
    );
  program
    .command("undelete <machine...>")
    .description("Take deleted machines back.")
    .action((machines: string[]) =>
      withLab(context, (lab) =>
        eachMachine(context, machines, async (machine) => {
          const { name } = await lab.call("machineUndelete", { machine });
          context.print(name === machine ? `${name} is back\n` : `${machine} is back as ${name}\n`);
        }),
      ),
    );
  program
    .command("purge <machine...>")
    .description("Remove deleted machines for good, with their disks and snapshots.")
    .action((machines: string[]) =>
      withLab(context, (lab) =>
        eachMachine(context, machines, async (machine) => {
          await lab.call("machinePurge", { machine });
        }),
      ),
    );
}

function addNameCommands(program: Command, context: CommandContext): void {
  program
    .command("rename <machine> <name>")
    .description("Give a machine another name.")
    .action((machine: string, name: string) => {
      checkMachineName(name);
      return withLab(context, async (lab) => {
        await lab.call("machineRename", { machine, name });
      });
    });
  program
    .command("clone <machine> <name>")
    .description("Make a machine like another one, with copies of its disks and addresses of its own.")
    .option("--linked", "share what both have in common: made at once, and small")
    .option(...JSON_OPTION)
    .addHelpText("after", "\nExample:\n  domlab clone web web2 --linked")
    .action((machine: string, name: string, raw: Raw) => {
      checkMachineName(name);
      return withLab(context, async (lab) => {
        const call = (operation: string) =>
          lab.call("machineClone", { machine, name, linked: raw.linked ?? false, operation });
        const { notes, ...made } = await longRun(context, lab, call);
        tellAll(context, notes);
        say(context, raw, made, `${made.name} is made\n`);
      });
    });
}

function addSettingCommands(program: Command, context: CommandContext): void {
  program
    .command("set <machine> [settings...]")
    .description("Change what a machine is made of; an empty value sets it back to what is usual.")
    .option("-f, --file <file>", "take all of it from a JSON file, such as domlab export --json writes")
    .addHelpText(
      "after",
      [
        "",
        "Examples:",
        "  domlab set web memoryMiB=1024 autostart=on",
        "  domlab set web disks.xvdb.access=ro vifs.0.bridge=lan",
        "  domlab set web onCrash=restart notes=",
      ].join("\n"),
    )
    .action(async (machine: string, settings: string[], raw: Raw) => {
      if (settings.length === 0 && raw.file === undefined) {
        const remedy = `write key=value, for example memoryMiB=1024; domlab show ${machine} shows what there is`;
        throw new BadInput("bad-option", "nothing is to be set", remedy);
      }
      const config = raw.file === undefined ? undefined : await readConfig(raw.file, context.cwd());
      await withLab(context, async (lab) => {
        const { notes } = await lab.call("machineSet", {
          machine,
          ...(settings.length > 0 && { settings }),
          ...(config !== undefined && { config: JSON.parse(JSON.stringify(config)) }),
        });
        tellAll(context, notes);
      });
    });
  program
    .command("show <machine>")
    .description("Show everything about a machine.")
    .option(...JSON_OPTION)
    .action((machine: string, raw: Raw) =>
      withLab(context, async (lab) => {
        const details = await lab.call("machineShow", { machine });
        say(context, raw, details, machineText(details));
      }),
    );
}

async function readConfig(file: string, cwd: string) {
  const { parseMachineConfig } = await import("../lab/store/config-file.ts");
  return parseMachineConfig(await readUserText(cwd, file), file);
}

function addFileCommands(program: Command, context: CommandContext): void {
  addArchiveCommands(program, context);
  program
    .command("adopt [id]")
    .description(
      "Take up a machine that lies in the lab's folder and that the lab does not know; without an id list them.",
    )
    .option(...JSON_OPTION)
    .action((id: string | undefined, raw: Raw) =>
      withLab(context, async (lab) => {
        if (id !== undefined) {
          const { notes, ...made } = await lab.call("machineAdopt", { id });
          tellAll(context, notes);
          return say(context, raw, made, `${made.name} is taken up\n`);
        }
        const unknown = await lab.call("machineUnknown", {});
        const rows = unknown.map((each) => [each.id, each.name, each.damaged ?? ""]);
        say(context, raw, unknown, table([["Id", "Name", "Damaged"], ...rows]));
      }),
    );
}

/** Adds `delete`, `undelete`, `purge`, `rename`, `clone`, `set`, `show`, `import`, `export` and `adopt`. */
export function addManageCommands(program: Command, context: CommandContext): void {
  addSettingCommands(program, context);
  addNameCommands(program, context);
  addRemovalCommands(program, context);
  addFileCommands(program, context);
}
