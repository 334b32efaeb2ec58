/** What a dialog sends to the lab: one thing at a time, a refusal shown there, or as a notice once it is closed. */
import { errorLine } from "../error-line.ts";
import { lab } from "./lab.svelte.ts";
import { notices } from "./notices.svelte.ts";

export class DialogWork {
  busy = $state(false);
  error = $state<string | undefined>();
  /** False: the user closed the dialog before the lab had answered, and may have opened another one. */
  isOpen = true;

  /** Within the dialog's script: what it began goes on when it is gone. */
  constructor() {
    // What the lab could not do because it was not there can be tried again.
    $effect(() => {
      if (lab.up && lab.connection === "open") this.error = undefined;
    });
    $effect(() => () => {
      this.isOpen = false;
    });
  }

  /** @returns what the action returned, undefined when it failed */
  async run<T>(action: () => Promise<T>): Promise<T | undefined> {
    if (this.busy) return undefined;
    this.busy = true;
    this.error = undefined;
    try {
      return await action();
    } catch (refusal) {
      if (this.isOpen) this.error = errorLine(refusal);
      else notices.error(refusal);
      return undefined;
    } finally {
      this.busy = false;
    }
  }

  /** Runs the action and closes the dialog, if it still shows and nothing was refused. */
  async send(close: () => void, action: () => Promise<void>): Promise<void> {
    const done = await this.run(async () => {
      await action();
      return true;
    });
    if (done && this.isOpen) close();
  }
}
