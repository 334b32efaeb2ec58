import { describe, expect, it } from "vitest";
import { changedKeys, parsePreferences } from "../../renderer/lib/state/preference-changes.ts";

describe("preferences of several windows", () => {
  it("are read from text that may be anything", () => {
    expect(parsePreferences('{"theme":"dark"}')).toEqual({ theme: "dark" });
    for (const text of [null, "", "{", "7", "null", "[1]"]) expect(parsePreferences(text)).toEqual({});
  });

  it("are written where they changed, so that no window undoes another's", () => {
    const before = { theme: "light", fontSize: 14, consoles: ["a"] };
    expect(changedKeys(before, { ...before, consoles: ["a"] })).toEqual({});
    expect(changedKeys(before, { ...before, fontSize: 16, consoles: ["a", "b"] })).toEqual({
      fontSize: 16,
      consoles: ["a", "b"],
    });
    expect(changedKeys({}, { grouped: false })).toEqual({ grouped: false });
  });
});
