/** The console backend: moves bytes between a domain's console page, its log file and whoever is attached. */
import type { LogFile } from "./log-file.ts";
import { OUTPUT_HIGH_WATERMARK, OUTPUT_LOW_WATERMARK, TAIL_LIMIT } from "./protocol.ts";
import type { ConsoleRing } from "./ring.ts";
import { Tail } from "./tail.ts";

export interface ConsoleBackendOptions {
  readonly ring: ConsoleRing;
  readonly log: Pick<LogFile, "write"> | undefined;
  /** Sends the guest's console event. */
  readonly notify: () => void;
  /** Output for the reader, who acknowledges it with acknowledge(). */
  readonly onOutput: (bytes: Uint8Array) => void;
}

interface PendingInput {
  readonly bytes: Uint8Array;
  readonly accepted: () => void;
}

export class ConsoleBackend {
  readonly tail = new Tail(TAIL_LIMIT);
  private readonly options: ConsoleBackendOptions;
  private readonly input: PendingInput[] = [];
  private inputOffset = 0;
  private unacknowledged = 0;
  private stopped = false;
  private held = false;

  constructor(options: ConsoleBackendOptions) {
    this.options = options;
  }

  /** The guest sent its console event: there is output, or room for input. @returns whether there was output */
  handleEvent(): boolean {
    const read = this.readOutput();
    const written = this.writeInput();
    if (read || written) this.options.notify();
    return read;
  }

  /**
   * Types bytes into the console. The promise is fulfilled once the ring has taken all of them: a writer that waits
   * for it has no more than one piece in flight.
   */
  write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve) => {
      this.input.push({ bytes, accepted: resolve });
      if (this.writeInput()) this.options.notify();
    });
  }

  /** The reader has dealt with that many bytes of output. */
  acknowledge(bytes: number): void {
    this.unacknowledged = Math.max(0, this.unacknowledged - bytes);
    if (this.stopped && this.unacknowledged <= OUTPUT_LOW_WATERMARK) {
      this.stopped = false;
      this.handleEvent();
    }
  }

  /** Output that came another way than through the ring (console_io). */
  emit(bytes: Uint8Array): void {
    this.tail.push(bytes);
    this.options.log?.write(bytes);
    this.unacknowledged += bytes.length;
    this.options.onOutput(bytes);
  }

  /** Leaves the ring alone until release(), whatever comes. */
  hold(): void {
    this.held = true;
  }

  release(): void {
    this.held = false;
    this.handleEvent();
  }

  /** Takes what is left in the ring after the guest has stopped, whatever the reader's pace. */
  drain(): void {
    this.stopped = false;
    this.held = false;
    this.readOutput();
  }

  private readOutput(): boolean {
    if (this.stopped || this.held) return false;
    const bytes = this.options.ring.read();
    if (bytes.length === 0) return false;
    this.emit(bytes);
    this.stopped = this.unacknowledged > OUTPUT_HIGH_WATERMARK;
    return true;
  }

  private writeInput(): boolean {
    let progress = false;
    while (!this.held) {
      const first = this.input[0];
      if (first === undefined) return progress;
      const written = this.options.ring.write(first.bytes.subarray(this.inputOffset));
      progress ||= written > 0;
      this.inputOffset += written;
      if (this.inputOffset < first.bytes.length) return progress;
      this.input.shift();
      this.inputOffset = 0;
      first.accepted();
    }
    return progress;
  }
}
