/** `--machine` of the commands about devices: which guest of which lab is meant. */
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { explain } from "../../main/failure.ts";
import { hostControl } from "../../main/lab/host-control.ts";
import { type ServedLab, serveLab } from "../../main/lab/lab.ts";
import { runLabCommand } from "./lab/run-command.ts";
import { GUEST, TestHost } from "./lab/test-host.ts";

let root = "";
let labs: ServedLab[] = [];

beforeEach(() => {
  root = mkdtempSync(path.join(os.tmpdir(), "domlab-devices-"));
  labs = [];
});
afterEach(async () => {
  for (const lab of labs) await lab.close();
  rmSync(root, { recursive: true, force: true });
});

/** A lab with a guest of that name. */
async function serve(lab: string, guest: string): Promise<TestHost> {
  const host = new TestHost();
  labs.push(
    await serveLab(root, lab, host.xenstore, (own) => hostControl(own, host, () => [{ ...GUEST, name: guest }])),
  );
  return host;
}

const run = (...args: string[]) => runLabCommand(root, ...args);

const refused = async (...args: string[]): Promise<string> =>
  explain(await run(...args).catch((reason: unknown) => reason)).line;

describe("the guest that is meant", () => {
  it("is found in whichever lab runs it", async () => {
    await serve("main", "web");
    await serve("other", "db");
    expect(await refused("network-attach")).toMatch(/several labs are running; choose with --lab: main, other/);
    await run("network-attach", "mac=00:16:3e:00:00:01", "-m", "web");
    await run("network-attach", "mac=00:16:3e:00:00:02", "--machine", "db");
    const addresses = async (...args: string[]) =>
      (JSON.parse(await run("network-list", "--json", ...args)) as { mac: string }[]).map(({ mac }) => mac);
    expect(await addresses("--machine", "web")).toEqual(["00:16:3e:00:00:01"]);
    expect(await addresses("--lab", "other", "--machine", "db")).toEqual(["00:16:3e:00:00:02"]);
    await run("network-detach", "0", "--machine", "web");
    expect(await addresses("--machine", "web")).toEqual([]);
    expect(await addresses("--machine", "db")).toHaveLength(1);
    expect(await run("block-list", "--json", "--machine", "db")).toBe("[]\n");
  });

  it("is refused when none has the name, or several have", async () => {
    await serve("main", "web");
    await serve("other", "web");
    expect(await refused("block-list", "--machine", "wbe")).toMatch(/no guest wbe is running; use one of: web, web/);
    expect(await refused("network-list", "--lab", "main", "--machine", "db")).toMatch(/no guest db is running/);
    expect(await refused("block-list", "--machine", "web")).toMatch(
      /several labs run a guest web; .*--lab: main, other/,
    );
  });

  it("is not there when no lab runs", async () => {
    expect(await refused("block-list", "--machine", "web")).toMatch(/no guest web is running; .*domlab start web/);
  });
});
