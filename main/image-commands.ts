/** `domlab image`: disk images made, described, checked and changed. Needs no running lab. */
import { resolve } from "node:path";
import type { Command } from "commander";
import type { ImageFormat } from "../engine/disk/chain.ts";
import type { SourceFormat } from "../engine/disk/image-tools/convert.ts";
import type { Task } from "../engine/disk/image-tools/files.ts";
import type { ImageInfo } from "../engine/disk/image-tools/info.ts";
import type { CheckReport, RepairMode } from "../engine/disk/image-tools/repair.ts";
import { BadInput, EXIT_CRASHED, EXIT_INTERRUPTED, EXIT_OK, PassedOn } from "./failure.ts";
import { Progress } from "./progress.ts";
import { table } from "./table.ts";

/** `domlab image check` found only leaks; qemu-img's number. */
export const EXIT_LEAKS = 3;

export interface ImageCommandOptions {
  readonly setStatus: (status: number) => void;
  /** Takes text for standard output. */
  readonly print?: (text: string) => void;
}

interface Raw {
  readonly json?: boolean;
  readonly format?: string;
  readonly sourceFormat?: string;
  readonly outputFormat?: string;
  readonly clusterSize?: string;
  readonly backing?: string;
  readonly backingFormat?: string;
  readonly shrink?: boolean;
  readonly leaks?: boolean;
  readonly all?: boolean;
  readonly none?: boolean;
}

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  B: 1,
  K: 2 ** 10,
  M: 2 ** 20,
  G: 2 ** 30,
  T: 2 ** 40,
  P: 2 ** 50,
};

/**
 * Bytes of "10G", "512M", "1.5G", "4096": powers of 1024, with or without iB behind.
 * @throws BadInput
 */
export function parseSize(text: string, what = "size"): number {
  const match = /^(\d+(?:\.\d+)?)\s*([BKMGTP]?)(?:i?B)?$/i.exec(text.trim());
  const bytes = match ? Number(match[1]) * UNITS[match[2]!.toUpperCase()]! : Number.NaN;
  const whole = Math.round(bytes);
  if (!Number.isSafeInteger(whole) || whole <= 0) {
    throw new BadInput("bad-option", `"${text}" is no ${what}`, "give one such as 10G, 512M or 1.5G");
  }
  return whole;
}

/** Bytes as people read them: "1.5 GiB". */
export function showSize(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  const power = bytes < 1024 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** power;
  const digits = Number.isInteger(value) ? 0 : value < 10 ? 2 : 1;
  return `${value.toFixed(digits)} ${units[power]}`;
}

function parseFormat(text: string | undefined, option: string): ImageFormat | undefined {
  if (text === undefined || text === "raw" || text === "qcow2") return text;
  throw new BadInput("bad-option", `${option} ${text} is no format that is known here`, "use raw or qcow2");
}

/** Of an image that is only read. "vpc" is QEMU's word for VHD. */
export function parseSourceFormat(text: string | undefined): SourceFormat | undefined {
  if (text === "vhd" || text === "vpc") return "vhd";
  if (text === undefined || text === "raw" || text === "qcow2") return text;
  throw new BadInput("bad-option", `--source-format ${text} is no format that is known here`, "use raw, qcow2 or vhd");
}

/** Runs something long: a line of progress on a terminal, Ctrl-C stops it cleanly. */
async function watched<Result>(verb: string, action: (task: Task) => Promise<Result>): Promise<Result> {
  const progress = new Progress(process.stderr);
  const stop = new AbortController();
  const interrupt = () => stop.abort();
  process.once("SIGINT", interrupt);
  const show = ({ done, total }: { readonly done: number; readonly total: number }) => {
    progress.show(`${verb}: ${total === 0 ? 100 : Math.floor((done / total) * 100)} %`);
  };
  try {
    return await action({ signal: stop.signal, progress: show });
  } catch (error) {
    // Ctrl-C has its own exit status, as everywhere in this program.
    if (stop.signal.aborted && error instanceof Error) throw new PassedOn(error.message, EXIT_INTERRUPTED);
    throw error;
  } finally {
    process.off("SIGINT", interrupt);
    progress.clear();
  }
}

/** Name and value, one a line. */
export function details(rows: readonly (readonly [string, string | number | undefined])[]): string {
  const shown = rows.filter((row): row is readonly [string, string | number] => row[1] !== undefined);
  const width = Math.max(...shown.map(([name]) => name.length));
  return table(shown.map(([name, value]) => [`${name}:`.padEnd(width + 1), String(value)]));
}

function showInfo(images: readonly ImageInfo[]): string {
  const [image] = images;
  if (image === undefined) return "";
  const marks = [image.dirty ? "not closed" : "", image.corrupt ? "damaged" : ""].filter((mark) => mark !== "");
  const text = details([
    ["Image", image.path],
    ["Format", image.version === undefined ? image.format : `${image.format} version ${image.version}`],
    ["Size", `${showSize(image.virtualSize)} (${image.virtualSize} bytes)`],
    ["On disk", showSize(image.diskSize)],
    ["Clusters", image.clusterSize === undefined ? undefined : showSize(image.clusterSize)],
    ["Backing", image.backingPath],
    ["State", marks.length > 0 ? marks.join(", ") : undefined],
  ]);
  const snapshots = image.snapshots ?? [];
  if (snapshots.length === 0) return text;
  const rows = snapshots.map(({ id, name, date, vmStateSize }) => [id, name, date, showSize(vmStateSize)]);
  return `${text}\n${table([["ID", "Snapshot", "Date", "Memory"], ...rows])}`;
}

function showChain(images: readonly ImageInfo[]): string {
  const rows = images.map((image, index) => [
    index,
    image.path,
    image.format,
    showSize(image.virtualSize),
    showSize(image.diskSize),
  ]);
  return table([["Layer", "Image", "Format", "Size", "On disk"], ...rows]);
}

const SHOWN_PROBLEMS = 20;

function showCheck(report: CheckReport): string {
  const { state, leaks, errors, problems, allocatedClusters, totalClusters } = report;
  const used = totalClusters === 0 ? 0 : (allocatedClusters / totalClusters) * 100;
  const verdict = { clean: "no errors", leaks: `${leaks} leaked clusters, no errors`, errors: `${errors} errors` }[
    state
  ];
  const marks = `${report.dirty ? "; it was not closed" : ""}${report.corrupt ? "; it is marked as damaged" : ""}`;
  const lines = problems.slice(0, SHOWN_PROBLEMS).map(({ kind, text }) => `${kind}: ${text}\n`);
  const more = leaks + errors - lines.length;
  return [
    ...lines,
    more > 0 ? `… and ${more} more\n` : "",
    `${report.path}: ${verdict}${marks}; ${allocatedClusters} of ${totalClusters} clusters in use (${used.toFixed(1)} %)\n`,
  ].join("");
}

const statusOf = (report: CheckReport): number =>
  report.state === "clean" ? EXIT_OK : report.state === "leaks" ? EXIT_LEAKS : EXIT_CRASHED;

async function create(path: string, size: string | undefined, raw: Raw): Promise<void> {
  const format = parseFormat(raw.format, "--format") ?? "qcow2";
  const bytes = size === undefined ? undefined : parseSize(size);
  const backingFormat = parseFormat(raw.backingFormat, "--backing-format");
  const { createQcow2, createRaw } = await import("../engine/disk/image-tools/create.ts");
  if (format === "raw") {
    if (raw.backing !== undefined || raw.clusterSize !== undefined) {
      throw new BadInput("bad-option", "raw images have neither a backing image nor clusters", "say --format qcow2");
    }
    if (bytes === undefined) throw new BadInput("bad-option", "a raw image needs a size", "give it one such as 10G");
    return await createRaw(path, bytes);
  }
  await createQcow2(path, {
    ...(bytes !== undefined && { size: bytes }),
    ...(raw.clusterSize !== undefined && { clusterSize: parseSize(raw.clusterSize, "cluster size") }),
    ...(raw.backing !== undefined && { backing: await backingOf(raw.backing, backingFormat) }),
  });
}

/** A backing image as the user names it; its format is looked up once, here, and recorded. */
async function backingOf(path: string, format: ImageFormat | undefined) {
  const { followChain } = await import("../engine/disk/chain.ts");
  const [layer] = followChain(path, format);
  return { path: resolve(path), format: layer!.format };
}

/** "+2G" counts from what the disk has. */
async function wantedSize(path: string, text: string, format: ImageFormat | undefined): Promise<number> {
  if (!text.startsWith("+")) return parseSize(text);
  const more = parseSize(text.slice(1));
  const { followChain } = await import("../engine/disk/chain.ts");
  return followChain(path, format)[0]!.size + more;
}

/** Adds `image` with its commands about files. @returns it, for those about the lab's library (machine-commands/library.ts) */
export function addImageCommands(program: Command, { setStatus, print: given }: ImageCommandOptions): Command {
  const print = given ?? ((text: string) => void process.stdout.write(text));
  const json = ["--json", "print JSON"] as const;
  const formatOption = ["--format <format>", "raw or qcow2, if it is not to be looked up"] as const;
  const say = (raw: Raw, value: unknown, text: string) => print(raw.json ? `${JSON.stringify(value)}\n` : text);
  const image = program
    .command("image")
    .description("Disk images: files are made, described, checked and changed; the lab's library is kept.");

  image
    .command("create <file> [size]")
    .description("Make an empty image, or with --backing an overlay that shows another image's content.")
    .option("--format <format>", "qcow2 (default) or raw")
    .option("--backing <file>", "the image behind it; it must not change any more")
    .option("--backing-format <format>", "raw or qcow2, if it is not to be looked up")
    .option("--cluster-size <size>", "512 to 2M (default 64K)")
    .action(async (path: string, size: string | undefined, raw: Raw) => await create(path, size, raw));
  image
    .command("info <file>")
    .description("Show what an image is. With --json: it and all images behind it.")
    .option(...formatOption)
    .option(...json)
    .action(async (path: string, raw: Raw) => {
      const { imageInfo } = await import("../engine/disk/image-tools/info.ts");
      const images = imageInfo(path, parseFormat(raw.format, "--format"));
      say(raw, images, showInfo(images));
    });
  image
    .command("list-chain <file>")
    .alias("chain")
    .description("List an image and the images behind it.")
    .option(...formatOption)
    .option(...json)
    .action(async (path: string, raw: Raw) => {
      const { imageInfo } = await import("../engine/disk/image-tools/info.ts");
      const images = imageInfo(path, parseFormat(raw.format, "--format"));
      say(raw, images, showChain(images));
    });
  image
    .command("check <file>")
    .description("Compare a qcow2 image's tables. Exit status: 0 clean, 1 errors, 3 only leaked space.")
    .option(...json)
    .action(async (path: string, raw: Raw) => {
      const { checkQcow2 } = await import("../engine/disk/image-tools/check.ts");
      const report = await watched("checking", (task) => checkQcow2(path, task));
      say(raw, report, showCheck(report));
      setStatus(statusOf(report));
    });
  image
    .command("repair <file>")
    .description("Mend a qcow2 image: take back leaked space, count refcounts again.")
    .option("--leaks", "only take back leaked space")
    .option("--all", "also drop entries that lead nowhere; what they held is lost already")
    .option(...json)
    .action(async (path: string, raw: Raw) => {
      if (raw.leaks && raw.all) {
        throw new BadInput("bad-option", "--leaks and --all contradict each other", "leave one out");
      }
      const mode: RepairMode = raw.leaks ? "leaks" : raw.all ? "all" : "errors";
      const { repairQcow2 } = await import("../engine/disk/image-tools/check.ts");
      const report = await watched("repairing", (task) => repairQcow2(path, mode, task));
      const { before, after, dropped } = report;
      const mended = `mended ${before.leaks - after.leaks} leaks and ${before.errors - after.errors} errors`;
      const lost = dropped > 0 ? `, dropped ${dropped} entries` : "";
      const hint = after.state === "errors" && mode !== "all" ? "what is left needs --all\n" : "";
      say(raw, report, `${mended}${lost}\n${showCheck(after)}${hint}`);
      setStatus(statusOf(after));
    });
  addChangingCommands(image, say);
  for (const command of image.commands) command.helpGroup("Image files:");
  return image;
}

/** The commands that write content. */
function addChangingCommands(image: Command, say: (raw: Raw, value: unknown, text: string) => void): void {
  const json = ["--json", "print JSON"] as const;
  image
    .command("resize <file> <size>")
    .description("Give a disk another size, for example 20G or +5G.")
    .option("--shrink", "make it smaller; refused when there is data behind the new end")
    .option("--format <format>", "raw or qcow2, if it is not to be looked up")
    .option(...json)
    .action(async (path: string, size: string, raw: Raw) => {
      const format = parseFormat(raw.format, "--format");
      const { resizeImage } = await import("../engine/disk/image-tools/resize.ts");
      const bytes = await wantedSize(path, size, format);
      const options = { ...(format && { format }), shrink: raw.shrink ?? false };
      const result = await watched("resizing", (task) => resizeImage(path, bytes, { ...options, ...task }));
      say(raw, result, `${path}: ${showSize(result.before)} before, ${showSize(result.after)} now\n`);
    });
  image
    .command("convert <source> <target>")
    .description("Write what a disk holds, with all images behind it, into a new image.")
    .option("--source-format <format>", "raw, qcow2 or vhd, if it is not to be looked up")
    .option("-O, --output-format <format>", "qcow2 (default) or raw")
    .option("--cluster-size <size>", "512 to 2M (default 64K)")
    .action(async (source: string, target: string, raw: Raw) => {
      const sourceFormat = parseSourceFormat(raw.sourceFormat);
      const format = parseFormat(raw.outputFormat, "--output-format") ?? "qcow2";
      const options = {
        ...(sourceFormat && { sourceFormat }),
        ...(raw.clusterSize !== undefined && { clusterSize: parseSize(raw.clusterSize, "cluster size") }),
      };
      const { convertImage } = await import("../engine/disk/image-tools/convert.ts");
      await watched("converting", (task) => convertImage(source, target, format, { ...options, ...task }));
    });
  image
    .command("rebase <file> [backing]")
    .description(
      "Put an image in front of another one, or with --none of nothing. Copies nothing: the content may change.",
    )
    .option("--backing-format <format>", "raw or qcow2, if it is not to be looked up")
    .option("--none", "let it stand alone")
    .action(async (path: string, backing: string | undefined, raw: Raw) => {
      if ((backing === undefined) === (raw.none !== true)) {
        throw new BadInput(
          "bad-option",
          "it is not clear what is to lie behind the image",
          "name a file or say --none",
        );
      }
      const { rebase } = await import("../engine/disk/image-tools/rebase.ts");
      const format = parseFormat(raw.backingFormat, "--backing-format");
      await rebase(path, backing === undefined ? undefined : await backingOf(backing, format));
    });
  for (const [name, what] of [
    ["merge", "Copy what an image lacks from the one behind it, which it then no longer needs."],
    ["flatten", "Copy what an image lacks from all behind it: it stands alone then."],
  ] as const) {
    image
      .command(`${name} <file>`)
      .description(what)
      .option(...json)
      .action(async (path: string, raw: Raw) => {
        const { flatten, pullInto } = await import("../engine/disk/image-tools/merge.ts");
        const run = name === "merge" ? pullInto : flatten;
        const report = await watched(name === "merge" ? "merging" : "flattening", (task) => run(path, task));
        const behind = report.backing === undefined ? "nothing lies behind it" : `${report.backing} lies behind it`;
        say(raw, report, `${path}: copied ${showSize(report.copied)}; ${behind} now\n`);
      });
  }
}
