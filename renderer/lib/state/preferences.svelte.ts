/** What this browser remembers for its user: nothing that matters to the lab. */
import { changedKeys, parsePreferences } from "./preference-changes.ts";

const KEY = "domlab.preferences";

const defaults = {
  theme: "system" as "system" | "light" | "dark",
  /** Size of console text, pixels. */
  fontSize: 14,
  /** Open consoles: ids of machines, and those shown side by side. */
  consoles: [] as string[],
  sidebar: "wide" as "wide" | "narrow",
  /** Machines by group. */
  grouped: false,
  /** Groups that are folded up. */
  folded: [] as string[],
  /** Order of the list of machines (views/machines/list-order.ts). */
  sortBy: "name",
  sortDown: false,
};
type Preferences = typeof defaults;

/** What each window has for itself while it is open: other windows do not change it. */
const OWN: readonly (keyof Preferences)[] = ["consoles"];

function storedText(): string | null {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

export const preferences = $state<Preferences>({ ...defaults, ...parsePreferences(storedText()) });

/** Saves every change, applies the theme, and follows other windows; called once, within an effect root. */
export function keepPreferences(): void {
  let known = $state.snapshot(preferences);
  $effect.root(() => {
    $effect(() => {
      const now = $state.snapshot(preferences);
      const changed = changedKeys(known, now);
      known = now;
      if (Object.keys(changed).length === 0) return;
      try {
        // Another window may have changed something else meanwhile.
        localStorage.setItem(KEY, JSON.stringify({ ...parsePreferences(storedText()), ...changed }));
      } catch {
        // Private windows may have no storage; the choice holds while the page is open.
      }
    });
    $effect(() => {
      const follow = ({ key, newValue }: StorageEvent) => {
        if (key !== KEY) return;
        const theirs: Partial<Preferences> = { ...parsePreferences(newValue) };
        for (const own of OWN) delete theirs[own];
        Object.assign(preferences, theirs);
        Object.assign(known, theirs);
      };
      window.addEventListener("storage", follow);
      return () => window.removeEventListener("storage", follow);
    });
    $effect(() => {
      if (preferences.theme === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = preferences.theme;
    });
  });
}
