/**
 * Stands in for the `electron` module: remembers what it is told, and lets a test say what Electron would say. One for all
 * test files, as modules of the app keep a reference to it; reset() makes it new.
 */
import { type ChildProcess, fork } from "node:child_process";
import { EventEmitter } from "node:events";
import { constants } from "node:os";
import { PassThrough } from "node:stream";
import { compiledPath } from "../../../engine/domain/entry.ts";

/** An event that can be prevented. */
export class Preventable {
  defaultPrevented = false;
  preventDefault(): void {
    this.defaultPrevented = true;
  }
}

/** What was called, in order: "name" and its arguments. */
export const calls: (readonly [name: string, ...parameters: unknown[]])[] = [];
export const called = (name: string): unknown[][] =>
  calls.filter(([each]) => each === name).map(([, ...parameters]) => parameters);

class App extends EventEmitter {
  isPackaged = true;
  readonly paths = new Map<string, string>();
  lock = true;
  isQuitting = false;
  private setReady: () => void = () => {};
  private readiness: Promise<void> = Promise.resolve();

  begin(): void {
    this.removeAllListeners();
    this.paths.clear();
    this.isPackaged = true;
    this.lock = true;
    this.readiness = new Promise((resolve) => {
      this.setReady = resolve;
    });
  }
  becomeReady(): void {
    this.setReady();
  }
  whenReady(): Promise<void> {
    return this.readiness;
  }
  setPath(name: string, path: string): void {
    this.paths.set(name, path);
  }
  getVersion(): string {
    return "0.1.0";
  }
  requestSingleInstanceLock(data: unknown): boolean {
    calls.push(["requestSingleInstanceLock", data]);
    return this.lock;
  }
  enableSandbox(): void {
    calls.push(["enableSandbox"]);
  }
  /** As Electron: asks, closes the windows, goes. */
  quit(): void {
    calls.push(["quit"]);
    const event = new Preventable();
    this.emit("before-quit", event);
    if (event.defaultPrevented) return;
    // No "window-all-closed" follows from it.
    this.isQuitting = true;
    for (const window of [...BrowserWindow.all]) window.close();
    this.isQuitting = false;
    if (BrowserWindow.all.length === 0) calls.push(["gone"]);
  }
  exit(status: number): void {
    calls.push(["exit", status]);
  }
}
export const app = new App();

export class WebContents extends EventEmitter {
  openHandler: ((details: { url: string }) => { action: string; overrideBrowserWindowOptions?: unknown }) | undefined;
  url = "";
  setWindowOpenHandler(handler: NonNullable<WebContents["openHandler"]>): void {
    this.openHandler = handler;
  }
  getURL(): string {
    return this.url;
  }
}

export class BrowserWindow extends EventEmitter {
  static all: BrowserWindow[] = [];
  readonly webContents = new WebContents();
  readonly loaded: string[] = [];
  readonly options: Record<string, unknown>;
  shown = 0;
  progress = -1;
  minimized = false;
  maximized = false;
  destroyed = false;
  bounds = { x: 10, y: 20, width: 1000, height: 700 };

  constructor(options: Record<string, unknown>) {
    super();
    this.options = options;
    BrowserWindow.all.push(this);
    app.emit("web-contents-created", new Preventable(), this.webContents);
  }
  async loadURL(url: string): Promise<void> {
    this.loaded.push(url);
    this.webContents.url = url;
  }
  show(): void {
    this.shown++;
  }
  focus(): void {}
  restore(): void {
    this.minimized = false;
  }
  maximize(): void {
    this.maximized = true;
  }
  isMinimized(): boolean {
    return this.minimized;
  }
  isMaximized(): boolean {
    return this.maximized;
  }
  isDestroyed(): boolean {
    return this.destroyed;
  }
  getNormalBounds(): typeof this.bounds {
    return this.bounds;
  }
  setProgressBar(progress: number): void {
    this.progress = progress;
  }
  /** As Electron: asks, and is gone. */
  close(): void {
    const event = new Preventable();
    this.emit("close", event);
    if (event.defaultPrevented) return;
    this.destroyed = true;
    BrowserWindow.all = BrowserWindow.all.filter((each) => each !== this);
    this.webContents.emit("destroyed");
    this.emit("closed");
    if (BrowserWindow.all.length === 0 && !app.isQuitting) app.emit("window-all-closed");
  }
}

type Handler = (...parameters: never[]) => unknown;

export class Session extends EventEmitter {
  readonly handlers = new Map<string, Handler>();
  readonly protocol = { handle: (scheme: string, handler: Handler) => void this.handlers.set(scheme, handler) };
  readonly webRequest = { onBeforeRequest: (handler: Handler) => void this.handlers.set("request", handler) };
  setPermissionRequestHandler(handler: Handler): void {
    this.handlers.set("permission-request", handler);
  }
  setPermissionCheckHandler(handler: Handler): void {
    this.handlers.set("permission-check", handler);
  }
  setDevicePermissionHandler(handler: Handler): void {
    this.handlers.set("device", handler);
  }
}
export const session = { defaultSession: new Session() };

export const protocol = {
  registerSchemesAsPrivileged: (schemes: unknown) => void calls.push(["registerSchemesAsPrivileged", schemes]),
};
export const ipcMain = new EventEmitter();
export const powerMonitor = new EventEmitter();
export const nativeTheme = { shouldUseDarkColors: true };
export const screen = {
  displays: [{ workArea: { x: 0, y: 0, width: 1920, height: 1080 } }],
  getAllDisplays: () => screen.displays,
};
export const shell = {
  openExternal: async (url: string) => void calls.push(["openExternal", url]),
  openPath: async (path: string) => void calls.push(["openPath", path]),
};
export const dialog = {
  chosen: [] as string[],
  showErrorBox: (title: string, line: string) => void calls.push(["showErrorBox", title, line]),
  showOpenDialog: async (...parameters: unknown[]) => {
    calls.push(["showOpenDialog", ...parameters]);
    return { canceled: dialog.chosen.length === 0, filePaths: dialog.chosen };
  },
  showMessageBox: async (...parameters: unknown[]) => {
    calls.push(["showMessageBox", ...parameters]);
    return { response: 0 };
  },
};
export const Menu = {
  setApplicationMenu: (menu: unknown) => void calls.push(["setApplicationMenu", menu]),
  buildFromTemplate: (template: unknown) => template,
};

/** Ports whose other end is a test's. */
export class Port extends EventEmitter {
  peer: Port | undefined;
  started = false;
  closed = false;
  private readonly queue: unknown[] = [];

  static pair(): [Port, Port] {
    const [one, other] = [new Port(), new Port()];
    one.peer = other;
    other.peer = one;
    return [one, other];
  }
  postMessage(message: unknown): void {
    const data = structuredClone(message);
    setImmediate(() => this.peer?.take(data));
  }
  private take(data: unknown): void {
    if (this.closed) return;
    if (this.started) this.emit("message", { data, ports: [] });
    else this.queue.push(data);
  }
  start(): void {
    this.started = true;
    for (const data of this.queue.splice(0)) this.emit("message", { data, ports: [] });
  }
  close(): void {
    if (this.closed) return;
    this.closed = true;
    setImmediate(() => {
      this.emit("close");
      this.peer?.close();
    });
  }
}

/** A utility process that is a Node process with a shim, and behaves as electron_api_utility_process.cc has it. */
class UtilityProcess extends EventEmitter {
  pid: number | undefined;
  stderr: PassThrough | null = new PassThrough();
  private readonly child: ChildProcess;
  private killed = false;

  constructor(program: string, options: { execArgv: string[] }) {
    super();
    const errors = this.stderr;
    this.child = fork(compiledPath(import.meta.url, "utility-shim.js"), [program], {
      serialization: "advanced",
      stdio: ["ignore", "ignore", "pipe", "ipc"],
      execArgv: options.execArgv,
    });
    this.child.once("spawn", () => {
      setImmediate(() => {
        this.pid = this.child.pid;
        if (errors) this.child.stderr?.pipe(errors);
        this.emit("spawn");
      });
    });
    this.child.on("message", (message) => this.emit("message", structuredClone(message)));
    this.child.once("exit", (code, signal) => {
      this.pid = undefined;
      const status = signal === null ? (code ?? 0) : constants.signals[signal];
      try {
        this.emit("exit", this.killed && (status === 9 || status === 15) ? 0 : status);
      } finally {
        errors?.removeAllListeners();
        this.stderr = null;
      }
    });
  }
  postMessage(message: unknown): void {
    if (this.child.connected) this.child.send(structuredClone(message) as object, () => {});
  }
  kill(): boolean {
    this.killed = this.child.kill("SIGTERM");
    return this.killed;
  }
}

export const utilityProcess = {
  fork: (program: string, args: string[], options: { execArgv: string[] }) => {
    calls.push(["fork", program, args, options]);
    return new UtilityProcess(program, options);
  },
};

/** Forgets everything. */
export function reset(): void {
  calls.length = 0;
  app.begin();
  ipcMain.removeAllListeners();
  powerMonitor.removeAllListeners();
  BrowserWindow.all = [];
  session.defaultSession = new Session();
  dialog.chosen = [];
  screen.displays = [{ workArea: { x: 0, y: 0, width: 1920, height: 1080 } }];
}
