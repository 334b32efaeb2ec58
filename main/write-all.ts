import type { Writable } from "node:stream";

/**
 * Writes to stdout or stderr. Returns a promise when the reader is slow, fulfilled when it has caught up or gone away, so
 * that a guest's console waits for its reader instead of filling our memory.
 */
export function writeAll(stream: Writable, bytes: Uint8Array): undefined | Promise<void> {
  if (stream.write(bytes)) return undefined;
  return new Promise((resolve) => {
    const done = () => {
      stream.removeListener("drain", done);
      stream.removeListener("close", done);
      resolve();
    };
    stream.on("drain", done);
    stream.on("close", done);
  });
}
