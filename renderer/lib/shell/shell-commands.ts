/** Commands that are there in every view. */
import { machineActions } from "../actions/machine-actions.ts";
import { type Command, commands } from "../state/commands.svelte.ts";
import { dialogs } from "../state/dialogs.svelte.ts";
import { lab } from "../state/lab.svelte.ts";
import { preferences } from "../state/preferences.svelte.ts";
import { router, type View, views } from "../state/router.svelte.ts";

const places: Record<View, { readonly title: string; readonly key: string }> = {
  machines: { title: "Machines", key: "M" },
  consoles: { title: "Consoles", key: "C" },
  logs: { title: "Logs", key: "L" },
  settings: { title: "Settings", key: "T" },
};

function ofMachines(): Command[] {
  return lab.sorted.flatMap((machine) => [
    {
      id: `open-${machine.id}`,
      title: `Show ${machine.name}`,
      section: "Machines",
      run: () => router.go("machines", machine.id),
    },
    ...machineActions
      .filter(({ possible }) => possible(machine))
      .map((action) => ({
        id: `${action.id}-${machine.id}`,
        title: `${action.label.replace("…", "")} ${machine.name}${action.label.endsWith("…") ? "…" : ""}`,
        section: "Machines",
        run: () => void action.run(machine),
      })),
  ]);
}

export function shellCommands(): Command[] {
  return [
    {
      id: "palette",
      title: "Search and commands",
      section: "Everywhere",
      keys: "Mod+K",
      run: () => {
        commands.paletteOpen = !commands.paletteOpen;
      },
    },
    {
      id: "palette-console",
      title: "Search and commands, from a console",
      section: "Everywhere",
      keys: "Mod+Shift+P",
      run: () => {
        commands.paletteOpen = !commands.paletteOpen;
      },
    },
    {
      id: "shortcuts",
      title: "Keyboard shortcuts",
      section: "Everywhere",
      keys: "?",
      run: () => {
        commands.helpOpen = true;
      },
    },
    {
      id: "create",
      title: "New machine…",
      section: "Everywhere",
      keys: "N",
      words: "create add wizard",
      run: () => dialogs.show({ kind: "create" }),
    },
    {
      id: "sidebar",
      title: "Fold or unfold the sidebar",
      section: "Everywhere",
      keys: "Mod+B",
      run: () => {
        preferences.sidebar = preferences.sidebar === "wide" ? "narrow" : "wide";
      },
    },
    ...views.map((view) => ({
      id: `go-${view}`,
      title: places[view].title,
      section: "Go to",
      keys: `G ${places[view].key}`,
      run: () => router.go(view),
    })),
    ...ofMachines(),
  ];
}
