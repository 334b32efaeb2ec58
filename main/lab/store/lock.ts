/**
 * One writer: the lock on lab.lock, held by an open file description, so that it ends with the process however that
 * ends.
 */
import { constants as fsConstants } from "node:fs";
import { type FileHandle, open, readFile } from "node:fs/promises";
import { constants } from "node:os";
import { errnoName } from "../../../engine/disk/errors.ts";
import { hostIo } from "../../../engine/disk/host-io.ts";
import { StoreError } from "./errors.ts";

const { EAGAIN, EACCES } = constants.errno;
const WHOLE = { byte: 0, kind: "write" } as const;

export interface LabLock {
  release(): Promise<void>;
}

/** What the owner wrote about itself: "1234 2026-01-31T12:00:00.000Z". Nothing depends on it but the message. */
async function owner(file: string): Promise<string> {
  const text = await readFile(file, "utf8").catch(() => "");
  const match = /^(\d{1,10}) (\d{4}-\d\d-\d\dT[\d:.]{8,12}Z)\n$/.exec(text);
  return match ? `process ${match[1]} since ${match[2]}` : "another process";
}

async function takeLock(handle: FileHandle, file: string, folder: string): Promise<void> {
  const status = hostIo().setLock(handle.fd, WHOLE);
  if (status === -EAGAIN || status === -EACCES) {
    const remedy = "use it through that one, or end it first (domlab lab quit)";
    throw new StoreError("lab-in-use", `the lab in ${folder} is open in ${await owner(file)}`, remedy);
  }
  if (status < 0) {
    const what = `${file} cannot be locked (${errnoName(-status)})`;
    throw new StoreError("unusable-folder", what, "put the lab on a local file system (DOMLAB_HOME)");
  }
  const line = `${process.pid} ${new Date().toISOString()}\n`;
  await handle.truncate(0);
  await handle.write(line, 0);
}

/**
 * Makes this process the lab's only writer.
 * @throws StoreError "lab-in-use" that names the process that is, or "unusable-folder"; the system's error
 */
export async function lockLab(file: string, folder: string): Promise<LabLock> {
  const handle = await open(file, fsConstants.O_RDWR | fsConstants.O_CREAT, 0o600);
  try {
    await takeLock(handle, file, folder);
  } catch (error) {
    await handle.close();
    throw error;
  }
  // The file stays: whoever removed it would let a third process lock another file of the same name.
  return { release: () => handle.close() };
}
