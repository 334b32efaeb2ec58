/** Pieces of log files, which rotate: the older part has `.1` behind its name (engine/device/console/log-file.ts). */
import { type FileHandle, open } from "node:fs/promises";
import { errnoOf } from "../../../engine/builder/errors.ts";

const PIECE = 256 * 1024;

export interface LogPiece {
  readonly offset: number;
  /** Bytes that `text` stands for. */
  readonly bytes: number;
  readonly text: string;
  /** Bytes that the log has, the older part among them. */
  readonly end: number;
}

async function openExisting(path: string): Promise<FileHandle | undefined> {
  try {
    return await open(path, "r");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

/** Bytes at the end that begin a character which is not all there. */
function unfinished(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back] ?? 0;
    if (byte < 0x80) return 0;
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) ? back : 0;
  }
  return 0;
}

/**
 * A piece of a log: from `offset` on, or the last bytes of it without one. A missing log is an empty one. An offset
 * behind the end, after a rotation, begins at the start.
 * @throws the system's error
 */
export async function readLog(path: string, offset: number | undefined, most = PIECE): Promise<LogPiece> {
  const parts = (await Promise.all([openExisting(`${path}.1`), openExisting(path)])).filter(
    (file) => file !== undefined,
  );
  try {
    const sizes = await Promise.all(parts.map(async (file) => (await file.stat()).size));
    const end = sizes.reduce((sum, size) => sum + size, 0);
    const from = offset === undefined ? Math.max(0, end - most) : offset > end ? 0 : offset;
    const pieces: Buffer[] = [];
    let at = from;
    let start = 0;
    for (const [index, file] of parts.entries()) {
      const size = sizes[index] ?? 0;
      const length = Math.min(start + size - at, from + most - at);
      if (length > 0) {
        const buffer = Buffer.alloc(length);
        const { bytesRead } = await file.read(buffer, 0, length, at - start);
        pieces.push(buffer.subarray(0, bytesRead));
        at += bytesRead;
      }
      start += size;
    }
    const bytes = Buffer.concat(pieces);
    const whole = bytes.subarray(0, from + bytes.length < end ? bytes.length - unfinished(bytes) : bytes.length);
    return { offset: from, bytes: whole.length, text: whole.toString("utf8"), end };
  } finally {
    await Promise.all(parts.map((file) => file.close()));
  }
}
