/**
 * Reading the lab's files, of which nothing is believed: too long, no JSON, another version, or not what the schema
 * says.
 */
import { readdir, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import type { z } from "zod";
import { errnoOf } from "../../../engine/builder/errors.ts";
import { messageOf } from "../../../engine/errors/message.ts";
import { issueText, StoreError } from "./errors.ts";
import {
  isObject,
  type Json,
  type LabFormat,
  migrateLab,
  migrateMachineFile,
  refuseLaterVersion,
  versionOf,
} from "./migrations.ts";
import type { LabPaths } from "./paths.ts";
import type { LabData, MachineFile, MachineRecord } from "./schema.ts";

/** Far more than ten thousand machines need. */
const LONGEST_RECORDS = 256 * 2 ** 20;
const LONGEST_MACHINE_FILE = 64 * 2 ** 20;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** `version`: the one that the file had before it was brought to the present one. */
export type ReadResult<T> =
  | { readonly kind: "good"; readonly value: T; readonly version: number }
  | { readonly kind: "absent" }
  | { readonly kind: "bad"; readonly reason: string };

type Migrate = (data: Json, from: number, format: LabFormat) => Json;

function parseText<T>(file: string, text: string, format: LabFormat, schema: z.ZodType<T>, migrate: Migrate) {
  const bad = (reason: string): ReadResult<T> => ({ kind: "bad", reason });
  let raw: unknown;
  try {
    raw = JSON.parse(text);
  } catch {
    return bad(text.trim() === "" ? "it is empty" : "it is no JSON");
  }
  const version = versionOf(raw);
  if (version === undefined || !isObject(raw)) return bad("it has no version");
  refuseLaterVersion(file, version, format);
  let migrated: Json;
  try {
    migrated = migrate(raw, version, format);
  } catch (error) {
    return bad(`version ${version}: ${messageOf(error)}`);
  }
  const checked = schema.safeParse(migrated);
  if (!checked.success) return bad(issueText(checked.error));
  return { kind: "good", value: checked.data, version } as ReadResult<T>;
}

async function readText(file: string, longest: number): Promise<ReadResult<string>> {
  try {
    const { size } = await stat(file);
    if (size > longest) return { kind: "bad", reason: `it has ${size} bytes` };
    return { kind: "good", value: await readFile(file, "utf8"), version: 0 };
  } catch (error) {
    const code = errnoOf(error);
    if (code === "ENOENT") return { kind: "absent" };
    // The file may well be good: nothing is put in its place.
    if (code === "EACCES" || code === "EPERM") {
      throw new StoreError("unusable-folder", `${file} may not be read`, "check its permissions", error);
    }
    return { kind: "bad", reason: code ?? "it cannot be read" };
  }
}

/** @throws StoreError "later-version", "unusable-folder" */
export async function readLabFile(file: string, format: LabFormat): Promise<ReadResult<LabData>> {
  const text = await readText(file, LONGEST_RECORDS);
  return text.kind === "good" ? parseText(file, text.value, format, format.lab, migrateLab) : text;
}

/** @throws StoreError "later-version", "unusable-folder" */
export async function readMachineFile(file: string, format: LabFormat): Promise<ReadResult<MachineFile>> {
  const text = await readText(file, LONGEST_MACHINE_FILE);
  return text.kind === "good" ? parseText(file, text.value, format, format.machine, migrateMachineFile) : text;
}

/** A machine in a folder of its own, whether or not lab.json names it. */
export interface FoundMachine {
  readonly id: string;
  readonly folder: string;
  /** Lab that wrote it. */
  readonly lab: string;
  readonly record: MachineRecord;
}

export interface MachineFolders {
  readonly machines: readonly FoundMachine[];
  /** Folders with a machine.json that cannot be used, and why. */
  readonly damaged: readonly { readonly folder: string; readonly reason: string }[];
  /** Folders without machine.json: what a purge or a creation that was cut off left. */
  readonly empty: readonly { readonly id: string; readonly folder: string }[];
}

async function folderNames(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

/** Looks through machines/, in the order of the names. One broken folder does not keep the others from being found. */
export async function readMachineFolders(paths: LabPaths, format: LabFormat): Promise<MachineFolders> {
  const machines: FoundMachine[] = [];
  const damaged: { folder: string; reason: string }[] = [];
  const empty: { id: string; folder: string }[] = [];
  for (const id of (await folderNames(paths.machines)).sort()) {
    const folder = paths.machineFolder(id);
    let read: ReadResult<MachineFile>;
    try {
      read = await readMachineFile(join(folder, "machine.json"), format);
    } catch (error) {
      if (!(error instanceof StoreError)) throw error;
      read = { kind: "bad", reason: error.message };
    }
    if (read.kind === "bad") damaged.push({ folder, reason: read.reason });
    else if (read.kind === "absent") empty.push({ id, folder });
    else if (!UUID.test(id) || read.value.machine.id !== id) {
      damaged.push({ folder, reason: `it holds the machine ${read.value.machine.id}` });
    } else machines.push({ id, folder, lab: read.value.lab, record: read.value.machine });
  }
  return { machines, damaged, empty };
}
