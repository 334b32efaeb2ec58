/** The host's browser. */
import { spawn } from "node:child_process";
import { open, rename } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

/** Of the page that leads to the link, in the lab's folder. */
const PAGE = "open.html";

/** Whether there is a screen that a window could be shown on. */
export function hasDisplay(environment: NodeJS.ProcessEnv = process.env): boolean {
  return process.platform !== "linux" || Boolean(environment.DISPLAY || environment.WAYLAND_DISPLAY);
}

function opener(url: string): [command: string, args: string[]] {
  if (process.platform === "darwin") return ["open", [url]];
  // The empty text is the window's title, which start takes from the first quoted argument.
  if (process.platform === "win32") return ["cmd", ["/c", "start", "", url.replaceAll("&", "^&")]];
  return ["xdg-open", [url]];
}

function openBrowser(url: string): Promise<boolean> {
  const [command, args] = opener(url);
  return new Promise((resolve) => {
    const child = spawn(command, args, { stdio: "ignore", detached: true });
    child.once("error", () => resolve(false));
    child.once("spawn", () => {
      child.unref();
      resolve(true);
    });
  });
}

const escaped = (text: string): string => text.replace(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`);

/** A page that goes on to a link at once. */
function pageTo(link: string): string {
  const to = escaped(link);
  return [
    "<!doctype html>",
    '<html lang="en"><head><meta charset="utf-8"><title>Domlab</title>',
    `<meta http-equiv="refresh" content="0;url=${to}"></head>`,
    `<body><p><a href="${to}">Open Domlab</a></p></body></html>`,
    "",
  ].join("\n");
}

/**
 * Shows a secret link in the user's browser. Arguments of a program can be read by everybody on the host, so the browser is
 * given a page that only this user can read, and which leads to the link.
 * @param folder that only this user can look into
 * @returns false when there is no program that opens pages
 * @throws the system's error when the page cannot be written
 */
export async function showLink(link: string, folder: string): Promise<boolean> {
  const page = join(folder, PAGE);
  const written = `${page}.${process.pid}`;
  const file = await open(written, "w", 0o600);
  try {
    await file.writeFile(pageTo(link));
  } finally {
    await file.close();
  }
  await rename(written, page);
  return await openBrowser(pathToFileURL(page).href);
}
