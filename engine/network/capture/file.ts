/** A capture's file. */
import { type FileHandle, open } from "node:fs/promises";
import type { CaptureSink } from "./capture.ts";
import { CaptureError, fileTrouble } from "./errors.ts";

function unwritable(path: string, error: unknown): CaptureError {
  const { what, remedy } = fileTrouble(error);
  return new CaptureError("unwritable-file", `capture file ${path}: cannot be written, ${what}`, remedy, error);
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  let done = 0;
  while (done < bytes.length) done += (await file.write(bytes, done, bytes.length - done)).bytesWritten;
}

/**
 * Creates a capture file, or empties it. A named pipe will do as well, for a live view in another program.
 * @throws CaptureError "unwritable-file"; the sink's write() rejects with it when the disk fills up later
 */
export async function openCaptureFile(path: string): Promise<CaptureSink> {
  let file: FileHandle;
  try {
    file = await open(path, "w", 0o644);
  } catch (error) {
    throw unwritable(path, error);
  }
  return {
    async write(bytes) {
      try {
        await writeAll(file, bytes);
      } catch (error) {
        throw unwritable(path, error);
      }
    },
    close: () => file.close(),
  };
}
