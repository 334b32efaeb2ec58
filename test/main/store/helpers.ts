import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach } from "vitest";
import { type FileCalls, hostFiles } from "../../../main/lab/store/durable-file.ts";
import { type MachineConfigInput, type MachineRecord, machineConfig } from "../../../main/lab/store/schema.ts";
import { LabStore, newMachine, type OpenOptions } from "../../../main/lab/store/store.ts";

const folders: string[] = [];
const stores: LabStore[] = [];

afterEach(async () => {
  await Promise.all(stores.splice(0).map((store) => store.close()));
  await Promise.all(folders.splice(0).map((folder) => rm(folder, { recursive: true, force: true })));
});

/** An empty folder, removed after the test. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "domlab-store-"));
  folders.push(folder);
  return folder;
}

/** A store that is closed after the test. */
export async function openStore(folder: string, options: OpenOptions = {}): Promise<LabStore> {
  const store = await LabStore.open(folder, options);
  stores.push(store);
  return store;
}

export function machine(config: MachineConfigInput, over: Partial<MachineRecord> = {}): MachineRecord {
  return { ...newMachine(machineConfig.parse(config)), ...over };
}

/** Adds a machine; returns its id. */
export function add(store: LabStore, config: MachineConfigInput, over: Partial<MachineRecord> = {}): Promise<string> {
  return store.update((draft) => {
    const record = machine(config, over);
    draft.machines.push(record);
    return record.id;
  });
}

export function systemError(code: string): Error {
  return Object.assign(new Error(code), { code });
}

/** What the file system does until the fault comes: `fault` returns an error to throw in the middle of a call. */
export function faultyFiles(fault: (call: string, file: string) => Error | undefined): FileCalls {
  const guarded = (call: string, file: string) => {
    const error = fault(call, file);
    if (error !== undefined) throw error;
  };
  return {
    async write(file, text) {
      const error = fault("write", file);
      if (error === undefined) return hostFiles.write(file, text);
      // Cut off in the middle.
      await writeFile(file, text.slice(0, text.length / 2));
      throw error;
    },
    async link(from, to) {
      guarded("link", to);
      await hostFiles.link(from, to);
    },
    async rename(from, to) {
      guarded("rename", to);
      await hostFiles.rename(from, to);
    },
    async remove(file) {
      guarded("remove", file);
      await hostFiles.remove(file);
    },
    async syncFolder(folder) {
      guarded("syncFolder", folder);
      await hostFiles.syncFolder(folder);
    },
  };
}
