/** Configurations of xl's that the user names by their paths. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { MOST_CONFIG_BYTES } from "../../../main/app/app-api.ts";
import { readConfig } from "../../../main/app/config-text.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-config-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));
const file = (name: string) => path.join(folder, name);

it("is read as text, whatever the case of its ending", async () => {
  for (const name of ["web.cfg", "WEB.CFG"]) {
    writeFileSync(file(name), 'name = "wéb"\n');
    expect(await readConfig(file(name))).toBe('name = "wéb"\n');
  }
});

it("is a plain file of that ending, and no longer than configurations are", async () => {
  writeFileSync(file("secret"), "key");
  symlinkSync(file("secret"), file("a.cfg.txt"));
  mkdirSync(file("folder.cfg"));
  execFileSync("mkfifo", [file("pipe.cfg")]);
  writeFileSync(file("long.cfg"), "");
  truncateSync(file("long.cfg"), MOST_CONFIG_BYTES + 1);
  for (const [name, why] of [
    ["secret", /is no configuration of xl's; choose a file whose name ends in .cfg/],
    ["a.cfg.txt", /is no configuration/],
    ["folder.cfg", /is no plain file/],
    ["pipe.cfg", /is no plain file/],
    ["long.cfg", /longer than a configuration is/],
    ["none.cfg", /cannot be read \(ENOENT\); check its path/],
  ] as const) {
    await expect(readConfig(file(name)), name).rejects.toThrow(why);
  }
  truncateSync(file("long.cfg"), MOST_CONFIG_BYTES);
  expect(await readConfig(file("long.cfg"))).toHaveLength(MOST_CONFIG_BYTES);
});
