/** `domlab lab`: the lab as a whole, its settings, its log, its end, and snapshots of all its machines at one moment. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Command } from "commander";
import { errnoOf } from "../../engine/builder/errors.ts";
import { oneLine } from "../../engine/errors/input-error.ts";
import { BadInput } from "../failure.ts";
import { showSize } from "../image-commands.ts";
import type { ControlResult } from "../lab/control-api.ts";
import { table } from "../table.ts";
import {
  type CommandContext,
  JSON_OPTION,
  type LabClient,
  longRun,
  say,
  tellAll,
  waitWith,
  withLab,
} from "./context.ts";
import { showDate } from "./show.ts";

interface Raw {
  readonly json?: boolean;
  readonly note?: string;
  readonly machines?: string;
  readonly machine?: readonly string[];
  readonly force?: boolean;
  readonly members?: boolean;
  readonly follow?: boolean;
}

/** File of the lab's log in its folder, and the one that it was before it grew too long. */
const LOG_FILES = ["lab.log.1", "lab.log"];

const NOT_RUNNING = "the lab does not run: it starts with the first command that needs it";

const several = (text: string, others: readonly string[] = []): string[] => [...others, text];

function infoText(info: ControlResult<"labInfo">): string {
  const rows = [
    ["Lab", info.name],
    ["Folder", info.home],
    ["Process", info.pid],
    ["Since", showDate(info.started)],
    ["Version", info.version],
    ["Machines", `${info.machines}, of which ${info.running} run`],
    ["Clients", info.clients],
    ["Free", showSize(info.freeBytes)],
    ...info.warnings.map((warning) => ["Warning", warning]),
  ];
  return rows.map(([name, value]) => `${`${name}:`.padEnd(10)} ${oneLine(String(value))}\n`).join("");
}

/** A setting as the lab takes it: yes and no, numbers, other words. */
function settingValue(text: string): boolean | number | string {
  if (/^(on|yes|true)$/i.test(text)) return true;
  if (/^(off|no|false)$/i.test(text)) return false;
  return /^-?\d{1,9}(\.\d{1,6})?$/.test(text) ? Number(text) : text;
}

/** "purgeDays=30" … @throws BadInput */
export function parseSettings(settings: readonly string[]): Record<string, boolean | number | string> {
  const pairs = settings.map((setting) => {
    const equals = setting.indexOf("=");
    if (equals > 0) return [setting.slice(0, equals).trim(), settingValue(setting.slice(equals + 1).trim())] as const;
    throw new BadInput("bad-option", `"${setting}" sets nothing`, "write key=value, for example purgeDays=30");
  });
  return Object.fromEntries(pairs);
}

/** Names of machines by their ids. */
async function namesOf(lab: LabClient): Promise<Map<string, string>> {
  const machines = await lab.call("machineList", {});
  return new Map(machines.map(({ id, name }) => [id, name]));
}

/** The machines of a snapshot, by name. */
function memberNames(members: ControlResult<"labSnapshotList">[number]["members"]): string {
  const names = members.map(({ name, present }) => (present ? name : `${name} (gone)`));
  return names.sort().join(",");
}

async function quit(context: CommandContext, raw: Raw): Promise<void> {
  const { machines } = raw;
  if (machines !== undefined && machines !== "suspend" && machines !== "shutdown" && machines !== "destroy") {
    throw new BadInput(
      "bad-option",
      `--machines ${machines} is no way to end machines`,
      "say suspend, shutdown or destroy",
    );
  }
  const lab = await context.connectRunning();
  if (lab === undefined) return context.tell("the lab does not run");
  try {
    const call = lab.call("labQuit", { ...(machines !== undefined && { machines }) });
    const { notes } = await waitWith(context, "ending the machines", "the lab goes on with its end", call);
    tellAll(context, notes);
    await waitWith(context, "ending the lab", "the lab goes on with its end", lab.ended);
  } finally {
    lab.close();
  }
}

/** Prints the log, and with `follow` the lines that come, until the lab ends. */
async function printLabLog(context: CommandContext, follow: boolean): Promise<void> {
  const lab = follow ? await context.connectRunning() : undefined;
  try {
    const waiting: string[] = [];
    let printed = false;
    const stop = lab?.onEvent((event) => {
      if (event.kind !== "log") return;
      const line = `${event.date} ${oneLine(event.line)}\n`;
      if (printed) context.print(line);
      else waiting.push(line);
    });
    await lab?.call("subscribe", { topics: ["log"] });
    let text = "";
    for (const name of LOG_FILES) {
      try {
        text += await readFile(join(await context.home(), name), "utf8");
      } catch (error) {
        if (errnoOf(error) !== "ENOENT") throw error;
      }
    }
    context.print(text);
    printed = true;
    // Lines that came meanwhile are in the file, or not yet.
    for (const line of waiting) if (!text.includes(line)) context.print(line);
    if (follow && lab === undefined) context.tell("the lab does not run");
    await lab?.ended;
    stop?.();
  } finally {
    lab?.close();
  }
}

function addLabSnapshots(lab: Command, context: CommandContext): void {
  const snapshot = lab.command("snapshot").description("Snapshots of all machines at one moment.");
  snapshot
    .command("take [name]")
    .description("Keep the state of all machines, those that run with their memory, at one moment.")
    .option("--note <text>", "what it is for")
    .option("--machine <machine>", "only this one (repeatable)", several)
    .option(...JSON_OPTION)
    .action((name: string | undefined, raw: Raw) =>
      withLab(context, async (client) => {
        const call = (operation: string) =>
          client.call("labSnapshotTake", {
            ...(name !== undefined && { name }),
            ...(raw.note !== undefined && { note: raw.note }),
            ...(raw.machine !== undefined && { machines: [...raw.machine] }),
            operation,
          });
        const taken = await longRun(context, client, call);
        const names = await namesOf(client);
        const rows = taken.members.map(({ machine, pausedMs }) => [
          names.get(machine) ?? machine,
          `${Math.round(pausedMs)} ms`,
        ]);
        say(context, raw, taken, `${oneLine(taken.name)} is taken\n${table([["Machine", "Stood still"], ...rows])}`);
      }),
    );
  snapshot
    .command("list")
    .description("Show the lab's snapshots and whose states they hold.")
    .option(...JSON_OPTION)
    .action((raw: Raw) =>
      withLab(context, async (client) => {
        const rows = await client.call("labSnapshotList", {});
        const cells = rows.map(({ name, date, members, note }) => [name, showDate(date), memberNames(members), note]);
        say(context, raw, rows, table([["Snapshot", "Taken", "Machines", "Note"], ...cells]));
      }),
    );
  snapshot
    .command("restore <snapshot> [machine...]")
    .description("Put all machines back to that moment, or those that are named.")
    .option("--force", "even those that run: they are destroyed first")
    .action((wanted: string, machines: string[], raw: Raw) =>
      withLab(context, async (client) => {
        const call = (operation: string) =>
          client.call("labSnapshotRestore", {
            snapshot: wanted,
            ...(machines.length > 0 && { machines }),
            ...(raw.force && { force: true }),
            operation,
          });
        const { restored, notes } = await longRun(context, client, call);
        tellAll(context, notes);
        context.print(`at ${wanted} again: ${restored.join(", ") || "no machine"}\n`);
      }),
    );
  snapshot
    .command("delete <snapshot>")
    .description("Delete a snapshot of the lab.")
    .option("--members", "the machines' snapshots that it consists of, too")
    .action((wanted: string, raw: Raw) =>
      withLab(context, async (client) => {
        const call = (operation: string) =>
          client.call("labSnapshotDelete", { snapshot: wanted, ...(raw.members && { members: true }), operation });
        await longRun(context, client, call);
      }),
    );
}

/** Adds the group `lab`. */
export function addLabGroup(program: Command, context: CommandContext): void {
  const lab = program.command("lab").description("The lab as a whole: info, settings, log, quit, snapshot.");
  lab
    .command("info")
    .description("Show where the lab is and how it does. Starts none.")
    .option(...JSON_OPTION)
    .action(async (raw: Raw) => {
      const client = await context.connectRunning();
      if (client === undefined) {
        const home = await context.home();
        return say(context, raw, { open: false, home }, `Folder:    ${oneLine(home)}\n${NOT_RUNNING}\n`);
      }
      try {
        const info = await client.call("labInfo", {});
        say(context, raw, { open: true, ...info }, infoText(info));
      } finally {
        client.close();
      }
    });
  lab
    .command("settings [settings...]")
    .description("Show or change the lab's settings: suspendOnQuit, defaultPlacement, purgeDays.")
    .option(...JSON_OPTION)
    .addHelpText("after", "\nExample:\n  domlab lab settings suspendOnQuit=off purgeDays=30")
    .action((settings: string[], raw: Raw) => {
      const change = parseSettings(settings);
      return withLab(context, async (client) => {
        const now = await client.call("labSettings", settings.length === 0 ? {} : { change });
        const lines = Object.entries(now).map(([key, value]) => `${key}=${oneLine(String(value))}\n`);
        say(context, raw, now, lines.join(""));
      });
    });
  lab
    .command("quit")
    .description("End the lab. Machines that run are suspended, or shut down, as each is set to.")
    .option("--machines <how>", "end all machines in one way: suspend, shutdown or destroy")
    .action((raw: Raw) => quit(context, raw));
  lab
    .command("log")
    .description("Show what the lab has logged.")
    .option("--follow", "go on with lines that come")
    .action((raw: Raw) => printLabLog(context, raw.follow ?? false));
  addLabSnapshots(lab, context);
}
