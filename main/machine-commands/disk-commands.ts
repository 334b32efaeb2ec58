/** `domlab disk`: disks of a machine, which stay with it; those of a running guest change at once. */
import type { Command } from "commander";
import { BadInput } from "../failure.ts";
import { parseSize, showSize } from "../image-commands.ts";
import type { MachineDetails } from "../lab/machine-api.ts";
import { table } from "../table.ts";
import { type CommandContext, JSON_OPTION, type LabClient, longRun, say, withLab } from "./context.ts";
import type { NewDiskWish } from "./create-options.ts";

interface Raw {
  readonly json?: boolean;
  readonly format?: string;
  readonly from?: string;
  readonly copy?: boolean;
  readonly force?: boolean;
}

/** The disks of a machine, one a line. */
export function diskTable(disks: MachineDetails["disks"]): string {
  const rows = disks.map(({ vdev, format, access, size, used, source, available, reason }) => [
    vdev,
    format,
    access,
    size === undefined ? "" : showSize(size),
    used === undefined ? "" : showSize(used),
    available ? source : `${source} (unavailable${reason === undefined ? "" : `: ${reason}`})`,
  ]);
  return table([["Vdev", "Format", "Access", "Size", "On disk", "Image"], ...rows]);
}

const when = (machine: string, live: boolean): string => (live ? "" : ` when ${machine} starts`);

/** Bytes of "20G", or of "+5G" counted from what the disk has. */
async function wantedSize(lab: LabClient, machine: string, vdev: string, text: string): Promise<number> {
  if (text.startsWith("-")) {
    throw new BadInput("bad-option", "disks of machines are not made smaller", "make a smaller one and copy over");
  }
  if (!text.startsWith("+")) return parseSize(text);
  const more = parseSize(text.slice(1));
  const { disks } = await lab.call("machineShow", { machine });
  const disk = disks.find((each) => each.vdev === vdev);
  if (disk?.size !== undefined) return disk.size + more;
  const known = disks.map((each) => each.vdev).join(", ") || "none";
  const what = disk === undefined ? `${machine} has no disk ${vdev}` : `the size of ${vdev} cannot be read`;
  throw new BadInput("bad-option", what, disk === undefined ? `it has ${known}` : "name the size that it is to have");
}

/** What `disk create` is to make. @throws BadInput */
function newDisk(vdev: string, text: string | undefined, { format = "qcow2", from, copy }: Raw): NewDiskWish {
  const bad = (what: string, remedy: string) => new BadInput("bad-option", what, remedy);
  if (format !== "qcow2" && format !== "raw") {
    throw bad(`--format ${format} is no format that is known here`, "use raw or qcow2");
  }
  if (from === "") throw bad("--from is empty", "name an image of the library: domlab image list");
  if (copy && from === undefined) throw bad("--copy without --from: there is nothing to copy", "name an image");
  if (text === undefined && from === undefined) {
    throw bad("an empty disk needs a size", "give it one such as 10G, or an image with --from");
  }
  return {
    vdev,
    format,
    ...(text !== undefined && { size: parseSize(text) }),
    ...(from !== undefined && { from }),
    ...(copy && { copy }),
  };
}

/** Adds the group `disk`. */
export function addDiskCommands(program: Command, context: CommandContext): void {
  const disk = program.command("disk").description("Disks of a machine: list, attach, create, detach, resize.");
  disk
    .command("list <machine>")
    .description("Show the disks of a machine.")
    .option(...JSON_OPTION)
    .action((machine: string, raw: Raw) =>
      withLab(context, async (lab) => {
        const { disks } = await lab.call("machineShow", { machine });
        say(context, raw, disks, diskTable(disks));
      }),
    );
  disk
    .command("attach <machine> <disk>")
    .description("Give a machine a disk that is there, in xl's syntax; it stays with the machine.")
    .addHelpText("after", "\nExample:\n  domlab disk attach web data.qcow2,,xvdc,ro")
    .action((machine: string, text: string) =>
      withLab(context, async (lab) => {
        const { vdev, live } = await lab.call("diskAttach", { machine, disk: text, cwd: context.cwd() });
        context.print(`${vdev} is attached${when(machine, live)}\n`);
      }),
    );
  disk
    .command("create <machine> <vdev> [size]")
    .description("Give a machine a new disk: empty, or with --from like an image of the library.")
    .option("--format <format>", "qcow2 (default) or raw")
    .option("--from <image>", "an image of the library that it begins as")
    .option("--copy", "with --from: a copy of it, instead of an overlay over it")
    .addHelpText("after", "\nExamples:\n  domlab disk create web xvdb 10G\n  domlab disk create web xvdc --from base")
    .action((machine: string, vdev: string, text: string | undefined, raw: Raw) => {
      const disk = newDisk(vdev, text, raw);
      return withLab(context, async (lab) => {
        const made = await lab.call("diskCreate", { machine, disk });
        context.print(`${made.vdev} is made${when(machine, made.live)}: ${made.path}\n`);
      });
    });
  disk
    .command("detach <machine> <vdev>")
    .description("Take a disk from a machine; its image is kept.")
    .option("--force", "even if the guest does not give it up")
    .action((machine: string, vdev: string, raw: Raw) =>
      withLab(context, async (lab) => {
        const call = (operation: string) =>
          lab.call("diskDetach", { machine, vdev, ...(raw.force && { force: true }), operation });
        const { source } = await longRun(context, lab, call);
        context.print(`${vdev} is detached; its image is ${source}\n`);
      }),
    );
  disk
    .command("resize <machine> <vdev> <size>")
    .description("Make a disk larger: 20G, or +5G. A running guest sees the new size at once.")
    // "-1G" is an answer of ours, and no option.
    .allowUnknownOption()
    .action((machine: string, vdev: string, text: string) =>
      withLab(context, async (lab) => {
        const size = await wantedSize(lab, machine, vdev, text);
        const call = (operation: string) => lab.call("diskResize", { machine, vdev, size, operation });
        const done = await longRun(context, lab, call);
        context.print(`${vdev} has ${showSize(done.size)} now${done.live ? ", and the guest knows" : ""}\n`);
      }),
    );
}
