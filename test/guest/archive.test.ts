/** A machine in one file, from one lab into another: what its guest wrote is what the other's guest reads. */
import { mkdtempSync, realpathSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, expect, it } from "vitest";
import { domlab } from "../cli/domlab.ts";

const folder = realpathSync(mkdtempSync(path.join(os.tmpdir(), "domlab-archive-")));
const PROOF = "written by the first guest";

function environment(lab: string): NodeJS.ProcessEnv {
  return { DOMLAB_HOME: path.join(folder, lab), XDG_RUNTIME_DIR: folder, XDG_STATE_HOME: path.join(folder, "state") };
}

/** A command that succeeds. @returns its output */
async function done(lab: string, args: readonly string[], input?: string): Promise<string> {
  const given = input === undefined ? {} : { input };
  const { status, stdout, stderr } = await domlab(args, { environment: environment(lab), ...given });
  expect({ args, status, stderr }).toMatchObject({ args, status: 0 });
  return stdout.toString();
}

async function boot(lab: string): Promise<void> {
  await done(lab, ["start", "web"]);
  await done(lab, ["wait", "web", "--for", "answering", "--timeout", "150"]);
}

afterAll(async () => {
  for (const lab of ["first", "second"]) {
    await domlab(["lab", "quit", "--machines", "destroy"], { environment: environment(lab) });
  }
  rmSync(folder, { recursive: true, force: true });
});

it("takes a machine with what its guest wrote into another lab", { timeout: 600_000 }, async () => {
  const file = path.join(folder, "web.domlab");
  await done("first", ["create", "web", "--new-disk", "vdev=xvda,size=64M", "--no-network"]);
  await boot("first");
  const write = `echo ${PROOF} | dd of=/dev/xvda bs=512 seek=100000 conv=sync; sync; echo all-$((40+2))\n`;
  expect(await done("first", ["console", "web"], write)).toContain("all-42");
  await done("first", ["destroy", "web"]);
  expect(await done("first", ["export", "web", "--archive", file])).toContain(file);
  expect(await done("second", ["import", file])).toContain("web is made");
  await boot("second");
  const read = "echo read: $(dd if=/dev/xvda bs=512 skip=100000 count=1 2>/dev/null | tr -d '\\000')\n";
  expect(await done("second", ["console", "web"], read)).toContain(`read: ${PROOF}`);
});
