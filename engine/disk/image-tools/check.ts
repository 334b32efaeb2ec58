/** Checking and repairing images by name. */
import { resolve } from "node:path";
import type { ImageFile, Task } from "./files.ts";
import { openFile, requireFile } from "./open.ts";
import { type CheckReport, type RepairMode, type RepairReport, repairFile, reportOf } from "./repair.ts";
import { Scan } from "./scan.ts";

async function onFile<Result>(
  path: string,
  writable: boolean,
  action: (file: ImageFile) => Promise<Result>,
): Promise<Result> {
  const { file, close } = openFile(resolve(path), writable);
  try {
    requireFile(file);
    return await action(file);
  } finally {
    close();
  }
}

/**
 * Compares an image's references with its refcounts. What lies behind it is not looked at.
 * @throws DiskError "unsupported-format" of a raw image, which has nothing to check; "image-in-use"
 */
export async function checkQcow2(path: string, task: Task = {}): Promise<CheckReport> {
  return await onFile(path, false, async (file) => reportOf(await new Scan(file).run(task)));
}

/**
 * Mends an image. "leaks" is harmless; "errors" also counts all refcounts anew; "all" drops entries that lead nowhere, whose
 * data is lost. Killed on the way, it can be started again.
 * @throws DiskError as checkQcow2(); "no-space"
 */
export async function repairQcow2(path: string, mode: RepairMode, task: Task = {}): Promise<RepairReport> {
  return await onFile(path, true, async (file) => await repairFile(file, mode, task));
}

/** What recover() found. */
export interface Recovery {
  /** untouched: nothing to do. repaired: leaks or stale refcounts. damaged: errors that need `domlab image repair`. */
  readonly state: "untouched" | "repaired" | "damaged";
  readonly report: CheckReport | undefined;
}

/**
 * What is due at the start of the lab for an image that a killed process may have had open: leaks are taken back, and refcounts
 * counted anew where the image says so itself. Reads all tables, 8 MiB for each 64 GiB of a full disk. A raw image needs nothing.
 * @throws DiskError when the image is missing, in use or none
 */
export async function recover(path: string, format: "raw" | "qcow2" = "qcow2", task: Task = {}): Promise<Recovery> {
  if (format === "raw") return { state: "untouched", report: undefined };
  return await onFile(path, true, async (file) => {
    const { before, after } = await repairFile(file, "leaks", task);
    const touched = before.state !== "clean" || before.dirty;
    const damaged = after.state === "errors" || after.corrupt;
    return { state: damaged ? "damaged" : touched ? "repaired" : "untouched", report: after };
  });
}
