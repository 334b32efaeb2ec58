import { PromptWatch } from "../../main/prompt-watch.ts";

const LIMIT_MS = 300_000;
const KEPT = 8000;

/** A guest's console. */
export interface Terminal {
  onOutput(listener: (bytes: Uint8Array) => void): void;
  write(bytes: Uint8Array): Promise<void>;
}

/** A guest's shell, typed into by a program. */
export class Shell {
  readonly #terminal: Terminal;
  readonly #watch = new PromptWatch();
  #output = "";
  #wake: () => void = () => {};

  constructor(terminal: Terminal) {
    this.#terminal = terminal;
    terminal.onOutput((bytes) => {
      this.#watch.feed(bytes);
      this.#output = (this.#output + Buffer.from(bytes).toString("latin1")).slice(-KEPT);
      this.#wake();
    });
  }

  /** Waits for the prompt. */
  ready(): Promise<void> {
    return this.#until(() => this.#watch.waiting, "the prompt");
  }

  /**
   * Types a command, waits until it has ended and answers what it has printed. The mark is spelt so that its echo does not
   * count.
   * @throws Error for a status that is not 0
   */
  async run(command: string): Promise<string> {
    this.#output = "";
    await this.#terminal.write(Buffer.from(`${command}; echo do''ne $?\n`));
    await this.#until(() => /^done \d+\r?$/m.test(this.#output), command);
    await this.#until(() => this.#watch.waiting, "the prompt");
    const [, printed = "", status = ""] = /\n([\s\S]*?)^done (\d+)\r?$/m.exec(this.#output) ?? [];
    const text = printed.replaceAll("\r", "").trim();
    if (status !== "0") throw new Error(`${command} ended with status ${status}: ${text.slice(-300)}`);
    return text;
  }

  async #until(condition: () => boolean, what: string): Promise<void> {
    const end = Date.now() + LIMIT_MS;
    while (!condition()) {
      const left = end - Date.now();
      if (left <= 0) throw new Error(`waited in vain for ${what}; the console says: ${this.#output.slice(-500)}`);
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, left);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}
