/** Two labs, and archives that one exports, somebody tampers with and the other imports. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { gunzipSync, gzipSync } from "node:zlib";
import { type Header, pack as tarPack } from "tar-stream";
import { CatalogueImages } from "../../../../main/lab/machines/boot-image.ts";
import { LabFixture, MIB } from "./lab-fixture.ts";

export const KERNEL = Buffer.from("a kernel of the user's own".repeat(1000));
export const INITRD = Buffer.from("files for it".repeat(500));

/** Labs of a test, which end with it. */
export class ArchiveLabs {
  private readonly open: LabFixture[] = [];

  /** The boot images of the program: those of the catalogue are never opened here. */
  private async openLab(): Promise<LabFixture> {
    const made = new LabFixture();
    this.add(made);
    mkdirSync(made.home);
    return await made.open({ boot: new CatalogueImages(() => [], path.join(made.home, "images")) });
  }

  /** One that exports, and one that imports. */
  async openBoth(): Promise<[lab: LabFixture, other: LabFixture]> {
    return [await this.openLab(), await this.openLab()];
  }

  /** One more that close() ends. */
  add(lab: LabFixture): void {
    this.open.push(lab);
  }

  async close(): Promise<void> {
    for (const each of this.open.splice(0)) await each.dispose();
  }
}

/** What lies in a lab's folders that archives pass through. */
export const poolOf = ({ home }: LabFixture) =>
  ["tmp", "disks", "machines"].map((folder) => readdirSync(path.join(home, folder)));
export const EMPTY = [[], [], []];

/** What a call is refused with. */
export async function line(call: Promise<unknown>): Promise<string> {
  return await call.then(
    () => "it was done",
    (error: Error) => error.message,
  );
}

/** Fills a machine's first disk with one value from a place on. */
function fill(file: string, byte: number, offset: number, length: number): void {
  execFileSync("qemu-io", ["-f", "qcow2", "-c", `write -P ${byte} ${offset} ${length}`, file], { stdio: "ignore" });
}

export const sumOf = (content: Buffer): string => createHash("sha256").update(content).digest("hex");

/** Checksum of what a guest sees of an image. */
export function contentOf(file: string): string {
  const raw = `${file}.content`;
  execFileSync("qemu-img", ["convert", "-f", "qcow2", "-O", "raw", file, raw]);
  const content = readFileSync(raw);
  rmSync(raw);
  return sumOf(content);
}

/** A machine with own boot files and a disk in two layers, exported. @returns the archive */
export async function exportWeb(lab: LabFixture, config: Record<string, unknown> = {}): Promise<string> {
  const at = (name: string) => path.join(lab.folder, name);
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

export interface Member {
  readonly header: Partial<Header> & { readonly name: string };
  readonly content: Buffer;
}

/** The members of an archive. */
export function membersOf(file: string): Member[] {
  const tar = gunzipSync(readFileSync(file));
  const members: Member[] = [];
  for (let offset = 0; tar[offset] !== 0; ) {
    const name = tar.toString("utf8", offset, tar.indexOf(0, offset));
    const size = Number.parseInt(tar.toString("utf8", offset + 124, offset + 135), 8);
    members.push({ header: { name }, content: tar.subarray(offset + 512, offset + 512 + size) });
    offset += 512 + Math.ceil(size / 512) * 512;
  }
  return members;
}

export async function writeArchive(file: string, members: readonly Member[]): Promise<void> {
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
export function summed(members: readonly Member[]): Member[] {
  const files = members.filter(({ header }) => header.name !== "SHA256SUMS");
  const lines = files.map(({ header, content }) => `${sumOf(content)}  ${header.name}\n`);
  return [...files, { header: { name: "SHA256SUMS" }, content: Buffer.from(lines.join("")) }];
}

// biome-ignore lint/suspicious/noExplicitAny: tests put what they like into it
type Manifest = Record<string, any>;

export function withManifest(members: readonly Member[], change: (manifest: Manifest) => void): Member[] {
  return summed(
    members.map((member) => {
      if (member.header.name !== "domlab.json") return member;
      const manifest = JSON.parse(member.content.toString("utf8"));
      change(manifest);
      return { ...member, content: Buffer.from(JSON.stringify(manifest)) };
    }),
  );
}

export const replaced = (members: readonly Member[], name: string, content: Buffer): Member[] =>
  members.map((member) => (member.header.name === name ? { ...member, content } : member));
