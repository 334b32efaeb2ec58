/** Where things lie in a lab's folder. */
import { isAbsolute, join, resolve } from "node:path";
import { homeFolder } from "../../home-folder.ts";

/** Paths below a lab's folder, all absolute. */
export interface LabPaths {
  readonly folder: string;
  readonly records: string;
  readonly backup: string;
  readonly lock: string;
  readonly machines: string;
  readonly disks: string;
  readonly memory: string;
  readonly images: string;
  readonly tmp: string;
  machineFolder(id: string): string;
  machineFile(id: string): string;
  /** A file of memory/, which records name without its folder. */
  memoryFile(name: string): string;
}

export function labPaths(folder: string): LabPaths {
  const root = resolve(folder);
  const machines = join(root, "machines");
  const memory = join(root, "memory");
  return {
    folder: root,
    records: join(root, "lab.json"),
    backup: join(root, "lab.json.bak"),
    lock: join(root, "lab.lock"),
    machines,
    disks: join(root, "disks"),
    memory,
    images: join(root, "images"),
    tmp: join(root, "tmp"),
    machineFolder: (id) => join(machines, id),
    machineFile: (id) => join(machines, id, "machine.json"),
    memoryFile: (name) => join(memory, name),
  };
}

/**
 * Folder of the user's lab: $DOMLAB_HOME, else "domlab" in $XDG_DATA_HOME or ~/.local/share (XDG Base Directory
 * Specification, by which a relative value is ignored).
 * @throws BadInput where the user has no home folder
 */
export function labHome(environment: NodeJS.ProcessEnv = process.env): string {
  const { DOMLAB_HOME: own, XDG_DATA_HOME: data } = environment;
  if (own) return resolve(own);
  return join(data && isAbsolute(data) ? data : join(homeFolder(), ".local", "share"), "domlab");
}
