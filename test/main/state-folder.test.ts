import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openStateFolder, stateRoot } from "../../main/state-folder.ts";

let root = "";
beforeEach(() => {
  root = mkdtempSync(path.join(os.tmpdir(), "domlab-state-"));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

describe("state folder", () => {
  it("follows XDG_STATE_HOME and ignores a relative one", () => {
    expect(stateRoot({ XDG_STATE_HOME: "/s" })).toBe("/s/domlab");
    expect(stateRoot({ XDG_STATE_HOME: "s" })).toBe(path.join(os.homedir(), ".local/state/domlab"));
  });

  it("gives a second run of a name a folder of its own, and the first one back after release", () => {
    const first = openStateFolder("web", root);
    const second = openStateFolder("web", root);
    expect([first.name, second.name]).toEqual(["web", "web-2"]);
    first.release();
    expect(openStateFolder("web", root).name).toBe("web");
  });

  it("takes a folder over from a dead process", () => {
    const first = openStateFolder("web", root);
    writeFileSync(path.join(first.path, "running"), "2147483646\n");
    expect(openStateFolder("web", root).name).toBe("web");
  });

  it("keeps one older console log and drops the old crash report", () => {
    const first = openStateFolder("web", root);
    writeFileSync(first.consoleLog, "old");
    writeFileSync(first.crashReport, "{}");
    first.release();
    const again = openStateFolder("web", root);
    expect(readFileSync(`${again.consoleLog}.previous`, "utf8")).toBe("old");
    expect(existsSync(again.crashReport)).toBe(false);
  });

  it("makes any name a file name", () => {
    expect(openStateFolder("../a b/ü", root).path).toBe(path.join(root, "domains", "a-b-"));
    expect(openStateFolder("..", root).name).toBe("domain");
  });
});
