/** The host's browser. */
import { spawn } from "node:child_process";

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

/** Shows a page in the user's browser. @returns false when there is no program that does */
export function openBrowser(url: string): Promise<boolean> {
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
