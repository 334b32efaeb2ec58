/** Archives that somebody has tampered with. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createQcow2 } from "../../../../engine/disk/image-tools/create.ts";
import {
  ArchiveLabs,
  EMPTY,
  exportWeb,
  KERNEL,
  line,
  type Member,
  membersOf,
  poolOf,
  replaced,
  summed,
  withManifest,
  writeArchive,
} from "./archive-labs.ts";
import { type LabFixture, MIB } from "./lab-fixture.ts";

const labs = new ArchiveLabs();
let lab: LabFixture;
let other: LabFixture;

const at = (name: string) => path.join(lab.folder, name);

describe("an archive that is not to be trusted", () => {
  let members: Member[];
  let file: string;

  beforeAll(async () => {
    [lab, other] = await labs.openBoth();
    members = membersOf(await exportWeb(lab));
    file = at("bad.domlab");
  });
  afterAll(() => labs.close());

  const disk = (): Buffer =>
    members.find(({ header }) => header.name === "disks/xvda.qcow2")?.content ?? Buffer.alloc(0);
  const kept = () => members.filter(({ header }) => header.name !== "SHA256SUMS");
  const withDisk = (content: Buffer) =>
    withManifest(replaced(members, "disks/xvda.qcow2", content), (manifest) => {
      manifest.disks[0].bytes = content.length;
    });

  /** What it must be refused for, and how it is made. */
  const cases: readonly [string, RegExp, () => Promise<Member[]> | Member[]][] = [
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
    await writeArchive(file, await make());
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
