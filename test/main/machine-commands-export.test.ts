/** `domlab export` writes a configuration whole or not at all. */
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { FakeLab } from "./machine-commands-lab.ts";

let lab: FakeLab;
let out: string;
beforeEach(async () => {
  lab = new FakeLab();
  out = path.join(lab.folder, "out");
  mkdirSync(out);
  await lab.serve({ configExport: () => ({ text: "name = 'web'\n", notes: [] }) });
});
afterEach(() => lab.close());

it("replaces a file only when it is told to", async () => {
  writeFileSync(path.join(out, "a.cfg"), "old");
  expect((await lab.refused("export", "web", "out/a.cfg")).line).toMatch(/out\/a\.cfg exists already; .*--force$/);
  expect(readFileSync(path.join(out, "a.cfg"), "utf8")).toBe("old");
  await lab.command("export", "web", "out/a.cfg", "--force");
  expect(readFileSync(path.join(out, "a.cfg"), "utf8")).toBe("name = 'web'\n");
  expect(readdirSync(out)).toEqual(["a.cfg"]);
});

it("says in one line why it cannot, and leaves nothing", async () => {
  for (const [args, line] of [
    [["out/none/a.cfg"], /\/out\/none\/a\.cfg does not exist; /],
    [["out"], /\/out exists already; /],
    [[""], /^the file's name is empty; /],
    [["--archive", ""], /^the file's name is empty; /],
  ] as const) {
    const refused = await lab.refused("export", "web", ...args);
    expect(refused.line).toMatch(line);
    expect(refused.status).toBe(2);
  }
  expect(readdirSync(out)).toEqual([]);
});

it.runIf(process.platform === "linux")("tells of a device that takes nothing", async () => {
  const { line, status } = await lab.refused("export", "web", "/dev/full", "--force");
  expect(line).toMatch(/^\/dev\/full cannot be written: no space left on the device; /);
  expect(status).toBe(2);
});
