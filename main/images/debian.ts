/**
 * The guest image `debian`: a Debian system on a root disk, with the kernel and initramfs to boot it directly.
 *
 * It lies in a directory whose name tells the recipe. The root image in it never changes: machines have overlays on
 * it. A machine that stays must not depend on a cache, so keepDebian() puts the whole image, kernel included, beside
 * it: the root holds the modules of exactly that kernel.
 */

import { randomBytes } from "node:crypto";
import { chmod, link, lstat, mkdir, open, readdir, rename, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { z } from "zod";
import { errnoOf } from "../../engine/builder/errors.ts";
import { readBounded } from "../../engine/builder/files.ts";
import {
  cacheDirectory,
  type ImageContent,
  madeOnce,
  type StoreOptions,
  sha256,
  syncFolder,
  writeSynced,
} from "./cache.ts";
import { buildRoot, checkTools, packModules } from "./debian-build.ts";
import { ROOT_MODULES, writeDebianInitramfs } from "./debian-initramfs.ts";
import { DEBIAN_COMMAND_LINE, LOGIN_PROMPT, ROOT_SIZE, recipeKey } from "./debian-recipe.ts";
import { writeSessionArchive } from "./debian-shell.ts";
import { debianSources } from "./debian-sources.ts";
import { cacheFailure, ImageError } from "./errors.ts";
import { BUSYBOX_FILE, fetchParts, KERNEL_FILE } from "./fetch-shell.ts";
import type { GuestImage, RootImage } from "./guest-image.ts";
import { moduleName } from "./kernel-modules.ts";
import { run } from "./run.ts";

const MANIFEST = "manifest.json";
const ROOT_FILE = "root.img";
/** Counted up when the manifest or the choice of files changes. */
const FORMAT = 1;
const FILE_LIMIT = 256 * 1024 * 1024;
const MANIFEST_LIMIT = 1024 * 1024;

const fileSchema = z.object({
  path: z.string().regex(/^[\w.-]+$/),
  size: z.number().int().nonnegative(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
});

const manifestSchema = z.object({
  format: z.literal(FORMAT),
  image: z.string().regex(/^debian-[0-9a-f]+$/),
  /** Code name of the release. */
  suite: z.string(),
  /** File names of the packages that kernel and busybox are from. */
  packages: z.array(z.string()),
  kernelRelease: z.string(),
  /** When it was made, as an ISO 8601 date. */
  made: z.string(),
  files: z.array(fileSchema),
  /** Names of module files, in the order of loading. */
  modules: z.array(z.string()),
  /** A file of gigabytes is not read at each start: that nobody wrote to it shows in its time. */
  root: z.object({ size: z.number().int().positive(), modified: z.number().int() }),
});

type Manifest = z.infer<typeof manifestSchema>;

/** A complete image on disk. */
export interface DebianImage extends GuestImage {
  /** Name of its directory: the same for everything made by one recipe. */
  readonly id: string;
  readonly directory: string;
  /** Code name of Debian's release. */
  readonly suite: string;
  readonly root: RootImage;
}

export interface DebianOptions extends StoreOptions {
  /** Decides the cache directory and where tools are looked for; the process's own by default. */
  readonly env?: NodeJS.ProcessEnv;
}

async function readManifest(directory: string): Promise<Manifest | undefined> {
  try {
    const bytes = await readBounded(join(directory, MANIFEST), "manifest", MANIFEST_LIMIT);
    return manifestSchema.parse(JSON.parse(Buffer.from(bytes).toString("utf8")));
  } catch {
    // Absent, of another format or damaged: in each case there is no image.
    return undefined;
  }
}

async function readFiles(directory: string, manifest: Manifest): Promise<Map<string, Uint8Array> | undefined> {
  const files = new Map<string, Uint8Array>();
  for (const entry of manifest.files) {
    const bytes = await readBounded(join(directory, entry.path), "guest image", FILE_LIMIT).catch(() => undefined);
    if (bytes === undefined || bytes.length !== entry.size || sha256(bytes) !== entry.sha256) return undefined;
    files.set(entry.path, bytes);
  }
  const needed = [KERNEL_FILE, BUSYBOX_FILE, ...manifest.modules];
  return needed.every((file) => files.has(file)) ? files : undefined;
}

/** Reads an image and checks it; undefined if it is absent or anything about it is wrong. */
export async function openDebian(directory: string): Promise<DebianImage | undefined> {
  const manifest = await readManifest(directory);
  if (manifest === undefined) return undefined;
  const path = join(directory, ROOT_FILE);
  const status = await stat(path).catch(() => undefined);
  const { root } = manifest;
  if (status?.isFile() !== true || status.size !== root.size || Math.floor(status.mtimeMs) !== root.modified) {
    return undefined;
  }
  const files = await readFiles(directory, manifest);
  if (files === undefined) return undefined;
  const busybox = files.get(BUSYBOX_FILE) as Uint8Array;
  const modules = manifest.modules.map((file) => ({ name: moduleName(file), data: files.get(file) as Uint8Array }));
  return {
    id: manifest.image,
    name: "debian",
    directory,
    suite: manifest.suite,
    kernel: join(directory, KERNEL_FILE),
    kernelRelease: manifest.kernelRelease,
    // Written at each start, so that a newer /init does not need a new image.
    initramfs: writeDebianInitramfs({ kernelRelease: manifest.kernelRelease, busybox, modules }),
    busybox,
    commandLine: DEBIAN_COMMAND_LINE,
    prompt: LOGIN_PROMPT,
    banner: "Debian GNU/Linux",
    root: { path, format: "raw", virtualSize: root.size },
    sessionArchive: writeSessionArchive,
  };
}

/** Puts the parts into one directory below `work`, durably. */
async function assemble(
  id: string,
  suite: string,
  content: ImageContent,
  image: string,
  work: string,
): Promise<string> {
  const finished = join(work, "finished");
  await mkdir(finished);
  for (const [path, bytes] of content.files) await writeSynced(join(finished, path), bytes);
  const root = join(finished, ROOT_FILE);
  await rename(image, root);
  // A change would damage every overlay.
  await chmod(root, 0o444);
  const { mtimeMs } = await stat(root);
  const manifest: Manifest = {
    format: FORMAT,
    image: id,
    suite,
    packages: [...content.packages],
    kernelRelease: content.kernelRelease,
    made: new Date().toISOString(),
    files: [...content.files].map(([path, bytes]) => ({ path, size: bytes.length, sha256: sha256(bytes) })),
    modules: [...content.modules],
    root: { size: ROOT_SIZE, modified: Math.floor(mtimeMs) },
  };
  await writeSynced(join(finished, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
  await syncFolder(finished);
  return finished;
}

async function make(id: string, work: string, options: DebianOptions): Promise<string> {
  await checkTools(options);
  const content = await fetchParts(work, ROOT_MODULES, options);
  const [kernelPackage] = content.packages;
  if (kernelPackage === undefined) throw new Error("the kernel came without a package");
  // Asked after the fetch, which may have brought apt's lists up to date.
  const sources = await debianSources(options);
  const modules = await packModules(join(work, kernelPackage), work, options);
  const image = await buildRoot({ sources, work, modules }, options);
  return assemble(id, sources.suite, content, image, work);
}

function cached(id: string, options: DebianOptions): Promise<DebianImage | undefined> {
  return openDebian(join(cacheDirectory(options.env), "images", id));
}

const currentId = (): string => `debian-${recipeKey()}`;

/** The image of today's recipe, if it has been made before; undefined otherwise. */
export function cachedDebian(options: DebianOptions = {}): Promise<DebianImage | undefined> {
  return cached(currentId(), options);
}

/**
 * Gets the image from the cache or, the first time, makes it of Debian's packages, which takes half a minute and more.
 * What machines are built on should be kept with keepDebian(): a cache may be deleted at any time.
 *
 * @throws ImageError, also "no-tool" (mmdebstrap is missing), "no-network", "no-space", "cancelled"
 */
export async function prepareDebian(options: DebianOptions = {}): Promise<DebianImage> {
  const id = currentId();
  const read = () => cached(id, options);
  return madeOnce(cacheDirectory(options.env), id, read, (work) => make(id, work, options), options);
}

/** A hard link where both lie on one file system, else a copy with the same holes and time. */
async function linkOrCopy(source: string, target: string, signal: AbortSignal | undefined): Promise<void> {
  try {
    await link(source, target);
    return;
  } catch (error) {
    if (!["EXDEV", "EPERM", "EMLINK", "ENOTSUP"].includes(errnoOf(error) ?? "")) throw error;
  }
  const args = ["--reflink=auto", "--sparse=always", "--preserve=timestamps,mode", "--", source, target];
  const { status, stderr } = await run("cp", args, { signal });
  if (status !== 0) throw Object.assign(new Error(stderr), /No space|quota/i.test(stderr) ? { code: "ENOSPC" } : {});
  const handle = await open(target, "r");
  await handle.sync();
  await handle.close();
}

/**
 * Puts an image into a folder of its own below `folder`, from which openDebian() reads it: `<folder>/<id>`. Complete
 * there or not at all; one that is there already is taken as it is.
 *
 * @throws ImageError `no-space`, `unusable-cache`, `cancelled`
 */
export async function keepDebian(image: DebianImage, folder: string, signal?: AbortSignal): Promise<DebianImage> {
  const target = join(folder, image.id);
  const present = await openDebian(target);
  if (present !== undefined) return present;
  const work = join(folder, `.${image.id}.${randomBytes(6).toString("hex")}.tmp`);
  try {
    await mkdir(work, { recursive: true });
    for (const name of await readdir(image.directory)) {
      const source = join(image.directory, name);
      if ((await lstat(source)).isFile()) await linkOrCopy(source, join(work, basename(name)), signal);
    }
    await syncFolder(work);
    await rename(work, target).catch(async (error: unknown) => {
      // Another process was first; a damaged one must not be replaced under the machines that have overlays on it.
      if (errnoOf(error) !== "ENOTEMPTY" && errnoOf(error) !== "EEXIST") throw error;
    });
    await syncFolder(folder);
  } catch (error) {
    throw cacheFailure(error, folder);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
  const kept = await openDebian(target);
  if (kept !== undefined) return kept;
  const remedy = "restore the folder from a backup, or remove it if no machine was made from it";
  throw new ImageError("unusable-cache", `the base image ${target} is damaged`, remedy);
}
