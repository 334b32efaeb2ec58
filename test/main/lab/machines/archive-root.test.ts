/** A machine over a root disk that its lab keeps, in a lab that has none: the archive takes all along that it needs. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, expect, it } from "vitest";
import { createQcow2 } from "../../../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../../../engine/disk/image-tools/info.ts";
import { DEBIAN_COMMAND_LINE } from "../../../../main/images/debian-recipe.ts";
import { CatalogueImages } from "../../../../main/lab/machines/boot-image.ts";
import { LabFixture, MIB } from "./lab-fixture.ts";

const IMAGE = "debian-0123456789ab";
const SIZE = 16 * MIB;
const KERNEL = Buffer.from("the kernel of this root, and of no other".repeat(1000));
const MODULE = Buffer.from("a module of that kernel".repeat(500));

const labs: LabFixture[] = [];

afterEach(async () => {
  for (const lab of labs.splice(0)) await lab.dispose();
});

async function openLab(): Promise<LabFixture> {
  const lab = new LabFixture();
  labs.push(lab);
  mkdirSync(lab.home);
  return await lab.open({ boot: new CatalogueImages(() => [], path.join(lab.home, "images")) });
}

/** What keepDebian() leaves in a lab, with other contents. @returns the root disk */
function keepRoot(lab: LabFixture): string {
  const folder = path.join(lab.home, "images", IMAGE);
  mkdirSync(folder, { recursive: true });
  const contents = { vmlinuz: KERNEL, busybox: Buffer.from("a busybox"), "xen_blkfront.ko": MODULE };
  const files = Object.entries(contents).map(([name, content]) => {
    writeFileSync(path.join(folder, name), content);
    return { path: name, size: content.length, sha256: createHash("sha256").update(content).digest("hex") };
  });
  const root = path.join(folder, "root.img");
  writeFileSync(root, Buffer.alloc(MIB, 0x11));
  truncateSync(root, SIZE);
  const manifest = {
    format: 1,
    image: IMAGE,
    suite: "bookworm",
    packages: [],
    kernelRelease: "6.1.0-stand-in",
    made: "2026-01-01T00:00:00.000Z",
    files,
    modules: ["xen_blkfront.ko"],
    root: { size: SIZE, modified: Math.floor(statSync(root).mtimeMs) },
  };
  writeFileSync(path.join(folder, "manifest.json"), JSON.stringify(manifest));
  return root;
}

it("boots the kernel that its root has the modules of, from a disk that lies over nothing", async () => {
  const [lab, other] = [await openLab(), await openLab()];
  const root = keepRoot(lab);
  const disk = path.join(lab.home, "disks", "web-xvda.qcow2");
  await createQcow2(disk, { size: SIZE, backing: { path: root, format: "raw" } });
  execFileSync("qemu-io", ["-f", "qcow2", "-c", `write -P 0x22 ${2 * MIB} 64k`, disk], { stdio: "ignore" });
  const config = { name: "web", image: "debian", disks: [{ vdev: "xvda", source: disk, format: "qcow2" as const }] };
  await lab.call("machineCreate", { config });
  const file = path.join(other.folder, "web.domlab");
  expect((await lab.call("machineExport", { machine: "web", path: file })).notes).toEqual([]);

  // Nothing of the first lab is needed.
  await lab.dispose();
  const made = await other.call("machineImport", { path: file });
  expect(existsSync(path.join(other.home, "images", IMAGE))).toBe(false);
  await other.call("machineStart", { machine: "web" });
  const { image, disks } = other.host.get("web").config;
  const folder = path.join(other.home, "machines", made.id, "boot");
  expect(image.kernel).toEqual({ path: path.join(folder, "kernel") });
  expect(image.initrd).toEqual([{ path: path.join(folder, "initrd") }]);
  expect(image.commandLine).toBe(`${DEBIAN_COMMAND_LINE} systemd.hostname=web`);
  expect(readFileSync(path.join(folder, "kernel")).equals(KERNEL)).toBe(true);
  expect(readFileSync(path.join(folder, "initrd")).includes(MODULE)).toBe(true);
  expect(disks).toHaveLength(1);
  await other.call("machineDestroy", { machine: "web" });

  const copy = await other.disk("web");
  expect(imageInfo(copy, "qcow2")).toHaveLength(1);
  const raw = `${copy}.raw`;
  execFileSync("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", copy, raw]);
  const content = readFileSync(raw);
  rmSync(raw);
  expect(content.length).toBe(SIZE);
  expect([content[0], content[MIB], content[2 * MIB]]).toEqual([0x11, 0, 0x22]);
});
