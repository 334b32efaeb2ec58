/**
 * Kernels and initial RAM disks that belong to one machine: machines/<id>/boot/. They came with it in an archive, stay as long as
 * it does, and go with its folder when it is purged; so a clone has copies of its own.
 */
import { constants } from "node:fs";
import { copyFile, mkdir, open, rm } from "node:fs/promises";
import { basename, dirname, join, sep } from "node:path";
import { errnoOf } from "../../../engine/builder/errors.ts";
import { syncFolder } from "../../images/cache.ts";
import { writeError } from "../store/errors.ts";
import type { LabPaths } from "../store/paths.ts";
import type { DeepReadonly, MachineConfig, MachineRecord } from "../store/schema.ts";
import { hostArgument } from "./boot-image.ts";

type Paths = Pick<LabPaths, "machines" | "machineFolder">;

/** Folder of the boot files of the machine with that id. */
export const bootFolder = (paths: Paths, id: string): string => join(paths.machineFolder(id), "boot");

/** Whether a file is a boot file of one of the lab's machines. */
function isBootFile(paths: Paths, file: string): boolean {
  return file.startsWith(paths.machines + sep) && basename(dirname(file)) === "boot";
}

async function copyDurably(source: string, target: string): Promise<void> {
  try {
    await copyFile(source, target, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
    const handle = await open(target, "r+");
    await handle.sync().finally(() => handle.close());
  } catch (error) {
    // That is said of the source, which is another machine's.
    throw errnoOf(error) === "ENOENT" ? error : writeError(target, error);
  }
}

/**
 * Gives a machine that is being made copies of the boot files that its configuration names of another one.
 * @returns removes them again
 * @throws StoreError "not-written"; none is left then
 */
export async function copyBootFiles(paths: Paths, record: MachineRecord): Promise<() => Promise<void>> {
  const { config, id } = record;
  const foreign = (["kernel", "initrd"] as const).filter((key) => {
    const file = config[key];
    return file !== undefined && isBootFile(paths, file);
  });
  if (foreign.length === 0) return async () => {};
  const folder = bootFolder(paths, id);
  const remove = () => rm(paths.machineFolder(id), { recursive: true, force: true });
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 });
    for (const key of foreign) {
      const target = join(folder, key);
      await copyDurably(config[key] ?? "", target);
      config[key] = target;
    }
    await syncFolder(folder);
    return remove;
  } catch (error) {
    await remove();
    throw error;
  }
}

/** The command line of a machine of another name: one that says the host's name, as an archive's does, says the new one. */
export function withHostName(config: DeepReadonly<MachineConfig>, name: string): Pick<MachineConfig, "commandLine"> {
  const { commandLine } = config;
  if (commandLine === undefined) return {};
  const old = hostArgument(config.name);
  const words = commandLine.split(" ").map((word) => (word === old ? hostArgument(name) : word));
  return { commandLine: words.join(" ") };
}
