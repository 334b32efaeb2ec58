/** Machines written into one file and read again, in another lab. */
import { execFileSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { imageInfo } from "../../../../engine/disk/image-tools/info.ts";
import {
  ArchiveLabs,
  contentOf,
  EMPTY,
  exportWeb,
  INITRD,
  KERNEL,
  line,
  membersOf,
  poolOf,
  sumOf,
  withManifest,
  writeArchive,
} from "./archive-labs.ts";
import { type LabFixture, MIB, reopened } from "./lab-fixture.ts";

const labs = new ArchiveLabs();
let lab: LabFixture;
let other: LabFixture;

const at = (name: string) => path.join(lab.folder, name);
const exported = (config?: Record<string, unknown>) => exportWeb(lab, config);

async function openBoth(): Promise<void> {
  [lab, other] = await labs.openBoth();
}

describe("a round trip", () => {
  beforeEach(openBoth);
  afterEach(() => labs.close());

  it("brings disks, boot files and settings into another lab, and tells what stayed behind", async () => {
    const file = await exported();
    const made = await other.call("machineImport", { path: file });
    expect(made.name).toBe("web");
    expect(made.notes).toEqual(["there is no switch lan: the interface 0 is on lab0"]);
    const details = await other.call("machineShow", { machine: "web" });
    const folder = path.join(other.home, "machines", made.id, "boot");
    expect(details.config).toMatchObject({
      image: null,
      kernel: path.join(folder, "kernel"),
      initrd: path.join(folder, "initrd"),
      commandLine: "console=hvc0 root=/dev/xvda",
      extraArguments: "quiet",
      memoryMiB: 96,
      notes: "kept",
      autostart: false,
      forwards: [],
      vifs: [{ mac: "00:16:3e:11:22:33", bridge: "lab0" }],
    });
    expect(readFileSync(path.join(folder, "kernel")).equals(KERNEL)).toBe(true);
    expect(readFileSync(path.join(folder, "initrd")).equals(INITRD)).toBe(true);
    const disk = await other.disk("web");
    expect(contentOf(disk)).toBe(contentOf(await lab.disk("web")));
    expect(imageInfo(disk, "qcow2")).toHaveLength(1);
    await other.call("machineStart", { machine: "web" });
    expect(other.host.get("web").config.image.kernel).toEqual({ path: path.join(folder, "kernel") });
    await other.call("machineDestroy", { machine: "web" });
  });

  it("is a tar that others list and check", async () => {
    const file = await exported();
    const names = execFileSync("tar", ["tzf", file], { encoding: "utf8" }).trim().split("\n");
    expect(names).toEqual(["domlab.json", "boot/kernel", "boot/initrd", "disks/xvda.qcow2", "SHA256SUMS"]);
    const folder = at("out");
    mkdirSync(folder);
    execFileSync("tar", ["xzf", file, "-C", folder]);
    const checked = execFileSync("sha256sum", ["-c", "SHA256SUMS"], { cwd: folder, encoding: "utf8" });
    expect(checked.match(/: OK$/gm)).toHaveLength(4);
    const manifest = readFileSync(path.join(folder, "domlab.json"), "utf8");
    expect(manifest).not.toContain(lab.folder);
    expect(JSON.parse(manifest)).toMatchObject({ format: "domlab-machine", version: 1, domlab: "test" });
    expect(poolOf(lab)[0]).toEqual([]);
    expect(readdirSync(lab.folder).filter((name) => name.endsWith(".part"))).toEqual([]);
  });

  it("tells what an archive leaves out", async () => {
    writeFileSync(at("part.img"), Buffer.alloc(MIB));
    await lab.create("web", {
      disks: [
        { vdev: "xvdb", source: "nbd://127.0.0.1/export", access: "ro" },
        { vdev: "xvdc", source: at("part.img"), format: "raw", offset: 512, length: 512 },
        { vdev: "xvdd", source: "/in/the/guest.img", backend: "storage" },
      ],
      vifs: [{ bridge: "lab0", backend: "router" }, { bridge: "lab0" }],
      forwards: [{ protocol: "tcp", hostPort: 8081, guestPort: 80 }],
    });
    const { notes, bytes, path: file } = await lab.call("machineExport", { machine: "web", path: at("web.domlab") });
    expect(notes).toEqual([
      "the disk xvdb lies on an NBD server: it is not in the archive",
      "the disk xvdc is a part of an image: it is not in the archive",
      "the disk xvdd is served by storage: it is not in the archive",
      "its forwarded ports are not in the archive",
      "the interface 0 (by router) is served by another machine: it is not in the archive",
    ]);
    expect(bytes).toBe(statSync(file).size);
    await other.call("machineImport", { path: file });
    const { config } = await other.call("machineShow", { machine: "web" });
    expect(config).toMatchObject({ image: "debian-shell", disks: [{ vdev: "xvda" }], vifs: [{ bridge: "lab0" }] });
  });

  it("keeps read-only disks as they were", async () => {
    writeFileSync(at("cd.iso"), Buffer.alloc(MIB, 7));
    const disk = { vdev: "hdc", source: at("cd.iso"), format: "raw", access: "ro", deviceType: "cdrom" };
    await lab.create("web", { disks: [disk] });
    await lab.call("machineExport", { machine: "web", path: at("web.domlab") });
    await other.call("machineImport", { path: at("web.domlab") });
    const { disks, config } = await other.call("machineShow", { machine: "web" });
    expect(config.disks).toMatchObject([{ vdev: "hdc", format: "qcow2", access: "ro", deviceType: "cdrom" }, {}]);
    expect(contentOf(disks[0]?.source ?? "")).toBe(sumOf(Buffer.alloc(MIB, 7)));
  });

  it("gives new names and addresses where they are taken", async () => {
    const file = await exported({ vifs: [{ mac: "00:16:3e:11:22:33", bridge: "lab0" }] });
    const made = await lab.call("machineImport", { path: file });
    expect(made.name).toBe("web-2");
    expect(made.notes[0]).toBe("there is a machine called web already: this one is web-2");
    expect(made.notes[1]).toMatch(/^the address 00:16:3e:11:22:33 is taken on lab0: the interface 0 has 00:16:3e:/);
    const { config } = await lab.call("machineShow", { machine: "web-2" });
    expect(config.vifs).not.toMatchObject([{ mac: "00:16:3e:11:22:33" }]);
    expect(await line(lab.call("machineImport", { path: file, name: "web" }))).toBe(
      "there is a machine called web already; choose another name, for example web-3",
    );
    expect((await lab.call("machineImport", { path: file, name: "copy" })).name).toBe("copy");
  });

  it("keeps the boot files of a clone when the original is purged", async () => {
    const file = await exported();
    const made = await other.call("machineImport", { path: file });
    for (const linked of [false, true]) {
      const name = linked ? "linked" : "full";
      const clone = await other.call("machineClone", { machine: "web", name, linked });
      const { config } = await other.call("machineShow", { machine: name });
      expect(config.kernel).toBe(path.join(other.home, "machines", clone.id, "boot", "kernel"));
    }
    await other.call("machineDelete", { machine: "web" });
    await other.call("machinePurge", { machine: "web" });
    expect(existsSync(path.join(other.home, "machines", made.id))).toBe(false);
    for (const machine of ["full", "linked"]) {
      const { config, unavailable } = await other.call("machineShow", { machine });
      expect(unavailable).toBeUndefined();
      expect(readFileSync(String(config.kernel)).equals(KERNEL)).toBe(true);
      expect(readFileSync(String(config.initrd)).equals(INITRD)).toBe(true);
    }
  });

  it("says the host's name anew under another name", async () => {
    const members = membersOf(await exported());
    const file = at("named.domlab");
    await writeArchive(
      file,
      withManifest(members, (manifest) => {
        manifest.boot.hostName = true;
      }),
    );
    await other.call("machineImport", { path: file, name: "first" });
    await other.call("machineClone", { machine: "first", name: "second", linked: true });
    await other.call("machineRename", { machine: "first", name: "third" });
    for (const machine of ["second", "third"]) {
      const { config } = await other.call("machineShow", { machine });
      expect(config.commandLine).toBe(`console=hvc0 root=/dev/xvda systemd.hostname=${machine}`);
    }
    // And an archive of that does not say the old one.
    await other.call("machineExport", { machine: "third", path: at("third.domlab") });
    await lab.call("machineImport", { path: at("third.domlab"), name: "fourth" });
    const { config } = await lab.call("machineShow", { machine: "fourth" });
    expect(config.commandLine).toBe("console=hvc0 root=/dev/xvda systemd.hostname=fourth");
  });

  it("removes an uploaded archive, and no other", async () => {
    const file = await exported();
    const upload = path.join(other.home, "tmp", "upload-1-web.domlab");
    writeFileSync(upload, readFileSync(file));
    await other.call("machineImport", { path: upload, move: true });
    await other.call("machineImport", { path: file, move: true });
    expect([existsSync(upload), existsSync(file)]).toEqual([false, true]);
  });

  it("removes an uploaded archive that it refuses, too", async () => {
    const file = await exported();
    const good = readFileSync(file);
    const upload = path.join(other.home, "tmp", "upload-1-web.domlab");
    for (const [content, why] of [
      [Buffer.from("no archive"), /it is not compressed by gzip/],
      [good.subarray(0, good.length / 2), /./],
    ] as const) {
      for (const bad of [upload, at("own.domlab")]) {
        writeFileSync(bad, content);
        expect(await line(other.call("machineImport", { path: bad, move: true }))).toMatch(why);
      }
      expect([existsSync(upload), existsSync(at("own.domlab"))]).toEqual([false, true]);
    }
    expect(await other.call("machineList", {})).toEqual([]);
  });
});

describe("what cannot be exported", () => {
  beforeEach(openBoth);
  afterEach(() => labs.close());

  it("is a machine that is on, or suspended", async () => {
    writeFileSync(at("vmlinuz"), KERNEL);
    await lab.create("db", { image: null, kernel: at("vmlinuz") });
    await lab.call("machineStart", { machine: "db" });
    const call = () => line(lab.call("machineExport", { machine: "db", path: at("db.domlab") }));
    expect(await call()).toMatch(/^db is running: it cannot be exported; stop it, or clone a snapshot/);
    await lab.call("machineSuspend", { machine: "db" });
    expect(await call()).toMatch(/^db is suspended: it cannot be exported; resume and shut it down first/);
    expect(existsSync(at("db.domlab"))).toBe(false);
  });

  it("goes where nothing is, unless it is to be replaced", async () => {
    await lab.create("web");
    const file = at("web.domlab");
    writeFileSync(file, "mine");
    const call = (target: string, force = false) =>
      line(lab.call("machineExport", { machine: "web", path: target, force }));
    expect(await call(file)).toMatch(/^.*web\.domlab exists already; /);
    expect(readFileSync(file, "utf8")).toBe("mine");
    expect(await call(file, true)).toBe("it was done");
    expect(execFileSync("tar", ["tzf", file], { encoding: "utf8" })).toContain("domlab.json");
    expect(await call("web.domlab")).toBe("web.domlab is no whole path; begin it with /");
    expect(await call(at("nowhere/web.domlab"))).toMatch(/nowhere does not exist/);
    expect(await call(lab.folder, true)).toMatch(/is no plain file/);
    expect(await call(path.join(lab.home, "lab.json"), true)).toMatch(/lies in the lab's own folder/);
    expect(await call(path.join(lab.home, "exports", "web.domlab"))).toBe("it was done");
    symlinkSync(file, at("link.domlab"));
    expect(await call(at("link.domlab"), true)).toMatch(/is no plain file/);
  });

  it("leaves nothing when it is cancelled", async () => {
    await lab.create("web");
    const call = lab.call("machineExport", { machine: "web", path: at("web.domlab"), operation: "mine" });
    const told = line(call);
    await lab.call("operationCancel", { operation: "mine" });
    const answer = await told;
    const names = readdirSync(lab.folder);
    expect(names.filter((name) => name.endsWith(".part"))).toEqual([]);
    expect(readdirSync(path.join(lab.home, "tmp"))).toEqual([]);
    // It may have been done before the cancel came.
    expect(names.includes("web.domlab")).toBe(answer === "it was done");
  });
});

describe("a lab that is killed", () => {
  beforeEach(openBoth);
  afterEach(() => labs.close());

  it("has no machine and no files of an import that was under way", async () => {
    const file = await exported();
    // Frozen when the boot files are at their place already, and the record is not.
    const copies: string[] = [];
    const { store } = other.server.context;
    const update = store.update.bind(store);
    store.update = async (change) => {
      copies.push(other.freeze());
      return await update(change);
    };
    await other.call("machineImport", { path: file });
    const [copy = ""] = copies;
    expect(readdirSync(path.join(copy, "home", "machines"))).toHaveLength(1);
    expect(readdirSync(path.join(copy, "home", "disks"))).toHaveLength(1);
    for (const more of copies.slice(1)) rmSync(more, { recursive: true });
    const again = await reopened(copy, other.home);
    labs.add(again);
    expect(await again.call("machineList", {})).toEqual([]);
    await expect.poll(() => poolOf(again)).toEqual(EMPTY);
  });

  it("has no archive begun, and no copies, of an export that was under way", async () => {
    await lab.create("web");
    const part = at(".web.domlab.0123456789ab.part");
    const innocent = at(".profile");
    writeFileSync(innocent, "mine");
    const work = path.join(lab.home, "tmp", "export-0123456789ab");
    mkdirSync(work);
    writeFileSync(path.join(work, "place.json"), JSON.stringify({ part }));
    writeFileSync(path.join(work, "xvda.qcow2"), "half");
    writeFileSync(part, "half");
    const forged = path.join(lab.home, "tmp", "export-0123456789ac");
    mkdirSync(forged);
    writeFileSync(path.join(forged, "place.json"), JSON.stringify({ part: innocent }));
    const again = await reopened(lab.freeze(), lab.home);
    labs.add(again);
    await expect.poll(() => poolOf(again)[0]).toEqual([]);
    expect([existsSync(part), existsSync(innocent)]).toEqual([false, true]);
  });
});
