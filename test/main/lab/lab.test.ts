import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { connectXenstoreSocket } from "../../../engine/xenstore/client.ts";
import { findLab, runningLabs } from "../../../main/lab/find-lab.ts";
import { hostControl } from "../../../main/lab/host-control.ts";
import { type ServedLab, serveLab } from "../../../main/lab/lab.ts";
import { labSockets } from "../../../main/lab/runtime-folder.ts";
import { runLabCommand } from "./run-command.ts";
import { GUEST, TestHost } from "./test-host.ts";

let root = "";
const open: ServedLab[] = [];
beforeEach(() => {
  root = mkdtempSync(path.join(os.tmpdir(), "domlab-lab-"));
});
afterEach(async () => {
  for (const lab of open.splice(0)) await lab.close();
  rmSync(root, { recursive: true, force: true });
});

async function start(name: string): Promise<{ lab: ServedLab; host: TestHost }> {
  const host = new TestHost();
  const lab = await serveLab(root, name, host.xenstore, (own) => hostControl(own, host, () => [GUEST]));
  open.push(lab);
  return { lab, host };
}

/** Leaves a socket file behind as a process does that is killed. */
function abandonedSocket(file: string): void {
  const script = `require("node:net").createServer().listen(process.argv[1], () => process.kill(process.pid, "SIGKILL"))`;
  try {
    execFileSync(process.execPath, ["-e", script, file], { stdio: "ignore" });
  } catch {
    // Killed, as it should be.
  }
}

describe("a served lab", () => {
  it("is found by name, offers its store, and leaves nothing", async () => {
    const { lab } = await start("web");
    const { xenstore } = await findLab(root, "web");
    const store = await connectXenstoreSocket(xenstore);
    expect(await store.read("/local/domain/2/name")).toBe("storage");
    store.close();
    await lab.close();
    expect(readdirSync(root)).toEqual([]);
  });

  it("gets a number while its name is taken, whatever its length", async () => {
    const long = "w".repeat(120);
    const names = [await start("web"), await start("web"), await start(long), await start(long)].map(
      ({ lab }) => lab.name,
    );
    expect(names).toEqual(["web", "web-2", long, `${long}-2`]);
    expect((await runningLabs(root)).map((lab) => lab.lab)).toEqual(["web", "web-2", long, `${long}-2`]);
    expect(await findLab(root, long)).toEqual(labSockets(root, long));
  });

  it("takes the name of a dead one, and sweeps what others left", async () => {
    const [web, mail] = [labSockets(root, "web"), labSockets(root, "mail")];
    for (const file of [web.control, web.xenstore, mail.control]) abandonedSocket(file);
    writeFileSync(mail.xenstore, "");
    expect(existsSync(web.control)).toBe(true);
    expect(await runningLabs(root)).toEqual([]);
    const { lab } = await start("web");
    expect(lab.name).toBe("web");
    expect(readdirSync(root).sort()).toEqual(["web.control", "web.xenstore"]);
  });
});

describe("which lab is meant", () => {
  it("the only one, or that of the name", async () => {
    await expect(findLab(root, undefined)).rejects.toThrow("no lab is running; start one with domlab run");
    await expect(findLab(root, "web")).rejects.toThrow("no lab web is running; none is; start one with domlab run");
    await start("web");
    expect(await findLab(root, undefined)).toEqual(labSockets(root, "web"));
    await start("mail");
    await expect(findLab(root, undefined)).rejects.toThrow("several labs are running; choose with --lab: mail, web");
    await expect(findLab(root, "mial")).rejects.toThrow("no lab mial is running; use one of: mail, web");
    expect(await findLab(root, "mail")).toEqual(labSockets(root, "mail"));
  });
});

describe("commands", () => {
  const run = (...args: string[]) => runLabCommand(root, ...args);

  it("show labs, disks and counters", async () => {
    const { host } = await start("web");
    const [a, b] = [path.join(root, "a"), path.join(root, "b\u001b[2J")];
    for (const file of [a, b]) writeFileSync(file, new Uint8Array(4096));
    expect(await run("block-attach", `${a},,xvda`)).toBe("");
    await run("block-attach", "--lab", "web", `vdev=xvdb,access=ro,target=${b}`);
    expect((await runningLabs(root))[0]?.guests).toEqual([{ ...GUEST, disks: ["xvda", "xvdb"] }]);
    expect(await run("block-list")).toBe(
      [
        "Vdev  Handle  BE  Backend  State      Mode  Target",
        `xvda   51712   2  storage  Connected  w     ${a}`,
        `xvdb   51728   2  storage  Connected  r     ${path.join(root, "b [2J")}`,
        "",
      ].join("\n"),
    );
    expect(JSON.parse(await run("block-list", "--json"))).toHaveLength(2);
    expect(await run("block-stat")).toBe("        xvda  xvdb\nrd_req    12    12\nwr_req     3     3\n");
    expect(JSON.parse(await run("block-stat", "--json"))[0].counters).toEqual({ rd_req: 12, wr_req: 3 });
    await run("block-detach", "--force", "xvda");
    await run("block-detach", "51728");
    expect(host.detached).toEqual([
      { guest: 1, vdev: 51712, force: true },
      { guest: 1, vdev: 51728, force: false },
    ]);
  });

  it("take relative targets from the folder they are called in", async () => {
    const { host } = await start("web");
    writeFileSync(path.join(root, "disk.img"), new Uint8Array(4096));
    await run("block-attach", `${path.relative(".", root)}/disk.img,,xvda`);
    expect(host.disks[0]?.store).toMatchObject({ path: path.join(root, "disk.img") });
  });
});
