/** The desktop app in Electron: one window per lab, the lab in this process unless one runs already. */
import { join } from "node:path";
import { app, dialog, Menu, powerMonitor, session, shell } from "electron";
import type { FileFilter } from "../app/app-api.ts";
import { userShell } from "../app/host-shell.ts";
import type { AppHost } from "../app/renderer-session.ts";
import { BadInput, explain } from "../failure.ts";
import { LabLog } from "../lab/server/lab-log.ts";
import { labHome } from "../lab/store/paths.ts";
import { LabInProcess, type LabSettings } from "./lab-in-process.ts";
import { MainWindow, windowOptions } from "./main-window.ts";
import { menuTemplate } from "./menu.ts";
import { EXTENSIONS, filesAmong, OpenFiles } from "./open-files.ts";
import { type AppPlace, appRoot, openPlace } from "./place.ts";
import { Quit } from "./quit.ts";
import { registerScheme, serveScheme } from "./scheme.ts";
import { secureContents, secureSession } from "./security.ts";
import { Sessions } from "./sessions.ts";
import { startUtilityProcess } from "./utility-process.ts";

/** Exit status of an app that could not start for a reason that the user can mend, as the command line has it. */
const UNUSABLE = 2;
/** Last among the filters of a file dialog. */
const ALL_FILES: FileFilter = { name: "All files", extensions: ["*"] };

export interface ShellOptions {
  /** In place of this process, for tests. */
  readonly process?: Pick<NodeJS.Process, "on" | "argv" | "cwd">;
  /** Folder of the lab, in place of DOMLAB_HOME. */
  readonly home?: string;
  /** In place of LabServer.open, for tests. */
  readonly openLab?: LabSettings["open"];
}

/** @returns the running app's parts, for tests; undefined when another instance has the lab, or it cannot be used */
export async function runShell(options: ShellOptions = {}): Promise<RunningShell | undefined> {
  const files = new OpenFiles();
  // macOS hands files over by this event, at a start before the app is ready.
  app.on("open-file", (event, path) => {
    event.preventDefault();
    files.open(filesAmong([path], "/"));
  });
  let place: AppPlace;
  try {
    place = openPlace(options.home ?? labHome());
  } catch (error) {
    dialog.showErrorBox("Domlab", explain(error).line);
    app.exit(UNUSABLE);
    return undefined;
  }
  app.setPath("userData", place.userData);
  const { argv, cwd } = options.process ?? process;
  const own = filesAmong(argv.slice(1), cwd());
  if (!app.requestSingleInstanceLock({ files: own })) {
    // The other instance has been told, and shows its window.
    app.quit();
    return undefined;
  }
  app.enableSandbox();
  registerScheme();
  files.open(own);
  const running = new RunningShell(place, files, options);
  await app.whenReady();
  running.ready();
  return running;
}

/** The parts of a running app. */
export class RunningShell {
  readonly lab: LabInProcess;
  readonly window: MainWindow;
  readonly quit: Quit;
  readonly place: AppPlace;
  private readonly files: OpenFiles;
  private readonly log: LabLog;
  private isOpen = true;
  private readonly root = appRoot();
  private readonly devTools = !app.isPackaged;
  /** Those of the windows' pages, once the app is ready. */
  readonly sessions: Sessions;

  constructor(place: AppPlace, files: OpenFiles, { openLab, process: own = process }: ShellOptions) {
    this.place = place;
    this.files = files;
    this.log = new LabLog(join(place.home, "app.log"));
    const say = (line: string) => this.say(line);
    const settings = { home: place.home, version: app.getVersion(), startProcess: startUtilityProcess };
    this.lab = new LabInProcess({ ...settings, ...(openLab && { open: openLab }) });
    this.window = new MainWindow({
      root: this.root,
      userData: place.userData,
      devTools: this.devTools,
      say,
      mayClose: () => this.mayClose(),
    });
    this.quit = new Quit({
      // A lab of another process goes on: there is nothing to wait for.
      show: () => this.lab.isOwn && this.window.showQuitting(),
      work: async () => {
        for (const note of await this.lab.quit()) say(note);
        this.sessions.close();
      },
      exit: () => app.quit(),
      say,
    });
    this.sessions = new Sessions(this.host(), () => {
      this.files.listen((path) => this.sessions.sendToOne({ kind: "open-file", path }));
    });
    this.listen(say);
    this.listenToProcess(own, say);
  }

  /** On macOS an app outlives its windows; elsewhere the last one's end is the app's, after the machines'. */
  private mayClose(): boolean {
    if (this.quit.isDone) return true;
    if (process.platform === "darwin" && !this.quit.isQuitting) return true;
    return this.quit.request();
  }

  private listen(say: (line: string) => void): void {
    app.on("before-quit", (event) => {
      if (!this.quit.request()) event.preventDefault();
    });
    // The main window's "close" decides; a handler keeps Electron from quitting on its own.
    app.on("window-all-closed", () => {
      if (process.platform !== "darwin") app.quit();
    });
    app.on("activate", () => this.window.show());
    app.on("second-instance", (_event, argv, folder, data) => {
      this.window.show();
      const told = (data as { readonly files?: unknown } | null)?.files;
      this.files.open(filesAmong(Array.isArray(told) ? told : argv.slice(1), folder));
    });
    app.on("web-contents-created", (_event, contents) => {
      secureContents(contents, () => windowOptions({ root: this.root, devTools: this.devTools }));
    });
    app.on("child-process-gone", (_event, { type, reason, exitCode, name }) => {
      if (reason !== "clean-exit" && reason !== "killed") {
        say(`a process died: ${name ?? type} (${reason}, exit code ${exitCode})`);
      }
    });
  }

  private listenToProcess(own: Pick<NodeJS.Process, "on">, say: (line: string) => void): void {
    // Chromium's own handlers let a second signal through, which would cut the suspending short.
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) own.on(signal, () => app.quit());
    own.on("unhandledRejection", (reason) => say(`internal error: ${explain(reason).stack ?? String(reason)}`));
    own.on("uncaughtException", (error) => {
      // Machines are worth more than a clean end of a process with a bug: they are suspended before it goes.
      say(`internal error: ${error.stack ?? error.message}`);
      app.quit();
    });
  }

  /** After the app's "ready". */
  ready(): void {
    const { defaultSession } = session;
    secureSession(defaultSession);
    serveScheme(defaultSession, this.root);
    Menu.setApplicationMenu(
      Menu.buildFromTemplate(
        menuTemplate(
          {
            open: () => void this.chooseFile(),
            showFolder: () => void shell.openPath(this.place.home),
            quit: () => app.quit(),
          },
          { platform: process.platform, devTools: this.devTools },
        ),
      ),
    );
    // The system goes down: it waits while the event is prevented (docs/api/power-monitor.md; not on Windows).
    powerMonitor.on("shutdown", (event?: Electron.Event) => {
      event?.preventDefault();
      app.quit();
    });
    this.window.show();
  }

  /** Lets go of what outlives the windows: sessions and the log. */
  close(): void {
    this.sessions.close();
    if (this.isOpen) this.log.close();
    this.isOpen = false;
  }

  private say(line: string): void {
    if (this.isOpen) this.log.write(line);
  }

  private host(): AppHost {
    return {
      shell: "electron",
      version: app.getVersion(),
      home: this.place.home,
      // Dropped files have paths here.
      mostUploadBytes: 0,
      lab: this.lab,
      startShell: userShell({ home: this.place.home }),
      pickFile: (title, filters) => this.pickFile(title, filters),
      openExternal: async (url) => {
        // The schema has said so too; this is the last gate before the system.
        if (!/^https?:\/\//i.test(url) || !URL.canParse(url)) {
          throw new BadInput("bad-option", "only pages of the web are opened", "copy the address instead");
        }
        await shell.openExternal(url);
      },
      say: (line) => this.say(line),
    };
  }

  private async pickFile(title: string, filters: readonly FileFilter[]): Promise<string | null> {
    const options: Electron.OpenDialogOptions = {
      title,
      properties: ["openFile"],
      // A filter without a way around it would hide files that are called otherwise.
      ...(filters.length > 0 && { filters: [...filters, ALL_FILES] }),
    };
    const { browserWindow } = this.window;
    const { filePaths } = await (browserWindow === undefined
      ? dialog.showOpenDialog(options)
      : dialog.showOpenDialog(browserWindow, options));
    return filePaths[0] ?? null;
  }

  private async chooseFile(): Promise<void> {
    const filters = [{ name: "Machines and configurations", extensions: [...EXTENSIONS] }];
    const path = await this.pickFile("Open machine or configuration", filters);
    if (path) this.files.open(filesAmong([path], "/"));
  }
}
