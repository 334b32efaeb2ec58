/** The guest images that can be named (`--image`). */

import { join } from "node:path";
import { type CachedImage, cacheDirectory, cachedImage, type StoreOptions } from "./cache.ts";
import {
  type Session,
  SHELL_COMMAND_LINE,
  SHELL_PROMPT,
  writeSessionArchive,
  writeShellInitramfs,
} from "./debian-shell.ts";
import { ImageError } from "./errors.ts";
import { BUSYBOX_FILE, fetchShellParts, KERNEL_FILE } from "./fetch-shell.ts";
import { moduleName } from "./kernel-modules.ts";

/** An image ready to be built into a domain. */
export interface GuestImage {
  readonly name: string;
  /** Path of the kernel in the cache. */
  readonly kernel: string;
  readonly kernelRelease: string;
  /** The uncompressed initramfs. */
  readonly initramfs: Uint8Array;
  /** A static busybox, for use in an initramfs of the user's. */
  readonly busybox: Uint8Array;
  readonly commandLine: string;
  /** What the guest prints on its console when it waits for the first command. */
  readonly prompt: string;
  /** The archive to put behind the initramfs for one start, if the session asks for anything. */
  sessionArchive(session: Session): Uint8Array | undefined;
}

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
    sessionArchive: writeSessionArchive,
  };
}

const IMAGES: Readonly<Record<string, (name: string, options: ImageOptions) => Promise<GuestImage>>> = {
  "debian-shell": async (name, options) => {
    const fetch = (work: string) => fetchShellParts(work, options);
    return shellImage(name, await cachedImage(cacheDirectory(options.env), name, fetch, options));
  },
};

/** Names that `openImage` accepts. */
export const imageNames: readonly string[] = Object.keys(IMAGES);

/**
 * Gets an image, from the cache or, the first time, from Debian's archive.
 *
 * @throws ImageError
 */
export async function openImage(name: string, options: ImageOptions = {}): Promise<GuestImage> {
  const open = Object.hasOwn(IMAGES, name) ? IMAGES[name] : undefined;
  if (open === undefined) {
    throw new ImageError("unknown-image", `there is no guest image ${name}`, `use ${imageNames.join(" or ")}`);
  }
  return open(name, options);
}
