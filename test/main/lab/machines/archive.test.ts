/** Machines written into one file and read again, in another lab; and archives that somebody has tampered with. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
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
import { gunzipSync, gzipSync } from "node:zlib";
import { type Header, pack as tarPack } from "tar-stream";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { createQcow2 } from "../../../../engine/disk/image-tools/create.ts";
import { imageInfo } from "../../../../engine/disk/image-tools/info.ts";
import { CatalogueImages } from "../../../../main/lab/machines/boot-image.ts";
import { LabFixture, MIB, reopened } from "./lab-fixture.ts";

const KERNEL = Buffer.from("a kernel of the user's own".repeat(1000));
const INITRD = Buffer.from("files for it".repeat(500));

const labs: LabFixture[] = [];
let lab: LabFixture;
let other: LabFixture;

/** The boot images of the program: those of the catalogue are never opened here. */
async function openLab(): Promise<LabFixture> {
  const made = new LabFixture();
  labs.push(made);
  mkdirSync(made.home);
  return await made.open({ boot: new CatalogueImages(() => [], path.join(made.home, "images")) });
}

async function openBoth(): Promise<void> {
  lab = await openLab();
  other = await openLab();
}

async function closeAll(): Promise<void> {
  for (const each of labs.splice(0)) await each.dispose();
}

const at = (name: string) => path.join(lab.folder, name);
const poolOf = ({ home }: LabFixture) =>
  ["tmp", "disks", "machines"].map((folder) => readdirSync(path.join(home, folder)));
const EMPTY = [[], [], []];

async function line(call: Promise<unknown>): Promise<string> {
  return await call.then(
    () => "it was done",
    (error: Error) => error.message,
  );
}

/** Fills a machine's first disk with one value from a place on. */
function fill(file: string, byte: number, offset: number, length: number): void {
  execFileSync("qemu-io", ["-f", "qcow2", "-c", `write -P ${byte} ${offset} ${length}`, file], { stdio: "ignore" });
}

const sumOf = (content: Buffer): string => createHash("sha256").update(content).digest("hex");

/** Checksum of what a guest sees of an image. */
function contentOf(file: string): string {
  const raw = `${file}.content`;
  execFileSync("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", file, raw]);
  const content = readFileSync(raw);
  rmSync(raw);
  return sumOf(content);
}

/** A machine with own boot files and a disk in two layers, exported. */
async function exported(config: Record<string, unknown> = {}): Promise<string> {
  writeFileSync(at("vmlinuz"), KERNEL);
  writeFileSync(at("initrd.gz"), INITRD);
  await lab.create("web", {
    image: null,
    kernel: at("vmlinuz"),
    initrd: at("initrd.gz"),
    commandLine: "console=hvc0 root=/dev/xvda",
    extraArguments: "quiet",
    memoryMiB: 96,
    notes: "kept",
    autostart: true,
    vifs: [{ mac: "00:16:3e:11:22:33", bridge: "lan" }],
    forwards: [{ protocol: "tcp", hostPort: 8080, guestPort: 80 }],
    ...config,
  });
  fill(await lab.disk("web"), 0xaa, MIB, 64 << 10);
  await lab.call("snapshotTake", { machine: "web", name: "before" });
  fill(await lab.disk("web"), 0xbb, 3 * MIB, 64 << 10);
  const file = at("web.domlab");
  await lab.call("machineExport", { machine: "web", path: file });
  return file;
}

interface Tampered {
  readonly header: Partial<Header> & { readonly name: string };
  readonly content: Buffer;
}

/** The members of an archive. */
function membersOf(file: string): Tampered[] {
  const tar = gunzipSync(readFileSync(file));
  const members: Tampered[] = [];
  for (let offset = 0; tar[offset] !== 0; ) {
    const name = tar.toString("utf8", offset, tar.indexOf(0, offset));
    const size = Number.parseInt(tar.toString("utf8", offset + 124, offset + 135), 8);
    members.push({ header: { name }, content: tar.subarray(offset + 512, offset + 512 + size) });
    offset += 512 + Math.ceil(size / 512) * 512;
  }
  return members;
}

async function write(file: string, members: readonly Tampered[]): Promise<void> {
  const pack = tarPack();
  for (const { header, content } of members) {
    const empty = header.type !== undefined && header.type !== "file";
    if (empty) pack.entry({ ...header });
    else pack.entry({ ...header }, content);
  }
  pack.finalize();
  const chunks: Buffer[] = [];
  for await (const chunk of pack) chunks.push(chunk as Buffer);
  writeFileSync(file, gzipSync(Buffer.concat(chunks), { level: 1 }));
}

/** With checksums that fit. */
function summed(members: readonly Tampered[]): Tampered[] {
  const files = members.filter(({ header }) => header.name !== "SHA256SUMS");
  const lines = files.map(({ header, content }) => `${sumOf(content)}  ${header.name}\n`);
  return [...files, { header: { name: "SHA256SUMS" }, content: Buffer.from(lines.join("")) }];
}

// biome-ignore lint/suspicious/noExplicitAny: tests put what they like into it
type Manifest = Record<string, any>;

function withManifest(members: readonly Tampered[], change: (manifest: Manifest) => void): Tampered[] {
  return summed(
    members.map((member) => {
      if (member.header.name !== "domlab.json") return member;
      const manifest = JSON.parse(member.content.toString("utf8"));
      change(manifest);
      return { ...member, content: Buffer.from(JSON.stringify(manifest)) };
    }),
  );
}

const replaced = (members: readonly Tampered[], name: string, content: Buffer): Tampered[] =>
  members.map((member) => (member.header.name === name ? { ...member, content } : member));

describe("a round trip", () => {
  beforeEach(openBoth);
  afterEach(closeAll);

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
    await write(
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
});

describe("what cannot be exported", () => {
  beforeEach(openBoth);
  afterEach(closeAll);

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

describe("an archive that is not to be trusted", () => {
  let members: Tampered[];
  let file: string;

  beforeAll(async () => {
    await openBoth();
    members = membersOf(await exported());
    file = at("bad.domlab");
  });
  afterAll(closeAll);

  const disk = (): Buffer =>
    members.find(({ header }) => header.name === "disks/xvda.qcow2")?.content ?? Buffer.alloc(0);
  const kept = () => members.filter(({ header }) => header.name !== "SHA256SUMS");
  const withDisk = (content: Buffer) =>
    withManifest(replaced(members, "disks/xvda.qcow2", content), (manifest) => {
      manifest.disks[0].bytes = content.length;
    });

  /** What it must be refused for, and how it is made. */
  const cases: readonly [string, RegExp, () => Promise<Tampered[]> | Tampered[]][] = [
    [
      "a link",
      /evil is no plain file/,
      () => [
        ...kept(),
        { header: { name: "evil", type: "symlink", linkname: "/etc/passwd" }, content: Buffer.alloc(0) },
      ],
    ],
    [
      "a hard link in place of a disk",
      /is no plain file/,
      () =>
        kept().map((each) =>
          each.header.name === "disks/xvda.qcow2"
            ? { header: { name: each.header.name, type: "link", linkname: "/etc/passwd" }, content: Buffer.alloc(0) }
            : each,
        ),
    ],
    [
      "a device",
      /is no plain file/,
      () => [...kept(), { header: { name: "dev", type: "block-device", devmajor: 8 }, content: Buffer.alloc(0) }],
    ],
    [
      "a folder",
      /is no plain file/,
      () => [...kept(), { header: { name: "disks/", type: "directory" }, content: Buffer.alloc(0) }],
    ],
    [
      "a way out",
      /holds \.\.\/evil, which it does not declare/,
      () => summed([...kept(), { header: { name: "../evil" }, content: Buffer.from("x") }]),
    ],
    [
      "an absolute path",
      /holds \/tmp\/evil, which/,
      () => summed([...kept(), { header: { name: "/tmp/evil" }, content: Buffer.from("x") }]),
    ],
    [
      "an extra member",
      /holds more, which it does not declare/,
      () => summed([...kept(), { header: { name: "more" }, content: Buffer.from("x") }]),
    ],
    [
      "a member twice",
      /holds boot\/kernel, which it does not declare or has twice/,
      () => [...kept(), ...kept().slice(1, 2)],
    ],
    ["the manifest later", /does not begin with domlab\.json/, () => [...kept().slice(1), ...kept().slice(0, 1)]],
    [
      "a missing member",
      /boot\/initrd is missing/,
      () => summed(kept().filter(({ header }) => header.name !== "boot/initrd")),
    ],
    ["no checksums", /SHA256SUMS is missing/, () => kept()],
    [
      "a wrong checksum",
      /the checksum of boot\/kernel is wrong/,
      () => replaced(members, "boot/kernel", Buffer.alloc(KERNEL.length)),
    ],
    [
      "checksums of other files",
      /SHA256SUMS names other/,
      () => [
        ...members.slice(0, -1),
        {
          header: { name: "SHA256SUMS" },
          content: Buffer.concat([
            members.at(-1)?.content ?? Buffer.alloc(0),
            Buffer.from(`${"0".repeat(64)}  other\n`),
          ]),
        },
      ],
    ],
    [
      "a checksum missing",
      /SHA256SUMS lacks/,
      () => [...members.slice(0, -1), { header: { name: "SHA256SUMS" }, content: Buffer.alloc(0) }],
    ],
    [
      "a member of another size",
      /boot\/kernel has 5 bytes and not/,
      () => summed(replaced(kept(), "boot/kernel", Buffer.from("short"))),
    ],
    [
      "a later version",
      /^.*was made by a later version of domlab \(its version is 2, this one's 1\); update domlab$/,
      () => withManifest(members, (manifest) => Object.assign(manifest, { version: 2, new: 1 })),
    ],
    [
      "another format",
      /does not say that it is one/,
      () => withManifest(members, (manifest) => Object.assign(manifest, { format: "other" })),
    ],
    [
      "an unknown key",
      /domlab\.json: unknown key surprise/,
      () => withManifest(members, (manifest) => Object.assign(manifest, { surprise: 1 })),
    ],
    [
      "a path of the host",
      /domlab\.json: config: unknown key kernel/,
      () => withManifest(members, (manifest) => Object.assign(manifest.config, { kernel: "/etc/shadow" })),
    ],
    [
      "a disk of the host",
      /unknown key source/,
      () => withManifest(members, (manifest) => Object.assign(manifest.disks[0], { source: "/etc/shadow" })),
    ],
    [
      "a disk's file elsewhere",
      /disks\.0\.file/,
      () => withManifest(members, (manifest) => Object.assign(manifest.disks[0], { file: "disks/../../evil.qcow2" })),
    ],
    [
      "an interface served by a machine",
      /vifs\.0\.backend/,
      () => withManifest(members, (manifest) => Object.assign(manifest.config.vifs[0], { backend: "router" })),
    ],
    ["no kernel", /domlab\.json: boot/, () => withManifest(members, (manifest) => delete manifest.boot)],
    [
      "too little memory",
      /1 MiB are too little for a machine/,
      () => withManifest(members, (manifest) => Object.assign(manifest.config, { memoryMiB: 1 })),
    ],
    [
      "an unknown image",
      /there is no guest image/,
      () =>
        withManifest(
          kept().filter(({ header }) => !header.name.startsWith("boot/")),
          (manifest) => {
            delete manifest.boot;
            manifest.config.image = "nobody-has-it";
          },
        ),
    ],
    ["no JSON", /domlab\.json is no JSON/, () => replaced(members, "domlab.json", Buffer.from("{"))],
    [
      "a manifest of megabytes",
      /domlab\.json is larger than any/,
      () => replaced(members, "domlab.json", Buffer.alloc(2 * MIB, 32)),
    ],
    [
      "a disk larger than there is room",
      /may take \d+ MiB, and/,
      () =>
        withManifest(members, (manifest) => Object.assign(manifest.disks[0], { bytes: 2 ** 45, virtualSize: 2 ** 45 })),
    ],
    [
      "a disk of another size",
      /disks\/xvda\.qcow2 is of another size than it declares/,
      () => withManifest(members, (manifest) => Object.assign(manifest.disks[0], { virtualSize: 16 * MIB })),
    ],
    ["a raw disk", /disks\/xvda\.qcow2 is no image that can be used/, () => withDisk(Buffer.alloc(4096))],
    [
      "a backing file",
      /disks\/xvda\.qcow2 lies over another image/,
      async () => {
        await createQcow2(at("base.qcow2"), { size: 8 * MIB });
        await createQcow2(at("over.qcow2"), { backing: { path: at("base.qcow2"), format: "qcow2" } });
        return withDisk(readFileSync(at("over.qcow2")));
      },
    ],
    [
      "an external data file",
      /no image that can be used \(.*an external data file/,
      () => {
        const content = Buffer.from(disk());
        content.writeUInt32BE(content.readUInt32BE(76) | 4, 76);
        return withDisk(content);
      },
    ],
    [
      "tables that lead into each other",
      /disks\/xvda\.qcow2 is/,
      () => {
        const content = Buffer.from(disk());
        // The first entry of the table of tables leads to the header.
        const l1 = Number(content.readBigUInt64BE(40));
        content.writeBigUInt64BE(1n << 63n, l1);
        content.writeBigUInt64BE((1n << 63n) | BigInt(1 << 16), l1);
        return withDisk(content);
      },
    ],
  ];

  it.each(cases)("is refused for %s", async (_what, expected, make) => {
    await write(file, await make());
    expect(await line(other.call("machineImport", { path: file }))).toMatch(expected);
    expect(poolOf(other)).toEqual(EMPTY);
    expect(await other.call("machineList", {})).toEqual([]);
    expect(existsSync(path.join(other.folder, "evil"))).toBe(false);
  });

  it("is refused when it is cut anywhere, or garbled", async () => {
    const whole = readFileSync(at("web.domlab"));
    for (const length of [3, 20, 400, whole.length >> 1, whole.length - 1]) {
      writeFileSync(file, whole.subarray(0, length));
      expect(await line(other.call("machineImport", { path: file }))).toMatch(/damaged or cut short|it is empty/);
    }
    for (const place of [30, whole.length >> 1, whole.length - 6]) {
      const garbled = Buffer.from(whole);
      garbled.fill(0x5a, place, place + 4);
      writeFileSync(file, garbled);
      expect(await line(other.call("machineImport", { path: file }))).toMatch(/is no usable archive/);
    }
    writeFileSync(file, "name = 'web'\n");
    expect(await line(other.call("machineImport", { path: file }))).toMatch(/it is not compressed by gzip/);
    writeFileSync(file, gzipSync(Buffer.alloc(100_000, "no tar ")));
    expect(await line(other.call("machineImport", { path: file }))).toMatch(/damaged or cut short/);
    expect(await line(other.call("machineImport", { path: at("absent.domlab") }))).toMatch(
      /absent.domlab does not exist/,
    );
    expect(poolOf(other)).toEqual(EMPTY);
  });

  it("is refused when zeros without end come behind what it declares", async () => {
    const tar = gunzipSync(readFileSync(at("web.domlab")));
    const bomb = Buffer.concat([tar.subarray(0, tar.length - 1024), Buffer.alloc(64 * MIB)]);
    writeFileSync(file, gzipSync(bomb, { level: 1 }));
    expect(await line(other.call("machineImport", { path: file }))).toMatch(/it holds more than it declares/);
    expect(poolOf(other)).toEqual(EMPTY);
  });
});

describe("a lab that is killed", () => {
  beforeEach(openBoth);
  afterEach(closeAll);

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
    labs.push(again);
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
    labs.push(again);
    await expect.poll(() => poolOf(again)[0]).toEqual([]);
    expect([existsSync(part), existsSync(innocent)]).toEqual([false, true]);
  });
});
