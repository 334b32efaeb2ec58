/** What the store starts with: lab.json, or what can be put together when it is not to be had. */
import { randomUUID } from "node:crypto";
import { basename } from "node:path";
import type { FileCalls } from "./durable-file.ts";
import { writeError } from "./errors.ts";
import type { LabFormat } from "./migrations.ts";
import { suggestName } from "./names.ts";
import type { LabPaths } from "./paths.ts";
import { type FoundMachine, readLabFile, readMachineFolders } from "./read-records.ts";
import type { LabData } from "./schema.ts";
import type { PoolListing } from "./sweep.ts";

export interface LoadedRecords {
  readonly data: LabData;
  /** Whether lab.json holds this lab already; otherwise it has to be written before anything else happens. */
  readonly fileIsGood: boolean;
  /** Whether lab.json is of an older version. */
  readonly migrated: boolean;
  /** Machines whose machine.json is missing, unusable, or of another state. */
  readonly stale: readonly string[];
}

interface Context {
  readonly log: (line: string) => void;
  readonly files: FileCalls;
  readonly format: LabFormat;
}

/** Gives a file that cannot be used a second name, so that someone can look at it; it is replaced afterwards. */
async function keepAside(file: string, { files, log }: Context): Promise<void> {
  const stamp = new Date().toISOString().replace(/[:.]/g, "-");
  const aside = `${file}.damaged-${stamp}`;
  try {
    await files.link(file, aside);
    log(`${file} is kept as ${basename(aside)}`);
  } catch (error) {
    throw writeError(aside, error);
  }
}

/** Records whose own file was written by a later commit than these. */
function takeLaterRecords(data: LabData, found: readonly FoundMachine[], log: (line: string) => void): void {
  const later = found.filter(({ lab, record }) => lab === data.id && record.revision > data.revision);
  const ids = new Set(later.map(({ id }) => id));
  data.machines = data.machines.filter(({ id }) => !ids.has(id));
  for (const { record } of later) {
    log(`the machine ${record.config.name} is taken from its machine.json`);
    const name = record.state === "deleted" ? record.config.name : suggestName(record.config.name, data);
    data.machines.push({ ...record, config: { ...record.config, name } });
  }
}

async function fromBackup(paths: LabPaths, found: readonly FoundMachine[], context: Context) {
  const backup = await readLabFile(paths.backup, context.format);
  if (backup.kind === "bad") {
    context.log(`${paths.backup} cannot be used either: ${backup.reason}`);
    await keepAside(paths.backup, context);
  }
  if (backup.kind !== "good") return undefined;
  context.log(`the lab is taken from ${paths.backup}; changes made last may be missing`);
  takeLaterRecords(backup.value, found, context.log);
  return backup.value;
}

function emptyLab(format: LabFormat, revision: number): LabData {
  return format.lab.parse({ version: format.version, id: randomUUID(), revision });
}

/** The records when lab.json is missing or unusable. */
async function recover(
  paths: LabPaths,
  found: readonly FoundMachine[],
  pool: PoolListing,
  context: Context,
): Promise<LoadedRecords> {
  const backup = await fromBackup(paths, found, context);
  const revision = Math.max(0, ...found.map(({ record }) => record.revision));
  const data = backup ?? emptyLab(context.format, revision);
  const isNew = backup === undefined && found.length === 0 && pool.disks.length + pool.memory.length === 0;
  if (!isNew) {
    data.recoveredAt = new Date().toISOString();
    // So that copies which are left over from the lost commits count as older from now on.
    data.revision = Math.max(data.revision, revision) + 1;
    if (backup === undefined) context.log(`${found.length} machines in ${paths.machines} can be taken up again`);
  }
  return { data, fileIsGood: false, migrated: false, stale: data.machines.map(({ id }) => id) };
}

/**
 * Reads the lab's records.
 * @throws StoreError "later-version", "unusable-folder", "not-written"
 */
export async function loadRecords(paths: LabPaths, pool: PoolListing, context: Context): Promise<LoadedRecords> {
  const { log, files, format } = context;
  const folders = await readMachineFolders(paths, format);
  for (const { folder, reason } of folders.damaged) log(`${folder} is damaged: ${reason}`);
  const read = await readLabFile(paths.records, format);
  if (read.kind === "bad") {
    log(`${paths.records} cannot be used: ${read.reason}`);
    await keepAside(paths.records, context);
  }
  if (read.kind !== "good") return recover(paths, folders.machines, pool, context);
  const migrated = read.version !== format.version;
  if (migrated) await keepOldVersion(paths, read.version, files, log);
  const copies = new Map(folders.machines.map(({ id, record }) => [id, JSON.stringify(record)]));
  const stale = read.value.machines.filter((record) => migrated || copies.get(record.id) !== JSON.stringify(record));
  return { data: read.value, fileIsGood: true, migrated, stale: stale.map(({ id }) => id) };
}

async function keepOldVersion(paths: LabPaths, version: number, files: FileCalls, log: (line: string) => void) {
  const kept = `${paths.records}.v${version}`;
  try {
    await files.remove(kept);
    await files.link(paths.records, kept);
    await files.syncFolder(paths.folder);
  } catch (error) {
    throw writeError(kept, error);
  }
  log(`the lab's records are of version ${version}; they are kept as ${basename(kept)}`);
}
