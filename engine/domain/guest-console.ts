/**
 * A guest's console in its own process: the ring's backend and what comes through console_io, paced by the host, which
 * acknowledges output, and by the ring, whose output gathers a moment before it goes on.
 */
import { ConsoleBackend } from "../device/console/backend.ts";
import { LogFile } from "../device/console/log-file.ts";
import { OUTPUT_HIGH_WATERMARK } from "../device/console/protocol.ts";
import { ConsoleRing } from "../device/console/ring.ts";
import { CONTROL_EMERGENCY_TAKEN } from "../memory/frame-plan.ts";
import type { Mapping } from "../memory/guest-memory.ts";

/** Console lines that a crash report quotes. */
const TAIL_LINES = 100;
/** Between two looks at a console that has much to say, ms: its ring of 2 KiB holds what is printed meanwhile. */
const REST_MS = 2;

export interface GuestConsoleOptions {
  readonly mapping: Mapping;
  /** Path of the log file; without it nothing is kept. */
  readonly log: string | undefined;
  /** Sends the guest's console event. */
  readonly notify: () => void;
  readonly onOutput: (bytes: Uint8Array) => void;
  /** Enough output has gathered: the guest's events are to be looked at again. */
  readonly rested: () => void;
}

export class GuestConsole {
  readonly backend: ConsoleBackend;
  private readonly ring: ConsoleRing;
  private readonly log: LogFile | undefined;
  private readonly mapping: Mapping;
  private readonly rested: () => void;
  /** Bytes of output that the host has not acknowledged, and of console_io that the guest may not follow up yet. */
  private unacknowledged = 0;
  private emergencyUntaken = 0;
  /** Runs while output gathers. */
  private rest: NodeJS.Timeout | undefined;
  private ended = false;

  constructor({ mapping, log, notify, onOutput, rested }: GuestConsoleOptions) {
    this.mapping = mapping;
    this.rested = rested;
    this.ring = new ConsoleRing(mapping);
    this.log = log === undefined ? undefined : new LogFile(log);
    this.backend = new ConsoleBackend({
      ring: this.ring,
      log: this.log,
      notify,
      onOutput: (bytes) => {
        this.unacknowledged += bytes.length;
        onOutput(bytes);
      },
    });
  }

  /** The ring is as a restored guest left it. */
  adopt(): void {
    this.ring.adopt();
  }

  /** Output gathers: the guest's event waits. */
  get isResting(): boolean {
    return this.rest !== undefined;
  }

  /**
   * The guest sent its console event. What comes next gathers for a while: Linux sends an event for every few bytes
   * (drivers/tty/hvc: 16 at most); taken one by one, each would cost the guest an interrupt, and everybody behind it a message.
   */
  handleEvent(): void {
    if (!this.backend.handleEvent()) return;
    this.rest = setTimeout(() => {
      this.rest = undefined;
      this.rested();
    }, REST_MS);
  }

  /** Output of console_io, whose caller waits until it is taken. */
  emergency(bytes: Uint8Array): void {
    this.emergencyUntaken += bytes.length;
    this.backend.emit(bytes);
    this.takeEmergency();
  }

  /** The host has dealt with that many bytes of output. */
  acknowledge(bytes: number): void {
    this.unacknowledged = Math.max(0, this.unacknowledged - bytes);
    if (this.ended) return;
    this.backend.acknowledge(bytes);
    this.takeEmergency();
  }

  /** Lets the guest's console_io go on, unless the reader of the console is behind. */
  private takeEmergency(): void {
    if (this.emergencyUntaken === 0 || this.unacknowledged > OUTPUT_HIGH_WATERMARK) return;
    const { words, base, plan } = this.mapping;
    Atomics.add(words, (base + plan.control + CONTROL_EMERGENCY_TAKEN) >>> 2, this.emergencyUntaken);
    this.mapping.wake(plan.control + CONTROL_EMERGENCY_TAKEN);
    this.emergencyUntaken = 0;
  }

  /** The last lines, for a crash report. */
  lastLines(): string[] {
    return this.backend.tail.lines(TAIL_LINES);
  }

  /** The guest has ended: what is left in the ring is the last. */
  end(): void {
    clearTimeout(this.rest);
    this.backend.drain();
    this.ended = true;
    this.log?.close();
  }
}
