/** app.json in the lab's folder: the app that runs, or the last one that did. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";

const appFile = z.object({
  pid: z.int(),
  /** Taken again by the next start, so that bookmarks and open pages go on working. */
  port: z.int().min(1).max(65_535),
  started: z.string(),
});

/** Undefined when there is none that makes sense. */
export async function readAppFile(home: string): Promise<z.infer<typeof appFile> | undefined> {
  try {
    return appFile.safeParse(JSON.parse(await readFile(join(home, "app.json"), "utf8"))).data;
  } catch {
    return undefined;
  }
}
