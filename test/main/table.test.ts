import { describe, expect, it } from "vitest";
import { columnsOf, table } from "../../main/table.ts";

describe("a table", () => {
  it.each([
    ["web", 3],
    ["日本語 ✓", 8],
    ["é", 1],
    ["e\u0301", 1],
    ["💾", 2],
    ["한국", 4],
    ["", 0],
  ])("%s takes %d columns", (text, columns) => {
    expect(columnsOf(text)).toBe(columns);
  });

  it("has its columns one below the other, numbers to the right", () => {
    const text = table([
      ["Name", "Mem", "State"],
      ["日本", 64, "running"],
      ["web-server", 512, "off"],
    ]);
    expect(text).toBe("Name        Mem  State\n日本         64  running\nweb-server  512  off\n");
  });
});
