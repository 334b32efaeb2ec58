/** Files that the user opens with the app: exported machines and xl configurations, double-clicked or named as arguments. */
import { statSync } from "node:fs";
import { extname, resolve } from "node:path";

/** electron-builder.yml registers the same. */
export const EXTENSIONS = ["domlab", "cfg"] as const;

/** Most that one start opens; a shell's wildcard may name thousands. */
const MOST_FILES = 16;

function isOpenable(path: string): boolean {
  const extension = extname(path).slice(1).toLowerCase();
  if (!EXTENSIONS.some((known) => known === extension)) return false;
  try {
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/**
 * The files among a command line's words; switches, Chromium's included, and everything else are passed over.
 * @param folder that relative names belong to
 */
export function filesAmong(words: readonly unknown[], folder: string): string[] {
  return words
    .filter((word): word is string => typeof word === "string" && word !== "" && !word.startsWith("-"))
    .map((word) => resolve(folder, word))
    .filter(isOpenable)
    .slice(0, MOST_FILES);
}

/** Hands paths on to the window, those that come before there is one as well. */
export class OpenFiles {
  private readonly waiting: string[] = [];
  private take: ((path: string) => void) | undefined;

  open(paths: readonly string[]): void {
    for (const path of paths) {
      if (this.take === undefined) this.waiting.push(path);
      else this.take(path);
    }
  }

  /** @param take gets the paths from now on; undefined: they wait again */
  listen(take: ((path: string) => void) | undefined): void {
    this.take = take;
    if (take !== undefined) for (const path of this.waiting.splice(0)) take(path);
  }
}
