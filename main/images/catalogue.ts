/** The guest images that can be named (`--image`). */

import { join } from "node:path";
import { type CachedImage, cacheDirectory, cachedImage, readCachedImage, type StoreOptions } from "./cache.ts";
import { cachedDebian, prepareDebian } from "./debian.ts";
import { LOGIN_PROMPT } from "./debian-recipe.ts";
import {
  SHELL_BANNER,
  SHELL_COMMAND_LINE,
  SHELL_PROMPT,
  writeSessionArchive,
  writeShellInitramfs,
} from "./debian-shell.ts";
import { ImageError } from "./errors.ts";
import { BUSYBOX_FILE, fetchShellParts, KERNEL_FILE } from "./fetch-shell.ts";
import type { GuestImage } from "./guest-image.ts";
import { moduleName } from "./kernel-modules.ts";

export type { GuestImage, RootImage } from "./guest-image.ts";

export interface ImageOptions extends StoreOptions {
  /** Decides the cache directory and where apt is looked for; the process's own by default. */
  readonly env?: NodeJS.ProcessEnv;
}

function shellImage(name: string, { directory, manifest, files }: CachedImage): GuestImage {
  const modules = manifest.modules.map((file) => ({ name: moduleName(file), data: files.get(file) as Uint8Array }));
  const busybox = files.get(BUSYBOX_FILE) as Uint8Array;
  return {
    name,
    kernel: join(directory, KERNEL_FILE),
    kernelRelease: manifest.kernelRelease,
    // Written at each start, so that a newer /init does not need a new download.
    initramfs: writeShellInitramfs({ kernelRelease: manifest.kernelRelease, busybox, modules }),
    busybox,
    commandLine: SHELL_COMMAND_LINE,
    prompt: SHELL_PROMPT,
    banner: SHELL_BANNER,
    sessionArchive: writeSessionArchive,
  };
}

interface CatalogueEntry {
  /** What a guest prints when it waits for a user. */
  readonly prompt: string;
  /** From the cache, or made. */
  open(name: string, options: ImageOptions): Promise<GuestImage>;
  /** From the cache only. */
  cached(name: string, options: ImageOptions): Promise<GuestImage | undefined>;
}

const IMAGES: Readonly<Record<string, CatalogueEntry>> = {
  "debian-shell": {
    prompt: SHELL_PROMPT,
    async open(name, options) {
      const fetch = (work: string) => fetchShellParts(work, options);
      return shellImage(name, await cachedImage(cacheDirectory(options.env), name, fetch, options));
    },
    async cached(name, options) {
      const found = await readCachedImage(cacheDirectory(options.env), name);
      return found && shellImage(name, found);
    },
  },
  debian: {
    prompt: LOGIN_PROMPT,
    open: (_name, options) => prepareDebian(options),
    cached: (_name, options) => cachedDebian(options),
  },
};

/** Names that `openImage` accepts. */
export const imageNames: readonly string[] = Object.keys(IMAGES);

/** What a guest of an image prints when it waits for a user; undefined for a name that is none. */
export function promptOf(name: string): string | undefined {
  return Object.hasOwn(IMAGES, name) ? IMAGES[name]?.prompt : undefined;
}

/**
 * Gets an image, from the cache or, the first time, from Debian's archive. One with a root disk is made of packages
 * then.
 *
 * @throws ImageError
 */
export async function openImage(name: string, options: ImageOptions = {}): Promise<GuestImage> {
  const entry = Object.hasOwn(IMAGES, name) ? IMAGES[name] : undefined;
  if (entry === undefined) {
    throw new ImageError("unknown-image", `there is no guest image ${name}`, `use ${imageNames.join(" or ")}`);
  }
  return entry.open(name, options);
}

/** An image that is in the cache; undefined when it is not, or no image is called so. Nothing is fetched or made. */
export async function cachedGuestImage(name: string, options: ImageOptions = {}): Promise<GuestImage | undefined> {
  return Object.hasOwn(IMAGES, name) ? await IMAGES[name]?.cached(name, options) : undefined;
}
