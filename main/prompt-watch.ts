/** How many characters of the unfinished console line are kept; prompts are short. */
const LINE_KEPT = 200;

/** Escape sequences that shells put around or after a prompt (colours, the question for the cursor position). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: escape sequences start with one
const ESCAPE_SEQUENCE = /\x1b(\[[0-9;?]*[ -/]*[@-~]|[()][A-Za-z0-9]|[=>78])/g;

/** An unfinished line that waits for somebody: a shell's, Debian's initramfs shell's, or a login's. */
const PROMPT = /(^|[^[])(?:[#$] |\(initramfs\) |login: )$/;

/**
 * Recognizes in a console's output that the guest waits for input: its last line is unfinished and ends like a prompt.
 * An incremental state machine over text; knows the guest's last line, too, for a progress display.
 */
export class PromptWatch {
  #line = "";
  #lastFull = "";
  #ready = false;

  /** Takes a piece of console output; returns true once, when the first prompt stands. */
  feed(chunk: Uint8Array): boolean {
    const text = this.#line + Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength).toString("latin1");
    const lines = text.split(/[\r\n]+/);
    this.#line = (lines.pop() ?? "").slice(-LINE_KEPT);
    this.#lastFull = lines.findLast((line) => line !== "") ?? this.#lastFull;
    if (this.#ready || !PROMPT.test(this.#line.replace(ESCAPE_SEQUENCE, ""))) return false;
    this.#ready = true;
    return true;
  }

  /** Whether a prompt has been seen. */
  get ready(): boolean {
    return this.#ready;
  }

  /** Whether the last line looks like a prompt now. */
  get waiting(): boolean {
    return PROMPT.test(this.#line.replace(ESCAPE_SEQUENCE, ""));
  }

  /** The last non-empty line, finished or not. */
  get lastLine(): string {
    return this.#line || this.#lastFull;
  }
}
