/** What can be done to a machine, said once for list, details, menus, palette and keys. */
import Camera from "@lucide/svelte/icons/camera";
import CirclePause from "@lucide/svelte/icons/circle-pause";
import CirclePlay from "@lucide/svelte/icons/circle-play";
import Copy from "@lucide/svelte/icons/copy";
import FolderOpen from "@lucide/svelte/icons/folder-open";
import Moon from "@lucide/svelte/icons/moon";
import PackageOpen from "@lucide/svelte/icons/package-open";
import PencilLine from "@lucide/svelte/icons/pencil-line";
import Play from "@lucide/svelte/icons/play";
import Power from "@lucide/svelte/icons/power";
import RotateCw from "@lucide/svelte/icons/rotate-cw";
import Terminal from "@lucide/svelte/icons/terminal";
import Trash2 from "@lucide/svelte/icons/trash";
import Zap from "@lucide/svelte/icons/zap";
import type { Component } from "svelte";
import type { MachineState } from "../../../main/lab/machine-api.ts";
import { call } from "../rpc/client.ts";
import { dialogs } from "../state/dialogs.svelte.ts";
import { lab, type MachineSummary, newOperation } from "../state/lab.svelte.ts";
import { attempt, notices } from "../state/notices.svelte.ts";
import { openConsole } from "../state/open-consoles.ts";
import { deleteMachines, forEachMachine } from "./bulk.ts";

export interface MachineAction {
  readonly id: string;
  readonly label: string;
  readonly icon: Component<{ size?: number | string }>;
  readonly danger?: boolean;
  /** Key that does it to the machine that is shown, as in commands. */
  readonly keys?: string;
  /** Whether it can be done in that state. */
  readonly possible: (machine: MachineSummary) => boolean;
  /** Can be done to several at a time. */
  readonly bulk: boolean;
  run(machine: MachineSummary): Promise<void> | void;
}

/** What a guest is given to power off or reboot. */
const END_SECONDS = 90;

const inStates =
  (...states: MachineState[]) =>
  ({ state }: MachineSummary) =>
    states.includes(state);

export async function startMachine({ id, name }: MachineSummary): Promise<void> {
  try {
    await call("machineStart", { machine: name, operation: newOperation() });
  } catch (error) {
    // Another window was faster, and it runs as was wished.
    if (lab.machine(id)?.state !== "running") notices.error(error);
  }
}

/** Asks the guest to end; one that does not can be forced off then. */
async function askToEnd(machine: MachineSummary, method: "machineShutdown" | "machineReboot"): Promise<void> {
  const { id, name } = machine;
  try {
    await call(method, { machine: name, timeoutSeconds: END_SECONDS });
  } catch (error) {
    const goesOn = lab.connection === "open" && ["running", "stopping"].includes(lab.machine(id)?.state ?? "");
    notices.error(error, goesOn ? { label: "Force off", run: () => void destroyMachine(machine) } : undefined);
  }
}

async function destroyMachine({ name }: MachineSummary): Promise<void> {
  await attempt(() => call("machineDestroy", { machine: name }));
}

const actions: readonly MachineAction[] = [
  {
    id: "start",
    label: "Start",
    icon: Play,
    possible: (machine) => inStates("stopped", "suspended", "crashed")(machine) && machine.unavailable === undefined,
    bulk: true,
    run: startMachine,
  },
  {
    id: "console",
    label: "Open console",
    icon: Terminal,
    possible: () => true,
    bulk: true,
    run: ({ id }) => openConsole(id),
  },
  {
    id: "shutdown",
    label: "Shut down",
    icon: Power,
    possible: inStates("running"),
    bulk: true,
    run: (machine) => askToEnd(machine, "machineShutdown"),
  },
  {
    id: "reboot",
    label: "Reboot",
    icon: RotateCw,
    possible: inStates("running"),
    bulk: true,
    run: (machine) => askToEnd(machine, "machineReboot"),
  },
  {
    id: "pause",
    label: "Pause",
    icon: CirclePause,
    possible: inStates("running"),
    bulk: true,
    run: async ({ name }) => {
      await attempt(() => call("machinePause", { machine: name }));
    },
  },
  {
    id: "unpause",
    label: "Go on",
    icon: CirclePlay,
    possible: inStates("paused"),
    bulk: true,
    run: async ({ name }) => {
      await attempt(() => call("machineUnpause", { machine: name }));
    },
  },
  {
    id: "suspend",
    label: "Suspend to disk",
    icon: Moon,
    possible: inStates("running", "paused"),
    bulk: true,
    run: async ({ name }) => {
      await attempt(() => call("machineSuspend", { machine: name, operation: newOperation() }));
    },
  },
  {
    id: "snapshot",
    label: "Snapshot…",
    icon: Camera,
    keys: "S",
    possible: inStates("stopped", "running", "paused", "suspended", "crashed"),
    bulk: false,
    run: (machine) => dialogs.show({ kind: "snapshot", machine }),
  },
  {
    id: "force-off",
    label: "Force off",
    icon: Zap,
    danger: true,
    possible: inStates("running", "paused", "starting", "stopping", "crashed"),
    bulk: true,
    run: destroyMachine,
  },
  {
    id: "rename",
    label: "Rename…",
    icon: PencilLine,
    possible: () => true,
    bulk: false,
    run: (machine) => dialogs.show({ kind: "rename", machine }),
  },
  {
    id: "group",
    label: "Group…",
    icon: FolderOpen,
    possible: () => true,
    bulk: true,
    run: (machine) => dialogs.show({ kind: "group", machines: [machine] }),
  },
  {
    id: "clone",
    label: "Clone…",
    icon: Copy,
    possible: inStates("stopped"),
    bulk: false,
    run: (machine) => dialogs.show({ kind: "clone", machine }),
  },
  {
    id: "export",
    label: "Export…",
    icon: PackageOpen,
    possible: inStates("stopped", "crashed"),
    bulk: false,
    run: (machine) => dialogs.show({ kind: "export", machine }),
  },
  {
    id: "delete",
    label: "Delete",
    icon: Trash2,
    danger: true,
    possible: (machine) => inStates("stopped", "crashed", "suspended")(machine) && !machine.protected,
    bulk: true,
    run: (machine) => deleteMachines([machine]),
  },
];

/** What is being asked of the lab: the second click of a double one asks for nothing more. */
const underWay = new Set<string>();

async function once(key: string, ask: () => Promise<void> | void): Promise<void> {
  if (underWay.has(key)) return;
  underWay.add(key);
  try {
    await ask();
  } finally {
    underWay.delete(key);
  }
}

export const machineActions: readonly MachineAction[] = actions.map((action) => ({
  ...action,
  run: (machine) => once(`${action.id} ${machine.id}`, () => action.run(machine)),
}));

export function machineAction(id: string): MachineAction {
  const found = machineActions.find((action) => action.id === id);
  if (found === undefined) throw new Error(`there is no action ${id}`);
  return found;
}

/** Does something to all machines that it is possible for, a few at a time. */
export async function runOnAll(action: MachineAction, machines: readonly MachineSummary[]): Promise<void> {
  const able = machines.filter(action.possible);
  if (action.id === "delete") await once("delete several", () => deleteMachines(able));
  else if (action.id === "group") dialogs.show({ kind: "group", machines: able });
  else await forEachMachine(able, async (machine) => action.run(machine));
}
