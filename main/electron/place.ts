/** Where the app's own files are, and the folders that it uses. */
import { existsSync, mkdirSync, realpathSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** Folder of the app: that of its package.json, in a clone as in a packed app. */
export function appRoot(from: string = fileURLToPath(import.meta.url)): string {
  for (let folder = dirname(from); folder !== dirname(folder); folder = dirname(folder)) {
    if (existsSync(join(folder, "package.json"))) return folder;
  }
  throw new Error(`no package.json above ${from}`);
}

export const preloadPath = (root: string): string => join(root, "dist", "preload", "preload.cjs");

export const iconPath = (root: string): string => join(root, "main", "electron", "icons", "256x256.png");

/** Folders of the app that shows one lab. */
export interface AppPlace {
  /** The lab's, in its one spelling. */
  readonly home: string;
  /** Chromium's and the window's state: one app per lab, as Electron's single-instance lock lies in it. */
  readonly userData: string;
}

/** Makes the folders unless they are there. @throws the system's error */
export function openPlace(home: string): AppPlace {
  const userData = join(home, "window");
  mkdirSync(userData, { recursive: true, mode: 0o700 });
  return { home: realpathSync(home), userData: realpathSync(userData) };
}
