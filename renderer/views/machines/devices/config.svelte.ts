/** A machine's configuration as a tab shows it: loaded, and again whenever the machine changes. */
import type { MachineDetails, MachineSummary } from "../../../../main/lab/machine-api.ts";
import { call } from "../../../lib/rpc/client.ts";
import { lab } from "../../../lib/state/lab.svelte.ts";
import { attempt } from "../../../lib/state/notices.svelte.ts";

export class LoadedMachine {
  details = $state.raw<MachineDetails | undefined>();
  private readonly machine: () => MachineSummary;

  /** Within a component's script. */
  constructor(machine: () => MachineSummary) {
    this.machine = machine;
    $effect(() => {
      // Read here: a change of the machine, or the lab's return, loads it anew.
      machine();
      if (lab.up && lab.connection === "open") void this.load();
    });
  }

  async load(): Promise<void> {
    const { id } = this.machine();
    this.details = (await attempt(() => call("machineShow", { machine: id }))) ?? this.details;
  }

  /** A list of the configuration. */
  list<Entry>(key: "disks" | "vifs" | "forwards"): readonly Entry[] {
    return (this.details?.config[key] ?? []) as unknown as readonly Entry[];
  }
}
