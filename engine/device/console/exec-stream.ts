/**
 * Takes apart what a guest sends over its console while it runs one command for the host.
 *
 * The guest's /init (main/images/debian-shell.ts) silences the kernel, makes the line raw and then sends
 *
 *     MARK begin LF   the command's standard output   MARK stderr LF   its standard error   MARK end STATUS LF
 *
 * where MARK is an ASCII record separator, "domlab:", a token that the host chose at random, and ":". What comes
 * before `begin` and after `end` is log. Nothing is escaped: the token is what cannot occur by accident. Anything that is not
 * the marker expected next, complete and well formed, is passed on as data.
 */

/** Which stream a run of bytes belongs to. */
export type ExecStreamName = "log" | "stdout" | "stderr";

export type ExecEvent =
  | { readonly kind: ExecStreamName; readonly bytes: Uint8Array }
  /** The command has ended; `status` is its exit status, 0 to 255. */
  | { readonly kind: "exit"; readonly status: number };

type Phase = "boot" | "stdout" | "stderr" | "done";

const RECORD_SEPARATOR = 0x1e;
const LINE_FEED = 0x0a;

/** In each phase: the stream of its bytes, and the marker word that ends it. */
const PHASES: Readonly<
  Record<Phase, { readonly stream: ExecStreamName; readonly word: string; readonly next: Phase }>
> = {
  boot: { stream: "log", word: "begin", next: "stdout" },
  stdout: { stream: "stdout", word: "stderr", next: "stderr" },
  stderr: { stream: "stderr", word: "end ", next: "done" },
  done: { stream: "log", word: "", next: "done" },
};

/** The bytes that begin every marker with this token. The guest's side builds the same. */
export function execMark(token: string): string {
  return `\x1edomlab:${token}:`;
}

/** What follows at a record separator: a whole marker, the possible beginning of one, or plain data. */
type Match =
  | { readonly kind: "marker"; readonly length: number; readonly status: number }
  | { readonly kind: "partial" }
  | { readonly kind: "data" };

/** The incremental parser: feed it what arrives, in pieces of any size. */
export class ExecStreamParser {
  private phase: Phase = "boot";
  private pending: Uint8Array = new Uint8Array(0);
  private readonly mark: string;

  /** @param token the token given to the guest; letters and digits */
  constructor(token: string) {
    this.mark = execMark(token);
  }

  /** True once the command's exit status has been seen. */
  get finished(): boolean {
    return this.phase === "done";
  }

  /** True once the command's output has begun. */
  get started(): boolean {
    return this.phase !== "boot";
  }

  /** Parses the next bytes. Bytes that may be the beginning of a marker are held back until it is decided. */
  feed(chunk: Uint8Array): ExecEvent[] {
    const input = this.pending.length === 0 ? chunk : Buffer.concat([this.pending, chunk]);
    this.pending = new Uint8Array(0);
    const events: ExecEvent[] = [];
    let from = 0;
    let search = 0;
    while (this.phase !== "done") {
      const at = input.indexOf(RECORD_SEPARATOR, search);
      if (at < 0) break;
      const match = this.matchAt(input, at);
      if (match.kind === "data") {
        search = at + 1;
        continue;
      }
      this.emit(events, input.subarray(from, at));
      from = at;
      if (match.kind === "partial") {
        this.pending = input.slice(at);
        return events;
      }
      this.advance(events, match.status);
      from = at + match.length;
      search = from;
    }
    this.emit(events, input.subarray(from));
    return events;
  }

  /** The stream has ended: hands out what was held back. */
  end(): ExecEvent[] {
    const events: ExecEvent[] = [];
    this.emit(events, this.pending);
    this.pending = new Uint8Array(0);
    return events;
  }

  private emit(events: ExecEvent[], bytes: Uint8Array): void {
    // Copied: the caller's buffer may be a ring that is written again.
    if (bytes.length > 0) events.push({ kind: PHASES[this.phase].stream, bytes: bytes.slice() });
  }

  private advance(events: ExecEvent[], status: number): void {
    this.phase = PHASES[this.phase].next;
    if (this.phase === "done") events.push({ kind: "exit", status });
  }

  private matchAt(input: Uint8Array, at: number): Match {
    const expected = this.mark + PHASES[this.phase].word;
    let position = at;
    for (let i = 0; i < expected.length; i++, position++) {
      if (position === input.length) return { kind: "partial" };
      if (input[position] !== expected.charCodeAt(i)) return { kind: "data" };
    }
    let status = 0;
    if (this.phase === "stderr") {
      const digits = position;
      for (; position < input.length && position < digits + 3; position++) {
        const digit = (input[position] as number) - 0x30;
        if (digit < 0 || digit > 9) break;
        status = status * 10 + digit;
      }
      if (position < input.length && (position === digits || status > 255)) return { kind: "data" };
    }
    if (position === input.length) return { kind: "partial" };
    return input[position] === LINE_FEED ? { kind: "marker", length: position + 1 - at, status } : { kind: "data" };
  }
}
