/** Reading of files that a user names: regular files only, bounded, and never waiting on a fifo or a device. */

import { constants, type FileHandle, open } from "node:fs/promises";
import { messageOf } from "../errors/message.ts";
import { BuildError, errnoOf } from "./errors.ts";

const MIB = 1024 * 1024;
/** One read call moves at most this much, so that a file of gigabytes does not hit the 2 GiB limit of read(2). */
const READ_STEP = 64 * MIB;

function unreadable(path: string, label: string, reason: string, remedy: string, cause?: unknown): BuildError {
  return new BuildError("unreadable-file", `cannot read the ${label} ${path}: ${reason}`, remedy, cause);
}

function openFailure(path: string, label: string, error: unknown): BuildError {
  switch (errnoOf(error)) {
    case "ENOENT":
    case "ENOTDIR":
      return unreadable(path, label, "there is no such file", "check the path", error);
    case "EACCES":
    case "EPERM":
      return unreadable(path, label, "permission denied", "make it readable for this user (chmod +r)", error);
    default:
      return unreadable(path, label, messageOf(error), "check the path", error);
  }
}

async function readAll(handle: FileHandle, size: number): Promise<{ bytes: Uint8Array; length: number }> {
  const bytes = new Uint8Array(size);
  let length = 0;
  while (length < size) {
    const { bytesRead } = await handle.read(bytes, length, Math.min(READ_STEP, size - length), length);
    if (bytesRead === 0) break;
    length += bytesRead;
  }
  return { bytes, length };
}

/**
 * Reads a whole regular file.
 *
 * @param label what the file is for, as it appears in messages ("kernel", "initrd")
 * @param limit greatest accepted size in bytes
 * @throws BuildError `unreadable-file` or `file-too-large`
 */
export async function readBounded(path: string, label: string, limit: number): Promise<Uint8Array> {
  let handle: FileHandle;
  try {
    // O_NONBLOCK: opening a fifo without a writer returns at once, and fstat then tells what it is.
    handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw openFailure(path, label, error);
  }
  try {
    const status = await handle.stat();
    if (!status.isFile()) throw unreadable(path, label, "it is not a regular file", "name a plain file");
    if (status.size > limit) {
      const found = `${Math.ceil(status.size / MIB)} MiB, more than the ${Math.floor(limit / MIB)} MiB accepted`;
      throw new BuildError("file-too-large", `the ${label} ${path} has ${found}`, "name a smaller file");
    }
    const { bytes, length } = await readAll(handle, status.size);
    if (length !== bytes.length) throw unreadable(path, label, "it shrank while being read", "try again");
    return bytes;
  } catch (error) {
    throw error instanceof BuildError ? error : openFailure(path, label, error);
  } finally {
    await handle.close();
  }
}
