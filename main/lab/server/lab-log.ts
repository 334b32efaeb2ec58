/** The lab's own log: lines with their time, in a file that is bounded, and to whoever listens. */

import { LogFile } from "../../../engine/device/console/log-file.ts";
import { oneLine } from "../../../engine/errors/input-error.ts";

export class LabLog {
  private readonly file: LogFile;
  private listener: (date: string, line: string) => void = () => {};

  /** @throws the error of open(2) */
  constructor(path: string) {
    this.file = new LogFile(path);
  }

  /** Calls `listener` with each line from now on. */
  onLine(listener: (date: string, line: string) => void): void {
    this.listener = listener;
  }

  /** @param quiet only to the file */
  write(text: string, quiet = false): void {
    const date = new Date().toISOString();
    const line = oneLine(text);
    this.file.write(Buffer.from(`${date} ${line}\n`));
    if (!quiet) this.listener(date, line);
  }

  close(): void {
    this.file.close();
  }
}
