import { type ChildProcess, spawn } from "node:child_process";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { checkImage } from "../../engine/disk/image.ts";
import { createQcow2 } from "../../engine/disk/image-tools/create.ts";
import { runningLabs } from "../../main/lab/find-lab.ts";
import { cpioFile } from "./cpio.ts";
import { domlab, program, type Result, until } from "./domlab.ts";
import { idle, tinyKernel } from "./tiny-kernel.ts";

const DISK_SIZE = 1 << 20;
/** How long a lab may take to start, and between two looks. */
const PATIENCE_MS = 150_000;
const LOOK_MS = 50;

let folder = "";
const file = (name: string) => path.join(folder, name);
const environment = () => ({ XDG_RUNTIME_DIR: folder, XDG_STATE_HOME: file("state"), DOMLAB_HOME: file("lab") });
const guests = new Set<ChildProcess>();

beforeAll(async () => {
  folder = mkdtempSync(path.join(os.tmpdir(), "domlab-disks-"));
  writeFileSync(file("kernel"), tinyKernel(idle));
  writeFileSync(file("initrd"), cpioFile("empty", 0));
  for (const name of ["disk.img", "other.img"]) {
    writeFileSync(file(name), "");
    truncateSync(file(name), DISK_SIZE);
  }
  mkdirSync(file("folder"));
  writeFileSync(file("empty.img"), "");
  const qcow2 = Buffer.alloc(65536);
  qcow2.write("QFI\u00fb", "latin1");
  qcow2.writeUInt32BE(3, 4);
  writeFileSync(file("damaged.qcow2"), qcow2);
  writeFileSync(file("image.vmdk"), Buffer.concat([Buffer.from("KDMV"), Buffer.alloc(DISK_SIZE)]));
  writeFileSync(file("gone.img"), Buffer.alloc(4096));
  const over = (name: string) => ({ backing: { path: file(name), format: "raw" as const } });
  await createQcow2(file("orphan.qcow2"), over("gone.img"));
  rmSync(file("gone.img"));
  await createQcow2(file("overlay.qcow2"), over("disk.img"));
  await createQcow2(file("plain.qcow2"), { size: 2 * DISK_SIZE });
});
afterEach(() => {
  for (const guest of guests) guest.kill("SIGKILL");
  guests.clear();
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const call = (...args: string[]): Promise<Result> => domlab(args, { environment: environment(), limit: 50_000 });

/** Processes that carry our runtime folder in their environment: the program's, its guests', its driver domains'. */
function processes(): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && name !== String(process.pid))
    .filter((name) => {
      try {
        return readFileSync(`/proc/${name}/environ`, "latin1").includes(`XDG_RUNTIME_DIR=${folder}\0`);
      } catch {
        return false;
      }
    });
}

/** No process, socket, or lock of a run is left. */
function expectNothingLeft(): void {
  expect(processes()).toEqual([]);
  expect(existsSync(file("domlab")) ? readdirSync(file("domlab")) : []).toEqual([]);
  const domains = path.join(file("state"), "domlab", "domains");
  const locks = existsSync(domains) ? readdirSync(domains).map((name) => path.join(domains, name, "running")) : [];
  expect(locks.filter((lock) => existsSync(lock))).toEqual([]);
  for (const name of ["disk.img", "other.img"]) checkImage({ kind: "file", path: file(name), readOnly: false });
}

function expectRefused(result: Result, cause: RegExp): void {
  expect(result.stderr).toMatch(/^domlab: [^\n]+; [^\n]+\n$/);
  expect(result.stderr).toMatch(cause);
  expect(result.stdout.toString()).toBe("");
  expect(result.status).toBe(2);
}

const disksOf = (...disks: string[]) => disks.flatMap((disk) => ["--disk", disk]);
const kernel = () => ["--kernel", file("kernel"), "--initrd", file("initrd"), "--memory", "64"];

/** A guest that does nothing, with these disks, once its lab answers. */
async function idleGuest(...disks: string[]): Promise<ChildProcess> {
  const args = [program, "run", ...kernel(), ...disksOf(...disks)];
  const env = { ...process.env, ...environment() };
  const child = spawn(process.execPath, args, { env, stdio: ["pipe", "ignore", "ignore"] });
  guests.add(child);
  const labs = guests.size;
  // Asked without the program, which would cost the guest that starts a good part of a core each time.
  for (const end = Date.now() + PATIENCE_MS; Date.now() < end; ) {
    if (child.exitCode !== null) throw new Error(`the guest ended with ${child.exitCode}`);
    const running = await runningLabs(file("domlab"));
    if (running.flatMap((each) => each.guests).length === labs) return child;
    await delay(LOOK_MS);
  }
  throw new Error("the lab does not answer");
}

async function end(child: ChildProcess): Promise<void> {
  const gone = new Promise((resolve) => child.once("close", resolve));
  child.kill("SIGTERM");
  expect(await gone).toBe(143);
  guests.delete(child);
}

describe("disks that cannot be given", () => {
  it.each([
    ["no text", [""], /vdev is missing/],
    ["no vdev", ["disk.img"], /vdev is missing/],
    ["no such vdev", ["disk.img,,floppy"], /floppy/],
    ["an unknown key", ["disk.img,,xvda,speed=high"], /speed/],
    ["an unknown access", ["disk.img,,xvda,rx"], /rx/],
    ["a vdev twice", ["disk.img,,xvda", "other.img,,xvda"], /two disks are called xvda/],
    ["an image twice, writable", ["disk.img,,xvda", "disk.img,,xvdb"], /in use/],
    ["a missing image", ["missing.img,,xvda"], /missing\.img does not exist/],
    ["a folder", ["folder,,xvda"], /folder/],
    ["an empty image", ["empty.img,,xvda"], /empty/],
    ["a damaged qcow2 image", ["damaged.qcow2,,xvda"], /damaged\.qcow2 is damaged/],
    ["an image that is said to be qcow2", ["disk.img,qcow2,xvda"], /disk\.img is no qcow2 image/],
    ["an overlay whose base is gone", ["orphan.qcow2,,xvda"], /gone\.img does not exist .*layer 1 behind .*orphan/],
    ["an overlay and its base", ["overlay.qcow2,,xvda", "disk.img,,xvdb"], /disk\.img is in use/],
    ["another program's image", ["image.vmdk,,xvda"], /a vmdk image; convert it with qemu-img convert -O qcow2/],
    ["another format", ["image.vmdk,vmdk,xvda"], /vmdk is not served; convert the image with qemu-img/],
    ["a part of a qcow2 image", ["plain.qcow2,,xvda,offset=0"], /qcow2 image; leave offset and length out/],
    ["a part beyond the end", ["disk.img,,xvda,offset=1M,length=1M"], /disk\.img/],
    ["a backend that is no guest", ["/dev/sda,,xvda,backend=storage2"], /no backend domain storage2/],
  ])("%s", async (_name, disks, cause) => {
    const absolute = disks.map((disk) => (/^[a-z0-9]+(\.|,)/.test(disk) ? file(disk) : disk));
    expectRefused(await call("run", ...kernel(), ...disksOf(...absolute)), cause);
    expectNothingLeft();
  });

  it("an image without permission", async (context) => {
    if (process.getuid?.() === 0) return context.skip("root may read everything");
    writeFileSync(file("secret.img"), Buffer.alloc(4096));
    chmodSync(file("secret.img"), 0);
    expectRefused(await call("run", ...kernel(), ...disksOf(`${file("secret.img")},,xvda`)), /permission/);
    expectNothingLeft();
  });

  it("a runtime folder that others can enter", async () => {
    const open = file("open");
    mkdirSync(path.join(open, "domlab"), { recursive: true });
    chmodSync(path.join(open, "domlab"), 0o755);
    const result = await domlab(["run", ...kernel()], { environment: { ...environment(), XDG_RUNTIME_DIR: open } });
    expectRefused(result, /can be entered by other users/);
    expectNothingLeft();
  });
});

describe("without a lab", () => {
  it.each([
    [["block-list"], /no lab is running/],
    [["block-stat"], /no lab is running/],
    [["block-attach", "disk.img,,xvda"], /no lab is running/],
    [["block-detach", "--lab", "web", "xvda"], /no lab web is running/],
    [["xenstore", "ls"], /no lab is running/],
    [["xenstore", "read", "--lab", "web", "/tool"], /no lab web is running/],
    [["block-attach"], /missing required argument.*domlab block-attach --help/],
  ])("%j", async (args, cause) => {
    expectRefused(await call(...args), cause);
  });

  it("list shows none", async () => {
    expect((await call("list", "--json")).stdout.toString()).toBe("[]\n");
  });
});

describe("a running lab", () => {
  it("holds its image until it ends, shows its disks, and leaves nothing", async () => {
    const image = file("disk.img");
    const guest = await idleGuest(`target=${image},vdev=xvda`);
    expectRefused(await call("run", ...kernel(), ...disksOf(`${image},,xvda`)), /in use by another machine/);
    expectRefused(await call("run", ...kernel(), ...disksOf(`${image},,xvda,ro`)), /written by another machine/);
    expectRefused(await call("block-list", "--lab", "web"), /no lab web is running; use one of: kernel/);
    expectRefused(await call("block-attach", `${image},,xvdb`), /in use/);
    expectRefused(await call("block-attach", `${file("other.img")},,xvda`), /xvda already/);
    expectRefused(await call("block-attach", `${file("missing.img")},,xvdb`), /does not exist/);
    expectRefused(await call("block-detach", "xvdb"), /no disk xvdb/);
    expectRefused(await call("block-detach", "--", "-1"), /names no disk/);

    expect((await call("block-attach", `${file("other.img")},,xvdb,ro`)).status).toBe(0);
    const disks = JSON.parse((await call("block-list", "--json")).stdout.toString());
    expect(disks).toMatchObject([
      { name: "xvda", mode: "w", backend: "storage", target: image },
      { name: "xvdb", mode: "r", backend: "storage", target: file("other.img") },
    ]);
    const [{ backendId, frontendId }] = disks as [{ backendId: number; frontendId: number }];
    const backend = `/local/domain/${backendId}/backend/vbd/${frontendId}/51712`;
    const mode = await call("xenstore", "read", `${backend}/mode`);
    expect(mode.stdout.toString()).toBe("w\n");
    const counted = JSON.parse((await call("block-stat", "--json")).stdout.toString());
    expect(counted).toMatchObject([
      { name: "xvda", counters: { rd_req: 0, errors: 0 } },
      { name: "xvdb", counters: { rd_req: 0, errors: 0 } },
    ]);
    await end(guest);
    expectNothingLeft();
  });

  it("serves qcow2 images with what lies behind them", async () => {
    const guest = await idleGuest(`${file("overlay.qcow2")},,xvda`);
    expectRefused(await call("run", ...kernel(), ...disksOf(`${file("disk.img")},,xvda`)), /in use by another machine/);
    expect((await call("block-attach", `${file("plain.qcow2")},qcow2,xvdb`)).status).toBe(0);
    expectRefused(await call("block-attach", `${file("plain.qcow2")},,xvdc`), /in use/);
    expectRefused(await call("block-attach", `${file("orphan.qcow2")},,xvdc`), /gone\.img does not exist/);
    const disks = JSON.parse((await call("block-list", "--json")).stdout.toString());
    expect(disks).toMatchObject([
      { name: "xvda", target: file("overlay.qcow2") },
      { name: "xvdb", target: file("plain.qcow2") },
    ]);
    await end(guest);
    expectNothingLeft();
  });

  it("shares a read-only image with another, and needs --lab then", async () => {
    const disk = `${file("disk.img")},,xvda,ro`;
    const guests = [await idleGuest(disk), await idleGuest(disk)];
    expectRefused(await call("block-list"), /several labs are running; choose with --lab: kernel, kernel-2/);
    const listed = (await call("block-list", "--json", "--lab", "kernel-2")).stdout.toString();
    expect(JSON.parse(listed)).toMatchObject([{ name: "xvda", mode: "r" }]);
    for (const guest of guests) await end(guest);
    expectNothingLeft();
  });

  it("that was killed is ignored, its image is free, and the next one takes its place", async () => {
    const guest = await idleGuest(`${file("disk.img")},,xvda`);
    guest.kill("SIGKILL");
    guests.delete(guest);
    await until("its processes to be gone", () => processes().length === 0);
    expect(readdirSync(file("domlab")).sort()).toEqual(["kernel.control", "kernel.xenstore"]);
    expectRefused(await call("block-list"), /no lab is running/);
    const next = await idleGuest(`${file("disk.img")},,xvda`);
    expect(JSON.parse((await call("list", "--json")).stdout.toString())).toMatchObject([{ lab: "kernel" }]);
    await end(next);
    expectNothingLeft();
  });
});
