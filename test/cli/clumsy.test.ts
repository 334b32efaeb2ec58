/** A clumsy user and an odd host: what is wrong is told in one line with a remedy, and in the exit status. No lab is started. */
import { spawn } from "node:child_process";
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CallOptions, domlab, program } from "./domlab.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-clumsy-"));
  mkdirSync(path.join(folder, "run"), { mode: 0o700 });
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const environment = () => ({ XDG_RUNTIME_DIR: path.join(folder, "run"), DOMLAB_HOME: path.join(folder, "lab") });
const call = (args: readonly string[], more: CallOptions = {}) =>
  domlab(args, { limit: 30_000, ...more, environment: { ...environment(), ...more.environment } });

/** The one line of a refusal. */
async function refusal(args: readonly string[], more: CallOptions = {}): Promise<string> {
  const { status, stdout, stderr } = await call(args, more);
  expect(stderr).toMatch(/^domlab: [^\n]+; [^\n]+\n$/);
  expect([status, stdout.toString()]).toEqual([2, ""]);
  return stderr.slice("domlab: ".length, -1);
}

describe("domlab", () => {
  it("leads to the help of the command that was meant", async () => {
    expect(await refusal(["snapshot", "restore", "web"])).toMatch(
      /^missing required argument 'snapshot'; see domlab snapshot restore --help$/,
    );
    expect(await refusal(["create", "a", "b", "c"])).toBe(
      "too many arguments for 'create'. Expected 1 argument but got 3; see domlab create --help",
    );
    expect(await refusal(["jog"])).toMatch(/; see domlab --help$/);
    expect(await refusal(["help", "snapshot", "nope"])).toBe("unknown command 'nope'; see domlab snapshot --help");
  });

  it("keeps the remedy behind a name that is far too long", async () => {
    const line = await refusal(["list"], { environment: { DOMLAB_HOME: `/${"d".repeat(3000)}` } });
    expect(line.length).toBeLessThan(1000);
  });

  it.runIf(process.platform === "linux")("does not take what it could not print for success", async () => {
    const full = openSync("/dev/full", "w");
    try {
      const env = { ...process.env, ...environment() };
      const child = spawn(process.execPath, [program, "list"], { env, stdio: ["ignore", full, "pipe"] });
      let stderr = "";
      child.stderr?.on("data", (text: Buffer) => {
        stderr += text.toString();
      });
      const status = await new Promise((resolve) => child.once("close", resolve));
      expect(stderr).toMatch(
        /^(domlab: there is no machine yet.*\n)?domlab: standard output cannot be written: .*; .*\n$/,
      );
      expect(status).toBe(2);
    } finally {
      closeSync(full);
    }
  });

  it("finds the same lab from everywhere when HOME leads nowhere", async () => {
    const homes = await Promise.all(
      ["", "relative"].map(async (HOME) => {
        const bare = { HOME, DOMLAB_HOME: "", XDG_DATA_HOME: "" };
        const { stdout } = await call(["lab", "info", "--json"], { environment: bare });
        return JSON.parse(stdout.toString()).home as string;
      }),
    );
    expect(homes).toEqual(Array(2).fill(path.join(os.userInfo().homedir, ".local", "share", "domlab")));
  });
});
