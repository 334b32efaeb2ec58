/**
 * The end of the app: machines are suspended first, and however often the user asks meanwhile, nothing is cut short. A kill of
 * the process is to the machines what a power cut is.
 */

export interface QuitSteps {
  /** Shows that something goes on; called with every request to quit. */
  readonly show: () => unknown;
  /** Suspends machines; rejects for bugs only. */
  readonly work: () => Promise<void>;
  /** Ends the app for good; asks request() once more. */
  readonly exit: () => void;
  readonly say: (line: string) => void;
}

export class Quit {
  private readonly steps: QuitSteps;
  private state: "running" | "quitting" | "done" = "running";

  constructor(steps: QuitSteps) {
    this.steps = steps;
  }

  get isDone(): boolean {
    return this.state === "done";
  }

  get isQuitting(): boolean {
    return this.state !== "running";
  }

  /** Begins, unless it has begun. @returns whether the app may end now */
  request(): boolean {
    if (this.state === "done") return true;
    this.steps.show();
    if (this.state === "running") {
      this.state = "quitting";
      void this.run();
    }
    return false;
  }

  private async run(): Promise<void> {
    try {
      await this.steps.work();
    } catch (error) {
      this.steps.say(`the lab did not end as it should: ${error instanceof Error ? error.stack : String(error)}`);
    }
    this.state = "done";
    this.steps.exit();
  }
}
