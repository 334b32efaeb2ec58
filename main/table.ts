import { oneLine } from "../engine/errors/input-error.ts";

/** Characters that terminals show two columns wide (Unicode's East Asian Width W and F, and pictographs). */
const WIDE =
  /[\u1100-\u115f\u2e80-\u303e\u3041-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6\u{1f300}-\u{1faff}\u{20000}-\u{3fffd}]/u;
const NARROW = /\p{M}|\u200b|\u200d/u;

/** Columns that a text takes on a terminal. */
export function columnsOf(text: string): number {
  let columns = 0;
  for (const character of text) columns += WIDE.test(character) ? 2 : NARROW.test(character) ? 0 : 1;
  return columns;
}

/**
 * Rows as lines with aligned columns, the first row being the headings. A column of numbers is right-aligned with its heading.
 * Control characters are dropped: cells may quote what a user or a guest wrote.
 */
export function table(rows: readonly (readonly (string | number)[])[]): string {
  const cells = rows.map((row) => row.map((cell) => oneLine(String(cell))));
  const [headings = [], ...body] = rows;
  const columns = headings.map((_, column) => ({
    width: Math.max(...cells.map((row) => columnsOf(row[column] ?? ""))),
    right: body.length > 0 && body.every((row) => typeof row[column] === "number"),
  }));
  const line = (row: readonly string[]): string =>
    columns
      .map(({ width, right }, column) => {
        const cell = row[column] ?? "";
        const space = " ".repeat(Math.max(0, width - columnsOf(cell)));
        return right ? space + cell : cell + space;
      })
      .join("  ")
      .trimEnd();
  return cells.map((row) => `${line(row)}\n`).join("");
}
