import { describe, expect, it } from "vitest";
import {
  fileName,
  freeImageName,
  freeVdev,
  type ImageRow,
  matches,
  placeOf,
  shares,
  sorted,
  titleOf,
} from "../../renderer/views/images/files.ts";

const row = (part: Partial<ImageRow>): ImageRow => ({
  path: "/lab/disks/a.qcow2",
  kind: "disk",
  size: 0,
  usedBy: [],
  ...part,
});
const own = (name: string, part: Partial<ImageRow> = {}) =>
  row({ path: `/lab/images/library/${name}.qcow2`, kind: "base", managed: true, name, format: "qcow2", ...part });

describe("image files", () => {
  it("are called as in the library, else as their file", () => {
    expect(titleOf(own("web"))).toBe("web");
    expect(titleOf(row({}))).toBe("a.qcow2");
    expect(fileName("C:\\images\\disk.vhd")).toBe("disk.vhd");
    expect([own("web"), row({ kind: "base" }), row({ kind: "memory" })].map(placeOf)).toEqual([
      "library",
      "base",
      "memory",
    ]);
  });

  it("are sorted by any column, equal ones by name and numbers as people do", () => {
    const rows = [own("disk10", { size: 5 }), own("disk9", { size: 5 }), own("big", { size: 9, usedBy: ["a"] })];
    const names = (key: Parameters<typeof sorted>[1]["key"], descending: boolean) =>
      sorted(rows, { key, descending }).map(titleOf);
    expect(names("name", false)).toEqual(["big", "disk9", "disk10"]);
    expect(names("name", true)).toEqual(["disk10", "disk9", "big"]);
    expect(names("size", true)).toEqual(["big", "disk9", "disk10"]);
    expect(names("size", false)).toEqual(["disk9", "disk10", "big"]);
    expect(names("usedBy", true)[0]).toBe("big");
    const mixed = [row({ kind: "memory" }), row({ kind: "base" }), own("web")];
    expect(sorted(mixed, { key: "place", descending: false }).map(placeOf)).toEqual(["library", "base", "memory"]);
  });

  it("are found by all words of a search, in any order and case", () => {
    const web = own("web-disk", { usedBy: ["Shop"] });
    expect(matches(web, "")).toBe(true);
    expect(matches(web, "shop WEB")).toBe(true);
    expect(matches(web, "library qcow2")).toBe(true);
    expect(matches(web, "shop mail")).toBe(false);
  });

  it("take room by kind; kinds without files are left out", () => {
    const found = shares([own("a", { size: 3 }), own("b", { size: 4 }), row({ size: 10 })], []);
    expect(found.map(({ label, bytes, files }) => [label, bytes, files])).toEqual([
      ["Library", 7, 2],
      ["Disk", 10, 1],
    ]);
    const deleted = [{ deleted: "1-a.qcow2", name: "a", date: "", purgeAfter: "", size: 6 }];
    expect(shares([], deleted)).toMatchObject([{ label: "Deleted", bytes: 6, files: 1 }]);
  });

  it("get names and vdevs that are free", () => {
    expect(freeVdev([])).toBe("xvda");
    expect(freeVdev(["xvda", "xvdc"])).toBe("xvdb");
    expect(freeVdev([..."abcdefghijklmnopqrstuvwxyz"].map((letter) => `xvd${letter}`))).toBe("xvdaa");
    expect(freeImageName("disk", [own("Disk"), own("disk-2")])).toBe("disk-3");
    expect(freeImageName("../my disk.", [])).toBe("my-disk");
    expect(freeImageName("¿?", [])).toBe("image");
  });
});
