/**
 * The lab store: all records of a lab in lab.json, one writer, every change durable before it counts.
 *
 * lab.json is the commit point. machines/<id>/machine.json holds a copy of a machine's record and is written *after*
 * the commit, so that it never holds a state that was never committed (a machine whose creation failed, say, is not
 * found there later). A crash in between leaves it one commit behind, which the next start mends. When a machine is
 * purged its copy goes *before* the commit: otherwise a crash in between would bring it back as a machine that lab.json
 * lacks.
 *
 * When lab.json cannot be read, lab.json.bak (one commit older) takes its place, and records whose machine.json has a
 * later revision are taken from there: a machine must not run on images that were frozen in the commit that was lost.
 */
import { randomUUID } from "node:crypto";
import { mkdir, realpath, rm } from "node:fs/promises";
import { Low } from "lowdb";
import { DurableAdapter } from "./adapter.ts";
import { type FileCalls, hostFiles, replaceFile } from "./durable-file.ts";
import { firstIssue, issueText, StoreError, writeError } from "./errors.ts";
import { type LabLock, lockLab } from "./lock.ts";
import { type LabFormat, labFormat } from "./migrations.ts";
import { suggestName } from "./names.ts";
import { type LabPaths, labPaths } from "./paths.ts";
import { type MachineFolders, readMachineFolders } from "./read-records.ts";
import { type LoadedRecords, loadRecords } from "./recovery.ts";
import { type DeepReadonly, type LabData, type MachineRecord, purgeDate } from "./schema.ts";
import {
  type BackingOf,
  type ImageFile,
  listPool,
  type PoolListing,
  type References,
  referencedFiles,
  type SweepReport,
  sweepPool,
  unreferencedFiles,
} from "./sweep.ts";

export interface OpenOptions {
  /** Gets one line for everything that was not as it should be. */
  readonly log?: (line: string) => void;
  readonly files?: FileCalls;
  readonly format?: LabFormat;
}

function deepFreeze<T>(value: T): DeepReadonly<T> {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) deepFreeze(inner);
  }
  return value as DeepReadonly<T>;
}

/** A record's content without what the store stamps on it. */
function contentOf(record: DeepReadonly<MachineRecord>): string {
  return JSON.stringify({ ...record, revision: 0, changed: "" });
}

/** Of that, what its user calls a change: not that it was started. */
function userContentOf(record: DeepReadonly<MachineRecord>): string {
  return contentOf({ ...record, wasRunning: false });
}

async function makeFolders(paths: LabPaths): Promise<void> {
  try {
    for (const folder of [paths.folder, paths.machines, paths.disks, paths.memory, paths.images, paths.tmp]) {
      await mkdir(folder, { recursive: true, mode: 0o700 });
    }
  } catch (error) {
    const { message } = writeError(paths.folder, error);
    throw new StoreError("unusable-folder", message.replace(/; .*$/, ""), "choose another folder (DOMLAB_HOME)", error);
  }
}

export class LabStore {
  readonly paths: LabPaths;
  readonly #lock: LabLock;
  readonly #log: (line: string) => void;
  readonly #files: FileCalls;
  readonly #format: LabFormat;
  readonly #adapter: DurableAdapter;
  readonly #low: Low<LabData>;
  readonly #pool: PoolListing;
  readonly #listeners = new Set<(data: DeepReadonly<LabData>) => void>();
  /** Machines whose machine.json is not what lab.json says. */
  readonly #stale = new Set<string>();
  #committed: DeepReadonly<LabData>;
  #queue: Promise<unknown> = Promise.resolve();
  #closed = false;

  private constructor(
    paths: LabPaths,
    lock: LabLock,
    pool: PoolListing,
    loaded: LoadedRecords,
    options: Required<OpenOptions>,
  ) {
    this.paths = paths;
    this.#lock = lock;
    this.#pool = pool;
    this.#log = options.log;
    this.#files = options.files;
    this.#format = options.format;
    this.#adapter = new DurableAdapter(paths, options.files, loaded.fileIsGood);
    this.#low = new Low(this.#adapter, loaded.data);
    this.#committed = deepFreeze(structuredClone(loaded.data));
  }

  /**
   * Opens the lab in a folder, which is made when it is not there, and makes this process its only writer.
   * @throws StoreError "lab-in-use", "later-version", "unusable-folder", "not-written"
   */
  static async open(folder: string, options: OpenOptions = {}): Promise<LabStore> {
    const full = { log: () => {}, files: hostFiles, format: labFormat, ...options };
    await makeFolders(labPaths(folder));
    const paths = labPaths(await realpath(folder));
    const lock = await lockLab(paths.lock, paths.folder).catch((error) => {
      throw error instanceof StoreError ? error : writeError(paths.lock, error);
    });
    try {
      const pool = await listPool(paths);
      const loaded = await loadRecords(paths, pool, full);
      const store = new LabStore(paths, lock, pool, loaded, full);
      await store.#settle(loaded);
      return store;
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  /** The records as of the last commit; frozen, and another object after each update. */
  get data(): DeepReadonly<LabData> {
    return this.#committed;
  }

  /** Whether the records were put together from copies and nobody has said since that they are complete. */
  get recovered(): boolean {
    return this.#committed.recoveredAt !== null;
  }

  /** A machine that is not deleted, by id or name (in any case); undefined when there is none. */
  machine(idOrName: string): DeepReadonly<MachineRecord> | undefined {
    const wanted = idOrName.toLowerCase();
    const { machines } = this.#committed;
    const named = machines.find(({ config, state }) => state !== "deleted" && config.name.toLowerCase() === wanted);
    return named ?? machines.find(({ id, state }) => state !== "deleted" && id === wanted);
  }

  /** Calls back after each commit until the returned function is called. */
  onChange(listener: (data: DeepReadonly<LabData>) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /**
   * Changes the records: `change` edits a draft, at once and not later; what it returns is handed on when the change is
   * durable. Updates follow one another. When `change` throws, the draft is not what the schema wants, or the file
   * cannot be written, nothing has changed, neither here nor on disk. `revision` and `changed` of records are set by
   * the store.
   *
   * A machine that the draft no longer has loses its folder machines/<id>; its images and memory files are left to
   * `sweep` and `unreferenced`.
   * @throws StoreError "bad-records", "not-written"; what `change` throws
   */
  update<T>(change: (draft: LabData) => T): Promise<T> {
    const done = this.#queue.then(() => this.#update(change));
    this.#queue = done.catch(() => {});
    return done;
  }

  async #update<T>(change: (draft: LabData) => T): Promise<T> {
    if (this.#closed) throw new Error("the lab store is closed");
    const before = this.#committed;
    const draft = structuredClone(before) as LabData;
    const result = change(draft);
    const next = this.#checked(draft);
    if (JSON.stringify(next) === JSON.stringify(before)) return result;
    next.revision = before.revision + 1;
    const changed = this.#stamp(before, next);
    const kept = new Set(next.machines.map(({ id }) => id));
    const removed = before.machines.map(({ id }) => id).filter((id) => !kept.has(id));
    await this.#commit(next, removed);
    for (const id of changed) this.#stale.add(id);
    await this.#copyRecords();
    for (const id of removed) await this.#removeFolder(id);
    for (const listener of this.#listeners) listener(this.#committed);
    return result;
  }

  #checked(draft: LabData): LabData {
    const checked = this.#format.lab.safeParse(draft);
    if (checked.success) return checked.data;
    const what = `the lab's records cannot become that: ${issueText(checked.error)}`;
    throw new StoreError("bad-records", what, `${firstIssue(checked.error).remedy}; nothing was changed`);
  }

  /** Marks the records that differ from before; returns their ids. */
  #stamp(before: DeepReadonly<LabData>, next: LabData): string[] {
    const now = new Date().toISOString();
    const old = new Map(before.machines.map((record) => [record.id, record]));
    const differs = (record: MachineRecord, content: (of: DeepReadonly<MachineRecord>) => string) => {
      const earlier = old.get(record.id);
      return earlier === undefined || content(earlier) !== content(record);
    };
    const changed = next.machines.filter((record) => differs(record, contentOf));
    for (const record of changed) {
      record.revision = next.revision;
      record.changed = differs(record, userContentOf) ? now : old.get(record.id)!.changed;
    }
    return changed.map(({ id }) => id);
  }

  async #commit(next: LabData, removed: readonly string[]): Promise<void> {
    try {
      for (const id of removed) {
        this.#stale.add(id);
        await this.#files.remove(this.paths.machineFile(id));
      }
      this.#low.data = next;
      await this.#low.write();
    } catch (error) {
      this.#low.data = structuredClone(this.#committed) as LabData;
      // The copies that are gone belong to machines that are still there.
      await this.#copyRecords();
      throw writeError(this.paths.records, error);
    }
    for (const id of removed) this.#stale.delete(id);
    this.#committed = deepFreeze(structuredClone(next));
  }

  /** Writes the machine.json of all records whose copy is out of date. What fails is tried again at the next update. */
  async #copyRecords(): Promise<void> {
    for (const id of [...this.#stale]) {
      const machine = this.#committed.machines.find((record) => record.id === id);
      const file = this.paths.machineFile(id);
      const content = { version: this.#format.version, lab: this.#committed.id, machine };
      try {
        await mkdir(this.paths.machineFolder(id), { recursive: true, mode: 0o700 });
        await replaceFile(file, `${JSON.stringify(content, undefined, 1)}\n`, { files: this.#files });
        this.#stale.delete(id);
      } catch (error) {
        this.#log(writeError(file, error).message);
      }
    }
  }

  async #removeFolder(id: string): Promise<void> {
    const folder = this.paths.machineFolder(id);
    await rm(folder, { recursive: true, force: true }).catch((error) => this.#log(writeError(folder, error).message));
  }

  /**
   * Brings the files to what was loaded: lab.json if it was put together, machine.json where a crash came in between.
   */
  async #settle(loaded: LoadedRecords): Promise<void> {
    if (!loaded.fileIsGood || loaded.migrated) await this.#commit(structuredClone(loaded.data), []);
    for (const id of loaded.stale) this.#stale.add(id);
    await this.#copyRecords();
  }

  /** Machines in folders that lab.json does not name, for `adopt`, and folders that hold none although they should. */
  async unknownMachines(): Promise<MachineFolders> {
    const found = await readMachineFolders(this.paths, this.#format);
    const known = new Set(this.#committed.machines.map(({ id }) => id));
    return {
      machines: found.machines.filter(({ id }) => !known.has(id)),
      damaged: found.damaged.filter(({ folder }) => ![...known].some((id) => this.paths.machineFolder(id) === folder)),
      empty: found.empty.filter(({ id }) => !known.has(id)),
    };
  }

  /**
   * Takes up a machine that was found in its folder; under another name when its own is taken.
   * @returns its record
   * @throws StoreError "no-machine", and as `update`
   */
  async adopt(id: string): Promise<DeepReadonly<MachineRecord>> {
    const { machines } = await this.unknownMachines();
    const found = machines.find((machine) => machine.id === id);
    if (found === undefined) {
      const what = `there is no machine ${id} to take up in ${this.paths.machines}`;
      throw new StoreError("no-machine", what, "domlab adopt without an id lists them");
    }
    return this.update((draft) => {
      const { record } = found;
      const name = record.state === "deleted" ? record.config.name : suggestName(record.config.name, draft);
      const adopted = { ...record, config: { ...record.config, name }, wasRunning: false };
      draft.machines.push(adopted);
      return adopted;
    });
  }

  /** Says that the records are complete after all, so that files which none of them names can be swept again. */
  acknowledgeRecovery(): Promise<void> {
    return this.update((draft) => {
      draft.recoveredAt = null;
    });
  }

  /**
   * Every file that a record names, with absolute paths; those of deleted machines and of unknown folders too. What the
   * images have behind them is not among them.
   */
  async references(without: readonly string[] = []): Promise<References> {
    const { machines } = await this.unknownMachines();
    const known = this.#committed;
    return referencedFiles(
      without.length === 0 ? known : { ...known, machines: known.machines.filter(({ id }) => !without.includes(id)) },
      machines.map(({ record }) => record),
      this.paths,
    );
  }

  /**
   * Removes what was in tmp/, disks/ and memory/ when the store was opened and no record names, directly or behind
   * another image; and folders of machines that are gone. To be called after the start, when it suits: files that came
   * later are not touched.
   *
   * Only tmp/ is swept when the records may be incomplete: after a recovery, or while a folder holds a machine that
   * they do not know. When a named image cannot be read, disks/ is left alone: nobody knows what lies behind it.
   * @param options.isInUse whether a file is needed that no record names at this moment
   */
  async sweep(options: {
    readonly backingOf: BackingOf;
    readonly isInUse?: (file: string) => boolean;
  }): Promise<SweepReport> {
    const unknown = await this.unknownMachines();
    const doubts = [
      ...(this.recovered ? [`the records were recovered at ${this.#committed.recoveredAt}`] : []),
      ...unknown.machines.map(({ folder }) => `${folder} holds a machine that the lab does not know`),
      ...unknown.damaged.map(({ folder, reason }) => `${folder} is damaged: ${reason}`),
    ];
    const report = await sweepPool({
      paths: this.paths,
      listing: this.#pool,
      references: await this.references(),
      ...options,
      doubts,
    });
    // A machine that is being made has a folder before it has a record.
    const old = unknown.empty.filter(({ id }) => this.#pool.machines.includes(id));
    if (doubts.length === 0) for (const { id } of old) await this.#removeFolder(id);
    for (const doubt of report.doubts) this.#log(`unused files are kept: ${doubt}`);
    return report;
  }

  /**
   * Which of these images, of the images behind them, and of these memory files (by name) lie in the lab's own folders
   * and are named by no record any more, so that they can be removed at once. None while the records may be incomplete.
   * @param without ids of machines that are looked upon as gone
   * @returns absolute paths
   */
  async unreferenced(
    files: { readonly images?: readonly ImageFile[]; readonly memory?: readonly string[] },
    backingOf: BackingOf,
    without: readonly string[] = [],
  ): Promise<string[]> {
    const unknown = await this.unknownMachines();
    if (this.recovered || unknown.machines.length + unknown.damaged.length > 0) return [];
    const asked = { images: files.images ?? [], memory: files.memory ?? [] };
    return unreferencedFiles(asked, { paths: this.paths, references: await this.references(without), backingOf });
  }

  /** Ids of the deleted machines whose time for undelete is over. */
  expired(now: Date = new Date()): string[] {
    const { machines, settings } = this.#committed;
    const isOver = (deletedAt: string) => Date.parse(purgeDate(deletedAt, settings)) <= now.getTime();
    return machines.filter(({ deletedAt }) => deletedAt !== undefined && isOver(deletedAt)).map(({ id }) => id);
  }

  /** Forgets deleted machines for good, and them in snapshots of the whole lab. Others among the ids are kept. */
  purge(ids: readonly string[]): Promise<void> {
    return this.update((draft) => {
      const gone = new Set(
        ids.filter((id) => draft.machines.some((each) => each.id === id && each.state === "deleted")),
      );
      draft.machines = draft.machines.filter(({ id }) => !gone.has(id));
      for (const snapshot of draft.labSnapshots) {
        snapshot.members = snapshot.members.filter(({ machine }) => !gone.has(machine));
      }
      draft.labSnapshots = draft.labSnapshots.filter(({ members }) => members.length > 0);
    });
  }

  /** Waits for updates under way and lets another process have the lab. Later updates fail. */
  close(): Promise<void> {
    const done = this.#queue.then(async () => {
      if (this.#closed) return;
      this.#closed = true;
      await this.#lock.release();
    });
    this.#queue = done.catch(() => {});
    return done;
  }
}

/** A new record of a stopped machine. */
export function newMachine(config: MachineRecord["config"]): MachineRecord {
  const now = new Date().toISOString();
  return {
    id: randomUUID(),
    config,
    created: now,
    changed: now,
    revision: 0,
    state: "stopped",
    wasRunning: false,
    snapshots: [],
    currentSnapshot: null,
    vifSettings: {},
  };
}

export type { FoundMachine, MachineFolders } from "./read-records.ts";
export type { BackingOf, ImageFile, References, SweepReport } from "./sweep.ts";
