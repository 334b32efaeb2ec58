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

/** A name in pieces: those that a word of the search is in, and the rest. */
export function marked(name: string, search: string): { readonly text: string; readonly hit: boolean }[] {
  const lower = name.toLowerCase();
  const hits = new Array<boolean>(name.length).fill(false);
  for (const word of search.toLowerCase().split(/\s+/)) {
    for (let at = word === "" ? -1 : lower.indexOf(word); at >= 0; at = lower.indexOf(word, at + 1)) {
      hits.fill(true, at, at + word.length);
    }
  }
  const pieces: { text: string; hit: boolean }[] = [];
  for (const [index, char] of [...name].entries()) {
    const hit = hits[index] ?? false;
    const last = pieces.at(-1);
    if (last?.hit === hit) last.text += char;
    else pieces.push({ text: char, hit });
  }
  return pieces;
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
