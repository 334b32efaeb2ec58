/** Files and folders as users name them: the home folder, and short texts. */
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { explain } from "../../main/failure.ts";
import { homeFolder } from "../../main/home-folder.ts";
import { labHome } from "../../main/lab/store/paths.ts";
import { readUserText } from "../../main/user-text.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-text-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const refusal = (file: string) =>
  readUserText(folder, file).then(
    () => "it was read",
    (error: unknown) => explain(error).line,
  );

describe("a text that the user names", () => {
  it("belongs to the current folder", async () => {
    writeFileSync(path.join(folder, "a b.json"), "wéb\n");
    expect(await readUserText(folder, "a b.json")).toBe("wéb\n");
    expect(await readUserText("/", path.join(folder, "a b.json"))).toBe("wéb\n");
  });

  it("may come through a pipe", async () => {
    const pipe = path.join(folder, "pipe");
    execFileSync("mkfifo", [pipe]);
    const writer = spawn("sh", ["-c", 'printf "name = 1" > "$0"', pipe]);
    expect(await readUserText(folder, "pipe")).toBe("name = 1");
    await new Promise((resolve) => (writer.exitCode === null ? writer.once("exit", resolve) : resolve(undefined)));
  });

  it("is refused in one line when it cannot be one", async () => {
    expect(await refusal("")).toBe("the file's name is empty; name a file");
    expect(await refusal("none")).toBe(`${folder}/none does not exist; check the path`);
    expect(await refusal(".")).toBe(`${folder} is a folder; name a file`);
    expect(await refusal("/dev/zero")).toBe("/dev/zero is longer than a configuration is; name another file");
  });
});

describe("the home folder", () => {
  const before = process.env.HOME;
  afterEach(() => {
    if (before === undefined) delete process.env.HOME;
    else process.env.HOME = before;
  });

  it("is $HOME where that is an absolute path, and the user database's word otherwise", () => {
    process.env.HOME = "/somewhere";
    expect(homeFolder()).toBe("/somewhere");
    expect(labHome({})).toBe("/somewhere/.local/share/domlab");
    for (const bad of ["", "relative"]) {
      process.env.HOME = bad;
      expect(homeFolder()).toBe(os.userInfo().homedir);
      expect(path.isAbsolute(labHome({}))).toBe(true);
    }
  });
});
