/** Shortest time between two drawings of the line; faster changes only cost time. */
const REDRAW_MS = 80;

/**
 * One line at the bottom of a terminal that says what goes on; nothing at all where stderr is no terminal. The line is
 * redrawn four times a second so that its clock moves even when nothing else does.
 */
export class Progress {
  readonly #stream: NodeJS.WriteStream;
  readonly #start = Date.now();
  #text = "";
  #shown = false;
  #drawnAt = 0;
  #clock: NodeJS.Timeout | undefined;

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream;
  }

  /** Shows `text`; control characters are dropped, since it may quote a guest's console. */
  show(text: string): void {
    if (!this.#stream.isTTY) return;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not reach the terminal
    this.#text = text.replace(/\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x1f\x7f-\x9f]/g, "");
    this.#clock ??= setInterval(() => this.#draw(), 250).unref();
    if (Date.now() - this.#drawnAt >= REDRAW_MS) this.#draw();
  }

  /** Removes the line, so that ordinary output can follow. */
  clear(): void {
    clearInterval(this.#clock);
    this.#clock = undefined;
    if (!this.#shown) return;
    this.#shown = false;
    this.#stream.write("\r\x1b[K");
  }

  #draw(): void {
    const seconds = ((Date.now() - this.#start) / 1000).toFixed(1);
    const width = Math.max(20, this.#stream.columns ?? 80) - 1;
    this.#stream.write(`\r\x1b[K${`domlab: ${seconds} s  ${this.#text}`.slice(0, width)}`);
    this.#shown = true;
    this.#drawnAt = Date.now();
  }
}
