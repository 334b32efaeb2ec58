/** `domlab snapshot`: snapshots of one machine. */
import type { Command } from "commander";
import { BadInput } from "../failure.ts";
import { type CommandContext, checkMachineName, JSON_OPTION, longRun, say, tellAll, withLab } from "./context.ts";
import { snapshotTree } from "./snapshot-tree.ts";

interface Raw {
  readonly json?: boolean;
  readonly note?: string;
  readonly diskOnly?: boolean;
  readonly force?: boolean;
  /** False: --no-start. */
  readonly start?: boolean;
  readonly full?: boolean;
  readonly bridge?: string;
}

/** "after-upgrade is taken (running, the guest stood still for 12 ms)" */
function takenText(name: string, kind: "disk" | "running", pausedMs: number): string {
  const stood = kind === "running" ? `, the guest stood still for ${Math.round(pausedMs)} ms` : "";
  return `${name} is taken (${kind === "running" ? "disks and memory" : "disks"}${stood})\n`;
}

function addTakingCommands(snapshot: Command, context: CommandContext): void {
  snapshot
    .command("take <machine> [name]")
    .description("Keep a machine's state: its disks, and its memory when it runs, which it hardly notices.")
    .option("--note <text>", "what it is for")
    .option("--disk-only", "only the disks of a running machine, as after a power cut")
    .option(...JSON_OPTION)
    .addHelpText("after", "\nExample:\n  domlab snapshot take web before-upgrade --note 'the old database'")
    .action((machine: string, name: string | undefined, raw: Raw) =>
      withLab(context, async (lab) => {
        const call = (operation: string) =>
          lab.call("snapshotTake", {
            machine,
            ...(name !== undefined && { name }),
            ...(raw.note !== undefined && { note: raw.note }),
            ...(raw.diskOnly && { diskOnly: true }),
            operation,
          });
        const taken = await longRun(context, lab, call);
        say(context, raw, taken, takenText(taken.name, taken.kind, taken.pausedMs));
      }),
    );
  snapshot
    .command("clone <machine> <snapshot> <name>")
    .description("Make a machine that starts from a snapshot of another one.")
    .option("--full", "with disks of its own, instead of sharing what both have in common")
    .option("--bridge <switch>", "switch for its interfaces: with memory its addresses are those of the other machine")
    .option(...JSON_OPTION)
    .action((machine: string, wanted: string, name: string, raw: Raw) => {
      checkMachineName(name);
      return withLab(context, async (lab) => {
        const call = (operation: string) =>
          lab.call("snapshotClone", {
            machine,
            snapshot: wanted,
            name,
            linked: !raw.full,
            ...(raw.bridge !== undefined && { bridge: raw.bridge }),
            operation,
          });
        const { notes, ...made } = await longRun(context, lab, call);
        tellAll(context, notes);
        say(context, raw, made, `${made.name} is made; start it: domlab start ${made.name}\n`);
      });
    });
}

function addReturnCommands(snapshot: Command, context: CommandContext): void {
  snapshot
    .command("restore <machine> <snapshot>")
    .description("Put a machine back to a snapshot. What it did since is lost, unless you take another one first.")
    .option("--force", "even if it runs: it is destroyed first")
    .option("--no-start", "leave a snapshot with memory suspended")
    .action((machine: string, wanted: string, raw: Raw) =>
      withLab(context, async (lab) => {
        const call = (operation: string) =>
          lab.call("snapshotRestore", {
            machine,
            snapshot: wanted,
            ...(raw.force && { force: true }),
            ...(raw.start === false && { start: false }),
            operation,
          });
        const { state, notes } = await longRun(context, lab, call);
        tellAll(context, notes);
        context.print(`${machine} is at ${wanted} again, and ${state}\n`);
      }),
    );
  snapshot
    .command("delete <machine> <snapshot>")
    .description("Delete a snapshot; the machine and the other snapshots stay as they are.")
    .action((machine: string, wanted: string) =>
      withLab(context, async (lab) => {
        const call = (operation: string) => lab.call("snapshotDelete", { machine, snapshot: wanted, operation });
        const { deferred } = await longRun(context, lab, call);
        if (deferred) context.tell(`the space is given back when ${machine} stops: its disk is in use`);
      }),
    );
}

/** Adds the group `snapshot`. */
export function addSnapshotCommands(program: Command, context: CommandContext): void {
  const snapshot = program
    .command("snapshot")
    .description("Snapshots of a machine: take, list, restore, delete, clone.");
  addTakingCommands(snapshot, context);
  snapshot
    .command("list <machine>")
    .description("Show a machine's snapshots as a tree, with the place where it is now.")
    .option(...JSON_OPTION)
    .action((machine: string, raw: Raw) =>
      withLab(context, async (lab) => {
        const rows = await lab.call("snapshotList", { machine });
        say(context, raw, rows, snapshotTree(rows));
      }),
    );
  addReturnCommands(snapshot, context);
  snapshot
    .command("rename <machine> <snapshot> <name>")
    .description("Give a snapshot another name.")
    .action((machine: string, wanted: string, name: string) =>
      withLab(context, async (lab) => {
        await lab.call("snapshotEdit", { machine, snapshot: wanted, name });
      }),
    );
  snapshot
    .command("note <machine> <snapshot> [text...]")
    .description("Write down what a snapshot is for; without a text the note is removed.")
    .action((machine: string, wanted: string, words: string[]) =>
      withLab(context, async (lab) => {
        const note = words.join(" ");
        if (note.length > 16_384)
          throw new BadInput("bad-option", "the note is too long", "use 16384 characters at most");
        await lab.call("snapshotEdit", { machine, snapshot: wanted, note });
      }),
    );
}
