/** A machine as one file (archive/): its configuration, copies of its disks, and what it boots where that is not everybody's. */
import { randomBytes } from "node:crypto";
import { link, lstat, mkdir, readdir, readFile, rename, rm, stat, writeFile } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, sep } from "node:path";
import { errnoOf } from "../../../engine/builder/errors.ts";
import { readBounded } from "../../../engine/builder/files.ts";
import { INITRD_LIMIT, joinArchives, unpackInitrd } from "../../../engine/builder/initrd.ts";
import { ArchiveError } from "../archive/errors.ts";
import {
  ARCHIVE_FORMAT,
  ARCHIVE_VERSION,
  type ArchivedBoot,
  type ArchivedDisk,
  type ArchiveManifest,
  diskName,
  INITRD_NAME,
  KERNEL_NAME,
  MANIFEST_NAME,
  manifestSchema,
} from "../archive/manifest.ts";
import { type Member, packArchive } from "../archive/pack.ts";
import { hostFiles } from "../store/durable-file.ts";
import { writing } from "../store/errors.ts";
import type { LabPaths } from "../store/paths.ts";
import type { DeepReadonly, MachineConfig } from "../store/schema.ts";
import { type Boot, hostArgument } from "./boot-image.ts";
import type { MachineContext } from "./context.ts";
import { editable } from "./disk-layers.ts";
import { MachineError } from "./errors.ts";
import { type Disk, imageOf, isImage } from "./guest-config.ts";
import type { Machine } from "./machine.ts";
import type { OperationControl } from "./operations.ts";
import { wantSpace } from "./space.ts";

export interface ExportWish {
  readonly path: string;
  readonly force: boolean;
  /** Version of this program. */
  readonly version: string;
}

export interface Exported {
  readonly path: string;
  readonly bytes: number;
  readonly notes: readonly string[];
}

type Config = DeepReadonly<MachineConfig>;

/** In the folder of an export below tmp/: where its unfinished archive is. */
const PLACE_FILE = "place.json";
const PART = /^\..{1,200}\.[0-9a-f]{12}\.part$/s;

/** Why a disk cannot be in an archive; undefined when it can. */
async function leftOut(disk: Disk): Promise<string | undefined> {
  if (disk.backend !== undefined) return `is served by ${disk.backend}`;
  if (!isImage(disk)) return "lies on an NBD server";
  if (disk.offset !== undefined || disk.length !== undefined) return "is a part of an image";
  return (await stat(disk.source)).isBlockDevice() ? "is a block device of this host" : undefined;
}

/** The disks that go along, and notes on the others. */
async function chooseDisks({ disks }: Config): Promise<{ chosen: Disk[]; notes: string[] }> {
  const chosen: Disk[] = [];
  const notes: string[] = [];
  for (const disk of disks) {
    const why = await leftOut(disk);
    if (why === undefined) chosen.push(disk);
    else notes.push(`the disk ${disk.vdev} ${why}: it is not in the archive`);
  }
  return { chosen, notes };
}

/** Copies disks into images that stand alone. */
async function copyDisks(
  { images }: MachineContext,
  disks: readonly Disk[],
  folder: string,
  control: OperationControl,
): Promise<{ entries: ArchivedDisk[]; members: Member[] }> {
  const entries: ArchivedDisk[] = [];
  const members: Member[] = [];
  for (const disk of disks) {
    const { vdev, access, deviceType, placement, persistent, discard } = disk;
    const path = join(folder, `${vdev}.qcow2`);
    const progress = (done: number, total: number) => control.step(`copying ${vdev}`, done, total);
    control.step(`copying ${vdev}`);
    await images.copy(imageOf(disk), path, { signal: control.signal, progress });
    const { virtualSize } = await images.facts({ path, format: "qcow2" });
    const file = diskName(vdev);
    const { size: bytes } = await stat(path);
    entries.push({ vdev, file, bytes, virtualSize, access, deviceType, placement, persistent, discard });
    members.push({ name: file, source: { path } });
  }
  return { entries, members };
}

/** Bytes that copies of the disks may take. */
async function spaceFor({ images }: MachineContext, disks: readonly Disk[]): Promise<number> {
  let bytes = 0;
  for (const disk of disks) {
    const { used, virtualSize, backing } = await images.facts(imageOf(disk));
    bytes += Math.min(virtualSize, backing === undefined ? used : virtualSize);
  }
  return bytes;
}

async function initrdMember(parts: Boot["image"]["initrd"]): Promise<Member | undefined> {
  const [only, ...others] = parts;
  if (only === undefined) return undefined;
  if (others.length === 0) return { name: INITRD_NAME, source: only };
  const read = parts.map(async (part) =>
    "path" in part ? await unpackInitrd(await readBounded(part.path, "initrd", INITRD_LIMIT)) : part.bytes,
  );
  return { name: INITRD_NAME, source: { bytes: joinArchives(await Promise.all(read)) } };
}

const sizeOf = async ({ source }: Member): Promise<number> =>
  "path" in source ? (await stat(source.path)).size : source.bytes.length;

/** Whether another lab makes the same of the image's name: not of one of this lab's own, or one that a disk lies over. */
function isEverybodys({ store }: MachineContext, config: Config, kernel: string | undefined): boolean {
  if (config.image === null || config.kernel !== undefined || config.initrd !== undefined) return false;
  if (store.data.images.some(({ name }) => name === config.image)) return false;
  return kernel === undefined || !kernel.startsWith(store.paths.images + sep);
}

/** What the machine boots, as members; none when the image's name says it. */
async function packBoot(
  context: MachineContext,
  config: Config,
  control: OperationControl,
): Promise<{ boot?: ArchivedBoot; members: Member[] }> {
  const root = config.disks.find(isImage);
  const chain = root === undefined ? [] : await context.layers.chainOf(imageOf(root));
  const files = await context.boot.bootFiles(config, chain);
  if (isEverybodys(context, config, files?.kernel)) return { members: [] };
  control.step("getting the kernel");
  const progress = (text: string) => control.step(text);
  const whole = { ...editable(config), extraArguments: "" };
  const { image } = await context.boot.boot(whole, { signal: control.signal, progress, chain });
  const kernel: Member = { name: KERNEL_NAME, source: image.kernel };
  const initrd = await initrdMember(image.initrd);
  const words = image.commandLine.split(" ");
  const host = hostArgument(config.name);
  const boot: ArchivedBoot = {
    kernel: { file: KERNEL_NAME, bytes: await sizeOf(kernel) },
    ...(initrd && { initrd: { file: INITRD_NAME, bytes: await sizeOf(initrd) } }),
    commandLine: words.filter((word) => word !== host).join(" "),
    hostName: words.includes(host),
  };
  return { boot, members: initrd === undefined ? [kernel] : [kernel, initrd] };
}

/** The configuration without what belongs to this host. */
function archivedConfig(config: Config, boot: ArchivedBoot | undefined): Record<string, unknown> {
  const { kernel: _k, initrd: _i, disks: _d, forwards: _f, autostart: _a, protected: _p, ...rest } = editable(config);
  const vifs = rest.vifs.filter(({ backend }) => backend === undefined);
  if (boot === undefined) return { ...rest, vifs };
  const { commandLine: _c, ...kept } = rest;
  return { ...kept, vifs, image: null };
}

/** What a machine has that no archive takes along. */
function notesOf({ record }: Machine): string[] {
  const { config, snapshots, vifSettings } = record;
  const served = config.vifs.flatMap(({ backend }, index) =>
    backend === undefined ? [] : [`${index} (by ${backend})`],
  );
  return [
    ...(snapshots.length === 0 ? [] : [`its ${snapshots.length} snapshots are not in the archive`]),
    ...(config.forwards.length === 0 ? [] : ["its forwarded ports are not in the archive"]),
    ...(Object.keys(vifSettings).length === 0 ? [] : ["what is set for its interfaces is not in the archive"]),
    ...served.map((which) => `the interface ${which} is served by another machine: it is not in the archive`),
  ];
}

/** @throws ArchiveError, the system's error, unless an archive may be written there */
async function wantPlace(paths: LabPaths, path: string, force: boolean): Promise<void> {
  if (!isAbsolute(path)) throw new ArchiveError("bad-path", `${path} is no whole path`, "begin it with /");
  const folder = dirname(path);
  const exports = join(paths.folder, "exports");
  if (folder === exports) await mkdir(exports, { recursive: true, mode: 0o700 });
  else if (path.startsWith(paths.folder + sep)) {
    throw new ArchiveError("bad-path", `${path} lies in the lab's own folder`, `choose another place, or ${exports}`);
  }
  if (!(await stat(folder)).isDirectory()) {
    throw new ArchiveError("bad-path", `${folder} is no folder`, "choose another place");
  }
  const present = await lstat(path).catch(() => undefined);
  if (present === undefined) return;
  if (!present.isFile()) throw new ArchiveError("bad-path", `${path} is no plain file`, "choose another name");
  if (!force) throw fileExists(path);
}

const fileExists = (path: string, cause?: unknown): ArchiveError =>
  new ArchiveError("file-exists", `${path} exists already`, "choose another name, or replace it (--force)", cause);

/** Gives the finished archive its name. @throws ArchiveError when a file of that name has come meanwhile */
async function place(part: string, path: string, force: boolean): Promise<void> {
  if (force) await rename(part, path);
  else {
    try {
      await link(part, path);
    } catch (error) {
      if (errnoOf(error) === "EEXIST") throw fileExists(path, error);
      // A file system without links.
      await rename(part, path);
    }
    await rm(part, { force: true });
  }
  await hostFiles.syncFolder(dirname(path));
}

async function writePart(
  context: MachineContext,
  machine: Machine,
  work: string,
  part: string,
  wish: ExportWish,
  control: OperationControl,
): Promise<string[]> {
  const { config } = machine.record;
  const { chosen, notes } = await chooseDisks(config);
  const space = await spaceFor(context, chosen);
  const [own, other] = [await stat(context.store.paths.tmp), await stat(dirname(wish.path))];
  const sharing = own.dev === other.dev ? 2 : 1;
  await wantSpace(context.store.paths.tmp, sharing * space, `the export of ${machine.name}`);
  if (sharing === 1) await wantSpace(dirname(wish.path), space, wish.path);
  const booted = await packBoot(context, config, control);
  const disks = await copyDisks(context, chosen, work, control);
  const date = new Date();
  const manifest: ArchiveManifest = manifestSchema.parse({
    format: ARCHIVE_FORMAT,
    version: ARCHIVE_VERSION,
    domlab: wish.version,
    date: date.toISOString(),
    config: archivedConfig(config, booted.boot),
    disks: disks.entries,
    ...(booted.boot && { boot: booted.boot }),
  });
  const text = `${JSON.stringify(manifest, undefined, 2)}\n`;
  const first: Member = { name: MANIFEST_NAME, source: { bytes: Buffer.from(text) } };
  const progress = (name: string, done: number, total: number) => control.step(`packing ${name}`, done, total);
  const members = [first, ...booted.members, ...disks.members];
  await writing(wish.path, () => packArchive(part, members, { signal: control.signal, progress, date }));
  return [...notes, ...notesOf(machine)];
}

/**
 * Writes a machine that is off into an archive, whole or not at all. It cannot be started meanwhile.
 * @throws what the user can mend; nothing has changed then
 */
export function exportMachine(
  context: MachineContext,
  machine: Machine,
  wish: ExportWish,
  control: OperationControl,
): Promise<Exported> {
  const { store, layers } = context;
  const { path, force } = wish;
  return machine.queue.run(async () => {
    wantOff(machine);
    await wantPlace(store.paths, path, force);
    const id = randomBytes(6).toString("hex");
    const owner = `export ${id}`;
    const work = join(store.paths.tmp, `export-${id}`);
    const part = join(dirname(path), `.${basename(path).slice(-100)}.${id}.part`);
    try {
      await writing(work, async () => {
        await mkdir(work, { mode: 0o700 });
        await writeFile(join(work, PLACE_FILE), JSON.stringify({ part }), { flush: true });
      });
      await layers.claim(owner, machine.record.config.disks.filter(isImage).map(imageOf));
      const notes = await writePart(context, machine, work, part, wish, control);
      const { size: bytes } = await stat(part);
      control.commit();
      await writing(path, () => place(part, path, force));
      return { path, bytes, notes };
    } finally {
      layers.release(owner);
      await rm(part, { force: true });
      await rm(work, { recursive: true, force: true });
    }
  });
}

/** @throws MachineError */
function wantOff({ state, name }: Machine): void {
  if (state === "stopped" || state === "crashed") return;
  const remedy =
    state === "suspended"
      ? `resume and shut it down first: domlab start ${name}, domlab shutdown ${name}`
      : `stop it, or clone a snapshot of it (domlab snapshot take ${name}, domlab snapshot clone) and export the clone`;
  throw new MachineError("wrong-state", `${name} is ${state}: it cannot be exported`, remedy);
}

/** Removes unfinished archives that exports of a killed lab have left where they were to be. To be called before exports begin. */
export async function removeParts(paths: LabPaths): Promise<void> {
  for (const name of await readdir(paths.tmp)) {
    if (!/^export-[0-9a-f]{12}$/.test(name)) continue;
    try {
      const { part }: { part: unknown } = JSON.parse(await readFile(join(paths.tmp, name, PLACE_FILE), "utf8"));
      if (typeof part === "string" && isAbsolute(part) && PART.test(basename(part))) await rm(part, { force: true });
    } catch {
      // It had not begun to write, or the folder is not to be had any more.
    }
  }
}
