import type { DomainConsole } from "../engine/domain/guest.ts";
import { DOUBLE_INTERRUPT_MS, EscapeKeys } from "./escape-keys.ts";
import type { Progress } from "./progress.ts";
import { PromptWatch } from "./prompt-watch.ts";
import type { Stopper } from "./stopper.ts";
import { Terminal } from "./terminal.ts";
import { writeAll } from "./write-all.ts";

/** Ctrl-D: ends a shell that waits for input. */
const END_OF_INPUT = Uint8Array.of(0x04);
/** How long a console must be silent before we take it that the guest has read all of a piped input. */
const QUIET_MS = 500;
/** Boot output held back at most; more than any kernel log. */
const MOST_HELD_BACK = 1024 * 1024;

export interface InteractiveOptions {
  readonly console: DomainConsole;
  readonly stopper: Stopper;
  readonly progress: Progress;
  /**
   * Part of a line that the guest's first program prints before its shell. Console output up to that line is kernel log
   * and stays off the screen; without one everything is shown.
   */
  readonly banner: string | undefined;
  /** Show the held-back kernel log on stderr. */
  readonly verbose: boolean;
}

/**
 * A guest's console on the user's terminal. Where stdin is a pipe or a file, its bytes are typed once the guest shows a
 * prompt, and its end becomes Ctrl-D.
 */
export class InteractiveSession {
  readonly #options: InteractiveOptions;
  readonly #keys = new EscapeKeys();
  readonly #watch = new PromptWatch();
  readonly #terminal: Terminal | undefined;
  readonly #timers = new Set<NodeJS.Timeout>();
  #held: Uint8Array[] = [];
  #heldBytes = 0;
  #shown: boolean;
  #lastOutput = Date.now();
  #inputEnded = false;
  #closed = false;

  constructor(options: InteractiveOptions) {
    this.#options = options;
    this.#shown = options.banner === undefined;
    if (process.stdin.isTTY) this.#terminal = new Terminal(process.stdin, process.stdout);
    process.stdout.on("close", () => options.stopper.stop("output-closed"));
  }

  /** Takes the terminal: from now on keys go to the guest and console output to the screen. */
  open(): void {
    this.#options.console.onOutput((bytes) => this.#onOutput(bytes));
    if (this.#terminal) {
      this.#terminal.enterRaw();
      process.stdin.on("data", this.#onKeys);
      // The terminal is gone (its window was closed): nobody can end the session any more.
      process.stdin.on("end", this.#onHangUp);
    }
  }

  /** Gives the terminal back. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    for (const timer of this.#timers) clearTimeout(timer);
    process.stdin.removeListener("data", this.#onKeys);
    process.stdin.removeListener("end", this.#onHangUp);
    process.stdin.pause();
    this.#options.progress.clear();
    this.#terminal?.restore();
    if (this.#shown && process.stdout.isTTY) process.stdout.write("\r\n");
  }

  readonly #onHangUp = () => this.#options.stopper.stop("SIGHUP");

  readonly #onKeys = (input: Buffer) => {
    const { forward, end } = this.#keys.feed(input, Date.now());
    if (forward.length > 0) void this.#options.console.write(forward);
    if (end) this.#options.stopper.stop(end);
    else if (this.#keys.unanswered) this.#later(DOUBLE_INTERRUPT_MS, () => this.#hint());
  };

  #hint(): void {
    if (!this.#keys.unanswered) return;
    process.stderr.write("\r\ndomlab: the guest does not answer; Ctrl-C again or Ctrl-] stops it\r\n");
  }

  #onOutput(bytes: Uint8Array): undefined | Promise<void> {
    if (this.#closed) return undefined;
    this.#lastOutput = Date.now();
    this.#keys.guestPrinted();
    const nowReady = this.#watch.feed(bytes);
    if (this.#shown) this.#options.progress.clear();
    const written = this.#shown ? this.#print(bytes) : this.#holdBack(bytes);
    if (nowReady) this.#onPrompt();
    return written;
  }

  #holdBack(bytes: Uint8Array): undefined | Promise<void> {
    this.#held.push(bytes);
    this.#heldBytes += bytes.length;
    while (this.#heldBytes > MOST_HELD_BACK) this.#heldBytes -= this.#held.shift()?.length ?? 0;
    if (this.#options.verbose) return writeAll(process.stderr, bytes);
    this.#options.progress.show(`booting  ${this.#watch.lastLine}`);
    return undefined;
  }

  #onPrompt(): void {
    this.#keys.guestIsReady();
    if (!this.#shown) {
      this.#options.progress.clear();
      this.#shown = true;
      this.#print(this.#fromBanner());
    }
    if (!this.#terminal) this.#typeInput();
  }

  /** What was held back, from the banner on; without a banner in it, from the line of the prompt on. */
  #fromBanner(): Uint8Array {
    const all = Buffer.concat(this.#held);
    this.#held = [];
    const banner = all.lastIndexOf(this.#options.banner ?? "");
    return all.subarray(all.lastIndexOf("\n", banner < 0 ? all.length : banner) + 1);
  }

  #print(bytes: Uint8Array): undefined | Promise<void> {
    this.#terminal?.observe(bytes);
    return writeAll(process.stdout, bytes);
  }

  /** Types a piped stdin into the guest, no faster than the guest reads. */
  #typeInput(): void {
    const { console } = this.#options;
    process.stdin.on("data", (input: Buffer) => {
      process.stdin.pause();
      void console.write(input).then(() => !this.#closed && process.stdin.resume());
    });
    const onEnd = () => {
      this.#inputEnded = true;
      this.#sendEndOfInput();
    };
    process.stdin.on("end", onEnd);
    process.stdin.on("error", onEnd);
  }

  /**
   * Types Ctrl-D whenever the console is silent, until the guest ends: one may be read by a program that the input
   * started, or be lost while the shell switches the line discipline.
   */
  #sendEndOfInput(): void {
    if (this.#closed || !this.#inputEnded) return;
    if (Date.now() - this.#lastOutput >= QUIET_MS) void this.#options.console.write(END_OF_INPUT);
    this.#later(QUIET_MS, () => this.#sendEndOfInput());
  }

  #later(ms: number, action: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, ms);
    this.#timers.add(timer);
  }
}
