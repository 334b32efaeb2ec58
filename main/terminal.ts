import type { ReadStream } from "node:tty";

/** Escape sequence that shows the alternate screen (full-screen programs), which must be left when such a guest dies. */
const ALTERNATE_SCREEN_ON = "\x1b[?1049h";
const ALTERNATE_SCREEN_OFF = "\x1b[?1049l";
/** Plain colours, visible cursor, ordinary cursor keys and keypad, no bracketed paste, no mouse reports. */
const RESET_MODES = "\x1b[0m\x1b[?25h\x1b[?1l\x1b>\x1b[?2004l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l";

/**
 * The user's terminal while a guest has it: raw input, and a memory of what the guest did to the screen, so that it can
 * be put right on every way out of the program.
 */
export class Terminal {
  readonly #input: ReadStream;
  readonly #output: NodeJS.WriteStream;
  #raw = false;
  #alternateScreen = false;
  #tail = "";
  readonly #onExit = () => this.restore();

  constructor(input: ReadStream, output: NodeJS.WriteStream) {
    this.#input = input;
    this.#output = output;
  }

  /** Turns echo, line editing and signal keys off, until restore() or the end of the process. */
  enterRaw(): void {
    if (this.#raw) return;
    this.#raw = true;
    process.once("exit", this.#onExit);
    this.#input.setRawMode(true);
    this.#input.resume();
  }

  /** Takes note of guest output on its way to the screen. */
  observe(chunk: Uint8Array): void {
    const text = this.#tail + Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength).toString("latin1");
    const on = text.lastIndexOf(ALTERNATE_SCREEN_ON);
    const off = text.lastIndexOf(ALTERNATE_SCREEN_OFF);
    if (on !== off) this.#alternateScreen = on > off;
    this.#tail = text.slice(1 - ALTERNATE_SCREEN_ON.length);
  }

  /** Gives the terminal back as it was. May be called at any time, more than once. */
  restore(): void {
    if (!this.#raw) return;
    this.#raw = false;
    process.removeListener("exit", this.#onExit);
    this.#input.setRawMode(false);
    this.#input.pause();
    if (this.#output.isTTY) {
      this.#output.write((this.#alternateScreen ? ALTERNATE_SCREEN_OFF : "") + RESET_MODES);
    }
  }
}
