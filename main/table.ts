import { oneLine } from "../engine/errors/input-error.ts";

/**
 * Rows as lines with aligned columns, the first row being the headings. A column of numbers is right-aligned with its heading.
 * Control characters are dropped: cells may quote what a user or a guest wrote.
 */
export function table(rows: readonly (readonly (string | number)[])[]): string {
  const cells = rows.map((row) => row.map((cell) => oneLine(String(cell))));
  const [headings = [], ...body] = rows;
  const columns = headings.map((_, column) => ({
    width: Math.max(...cells.map((row) => row[column]?.length ?? 0)),
    right: body.length > 0 && body.every((row) => typeof row[column] === "number"),
  }));
  const line = (row: readonly string[]): string =>
    columns
      .map(({ width, right }, column) => (right ? row[column]?.padStart(width) : row[column]?.padEnd(width)))
      .join("  ")
      .trimEnd();
  return cells.map((row) => `${line(row)}\n`).join("");
}
