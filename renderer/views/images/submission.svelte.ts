/** What becomes of a dialog that was sent: it closes, or shows why not; after it was closed by hand a notice says it. */
import { notices } from "../../lib/state/notices.svelte.ts";

export class Submission {
  error = $state<string | undefined>();
  busy = $state(false);
  private shown = true;

  /** For the component that is being made. */
  constructor() {
    $effect(() => () => {
      this.shown = false;
    });
  }

  async run(close: () => void, action: () => Promise<void>): Promise<void> {
    this.busy = true;
    this.error = undefined;
    try {
      await action();
      if (this.shown) close();
    } catch (refusal) {
      if (this.shown) this.error = refusal instanceof Error ? refusal.message : String(refusal);
      else notices.error(refusal);
    } finally {
      this.busy = false;
    }
  }
}
