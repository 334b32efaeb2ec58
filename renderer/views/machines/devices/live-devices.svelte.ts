/** What the devices of a running machine are like just now, and what goes through them: for as long as a tab shows it. */
import type { MachineSummary } from "../../../../main/lab/machine-api.ts";
import { lab } from "../../../lib/state/lab.svelte.ts";
import { poll } from "../../../lib/state/poll.ts";
import { Rates } from "./figures.ts";

const LOOK_MS = 2000;

export interface Found<Device> {
  readonly devices: readonly Device[];
  readonly counted: readonly { readonly name: string; readonly counters: Readonly<Record<string, number>> }[];
}

export class LiveDevices<Device> {
  /** Undefined: the machine does not run, or nobody has answered yet. */
  list = $state.raw<readonly Device[] | undefined>();
  /** Per second, by the device's name and the counter's; as Rates has them. */
  rates = $state.raw<ReadonlyMap<string, Readonly<Record<string, number>>>>(new Map());
  /** Looks between two turns: after something was changed. */
  look: () => Promise<void> = async () => {};

  /** Within a component's script. @param ask for the devices of the machine, by its id and its domain's number */
  constructor(machine: () => MachineSummary, ask: (id: string, domid: number) => Promise<Found<Device>>) {
    const id = $derived(machine().id);
    const domid = $derived(machine().domid);
    $effect(() => {
      const [of, guest] = [id, domid];
      if (guest === undefined || !lab.up || lab.connection !== "open") {
        this.list = undefined;
        this.rates = new Map();
        return;
      }
      const figures = new Rates();
      this.look = async () => {
        const { devices, counted } = await ask(of, guest);
        this.list = devices;
        this.rates = figures.look(
          counted.map(({ name, counters }) => ({ key: name, counters })),
          performance.now(),
        );
      };
      return poll(LOOK_MS, this.look);
    });
  }
}
