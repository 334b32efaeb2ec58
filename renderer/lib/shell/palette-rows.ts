/** Which commands the palette shows for what was typed, and in which order. */
import type { Command } from "../state/command.ts";

/** Rows that are shown; nobody reads more, and each costs time at every key. */
export const MOST_ROWS = 60;

export interface PaletteRows {
  readonly sections: readonly { readonly title: string; readonly commands: readonly Command[] }[];
  /** As they are walked through. */
  readonly flat: readonly Command[];
  /** Commands that fit and are not shown. */
  readonly left: number;
}

/** Whether the letters of `word` stand in `text` in their order, with others between them. */
function isScattered(word: string, text: string): boolean {
  let at = -1;
  return [...word].every((letter) => {
    at = text.indexOf(letter, at + 1);
    return at >= 0;
  });
}

/** How well a word fits, from its beginning of a word in the title (3) to anywhere else (1); 0: not at all. */
function wordScore(word: string, title: string, rest: string): number {
  if (` ${title}`.includes(` ${word}`)) return 3;
  if (title.includes(word)) return 2;
  return rest.includes(word) ? 1 : 0;
}

/** How well a command fits what is searched for; 0: not at all. @param search in small letters, its words one space apart */
export function commandScore({ title, section, words = "" }: Command, search: string): number {
  const name = title.toLowerCase().replace(/…$/, "");
  if (name === search) return 100;
  const rest = `${section} ${words}`.toLowerCase();
  const scores = search.split(" ").map((word) => wordScore(word, name, rest));
  const lowest = Math.min(...scores);
  // The sum would favour many words that fit badly; a name that ends there fits better than a longer one.
  if (lowest > 0) return lowest + (name.startsWith(search) ? 2 : 0) + (` ${name} `.includes(` ${search} `) ? 1 : 0);
  return isScattered(search.replaceAll(" ", ""), name) ? 0.5 : 0;
}

function best(commands: readonly Command[], search: string): readonly Command[] {
  if (search === "") return [...commands].sort((a, b) => Number(a.many ?? false) - Number(b.many ?? false));
  return commands
    .map((command) => ({ command, score: commandScore(command, search) }))
    .filter(({ score }) => score > 0)
    .sort((a, b) => b.score - a.score)
    .map(({ command }) => command);
}

/** Small letters, one space between words, and without the dots of a command that asks for more. */
const wordsOf = (search: string) =>
  search
    .replace(/(…|\.{3})\s*$/, "")
    .trim()
    .toLowerCase()
    .replaceAll(/\s+/g, " ");

/** The rows for a search, equally good ones in their order; sections stand where their best row does. */
export function paletteRows(commands: readonly Command[], search: string): PaletteRows {
  const found = best(commands, wordsOf(search));
  const sections = new Map<string, Command[]>();
  for (const command of found.slice(0, MOST_ROWS)) {
    const list = sections.get(command.section);
    if (list === undefined) sections.set(command.section, [command]);
    else list.push(command);
  }
  return {
    sections: [...sections].map(([title, list]) => ({ title, commands: list })),
    flat: [...sections.values()].flat(),
    left: Math.max(0, found.length - MOST_ROWS),
  };
}
