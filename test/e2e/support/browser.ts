/** The host's Chromium, driven by Playwright. */
import { existsSync } from "node:fs";
import path from "node:path";
import { type Browser, chromium } from "playwright-core";

const NAMES = ["chromium", "chromium-browser", "google-chrome-stable", "google-chrome"];

/**
 * Where a Chromium is: CHROMIUM of the environment, the search path, or what Playwright has fetched.
 * @returns undefined when there is none
 */
export function chromiumPath(environment: NodeJS.ProcessEnv = process.env): string | undefined {
  const folders = (environment.PATH ?? "").split(path.delimiter).filter((folder) => folder !== "");
  const places = [
    ...(environment.CHROMIUM ? [environment.CHROMIUM] : []),
    ...NAMES.flatMap((name) => folders.map((folder) => path.join(folder, name))),
    chromium.executablePath(),
  ];
  return places.find((place) => place !== "" && existsSync(place));
}

/** Why tests of the interface cannot run here; undefined when they can. */
export const missingBrowser: string | undefined =
  chromiumPath() === undefined ? "no Chromium: install the package chromium, or name one in CHROMIUM" : undefined;

/** @throws Error when there is no Chromium */
export async function launchBrowser(): Promise<Browser> {
  const executablePath = chromiumPath();
  if (executablePath === undefined) throw new Error(missingBrowser);
  return await chromium.launch({
    executablePath,
    args: [
      // Chromium's own sandbox needs user namespaces, which containers and root do not give it.
      "--no-sandbox",
      "--disable-gpu",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
}

/** The same for the title of a test. */
export const because: string = missingBrowser === undefined ? "" : ` (skipped: ${missingBrowser})`;
