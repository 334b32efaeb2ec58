/** Makes machines of files; each is told in a notice when it is there, and its progress is in the status bar. */
import { bytes } from "../../lib/format.ts";
import { call, type Result } from "../../lib/rpc/client.ts";
import { bridge } from "../../lib/rpc/transport.ts";
import { activities } from "../../lib/state/activities.svelte.ts";
import { lab, newOperation } from "../../lib/state/lab.svelte.ts";
import { attempt, notices } from "../../lib/state/notices.svelte.ts";
import { router } from "../../lib/state/router.svelte.ts";
import { upload } from "../images/upload.ts";
import { refusalOf } from "../images/upload-answer.ts";
import { folderOf, machineFileKind } from "./machine-files.ts";

type Made = Result<"machineImport">;

function tell({ id, name, notes }: Made): void {
  notices.success([`${name} was imported.`, ...notes.map((note) => `${note}.`)].join(" "), {
    label: "Show",
    run: () => router.go("machines", id),
  });
}

async function importConfig(file: File): Promise<Made> {
  const cwd = bridge ? folderOf(bridge.pathOf(file)) : (lab.app?.home ?? "/");
  return await call("configImport", { text: await file.text(), cwd, operation: newOperation() });
}

async function importArchive(file: File): Promise<Made | undefined> {
  const operation = newOperation();
  if (bridge) return await call("machineImport", { path: bridge.pathOf(file), operation });
  const path = await sendFile(file, operation);
  if (path === undefined) return undefined;
  return await call("machineImport", { path, move: true, operation }).catch((error: unknown) => {
    throw refusalOf(error, path, file.name);
  });
}

/** @returns its path on the host; undefined when the user has cancelled it @throws Error with one line */
async function sendFile(file: File, operation: string): Promise<string | undefined> {
  const most = lab.app?.mostUploadBytes ?? Number.POSITIVE_INFINITY;
  if (file.size > most) {
    throw new Error(
      `${file.name} is larger than ${bytes(most)}; copy it to the host and import it there: domlab import`,
    );
  }
  const abort = new AbortController();
  const sending = activities.send(operation, `import of ${file.name}`, file.size, () => abort.abort());
  try {
    return await upload(file, { signal: abort.signal, progress: sending.progress });
  } catch (error) {
    if (abort.signal.aborted) return undefined;
    throw error;
  } finally {
    sending.done();
  }
}

/** Takes files that were dropped or chosen, one after the other. */
export async function importFiles(files: Iterable<File>): Promise<void> {
  for (const file of files) {
    const made = await attempt(async () => {
      const kind = machineFileKind(file.name);
      if (kind === "archive") return await importArchive(file);
      if (kind === "config") return await importConfig(file);
      throw new Error(`${file.name} is no machine; drop .domlab and .cfg files here, and disk images on Images`);
    });
    if (made !== undefined) tell(made);
  }
}

/** Takes a file of the host, of either kind. */
export async function importPath(path: string): Promise<void> {
  const made = await attempt(async () => {
    const operation = newOperation();
    if (machineFileKind(path) !== "config") return await call("machineImport", { path, operation });
    const { text } = await call("readConfig", { path });
    return await call("configImport", { text, cwd: folderOf(path), operation });
  });
  if (made !== undefined) tell(made);
}
