/** What a dialog sends to the lab: one thing at a time, a refusal shown there, or as a notice once it is closed. */
import { notices } from "../../lib/state/notices.svelte.ts";

export class DialogWork {
  busy = $state(false);
  error = $state<string | undefined>();
  /** False: the user closed the dialog before the lab had answered, and may have opened another one. */
  isOpen = true;

  /** @returns what the action returned, undefined when it failed */
  async run<T>(action: () => Promise<T>): Promise<T | undefined> {
    if (this.busy) return undefined;
    this.busy = true;
    this.error = undefined;
    try {
      return await action();
    } catch (refusal) {
      if (this.isOpen) this.error = refusal instanceof Error ? refusal.message : String(refusal);
      else notices.error(refusal);
      return undefined;
    } finally {
      this.busy = false;
    }
  }

  /** The dialog is gone; what it began goes on. Use within $effect as what it returns. */
  leave(): void {
    this.isOpen = false;
  }
}
