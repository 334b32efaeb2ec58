import { EXIT_INTERRUPTED, EXIT_OK, EXIT_TIMEOUT } from "./failure.ts";

/** Why we end a guest that did not end by itself. */
export type StopReason = "timeout" | "detach" | "interrupt" | "SIGTERM" | "SIGHUP" | "output-closed";

/** Exit status that goes with each reason; signals count as shells do, 128 plus the signal's number. */
export const stopStatus: Readonly<Record<StopReason, number>> = {
  timeout: EXIT_TIMEOUT,
  detach: EXIT_OK,
  interrupt: EXIT_INTERRUPTED,
  SIGTERM: 143,
  SIGHUP: 129,
  "output-closed": 141,
};

/**
 * The one place where a run is asked to end early: by the clock, by keys, by signals. The first reason counts. A second
 * signal while the guest is being stopped ends the process at once; `exit` handlers still restore the terminal.
 */
export class Stopper {
  readonly #listeners: { [signal in "SIGINT" | "SIGTERM" | "SIGHUP"]: () => void };
  #resolve: (reason: StopReason) => void = () => {};
  #reason: StopReason | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** Resolves with the first reason. */
  readonly stopped: Promise<StopReason>;

  constructor() {
    this.stopped = new Promise((resolve) => {
      this.#resolve = resolve;
    });
    this.#listeners = {
      SIGINT: () => this.#onSignal("interrupt"),
      SIGTERM: () => this.#onSignal("SIGTERM"),
      SIGHUP: () => this.#onSignal("SIGHUP"),
    };
    for (const [signal, listener] of Object.entries(this.#listeners)) process.on(signal, listener);
  }

  #onSignal(reason: StopReason): void {
    if (this.#reason !== undefined) process.exit(stopStatus[this.#reason]);
    this.stop(reason);
  }

  /** Asks for the end. */
  stop(reason: StopReason): void {
    if (this.#reason !== undefined) return;
    this.#reason = reason;
    this.#resolve(reason);
  }

  /** Why the run is being stopped, if it is. */
  get reason(): StopReason | undefined {
    return this.#reason;
  }

  /** Starts the clock of --timeout. */
  stopAfter(seconds: number): void {
    this.#timer = setTimeout(() => this.stop("timeout"), seconds * 1000);
  }

  /** Takes the signal handlers and the timer away. */
  dispose(): void {
    clearTimeout(this.#timer);
    for (const [signal, listener] of Object.entries(this.#listeners)) process.removeListener(signal, listener);
  }
}
