/** What is going on: the lab's operations, and files that this window sends to the host, which the lab knows nothing of. */
import { SvelteMap } from "svelte/reactivity";
import { call } from "../rpc/client.ts";
import { lab, type OperationRow } from "./lab.svelte.ts";
import { attempt } from "./notices.svelte.ts";

interface Sending extends OperationRow {
  cancel(): void;
}

class Activities {
  private readonly sendings = new SvelteMap<string, Sending>();
  /** The oldest first; what this window sends before what the lab does. */
  readonly list = $derived<readonly OperationRow[]>([...this.sendings.values(), ...lab.operations.values()]);

  /**
   * Shows a file that is being sent, until `done`. Closing the page asks first.
   * @param id under which the lab goes on with it
   */
  send(id: string, what: string, total: number, cancel: () => void): { progress(sent: number): void; done(): void } {
    const row = { id, what, step: "sending", total, cancellable: true, cancel };
    this.sendings.set(id, { ...row, done: 0 });
    window.addEventListener("beforeunload", askFirst);
    return {
      progress: (done) => {
        if (this.sendings.has(id)) this.sendings.set(id, { ...row, done });
      },
      done: () => {
        this.sendings.delete(id);
        if (this.sendings.size === 0) window.removeEventListener("beforeunload", askFirst);
      },
    };
  }

  /** Stops one; the lab's may be past the point. */
  cancel(id: string): void {
    const sending = this.sendings.get(id);
    if (sending !== undefined) sending.cancel();
    else void attempt(() => call("operationCancel", { operation: id }));
  }
}

const askFirst = (event: BeforeUnloadEvent): void => event.preventDefault();

export const activities = new Activities();
