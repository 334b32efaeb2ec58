/** `domlab app` on the way to its window, with small programs in place of Electron's executable and its download. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type StartOptions, startElectron } from "../../../main/electron-start.ts";

describe.runIf(process.platform === "linux")("the window", () => {
  let folder: string;
  let said: string[];

  beforeEach(() => {
    folder = mkdtempSync(path.join(os.tmpdir(), "domlab-start-"));
    said = [];
    mkdirSync(path.join(folder, "electron"));
    writeFileSync(path.join(folder, "electron", "package.json"), '{"version":"45.0.0"}');
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  /** An executable of Electron's that is this shell script. */
  const executable = (script: string, place = path.join(folder, "electron", "dist")) => {
    mkdirSync(place, { recursive: true });
    const file = path.join(place, "electron");
    writeFileSync(file, `#!/bin/sh\n${script}\n`);
    chmodSync(file, 0o755);
  };
  const installer = (script: string) => writeFileSync(path.join(folder, "electron", "install.js"), script);
  const start = (more: Partial<StartOptions> = {}) =>
    startElectron({
      home: path.join(folder, "home"),
      say: (line) => said.push(line),
      folder: path.join(folder, "electron"),
      uid: 1000,
      environment: { PATH: process.env.PATH, DISPLAY: ":7", DOMLAB_CACHE: path.join(folder, "cache") },
      ...more,
    });

  it("is a program that gets the clone, the lab's folder and files; its end is ours", async () => {
    const out = path.join(folder, "out");
    executable(`printf '%s\\n' "$@" "$DOMLAB_HOME" "run as node:$ELECTRON_RUN_AS_NODE" > '${out}'; exit 5`);
    const environment = { PATH: process.env.PATH, WAYLAND_DISPLAY: "w", ELECTRON_RUN_AS_NODE: "1" };
    // So early an end with a status that is not the app's own means that no window was there.
    expect(await start({ files: ["/web.domlab"], environment })).toEqual({
      unavailable: "Electron could not start (exit status 5)",
    });
    const [root, ...others] = readFileSync(out, "utf8").trimEnd().split("\n");
    expect(existsSync(path.join(String(root), "package.json"))).toBe(true);
    expect(others).toEqual(["/web.domlab", path.join(folder, "home"), "run as node:"]);
  });

  it.each([
    ["exit 0", 0],
    ["exit 2", 2],
    ["kill -TERM $$", 143],
    ["kill -KILL $$", 137],
  ])("that ends by %s is the status %i", async (script, status) => {
    executable(script);
    expect(await start()).toEqual({ status });
  });

  it("that cannot start is told with its own words", async () => {
    executable("echo 'electron: libnss3.so: cannot open shared object file' >&2; exit 127");
    expect(await start()).toEqual({
      unavailable: "Electron could not start (electron: libnss3.so: cannot open shared object file)",
    });
    executable("kill -TRAP $$");
    expect(await start()).toEqual({ unavailable: "Electron could not start (SIGTRAP)" });
  });

  it("may be somewhere else", async () => {
    const place = path.join(folder, "elsewhere");
    executable("exit 0", place);
    installer("process.exit(1)");
    const environment = { PATH: process.env.PATH, DISPLAY: ":7", ELECTRON_OVERRIDE_DIST_PATH: place };
    expect(await start({ environment })).toEqual({ status: 0 });
  });

  it("is not tried without a display or as root", async () => {
    executable("exit 0");
    expect(await start({ environment: { PATH: process.env.PATH } })).toEqual({
      unavailable: "there is no display for a window",
    });
    expect(await start({ uid: 0 })).toEqual({ unavailable: "Electron keeps its sandbox, which root cannot have" });
    expect(said).toEqual([]);
  });

  it("is fetched once", async () => {
    installer(`const fs = require("node:fs");
      fs.mkdirSync(__dirname + "/dist");
      fs.writeFileSync(__dirname + "/dist/electron", "#!/bin/sh\\nexit 0\\n", { mode: 0o755 });`);
    expect(await start()).toEqual({ status: 0 });
    expect(said).toEqual([expect.stringContaining("45.0.0")]);
    expect(await start()).toEqual({ status: 0 });
    expect(said).toHaveLength(1);
  });

  it("that cannot be fetched is not asked for again that day", async () => {
    const count = path.join(folder, "count");
    installer(`require("node:fs").appendFileSync(${JSON.stringify(count)}, "x");
      console.error("Error: getaddrinfo ENOTFOUND example.org\\n    at nowhere"); process.exit(1);`);
    const why = "Electron could not be fetched (Error: getaddrinfo ENOTFOUND example.org)";
    expect(await start()).toEqual({ unavailable: why });
    expect(await start()).toEqual({ unavailable: expect.stringContaining("lately") });
    expect(readFileSync(count, "utf8")).toBe("x");
    const cache = path.join(folder, "cache");
    const [mark] = readdirSync(cache);
    expect(mark).toBe("electron-45.0.0.failed");
    writeFileSync(path.join(cache, String(mark)), String(Date.now() - 25 * 3600_000));
    expect(await start()).toEqual({ unavailable: why });
    expect(readFileSync(count, "utf8")).toBe("xx");
  });

  it("is not waited for without a bound", async () => {
    installer("setInterval(() => {}, 1000);");
    expect(await start({ fetchMs: 300 })).toEqual({
      unavailable: "Electron could not be fetched (it took longer than 0.3 seconds)",
    });
  });

  it("that was fetched in vain is told", async () => {
    installer("");
    expect(await start()).toEqual({ unavailable: "Electron could not be fetched (its executable is not there)" });
  });
});
