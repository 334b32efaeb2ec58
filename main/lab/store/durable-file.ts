/**
 * Files that are either as they were or as they were meant to be, whatever ends the process or the machine: written
 * under another name, fsynced, renamed, and the folder fsynced so that the new name is durable too.
 */
import { copyFile, link, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { errnoOf } from "../../../engine/builder/errors.ts";

/** What is done to the file system, each call durable by itself as far as it says; tests put faults in between. */
export interface FileCalls {
  /** Makes a file with this text, and fsyncs it. */
  write(file: string, text: string): Promise<void>;
  /** A second name of a file, which must not be taken; a copy where links cannot be. */
  link(from: string, to: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  /** Removes a file; one that is not there is no error. */
  remove(file: string): Promise<void>;
  /** Makes the names in a folder durable. */
  syncFolder(folder: string): Promise<void>;
}

/** File systems that have no hard links, or not between these files. */
const NO_LINKS = new Set(["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EXDEV", "EMLINK"]);
/**
 * File systems (and systems) where a folder cannot be opened or fsynced: names are durable there at the system's will.
 */
const NO_FOLDER_SYNC = new Set(["EINVAL", "ENOTSUP", "EOPNOTSUPP", "EISDIR", "EPERM"]);

async function fsync(file: string, flags: string): Promise<void> {
  const handle = await open(file, flags);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export const hostFiles: FileCalls = {
  async write(file, text) {
    const handle = await open(file, "w", 0o600);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
  },
  async link(from, to) {
    try {
      await link(from, to);
    } catch (error) {
      if (!NO_LINKS.has(errnoOf(error) ?? "")) throw error;
      await copyFile(from, to);
      await fsync(to, "r+");
    }
  },
  rename,
  remove: (file) => rm(file, { force: true }),
  async syncFolder(folder) {
    try {
      await fsync(folder, "r");
    } catch (error) {
      if (!NO_FOLDER_SYNC.has(errnoOf(error) ?? "")) throw error;
    }
  },
};

export interface ReplaceOptions {
  readonly files?: FileCalls;
  /** Name that keeps the content so far. */
  readonly backup?: string;
}

/**
 * Replaces a file's content; durable when fulfilled. When it fails, the file holds what it held before.
 *
 * The backup is a second name for the old file, made before the new one takes its place: at no moment is there neither.
 * @throws the system's error
 */
export async function replaceFile(file: string, text: string, options: ReplaceOptions = {}): Promise<void> {
  const { files = hostFiles, backup } = options;
  const fresh = `${file}.tmp`;
  try {
    await files.write(fresh, text);
    if (backup !== undefined) {
      const second = `${backup}.tmp`;
      await files.remove(second);
      await files.link(file, second);
      await files.rename(second, backup);
    }
    await files.rename(fresh, file);
  } catch (error) {
    await files.remove(fresh).catch(() => {});
    throw error;
  }
  try {
    await files.syncFolder(dirname(file));
  } catch (error) {
    // The caller will count this as not done: what can be read must say the same.
    if (backup !== undefined) {
      await files.link(backup, fresh).catch(() => {});
      await files.rename(fresh, file).catch(() => {});
    }
    throw error;
  }
}
