import { chmodSync, chownSync, mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { BadInput } from "../../../main/failure.ts";
import { allLabSockets, labSockets, openRuntimeFolder, runtimeRoot } from "../../../main/lab/runtime-folder.ts";

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-rt-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe("where the folder is", () => {
  const fallback = path.join(os.tmpdir(), `domlab-${process.getuid?.()}`);

  it("is in XDG_RUNTIME_DIR", () => {
    expect(runtimeRoot({ XDG_RUNTIME_DIR: folder })).toBe(path.join(folder, "domlab"));
  });

  it.each([
    ["is not set", undefined],
    ["is relative", "run"],
    ["does not exist", "/no/such/folder"],
  ])("is in the folder for temporary files when that %s", (_what, value) => {
    expect(runtimeRoot({ XDG_RUNTIME_DIR: value })).toBe(fallback);
  });

  it("is in the folder for temporary files when that is another user's, as after su", (context) => {
    if (process.getuid?.() === 0) chownSync(folder, 12345, 12345);
    else if (statSync("/").uid === process.getuid?.()) return context.skip("no folder of another user is known");
    const foreign = process.getuid?.() === 0 ? folder : "/";
    expect(runtimeRoot({ XDG_RUNTIME_DIR: foreign })).toBe(fallback);
  });
});

describe("making the folder", () => {
  it("makes it for the user alone, and takes it as it is afterwards", () => {
    const root = path.join(folder, "a", "domlab");
    openRuntimeFolder(root);
    openRuntimeFolder(root);
    expect(statSync(root).mode & 0o777).toBe(0o700);
  });

  const refusal = (root: string): string => {
    try {
      openRuntimeFolder(root);
    } catch (error) {
      if (error instanceof BadInput) return error.message;
    }
    return "";
  };

  it("refuses what is not a folder of the user's alone", () => {
    const root = path.join(folder, "domlab");
    writeFileSync(root, "");
    expect(refusal(root)).toMatch(/^[^\n]+ cannot be made \(EEXIST\); [^\n]+$/);
    rmSync(root);
    mkdirSync(root);
    chmodSync(root, 0o755);
    expect(refusal(root)).toMatch(/other users; chmod 700/);
    chmodSync(root, 0o700);
    expect(refusal(root)).toBe("");
    if (process.getuid?.() === 0) {
      chownSync(root, 12345, 12345);
      expect(refusal(root)).toMatch(/belongs to another user/);
      chownSync(root, 0, 0);
    }
    symlinkSync(root, path.join(folder, "link"));
    expect(refusal(path.join(folder, "link"))).toMatch(/is not a folder/);
  });
});

describe("names of sockets", () => {
  it("carry the lab's name", () => {
    expect(labSockets("/run/domlab", "web")).toEqual({
      control: "/run/domlab/web.control",
      xenstore: "/run/domlab/web.xenstore",
    });
  });

  it("are short enough for a socket, and differ where names do", () => {
    const long = "x".repeat(200);
    const one = labSockets("/run/domlab", long);
    expect(one).toEqual(labSockets("/run/domlab", long));
    expect(Buffer.byteLength(one.xenstore)).toBeLessThanOrEqual(103);
    expect(labSockets("/run/domlab", `${long}y`)).not.toEqual(one);
  });

  it("cannot be made in a folder whose own path is too long", () => {
    expect(() => labSockets(`/${"r".repeat(90)}`, "web")).toThrow(/too long for sockets in it; set XDG_RUNTIME_DIR/);
  });

  it("are found again", () => {
    expect(allLabSockets(path.join(folder, "missing"))).toEqual([]);
    const sockets = ["b", "a"].map((name) => labSockets(folder, name));
    for (const { control, xenstore } of sockets) {
      writeFileSync(control, "");
      writeFileSync(xenstore, "");
    }
    expect(allLabSockets(folder)).toEqual(sockets.toReversed());
  });
});
