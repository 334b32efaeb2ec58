/** What the guest images are, for people who choose one, and whether they are here already. */
import { access, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { cacheDirectory } from "./cache.ts";
import { imageNames, openImage } from "./catalogue.ts";
import { ROOT_SIZE, recipeKey } from "./debian-recipe.ts";

export interface ImageDescription {
  readonly name: string;
  readonly title: string;
  readonly description: string;
  readonly minimumMemoryMiB: number;
  readonly defaultMemoryMiB: number;
  /** Size of the root disk that machines get, for images that have one. */
  readonly rootBytes?: number;
}

export interface ImageState {
  readonly state: "ready" | "absent";
  /** Bytes that it takes in the cache. */
  readonly sizeBytes?: number;
}

const DESCRIPTIONS: Readonly<Record<string, Omit<ImageDescription, "name">>> = {
  "debian-shell": {
    title: "Debian shell",
    description: "Debian's kernel with a small shell in memory: starts in seconds and forgets everything at its end.",
    minimumMemoryMiB: 128,
    defaultMemoryMiB: 512,
  },
  debian: {
    title: "Debian",
    description: "Debian on a disk of its own, with systemd, apt and network: what you install stays.",
    minimumMemoryMiB: 256,
    defaultMemoryMiB: 512,
    rootBytes: ROOT_SIZE,
  },
};

/** Folder of each image in the cache. */
const FOLDERS: Readonly<Record<string, () => string>> = { debian: () => `debian-${recipeKey()}` };

/** The images that can be named, in the catalogue's order. */
export function imageDescriptions(): ImageDescription[] {
  return imageNames.flatMap((name) => {
    const known = DESCRIPTIONS[name];
    return known === undefined ? [] : [{ name, ...known }];
  });
}

/** Whether an image is in the cache, from a look at its folder: its content is checked when it is opened. */
export async function imageState(name: string, env: NodeJS.ProcessEnv = process.env): Promise<ImageState> {
  const folder = join(cacheDirectory(env), "images", FOLDERS[name]?.() ?? name);
  try {
    await access(join(folder, "manifest.json"));
    const files = await Promise.all((await readdir(folder)).map((file) => stat(join(folder, file))));
    return { state: "ready", sizeBytes: files.reduce((sum, { blocks }) => sum + blocks * 512, 0) };
  } catch {
    return { state: "absent" };
  }
}

/** Makes sure that an image is in the cache. @throws ImageError */
export async function fetchImage(
  name: string,
  options: { readonly signal: AbortSignal; readonly progress: (text: string) => void },
): Promise<void> {
  await openImage(name, options);
}
