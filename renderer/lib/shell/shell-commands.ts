/** Commands that are there in every view. */
import { machineActions } from "../actions/machine-actions.ts";
import { type Command, commands } from "../state/commands.svelte.ts";
import { dialogs } from "../state/dialogs.svelte.ts";
import { lab, type MachineSummary } from "../state/lab.svelte.ts";
import { preferences } from "../state/preferences.svelte.ts";
import { router, type View, views } from "../state/router.svelte.ts";
import { restToReturnTo } from "./places.ts";

const places: Record<View, { readonly title: string; readonly key: string }> = {
  machines: { title: "Machines", key: "M" },
  consoles: { title: "Consoles", key: "C" },
  images: { title: "Images", key: "I" },
  snapshots: { title: "Snapshots", key: "S" },
  networks: { title: "Networks", key: "W" },
  xenstore: { title: "XenStore", key: "X" },
  logs: { title: "Logs", key: "L" },
  settings: { title: "Settings", key: "T" },
};

function ofMachine(machine: MachineSummary): Command[] {
  return machineActions
    .filter(({ possible }) => possible(machine))
    .map((action) => ({
      id: `${action.id}-${machine.id}`,
      title: `${action.label.replace("…", "")} ${machine.name}${action.label.endsWith("…") ? "…" : ""}`,
      section: "Machines",
      many: true,
      run: () => void action.run(machine),
    }));
}

function ofMachines(): Command[] {
  return lab.sorted.flatMap((machine) => [
    {
      id: `open-${machine.id}`,
      title: `Show ${machine.name}`,
      section: "Machines",
      many: true,
      run: () => router.go("machines", machine.id),
    },
    ...ofMachine(machine),
  ]);
}

/** What a window with one console can do: nothing that would leave its console. */
function popoutCommands(): Command[] {
  const machine = lab.machine(router.route.rest[0] ?? "");
  return machine === undefined ? [] : ofMachine(machine).filter(({ id }) => id !== `console-${machine.id}`);
}

export function shellCommands(): Command[] {
  return router.route.view === "popout" ? [...everywhere(), ...popoutCommands()] : [...everywhere(), ...inFull()];
}

function everywhere(): Command[] {
  return [
    {
      id: "palette",
      title: "Search and commands",
      section: "Everywhere",
      keys: "Mod+K",
      listed: false,
      run: () => {
        commands.paletteOpen = !commands.paletteOpen;
      },
    },
    {
      id: "palette-console",
      title: "Search and commands, from a console",
      section: "Everywhere",
      keys: "Mod+Shift+P",
      listed: false,
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
  ];
}

/** Where there is a sidebar and views to go to. */
function inFull(): Command[] {
  return [
    {
      id: "create",
      title: "New machine…",
      section: "Everywhere",
      keys: "N",
      words: "create add wizard",
      run: () => dialogs.show({ kind: "create" }),
    },
    {
      id: "lab-snapshot",
      title: "Snapshot of all machines…",
      section: "Everywhere",
      words: "whole lab save",
      run: () => dialogs.show({ kind: "lab-snapshot" }),
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
      run: () => router.go(view, ...restToReturnTo(view)),
    })),
    ...ofMachines(),
  ];
}
