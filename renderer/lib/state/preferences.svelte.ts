/** What this browser remembers for its user: nothing that matters to the lab. */

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
};
type Preferences = typeof defaults;

function stored(): Partial<Preferences> {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    return typeof found === "object" && found !== null ? found : {};
  } catch {
    return {};
  }
}

export const preferences = $state<Preferences>({ ...defaults, ...stored() });

/** Saves every change, and applies the theme; called once, within an effect root. */
export function keepPreferences(): void {
  $effect.root(() => {
    $effect(() => {
      const text = JSON.stringify(preferences);
      try {
        localStorage.setItem(KEY, text);
      } catch {
        // Private windows may have no storage; the choice holds while the page is open.
      }
    });
    $effect(() => {
      if (preferences.theme === "system") delete document.documentElement.dataset.theme;
      else document.documentElement.dataset.theme = preferences.theme;
    });
  });
}
