/**
 * Runs one asynchronous task at a time, again after every request that came in meanwhile. Any number of requests during
 * a run make one more run: a peer that changes its state ten thousand times queues nothing.
 */
export class LevelTask {
  private readonly run: () => Promise<void>;
  private readonly failed: (error: unknown) => void;
  private wanted = false;
  private current: Promise<void> | undefined;
  private closed = false;

  /** `failed` gets what `run` throws; the task stays usable. */
  constructor(run: () => Promise<void>, failed: (error: unknown) => void) {
    this.run = run;
    this.failed = failed;
  }

  /** Runs the task soon; never at once, so that a caller's own changes are complete. */
  request(): void {
    if (this.closed) return;
    this.wanted = true;
    this.current ??= this.loop();
  }

  /** Fulfilled when nothing is running and nothing wanted. */
  async idle(): Promise<void> {
    while (this.current) await this.current;
  }

  /** No run begins after this; fulfilled when the present one has ended. Not to be awaited inside the task itself. */
  async close(): Promise<void> {
    this.stop();
    await this.current;
  }

  /** As close(), without waiting: for use inside the task. */
  stop(): void {
    this.closed = true;
    this.wanted = false;
  }

  private async loop(): Promise<void> {
    await Promise.resolve();
    while (this.wanted) {
      this.wanted = false;
      try {
        await this.run();
      } catch (error) {
        this.failed(error);
      }
    }
    this.current = undefined;
  }
}
