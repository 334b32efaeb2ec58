/** What files of machines are called, and where they go. */
import { describe, expect, it } from "vitest";
import { exportPath, folderOf, isAbsolutePath, machineFileKind } from "../../renderer/views/machines/machine-files.ts";

describe("files of machines", () => {
  it("are told by their endings", () => {
    const names = ["web.domlab", "WEB.DOMLAB", "web.cfg", "web.domlab.gz", "domlab", "disk.qcow2"];
    expect(names.map(machineFileKind)).toEqual(["archive", "archive", "config", undefined, undefined, undefined]);
  });

  it("lie in folders of either system", () => {
    expect(["/a/b.cfg", "/b.cfg", "C:\\a\\b.cfg"].map(folderOf)).toEqual(["/a", "/", "C:\\a"]);
    expect(exportPath("/home/me/domlab", { name: "web" })).toBe("/home/me/domlab/exports/web.domlab");
    expect(exportPath("C:\\lab", { name: "web" })).toBe("C:\\lab\\exports\\web.domlab");
    expect(["/a", "C:\\a", "a", "./a"].map(isAbsolutePath)).toEqual([true, true, false, false]);
  });
});
