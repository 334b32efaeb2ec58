/** Where the server of a lab is reached, written into the lab's folder while it runs. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { replaceFile } from "../store/durable-file.ts";
import { labHome } from "../store/paths.ts";

const serverFile = z.strictObject({
  lab: z.string(),
  pid: z.int(),
  /** Sockets. */
  control: z.string(),
  xenstore: z.string(),
});
export type ServerFile = z.infer<typeof serverFile>;

export const serverFilePath = (home: string): string => join(home, "server.json");

/** "main" is the lab in the usual folder; one in another folder has that in its name, always in the same way. */
export function labName(home: string, environment: NodeJS.ProcessEnv = process.env): string {
  const { DOMLAB_HOME: _own, ...rest } = environment;
  if (home === labHome(rest)) return "main";
  return `main-${createHash("sha256").update(home).digest("hex").slice(0, 8)}`;
}

/** @throws StoreError */
export async function writeServerFile(home: string, content: ServerFile): Promise<void> {
  await replaceFile(serverFilePath(home), `${JSON.stringify(content)}\n`);
}

/** Undefined when there is none, or a server died while it wrote it. */
export async function readServerFile(home: string): Promise<ServerFile | undefined> {
  try {
    const parsed = serverFile.safeParse(JSON.parse(await readFile(serverFilePath(home), "utf8")));
    return parsed.success ? parsed.data : undefined;
  } catch {
    return undefined;
  }
}
