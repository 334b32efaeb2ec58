import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { domlab, type Result } from "../cli/domlab.ts";
import { endlessLoop, endlessSleep, jumpToNowhere, tinyKernel, tripleFault } from "../cli/tiny-kernel.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-crash-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function runKernel(code: readonly number[], ...more: string[]): Promise<Result> {
  const kernel = path.join(folder, "kernel");
  const initrd = path.join(folder, "initrd");
  writeFileSync(kernel, tinyKernel(code));
  writeFileSync(initrd, emptyArchive());
  const args = ["run", "--kernel", kernel, "--initrd", initrd, "--memory", "64", "--timeout", "60", ...more];
  return domlab(args, { environment: { XDG_STATE_HOME: folder } });
}

/** A cpio archive ("newc") that holds nothing. */
function emptyArchive(): Buffer {
  const name = "TRAILER!!!";
  const fields = [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, name.length + 1, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}${name}`;
  return Buffer.from(header.padEnd(512, "\0"), "latin1");
}

/** The message names a crash report, which holds registers. */
function expectCrash(result: Result): void {
  expect(result.stderr).toMatch(/^domlab: the guest crashed[^\n]*\n$/);
  const report = /(\/\S+crash\.json)/.exec(result.stderr)?.[1] ?? "";
  const crash = JSON.parse(readFileSync(report, "utf8"));
  expect(crash.registers).toBeTypeOf("object");
  expect(Object.keys(crash.registers).length).toBeGreaterThan(0);
  expect(crash).toHaveProperty("console");
  expect(result.status).toBe(1);
}

describe("a guest that crashes", () => {
  it("by a triple fault", async () => expectCrash(await runKernel(tripleFault)));
  it("by a jump into nowhere", async () => expectCrash(await runKernel(jumpToNowhere)));

  it("by a kernel panic, with the last console lines", async () => {
    const result = await domlab(["run", "--exec", "echo c > /proc/sysrq-trigger; sleep 60", "--timeout", "120"], {
      environment: { XDG_STATE_HOME: folder },
    });
    expectCrash(result);
    const report = /(\/\S+crash\.json)/.exec(result.stderr)?.[1] ?? "";
    expect(readFileSync(report, "utf8")).toMatch(/sysrq|panic/i);
  });

  it("says so in JSON", async () => {
    const result = await runKernel(tripleFault, "--json");
    expect(JSON.parse(result.stdout.toString())).toMatchObject({ status: "crashed", exit: 1 });
    expect(result.status).toBe(1);
  });
});

describe("a guest that hangs", () => {
  it("in a loop is stopped by --timeout", async () => {
    expect((await runKernel(endlessLoop, "--timeout", "2")).status).toBe(124);
  });

  it("asleep without interrupts has powered off", async () => {
    expect((await runKernel(endlessSleep, "--timeout", "20")).status).toBe(0);
  });
});
