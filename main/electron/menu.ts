/**
 * The app's menu. Keys that a shell or an editor in a guest needs (Ctrl-W, Ctrl-R, Ctrl-N and so on) are left to it: beside
 * macOS, where the command key is free, all of ours have Shift as well.
 */
import type { MenuItemConstructorOptions } from "electron";

export interface MenuActions {
  /** Chooses a file to open. */
  readonly open: () => void;
  readonly showFolder: () => void;
  readonly quit: () => void;
}

export function menuTemplate(
  actions: MenuActions,
  { platform, devTools }: { readonly platform: NodeJS.Platform; readonly devTools: boolean },
): MenuItemConstructorOptions[] {
  const isMac = platform === "darwin";
  const key = (letter: string): string => (isMac ? `Command+${letter}` : `Control+Shift+${letter}`);
  const separator: MenuItemConstructorOptions = { type: "separator" };
  const quit: MenuItemConstructorOptions = { label: "Quit Domlab", accelerator: key("Q"), click: actions.quit };
  const application: MenuItemConstructorOptions = {
    label: "Domlab",
    submenu: [
      { role: "about" },
      separator,
      { role: "services" },
      separator,
      { role: "hide" },
      { role: "hideOthers" },
      { role: "unhide" },
      separator,
      quit,
    ],
  };
  const file: MenuItemConstructorOptions = {
    label: "File",
    submenu: [
      { label: "Open machine or configuration…", accelerator: key("O"), click: actions.open },
      separator,
      { role: "close", accelerator: key("W") },
      ...(isMac ? [] : [separator, quit]),
    ],
  };
  // On other systems the keys reach the page, which knows whether a console has them.
  const edit: MenuItemConstructorOptions = {
    label: "Edit",
    submenu: (["undo", "redo", "cut", "copy", "paste", "selectAll"] as const).map((role) => ({
      role,
      registerAccelerator: isMac,
    })),
  };
  const view: MenuItemConstructorOptions = {
    label: "View",
    submenu: [
      { role: "reload", accelerator: key("R") },
      ...(devTools ? [{ role: "toggleDevTools", accelerator: key("I") } as const] : []),
      separator,
      { role: "resetZoom", accelerator: key("0") },
      { role: "zoomIn", accelerator: key("Plus") },
      { role: "zoomOut", accelerator: key("-") },
      separator,
      { role: "togglefullscreen" },
    ],
  };
  const help: MenuItemConstructorOptions = {
    role: "help",
    submenu: [{ label: "Folder of the lab", click: actions.showFolder }],
  };
  const window: MenuItemConstructorOptions = {
    label: "Window",
    submenu: [{ role: "minimize", accelerator: key("M") }, ...(isMac ? [{ role: "zoom" } as const] : [])],
  };
  return [...(isMac ? [application] : []), file, edit, view, window, help];
}
