/** What a lab's folder holds, read from its files by other means than the lab's: qemu-img, and the records themselves. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { type ChainLayer, followChain } from "../../engine/disk/chain.ts";
import { labPaths } from "../../main/lab/store/paths.ts";
import { type LabData, labData, type MachineRecord, machineFile } from "../../main/lab/store/schema.ts";
import {
  BLOCK,
  type Model,
  type ModelArchive,
  type ModelDisk,
  type ModelMachine,
  type ModelSnapshot,
} from "./model.ts";

interface Image {
  readonly path: string;
  readonly format: "raw" | "qcow2";
}

/** A byte that no block is filled with: it holds several, or is not whole. */
const MIXED = -1;

function imagesOf({ config, snapshots }: MachineRecord): Image[] {
  return [
    ...config.disks.map(({ source, format }) => ({ path: source, format: format === "probe" ? "qcow2" : format })),
    ...snapshots.flatMap(({ disks }) => disks.map(({ image, format }) => ({ path: image, format }))),
  ] as Image[];
}

function blocksOf(content: Buffer): number[] {
  const blocks: number[] = [];
  for (let at = 0; at < content.length; at += BLOCK) {
    const block = content.subarray(at, at + BLOCK);
    const first = block[0] ?? 0;
    blocks.push(block.length === BLOCK && block.equals(Buffer.alloc(BLOCK, first)) ? first : MIXED);
  }
  return blocks;
}

/** Runs a program that must succeed. @throws Error with what it says */
function run(program: string, args: readonly string[], cwd = "/"): void {
  const { status, stdout, stderr } = spawnSync(program, args, { cwd, encoding: "utf8" });
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}: ${stdout}${stderr}`);
}

/** What an archive's manifest says that matters here. */
interface Manifest {
  readonly config: { readonly memoryMiB: number; readonly notes: string };
  readonly disks: readonly { readonly vdev: string; readonly file: string }[];
}

export class LabFolder {
  readonly home: string;
  /** The folder of machines' archives, if there is one. */
  private readonly archives: string | undefined;
  private readonly unpacked = new Map<string, { readonly state: string; readonly archive: ModelArchive }>();
  /** What files were when they were last looked into, and what was in them. */
  private readonly contents = new Map<string, { readonly state: string; readonly blocks: number[] }>();
  private readonly checked = new Map<string, string>();

  constructor(home: string, archives?: string) {
    this.home = home;
    this.archives = archives;
  }

  /** The records, which must be whole. */
  records(): LabData {
    return labData.parse(JSON.parse(readFileSync(labPaths(this.home).records, "utf8")));
  }

  private blocks({ path: file, format }: Image): number[] {
    const state = followChain(file, format).map(fileState).join("\n");
    const known = this.contents.get(file);
    if (known?.state === state) return known.blocks;
    const raw = path.join(tmpdir(), `domlab-crash-${process.pid}.raw`);
    try {
      qemuImg(["convert", "-f", format, "-O", "raw", file, raw]);
      const blocks = blocksOf(readFileSync(raw));
      this.contents.set(file, { state, blocks });
      return blocks;
    } finally {
      rmSync(raw, { force: true });
    }
  }

  /** The lab as it is on disk. @throws Error for an image that cannot be read */
  model(): Model {
    const data = this.records();
    const disk = (vdev: string, image: Image): ModelDisk => ({
      vdev,
      format: image.format,
      blocks: this.blocks(image),
    });
    const machines = data.machines.map((record): ModelMachine => {
      const { config, memory, state } = record;
      const nameOf = (id: string | null) => record.snapshots.find((each) => each.id === id)?.name ?? null;
      const snapshots = record.snapshots.map(
        (each): ModelSnapshot => ({
          name: each.status === "complete" ? each.name : `${each.name}, not finished`,
          parent: nameOf(each.parent),
          kind: each.kind,
          memoryMiB: each.config.memoryMiB,
          notes: each.config.notes,
          disks: each.disks.map(({ vdev, image, format }) => disk(vdev, { path: image, format })),
        }),
      );
      const disks = config.disks.map(({ vdev, source, format }) =>
        disk(vdev, { path: source, format: format === "raw" ? "raw" : "qcow2" }),
      );
      const { name, memoryMiB, notes } = config;
      const current = nameOf(record.currentSnapshot);
      return { name, state, hasMemory: memory !== undefined, memoryMiB, notes, disks, snapshots, current };
    });
    const member = ({ machine, snapshot }: { machine: string; snapshot: string }) => {
      const record = data.machines.find(({ id }) => id === machine);
      const found = record?.snapshots.find(({ id }) => id === snapshot);
      return { machine: record?.config.name ?? "nobody", snapshot: found?.name ?? "nothing" };
    };
    const labSnapshots = data.labSnapshots.map(({ name, members }) => ({ name, members: members.map(member) }));
    const archives = this.inArchives()
      .filter((name) => !name.startsWith("."))
      .map((name) => this.archive(name));
    return { machines, labSnapshots, archives };
  }

  private inArchives(): string[] {
    return this.archives === undefined ? [] : readdirSync(this.archives);
  }

  /** What is in an archive, by other programs than the lab. @throws Error for one that is not whole */
  private archive(name: string): ModelArchive {
    const file = path.join(this.archives ?? "", name);
    const state = fileState({ path: file });
    const known = this.unpacked.get(name);
    if (known?.state === state) return known.archive;
    const folder = mkdtempSync(path.join(tmpdir(), "domlab-crash-archive-"));
    try {
      run("tar", ["xzf", file, "-C", folder]);
      run("sha256sum", ["--quiet", "-c", "SHA256SUMS"], folder);
      const { config, disks }: Manifest = JSON.parse(readFileSync(path.join(folder, "domlab.json"), "utf8"));
      const contents = disks.map(({ vdev, file: member }): ModelDisk => {
        const image = path.join(folder, member);
        const raw = `${image}.raw`;
        qemuImg(["convert", "-f", "qcow2", "-O", "raw", image, raw]);
        return { vdev, format: "qcow2", blocks: blocksOf(readFileSync(raw)) };
      });
      const archive = { name, memoryMiB: config.memoryMiB, notes: config.notes, disks: contents };
      this.unpacked.set(name, { state, archive });
      return archive;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }

  /**
   * What a lab in order would not have: files that no record needs, layers that could be merged, records without files. Empty
   * once the lab has tidied itself up.
   */
  untidiness(): string[] {
    const paths = labPaths(this.home);
    const data = this.records();
    const named = new Set(data.machines.flatMap(imagesOf).map((image) => image.path));
    const children = new Map<string, Set<string>>();
    for (const image of data.machines.flatMap(imagesOf)) {
      const chain = followChain(image.path, image.format);
      chain.slice(1).forEach((layer, index) => {
        const above = chain[index]?.path ?? "";
        children.set(layer.path, (children.get(layer.path) ?? new Set()).add(above));
      });
    }
    const disks = readdirSync(paths.disks).map((name) => path.join(paths.disks, name));
    const memories = data.machines.flatMap(({ memory, snapshots }) => [
      memory,
      ...snapshots.map((each) => each.memory),
    ]);
    const ids = data.machines.map(({ id }) => id);
    return [
      ...readdirSync(paths.tmp).map((name) => `tmp/${name} is left`),
      ...this.inArchives()
        .filter((name) => name.startsWith("."))
        .map((name) => `${name} is left where an archive was to be`),
      ...readdirSync(paths.memory)
        .filter((name) => !memories.includes(name))
        .map((name) => `memory/${name} is left`),
      ...memories
        .filter((name) => name !== undefined && !existsSync(paths.memoryFile(name)))
        .map((name) => `memory/${name} is missing`),
      ...disks
        .filter((file) => !named.has(file) && (children.get(file)?.size ?? 0) < 2)
        .map((file) => `${file} is needed by ${children.get(file)?.size ?? 0} images and no record`),
      ...readdirSync(paths.machines)
        .filter((id) => !ids.includes(id))
        .map((id) => `machines/${id} is left`),
      ...data.machines
        .filter((record) => !isCopied(paths.machineFile(record.id), record))
        .map(({ id }) => `${id}: copy`),
    ];
  }

  /** qemu-img's complaints about the images in disks/. */
  damage(): string[] {
    const { disks } = labPaths(this.home);
    return readdirSync(disks).flatMap((name) => {
      const file = path.join(disks, name);
      const state = fileState({ path: file });
      if (name.endsWith(".img") || this.checked.get(file) === state) return [];
      const { status, stdout, stderr } = spawnSync("qemu-img", ["check", "-f", "qcow2", file], { encoding: "utf8" });
      if (status !== 0) return [`qemu-img check ${name} ended with ${status}:\n${stdout}${stderr}`];
      this.checked.set(file, state);
      return [];
    });
  }
}

function fileState({ path: file }: Pick<ChainLayer, "path">): string {
  const { ino, size, mtimeNs } = statSync(file, { bigint: true });
  return `${file} ${ino} ${size} ${mtimeNs}`;
}

/** Whether machine.json says what lab.json does. */
function isCopied(file: string, record: MachineRecord): boolean {
  const copy = machineFile.safeParse(JSON.parse(readFileSync(file, "utf8")));
  return copy.success && JSON.stringify(copy.data.machine) === JSON.stringify(record);
}

const qemuImg = (args: readonly string[]): void => run("qemu-img", args);

/** Fills one block of an image that nobody has open. */
export function fillBlock(file: string, format: string, block: number, byte: number): void {
  const command = `write -P ${byte} ${block * BLOCK} ${BLOCK}`;
  const { status, stdout, stderr } = spawnSync("qemu-io", ["-f", format, "-c", command, file], { encoding: "utf8" });
  if (status !== 0 || !stdout.includes("wrote")) throw new Error(`qemu-io, ${command}, ${file}: ${stdout}${stderr}`);
}
