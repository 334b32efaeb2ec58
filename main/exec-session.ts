import { type ExecEvent, ExecStreamParser } from "../engine/device/console/exec-stream.ts";
import type { DomainConsole } from "../engine/domain/guest.ts";
import type { Progress } from "./progress.ts";
import { PromptWatch } from "./prompt-watch.ts";
import { writeAll } from "./write-all.ts";

/** Most output of a command kept for --json, per stream; what follows is dropped and `truncated` says so. */
const MOST_KEPT = 64 * 1024 * 1024;

/** Bytes of one stream, bounded. */
class Collector {
  readonly #chunks: Uint8Array[] = [];
  #size = 0;
  truncated = false;

  add(bytes: Uint8Array): void {
    const room = MOST_KEPT - this.#size;
    if (bytes.length > room) this.truncated = true;
    const kept = bytes.subarray(0, room);
    if (kept.length === 0) return;
    this.#chunks.push(kept);
    this.#size += kept.length;
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#chunks);
  }
}

export interface ExecOptions {
  readonly console: DomainConsole;
  readonly progress: Progress;
  /** The token that marks the command's output in the console stream. */
  readonly token: string;
  /** Keep the output for --json instead of passing it on. */
  readonly collect: boolean;
  /** Show the guest's kernel log on stderr. */
  readonly verbose: boolean;
}

/** One command in a guest: takes its output apart from the kernel log, and its exit status. */
export class ExecSession {
  readonly stdout = new Collector();
  readonly stderr = new Collector();
  readonly #options: ExecOptions;
  readonly #parser: ExecStreamParser;
  readonly #watch = new PromptWatch();
  #status: number | undefined;

  constructor(options: ExecOptions) {
    this.#options = options;
    this.#parser = new ExecStreamParser(options.token);
    options.console.onOutput((bytes) => this.#take(this.#parser.feed(bytes)));
  }

  /** The command's exit status, once it has ended. */
  get status(): number | undefined {
    return this.#status;
  }

  /** Whether the command has started. */
  get started(): boolean {
    return this.#parser.started;
  }

  /** The guest has ended: passes on what was held back. */
  close(): void {
    void this.#take(this.#parser.end());
    this.#options.progress.clear();
  }

  /** Deals with events; the promise is for a reader of ours that is slower than the guest. */
  async #take(events: readonly ExecEvent[]): Promise<void> {
    const written: (Promise<void> | undefined)[] = [];
    for (const event of events) {
      if (event.kind === "exit") this.#status = event.status;
      else if (event.kind === "log") written.push(this.#log(event.bytes));
      else written.push(this.#output(event.kind, event.bytes));
    }
    await Promise.all(written);
  }

  #log(bytes: Uint8Array): undefined | Promise<void> {
    this.#watch.feed(bytes);
    if (this.#options.verbose) return writeAll(process.stderr, bytes);
    if (!this.started) this.#options.progress.show(`booting  ${this.#watch.lastLine}`);
    return undefined;
  }

  #output(stream: "stdout" | "stderr", bytes: Uint8Array): undefined | Promise<void> {
    this.#options.progress.clear();
    if (!this.#options.collect) return writeAll(process[stream], bytes);
    this[stream].add(bytes);
    return undefined;
  }
}
