import type { Adapter } from "lowdb";
import { type FileCalls, replaceFile } from "./durable-file.ts";
import type { LabPaths } from "./paths.ts";
import type { LabData } from "./schema.ts";

/** lowdb's adapter that survives power loss: lowdb's own neither fsyncs nor keeps what was there. */
export class DurableAdapter implements Adapter<LabData> {
  readonly #paths: LabPaths;
  readonly #files: FileCalls;
  #keepBackup: boolean;

  /** @param keepBackup false when lab.json is not known to be good: a bad one must not take the backup's place */
  constructor(paths: LabPaths, files: FileCalls, keepBackup: boolean) {
    this.#paths = paths;
    this.#files = files;
    this.#keepBackup = keepBackup;
  }

  /** The store reads with more care than lowdb can take: it hands over what it found as the first data. */
  async read(): Promise<LabData | null> {
    return null;
  }

  async write(data: LabData): Promise<void> {
    const { records, backup } = this.#paths;
    const text = `${JSON.stringify(data, undefined, 1)}\n`;
    await replaceFile(records, text, { files: this.#files, ...(this.#keepBackup && { backup }) });
    this.#keepBackup = true;
  }
}
