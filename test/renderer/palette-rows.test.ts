import { describe, expect, it } from "vitest";
import { commandScore, MOST_ROWS, paletteRows } from "../../renderer/lib/shell/palette-rows.ts";
import type { Command } from "../../renderer/lib/state/command.ts";

function command(title: string, more: Partial<Command> = {}): Command {
  return { id: title, title, section: "Machines", run: () => {}, ...more };
}

describe("the rows of the palette", () => {
  const titles = (commands: readonly Command[], search: string) =>
    paletteRows(commands, search).flat.map(({ title }) => title);

  it("shows what all words of the search fit, the best first", () => {
    const all = [
      command("Open console web"),
      command("Console in a window"),
      command("Rename web…"),
      command("Show web-2"),
      command("Show web"),
    ];
    expect(titles(all, "web")).toEqual(["Open console web", "Rename web…", "Show web", "Show web-2"]);
    expect(titles(all, "  SHOW   web ")).toEqual(["Show web", "Show web-2"]);
    expect(titles(all, "console")).toEqual(["Console in a window", "Open console web"]);
    expect(titles(all, "Rename web…")).toEqual(["Rename web…"]);
    expect(titles(all, "nothing like it")).toEqual([]);
  });

  it("finds by other words, by sections and by letters of the title, which count for less", () => {
    const create = command("New machine…", { words: "create add wizard", section: "Everywhere" });
    const scores = ["new machine", "new", "chine", "wizard", "nwmch", "xyz"].map((search) =>
      commandScore(create, search),
    );
    expect(scores).toEqual([...scores].sort((a, b) => b - a));
    expect(new Set(scores).size).toBe(scores.length);
    expect(scores.at(-1)).toBe(0);
    expect(commandScore(create, "everywhere")).toBeGreaterThan(0);
  });

  it("puts what there is for each machine behind the rest, shows no more than is read, and counts the others", () => {
    const machines = Array.from({ length: 2 * MOST_ROWS }, (_, n) => command(`Show m-${n}`, { many: true }));
    const rows = paletteRows([...machines, command("Networks", { section: "Go to" })], "");
    expect(rows.flat[0]?.title).toBe("Networks");
    expect(rows.flat).toHaveLength(MOST_ROWS);
    expect(rows.left).toBe(MOST_ROWS + 1);
    const found = paletteRows(machines, `m-${2 * MOST_ROWS - 1}`);
    expect(found.flat.map(({ title }) => title)).toEqual([`Show m-${2 * MOST_ROWS - 1}`]);
    expect(found.left).toBe(0);
  });

  it("walks through the rows in the order of their sections", () => {
    const all = [
      command("alpha", { section: "A" }),
      command("beta", { section: "B" }),
      command("alphabet", { section: "A" }),
    ];
    const { sections, flat } = paletteRows(all, "");
    expect(sections.map(({ title }) => title)).toEqual(["A", "B"]);
    expect(flat.map(({ title }) => title)).toEqual(["alpha", "alphabet", "beta"]);
  });
});
