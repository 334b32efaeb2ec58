/** The main window: made, shown when it has something to show, loaded again when its process dies. */
import { BrowserWindow, dialog, nativeTheme, screen } from "electron";
import { HOME_URL, QUITTING_URL } from "./origin.ts";
import { iconPath, preloadPath } from "./place.ts";
import { webPreferences } from "./security.ts";
import { readWindowState, writeWindowState } from "./window-state.ts";

const USUAL = { width: 1280, height: 840 };
const LEAST = { minWidth: 720, minHeight: 480 };
/** Of the page before it is painted; the renderer's own background (renderer/app.css). */
const BACKGROUND = { dark: "#16181d", light: "#ffffff" };
/** A page that dies more often than that within so many milliseconds is not loaded again without being asked. */
const RELOADS = { most: 3, withinMs: 60_000 };

export interface WindowSettings {
  /** Folder of the app. */
  readonly root: string;
  /** Where the window's place is kept. */
  readonly userData: string;
  readonly devTools: boolean;
  readonly say: (line: string) => void;
  /** Asked before the window closes; false: it stays. */
  readonly mayClose: () => boolean;
}

export function windowOptions({
  root,
  devTools,
}: Pick<WindowSettings, "root" | "devTools">): Electron.BrowserWindowConstructorOptions {
  return {
    title: "Domlab",
    icon: iconPath(root),
    backgroundColor: nativeTheme.shouldUseDarkColors ? BACKGROUND.dark : BACKGROUND.light,
    autoHideMenuBar: true,
    webPreferences: webPreferences(preloadPath(root), devTools),
  };
}

export class MainWindow {
  private readonly settings: WindowSettings;
  private window: BrowserWindow | undefined;
  private readonly deaths: number[] = [];
  private isQuitting = false;

  constructor(settings: WindowSettings) {
    this.settings = settings;
  }

  get browserWindow(): BrowserWindow | undefined {
    return this.window;
  }

  /** Brings the window to the front, and makes it first if it was closed. */
  show(): void {
    if (this.window === undefined) {
      this.make();
      return;
    }
    if (this.window.isMinimized()) this.window.restore();
    this.window.show();
    this.window.focus();
  }

  /** Shows that machines are being suspended, until the app ends. */
  showQuitting(): void {
    if (!this.isQuitting) {
      this.isQuitting = true;
      // Whoever has closed the window is not shown another one.
      if (this.window === undefined) return;
      void this.window.loadURL(QUITTING_URL).catch(() => {});
      // More than 1 is a bar without an end.
      this.window.setProgressBar(2);
    }
    if (this.window !== undefined) this.show();
  }

  private make(): void {
    const { settings } = this;
    const areas = screen.getAllDisplays().map(({ workArea }) => workArea);
    const state = readWindowState(settings.userData, areas);
    const place = state && { x: state.x, y: state.y, width: state.width, height: state.height };
    const window = new BrowserWindow({ ...windowOptions(settings), ...USUAL, ...LEAST, ...place, show: false });
    this.window = window;
    if (state?.maximized) window.maximize();
    window.once("ready-to-show", () => window.show());
    window.on("close", (event) => {
      this.keepState(window);
      if (!settings.mayClose()) event.preventDefault();
    });
    window.on("closed", () => {
      if (this.window === window) this.window = undefined;
    });
    window.webContents.on("render-process-gone", (_event, { reason, exitCode }) => {
      if (reason !== "clean-exit") void this.revive(window, `${reason}, exit code ${exitCode}`);
    });
    window.on("unresponsive", () => settings.say("the window does not answer"));
    this.load(window);
  }

  private load(window: BrowserWindow): void {
    window.loadURL(this.isQuitting ? QUITTING_URL : HOME_URL).catch((error: unknown) => {
      if (!window.isDestroyed()) this.settings.say(`the window could not be loaded: ${String(error)}`);
    });
  }

  private keepState(window: BrowserWindow): void {
    const { x, y, width, height } = window.getNormalBounds();
    writeWindowState(this.settings.userData, { x, y, width, height, maximized: window.isMaximized() });
  }

  private async revive(window: BrowserWindow, how: string): Promise<void> {
    const now = Date.now();
    while (this.deaths[0] !== undefined && this.deaths[0] < now - RELOADS.withinMs) this.deaths.shift();
    this.deaths.push(now);
    this.settings.say(`the window's process died (${how})`);
    if (this.deaths.length > RELOADS.most) {
      await dialog.showMessageBox(window, {
        type: "error",
        message: "The window fails again and again.",
        detail: "Machines go on running. The log says more: app.log in the lab's folder.",
        buttons: ["Try again"],
      });
      this.deaths.length = 0;
    }
    if (!window.isDestroyed()) this.load(window);
  }
}
