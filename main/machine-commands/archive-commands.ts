/** `domlab export` and `domlab import`: machines as configurations of xl's or domlab's, and whole, as archives. */
import { randomBytes } from "node:crypto";
import { rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, extname, resolve } from "node:path";
import type { Command } from "commander";
import { errnoOf } from "../../engine/builder/errors.ts";
import { BadInput } from "../failure.ts";
import { showSize } from "../image-commands.ts";
import { readUserText } from "../user-text.ts";
import { type CommandContext, checkMachineName, JSON_OPTION, longRun, say, tellAll, withLab } from "./context.ts";

/** Ending of archives. */
const ENDING = ".domlab";

interface RawImport {
  readonly name?: string;
  readonly json?: boolean;
}

interface RawExport {
  readonly archive?: string | boolean;
  readonly json?: boolean;
  readonly force?: boolean;
}

/** A new file, whole or not at all; one that is there is replaced with --force only. */
async function writeNew(file: string, text: string, force: boolean): Promise<void> {
  const facts = await stat(file).catch(() => undefined);
  // A pipe or a terminal is written to, and not replaced.
  const inPlace = force && facts !== undefined && !facts.isFile();
  const work = force && !inPlace ? `${file}.${randomBytes(4).toString("hex")}.tmp` : file;
  try {
    await writeFile(work, text, { flag: inPlace ? "w" : "wx" });
    if (work !== file) await rename(work, file);
  } catch (error) {
    if (errnoOf(error) === "EEXIST") {
      throw new BadInput("bad-option", `${file} exists already`, "name another file, or say --force", error);
    }
    if (!inPlace) await rm(work, { force: true }).catch(() => {});
    // Writing, unlike opening, fails without saying what was written.
    if (error instanceof Error) Object.assign(error, { path: file });
    throw error;
  }
}

async function importConfig(context: CommandContext, file: string, raw: RawImport): Promise<void> {
  const cwd = context.cwd();
  const text = await readUserText(cwd, file);
  // Read here first: messages name the file, and a bad one starts no lab.
  const { importXlConfig } = await import("../lab/xl-config/import.ts");
  importXlConfig(text, { file: basename(file), cwd });
  await withLab(context, async (lab) => {
    const name = raw.name === undefined ? {} : { name: raw.name };
    const call = (operation: string) => lab.call("configImport", { text, cwd, ...name, operation });
    const { notes, ...made } = await longRun(context, lab, call);
    tellAll(context, notes);
    say(context, raw, made, `${made.name} is made; start it: domlab start ${made.name}\n`);
  });
}

async function importArchive(context: CommandContext, file: string, raw: RawImport): Promise<void> {
  const path = resolve(context.cwd(), file);
  await withLab(context, async (lab) => {
    const name = raw.name === undefined ? {} : { name: raw.name };
    const call = (operation: string) => lab.call("machineImport", { path, ...name, operation });
    const { notes, ...made } = await longRun(context, lab, call);
    tellAll(context, notes);
    say(context, raw, made, `${made.name} is made; start it: domlab start ${made.name}\n`);
  });
}

async function importFile(context: CommandContext, file: string, raw: RawImport): Promise<void> {
  if (raw.name !== undefined) checkMachineName(raw.name);
  if (file === "") throw new BadInput("bad-option", "the file's name is empty", "name a file");
  const { looksLikeArchive } = await import("../lab/archive/unpack.ts");
  if (await looksLikeArchive(resolve(context.cwd(), file))) return await importArchive(context, file, raw);
  if (extname(file) !== ENDING) return await importConfig(context, file, raw);
  const remedy = "export the machine again: domlab export NAME --archive";
  throw new BadInput("bad-option", `${file} is no archive of a machine`, remedy);
}

async function exportConfig(context: CommandContext, machine: string, file: string | undefined, raw: RawExport) {
  await withLab(context, async (lab) => {
    let text: string;
    if (raw.json) {
      const [{ formatMachineConfig }, { machineConfig }] = await Promise.all([
        import("../lab/store/config-file.ts"),
        import("../lab/store/machine-config.ts"),
      ]);
      text = formatMachineConfig(machineConfig.parse((await lab.call("machineShow", { machine })).config));
    } else {
      const exported = await lab.call("configExport", { machine });
      tellAll(context, exported.notes);
      text = exported.text;
    }
    if (file === undefined) context.print(text);
    else if (file === "") throw new BadInput("bad-option", "the file's name is empty", "name one or leave it out");
    else await writeNew(resolve(context.cwd(), file), text, raw.force ?? false);
  });
}

async function exportArchive(context: CommandContext, machine: string, file: string | undefined, raw: RawExport) {
  if (raw.json) throw new BadInput("bad-option", "--archive and --json are two forms", "say one of them");
  if (file === "") throw new BadInput("bad-option", "the file's name is empty", "name one or leave it out");
  const path = resolve(context.cwd(), file ?? `${machine}${ENDING}`);
  await withLab(context, async (lab) => {
    const force = raw.force ?? false;
    const call = (operation: string) => lab.call("machineExport", { machine, path, force, operation });
    const { notes, bytes } = await longRun(context, lab, call);
    tellAll(context, notes);
    context.print(`${path}: ${showSize(bytes)}\n`);
  });
}

/** Adds `import` and `export`. */
export function addArchiveCommands(program: Command, context: CommandContext): void {
  program
    .command("import <file>")
    .description("Make a machine from an archive, or from a configuration file of xl's.")
    .option("--name <name>", "call it so, whatever the file says")
    .option(...JSON_OPTION)
    .action((file: string, raw: RawImport) => importFile(context, file, raw));
  program
    .command("export <machine> [file]")
    .description(
      "Write a machine as a configuration file of xl's, with --json as one of domlab's, or whole with --archive.",
    )
    .option("--archive [file]", "the machine with its disks in one file, for domlab import (default: NAME.domlab)")
    .option("--json", "the machine's configuration as JSON, for domlab create -f and domlab set -f")
    .option("--force", "overwrite the file")
    .action((machine: string, file: string | undefined, raw: RawExport) => {
      if (raw.archive === undefined) return exportConfig(context, machine, file, raw);
      const named = typeof raw.archive === "string" ? raw.archive : file;
      return exportArchive(context, machine, named, raw);
    });
}
