/** `domlab image list`, `import` and so on: the lab's library of disk images, of which machines are made. */
import { resolve } from "node:path";
import type { Command } from "commander";
import { oneLine } from "../../engine/errors/input-error.ts";
import { BadInput } from "../failure.ts";
import { details, parseSourceFormat, showSize } from "../image-commands.ts";
import type { ControlResult } from "../lab/control-api.ts";
import { LIBRARY_NAME } from "../lab/image-api.ts";
import { table } from "../table.ts";
import { type CommandContext, eachMachine, JSON_OPTION, type LabClient, longRun, say, withLab } from "./context.ts";
import { showDate } from "./show.ts";

type Row = ControlResult<"imageList">[number];
type Deleted = ControlResult<"imageDeleted">[number];

interface Raw {
  readonly json?: boolean;
  readonly all?: boolean;
  readonly deleted?: boolean;
  readonly name?: string;
  readonly move?: boolean;
  readonly sourceFormat?: string;
}

/** @throws BadInput for what no image can be called; whether the name is taken is the lab's to say */
function checkImageName(name: string): void {
  if (LIBRARY_NAME.test(name)) return;
  const rule = "use 1 to 128 letters, digits, dots, hyphens and underscores, a letter or digit first";
  throw new BadInput("bad-option", `"${name.slice(0, 100)}" is no name for an image`, rule);
}

const users = ({ usedBy }: Row): string => usedBy.join(",");
const size = ({ virtualSize }: Row): string => (virtualSize === undefined ? "" : showSize(virtualSize));

function libraryTable(rows: readonly Row[]): string {
  const cells = rows.map((row) => [row.name ?? "", row.format ?? "", size(row), showSize(row.size), users(row)]);
  return table([["Image", "Format", "Size", "On disk", "Used by"], ...cells]);
}

/** With base images, machines' disks, detached ones and memory of guests. */
function fileTable(rows: readonly Row[]): string {
  const cells = rows.map((row) => [
    row.managed ? "library" : row.kind,
    row.format ?? "",
    size(row),
    showSize(row.size),
    users(row),
    row.path,
  ]);
  return table([["Kind", "Format", "Size", "On disk", "Used by", "File"], ...cells]);
}

async function list(context: CommandContext, lab: LabClient, raw: Raw): Promise<void> {
  if (raw.deleted) {
    const rows = await lab.call("imageDeleted", {});
    const cells = rows.map(({ name, size: used, purgeAfter }) => [name, showSize(used), showDate(purgeAfter)]);
    if (rows.length === 0 && !raw.json) return context.tell("no deleted image can be taken back");
    return say(context, raw, rows, table([["Image", "On disk", "Kept until"], ...cells]));
  }
  const files = await lab.call("imageList", {});
  const rows = raw.all ? files : files.filter(({ managed }) => managed);
  if (rows.length === 0 && !raw.json) {
    return context.tell("the library has no image yet: domlab image import takes one in");
  }
  say(context, raw, rows, raw.all ? fileTable(rows) : libraryTable(rows));
}

async function show(context: CommandContext, lab: LabClient, image: string, raw: Raw): Promise<void> {
  const chain = await lab.call("imageInfo", { path: image });
  const [own, ...behind] = chain;
  if (own === undefined) throw new Error("a chain has at least one image");
  const row = (await lab.call("imageList", {})).find(({ path }) => path === own.path);
  const usedBy = row?.usedBy ?? [];
  const marks = [own.dirty ? "not closed" : "", own.corrupt ? "damaged" : ""].filter((mark) => mark !== "");
  const text = details([
    ["Image", row?.name],
    ["File", oneLine(own.path)],
    ["Format", own.format],
    ["Size", `${showSize(own.virtualSize)} (${own.virtualSize} bytes)`],
    ["On disk", showSize(own.diskSize)],
    ["Behind it", behind.length === 0 ? undefined : behind.map(({ path }) => oneLine(path)).join(", ")],
    ["State", marks.length === 0 ? undefined : marks.join(", ")],
    ["Used by", usedBy.length === 0 ? "no machine" : usedBy.join(", ")],
  ]);
  say(context, raw, { ...(row?.name !== undefined && { name: row.name }), usedBy, chain }, text);
}

/** The last one deleted of that name, or the one of that number: their listing with --json has the numbers. */
async function deletedImage(lab: LabClient, wanted: string): Promise<Deleted> {
  const rows = await lab.call("imageDeleted", {});
  const found = rows.find(({ name }) => name === wanted) ?? rows.find(({ deleted }) => deleted === wanted);
  if (found !== undefined) return found;
  const names = [...new Set(rows.map(({ name }) => name))].join(", ");
  const remedy = names === "" ? "there is none that could be taken back" : `there are: ${names}`;
  throw new BadInput("bad-option", `there is no deleted image ${wanted}`, remedy);
}

function addLookingCommands(image: Command, context: CommandContext): void {
  image
    .command("list")
    .description("List the images of the lab's library and the machines that use them.")
    .option("-a, --all", "all files of the lab: base images, disks, detached disks, memory of guests")
    .option("--deleted", "deleted images that can be taken back")
    .option(...JSON_OPTION)
    .action((raw: Raw) => {
      if (raw.all && raw.deleted) {
        throw new BadInput("bad-option", "--all and --deleted contradict each other", "leave one out");
      }
      return withLab(context, (lab) => list(context, lab, raw));
    });
  image
    .command("show <image>")
    .description("Show an image of the library, what lies behind it, and the machines that use it.")
    .option(...JSON_OPTION)
    .action((wanted: string, raw: Raw) => withLab(context, (lab) => show(context, lab, wanted, raw)));
}

function addRemovingCommands(image: Command, context: CommandContext): void {
  image
    .command("delete <image...>")
    .alias("remove")
    .description("Take images that no machine uses out of the library. They can be taken back until they are purged.")
    .action((images: string[]) =>
      withLab(context, (lab) =>
        eachMachine(context, images, async (wanted) => {
          const { purgeAfter } = await lab.call("imageDelete", { path: wanted });
          const until = showDate(purgeAfter);
          context.print(`${wanted} is deleted; until ${until} domlab image undelete ${wanted} takes it back\n`);
        }),
      ),
    );
  image
    .command("undelete <image...>")
    .description("Take deleted images back.")
    .action((images: string[]) =>
      withLab(context, (lab) =>
        eachMachine(context, images, async (wanted) => {
          const { deleted } = await deletedImage(lab, wanted);
          const { name } = await lab.call("imageUndelete", { deleted });
          context.print(name === wanted ? `${name} is back\n` : `${wanted} is back as ${name}\n`);
        }),
      ),
    );
  image
    .command("purge <image...>")
    .description("Remove deleted images for good.")
    .action((images: string[]) =>
      withLab(context, (lab) =>
        eachMachine(context, images, async (wanted) => {
          const { deleted } = await deletedImage(lab, wanted);
          await lab.call("imagePurge", { deleted });
        }),
      ),
    );
}

/** Adds the commands about the library to the group `image`. */
export function addLibraryCommands(image: Command, context: CommandContext): void {
  const before = image.commands.length;
  addLookingCommands(image, context);
  image
    .command("import <file>")
    .description("Take a disk image into the library: raw, qcow2 or VHD, which becomes qcow2.")
    .option("--name <name>", "call it so; else as the file")
    .option("--move", "take the file itself in place of a copy")
    .option("--source-format <format>", "raw, qcow2 or vhd, if it is not to be looked up")
    .option(...JSON_OPTION)
    .addHelpText(
      "after",
      "\nExample:\n  domlab image import disk.qcow2 --name base\n  domlab create web --new-disk vdev=xvda,from=base",
    )
    .action((file: string, raw: Raw) => {
      const format = parseSourceFormat(raw.sourceFormat);
      if (raw.name !== undefined) checkImageName(raw.name);
      if (file === "") throw new BadInput("bad-option", "the file's name is empty", "name an image file");
      const path = resolve(context.cwd(), file);
      const name = raw.name === undefined ? {} : { name: raw.name };
      return withLab(context, async (lab) => {
        const wish = { path, ...name, move: raw.move ?? false, ...(format !== undefined && { format }) };
        const taken = await longRun(context, lab, (operation) => lab.call("imageImport", { ...wish, operation }));
        const { name: called, format: kept, virtualSize } = taken;
        say(context, raw, taken, `${called} is in the library: ${kept}, ${showSize(virtualSize)}\n`);
      });
    });
  image
    .command("rename <image> <name>")
    .description("Give an image of the library that no machine uses another name.")
    .action((wanted: string, name: string) => {
      checkImageName(name);
      return withLab(context, async (lab) => {
        await lab.call("imageRename", { path: wanted, name });
      });
    });
  addRemovingCommands(image, context);
  for (const command of image.commands.slice(before)) command.helpGroup("The lab's library:");
}
