/** Machines that come as files: archives (.domlab) and configurations of xl's (.cfg), dropped, chosen, or opened with the app. */
import type { FileFilter } from "../../../main/app/app-api.ts";
import type { MachineSummary } from "../../../main/lab/machine-api.ts";

/** What the system's dialog for a machine's file offers, the likeliest first. */
export const machineFilters: FileFilter[] = [
  { name: "Machines and configurations", extensions: ["domlab", "cfg"] },
  { name: "Machine archives", extensions: ["domlab"] },
  { name: "Configurations of xl", extensions: ["cfg"] },
];
/** The same for a browser's. */
export const MACHINE_ENDINGS = ".domlab,.cfg";

/** What a file of that name is; undefined for what makes no machine. */
export function machineFileKind(name: string): "archive" | "config" | undefined {
  const [ending] = /\.[^./\\]+$/.exec(name.toLowerCase()) ?? [];
  if (ending === ".domlab") return "archive";
  return ending === ".cfg" ? "config" : undefined;
}

/** Folder of a path of the host, for what a configuration names relatively. */
export function folderOf(path: string): string {
  const cut = Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"));
  return cut <= 0 ? path.slice(0, cut + 1) || "/" : path.slice(0, cut);
}

/** Where a machine is exported to unless the user says otherwise. @param home the lab's folder, on its host */
export function exportPath(home: string, { name }: Pick<MachineSummary, "name">): string {
  const slash = home.includes("\\") ? "\\" : "/";
  return [home, "exports", `${name}.domlab`].join(slash);
}

/** Whether a text is a whole path of a host. */
export const isAbsolutePath = (path: string): boolean => /^(\/|[A-Za-z]:\\)/.test(path);
