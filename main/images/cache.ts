/**
 * The cache of guest images: a directory for each, complete or absent, with a manifest of checksums.
 *
 * An image is put together in a directory of its own and appears by one rename. The lock only keeps two processes
 * from fetching the same thing; should one be taken wrongly, the renames still leave a whole image.
 */

import { createHash, randomBytes } from "node:crypto";
import { link, mkdir, mkdtemp, open, readdir, readFile, rename, rm, unlink, writeFile } from "node:fs/promises";
import { dirname, isAbsolute, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { errnoOf } from "../../engine/builder/errors.ts";
import { readBounded } from "../../engine/builder/files.ts";
import { homeFolder } from "../home-folder.ts";
import { cacheFailure, cancelled } from "./errors.ts";

const MANIFEST = "manifest.json";
/** Counted up when the manifest or the choice of files changes; images of another format are fetched again. */
const FORMAT = 2;
const FILE_LIMIT = 256 * 1024 * 1024;
const MANIFEST_LIMIT = 1024 * 1024;
const LOCK_POLL_MS = 200;

const manifestSchema = z.object({
  format: z.literal(FORMAT),
  image: z.string(),
  packages: z.array(z.string()),
  kernelRelease: z.string(),
  files: z.array(
    z.object({
      path: z.string().regex(/^[\w.-]+$/),
      size: z.number().int().nonnegative(),
      sha256: z.string().regex(/^[0-9a-f]{64}$/),
    }),
  ),
  /** Names of module files, in the order of loading. */
  modules: z.array(z.string()),
});

export type Manifest = z.infer<typeof manifestSchema>;

/** An image in the cache whose checksums are right. */
export interface CachedImage {
  readonly directory: string;
  readonly manifest: Manifest;
  /** Content by file name; already read for its checksum. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** What a fetch delivers. */
export interface ImageContent {
  readonly packages: readonly string[];
  readonly kernelRelease: string;
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly modules: readonly string[];
}

/** Where images are kept: DOMLAB_CACHE, or domlab in XDG_CACHE_HOME, or ~/.cache/domlab. */
export function cacheDirectory(env: NodeJS.ProcessEnv = process.env): string {
  if (env.DOMLAB_CACHE) return env.DOMLAB_CACHE;
  // The XDG specification says to ignore relative paths.
  const base = env.XDG_CACHE_HOME && isAbsolute(env.XDG_CACHE_HOME) ? env.XDG_CACHE_HOME : join(homeFolder(), ".cache");
  return join(base, "domlab");
}

/** In hexadecimal. */
export const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");

async function readManifest(directory: string): Promise<Manifest | undefined> {
  try {
    const text = Buffer.from(await readBounded(join(directory, MANIFEST), "manifest", MANIFEST_LIMIT)).toString("utf8");
    return manifestSchema.parse(JSON.parse(text));
  } catch {
    // Absent, of an older format or damaged: in each case the image is fetched anew.
    return undefined;
  }
}

/** Reads an image and checks it; undefined if it is absent or anything about it is wrong. */
export async function readCachedImage(cache: string, name: string): Promise<CachedImage | undefined> {
  const directory = join(cache, "images", name);
  const manifest = await readManifest(directory);
  if (manifest === undefined || manifest.image !== name) return undefined;
  const files = new Map<string, Uint8Array>();
  for (const entry of manifest.files) {
    const bytes = await readBounded(join(directory, entry.path), "cached image", FILE_LIMIT).catch(() => undefined);
    if (bytes === undefined || bytes.length !== entry.size || sha256(bytes) !== entry.sha256) return undefined;
    files.set(entry.path, bytes);
  }
  return manifest.modules.every((module) => files.has(module)) ? { directory, manifest, files } : undefined;
}

/** Writes a new file whose content is on the disk when this returns. */
export async function writeSynced(path: string, bytes: Uint8Array | string): Promise<void> {
  const handle = await open(path, "wx", 0o644);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Makes the names in a directory durable. */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Moves a finished directory to its place, over a damaged or older image if there is one. */
async function putInPlace(finished: string, target: string): Promise<void> {
  const aside = `${finished}.old`;
  try {
    await rename(target, aside);
  } catch (error) {
    if (errnoOf(error) !== "ENOENT") throw error;
  }
  await rename(finished, target);
  await syncFolder(dirname(target));
  await rm(aside, { recursive: true, force: true });
}

/** Writes the image into a directory below `work`, which is returned. */
async function assemble(name: string, content: ImageContent, work: string): Promise<string> {
  const finished = join(work, "finished");
  await mkdir(finished);
  const files = [...content.files].map(([path, bytes]) => ({ path, size: bytes.length, sha256: sha256(bytes) }));
  for (const [path, bytes] of content.files) await writeSynced(join(finished, path), bytes);
  const { packages, kernelRelease, modules } = content;
  const manifest: Manifest = {
    format: FORMAT,
    image: name,
    packages: [...packages],
    kernelRelease,
    files,
    modules: [...modules],
  };
  await writeSynced(join(finished, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
  return finished;
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errnoOf(error) === "EPERM";
  }
}

/** Removes a lock whose owner is gone. Renamed first, so that of several processes only one removes it. */
async function breakStaleLock(lock: string): Promise<boolean> {
  const owner = Number.parseInt(await readFile(lock, "utf8").catch(() => ""), 10);
  if (Number.isInteger(owner) && isAlive(owner)) return false;
  const aside = `${lock}.${randomBytes(6).toString("hex")}`;
  await rename(lock, aside).catch(() => undefined);
  await rm(aside, { force: true });
  return true;
}

/** Takes the lock file, waiting for a process that has it. Returns the function that gives it back. */
async function takeLock(lock: string, waiting: () => void, signal?: AbortSignal): Promise<() => Promise<void>> {
  const own = `${lock}.${randomBytes(6).toString("hex")}`;
  await writeFile(own, `${process.pid}\n`, { flag: "wx" });
  try {
    for (;;) {
      try {
        // A link appears with its content, unlike a file that is created first and written after.
        await link(own, lock);
        return async () => unlink(lock).catch(() => undefined);
      } catch (error) {
        if (errnoOf(error) !== "EEXIST") throw error;
      }
      if (await breakStaleLock(lock)) continue;
      waiting();
      await sleep(LOCK_POLL_MS, undefined, signal === undefined ? {} : { signal }).catch(() => {
        throw cancelled();
      });
    }
  } finally {
    await unlink(own).catch(() => undefined);
  }
}

/** Work directories of processes that were killed. Only called with the lock held, so none of them is in use. */
async function removeLeftovers(images: string, prefix: string): Promise<void> {
  for (const name of await readdir(images)) {
    if (name.startsWith(prefix)) await rm(join(images, name), { recursive: true, force: true });
  }
}

export interface StoreOptions {
  readonly progress?: ((text: string) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Returns what `read` finds in the cache's directory `name`; if that is nothing, has it made once, however many
 * processes ask.
 *
 * @param make gets an empty directory for its work, which is removed afterwards, and returns the directory in it that
 * takes its place
 *   in the cache
 * @throws ImageError `no-space`, `unusable-cache`, `cancelled`, and what `make` throws
 */
export async function madeOnce<Image>(
  cache: string,
  name: string,
  read: () => Promise<Image | undefined>,
  make: (work: string) => Promise<string>,
  options: StoreOptions = {},
): Promise<Image> {
  const present = await read();
  if (present !== undefined) return present;
  const images = join(cache, "images");
  const prefix = `.fetch-${name}-`;
  let release: (() => Promise<void>) | undefined;
  try {
    await mkdir(images, { recursive: true });
    const waiting = (): void => options.progress?.("waiting for another process that is fetching the guest image");
    release = await takeLock(join(images, `.${name}.lock`), waiting, options.signal);
    const madeMeanwhile = await read();
    if (madeMeanwhile !== undefined) return madeMeanwhile;
    await removeLeftovers(images, prefix);
    const work = await mkdtemp(join(images, prefix));
    try {
      await putInPlace(await make(work), join(images, name));
    } finally {
      await rm(work, { recursive: true, force: true });
    }
    const installed = await read();
    if (installed === undefined) throw new Error("what was written does not read back");
    return installed;
  } catch (error) {
    throw cacheFailure(error, cache);
  } finally {
    await release?.();
  }
}

/**
 * Returns the image from the cache; if it is not there, fetches it once.
 *
 * @param fetch makes the content; gets an empty directory for its files, which is removed afterwards
 * @throws as madeOnce
 */
export async function cachedImage(
  cache: string,
  name: string,
  fetch: (work: string) => Promise<ImageContent>,
  options: StoreOptions = {},
): Promise<CachedImage> {
  const read = () => readCachedImage(cache, name);
  return madeOnce(cache, name, read, async (work) => assemble(name, await fetch(work), work), options);
}
