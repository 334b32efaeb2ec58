/** Which files of the lab nobody needs, and their removal. */
import { readdir, realpath, rm } from "node:fs/promises";
import { basename, dirname, join, resolve, sep } from "node:path";
import { errnoOf } from "../../../engine/builder/errors.ts";
import { isNbdAddress } from "../../../engine/disk/nbd/uri.ts";
import type { LabPaths } from "./paths.ts";
import type { DeepReadonly, LabData, MachineRecord } from "./schema.ts";

/**
 * An image file. Those known to be raw are never looked into: their content is the guest's, and may look like a header.
 */
export interface ImageFile {
  /** Absolute. */
  readonly path: string;
  readonly format: "raw" | "qcow2" | "probe";
}

/**
 * The image directly behind this one; undefined when there is none. Rejects when the image cannot be read or its header
 * makes no sense.
 */
export type BackingOf = (path: string) => Promise<ImageFile | undefined>;

/** What records name. */
export interface References {
  readonly images: readonly ImageFile[];
  /** Memory files, kernels, initrds: nothing lies behind them. */
  readonly others: readonly string[];
}

/** Names in the folders that are swept. */
export interface PoolListing {
  readonly machines: readonly string[];
  readonly tmp: readonly string[];
  readonly disks: readonly string[];
  readonly memory: readonly string[];
}

export async function listPool(paths: LabPaths): Promise<PoolListing> {
  const names = (folder: string) => readdir(folder);
  const [tmp, disks, memory] = [await names(paths.tmp), await names(paths.disks), await names(paths.memory)];
  return { tmp, disks, memory, machines: await names(paths.machines) };
}

export interface SweepReport {
  /** Paths that were removed. */
  readonly removed: readonly string[];
  /** Why files that may be unused were kept; empty when all were removed. */
  readonly doubts: readonly string[];
}

/**
 * One spelling for a file that may not exist: links in the way to its folder are followed, and the file if it is one.
 */
async function canonical(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch {
    const folder = await realpath(dirname(path)).catch(() => resolve(dirname(path)));
    return join(folder, basename(path));
  }
}

function bootFiles(boot: { readonly kernel?: string; readonly initrd?: string }): string[] {
  return [boot.kernel, boot.initrd].filter((path) => path !== undefined);
}

function imagesOf(record: DeepReadonly<MachineRecord>): ImageFile[] {
  // A disk that another guest serves is named by a path in that guest.
  const own = record.config.disks.filter((disk) => disk.backend === undefined && !isNbdAddress(disk.source));
  return [
    ...own.map(({ source, format }) => ({ path: source, format })),
    // Images in a snapshot's copy of the configuration are history; the frozen ones count.
    ...record.snapshots.flatMap(({ disks }) => disks.map(({ image, format }) => ({ path: image, format }))),
  ];
}

function otherFilesOf({ config, memory, snapshots }: DeepReadonly<MachineRecord>, paths: LabPaths): string[] {
  const memories = [memory, ...snapshots.map((snapshot) => snapshot.memory)].filter((name) => name !== undefined);
  return [
    ...memories.map((name) => paths.memoryFile(name)),
    ...[config, ...snapshots.map((snapshot) => snapshot.config)].flatMap(bootFiles),
  ];
}

/** Every file that a record names. */
export function referencedFiles(
  data: DeepReadonly<LabData>,
  unknown: readonly DeepReadonly<MachineRecord>[],
  paths: LabPaths,
): References {
  const records = [...data.machines, ...unknown];
  return {
    images: records.flatMap(imagesOf),
    others: [...records.flatMap((record) => otherFilesOf(record, paths)), ...data.images.flatMap(bootFiles)],
  };
}

interface Reach {
  /** The files and all that lies behind them. */
  readonly files: Set<string>;
  /** Images that could not be followed. */
  readonly unread: readonly string[];
}

/** Follows chains of images. */
async function reach(start: readonly ImageFile[], backingOf: BackingOf): Promise<Reach> {
  const files = new Set<string>();
  const followed = new Set<string>();
  const unread: string[] = [];
  const waiting = [...start];
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const path = await canonical(next.path);
    files.add(path);
    if (next.format === "raw" || followed.has(path)) continue;
    followed.add(path);
    try {
      const backing = await backingOf(path);
      if (backing !== undefined) waiting.push(backing);
    } catch {
      unread.push(path);
    }
  }
  return { files, unread };
}

async function reachAll({ images, others }: References, backingOf: BackingOf): Promise<Reach> {
  const { files, unread } = await reach(images, backingOf);
  for (const path of others) files.add(await canonical(path));
  return { files, unread };
}

interface SweepJob {
  readonly paths: LabPaths;
  readonly listing: PoolListing;
  readonly references: References;
  readonly backingOf: BackingOf;
  readonly isInUse?: (file: string) => boolean;
  /** Reasons why the records may be incomplete. */
  readonly doubts: readonly string[];
}

/** Removes files or folders; those that cannot be removed are doubts. */
async function removeAll(files: readonly string[], doubts: string[]): Promise<string[]> {
  const removed: string[] = [];
  for (const file of files) {
    try {
      await rm(file, { recursive: true });
      removed.push(file);
    } catch (error) {
      if (errnoOf(error) !== "ENOENT") doubts.push(`${file} cannot be removed (${errnoOf(error) ?? "unknown error"})`);
    }
  }
  return removed;
}

function isBelow(folder: string, path: string): boolean {
  return path.startsWith(folder + sep);
}

/** Removes what was listed and is not reachable; see LabStore.sweep. */
export async function sweepPool(job: SweepJob): Promise<SweepReport> {
  const { paths, listing, references, backingOf, isInUse = () => false } = job;
  const doubts = [...job.doubts];
  const removed = await removeAll(
    listing.tmp.map((name) => join(paths.tmp, name)),
    doubts,
  );
  if (job.doubts.length > 0) return { removed, doubts };
  const { files, unread } = await reachAll(references, backingOf);
  /** A name may be a link to an image elsewhere: then it is needed as long as that is. */
  const unused = async (folder: string, names: readonly string[]) => {
    const all = names.map((name) => join(folder, name));
    const targets = await Promise.all(all.map(canonical));
    return all.filter((_, index) => !files.has(targets[index]!) && !isInUse(targets[index]!));
  };
  removed.push(...(await removeAll(await unused(paths.memory, listing.memory), doubts)));
  const disks = await unused(paths.disks, listing.disks);
  if (unread.length === 0) removed.push(...(await removeAll(disks, doubts)));
  else if (disks.length > 0) doubts.push(`${unread[0]} cannot be read, so nobody knows what lies behind it`);
  return { removed, doubts };
}

/** The unneeded among images (with what lies behind them) and memory files; see LabStore.unreferenced. */
export async function unreferencedFiles(
  files: { readonly images: readonly ImageFile[]; readonly memory: readonly string[] },
  job: Pick<SweepJob, "paths" | "references" | "backingOf">,
): Promise<string[]> {
  const { paths, references, backingOf } = job;
  const needed = await reachAll(references, backingOf);
  const images = await reach(files.images, backingOf);
  const memory = await Promise.all(files.memory.map((name) => canonical(paths.memoryFile(name))));
  const unneeded = (path: string, folder: string) => isBelow(folder, path) && !needed.files.has(path);
  return [
    ...(needed.unread.length > 0 ? [] : [...images.files].filter((path) => unneeded(path, paths.disks))),
    ...memory.filter((path) => unneeded(path, paths.memory)),
  ];
}
