import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { checkName, suggestName } from "../../../main/lab/store/names.ts";
import { MACHINE_NAME } from "../../../main/lab/store/schema.ts";
import { machine } from "./helpers.ts";

const deleted = { state: "deleted", deletedAt: new Date(0).toISOString() } as const;
const lab = {
  machines: [machine({ name: "web" }), machine({ name: "Web-2" }), machine({ name: "gone" }, deleted)],
};

describe("names of machines", () => {
  it.each(["a", "0", "web3", "db.example_1-x", "x".repeat(64), "gone"])("takes %s", (name) => {
    expect(() => checkName(name, lab)).not.toThrow();
  });

  it.each([
    ["", "machine"],
    ["-x", "x"],
    [".hidden", "hidden"],
    ["my server!", "my-server"],
    ["Büro/1", "Buro-1"],
    ["日本", "machine"],
    ["x".repeat(65), "x".repeat(64)],
    ["web ", "web-3"],
    ["../../etc/passwd", "etc-passwd"],
  ])("refuses %j and suggests %s", (name, suggestion) => {
    expect(() => checkName(name, lab)).toThrow(`for example ${suggestion}`);
    expect(() => checkName(name, lab)).toThrow(/is no name for a machine; use 1 to 64 letters/);
  });

  it("refuses a taken one in any case, but not to the machine that has it", () => {
    const what = "there is a machine called WEB already; choose another name, for example WEB-3";
    expect(() => checkName("WEB", lab)).toThrow(what);
    expect(() => checkName("WEB", lab, lab.machines[0]!.id)).not.toThrow();
    expect(() => checkName("web", lab, lab.machines[1]!.id)).toThrow("already");
  });

  it("counts on from a number", () => {
    expect(suggestName("Web-2", lab)).toBe("Web-3");
    expect(suggestName("x".repeat(64), { machines: [machine({ name: "x".repeat(64) })] })).toBe(`${"x".repeat(62)}-2`);
  });

  it("suggests for every text a name that is free", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 100 }), (text) => {
        const name = suggestName(text, lab);
        expect(name).toMatch(MACHINE_NAME);
        expect(() => checkName(name, lab)).not.toThrow();
      }),
    );
  });
});
