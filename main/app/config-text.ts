/** Configurations of xl's that the user names by their paths: the window cannot read files of the host by itself. */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { extname } from "node:path";
import { errnoOf } from "../../engine/builder/errors.ts";
import { BadInput } from "../failure.ts";
import { MOST_CONFIG_BYTES } from "./app-api.ts";

/**
 * @param path of a plain file whose name ends in .cfg
 * @returns its text
 * @throws BadInput for a file that is none, cannot be read, or is longer than MOST_CONFIG_BYTES
 */
export async function readConfig(path: string): Promise<string> {
  if (extname(path).toLowerCase() !== ".cfg") {
    throw new BadInput("bad-option", `${path} is no configuration of xl's`, "choose a file whose name ends in .cfg");
  }
  try {
    // Without O_NONBLOCK a pipe of that name would keep the caller waiting for a writer.
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      const facts = await file.stat();
      if (!facts.isFile()) throw new BadInput("bad-option", `${path} is no plain file`, "choose another one");
      if (facts.size > MOST_CONFIG_BYTES) {
        throw new BadInput("bad-option", `${path} is longer than a configuration is`, "choose another one");
      }
      return await file.readFile("utf8");
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof BadInput) throw error;
    const code = errnoOf(error) ?? "unknown error";
    throw new BadInput("bad-option", `${path} cannot be read (${code})`, "check its path and its rights");
  }
}
