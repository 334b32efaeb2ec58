/** In what order machines are listed: by a column, either way. */
import type { MachineSummary } from "../../../main/lab/machine-api.ts";
import type { MachineSample } from "../../../main/lab/metrics-api.ts";

export const sortColumns = ["name", "state", "cpu", "memory", "disk", "network"] as const;
export type SortColumn = (typeof sortColumns)[number];

export interface Order {
  readonly by: SortColumn;
  readonly down: boolean;
}

/** Columns whose values change by themselves: their order is settled now and then only, so that rows do not dance. */
export const isLive = (by: SortColumn): boolean => by === "cpu" || by === "memory" || by === "disk" || by === "network";

/** Those that do something come first. */
const STATES = ["crashed", "running", "starting", "restoring", "stopping", "saving", "paused", "suspended", "stopped"];

const byName = (a: MachineSummary, b: MachineSummary) => a.name.localeCompare(b.name, undefined, { numeric: true });

function value(machine: MachineSummary, by: SortColumn, sample: MachineSample | undefined): number {
  switch (by) {
    case "name":
      return 0;
    case "state":
      return STATES.indexOf(machine.state);
    case "cpu":
      return sample?.cpu ?? -1;
    case "memory":
      return sample?.residentBytes ?? -1;
    case "disk":
      return sample ? sample.disk.readBytes + sample.disk.writtenBytes : -1;
    case "network":
      return sample ? sample.net.receivedBytes + sample.net.sentBytes : -1;
  }
}

/** The machines in order; equal ones by name. @param latest figures of a machine that runs */
export function ordered(
  machines: readonly MachineSummary[],
  { by, down }: Order,
  latest: (machine: MachineSummary) => MachineSample | undefined,
): MachineSummary[] {
  const sign = down ? -1 : 1;
  const rows = machines.map((machine) => ({ machine, value: value(machine, by, latest(machine)) }));
  rows.sort((a, b) => {
    const names = byName(a.machine, b.machine);
    return by === "name" ? sign * names : sign * (a.value - b.value) || names;
  });
  return rows.map(({ machine }) => machine);
}

/** What a click on a column's head makes of the order: figures begin with the greatest. */
export function clicked(order: Order, by: SortColumn): Order {
  return order.by === by ? { by, down: !order.down } : { by, down: isLive(by) };
}
