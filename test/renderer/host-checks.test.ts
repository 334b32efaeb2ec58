import { describe, expect, it } from "vitest";
import { orderedChecks, wordOf } from "../../renderer/views/settings/host-checks.ts";

const check = (id: string, ok: boolean, severity: "blocks" | "limits") => ({ id, title: id, ok, severity });

describe("checks of the host", () => {
  it("show what blocks, then what is lacking, then what works", () => {
    const found = [
      check("a", true, "blocks"),
      check("b", false, "limits"),
      check("c", true, "limits"),
      check("d", false, "blocks"),
      check("e", false, "limits"),
    ];
    expect(orderedChecks(found).map(({ id }) => id)).toEqual(["d", "b", "e", "a", "c"]);
    expect(found.map((each) => wordOf(each).word)).toEqual(["works", "lacks", "works", "blocks", "lacks"]);
  });
});
