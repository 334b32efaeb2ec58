/** Short texts that the user names as files: configurations. A pipe will do, and nothing is read without end. */
import { createReadStream } from "node:fs";
import { resolve } from "node:path";
import { BadInput } from "./failure.ts";

/** Far longer than a configuration is. */
const MOST_BYTES = 1 << 20;

/**
 * @param cwd folder that a relative name belongs to
 * @throws BadInput for a name or a file that cannot be meant; the system's error with the file's path
 */
export async function readUserText(cwd: string, file: string): Promise<string> {
  if (file === "") throw new BadInput("bad-option", "the file's name is empty", "name a file");
  const path = resolve(cwd, file);
  const parts: Buffer[] = [];
  let length = 0;
  try {
    for await (const part of createReadStream(path) as AsyncIterable<Buffer>) {
      parts.push(part);
      length += part.length;
      if (length > MOST_BYTES) {
        throw new BadInput("bad-option", `${file} is longer than a configuration is`, "name another file");
      }
    }
  } catch (error) {
    // Reading, unlike opening, fails without saying what was read.
    if (error instanceof Error && "code" in error && !("path" in error)) Object.assign(error, { path });
    throw error;
  }
  return Buffer.concat(parts).toString("utf8");
}
