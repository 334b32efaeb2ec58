/** A machine from an archive (archive/), of which nothing is believed: what it would become is checked like what a user enters. */
import { randomBytes } from "node:crypto";
import { closeSync, openSync } from "node:fs";
import { lstat, mkdir, realpath, rename, rm } from "node:fs/promises";
import { basename, dirname, isAbsolute, join } from "node:path";
import { checkQcow2 } from "../../../engine/disk/image-tools/check.ts";
import { readHeader } from "../../../engine/disk/qcow2/header.ts";
import { DEFAULT_SWITCH } from "../../../engine/domain/network-config.ts";
import { InputError } from "../../../engine/errors/input-error.ts";
import { formatMac, randomMac } from "../../../engine/network/address.ts";
import { syncFolder } from "../../images/cache.ts";
import { ArchiveError, badArchive } from "../archive/errors.ts";
import {
  type ArchivedDisk,
  type ArchiveManifest,
  declaredMembers,
  INITRD_NAME,
  KERNEL_NAME,
} from "../archive/manifest.ts";
import { looksLikeArchive, unpackArchive } from "../archive/unpack.ts";
import { writing } from "../store/errors.ts";
import { checkName, suggestName } from "../store/names.ts";
import { type DeepReadonly, type LabData, type MachineConfig, withFixedMacs } from "../store/schema.ts";
import { newMachine } from "../store/store.ts";
import { bootFolder } from "./boot-folder.ts";
import { hostArgument } from "./boot-image.ts";
import type { MachineContext } from "./context.ts";
import { checkConfig } from "./machines.ts";
import type { OperationControl } from "./operations.ts";
import { wantSpace } from "./space.ts";

export interface ArchiveWish {
  readonly path: string;
  readonly name: string | undefined;
  readonly move: boolean;
}

export interface Imported {
  readonly id: string;
  readonly name: string;
  readonly notes: string[];
}

/** Where the members of an archive go until the machine is entered. */
interface Staged {
  /** Of the boot files, in tmp/. */
  readonly work: string;
  /** Images in disks/, by vdev; they stay where they are. */
  readonly disks: Map<string, string>;
}

type Lab = Pick<DeepReadonly<LabData>, "machines" | "networks">;

/** @throws ArchiveError, the system's error @returns the file itself */
async function archiveFile(path: string): Promise<string> {
  if (!isAbsolute(path)) throw new ArchiveError("bad-path", `${path} is no whole path`, "begin it with /");
  const file = await realpath(path);
  if (!(await lstat(file)).isFile()) throw new ArchiveError("bad-path", `${path} is no plain file`, "name an archive");
  if (!(await looksLikeArchive(file))) throw badArchive(path, "it is not compressed by gzip");
  return file;
}

/** Whether an image is what the archive says, and needs nothing of this host. @throws ArchiveError */
async function wantStandalone(path: string, image: string, declared: ArchivedDisk, signal: AbortSignal): Promise<void> {
  const { file: member, virtualSize } = declared;
  const refuse = (what: string, cause?: unknown) => badArchive(path, `${member} ${what}`, cause);
  const descriptor = openSync(image, "r");
  try {
    const header = readHeader(descriptor, member);
    if (header.backingFile !== undefined) throw refuse("lies over another image");
    if (header.size !== virtualSize) throw refuse("is of another size than it declares");
  } catch (error) {
    if (error instanceof ArchiveError || !(error instanceof InputError)) throw error;
    throw refuse(`is no image that can be used (${error.message.split("; ")[0]})`, error);
  } finally {
    closeSync(descriptor);
  }
  const report = await checkQcow2(image, { signal }).catch((error: unknown) => {
    throw error instanceof InputError
      ? refuse(`is no image that can be used (${error.message.split("; ")[0]})`, error)
      : error;
  });
  if (report.state === "errors" || report.corrupt) throw refuse("is a damaged image");
}

/**
 * Interfaces as this lab can have them: on its switches, with addresses that nobody has there.
 * @returns them, and notes on what has changed
 */
function placeInterfaces(vifs: MachineConfig["vifs"], lab: Lab): { vifs: MachineConfig["vifs"]; notes: string[] } {
  const switches = new Set([DEFAULT_SWITCH, ...lab.networks.map(({ name }) => name)]);
  const notes: string[] = [];
  const present = lab.machines.filter(({ state }) => state !== "deleted").flatMap(({ config }) => config.vifs);
  const placed = vifs.map((vif, index) => {
    const bridge = switches.has(vif.bridge) ? vif.bridge : DEFAULT_SWITCH;
    if (bridge !== vif.bridge) notes.push(`there is no switch ${vif.bridge}: the interface ${index} is on ${bridge}`);
    const mac = vif.mac?.toLowerCase();
    const taken = present.some((other) => other.bridge === bridge && other.mac?.toLowerCase() === mac);
    if (mac === undefined || !taken) return { ...vif, bridge };
    const fresh = formatMac(randomMac());
    notes.push(`the address ${mac} is taken on ${bridge}: the interface ${index} has ${fresh}`);
    return { ...vif, bridge, mac: fresh };
  });
  return { vifs: placed, notes };
}

/** The machine's configuration here. @param folder of its boot files @throws StoreError "bad-config" */
function configFor(
  manifest: ArchiveManifest,
  name: string,
  vifs: MachineConfig["vifs"],
  disks: ReadonlyMap<string, string>,
  folder: string,
): MachineConfig {
  const { config, boot } = manifest;
  const line = boot && [boot.commandLine, ...(boot.hostName ? [hostArgument(name)] : [])].filter((word) => word !== "");
  return checkConfig(
    withFixedMacs({
      ...config,
      name,
      vifs,
      forwards: [],
      autostart: false,
      protected: false,
      disks: manifest.disks.map(({ file: _file, bytes: _bytes, virtualSize: _size, ...disk }) => ({
        ...disk,
        source: disks.get(disk.vdev) ?? "",
        format: "qcow2",
      })),
      ...(boot && { kernel: join(folder, basename(KERNEL_NAME)), commandLine: line?.join(" ") ?? "" }),
      ...(boot?.initrd && { initrd: join(folder, basename(INITRD_NAME)) }),
    }),
  );
}

/** Everything that can be refused before the long work. @throws what the user can mend */
async function look(context: MachineContext, manifest: ArchiveManifest, wish: ArchiveWish): Promise<string> {
  const { store, boot } = context;
  const { config } = manifest;
  if (wish.name !== undefined) checkName(wish.name, store.data);
  boot.checkImage(config);
  const name = wish.name ?? suggestName(config.name, store.data);
  // What is wrong with the configuration is found before gigabytes are written: with the paths that they would have.
  const paths = new Map(manifest.disks.map(({ vdev }) => [vdev, join(store.paths.disks, vdev)]));
  configFor(manifest, name, config.vifs, paths, store.paths.tmp);
  const bytes = declaredMembers(manifest).reduce((sum, member) => sum + member.bytes, 0);
  await wantSpace(store.paths.disks, bytes, wish.path);
  return name;
}

/** Enters the machine whose files lie ready. @throws StoreError; nothing is entered then */
async function enter(
  context: MachineContext,
  manifest: ArchiveManifest,
  wish: ArchiveWish,
  staged: Staged,
  control: OperationControl,
): Promise<Imported> {
  const { store } = context;
  const { config, boot } = manifest;
  const record = newMachine({ ...config, forwards: [], autostart: false, protected: false, disks: [] });
  const folder = bootFolder(store.paths, record.id);
  control.commit();
  try {
    if (boot !== undefined) {
      await writing(dirname(folder), async () => {
        await mkdir(dirname(folder), { recursive: true, mode: 0o700 });
        await rename(join(staged.work, "boot"), folder);
        await syncFolder(dirname(folder));
      });
    }
    const notes = await store.update((draft) => {
      const name = wish.name ?? suggestName(config.name, draft);
      checkName(name, draft);
      const placed = placeInterfaces(config.vifs, draft);
      record.config = configFor(manifest, name, placed.vifs, staged.disks, folder);
      draft.machines.push(record);
      const other = name === config.name || wish.name !== undefined;
      return [
        ...(other ? [] : [`there is a machine called ${config.name} already: this one is ${name}`]),
        ...placed.notes,
      ];
    });
    return { id: record.id, name: record.config.name, notes };
  } catch (error) {
    await rm(store.paths.machineFolder(record.id), { recursive: true, force: true });
    throw error;
  }
}

async function unpack(
  context: MachineContext,
  file: string,
  wish: ArchiveWish,
  staged: Staged,
  control: OperationControl,
): Promise<ArchiveManifest> {
  const { store, layers } = context;
  const progress = (name: string, done: number, total: number) => control.step(`unpacking ${name}`, done, total);
  const manifest = await unpackArchive(file, {
    signal: control.signal,
    progress,
    accept: async (said) => {
      const name = await look(context, said, wish);
      for (const { vdev } of said.disks) staged.disks.set(vdev, layers.newPath(name, vdev));
      const bootFiles = join(staged.work, "boot");
      if (said.boot !== undefined) await writing(bootFiles, () => mkdir(bootFiles, { mode: 0o700 }));
      const vdevs = new Map(said.disks.map(({ file: member, vdev }) => [member, vdev]));
      return ({ name: member }) => staged.disks.get(vdevs.get(member) ?? "") ?? join(staged.work, member);
    },
  });
  for (const disk of manifest.disks) {
    control.step(`checking ${disk.vdev}`);
    await wantStandalone(wish.path, staged.disks.get(disk.vdev) ?? "", disk, control.signal);
  }
  await syncFolder(store.paths.disks);
  if (manifest.boot !== undefined) await syncFolder(join(staged.work, "boot"));
  return manifest;
}

async function importFrom(
  file: string,
  context: MachineContext,
  wish: ArchiveWish,
  control: OperationControl,
): Promise<Imported> {
  const { store } = context;
  const work = join(store.paths.tmp, `import-${randomBytes(6).toString("hex")}`);
  const staged: Staged = { work, disks: new Map() };
  let made: Imported | undefined;
  try {
    await writing(work, () => mkdir(work, { mode: 0o700 }));
    const manifest = await unpack(context, file, wish, staged, control);
    made = await enter(context, manifest, wish, staged, control);
  } finally {
    if (made === undefined) for (const path of staged.disks.values()) await rm(path, { force: true });
    await rm(work, { recursive: true, force: true });
  }
  context.changed(made.id);
  return made;
}

/**
 * Makes a machine of an archive, whole or not at all.
 * @throws what the user can mend; nothing has changed then, and an archive that was uploaded is gone
 */
export async function importMachine(
  context: MachineContext,
  wish: ArchiveWish,
  control: OperationControl,
): Promise<Imported> {
  try {
    return await importFrom(await archiveFile(wish.path), context, wish, control);
  } finally {
    // One that was refused is of no use here: whoever has sent it has the original.
    if (wish.move && dirname(wish.path) === context.store.paths.tmp) await rm(wish.path, { force: true });
  }
}
