/** Which machines a search finds, and their groups. */
import type { MachineSummary } from "../../../main/lab/machine-api.ts";

/** Every word of the search is in the name, the group, the image or the state. */
export function matches({ name, group, image, state }: MachineSummary, search: string): boolean {
  const text = `${name} ${group} ${image ?? ""} ${state}`.toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}

export interface Group {
  readonly name: string;
  readonly machines: readonly MachineSummary[];
}

/** By group, those without one last; the order within stays. */
export function groupsOf(machines: readonly MachineSummary[]): Group[] {
  const groups = new Map<string, MachineSummary[]>();
  for (const machine of machines) groups.set(machine.group, [...(groups.get(machine.group) ?? []), machine]);
  return [...groups]
    .map(([name, list]) => ({ name, machines: list }))
    .sort((a, b) => Number(a.name === "") - Number(b.name === "") || a.name.localeCompare(b.name));
}
