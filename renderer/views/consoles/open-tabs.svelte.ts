/** Which consoles are open, which of them are shown, and where the address says so: #/consoles/<id>/<the one beside>. */
import { lab } from "../../lib/state/lab.svelte.ts";
import { notices } from "../../lib/state/notices.svelte.ts";
import { preferences } from "../../lib/state/preferences.svelte.ts";
import { router } from "../../lib/state/router.svelte.ts";
import { closeHostShell } from "./shell-session.svelte.ts";

/** Stands for the host's shell among the ids of machines. */
export const HOST = "host";

const exists = (id: string) => id === HOST || lab.machines.has(id);

class OpenTabs {
  /** Chosen last, for coming back to the view. */
  private last = $state<string | undefined>();

  /** In their order; machines that are deleted are left out, and come back with the machine. */
  readonly list = $derived(preferences.consoles.filter(exists));
  readonly chosen = $derived.by(() => {
    const [asked] = router.route.view === "consoles" ? router.route.rest : [];
    if (asked !== undefined && asked !== "") return asked;
    return this.last !== undefined && this.list.includes(this.last) ? this.last : this.list[0];
  });
  /** The one on the right of the split view. */
  readonly beside = $derived.by(() => {
    const [, asked] = router.route.view === "consoles" ? router.route.rest : [];
    return asked !== undefined && asked !== this.chosen && exists(asked) ? asked : undefined;
  });

  name(id: string): string {
    return id === HOST ? "Host shell" : (lab.machine(id)?.name ?? id);
  }

  /** An address that was followed opens its consoles. */
  settle(): void {
    const { chosen, beside } = this;
    this.last = chosen;
    for (const id of [chosen, beside]) {
      if (id !== undefined && exists(id) && !preferences.consoles.includes(id)) preferences.consoles.push(id);
    }
  }

  choose(id: string): void {
    const { chosen, beside } = this;
    const right = beside === id ? chosen : beside;
    router.go("consoles", id, ...(right === undefined ? [] : [right]));
  }

  /** Shows another one on the right; without one, ends the split view. */
  split(id: string | undefined): void {
    if (this.chosen === undefined) return;
    if (id !== undefined && !preferences.consoles.includes(id)) preferences.consoles.push(id);
    router.go("consoles", this.chosen, ...(id === undefined ? [] : [id]));
  }

  step(by: 1 | -1): void {
    const { list, chosen } = this;
    if (chosen === undefined || list.length < 2) return;
    const next = list[(list.indexOf(chosen) + by + list.length) % list.length];
    if (next !== undefined) this.choose(next);
  }

  close(id: string): void {
    const { chosen, beside, list } = this;
    const at = list.indexOf(id);
    const next = beside !== undefined && beside !== id ? beside : (list[at + 1] ?? list[at - 1]);
    preferences.consoles = preferences.consoles.filter((each) => each !== id);
    if (id === HOST) closeHostShell();
    if (id === chosen) router.go("consoles", ...(next === undefined ? [] : [next]));
    else if (id === beside) this.split(undefined);
  }

  /**
   * Moves a console into a window of its own: of two that show the same one, both would answer the guest's questions.
   * A host shell belongs to its window: the new one gets another, and this one stays.
   */
  popOut(id: string): void {
    const opened = window.open(router.href("popout", id), `domlab-console-${id}`, "popup,width=920,height=620");
    if (opened === null) {
      notices.error("The browser does not let this page open a window; allow pop-ups for it.");
      return;
    }
    // It may be there already, behind this one.
    opened.focus();
    if (id !== HOST) this.close(id);
  }
}

export const tabs = new OpenTabs();
