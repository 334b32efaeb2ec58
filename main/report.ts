/** How a run ended, in one word. */
export type RunStatus = "exited" | "powered-off" | "rebooted" | "crashed" | "lost" | "timeout" | "stopped" | "failed";

/** What --json prints, one object. Absent fields do not apply. */
export interface RunReport {
  readonly status: RunStatus;
  /** Exit status of the domlab command. */
  readonly exit: number;
  /** Wall time of the whole run in seconds. */
  readonly seconds: number;
  /** Instructions that the guest retired. */
  readonly instructions?: number;
  /** Path of the domain's console log. */
  readonly log?: string;
  /** Path of the crash report. */
  readonly crash?: string;
  /** What went wrong, one line. */
  readonly error?: string;
  /** Output of the --exec command; base64 where it is not UTF-8. */
  readonly stdout?: string;
  readonly stdoutBase64?: string;
  readonly stderr?: string;
  readonly stderrBase64?: string;
  /** The command printed more than is kept. */
  readonly truncated?: true;
}

/** `{ <name>: text }`, or `{ <name>Base64: … }` where the bytes are not UTF-8, so that nothing is lost. */
export function outputField(name: "stdout" | "stderr", bytes: Uint8Array): Partial<RunReport> {
  try {
    return { [name]: new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes) };
  } catch {
    return { [`${name}Base64`]: Buffer.from(bytes).toString("base64") };
  }
}
